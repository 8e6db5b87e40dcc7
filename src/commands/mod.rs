//! The verbs: one file each, whose function is what `main` calls.

pub mod attach;
mod each;
pub mod exec;
pub mod image;
pub mod logs;
pub mod ps;
pub mod run;
pub mod stop;
pub mod system;
