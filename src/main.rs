//! The program: parse, dispatch, print the error once, exit code.

fn main() {}
