//! Faults made on purpose under load, and the verdict.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use integration_tests::chaos::{Arena, Servers};

#[test]
fn changes_arrive() {
    let folder = std::env::temp_dir().join("product-stream-tests").join(format!("chaos_{}", std::process::id()));
    let servers = Servers::start(&folder, 1).unwrap();
    let mut arena = Arena::new(servers, "chaos", 1).unwrap();
    arena.begin().unwrap();
    println!("probe {:?}", arena.probe().unwrap());
    arena.settle().unwrap();
    println!("{} changes, {:?}", arena.load.ledger().changes(), arena.load.failures());
    println!("{}", arena.world.verify());
    drop(arena);
    std::fs::remove_dir_all(&folder).unwrap();
}
