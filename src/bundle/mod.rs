//! OCI bundles: a container written as the `config.json` of the OCI runtime specification (1.2 and 1.3), and run from one.
//!
//! `spec.rs` writes what a plan says, for `run --spec`; nothing of it is on the way of an ordinary run.

mod seccomp;
pub mod spec;

/// What the configuration of OCI does not know is said in annotations whose names begin so.
pub const PREFIX: &str = "minirun.";
