//! Programs for the host.
fn main() {}
