use model::error::{Code, Error};

use super::*;
use crate::record::Row;
use crate::search::Searched;
use crate::status::{Answer, Consumer, Producer, Reached};
use crate::trace::{SourceRow, StoredRow};

fn row(price: &str) -> Row {
    Row(vec![("id".to_owned(), "9".to_owned()), ("price".to_owned(), price.to_owned())])
}

fn source(price: Option<&str>) -> SourceRow {
    let read_at = "2026-11-30T02:00:00Z".to_owned();
    SourceRow { exists: price.is_some(), row: price.map(row), refused: None, read_at }
}

fn change(offset: i64, price: Option<&str>, is_consumed: bool) -> Traced {
    let change = Change {
        table: "shop.p".to_owned(),
        key: "9".to_owned(),
        op: Some(if price.is_some() { "u" } else { "d" }),
        committed_at: Some("2026-11-30T01:00:00Z".to_owned()),
        position: Some("b:1".to_owned()),
        row_number: Some(0),
        epoch: Some(1),
        partition: 3,
        offset,
        written_at: None,
        row: price.map(row),
        unreadable: None,
    };
    Traced { change, is_consumed, log: None, no_log: None, is_in_postgres: false }
}

fn trace(source: Option<SourceRow>, changes: Vec<Traced>) -> Trace {
    Trace {
        table: "shop.p".to_owned(),
        topic: "t".to_owned(),
        key: Some("9".to_owned()),
        partition: Some(3),
        source,
        changes,
        searched: vec![(3, Searched { from: 0, to: 50, begin: 0, is_complete: true })],
        uncommitted: 0,
        letter: None,
        postgres: None,
        standing: Standing::default(),
        faults: Vec::new(),
    }
}

fn status(holder: Option<&str>, waits: bool) -> Status {
    let partition = Partition { committed: Some(40), lag: 10, waits, ..Partition::for_test(3, 50, holder) };
    let table = Table {
        name: "shop.p".to_owned(),
        topic: "t".to_owned(),
        exists: true,
        snapshot: None,
        partitions: vec![partition],
        dead_letters: 0,
        parked_keys: None,
        postgres_behind: None,
    };
    let state = if waits { State::Stopped } else { State::Runs };
    let consumer = |name: &str| Consumer::for_test(name, state);
    let reached = Reached {
        epoch: 1,
        position: "b:100".to_owned(),
        gtid_set: None,
        server_uuid: "u".to_owned(),
        committed_at: String::new(),
        prepared: 0,
    };
    Status::for_test(
        Some(reached),
        Producer { has_folder: true, ..Producer::default() },
        vec![table],
        holder.map(consumer),
    )
}

fn stored(offset: Option<i64>, next: i64) -> StoredRow {
    StoredRow {
        table: "public.p".to_owned(),
        exists: offset.is_some(),
        partition: offset.map(|_| 3),
        offset,
        committed_at: None,
        row: None,
        next: vec![(3, next)],
        parked: None,
    }
}

/// The hop, and the text with the remedy.
fn judged(trace: Trace, status: Status) -> (Hop, String) {
    let Standing { hop, text, what_to_do } = judge(Facts { trace, status }).standing;
    (hop, format!("{text} | {}", what_to_do.unwrap_or_default()))
}

#[track_caller]
fn check(trace: Trace, status: Status, hop: Hop, part: &str) {
    let (found, text) = judged(trace, status);
    assert!(found == hop && text.contains(part), "{found:?}: {text}");
}

#[test]
fn a_change_that_is_not_in_the_topic_waits_for_the_producer() {
    let held_up = || trace(Some(source(Some("2"))), vec![change(10, Some("1"), true)]);
    check(
        held_up(),
        status(None, false),
        Hop::Producer,
        "the producer is stopped (nobody holds producer.time_track); it is at b:100",
    );
    check(held_up(), status(None, false), Hop::Producer, "| start cdc-producer; if it ends at once");
    let mut hangs = status(Some("consumer_1-aaaaaaaa"), false);
    hangs.producer.holder = Some("process 7".to_owned());
    check(held_up(), hangs.clone(), Hop::Producer, "the producer runs; it is at b:100");
    hangs.consumers[0].metrics = Some(Answer::default());
    check(held_up(), hangs, Hop::Producer, "the producer gives no answer at /metrics");
    let mut open = held_up();
    open.uncommitted = 1;
    check(open, status(None, false), Hop::Producer, "Kafka transaction that is open");
    check(
        trace(Some(source(None)), vec![change(10, Some("1"), true)]),
        status(None, false),
        Hop::Producer,
        "MySQL has it",
    );
    let mut short = trace(Some(source(Some("2"))), Vec::new());
    short.searched[0].1.is_complete = false;
    check(short, status(None, false), Hop::Unknown, "--all");
}

