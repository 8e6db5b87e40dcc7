//! The verbs: one file each, whose function is what `main` calls.

pub mod image;
