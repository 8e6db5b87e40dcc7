//! The members of a tar stream: what each is, checked as far as the stream alone tells.
//!
//! The `tar` crate reads the fields of a header; the stream is framed here, because its own iterator reads a long name
//! or an extended header of any size into memory, stops at the first empty block whatever follows, and skips records
//! that it cannot parse. The formats are POSIX.1-2024 `pax` (ustar and pax) and GNU tar's long names.
//!
//! Refused: what makes two readers see two archives (two names for one member, malformed records, data on a link), what
//! a root file system has no use for (devices, sparse files, volumes), and streams that end early or late.

use std::io::{self, ErrorKind, Read};

use anyhow::{Context, Result, anyhow, bail};
use tar::{EntryType, Header};

use super::archive::Limits;
use super::tree::shown;
use crate::error::Advice;

const BLOCK: usize = 512;
/// The most that a long name or an extended header may take. The kernel's longest path has 4096 bytes, and the values of
/// extended attributes, which docker writes here, have 64 KiB each at most.
const EXTENSION: u64 = 1 << 20;
/// The most padding after the end. Tape blocks have 10 KiB; some tools have larger ones.
const PADDING: u64 = 16 << 20;

/// One file, directory or link.
#[derive(Debug)]
pub(crate) struct Member {
    /// As the archive has it.
    pub(crate) name: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission, set-ID and sticky bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds since 1970.
    pub(crate) mtime: (i64, i64),
}

#[derive(Debug)]
pub(crate) enum Kind {
    /// With its size. The content is what [`Members`] reads next.
    File(u64),
    Directory,
    /// With what it contains.
    Symlink(Vec<u8>),
    /// With the name of the file that it is another name of.
    Link(Vec<u8>),
}

/// The stream. Reading it gives the content of the current member, to its end.
pub(crate) struct Members<'a, R> {
    input: R,
    limits: &'a Limits,
    /// Of the current member: bytes of content not read yet, and the padding behind them.
    content: u64,
    padding: u64,
    /// Headers read so far, and the bytes that they announced.
    pub(crate) headers: u64,
    announced: u64,
}

/// What the headers before a member's own header say about it.
#[derive(Default)]
struct Extension {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, i64)>,
    pax: bool,
}

impl<R: Read> Read for Members<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.content == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let most = usize::try_from(self.content).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.input.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.content -= count as u64;
        Ok(count)
    }
}

impl<'a, R: Read> Members<'a, R> {
    pub(crate) fn new(input: R, limits: &'a Limits) -> Self {
        Self { input, limits, content: 0, padding: 0, headers: 0, announced: 0 }
    }

    /// The next member, or `None` when the archive ended as it should.
    pub(crate) fn next(&mut self) -> Result<Option<Member>> {
        let mut extension = Extension::default();
        let mut extended = false;
        loop {
            let Some(header) = self.header()? else {
                if extended {
                    bail!("the archive ends behind the long name or extended header of an entry that is missing");
                }
                return Ok(None);
            };
            match header.entry_type() {
                EntryType::GNULongName => give(&mut extension.name, self.long_name(&header)?)?,
                EntryType::GNULongLink => give(&mut extension.link, self.long_name(&header)?)?,
                EntryType::XHeader => self.extended_header(&header, &mut extension)?,
                EntryType::XGlobalHeader => {
                    self.global_header(&header)?;
                    continue;
                }
                _ => return self.member(&header, extension).map(Some),
            }
            extended = true;
        }
    }

    /// The next header, or `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<Header>> {
        let behind = self.content + self.padding;
        (self.content, self.padding) = (0, 0);
        if io::copy(&mut self.input.by_ref().take(behind), &mut io::sink()).map_err(unreadable)? < behind {
            return Err(unreadable(ErrorKind::UnexpectedEof.into()));
        }
        let mut block = [0; BLOCK];
        self.input.read_exact(&mut block).map_err(unreadable)?;
        if block.iter().all(|byte| *byte == 0) {
            self.end()?;
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        // The sum of the bytes, with the field of the sum itself taken as blanks.
        let sum: u32 = block[..148].iter().chain(&[b' '; 8]).chain(&block[156..]).map(|byte| u32::from(*byte)).sum();
        if header.cksum().ok() != Some(sum) {
            match self.headers {
                0 => bail!("it is not a tar archive"),
                _ => bail!("the archive is damaged: the checksum of a header is wrong"),
            }
        }
        self.headers += 1;
        if self.headers > self.limits.entries {
            bail!("the archive has more than {} entries", self.limits.entries);
        }
        Ok(Some(header))
    }

