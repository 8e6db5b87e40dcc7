//! minirun: a minimal, daemonless container runtime whose subject is networking modes.
//!
//! The library holds everything but `main`, so that tests and benchmarks reach the parts. ARCHITECTURE.md tells the way of
//! a run through these modules.

pub mod commands;
pub mod error;
pub mod image;