#[test]
fn a_record_that_nobody_has_read_waits_for_its_partition() {
    let unread = || trace(Some(source(Some("2"))), vec![change(45, Some("2"), false)]);
    let mut hangs = status(Some("consumer_1-aaaaaaaa"), false);
    hangs.consumers[0].is_silent = true;
    check(unread(), hangs, Hop::Consumer, "consumer_1-aaaaaaaa holds it and gives no answer at /metrics");
    check(
        unread(),
        status(None, false),
        Hop::Consumer,
        "is at 40 in partition 3, and the change is at 45; nobody holds",
    );
    check(unread(), status(Some("consumer_1-aaaaaaaa"), true), Hop::Consumer, "has stopped: its lock is free");
    check(unread(), status(Some("consumer_1-aaaaaaaa"), false), Hop::Consumer, "holds it and runs; 10 offsets");
    let mut elsewhere = status(Some("consumer_1-bbbbbbbb"), false);
    elsewhere.consumers[0].state = State::Elsewhere;
    check(unread(), elsewhere.clone(), Hop::Consumer, "whether it runs is not known here; 10 offsets");
    elsewhere.consumers[0].is_silent = true;
    check(unread(), elsewhere, Hop::Consumer, "gives no answer at /metrics, where it has answered; 10 offsets");
}

#[test]
fn a_transaction_stands_where_its_first_change_is_held_up() {
    let holder = Some("consumer_1-aaaaaaaa");
    let postgres = |next: i64, parked: u64| {
        let mut status = status(holder, false);
        let table = &mut status.tables[0];
        (table.parked_keys, table.partitions[0].postgres_next) = (Some(parked), Some(next));
        status
    };
    let read = || vec![change(30, Some("2"), true), change(31, None, true)];
    let check = |changes: Vec<Traced>, status: Status, faults: Vec<Fault>, hop: Hop, want: &str| {
        let trace = Trace { key: None, partition: None, faults, ..trace(None, changes) };
        let standing = judge_transaction(Facts { trace, status }, "u:9", false).standing;
        assert!(standing.hop == hop && standing.text.contains(want), "{standing:?}");
    };
    let all = "the group has read all of these changes";
    check(read(), status(holder, false), Vec::new(), Hop::Arrived, all);
    check(read(), postgres(32, 0), Vec::new(), Hop::Arrived, all);
    let behind = "PostgreSQL has partition 3 up to offset 31, and the change is at 31";
    check(read(), postgres(31, 7), Vec::new(), Hop::Postgres, behind);
    check(read(), postgres(32, 1), Vec::new(), Hop::Arrived, "in PostgreSQL 1 key is parked: `stream trace KEY`");
    check(read(), postgres(32, 2), Vec::new(), Hop::Arrived, "2 keys are parked");
    let away = Fault::new("PostgreSQL", &Error::transient("no answer"));
    check(read(), status(holder, false), vec![away], Hop::Unknown, "changes; PostgreSQL does not answer");
    let refuses = Fault::new("PostgreSQL", &Error::new(Code::RightMissing, "no right"));
    check(read(), status(holder, false), vec![refuses], Hop::Unknown, "changes; PostgreSQL refuses");
    let mut unreadable = read();
    unreadable[1].change.unreadable = Some("no schema".to_owned());
    let letter = "can't read the record at offset 31 of partition 3, so it is a dead letter: no schema";
    check(unreadable, postgres(20, 0), Vec::new(), Hop::Parked, letter);
    let mut unread = read();
    unread[1].is_consumed = false;
    check(unread, postgres(20, 0), Vec::new(), Hop::Consumer, "the change is at 31");
}

#[test]
fn what_is_in_a_log_may_wait_for_postgresql_or_be_parked_there() {
    let read = |stored| {
        let mut trace = trace(Some(source(Some("2"))), vec![change(30, Some("2"), true)]);
        trace.postgres = Some(stored);
        trace
    };
    let now = || status(Some("consumer_1-aaaaaaaa"), false);
    check(read(stored(Some(30), 40)), now(), Hop::Arrived, "PostgreSQL has it");
    check(read(stored(Some(12), 30)), now(), Hop::Postgres, "up to offset 30, and the change is at 30");
    check(read(stored(Some(12), 40)), now(), Hop::Unknown, "stream verify");
    let mut parked = stored(Some(12), 40);
    parked.parked = Some(crate::trace::Parked {
        partition: 3,
        offset: 30,
        column: Some("name".to_owned()),
        sqlstate: "22003".to_owned(),
        reason: "too large".to_owned(),
    });
    check(
        read(parked),
        now(),
        Hop::Parked,
        "column name: too large (22003) | change the table in PostgreSQL so that it takes the row, then `stream dlq retry-parked`",
    );
    assert!(way_into_postgres(Some("22021")).starts_with("correct the row in MySQL"));
}

#[test]
fn a_deleted_and_an_unknown_row() {
    let mut gone = trace(Some(source(None)), vec![change(30, None, true)]);
    check(gone.clone(), status(None, false), Hop::Arrived, "the group has read it");
    gone.postgres = Some(stored(None, 40));
    check(gone, status(None, false), Hop::Arrived, "the row is not there any more");
    check(trace(Some(source(None)), Vec::new()), status(None, false), Hop::Nowhere, "no row with this key");
    check(trace(None, Vec::new()), status(None, false), Hop::Unknown, "MySQL does not answer");
}
