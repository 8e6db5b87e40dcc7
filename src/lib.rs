//! minirun: a minimal, daemonless container runtime whose subject is networking modes.
//!
//! The library holds everything but `main`, so that tests and benchmarks reach the parts. ARCHITECTURE.md tells the way of
//! a run through these modules.

pub mod attach;
pub mod bundle;
pub mod capture;
pub mod cli;
pub mod commands;
pub mod container;
pub mod control;
pub mod copy;
pub mod doctor;
pub mod error;
pub mod exec;
pub mod graph;
pub mod held;
pub mod holder;
pub mod image;
pub mod init;
pub mod joiner;
pub mod launch;
pub mod listing;
pub mod log;
pub mod net;
pub mod options;
pub mod plan;
pub mod reaper;
pub mod sandbox;
pub mod security;
pub mod size;
pub mod state;
pub mod supervise;
pub mod sync;
pub mod sys;
pub mod terminal;
pub mod time;
