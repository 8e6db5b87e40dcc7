//! What stands between the program and the host, besides its network: root file system, mounts, devices, credentials.
//!
//! Everything here runs in the child, called by `init.rs` in its order, but for `user.rs` and `openings.rs`, which `plan.rs`
//! asks.

pub mod credentials;
pub mod devices;
pub mod host_devices;
pub mod masks;
pub mod mounts;
pub mod namespaces;
pub mod openings;
pub mod rest;
pub mod rootfs;
pub mod user;
pub mod userns;
