//! The verbs: one file each, whose function is what `main` calls.

pub mod cp;
pub mod image;
pub mod ps;
pub mod run;
pub mod system;