    /// Reads what follows the end mark. A second archive or anything else there is seen by some readers only.
    fn end(&mut self) -> Result<()> {
        let mut chunk = [0; 8192];
        let mut total = 0;
        loop {
            let count = self.input.read(&mut chunk).map_err(unreadable)?;
            total += count as u64;
            if count == 0 {
                return Ok(());
            }
            if chunk[..count].iter().any(|byte| *byte != 0) || total > PADDING {
                bail!("there is more behind the end of the archive");
            }
        }
    }

    /// Notes that `size` bytes of content follow.
    fn announce(&mut self, size: u64) -> Result<()> {
        self.announced = self.announced.saturating_add(size);
        if self.announced > self.limits.size {
            bail!("the archive holds more than {} bytes", self.limits.size);
        }
        self.content = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    /// The content of a header that describes another.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>> {
        let size = number(header.entry_size())?;
        if size > EXTENSION {
            bail!("a long name or extended header in the archive has more than {EXTENSION} bytes");
        }
        self.announce(size)?;
        let mut content = Vec::new();
        self.read_to_end(&mut content).map_err(unreadable)?;
        Ok(content)
    }

    fn long_name(&mut self, header: &Header) -> Result<Vec<u8>> {
        let mut name = self.extension(header)?;
        // GNU tar ends the name as C does. A NUL further in is refused with the name.
        if name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn extended_header(&mut self, header: &Header, extension: &mut Extension) -> Result<()> {
        if extension.pax {
            bail!("an entry has two extended headers");
        }
        extension.pax = true;
        for (key, value) in records(&self.extension(header)?)? {
            // An empty value takes back what a global header said, and global headers say nothing here.
            if value.is_empty() {
                continue;
            }
            match key {
                b"path" => give(&mut extension.name, value.to_vec())?,
                b"linkpath" => give(&mut extension.link, value.to_vec())?,
                b"size" => give(&mut extension.size, decimal(value)?)?,
                b"uid" => give(&mut extension.uid, decimal(value)?)?,
                b"gid" => give(&mut extension.gid, decimal(value)?)?,
                b"mtime" => give(&mut extension.mtime, time(value)?)?,
                _ if key.starts_with(b"GNU.sparse.") => return sparse(),
                // Names of users and groups (the numbers count), other times, comments. Extended attributes are left
                // out too: `security.capability` gives privileges that no mode bit shows, and `trusted.overlay.*`
                // redirects an overlay mount of this tree.
                _ => {}
            }
        }
        Ok(())
    }

    /// A global header changes all members behind it. Tools write only comments there (git does).
    fn global_header(&mut self, header: &Header) -> Result<()> {
        for (key, _) in records(&self.extension(header)?)? {
            if key != b"comment" {
                bail!("the archive sets `{}` for all its entries, which is not read", shown(key));
            }
        }
        Ok(())
    }

    fn member(&mut self, header: &Header, extension: Extension) -> Result<Member> {
        let name = extension.name.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = extension.link.or_else(|| header.link_name_bytes().map(|link| link.into_owned()));
        let read = || -> Result<Member> {
            let size = extension.size.map_or_else(|| number(header.entry_size()), Ok)?;
            let kind = kind(header.entry_type(), &name, link, size)?;
            self.announce(size)?;
            Ok(Member {
                name: name.clone(),
                kind,
                mode: number(header.mode())? & 0o7777,
                uid: id(extension.uid.map_or_else(|| number(header.uid()), Ok)?)?,
                gid: id(extension.gid.map_or_else(|| number(header.gid()), Ok)?)?,
                // In the header a time before 1970 is a negative number in the binary form of the field.
                mtime: extension.mtime.map_or_else(|| number(header.mtime()).map(|s| (s.cast_signed(), 0)), Ok)?,
            })
        };
        read().with_context(|| format!("extract `{}`", shown(&name)))
    }
}

fn kind(entry: EntryType, name: &[u8], link: Option<Vec<u8>>, size: u64) -> Result<Kind> {
    let kind = match entry {
        // As the oldest archives write a directory.
        EntryType::Regular if name.ends_with(b"/") => Kind::Directory,
        EntryType::Regular | EntryType::Continuous => return Ok(Kind::File(size)),
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => Kind::Symlink(link.context("the symbolic link has no target")?),
        EntryType::Link => Kind::Link(link.context("the hard link has no target")?),
        EntryType::Char | EntryType::Block => {
            return Err(anyhow!("it is a device, which is not extracted: each container gets its own `/dev`"))
                .remedy("make the archive without it: `tar --exclude='./dev/*'`");
        }
        EntryType::Fifo => bail!("it is a FIFO, which is not extracted"),
        EntryType::GNUSparse => return sparse(),
        // Sockets have no type: tar leaves them out, and who writes one chooses some other letter.
        other => bail!("its type `{}` is not known", shown(&[other.as_byte()])),
    };
    if size != 0 {
        bail!("it is not a file and has content");
    }
    Ok(kind)
}

fn sparse<T>() -> Result<T> {
    Err(anyhow!("the archive has sparse files, which are not read")).remedy("make the archive without `--sparse`")
}

/// Sets what may be said once: readers differ in whether the first or the last counts.
fn give<T>(slot: &mut Option<T>, value: T) -> Result<()> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => bail!("an entry of the archive is described twice"),
    }
}

