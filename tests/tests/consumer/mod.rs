//! The consumer on real servers: partitions shared, each record once in exactly one log, kills, torn tails, dead
//! letters.

mod accept_log;
mod log_file;

use std::fs;
use std::io::Write as _;
use std::time::Duration;

use crate::consumer_world::{
    append, assert_once, assert_read, committed_everything, dead_letters, expected_lines, line_count, log_path, logs,
    owned, start, wait_until_committed, with_lines,
};
use model::change::Op;
use model::error::Code;
use rdkafka::admin::{AdminClient, AdminOptions};
use testbed::{Feed, Running, TestBed, eventually};

/// Longer than the transaction of a stopped consumer can stay open, which holds up who takes over: 30 s, and the broker
/// looks every 10 s.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until each of them has so many partitions.
fn all_have<'a>(partitions: usize, consumers: impl IntoIterator<Item = &'a Running> + Clone) {
    eventually(&format!("each has {partitions} partitions"), PATIENCE, || {
        consumers.clone().into_iter().all(|c| owned(c).len() == partitions).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn five_consumers_hold_two_partitions_each_and_write_each_record_once() {
    let world = TestBed::new("five");
    let mut feed = Feed::new(&world).await;
    let consumers: Vec<_> = (1..=5).map(|n| start(&world, n)).collect();
    all_have(2, &consumers);
    for round in 0..5 {
        feed.update(1..=200, round);
    }
    feed.delete([3, 4]);
    wait_until_committed(&world);
    assert_once(&world);
    let logs = logs(&world);
    assert_eq!(logs.keys().collect::<Vec<_>>(), ["consumer_1", "consumer_2", "consumer_3", "consumer_4", "consumer_5"]);
    for (slot, lines) in &logs {
        let partitions: std::collections::BTreeSet<i64> =
            lines.iter().map(|l| crate::consumer_world::place(l).0).collect();
        assert_eq!(partitions.len(), 2, "{slot}: {partitions:?}");
    }
    for consumer in consumers {
        let ended = consumer.stop();
        assert_eq!(ended.code, 0, "{}", ended.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_consumer_comes_back_and_nothing_is_lost_or_doubled() {
    let mut world = TestBed::new("killed");
    world.set("CONSUMER_BATCH_ROWS", "40");
    let mut feed = Feed::new(&world).await;
    let mut consumers: Vec<_> = (1..=2).map(|n| start(&world, n)).collect();
    all_have(5, &consumers);
    let mut expected = 0;
    for round in 0..12 {
        feed.update(1..=500, round);
        expected += 500;
        // At another point of the work each time; the sooner the more is in flight.
        let target = expected - 450 + (round as usize * 37) % 400;
        eventually("work under way", PATIENCE, || (line_count(&world) >= target).then_some(()));
        consumers.remove(0).kill();
        consumers.push(start(&world, 3 + round as usize));
    }
    wait_until_committed(&world);
    assert_once(&world);
    // Each found the slot that the killed one had left.
    assert_eq!(logs(&world).values().filter(|lines| !lines.is_empty()).count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_cuts_the_log_of_a_consumer_that_is_gone_for_good() {
    let mut world = TestBed::new("gone");
    world.set("KAFKA_SESSION_TIMEOUT", "6s");
    let mut feed = Feed::new(&world).await;
    let (first, second) = (start(&world, 1), start(&world, 2));
    all_have(5, [&first, &second]);
    feed.update(1..=100, 0);
    wait_until_committed(&world);
    let slot = if first.log().contains("slot=consumer_1") { "consumer_1" } else { "consumer_2" };
    first.kill();
    let committed = fs::read(log_path(&world, slot)).unwrap();
    append(&log_path(&world, slot), b"{\"id\":1,\"name\":\"whole line\"}\n{\"id\":2,\"na");
    feed.update(1..=100, 1);
    eventually("the neighbour recovers it", PATIENCE, || {
        (fs::read(log_path(&world, slot)).unwrap() == committed).then_some(())
    });
    wait_until_committed(&world);
    assert_once(&world);
    assert_eq!(owned(&second).len(), 10);
    assert!(second.log().contains("recovered the slot of a consumer that is gone"), "{}", second.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_was_stopped_past_its_session_harms_nothing() {
    let mut world = TestBed::new("stopped");
    world.set("KAFKA_SESSION_TIMEOUT", "6s");
    world.set("CONSUMER_BATCH_ROWS", "100");
    let mut feed = Feed::new(&world).await;
    let (zombie, other) = (start(&world, 1), start(&world, 2));
    all_have(5, [&zombie, &other]);
    feed.update(1..=2000, 0);
    eventually("work under way", PATIENCE, || (line_count(&world) > 300).then_some(()));
    zombie.signal("STOP");
    all_have(10, [&other]);
    feed.update(1..=500, 1);
    zombie.signal("CONT");
    all_have(5, [&zombie, &other]);
    feed.update(1..=500, 2);
    wait_until_committed(&world);
    assert_once(&world);
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_that_come_and_go_leave_each_record_once() {
    let mut world = TestBed::new("scaled");
    world.set("KAFKA_SESSION_TIMEOUT", "6s");
    world.set("CONSUMER_BATCH_ROWS", "20");
    let mut feed = Feed::new(&world).await;
    let mut consumers: Vec<_> = (1..=5).map(|n| start(&world, n)).collect();
    all_have(2, &consumers);
    feed.update(1..=400, 0);
    for consumer in consumers.drain(..2) {
        assert_eq!(consumer.stop().code, 0);
    }
    feed.update(1..=400, 1);
    eventually("three have all", PATIENCE, || {
        (consumers.iter().map(|c| owned(c).len()).sum::<usize>() == 10).then_some(())
    });
    consumers.extend((6..=10).map(|n| start(&world, n)));
    for round in 2..8 {
        feed.update(1..=400, round);
    }
    eventually("eight share", PATIENCE, || consumers.iter().all(|c| (1..=2).contains(&owned(c).len())).then_some(()));
    wait_until_committed(&world);
    assert_once(&world);
    assert!(logs(&world).contains_key("consumer_8"));
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_expired_are_not_a_beginning() {
    let (world, mut feed) = with_lines("expired").await;
    // As Kafka does when nobody was in the group for a week.
    let settings = world.kafka();
    let admin: AdminClient<_> = kafka::client_config(&settings).create().unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let deleted = admin.delete_groups(&[&settings.group_id], &AdminOptions::new()).await.unwrap();
        if deleted.iter().all(Result::is_ok) {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{deleted:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    feed.update(1..=20, 1);
    let ended = start(&world, 2).wait();
    let gone = format!("the offsets of group {} are gone", world.name);
    ended.assert_error(Code::OffsetsGone, &[&gone, "`consumer restore-offsets`"]);
    let restored = eventually("nobody is in the group any more", PATIENCE, || {
        let ended = world.run("consumer", &["restore-offsets"]);
        (ended.code == 0).then_some(ended.out)
    });
    assert!(
        restored.contains(&format!("offsets of group {} were missing and are there again", world.name)),
        "{restored}"
    );
    let _consumer = start(&world, 3);
    assert_read(&world, 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_group_begins_in_a_folder_of_its_own() {
    let mut world = TestBed::new("group");
    let mut feed = Feed::new(&world).await;
    feed.update(1..=20, 0);
    let consumer = start(&world, 1);
    wait_until_committed(&world);
    assert_eq!(consumer.stop().code, 0);
    world.set("KAFKA_GROUP_ID", format!("{}_2", world.name));
    let ended = start(&world, 2).wait();
    ended.assert_error(Code::LogUnknown, &["knows of no consumer that wrote them for group"]);
    let first = (world.name.clone(), world.get("CONSUMER_LOGS").to_owned());
    let second = (format!("{}_2", world.name), world.folder.join("other_logs").to_str().unwrap().to_owned());
    let use_group = |world: &mut TestBed, (group, logs): &(String, String)| {
        world.set("KAFKA_GROUP_ID", group);
        world.set("CONSUMER_LOGS", logs);
    };
    use_group(&mut world, &second);
    let consumer = start(&world, 3);
    assert_read(&world, 20);
    consumer.kill();
    // Back to the first one, which finds its own log checkpoint; a torn tail is cut by it.
    use_group(&mut world, &first);
    append(&log_path(&world, "consumer_1"), b"{\"id\":99}\n{\"id\"");
    feed.update(1..=20, 1);
    let mut one = start(&world, 4);
    wait_until_committed(&world);
    assert_once(&world);
    // Both at once.
    use_group(&mut world, &second);
    let mut two = start(&world, 5);
    for round in 2..8 {
        feed.update(1..=100, round);
        for group in [&first, &second] {
            use_group(&mut world, group);
            wait_until_committed(&world);
            assert_once(&world);
        }
    }
    assert!(one.is_running() && two.is_running());
    for log in [one.log(), two.log()] {
        assert!(!log.contains("trying again"), "{log}");
    }
    // Nor does one cut by its own log checkpoint what the other has in a folder that both were given.
    assert_eq!((one.stop().code, two.stop().code), (0, 0));
    world.set("CONSUMER_LOGS", &first.1);
    let ended = start(&world, 6).wait();
    ended.assert_error(Code::LogUnknown, &["knows of no consumer that wrote them for group"]);
    use_group(&mut world, &first);
    assert_once(&world);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_cannot_be_decoded_become_dead_letters() {
    let world = TestBed::new("poison");
    let mut feed = Feed::new(&world).await;
    feed.note_schema_id(&world).await;
    feed.update(1..=10, 0);
    let schema = u8::try_from(feed.schema()).expect("a small id on a test's registry");
    feed.raw(b"5", Some(b"{\"id\":5}"), Some(Op::Update));
    feed.raw(b"6", Some(&[0, 0, 0, 0, schema, 12]), Some(Op::Update));
    feed.raw(b"7", Some(&[0, 0x7f, 0, 0, 1, 14, 0, 0, 0, 0]), Some(Op::Create));
    feed.raw(b"x", None, Some(Op::Delete));
    feed.raw(b"8", None, None);
    feed.raw(b"9", Some(&[0, 0, 0, 0, schema, 2, 0, 0, 0, 0]), Some(Op::Update));
    feed.update(1..=10, 1);
    let consumer = start(&world, 1);
    wait_until_committed(&world);
    let letters = dead_letters(&world);
    let mut reasons: Vec<(String, String)> = letters.iter().map(|l| (l.key.clone(), l.reason())).collect();
    reasons.sort();
    let want = [
        ("5", "the value can't be decoded: begins with byte 0x7b instead of 0x00 of Confluent's wire format"),
        ("6", "the value can't be decoded: field name: an integer ends too early or is too long"),
        ("7", "the registry has no schema 2130706433"),
        ("8", "it has no header source"),
        ("9", "its key is 9, but its value has id 1"),
        ("x", "its key \"x\" is not a whole number"),
    ];
    assert_eq!(reasons, want.map(|(k, r)| (k.to_owned(), r.to_owned())));
    let first = letters.iter().find(|l| l.key == "5").unwrap();
    assert_eq!(first.value.as_deref(), Some(b"{\"id\":5}".as_slice()));
    assert_eq!(first.origin["topic"], world.name.as_str());
    assert!(first.origin["header"].as_str().unwrap().contains("\"op\":\"u\""), "{}", first.origin);
    assert_once(&world);
    assert_eq!(line_count(&world), 20);
    assert!(consumer.log().contains("put aside as dead letters"), "{}", consumer.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rules_say_what_becomes_of_a_record() {
    let mut world = TestBed::new("rules");
    world.set("RULES_DROP", r#"[{"field":"category","equals":"cat_1"}]"#);
    world.set("RULES_DISCOUNTS", r#"{"CAT_2":"50"}"#);
    let mut feed = Feed::new(&world).await;
    feed.products([
        (1, "a".to_owned(), "cat_1".to_owned(), 100),
        (2, "b".to_owned(), "cat_2".to_owned(), 101),
        (3, "c".to_owned(), "cat_5".to_owned(), 100),
    ]);
    feed.delete([1]);
    let _consumer = start(&world, 1);
    wait_until_committed(&world);
    let mut lines: Vec<String> = logs(&world).into_values().flatten().collect();
    lines.sort();
    let prices: Vec<(i64, serde_json::Value)> = lines
        .iter()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|line| (line["id"].as_i64().unwrap(), line["discount_price"].clone()))
        .collect();
    assert_eq!(prices, [(1, serde_json::Value::Null), (2, 0.51.into()), (3, serde_json::Value::Null)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_written_to_is_named() {
    let mut world = TestBed::new("unwritable");
    let file = world.folder.join("file");
    fs::File::create(&file).unwrap().write_all(b"not a folder").unwrap();
    world.set("CONSUMER_LOGS", file.join("logs").to_str().unwrap());
    let ended = world.run("consumer", &[]);
    let reason = format!("cannot write to {}/logs: Not a directory", file.display());
    let remedy = "what to do: give the user that runs the consumer write access to this folder, or name another one (consumer.logs)";
    ended.assert_error(Code::FileAccess, &[&reason, remedy]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_with_another_number_of_partitions_is_refused() {
    let mut world = TestBed::new("partitions");
    let _feed = Feed::new(&world).await;
    world.set("KAFKA_PARTITIONS", "3");
    let ended = world.run("consumer", &[]);
    ended.assert_error(Code::PartitionCount, &[&format!("topic {} has 10 partitions", world.name)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_down_is_waited_for_and_nothing_is_passed_over() {
    let mut world = TestBed::new("registry");
    let mut feed = Feed::new(&world).await;
    feed.update(1..=10, 0);
    let url = world.get("SCHEMA_REGISTRY_URL").to_owned();
    world.set("SCHEMA_REGISTRY_URL", "http://127.0.0.1:1/apis/ccompat/v7");
    let mut consumer = start(&world, 1);
    consumer.wait_for("cannot reach the schema registry at http://127.0.0.1:1/apis/ccompat/v7");
    assert!(consumer.log().contains("check schema_registry.url"), "{}", consumer.log());
    assert!(!committed_everything(&world));
    assert_eq!(consumer.stop().code, 0);
    // What answers there is no registry.
    world.set("SCHEMA_REGISTRY_URL", url.replace("/apis/ccompat/v7", "/wrong"));
    let refused = start(&world, 2).wait();
    refused.assert_error(Code::NoRegistry, &["not as a schema registry does"]);
    world.set("SCHEMA_REGISTRY_URL", url);
    let _consumer = start(&world, 3);
    wait_until_committed(&world);
    assert_once(&world);
    assert_eq!(expected_lines(&world).len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_mid_run_ends_in_order() {
    let mut world = TestBed::new("term");
    world.set("CONSUMER_BATCH_ROWS", "50");
    let mut feed = Feed::new(&world).await;
    feed.update(1..=3000, 0);
    let consumer = start(&world, 1);
    eventually("work under way", PATIENCE, || (line_count(&world) > 100).then_some(()));
    let ended = consumer.stop();
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(!committed_everything(&world), "it was stopped too late to show anything");
    let _consumer = start(&world, 2);
    wait_until_committed(&world);
    assert_once(&world);
}
