//! What stands between the program and the host, besides its network: root file system, mounts, devices, credentials.
//!
//! Everything here runs in the child, called by `init.rs` in its order, but for what `plan.rs` asks
//! (`user.rs`, `openings.rs`, the choice in `seccomp/`) and for `cgroup/`, which belongs to the parent.

pub mod cgroup;
pub mod credentials;
pub mod devices;
pub mod host_devices;
pub mod layout;
pub mod masks;
pub mod mounts;
pub mod namespaces;
pub mod openings;
pub mod procfs;
pub mod rest;
pub mod rootfs;
pub mod seccomp;
pub mod user;
pub mod userns;
