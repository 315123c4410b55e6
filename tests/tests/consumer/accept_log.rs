//! `consumer accept-log` after a kill at a named point, with a log checkpoint that is not the last one: no line is lost
//! or doubled.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use kafka::slots::{self, LogCheckpoint};
use model::error::Code;
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use runtime::step::{ConsumerStep, DurableStep as _};
use testbed::{Feed, Running, TestBed, eventually};

use super::PATIENCE;
use crate::consumer_world::{
    committed_everything, forge, line_count, log_checkpoint, log_path, owned, start, wait_until_committed,
};

const SLOTS: [&str; 2] = ["consumer_1", "consumer_2"];

/// Before the Kafka transaction of a batch, and after it, before the file `.committed` notes its end.
const POINTS: [ConsumerStep; 2] = [ConsumerStep::Appended, ConsumerStep::Committed];

/// A consumer reads what there is, and everything is in a log once.
fn verify(world: &TestBed) {
    let consumer = world.start("consumer", &[]);
    world.verify();
    assert_eq!(consumer.stop().code, 0);
}

/// A world with 40 products that a producer reads, their changes all in a log.
async fn world(name: &str) -> (TestBed, Conn, Running) {
    let mut world = TestBed::new(name);
    world.set("KAFKA_SESSION_TIMEOUT", "6s");
    let mut conn = world.table().await;
    let rows: Vec<String> = (1..=40).map(|id| format!("({id}, 'a', 'b', 1, NULL)")).collect();
    conn.query_drop(format!("INSERT INTO product VALUES {}", rows.join(","))).await.unwrap();
    let producer = world.start("cdc-producer", &[]);
    verify(&world);
    (world, conn, producer)
}

async fn change(conn: &mut Conn, world: &TestBed) {
    conn.query_drop("UPDATE product SET price = price + 1").await.unwrap();
    world.wait_until_read();
}

/// Starts a consumer that is killed at this point.
fn start_until(world: &TestBed, log: &str, point: ConsumerStep) -> Running {
    start_with(world, log, &point.failpoint("1*return(kill)"))
}

fn start_with(world: &TestBed, log: &str, failpoints: &str) -> Running {
    let mut command = world.command("consumer", &[]);
    command.env("FAILPOINTS", failpoints);
    Running::start(command, "consumer", world.folder.join(format!("{log}.log")))
}

fn killed_at(consumer: Running, point: ConsumerStep) {
    let ended = consumer.wait();
    assert!(ended.code == -1 && ended.err.contains(point.name()), "{}", ended.err);
}

/// Puts a log checkpoint of half the lines, a broken one or none in the place of the slot's last log checkpoint.
async fn forge_another(world: &TestBed, slot: &str, which: usize) {
    let (key, partition, real) = log_checkpoint(world, slot);
    let text = fs::read(log_path(world, slot)).unwrap();
    let half = text[..real.length as usize / 2].iter().rposition(|b| *b == b'\n').map_or(0, |newline| newline + 1);
    let forged = LogCheckpoint { length: half as u64, tail: None, ..real }.encode();
    let value = [Some(&forged[..]), Some(b"{\"length\":0}"), None][which];
    forge(world, &key, partition, value).await;
}

fn refuses_then_accepts(world: &TestBed, code: Code, slot: &str) {
    let refused = world.run("consumer", &[]);
    let text = format!("consumer accept-log {slot}");
    refused.assert_error(code, &[&text]);
    accepts(world, slot);
}

fn accepts(world: &TestBed, slot: &str) -> String {
    let accepted = world.run("consumer", &["accept-log", slot]);
    assert_eq!(accepted.code, 0, "{}{}", accepted.out, accepted.err);
    accepted.out
}

fn admin(world: &TestBed) -> AdminClient<DefaultClientContext> {
    kafka::client_config(&world.kafka()).create().unwrap()
}

async fn delete_topics(world: &TestBed, topics: &[&str]) {
    for deleted in admin(world).delete_topics(topics, &AdminOptions::new()).await.unwrap() {
        deleted.unwrap();
    }
}

