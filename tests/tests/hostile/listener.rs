//! Whoever reaches the metrics port of a consumer at work.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use testbed::{Feed, Running, TestBed, eventually};

use super::PATIENCE;
use crate::consumer_world::{assert_once, line_count, start, wait_until_committed};

/// Connections at a time, and the time of each: `runtime::telemetry`.
const CONNECTIONS: usize = 64;
const TIME: Duration = Duration::from_secs(10);

fn connect(consumer: &Running, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(consumer.metrics_address().unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

fn descriptors(consumer: &Running) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", consumer.pid())).unwrap().count()
}

/// Half-open requests, requests that end in the middle of a line, and connections without a byte.
#[tokio::test(flavor = "multi_thread")]
async fn half_open_requests_use_up_no_descriptors_and_keep_nobody_out() {
    let mut world = TestBed::new("half_open");
    world.set("METRICS_LISTEN", "127.0.0.1:0");
    let mut feed = Feed::new(&world).await;
    feed.update(1..=10, 0);
    let consumer = start(&world, 1);
    eventually("it is ready", PATIENCE, || consumer.http("/ready").filter(|(status, _)| *status == 200));
    wait_until_committed(&world);
    let before = descriptors(&consumer);
    let begin = Instant::now();
    let mut held = Vec::new();
    for bytes in [&b"GET /ready HTTP/1.1\r\nX-Slow: "[..], b"GE", b""] {
        held.extend((0..200).map(|_| connect(&consumer, bytes)));
    }
    assert_eq!(consumer.http("/ready").map(|(status, _)| status), Some(200));
    let now = descriptors(&consumer);
    // The clients of Kafka open and close some of their own.
    assert!(now <= before + CONNECTIONS + 16, "{before} descriptors before, {now} now");
    feed.update(1..=10, 1);
    eventually("it works on", PATIENCE, || (line_count(&world) == 20).then_some(()));
    // Those that are left are closed in time, though each sends a byte now and then.
    let last = held.last_mut().unwrap();
    let closed = eventually("it is closed", PATIENCE, || {
        let alive = last.write_all(b"G").is_ok();
        last.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let read = last.read(&mut [0; 64]);
        (!alive || matches!(read, Ok(0)) || read.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset))
            .then(|| begin.elapsed())
    });
    assert!(closed >= TIME / 2 && closed < TIME * 3, "closed after {closed:?}");
    assert_once(&world);
    assert!(!consumer.said().contains("Too many open files"), "{}", consumer.log_end());
    assert_eq!(consumer.stop().code, 0);
}
