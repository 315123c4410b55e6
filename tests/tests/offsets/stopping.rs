//! A consumer that is asked to stop when it has nothing in hand ends at once.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use testbed::{Feed, TestBed};

use crate::consumer_world::start;

/// Asked to stop after `running`, it ends within this and with exit code 0.
fn assert_ends_soon(world: &TestBed, number: usize, running: Duration) {
    let mut consumer = start(world, number);
    // Before that a signal ends it as it ends any program.
    consumer.wait_for("slot claimed");
    std::thread::sleep(running);
    let asked = Instant::now();
    let ended = consumer.stop();
    let took = asked.elapsed();
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(took < Duration::from_secs(10), "it took {took:?} to stop after {running:?}:\n{}", ended.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_its_first_seconds() {
    let mut world = TestBed::new("sigterm");
    let _feed = Feed::new(&world).await;
    for (number, millis) in [0, 200, 500, 1000, 2000].into_iter().enumerate() {
        assert_ends_soon(&world, number, Duration::from_millis(millis));
    }
    // Nobody listens there, and one that takes connections never answers.
    world.set("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1");
    assert_ends_soon(&world, 6, Duration::from_secs(3));
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    world.set("KAFKA_BOOTSTRAP_SERVERS", silent.local_addr().unwrap().to_string());
    assert_ends_soon(&world, 7, Duration::from_secs(3));
}
