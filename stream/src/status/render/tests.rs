use kafka::Partition as At;

use super::*;
use crate::fault::Fault;
use crate::status::Answer;
use model::error::{Code, Error};

fn partition(number: usize, lag: i64, holder: Option<&str>) -> Partition {
    let committed = Some(100 - lag);
    Partition { committed, lag, written_last_minute: 6, ..Partition::for_test(number, 100, holder) }
}

fn shown(name: &str, topic: &str, partitions: Vec<Partition>) -> Table {
    Table {
        name: name.to_owned(),
        topic: topic.to_owned(),
        exists: true,
        snapshot: None,
        partitions,
        dead_letters: 2,
        parked_keys: Some(1),
        postgres_behind: Some(0),
    }
}

fn consumer(slot: u32, state: State, partitions: &[i32]) -> Consumer {
    let partitions = partitions.iter().map(|number| At::main(*number)).collect();
    let name = format!("consumer_{slot}-aaaaaaaa");
    Consumer { host: "10.0.0.7".to_owned(), partitions, ..Consumer::for_test(&name, state) }
}

fn status(tables: Vec<Table>, consumers: Vec<Consumer>) -> Status {
    let reached = Reached {
        epoch: 2,
        position: "binlog.000003:1000".to_owned(),
        gtid_set: None,
        server_uuid: "u".to_owned(),
        committed_at: "2026-11-30T02:10:08.5Z".to_owned(),
        prepared: 0,
    };
    let source = Source {
        address: "db:3306".to_owned(),
        version: "9.7.4".to_owned(),
        server_uuid: "u".to_owned(),
        end: "binlog.000003:4000".to_owned(),
        is_same_server: Some(true),
        behind_bytes: Some(12_800),
        behind_seconds: Some(3.21),
        purge_seconds: Some(3_600.0),
    };
    let producer = Producer { holder: Some("process 7 on host".to_owned()), has_folder: true, metrics: None };
    let free_slots = vec!["consumer_3-aaaaaaaa".to_owned()];
    Status { source: Some(source), free_slots, ..Status::for_test(Some(reached), producer, tables, consumers) }
}

#[test]
fn the_time_that_a_snapshot_takes_follows_from_the_rate_of_the_last_rows() {
    let look = |rows| Snapshot { step: "rows", rows, of: Some(500), rows_per_second: None, seconds_left: None };
    let mut now = look(300);
    now.compare(&look(100), 4.0);
    assert_eq!((now.rows_per_second, now.seconds_left), (Some(50.0), Some(4.0)));
    // Without another row, the rate is the last known one.
    now.compare(&look(300), 1.0);
    assert_eq!((now.rows_per_second, now.seconds_left), (Some(50.0), Some(4.0)));
}

#[test]
fn one_screen_says_what_runs_and_what_does_not() {
    let [one, two] = [1, 2].map(|slot| format!("consumer_{slot}-aaaaaaaa"));
    let mut table =
        shown("shop.p", "t", vec![partition(0, 0, Some(&one)), partition(1, 12, Some(&two)), partition(2, 0, None)]);
    table.partitions[1].waits = true;
    let mut snapshot =
        Snapshot { step: "rows", rows: 1_200, of: Some(2_400), rows_per_second: None, seconds_left: None };
    snapshot.rows_per_second = Some(300.0);
    snapshot.seconds_left = Some(4.0);
    table.snapshot = Some(snapshot);
    let consumers = vec![consumer(1, State::Runs, &[0]), consumer(2, State::Stopped, &[1])];
    let mut status = status(vec![table], consumers);
    status.latency = Some(Latency { p50_seconds: 0.012, p99_seconds: 1.25, changes: 7 });
    let text = render(&status, false, None);
    let want = "\
2026-11-30 02:10:12.123 UTC

MySQL      9.7.4 at db:3306, its binlog ends at binlog.000003:4000
Kafka      has all up to binlog.000003:1000, epoch 2; 12.5 KiB and 3.2 s behind; last commit 2026-11-30 02:10:08.500
binlog     the one that is needed next is kept for 1 h more
producer   runs: process 7 on host
latency    12 ms (median), 1.2 s (p99) from a commit to its line in a log; 7 changes since the consumers' start
snapshot   shop.p: 1,200 of about 2,400 rows, 300 a second, about 4.0 s left

shop.p → t: lag 12; 18 offsets in the last minute; 2 dead letters; PostgreSQL not behind, 1 key parked

partition  end  committed  lag  held by
0          100        100    0  consumer_1
1          100         88   12  consumer_2: STOPPED
2          100        100    0  NOBODY

group g, logs folder aaaaaaaa
consumer    host      partitions  state
consumer_1  10.0.0.7  0           runs
consumer_2  10.0.0.7  1           STOPPED: its lock is free; its partitions wait for it, 45 s at most (kafka.session_timeout)
free slots: consumer_3
";
    assert_eq!(text, want);
}