/// A key and its value.
type Record<'a> = (&'a [u8], &'a [u8]);

/// The records `LENGTH KEY=VALUE\n` of an extended header, where the length counts the whole record.
fn records(mut data: &[u8]) -> Result<Vec<Record<'_>>> {
    let mut records = Vec::new();
    while !data.is_empty() {
        let (record, rest) = record(data).context("an extended header in the archive is malformed")?;
        records.push(record);
        data = rest;
    }
    Ok(records)
}

/// The first record and what follows it.
fn record(data: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let digits = data.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&data[..digits]).ok()?).ok()?;
    let (record, rest) = data.split_at_checked(length)?;
    let record = record.get(digits + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some(((&record[..equals], &record[equals + 1..]), rest))
}

fn decimal(text: &[u8]) -> Result<u64> {
    // `parse` takes a sign.
    let digits = text.iter().all(u8::is_ascii_digit).then(|| std::str::from_utf8(text).ok()).flatten();
    digits.and_then(|digits| digits.parse().ok()).with_context(|| format!("`{}` is not a number", shown(text)))
}

/// Seconds with a fraction and a sign, as seconds rounded down and nanoseconds.
fn time(text: &[u8]) -> Result<(i64, i64)> {
    let (sign, number) = text.strip_prefix(b"-").map_or((1, text), |number| (-1, number));
    let mut halves = number.splitn(2, |byte| *byte == b'.');
    let whole = decimal(halves.next().unwrap_or_default())?;
    let mut nanoseconds = 0;
    let fraction = halves.next().unwrap_or_default();
    if !fraction.is_empty() {
        let digits = fraction.len().min(9);
        nanoseconds = decimal(&fraction[..digits])?.cast_signed() * 10_i64.pow(9 - u32::try_from(digits)?);
    }
    let seconds = i64::try_from(whole)? * sign;
    Ok(match sign {
        -1 if nanoseconds != 0 => (seconds - 1, 1_000_000_000 - nanoseconds),
        _ => (seconds, nanoseconds),
    })
}

/// A number in a header. The crate's own error repeats the field, which may hold anything.
fn number<T>(field: io::Result<T>) -> Result<T> {
    field.map_err(|_| anyhow!("a number in its header is malformed"))
}

/// A user or group number. The last one means "leave as it is" to chown.
fn id(number: u64) -> Result<u32> {
    match u32::try_from(number) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => bail!("its owner {number} is no number of a user or group"),
    }
}

/// A failed read: an early end is the archive's fault, anything else the disk's or the compression's.
pub(crate) fn unreadable(e: io::Error) -> anyhow::Error {
    match e.kind() {
        ErrorKind::UnexpectedEof => anyhow!("the archive is truncated"),
        _ => anyhow::Error::new(e).context("read the archive"),
    }
}
