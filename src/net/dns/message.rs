//! The wire format of DNS (RFC 1035, section 4), as much of it as a question takes: queries read, answers made, cut and
//! compared.
//!
//! Used by the rest of `dns`. A length that was received is never trusted, and no compression pointer is followed: the name
//! of a question stands before anything that one could point to, and other names are only stepped over.

/// The size of a header.
pub const HEADER: usize = 12;
/// No query is longer: one has a name of 255 bytes, and options and a signature of a few hundred.
pub const LONGEST_QUERY: usize = 1232;
/// No answer by UDP is longer. EDNS allows more, but nobody is obliged to send it (RFC 6891, section 6.2.5).
pub const LONGEST: usize = 4096;
/// What every client takes by UDP (RFC 1035, section 4.2.1).
const SMALLEST: usize = 512;
const LONGEST_NAME: usize = 255;

/// Types and classes of records.
pub const A: u16 = 1;
/// A name, asked for by an address.
pub const PTR: u16 = 12;
/// An IPv6 address.
pub const AAAA: u16 = 28;
/// The pseudo-record of EDNS.
const OPT: u16 = 41;
/// The transfer of a zone from some point on.
pub const IXFR: u16 = 251;
/// The transfer of a whole zone.
pub const AXFR: u16 = 252;
/// Whatever there is: a type and a class.
pub const ANY: u16 = 255;
/// The class of the internet.
pub const IN: u16 = 1;

/// Is an answer.
const QR: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
/// Comes from who knows.
const AA: u16 = 0x0400;
/// Was cut.
const TC: u16 = 0x0200;
/// Recursion is wanted.
const RD: u16 = 0x0100;
/// Recursion is done.
const RA: u16 = 0x0080;
/// Signatures need not be checked.
const CD: u16 = 0x0010;
const RCODE: u16 = 0x000f;

/// What became of a query (RFC 1035, section 4.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rcode {
    /// Nothing went wrong.
    NoError = 0,
    /// The query cannot be read.
    FormErr = 1,
    /// The answer could not be had.
    ServFail = 2,
    /// There is no such name.
    NxDomain = 3,
    /// Something other than a query.
    NotImp = 4,
    /// Not done on purpose.
    Refused = 5,
}

/// How a query came and its answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram; the answer's size is limited by what the client takes.
    Udp,
    /// In a stream, after two bytes of length.
    Tcp,
}

/// What a client says about itself (RFC 6891).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Edns {
    size: u16,
    dnssec: bool,
}

/// A query with one question, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    bytes: Vec<u8>,
    /// Where the question ends.
    end: usize,
    /// The type that is asked for.
    pub kind: u16,
    /// Its class.
    pub class: u16,
    edns: Option<Edns>,
}

/// What to do about bytes that are no query.
#[derive(Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Nothing: they are no query at all, and an answer could begin an endless exchange.
    Drop,
    /// Send these.
    Answer(Vec<u8>),
}

impl Query {
    /// Reads a query. What stands after its question is looked at for EDNS only, and may be anything.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let flags = number(bytes, 2).filter(|flags| bytes.len() >= HEADER && flags & QR == 0).ok_or(Malformed::Drop)?;
        let refused = |rcode: Rcode| {
            let mut answer = bytes[..HEADER].to_vec();
            put(&mut answer, 2, QR | flags & (OPCODE | RD | CD) | rcode as u16);
            answer[4..].fill(0);
            Malformed::Answer(answer)
        };
        if flags & OPCODE != 0 {
            return Err(refused(Rcode::NotImp));
        }
        let question = (number(bytes, 4) == Some(1) && bytes.len() <= LONGEST_QUERY).then(|| question(bytes)).flatten();
        let (end, kind, class) = question.ok_or_else(|| refused(Rcode::FormErr))?;
        let edns = edns(bytes, end);
        Ok(Self { bytes: bytes.to_vec(), end, kind, class, edns })
    }

    /// The query as it came, but for its id.
    pub fn with_id(&self, id: u16) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        put(&mut bytes, 0, id);
        bytes
    }

    /// The number by which the client knows its answer.
    pub fn id(&self) -> u16 {
        number(&self.bytes, 0).unwrap_or(0)
    }

    /// The question as it stands: name, type, class.
    pub fn question(&self) -> &[u8] {
        &self.bytes[HEADER..self.end]
    }

    /// The name, in lower case and without the last dot. Nothing where it has a byte that no name of a host has.
    pub fn name(&self) -> Option<String> {
        let mut rest = &self.bytes[HEADER..self.end - 4];
        let mut name = String::new();
        while let Some((&length, after)) = rest.split_first().filter(|(length, _)| **length > 0) {
            let (label, after) = after.split_at_checked(usize::from(length))?;
            if !label.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte)) {
                return None;
            }
            if !name.is_empty() {
                name.push('.');
            }
            name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
            rest = after;
        }
        Some(name)
    }

    /// The most bytes of an answer that the client takes by UDP.
    fn most(&self) -> usize {
        self.edns.map_or(SMALLEST, |edns| usize::from(edns.size).clamp(SMALLEST, LONGEST))
    }

    /// An answer from another server, as the client may have it: under the client's id, and cut if it is too long.
    pub fn hand_back(&self, mut answer: Vec<u8>, transport: Transport) -> Vec<u8> {
        if transport == Transport::Udp && answer.len() > self.most() {
            let flags = number(&answer, 2).unwrap_or(0);
            return Answer::with_flags(self, flags | TC).finish();
        }
        put(&mut answer, 0, self.id());
        answer
    }
}

