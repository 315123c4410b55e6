//! A schema registry that does not stop, answers something else, or sends elsewhere.

use testbed::{Feed, TestBed, eventually, peak_memory};

use super::PATIENCE;
use super::fakes::{FakeRegistry, Mode};
use crate::consumer_world::{assert_once, dead_letters, line_count, start, wait_until_committed};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";

fn front(world: &mut TestBed) -> FakeRegistry {
    let real = world.get("SCHEMA_REGISTRY_URL").to_owned();
    let fake = FakeRegistry::of(&real);
    let path = real.trim_start_matches("http://").split_once('/').unwrap().1;
    world.set("SCHEMA_REGISTRY_URL", format!("http://{}/{path}", fake.address));
    fake
}

/// A body without an end, headers without an end, and a body that comes byte by byte: the consumer waits with little
/// memory, and continues in the same process when the registry is itself again.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_an_end_is_cut_off_and_waited_for() {
    let mut world = TestBed::new("endless_registry");
    world.set("METRICS_LISTEN", "127.0.0.1:0");
    let mut feed = Feed::new(&world).await;
    feed.update(1..=10, 0);
    let fake = front(&mut world);
    let endless = [
        (Mode::Endless(format!("{OK}\r\n{{\"schema\":\""), "x".to_owned()), "which is a fixed limit"),
        (Mode::Endless(OK.to_owned(), "X-More: headers\r\n".to_owned()), "cannot reach the schema registry"),
        (Mode::Dripping(format!("{OK}\r\n")), "cannot reach the schema registry"),
    ];
    fake.set(endless[0].0.clone());
    let mut consumer = start(&world, 1);
    for (mode, says) in endless {
        fake.set(mode.clone());
        let seen = consumer.log().matches(says).count();
        let what = format!("it says {says:?} to {mode:?}");
        eventually(&what, PATIENCE, || (consumer.log().matches(says).count() > seen + 1).then_some(()));
        eventually("it is not ready", PATIENCE, || consumer.http("/ready").filter(|(status, _)| *status == 503));
    }
    let url = format!("GET {}/schemas/ids/", world.get("SCHEMA_REGISTRY_URL"));
    let subject =
        format!("/subjects/{}-value/versions with more than 1048576 bytes, which is a fixed limit", world.name);
    assert!(consumer.log().contains(&url) || consumer.log().contains(&subject), "{}", consumer.log_end());
    assert!(consumer.is_running());
    let peak = peak_memory(consumer.pid()).unwrap() >> 20;
    assert!(peak < 120, "{peak} MiB");
    assert_eq!((line_count(&world), dead_letters(&world).len()), (0, 0));
    fake.set(Mode::Real);
    wait_until_committed(&world);
    assert_once(&world);
    assert_eq!(dead_letters(&world).len(), 0);
    assert_eq!(consumer.stop().code, 0);
}

/// Redirects, other statuses and bodies that are packed: each is an error with the address, and none is followed or
/// unpacked.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_answer_of_a_registry_is_refused_with_its_address() {
    let mut world = TestBed::new("odd_registry");
    Feed::new(&world).await.update(1..=3, 0);
    let fake = front(&mut world);
    let elsewhere =
        format!("HTTP/1.1 302 Found\r\nLocation: http://{}/loop\r\nContent-Length: 0\r\n\r\n", fake.address);
    let packed = format!("{OK}Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\n{{}} ");
    let announced = format!("{OK}Content-Length: 9999999999\r\n\r\n{}", "x".repeat(2 << 20));
    for (answer, says, code) in [
        (elsewhere, format!("a redirect to http://{}/loop, and redirects are not followed", fake.address), 1),
        ("HTTP/1.1 301 Moved\r\nContent-Length: 0\r\n\r\n".to_owned(), "a redirect to nowhere".to_owned(), 1),
        (packed, "not as a schema registry does".to_owned(), 1),
        (announced, "with more than 1048576 bytes, which is a fixed limit".to_owned(), 75),
    ] {
        fake.set(Mode::Once(answer));
        let ended = world.run("cdc-producer", &["doctor"]);
        let said = format!("{}{}", ended.out, ended.err);
        assert!(said.contains(&says) && said.contains(&fake.address.to_string()), "{says}\n{said}");
        assert!(ended.code == code || ended.code == 1, "{} {said}", ended.code);
    }
}
