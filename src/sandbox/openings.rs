//! What of the sandbox is opened, or set otherwise, on request: the words, and what they mean.
//!
//! [`OpeningArgs`] is a part of the options of `run`; `plan.rs` makes [`Openings`] of it before the first side effect.

use std::path::Path;

use anyhow::{Context, Result, bail};
use caps::CapsHashSet;
use clap::Args;
use serde::{Deserialize, Serialize};

use super::credentials::capabilities;
use super::host_devices::{self, Device};
use super::namespaces::Share;
use super::userns::UserNs;
use crate::error::refused;
use crate::net::tap;
use crate::size;

/// Docker's.
const SHM_SIZE: u64 = 64 << 20;

/// Options that open the sandbox.
#[derive(Debug, Default, Clone, Args, Serialize, Deserialize)]
pub struct OpeningArgs {
    /// Give all rights that minirun has and all of the host's devices: no sandbox (mounts, names and processes stay its own)
    #[arg(long)]
    pub privileged: bool,
    /// Size of /dev/shm, as 512k, 64m (the default) or 1g
    #[arg(long, value_name = "SIZE")]
    pub shm_size: Option<String>,
    /// Give a device of the host, or all that are in a directory
    #[arg(long, value_name = "HOSTPATH[:PATH[:rwm]]")]
    pub device: Vec<String>,
    /// auto: a user namespace with ids of its own, root in the container is nobody on the host
    #[arg(
        long,
        value_name = "auto|host",
        value_enum,
        default_value_t,
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub userns: UserNs,
    /// Processes of whom to see and to be among: host or container:ID
    #[arg(long, value_name = "WHOSE", default_value = "private", hide_default_value = true)]
    pub pid: Share,
    /// IPC of whom to share, /dev/shm with it: private, host or container:ID
    #[arg(long, value_name = "WHOSE", default_value = "private", hide_default_value = true)]
    pub ipc: Share,
    /// Host name of whom to have: host or container:ID
    #[arg(long, value_name = "WHOSE", default_value = "private", hide_default_value = true)]
    pub uts: Share,
    /// Cgroup namespace of whom to have: private, host or container:ID
    #[arg(long, value_name = "WHOSE", default_value = "private", hide_default_value = true)]
    pub cgroupns: Share,
}

impl OpeningArgs {
    /// What the program may do: all that minirun can, where the container is privileged.
    pub fn capabilities(&self, add: &[String], drop: &[String]) -> Result<CapsHashSet> {
        if self.privileged { capabilities(&["ALL".to_owned()], drop) } else { capabilities(add, drop) }
    }
}

/// Said once where a container is privileged.
pub const PRIVILEGED: &str = "--privileged gives the container the host's devices and all capabilities: its root can do to this \
    host what root can";

/// What is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Openings {
    /// Bytes that fit into `/dev/shm`.
    pub shm_size: u64,
    /// Devices beyond the usual ones.
    pub devices: Vec<Device>,
    /// Whether nothing is held back: settings of the kernel, devices, new privileges.
    pub privileged: bool,
}

impl Openings {
    /// Decides them, with a look at the host's devices.
    pub fn of(args: &OpeningArgs) -> Result<Self> {
        let mut devices: Vec<Device> = Vec::new();
        for text in &args.device {
            for device in host_devices::find(text)? {
                if devices.iter().any(|other| other.target == device.target) {
                    bail!("give device `{}`: asked for twice", device.target.display());
                }
                devices.push(device);
            }
        }
        if args.privileged {
            for device in host_devices::all()? {
                if !devices.iter().any(|other| other.target == device.target) {
                    devices.push(device);
                }
            }
        }
        let shm_size = match &args.shm_size {
            Some(size) => shm_size(size).with_context(|| format!("size /dev/shm to `{size}`"))?,
            None => SHM_SIZE,
        };
        Ok(Self { shm_size, devices, privileged: args.privileged })
    }
}

impl Openings {
    /// Gives the device through which tap devices are opened, to everybody, as hosts do.
    pub fn give_tun(&mut self) -> Result<()> {
        if !tap::is_there() {
            let message = format!("give device `{}`: this host has none", tap::DEVICE);
            return Err(refused(message, "load module `tun`, as `modprobe tun` does"));
        }
        if !self.devices.iter().any(|device| device.target == Path::new(tap::DEVICE)) {
            self.devices
                .extend(host_devices::find(tap::DEVICE)?.into_iter().map(|device| Device { mode: 0o666, ..device }));
        }
        Ok(())
    }
}

/// How much fits into `/dev/shm`. Not zero, which to a tmpfs is no limit.
fn shm_size(text: &str) -> Result<u64> {
    match size::bytes(text)? {
        0 => bail!("it must hold something"),
        bytes => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shared_memory_is_not_without_limit() {
        assert_eq!((shm_size("1").unwrap(), shm_size("1.5G").unwrap()), (1, 3 << 29));
        for bad in ["", "0", "0m", "0.1", "1x"] {
            assert!(shm_size(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,20}") {
            let _ = shm_size(&text);
            let _ = host_devices::find(&text);
        }
    }
}
