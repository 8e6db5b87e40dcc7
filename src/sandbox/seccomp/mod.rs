//! Which system calls a container may make.
//!
//! [`Choice`] is what the options say, [`Filter`] what the kernel gets. The filter of a container that was given no option of
//! these is part of this program: nothing is parsed and nothing computed for it. `docs/` and `default.profile` tell what it
//! lets through.

pub mod bpf;
pub mod oci;
pub mod openings;
pub mod policy;
pub mod profile;
mod tables;

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use caps::CapsHashSet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use bpf::Instruction;
pub use openings::Openings;
pub use tables::TABLES;

use crate::error::{Advice, refused};

/// Larger profiles are refused: docker's has 16 KiB.
const LARGEST_FILE: u64 = 1 << 20;

/// What is to be let through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// The default, with openings.
    Default(Openings),
    /// Everything.
    Unconfined,
    /// What a profile in the form of Docker's or of the OCI runtime specification says.
    File(PathBuf),
}

impl Default for Choice {
    fn default() -> Self {
        Self::Default(Openings::default())
    }
}

impl Choice {
    /// Takes up a value of `--security-opt`; whether it is one of these: `seccomp=FILE`, `seccomp=unconfined`, `allow=NAME`.
    pub fn apply_option(&mut self, text: &str) -> Result<bool> {
        match text.split_once('=') {
            Some(("seccomp", value)) => {
                if matches!(self, Self::Default(openings) if *openings != Openings::default()) {
                    return Err(with_another_filter());
                }
                *self = match value {
                    "" => bail!("use seccomp profile: its name is empty"),
                    "unconfined" => Self::Unconfined,
                    "default" | "builtin" => Self::default(),
                    file => Self::File(file.into()),
                };
            }
            Some(("allow", name)) => {
                let Self::Default(openings) = self else { return Err(with_another_filter()) };
                if !openings.open(name) {
                    let names = Openings::NAMES.join(", ");
                    return Err(refused(
                        format!("allow `{name}`: there is nothing of this name"),
                        format!("one of {names}, or a family of sockets, as vsock or alg"),
                    ));
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The filter for a container with these capabilities; none where everything is let through.
    pub fn filter(&self, capabilities: &CapsHashSet) -> Result<Option<Filter>> {
        let bits = capabilities.iter().fold(0, |bits, capability| bits | capability.bitmask());
        match self {
            Self::Unconfined => Ok(None),
            Self::Default(open) if *open == Openings::default() && bits == tables::DEFAULT_CAPABILITIES => {
                Ok(Some(Filter { flags: SPEC_ALLOW, program: Cow::Borrowed(&tables::DEFAULT) }))
            }
            Self::Default(open) => {
                let program = TABLES.filter(bits, open).context("make the system call filter: it is too long")?;
                Ok(Some(Filter { flags: SPEC_ALLOW, program: Cow::Owned(program) }))
            }
            Self::File(path) => {
                let failed = || format!("use seccomp profile `{}`", path.display());
                oci::compile(&read_profile(path).with_context(failed)?, bits).map(Some).with_context(failed)
            }
        }
    }
}

/// The text of a profile.
pub fn read_profile(path: &Path) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(LARGEST_FILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LARGEST_FILE {
        bail!("it is larger than 1 MiB");
    }
    Ok(text)
}

fn with_another_filter() -> anyhow::Error {
    refused(
        "allow what the default filter shuts: another filter is asked for too",
        "give either `allow=` or `seccomp=`",
    )
}

/// `SECCOMP_FILTER_FLAG_LOG`.
const LOG: u32 = 2;
/// `SECCOMP_FILTER_FLAG_SPEC_ALLOW`: without it, kernels before 5.16 slow every program under a filter down by a mitigation
/// that concerns those which keep secrets from themselves (Spectre variant 4). runc and crun set it too.
const SPEC_ALLOW: u32 = 4;

/// A program for the kernel, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    flags: u32,
    program: Cow<'static, [Instruction]>,
}

impl Filter {
    /// Puts this process under it, for ever. It needs `no_new_privs` or `CAP_SYS_ADMIN`.
    pub fn install(&self) -> Result<()> {
        crate::sys::install_filter(&self.program, self.flags)
            .context("install the system call filter")
            .remedy("this kernel lacks CONFIG_SECCOMP_FILTER, or minirun runs without CAP_SYS_ADMIN: `--security-opt seccomp=unconfined` does without")
    }

    /// Its instructions.
    pub fn program(&self) -> &[Instruction] {
        &self.program
    }

    /// As bytes, for a process that is to have the same filter later: the flags, then eight bytes an instruction, all in the
    /// machine's order.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.flags.to_ne_bytes().to_vec();
        for Instruction { code, jt, jf, k } in self.program.iter() {
            bytes.extend(code.to_ne_bytes());
            bytes.extend([*jt, *jf]);
            bytes.extend(k.to_ne_bytes());
        }
        bytes
    }

    /// What [`to_bytes`](Self::to_bytes) made. The kernel checks the instructions.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let word = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).map(u32::from_ne_bytes);
        let instruction = |bytes: &[u8]| -> Result<Instruction> {
            let code = u16::from_ne_bytes([bytes[0], bytes[1]]);
            Ok(Instruction { code, jt: bytes[2], jf: bytes[3], k: word(&bytes[4..])? })
        };
        let (Some(flags), Some(program)) = (bytes.get(..4), bytes.get(4..)) else {
            bail!("read a system call filter: it is cut off");
        };
        if program.is_empty() || program.len() % 8 != 0 || program.len() / 8 > bpf::LONGEST {
            bail!("read a system call filter: {} bytes cannot be one", bytes.len());
        }
        let program = program.chunks_exact(8).map(instruction).collect::<Result<_>>()?;
        Ok(Self { flags: word(flags)?, program: Cow::Owned(program) })
    }
}

// By name: a record on disk outlives a change of the struct.
impl Serialize for Openings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.names().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Openings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut openings = Self::default();
        for name in Vec::<String>::deserialize(deserializer)? {
            if !openings.open(&name) {
                return Err(serde::de::Error::custom(format!("there is nothing of the name `{name}`")));
            }
        }
        Ok(openings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::credentials::DEFAULT_CAPABILITIES;

    #[test]
    fn the_filter_made_when_building_is_that_of_the_default_capabilities() {
        let bits = DEFAULT_CAPABILITIES.iter().fold(0, |bits, capability| bits | capability.bitmask());
        assert_eq!(bits, tables::DEFAULT_CAPABILITIES);
        assert_eq!(TABLES.filter(bits, &Openings::default()).unwrap(), tables::DEFAULT);
        let filter = Choice::default().filter(&DEFAULT_CAPABILITIES.into_iter().collect()).unwrap().unwrap();
        assert!(matches!(filter.program, Cow::Borrowed(_)));
    }

    #[test]
    fn options_are_understood_or_refused() {
        let apply = |texts: &[&str]| {
            let mut choice = Choice::default();
            texts.iter().try_for_each(|text| choice.apply_option(text).map(|known| assert!(known))).map(|()| choice)
        };
        assert_eq!(apply(&["seccomp=unconfined"]).unwrap(), Choice::Unconfined);
        assert_eq!(apply(&["seccomp=/x"]).unwrap(), Choice::File("/x".into()));
        let open = apply(&["allow=vsock", "allow=io_uring"]).unwrap();
        assert_eq!(serde_json::to_string(&open).unwrap(), r#"{"default":["io_uring","vsock"]}"#);
        assert_eq!(serde_json::from_str::<Choice>(r#"{"default":["io_uring","vsock"]}"#).unwrap(), open);
        for wrong in [&["allow=x"][..], &["seccomp="], &["allow=alg", "seccomp=/x"], &["seccomp=/x", "allow=alg"]] {
            assert!(apply(wrong).is_err(), "{wrong:?}");
        }
        assert!(!Choice::default().apply_option("apparmor=x").unwrap());
    }

    #[test]
    fn every_name_opens_something_and_is_told_again() {
        for name in Openings::NAMES.into_iter().chain(["alg", "mctp", "x25"]) {
            let mut openings = Openings::default();
            assert!(openings.open(name) && openings != Openings::default(), "{name}");
            assert_eq!(openings.names(), [name]);
        }
    }

    #[test]
    fn a_filter_survives_its_bytes_and_rubbish_is_refused() {
        let filter = Filter { flags: SPEC_ALLOW, program: Cow::Borrowed(&tables::DEFAULT) };
        let bytes = filter.to_bytes();
        assert_eq!(Filter::from_bytes(&bytes).unwrap(), filter);
        for wrong in [&bytes[..0], &bytes[..3], &bytes[..4], &bytes[..13], &vec![0; 4 + 8 * 4097]] {
            assert!(Filter::from_bytes(wrong).is_err());
        }
    }
}
