//! `consumer accept-log` after a kill at a named point, with a marker that is not the last one: no line is lost or doubled.

use std::fs;

use integration_tests::{Running, World, eventually};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use pipeline::slots::Marker;

use crate::PATIENCE;
use crate::consumer_world::{committed_everything, forge, log_path, marker, owned, wait_until_committed};

const SLOTS: [&str; 2] = ["consumer_1", "consumer_2"];

/// Before the Kafka transaction of a batch, and after it, before the file `.committed` notes its end.
const POINTS: [&str; 2] = ["consumer.appended", "consumer.committed"];

/// A world with 40 products that a producer reads, their changes all in a log.
async fn world(name: &str) -> (World, Conn, Running) {
    let mut world = World::new(name);
    world.set("KAFKA_SESSION_TIMEOUT", "6s");
    let mut conn = world.table().await;
    let rows: Vec<String> = (1..=40).map(|id| format!("({id}, 'a', 'b', 1, NULL)")).collect();
    conn.query_drop(format!("INSERT INTO product VALUES {}", rows.join(","))).await.unwrap();
    let producer = world.start("cdc-producer", &[]);
    let consumer = world.start("consumer", &[]);
    world.verify();
    assert_eq!(consumer.stop().code, 0);
    (world, conn, producer)
}

async fn change(conn: &mut Conn, world: &World) {
    conn.query_drop("UPDATE product SET price = price + 1").await.unwrap();
    world.wait_until_read();
}

/// Starts a consumer that is killed at this point.
fn start_until(world: &World, log: &str, point: &str) -> Running {
    let mut command = world.command("consumer", &[]);
    command.env("FAILPOINTS", format!("{point}=1*return(kill)"));
    Running::start(command, "consumer", world.folder.join(format!("{log}.log")))
}

fn killed_at(consumer: Running, point: &str) {
    let ended = consumer.wait();
    assert!(ended.code == -1 && ended.err.contains(point), "{}", ended.err);
}

/// Puts a marker of half the lines, a broken one or none in the place of the slot's last marker.
async fn forge_another(world: &World, slot: &str, which: usize) {
    let (key, partition, real) = marker(world, slot);
    let text = fs::read(log_path(world, slot)).unwrap();
    let half = text[..real.length as usize / 2].iter().rposition(|b| *b == b'\n').map_or(0, |newline| newline + 1);
    let forged = Marker { length: half as u64, tail: None, ..real }.encode();
    let value = [Some(&forged[..]), Some(b"{\"length\":0}"), None][which];
    forge(world, &key, partition, value).await;
}

fn refuses_then_accepts(world: &World, slot: &str) {
    let refused = world.run("consumer", &[]);
    let text = format!("consumer accept-log {slot}");
    assert!(refused.code == 1 && refused.err.contains(&text), "{}", refused.err);
    accepts(world, slot);
}

fn accepts(world: &World, slot: &str) {
    let accepted = world.run("consumer", &["accept-log", slot]);
    assert_eq!(accepted.code, 0, "{}{}", accepted.out, accepted.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_before_or_after_the_commit_neither_doubles_nor_loses() {
    let (world, mut conn, producer) = world("accept_kill").await;
    for point in POINTS {
        for forged in 0..3 {
            change(&mut conn, &world).await;
            killed_at(start_until(&world, "killed", point), point);
            forge_another(&world, "consumer_1", forged).await;
            refuses_then_accepts(&world, "consumer_1");
            let consumer = world.start("consumer", &[]);
            world.verify();
            assert_eq!(consumer.stop().code, 0);
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
    refuses_then_accepts(&world, "consumer_1");
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
    assert_eq!(fs::metadata(&path).unwrap().len(), before, "the neighbour must not have settled it");
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
        let mut first = start_until(&world, "first", &format!("consumer.initialised=1*return(stop);{first_point}"));
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
        let consumer = world.start("consumer", &[]);
        world.verify();
        assert_eq!(consumer.stop().code, 0);
    }
    assert_eq!(producer.stop().code, 0);
}
