//! `consumer accept-log` of a folder while another machine has written on: each record is once in the logs of both.

use std::fs;

use model::error::Code;
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use runtime::step::{ConsumerStep, DurableStep as _};
use testbed::{Running, TestBed, eventually};

use super::{Machine, PATIENCE, share, stop};
use crate::consumer_world::{forge, log_checkpoint, wait_until_committed};

/// 40 products, and machine A, whose log has their inserts.
async fn written(test: &str) -> (TestBed, Conn, Running, Machine) {
    let world = super::world(test);
    let mut conn = world.table().await;
    let rows: Vec<String> = (1..=40).map(|id| format!("({id}, 'a', 'b', 1, NULL)")).collect();
    conn.query_drop(format!("INSERT INTO product VALUES {}", rows.join(","))).await.unwrap();
    let producer = world.start("cdc-producer", &[]);
    let a = Machine::new(&world, "a");
    let consumer = a.start(&world, 1);
    world.wait_until_read();
    wait_until_committed(&world);
    stop([consumer]);
    (world, conn, producer, a)
}

async fn change(conn: &mut Conn, world: &TestBed) {
    conn.query_drop("UPDATE product SET price = price + 1").await.unwrap();
    world.wait_until_read();
}

fn killed_at(a: &Machine, world: &TestBed, point: ConsumerStep) {
    let ended = a.start_with(world, 2, &[("FAILPOINTS", &point.failpoint("1*return(kill)"))]).wait();
    assert!(ended.code == -1 && ended.err.contains(point.name()), "{}", ended.err);
}

fn accept(a: &Machine, world: &TestBed) -> String {
    let accepted = a.run(world, &["accept-log", "consumer_1"]);
    assert_eq!(accepted.code, 0, "{}{}", accepted.out, accepted.err);
    accepted.out
}

fn agree(world: &TestBed, machines: &[&Machine]) {
    let logs: Vec<&str> = machines.iter().map(|m| m.logs.to_str().unwrap()).collect();
    let ended = world.run("verify", &["--wait", "60s", "--logs", &logs.join(",")]);
    assert_eq!(ended.code, 0, "{}{}", ended.out, ended.err);
}

/// Killed before its commit, declared lost, read again by B, and back.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_was_declared_lost_comes_back_without_what_another_wrote_again() {
    let (world, mut conn, producer, a) = written("accept_lost").await;
    let b = Machine::new(&world, "b");
    let committed = fs::metadata(a.log("consumer_1")).unwrap().len();
    change(&mut conn, &world).await;
    killed_at(&a, &world, ConsumerStep::Appended);
    assert!(fs::metadata(a.log("consumer_1")).unwrap().len() > committed);
    let id = a.id();
    eventually("its session is over", PATIENCE, || (b.run(&world, &["forget-folder", &id]).code == 0).then_some(()));
    let on_b = b.start(&world, 1);
    wait_until_committed(&world);
    a.start(&world, 3)
        .wait()
        .assert_error(Code::LogCopied, &["was declared lost at", "consumer accept-log consumer_1"]);
    let said = accept(&a, &world);
    assert!(said.contains("cut off"), "{said}");
    assert_eq!(fs::metadata(a.log("consumer_1")).unwrap().len(), committed);
    let on_a = a.start(&world, 4);
    share([&on_a, &on_b]);
    change(&mut conn, &world).await;
    agree(&world, &[&a, &b]);
    stop([on_a, on_b, producer]);
}

/// The log checkpoint and `.committed` are one batch behind, and B has read on in the same partitions.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_stays_whose_log_checkpoint_was_set_back_by_it() {
    let (world, mut conn, producer, a) = written("accept_one_back").await;
    let b = Machine::new(&world, "b");
    let (key, partition, before) = log_checkpoint(&world, "consumer_1");
    change(&mut conn, &world).await;
    killed_at(&a, &world, ConsumerStep::Committed);
    let written = fs::metadata(a.log("consumer_1")).unwrap().len();
    assert!(written > before.length);
    forge(&world, &key, partition, Some(&before.encode())).await;
    change(&mut conn, &world).await;
    let on_b = b.start(&world, 1);
    wait_until_committed(&world);
    accept(&a, &world);
    assert_eq!(fs::metadata(a.log("consumer_1")).unwrap().len(), written);
    let on_a = a.start(&world, 4);
    share([&on_a, &on_b]);
    change(&mut conn, &world).await;
    agree(&world, &[&a, &b]);
    stop([on_a, on_b, producer]);
}
