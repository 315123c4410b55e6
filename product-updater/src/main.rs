//! product-updater
fn main() {}
