//! What rtnetlink and nfnetlink share: a buffer cut into messages, attributes written and read (netlink(7)).
//!
//! Used by `rtnl.rs` and `nft.rs`. Reading never trusts a length.

use std::io;

use netlink_packet_core::NLMSG_ERROR;

/// The kernel set the fields of an extended acknowledgement after the error (`NLM_F_ACK_TLVS`).
const ACK_TLVS: u16 = 0x200;
/// The error repeats the request's header only (`NLM_F_CAPPED`), not its body.
const CAPPED: u16 = 0x100;
const NLMSGERR_ATTR_MSG: u16 = 1;
/// An attribute that holds attributes.
pub const NESTED: u16 = 0x8000;

/// A message as received.
#[derive(Debug)]
pub struct Received<'a> {
    /// The message's type.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// The number that the request carried.
    pub sequence: u32,
    /// The whole message with its header of 16 bytes.
    pub bytes: &'a [u8],
}

impl Received<'_> {
    /// The error number (positive) and the kernel's own words, of an error that is no acknowledgement.
    pub fn error(&self) -> Option<(i32, Option<String>)> {
        if self.kind != NLMSG_ERROR {
            return None;
        }
        let code = i32::from_ne_bytes(self.bytes.get(16..20)?.try_into().ok()?);
        (code != 0).then(|| (code.wrapping_neg(), self.words()))
    }

    fn words(&self) -> Option<String> {
        if self.flags & ACK_TLVS == 0 {
            return None;
        }
        let request = u32::from_ne_bytes(self.bytes.get(20..24)?.try_into().ok()?) as usize;
        let skipped = if self.flags & CAPPED != 0 { 16 } else { request.next_multiple_of(4) };
        let words = attributes(self.bytes.get(20 + skipped..)?).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)?.1;
        Some(text(words))
    }
}

/// Cuts a buffer into messages; a length that does not fit ends the list.
pub fn messages(buffer: &[u8]) -> impl Iterator<Item = Received<'_>> {
    let mut rest = buffer;
    std::iter::from_fn(move || {
        let header = rest.get(..16)?;
        let length = u32::from_ne_bytes(header[..4].try_into().ok()?) as usize;
        let bytes = rest.get(..length).filter(|_| length >= 16)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Received {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: u32::from_ne_bytes(header[8..12].try_into().ok()?),
            bytes,
        })
    })
}

/// Cuts a buffer into attributes (type, value); a length that does not fit ends the list.
pub fn attributes(buffer: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = buffer;
    std::iter::from_fn(move || {
        let length = u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & !NESTED;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

/// Writes an attribute, filled up to a multiple of four.
pub fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend((value.len() as u16 + 4).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A string attribute without its closing zero.
pub fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// The words of an error number without Rust's "(os error N)", with the kernel's own beside them where it gave some.
pub fn explain_error(errno: i32, words: Option<&str>) -> anyhow::Error {
    let text = io::Error::from_raw_os_error(errno).to_string();
    let plain = text.split(" (os error").next().unwrap_or(&text);
    match words {
        Some(words) => anyhow::anyhow!("{plain} ({words})"),
        None => anyhow::anyhow!("{plain}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reading_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in messages(&bytes) {
                let _ = message.error();
            }
            attributes(&bytes).for_each(|(_, value)| drop(text(value)));
        }
    }

    #[test]
    fn an_error_is_read_with_the_kernels_words() {
        let mut bytes = vec![0u8; 16 + 4 + 16];
        bytes[4] = 2;
        bytes[6..8].copy_from_slice(&(ACK_TLVS | CAPPED).to_ne_bytes());
        bytes[16..20].copy_from_slice(&(-17i32).to_ne_bytes());
        bytes.extend([9, 0, 1, 0, b'b', b'u', b's', b'y', 0, 0, 0, 0]);
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        let message = messages(&bytes).next().unwrap();
        assert_eq!(message.error(), Some((17, Some("busy".into()))));
    }
}
