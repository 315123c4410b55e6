//! A consumer's log that is torn, cut, moved, or another topic's.

use std::fs;

use model::error::Code;
use testbed::{Feed, TestBed, eventually};

use super::PATIENCE;
use crate::consumer_world::{append, assert_once, assert_read, log_path, start, wait_until_committed};

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_is_cut_at_the_next_start() {
    let world = TestBed::new("torn");
    let mut feed = Feed::new(&world).await;
    feed.update(1..=20, 0);
    let consumer = start(&world, 1);
    wait_until_committed(&world);
    consumer.kill();
    let path = log_path(&world, "consumer_1");
    let committed = fs::read(&path).unwrap();
    append(&path, b"{\"id\":99");
    let mut consumer = start(&world, 2);
    consumer.wait_for("cut off what no transaction committed");
    eventually("it is cut", PATIENCE, || (fs::read(&path).unwrap() == committed).then_some(()));
    feed.update(1..=20, 1);
    wait_until_committed(&world);
    assert_once(&world);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_lost_committed_lines_is_refused_until_it_is_accepted() {
    let world = TestBed::new("shorter");
    let mut feed = Feed::new(&world).await;
    feed.update(1..=20, 0);
    let consumer = start(&world, 1);
    wait_until_committed(&world);
    assert_eq!(consumer.stop().code, 0);
    let path = log_path(&world, "consumer_1");
    let text = fs::read(&path).unwrap();
    // One whole line and a torn one are left.
    let kept = text.iter().position(|b| *b == b'\n').unwrap() + 1;
    fs::write(&path, &text[..kept + 5]).unwrap();

    let refused = start(&world, 2).wait();
    let parts = [
        format!("has {} bytes, but {} were committed: {} bytes are gone", kept + 5, text.len(), text.len() - kept - 5),
        "what to do: put the file back as it was (is this the folder that its consumers used before? consumer.logs); or, to continue without the lines that are gone, run: consumer accept-log consumer_1".to_owned(),
    ];
    refused.assert_error(Code::LogTruncated, &parts.each_ref().map(String::as_str));
    assert_eq!(fs::read(&path).unwrap().len(), kept + 5);

    let accepted = world.run("consumer", &["accept-log", "consumer_1"]);
    assert_eq!(accepted.code, 0, "{}", accepted.err);
    assert!(accepted.out.contains(&format!("consumer_1: {} bytes were committed, {kept} are from now on", text.len())));
    feed.update(1..=20, 1);
    let consumer = start(&world, 3);
    wait_until_committed(&world);
    let lines = fs::read_to_string(&path).unwrap();
    assert_eq!(lines.lines().count(), 21);
    drop(consumer);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_moved_away_under_a_running_consumer_is_noticed_at_once() {
    let world = TestBed::new("moved");
    let mut feed = Feed::new(&world).await;
    feed.update(1..=20, 0);
    let consumer = start(&world, 1);
    wait_until_committed(&world);
    let path = log_path(&world, "consumer_1");
    let aside = world.folder.join("aside");
    // With nothing to do.
    fs::rename(&path, &aside).unwrap();
    let ended = consumer.wait();
    ended.assert_error(Code::LogTruncated, &["there is no such file any more", "put the file back as it was"]);
    fs::rename(&aside, &path).unwrap();
    // With another file in its place, as a rotation leaves it; records come meanwhile.
    let consumer = start(&world, 2);
    feed.update(1..=20, 1);
    wait_until_committed(&world);
    fs::rename(&path, &aside).unwrap();
    fs::write(&path, "").unwrap();
    feed.update(1..=20, 2);
    let ended = consumer.wait();
    ended.assert_error(Code::LogTruncated, &["there is another file in its place"]);
    fs::rename(&aside, &path).unwrap();
    // Emptied where it is.
    let consumer = start(&world, 3);
    wait_until_committed(&world);
    let text = fs::read(&path).unwrap();
    fs::write(&path, "").unwrap();
    let ended = consumer.wait();
    ended.assert_error(Code::LogTruncated, &[&format!("has 0 bytes, but {} were committed", text.len())]);
    fs::write(&path, text).unwrap();
    let _consumer = start(&world, 4);
    feed.update(1..=20, 3);
    assert_read(&world, 80);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_another_topic_is_left_alone_until_it_is_accepted() {
    let world = TestBed::new("foreign");
    let mut feed = Feed::new(&world).await;
    feed.update(1..=20, 0);
    let path = log_path(&world, "consumer_1");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "{\"id\":1}\n").unwrap();
    let refused = start(&world, 1).wait();
    refused.assert_error(Code::LogUnknown, &["has 9 bytes, but topic", "knows of no consumer that wrote them"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "{\"id\":1}\n");
    assert_eq!(world.run("consumer", &["accept-log", "consumer_1"]).code, 0);
    let _consumer = start(&world, 2);
    wait_until_committed(&world);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("{\"id\":1}\n{"), "{text}");
    assert_eq!(text.lines().count(), 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn accept_log_leaves_a_running_consumers_slot_alone() {
    let world = TestBed::new("held");
    let _feed = Feed::new(&world).await;
    let mut consumer = start(&world, 1);
    consumer.wait_for("slot claimed");
    let refused = world.run("consumer", &["accept-log", "consumer_1"]);
    refused.assert_error(Code::AnotherConsumer, &["consumer_1 is held by a running consumer"]);
    let unknown = world.run("consumer", &["accept-log", "five"]);
    unknown.assert_error(Code::CommandLine, &["\"five\" is no slot"]);
}