/// As Kafka does when nobody was in the group for a week.
async fn drop_offsets(world: &TestBed) {
    let settings = world.kafka();
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let deleted = admin(world).delete_groups(&[&settings.group_id], &AdminOptions::new()).await.unwrap();
        match &deleted[0] {
            Ok(_) => return,
            Err(error) => assert!(std::time::Instant::now() < deadline, "{error:?}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

/// As a tool does: without our note.
fn move_offset(world: &TestBed, partition: i32, to: i64) {
    let settings = world.kafka();
    let client: BaseConsumer = kafka::consumer_config(&settings, &settings.group_id).create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&settings.topic, partition, Offset::Offset(to)).unwrap();
    eventually("nobody is in the group any more", PATIENCE, || client.commit(&list, CommitMode::Sync).ok());
}

/// The consumer stops because of the group's offsets, and after `restore-offsets` everything is there once.
fn refuses_then_restores(world: &TestBed, code: Code, says: &str) {
    let refused = world.start_as("consumer", "refused", &[]).wait();
    refused.assert_error(code, &[says]);
    eventually("the offsets are restored", PATIENCE, || {
        (world.run("consumer", &["restore-offsets"]).code == 0).then_some(())
    });
    verify(world);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_before_or_after_the_commit_neither_doubles_nor_loses() {
    let (world, mut conn, producer) = world("accept_kill").await;
    for point in POINTS {
        for (forged, code) in
            [Code::LogCheckpointDiffers, Code::LogCheckpointDiffers, Code::LogUnknown].into_iter().enumerate()
        {
            change(&mut conn, &world).await;
            killed_at(start_until(&world, "killed", point), point);
            forge_another(&world, "consumer_1", forged).await;
            refuses_then_accepts(&world, code, "consumer_1");
            verify(&world);
        }
    }
    assert_eq!(producer.stop().code, 0);
}

/// A line that was cut out of the middle is lost, and no other; nothing that was not committed stays.
#[tokio::test(flavor = "multi_thread")]
async fn an_edited_log_with_an_uncommitted_end_loses_what_was_cut_out_only() {
    let (world, mut conn, producer) = world("accept_edited").await;
    let path = log_path(&world, "consumer_1");
    change(&mut conn, &world).await;
    killed_at(start_until(&world, "killed", POINTS[0]), POINTS[0]);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.split_once('\n').unwrap().1).unwrap();
    refuses_then_accepts(&world, Code::LogTruncated, "consumer_1");
    let consumer = world.start("consumer", &[]);
    wait_until_committed(&world);
    let lines = fs::read_to_string(&path).unwrap();
    assert_eq!(lines.lines().count(), 79);
    let report = world.run("verify", &["--wait", "60s", "--json"]).out;
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["counts"], serde_json::json!({ "lost": 1 }), "{report}");
    assert_eq!((consumer.stop().code, producer.stop().code), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_neighbour_took_over_is_not_doubled() {
    let (world, mut conn, producer) = world("accept_taken").await;
    let path = log_path(&world, "consumer_1");
    let first = start_until(&world, "first", POINTS[0]);
    eventually("it has all partitions", PATIENCE, || (owned(&first).len() == 10).then_some(()));
    let neighbour = world.start_as("consumer", "second", &[]);
    eventually("both have five", PATIENCE, || [&first, &neighbour].iter().all(|c| owned(c).len() == 5).then_some(()));
    conn.query_drop("UPDATE product SET price = price + 1").await.unwrap();
    killed_at(first, POINTS[0]);
    forge_another(&world, "consumer_1", 0).await;
    let before = fs::metadata(&path).unwrap().len();
    eventually("the neighbour has written them", PATIENCE, || {
        (committed_everything(&world) && owned(&neighbour).len() == 10).then_some(())
    });
    assert_eq!(fs::metadata(&path).unwrap().len(), before, "the neighbour must not have recovered it");
    accepts(&world, "consumer_1");
    assert!(fs::metadata(&path).unwrap().len() < before);
    let consumer = world.start("consumer", &[]);
    world.verify();
    assert_eq!((neighbour.stop().code, consumer.stop().code, producer.stop().code), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_slots_are_accepted_one_after_the_other() {
    let (world, mut conn, producer) = world("accept_several").await;
    for [first_point, second_point] in [POINTS, [POINTS[1], POINTS[0]]] {
        change(&mut conn, &world).await;
        // It holds the first slot while the other one takes its records.
        let failpoints =
            [ConsumerStep::Initialised.failpoint("1*return(stop)"), first_point.failpoint("1*return(kill)")];
        let mut first = start_with(&world, "first", &failpoints.join(";"));
        first.wait_for("failpoint");
        killed_at(start_until(&world, "second", second_point), second_point);
        change(&mut conn, &world).await;
        first.signal("CONT");
        killed_at(first, first_point);
        for slot in SLOTS {
            forge_another(&world, slot, 0).await;
        }
        for slot in SLOTS {
            accepts(&world, slot);
        }
        verify(&world);
    }
    assert_eq!(producer.stop().code, 0);
}

/// The accepted log checkpoint has the offsets of the group, so that Kafka may drop them and a person may move them.
#[tokio::test(flavor = "multi_thread")]
async fn the_offsets_outlive_a_log_checkpoint_that_is_gone() {
    let (world, mut conn, producer) = world("accept_offsets").await;
    delete_topics(&world, &[&slots::topic(&world.kafka())]).await;
    refuses_then_accepts(&world, Code::LogUnknown, "consumer_1");
    drop_offsets(&world).await;
    refuses_then_restores(&world, Code::OffsetsGone, "are gone, but its logs have records");
    for which in [1, 2] {
        change(&mut conn, &world).await;
        verify(&world);
        forge_another(&world, "consumer_1", which).await;
        let said = accepts(&world, "consumer_1");
        assert!(said.contains("how much was committed is unknown"), "{said}");
        let partition = log_checkpoint(&world, "consumer_1").2.offsets.first_key_value().unwrap().0.number;
        move_offset(&world, partition, 0);
        refuses_then_restores(&world, Code::OffsetsMoved, "were moved back");
    }
    assert_eq!(producer.stop().code, 0);
}

/// Neither log checkpoints nor offsets of the group, as on a cluster that was built again: nothing says that a line
/// must go.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_knows_nothing_cuts_nothing() {
    let mut world = TestBed::new("accept_rebuilt");
    world.set("KAFKA_SESSION_TIMEOUT", "6s");
    Feed::new(&world).await.update(1..=40, 0);
    let consumer = start(&world, 1);
    wait_until_committed(&world);
    assert_eq!(consumer.stop().code, 0);
    let settings = world.kafka();
    drop_offsets(&world).await;
    delete_topics(&world, &[&settings.topic, &slots::topic(&settings)]).await;
    let path = log_path(&world, "consumer_1");
    fs::remove_file(path.with_file_name(".committed")).unwrap();
    let before = fs::read(&path).unwrap();
    let mut feed = Feed::new(&world).await;
    let refused = world.run("consumer", &[]);
    refused.assert_error(Code::LogUnknown, &["knows of no consumer that wrote them"]);
    let said = accepts(&world, "consumer_1");
    assert!(said.contains("how much was committed is unknown"), "{said}");
    assert!(said.contains("from its beginning"), "{said}");
    assert!(fs::read(&path).unwrap() == before, "the log was cut");
    feed.update(1..=20, 1);
    let consumer = start(&world, 2);
    wait_until_committed(&world);
    assert_eq!(line_count(&world), 60);
    assert_eq!(consumer.stop().code, 0);
}

/// What is cut is kept beside the log, for its owner alone, and no such file is written over.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_cut_is_kept() {
    let (world, mut conn, producer) = world("accept_kept").await;
    let path = log_path(&world, "consumer_1");
    let length = fs::read(&path).unwrap().len();
    let kept = |n: &str| path.with_file_name(format!("consumer_log.json.cut-{length}{n}"));
    for n in ["", "-2"] {
        change(&mut conn, &world).await;
        killed_at(start_until(&world, "killed", POINTS[0]), POINTS[0]);
        // And half a line.
        let mut text = fs::read(&path).unwrap();
        text.extend(b"{\"id\":");
        fs::write(&path, &text).unwrap();
        let said = accepts(&world, "consumer_1");
        let bytes = text.len() - length;
        assert!(said.contains(&format!("{bytes} bytes were cut off")), "{said}");
        assert!(said.contains(&kept(n).display().to_string()), "{said}");
        assert!(fs::read(kept(n)).unwrap() == text[length..]);
        assert_eq!(fs::metadata(kept(n)).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read(&path).unwrap().len(), length);
    }
    let consumer = world.start("consumer", &[]);
    world.verify();
    assert_eq!((consumer.stop().code, producer.stop().code), (0, 0));
}
