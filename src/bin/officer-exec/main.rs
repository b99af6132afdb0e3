//! The program: parse, call, print one error, exit.

fn main() {}