#[test]
fn what_is_away_is_named_first_and_the_rest_is_shown() {
    let mut status = status(Vec::new(), Vec::new());
    let error = Error::transient("cannot connect to db:3306: \u{1b}[31mrefused").with_remedy("check that it runs");
    status.faults.push(Fault::new("MySQL", &error));
    (status.source, status.producer, status.free_slots) = (None, Producer::default(), Vec::new());
    let text = render(&status, false, None);
    let want = "\
2026-11-30 02:10:12.123 UTC

AWAY       MySQL: cannot connect to db:3306: \\u001b[31mrefused (check that it runs)
Kafka      has all up to binlog.000003:1000, epoch 2; last commit 2026-11-30 02:10:08.500
producer   unknown: producer.time_track is not here, and no address of it is known (stream.metrics)

group g: no consumer
";
    assert_eq!(text, want);
}

#[test]
fn what_is_known_of_a_consumer_elsewhere_is_shown() {
    let elsewhere = || consumer(1, State::Elsewhere, &[0]);
    let shown = |consumers: Vec<Consumer>| render(&status(Vec::new(), consumers), false, None);
    let here = "its logs folder aaaaaaaa is not here";
    let text = shown(vec![elsewhere()]);
    assert!(text.contains(&format!("{here}\n")), "{text}");
    let answers = Consumer { metrics: Some(Answer::default()), ..consumer(2, State::Runs, &[1]) };
    let text = shown(vec![elsewhere(), answers.clone()]);
    assert!(text.contains(&format!("{here}, nor an answer of it at /metrics\n")), "{text}");
    let text = shown(vec![Consumer { is_silent: true, ..elsewhere() }, answers]);
    assert!(text.contains(&format!("{here}; NO ANSWER at /metrics, where it has answered")), "{text}");
}

#[test]
fn who_refuses_is_not_away() {
    let mut status = status(Vec::new(), Vec::new());
    let refused = Error::new(Code::RightMissing, "no right");
    status.faults.push(Fault::new("MySQL", &refused));
    assert!(render(&status, false, None).contains("\nREFUSED    MySQL: no right"), "{status:?}");
}

#[test]
fn of_many_partitions_those_that_need_attention_are_shown() {
    let held = |number| partition(number, 0, Some("consumer_1-aaaaaaaa"));
    let mut many: Vec<Partition> = (0..30).map(held).collect();
    many[7].lag = 3;
    many[9].holder = None;
    let tables = vec![shown("a.b", "a.b", many), shown("a.c", "a.c", vec![held(0)])];
    let text = render(&status(tables, vec![consumer(1, State::Runs, &[0])]), false, Some(80));
    assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
    for part in ["a.b/7", "a.b/9", "NOBODY", "\n29 partitions without lag", "a.c    a.c      0"] {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
    assert!(!text.contains("a.b/8"), "{text}");
}

#[test]
fn a_screen_of_few_rows_leaves_out_what_needs_no_attention_first() {
    let mut ten: Vec<Partition> = (0..10).map(|number| partition(number, 0, Some("consumer_1-aaaaaaaa"))).collect();
    ten[7].lag = 3;
    let status = status(vec![shown("a.b", "a.b", ten)], vec![consumer(1, State::Runs, &[0])]);
    let at = |rows, all| fitted(&status, all, Screen { columns: 100, rows });
    let whole = render(&status, false, Some(100));
    let lines = whole.lines().count();
    assert_eq!(at(lines + 1, false), whole);
    let less = at(lines, false);
    assert!(less.contains("\n7          100") && less.contains("\n9 partitions without lag"), "{less}");
    assert!(less.contains("\ngroup g") && !less.contains("\n8          100"), "{less}");
    // With --partitions, and on fewer rows still, the last lines are counted.
    for (rows, all) in [(lines, true), (6, false)] {
        let cut = at(rows, all);
        let (top, last) = cut.trim_end().rsplit_once('\n').unwrap();
        let begins = if all { whole.starts_with(top) } else { less.starts_with(top) };
        assert!(begins && cut.lines().count() == rows - 1, "{cut}");
        let of = if all { lines } else { less.lines().count() };
        assert_eq!(last, format!("{} lines without room here", of - rows + 2));
    }
    assert_eq!(at(0, false).lines().count(), 1);
}
