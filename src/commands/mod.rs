//! The verbs: one file each, whose function is what `main` calls.

pub mod attach;
pub mod cp;
mod each;
pub mod exec;
pub mod filter;
pub mod image;
pub mod inspect;
pub mod logs;
pub mod pause;
pub mod ps;
pub mod run;
pub mod stats;
pub mod stop;
pub mod system;
pub mod top;
