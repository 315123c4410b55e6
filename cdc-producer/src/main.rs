//! cdc-producer
fn main() {}
