//! Links that die without a word at a moment that random faults rarely find.

use std::thread::sleep;
use std::time::Duration;

use testbed::{Direction, Link, Proxy, TestBed, eventually};

#[test]
fn a_mysql_that_vanishes_while_the_producer_asks_it() {
    let mut world = TestBed::new("vanishing");
    drop(tokio::runtime::Runtime::new().unwrap().block_on(world.table()));
    let proxy = Proxy::start(world.get("DB_PORT").parse().unwrap());
    world.set("DB_PORT", proxy.port().to_string());
    // A start asks a dozen things, each of which takes half a second then.
    proxy.set(Link::Slow { latency: Duration::from_millis(250), bytes_per_second: 1 << 20 });
    let mut producer = world.start("cdc-producer", &[]);
    // Past the beginnings of the first two connections, of 3 kB each, which have a deadline of their own, and before
    // the third one: a question is lost.
    let asking = || (proxy.answered() > 6_300).then_some(());
    eventually("both connections are there", Duration::from_secs(30), asking);
    proxy.set(Link::HalfOpen(Direction::Answers));
    assert_eq!(proxy.accepted(), 2);
    sleep(Duration::from_secs(1));
    proxy.set(Link::Open);
    assert!(!producer.log().contains("reading "), "the producer was faster than its link:\n{}", producer.log());
    // The connection never ends; another one works.
    producer.wait_for("no answer within 30 s");
    producer.wait_for("snapshot complete");
    assert_eq!(producer.stop().code, 0);
}
