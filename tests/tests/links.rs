//! Links that die without a word at a moment that chance rarely finds.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::thread::sleep;
use std::time::Duration;

use integration_tests::{Direction, Link, Proxy, World};

#[test]
fn a_mysql_that_vanishes_while_the_producer_asks_it() {
    let mut world = World::new("vanishing");
    drop(tokio::runtime::Runtime::new().unwrap().block_on(world.table()));
    let proxy = Proxy::start(world.get("DB_PORT").parse().unwrap());
    world.set("DB_PORT", proxy.port().to_string());
    // A start asks a dozen things, each of which takes half a second then.
    proxy.set(Link::Slow { latency: Duration::from_millis(250), bytes_per_second: 1 << 20 });
    let mut producer = world.start("cdc-producer", &[]);
    while proxy.accepted() == 0 {
        sleep(Duration::from_millis(10));
    }
    // Past the handshake, which has a deadline of its own.
    sleep(Duration::from_secs(5));
    proxy.set(Link::HalfOpen(Direction::Answers));
    sleep(Duration::from_secs(1));
    proxy.set(Link::Open);
    assert!(!producer.log().contains("reading "), "the producer was faster than its link:\n{}", producer.log());
    // The connection never ends; another one works. What was lost is a question, or the handshake of a further connection.
    producer.wait_for("no answer within");
    producer.wait_for("snapshot complete");
    assert_eq!(producer.stop().code, 0);
}
