//! Whoever may write to the log checkpoints' topic, and an older state of it: committed lines are not cut off a log.

use std::fs;
use std::path::PathBuf;

use kafka::slots::LogCheckpoint;
use model::error::Code;
use testbed::{Ended, Feed, TestBed, eventually};

use super::PATIENCE;
use crate::consumer_world::{assert_once, forge, line_count, log_checkpoint, log_path, start, wait_until_committed};

/// A world whose one consumer wrote 600 lines and ended, and the path of its log.
async fn written(name: &str, killed: bool) -> (TestBed, Feed, PathBuf) {
    let world = TestBed::new(name);
    drop(world.table().await);
    let mut feed = Feed::new(&world).await;
    let consumer = start(&world, 1);
    for round in 0..3 {
        feed.update(1..=200, round);
        eventually("the lines are there", PATIENCE, || (line_count(&world) as i64 == 200 * (round + 1)).then_some(()));
    }
    wait_until_committed(&world);
    if killed {
        consumer.kill();
    } else {
        assert_eq!(consumer.stop().code, 0);
    }
    let log = log_path(&world, "consumer_1");
    (world, feed, log)
}

/// Runs a consumer to its end; one that works on instead fails.
fn run(world: &TestBed, arguments: &[&str]) -> Ended {
    if arguments.is_empty() {
        world.start_as("consumer", "refused", &[]).wait()
    } else {
        world.run("consumer", arguments)
    }
}

fn assert_refused(world: &TestBed, log: &PathBuf, says: &str) {
    let before = fs::read(log).unwrap();
    for arguments in [&[][..], &["doctor"], &[]] {
        let ended = run(world, arguments);
        let text = format!("{}{}", ended.out, ended.err);
        assert_eq!(ended.code, 1, "{text}");
        assert!(text.contains(says) && text.contains("consumer accept-log consumer_1"), "{text}");
        assert!(fs::read(log).unwrap() == before, "the log was changed");
    }
}

/// After the remedy every line is there once, and it works on.
fn assert_remedied(world: &TestBed, feed: &mut Feed) {
    let accepted = world.run("consumer", &["accept-log", "consumer_1"]);
    assert_eq!(accepted.code, 0, "{}{}", accepted.out, accepted.err);
    feed.update(1..=50, 9);
    let consumer = start(world, 2);
    wait_until_committed(world);
    eventually("the new lines are there", PATIENCE, || (line_count(world) == 650).then_some(()));
    assert_once(world);
    assert_eq!(consumer.stop().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_record_with_length_0_empties_no_log() {
    for killed in [false, true] {
        let (world, mut feed, log) = written("forged_0", killed).await;
        let (key, partition, real) = log_checkpoint(&world, "consumer_1");
        let forged = LogCheckpoint { length: 0, tail: None, offsets: Default::default(), ..real };
        forge(&world, &key, partition, Some(&forged.encode())).await;
        assert_refused(&world, &log, "bytes of committed lines would be cut off");
        assert_remedied(&world, &mut feed);
    }
}

/// One with a length at which a line ends and with the right hash, one that is not a log checkpoint, and none.
#[tokio::test(flavor = "multi_thread")]
async fn neither_does_a_log_checkpoint_of_half_the_lines_nor_a_broken_one_nor_a_tombstone() {
    let (world, mut feed, log) = written("forged_half", true).await;
    let (key, partition, real) = log_checkpoint(&world, "consumer_1");
    let text = fs::read(&log).unwrap();
    let half = text[..text.len() / 2].iter().rposition(|b| *b == b'\n').unwrap() + 1;
    let forged = LogCheckpoint { length: half as u64, tail: None, ..real.clone() };
    forge(&world, &key, partition, Some(&forged.encode())).await;
    assert_refused(&world, &log, "bytes of committed lines would be cut off");
    forge(&world, &key, partition, Some(b"{\"length\":0}")).await;
    assert_refused(&world, &log, "the log checkpoint of consumer_1 can't be read");
    forge(&world, &key, partition, None).await;
    let before = fs::read(&log).unwrap();
    let ended = run(&world, &[]);
    ended.assert_error(Code::LogUnknown, &["knows of no consumer that wrote them"]);
    assert!(fs::read(&log).unwrap() == before);
    assert_remedied(&world, &mut feed);
}

/// The folder of a version that did not write the file, and a file that was torn.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_without_the_file_is_taken_as_ever() {
    let (world, mut feed, log) = written("no_floor", true).await;
    let floor = log.with_file_name(".committed");
    for (round, torn) in [(3, None), (4, Some("{\"version\":1,\"len"))] {
        fs::remove_file(&floor).unwrap();
        torn.iter().for_each(|text| fs::write(&floor, text).unwrap());
        let consumer = start(&world, 2);
        feed.update(1..=200, round);
        wait_until_committed(&world);
        eventually("the lines are there", PATIENCE, || (line_count(&world) as i64 == 200 * (round + 1)).then_some(()));
        assert_eq!(consumer.stop().code, 0);
        let length = format!("\"length\":{}", fs::metadata(&log).unwrap().len());
        let text = fs::read_to_string(&floor).unwrap();
        assert!(text.contains(&length), "{text} {length}");
    }
    assert_once(&world);
}