/// What another server says to a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// It was cut: by TCP there is more.
    pub cut: bool,
    /// The server could not or would not do it; another one may.
    pub failed: bool,
}

impl Query {
    /// Reads what a server sent. Nothing where it is no answer to this query sent under `id`: somebody else's, or an old one.
    pub fn reply(&self, id: u16, answer: &[u8]) -> Option<Reply> {
        let flags = number(answer, 2).filter(|flags| flags & QR != 0 && flags & OPCODE == 0)?;
        let rcode = flags & RCODE;
        let failed = [Rcode::ServFail, Rcode::NotImp, Rcode::Refused].iter().any(|bad| *bad as u16 == rcode);
        let repeats = match number(answer, 4)? {
            // The whole question, byte for byte: a client may have hidden a secret in its capitals (draft-vixie-dnsext-dns0x20).
            1 => answer.get(HEADER..self.end) == Some(self.question()),
            // Servers that do not understand a query may answer it by a header alone.
            0 => answer.len() == HEADER && (failed || rcode == Rcode::FormErr as u16),
            _ => false,
        };
        (number(answer, 0) == Some(id) && repeats).then_some(Reply { cut: flags & TC != 0, failed })
    }
}

/// An answer that is being written.
#[derive(Debug)]
pub struct Answer {
    bytes: Vec<u8>,
    most: usize,
    records: u16,
    edns: Option<Edns>,
    transport: Transport,
}

/// The record by which a server says that it knows EDNS.
const OPT_SIZE: usize = 11;

impl Answer {
    /// An answer to `query` without records; `known` is whether it is this server's own.
    pub fn new(query: &Query, rcode: Rcode, transport: Transport, known: bool) -> Self {
        // Recursion is always done, if only among those that there are: a client may take its lack for a broken server.
        let flags = rcode as u16 | RA | if known { AA } else { 0 };
        let most = if transport == Transport::Udp { query.most() } else { 4 * LONGEST };
        Self { most, transport, ..Self::with_flags(query, flags) }
    }

    fn with_flags(query: &Query, flags: u16) -> Self {
        let mut bytes = query.bytes[..query.end].to_vec();
        let asked = number(&bytes, 2).unwrap_or(0);
        put(&mut bytes, 2, flags | QR | asked & (OPCODE | RD | CD));
        bytes[6..HEADER].fill(0);
        Self { bytes, most: query.most(), records: 0, edns: query.edns, transport: Transport::Udp }
    }

    /// Adds a record about the name of the question, as long as there is room. Without room, a client that asked by UDP is
    /// told to come by TCP.
    pub fn add(&mut self, kind: u16, seconds: u32, data: &[u8]) {
        // The name is a pointer to the one of the question.
        let size = 12 + data.len() + if self.edns.is_some() { OPT_SIZE } else { 0 };
        if self.bytes.len() + size > self.most {
            if self.transport == Transport::Udp {
                self.bytes[2] |= (TC >> 8) as u8;
            }
            return;
        }
        self.bytes.extend([0xc0, HEADER as u8]);
        self.bytes.extend([kind.to_be_bytes(), IN.to_be_bytes()].as_flattened());
        self.bytes.extend(seconds.to_be_bytes());
        self.bytes.extend((data.len() as u16).to_be_bytes());
        self.bytes.extend(data);
        self.records += 1;
    }

    /// The bytes to send.
    pub fn finish(mut self) -> Vec<u8> {
        put(&mut self.bytes, 6, self.records);
        if let Some(edns) = self.edns {
            // Who says EDNS is answered in EDNS (RFC 6891, section 6.1.1).
            put(&mut self.bytes, 10, 1);
            self.bytes.push(0);
            self.bytes.extend([OPT.to_be_bytes(), (LONGEST as u16).to_be_bytes()].as_flattened());
            self.bytes.extend([0, 0, if edns.dnssec { 0x80 } else { 0 }, 0, 0, 0]);
        }
        self.bytes
    }
}

/// A name as it stands in a record. Nothing where it cannot stand in one.
pub fn encode_name(name: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?;
        bytes.push(length);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    (bytes.len() <= LONGEST_NAME).then_some(bytes)
}

/// The end, type and class of the question that begins after the header.
fn question(bytes: &[u8]) -> Option<(usize, u16, u16)> {
    let mut at = HEADER;
    loop {
        match *bytes.get(at)? {
            0 => break,
            // A pointer, or one of the kinds of labels that were given up (RFC 6891, section 5).
            length if length > 63 => return None,
            length => at += 1 + usize::from(length),
        }
        if at + 1 - HEADER > LONGEST_NAME {
            return None;
        }
    }
    Some((at + 5, number(bytes, at + 1)?, number(bytes, at + 3)?))
}

/// Looks for the record of EDNS after the question. Nothing where there is none, or where the records cannot be read.
fn edns(bytes: &[u8], mut at: usize) -> Option<Edns> {
    let count = |at: usize| number(bytes, at).map_or(0, u32::from);
    for _ in 0..count(6) + count(8) + count(10) {
        at = after_name(bytes, at)?;
        let (kind, size) = (number(bytes, at)?, number(bytes, at + 2)?);
        let (flags, length) = (number(bytes, at + 6)?, number(bytes, at + 8)?);
        if kind == OPT {
            return Some(Edns { size, dnssec: flags & 0x8000 != 0 });
        }
        at += 10 + usize::from(length);
    }
    None
}

/// Steps over a name, which a pointer ends.
fn after_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            length if length >= 0xc0 => return Some(at + 2),
            length if length > 63 => return None,
            length => at += 1 + usize::from(length),
        }
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn put(bytes: &mut [u8], at: usize, number: u16) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&number.to_be_bytes());
    }
}
