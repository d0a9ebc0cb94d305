//! x
pub fn run(_: &[&str]) {}
pub fn bare(_: &str) {}
