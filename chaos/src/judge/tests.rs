//! The judge finds each kind of error in manipulated records.

use super::super::ledger::Planned;
use super::super::table::at_first;
use super::super::token::Token;
use super::*;

const GTID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

/// A record of a topic.
#[derive(Clone)]
struct Record {
    table: usize,
    id: i64,
    epoch: u64,
    op: Op,
    token: Option<Token>,
    extras: u8,
    /// The transaction in its position.
    pos: u32,
    in_snapshot: bool,
}

fn planned(table: usize, id: i64, kind: Kind, token: Token) -> Planned {
    Planned { row: Row { table, id }, kind, token, extras: 0 }
}

/// Of the product table, key 0: create, update, delete, create, update. Key 5: create, update, delete. The ledger's
/// transactions are the changes.
fn ledger() -> Ledger {
    ledger_of(0)
}

fn ledger_of(table: usize) -> Ledger {
    let mut ledger = Ledger::new(at_first());
    let mut number = 0;
    for (id, kinds) in [(0, "cudcu"), (5, "cud")] {
        for kind in kinds.chars() {
            let kind = match kind {
                'c' => Kind::Create,
                'u' => Kind::Update,
                _ => Kind::Delete,
            };
            ledger.commit(&[planned(table, id, kind, Token::new(0, number, 0))]);
            number += 1;
        }
    }
    ledger
}

/// All changes of the ledger as epoch 1 streams them.
fn streamed(ledger: &Ledger) -> Vec<Record> {
    let mut rows: Vec<_> = ledger.rows.iter().collect();
    rows.sort_by_key(|(row, _)| **row);
    let records = rows.into_iter().flat_map(|(row, changes)| {
        changes.iter().map(|change| {
            let op = match change.kind {
                Kind::Create => Op::Create,
                Kind::Update => Op::Update,
                Kind::Delete => Op::Delete,
            };
            let token = (op != Op::Delete).then_some(change.token);
            let (table, id, extras, pos) = (row.table, row.id, change.extras, change.at);
            Record { table, id, epoch: 1, op, token, extras, pos, in_snapshot: false }
        })
    });
    records.collect()
}

fn snapshot(id: i64, epoch: u64, token: u32) -> Record {
    let token = Some(Token::new(0, token, 0));
    Record { table: 0, id, epoch, op: Op::Snapshot, token, extras: 0, pos: 7, in_snapshot: true }
}

fn gone(id: i64, epoch: u64) -> Record {
    Record { op: Op::Delete, token: None, ..snapshot(id, epoch, 0) }
}

fn judged(ledger: &Ledger, records: &[Record]) -> [u64; 4] {
    let mut judge = Judge::new(ledger);
    for record in records {
        let pos = record.pos;
        let pos = if record.in_snapshot { format!("{GTID}:1-{pos}") } else { format!("{GTID}:{}", pos + 1) };
        let source = Source { op: record.op, ts_us: 0, pos: pos.into(), row: 0, epoch: record.epoch };
        let table = &ledger.tables[record.table];
        let prefix = [0, 0, 0, 0, 1];
        let value = |token| [&prefix, table.avro(record.id, token, record.extras).as_slice()].concat();
        let value = record.token.map(value);
        judge.record(record.table, table.key_text(record.id).as_bytes(), &source, value.as_deref(), "here");
    }
    let verdict = judge.conclude();
    assert_eq!(verdict.is_clean(), verdict.findings.is_empty());
    [verdict.lost, verdict.doubled, verdict.out_of_order, verdict.wrong + verdict.torn]
}

const CLEAN: [u64; 4] = [0; 4];

#[test]
fn every_change_once_and_in_order_is_clean() {
    let ledger = ledger();
    assert_eq!(judged(&ledger, &streamed(&ledger)), CLEAN);
}

#[test]
fn each_record_that_is_missing_is_lost() {
    let ledger = ledger();
    let all = streamed(&ledger);
    for missing in 0..all.len() {
        let mut records = all.clone();
        records.remove(missing);
        let [lost, doubled, out_of_order, wrong] = judged(&ledger, &records);
        // Without a delete, the next create has no delete before it; a missing delete without a successor is lost at
        // the end.
        assert_eq!((lost, doubled, out_of_order, wrong), (1, 0, 0, 0), "without record {missing}");
    }
    assert_eq!(judged(&ledger, &[]), [8, 0, 0, 0]);
}

#[test]
fn each_record_that_comes_twice_is_doubled() {
    let ledger = ledger();
    let all = streamed(&ledger);
    for twice in 0..all.len() {
        let mut records = all.clone();
        records.insert(twice + 1, all[twice].clone());
        let [lost, doubled, ..] = judged(&ledger, &records);
        // If a key is deleted twice, a repeated first delete is taken for the later one, which then occurs twice.
        assert!(lost == 0 && doubled >= 1, "record {twice} twice: {:?}", judged(&ledger, &records));
    }
}

#[test]
fn each_pair_that_is_swapped_is_out_of_order() {
    let ledger = ledger();
    let all = streamed(&ledger);
    for (first, pair) in all.windows(2).enumerate() {
        if pair[0].id == pair[1].id {
            let mut records = all.clone();
            records.swap(first, first + 1);
            let [.., out_of_order, wrong] = judged(&ledger, &records);
            assert!(out_of_order + wrong >= 1, "records {first} and the next: {:?}", judged(&ledger, &records));
        }
    }
}

#[test]
fn what_nobody_committed_is_wrong() {
    let ledger = ledger();
    let all = streamed(&ledger);
    let with = |change: &dyn Fn(&mut Record)| {
        let mut records = all.clone();
        change(&mut records[1]);
        judged(&ledger, &records)[3]
    };
    assert_eq!(with(&|record| record.token = Some(Token::new(0, 99, 0))), 1, "rolled back");
    assert_eq!(with(&|record| record.token = Some(Token::new(0, 5, 0))), 1, "another key's");
    assert_eq!(with(&|record| record.op = Op::Create), 1, "another op");
    assert_eq!(with(&|record| record.token = None), 1, "no value");
    assert_eq!(with(&|record| record.id = 10), 1, "another key");
    assert_eq!(with(&|record| record.id = -1), 0, "a key of nobody's");
}

#[test]
fn a_snapshot_stands_for_what_was_before_it_only_where_it_may() {
    let mut ledger = ledger();
    let all = streamed(&ledger);
    // A new epoch shows key 0 after its fourth change and streams the fifth; key 5 is gone.
    let again = |records: &[Record]| [records, &[snapshot(0, 2, 3), all[4].clone().in_epoch(2), gone(5, 2)]].concat();
    assert_eq!(judged(&ledger, &again(&all)), CLEAN);
    assert_eq!(judged(&ledger, &again(&all[..3])), [4, 0, 0, 0], "changes between the epochs were not streamed");
    ledger.collapse_from(2);
    assert_eq!(judged(&ledger, &again(&all[..2])), [0, 0, 0, 0], "nor had they to be");
    assert_eq!(judged(&ledger, &again(&all[..1])), [1, 0, 0, 0], "this one had");
}

#[test]
fn a_snapshot_shows_the_state_that_the_stream_is_at() {
    let ledger = ledger();
    let mut all = streamed(&ledger);
    all.insert(2, snapshot(0, 1, 1));
    assert_eq!(judged(&ledger, &all), CLEAN);
    all[2] = snapshot(0, 1, 0);
    assert_eq!(judged(&ledger, &all), [0, 0, 1, 0], "an older value after a newer one");
    all[2] = snapshot(0, 1, 3);
    assert_ne!(judged(&ledger, &all), CLEAN, "a newer value than the stream");
    all[2] = gone(0, 1);
    assert_eq!(judged(&ledger, &all), [0, 0, 0, 1], "it is there");
    all[2] = snapshot(0, 1, 1);
    all.insert(3, snapshot(0, 1, 1));
    assert_eq!(judged(&ledger, &all), [0, 1, 0, 0], "twice in one snapshot");
}

#[test]
fn the_last_epoch_ends_at_the_last_change() {
    let mut ledger = ledger();
    let all = streamed(&ledger);
    let stale = [all.as_slice(), &[snapshot(0, 2, 3)]].concat();
    assert_eq!(judged(&ledger, &stale), [1, 0, 0, 0]);
    let dead = [all.as_slice(), &[snapshot(5, 2, 6)]].concat();
    assert_eq!(judged(&ledger, &dead), [1, 0, 0, 0]);
    // A change that need not be streamed.
    ledger.collapse_from(0);
    assert_eq!(judged(&ledger, &stale), [1, 0, 0, 0]);
    assert_eq!(judged(&ledger, &dead), [1, 0, 0, 0]);
}

#[test]
fn records_may_expire_up_to_a_moment_in_their_partition() {
    let mut ledger = ledger();
    let all = streamed(&ledger);
    let product = ledger.tables[0].clone();
    assert_ne!(product.partition(0), product.partition(5));
    ledger.expire(0, product.partition(5));
    assert_eq!(judged(&ledger, &all), CLEAN);
    assert_eq!(judged(&ledger, &[&all[..5], &all[6..]].concat()), CLEAN, "the first of key 5");
    assert_eq!(judged(&ledger, &all[..6]), [1, 0, 0, 0], "what comes first expires first");
    assert_eq!(judged(&ledger, &all[..5]), CLEAN, "all of key 5");
    assert_eq!(judged(&ledger, &all[1..]), [1, 0, 0, 0], "of key 0 nothing may");
    // A later change must exist, and a later snapshot must be correct.
    ledger.commit(&[planned(0, 5, Kind::Create, Token::new(0, 8, 0))]);
    assert_eq!(judged(&ledger, &all[..5]), [1, 0, 0, 0]);
    assert_eq!(judged(&ledger, &[&all[..5], &streamed(&ledger)[8..]].concat()), CLEAN);
    assert_eq!(judged(&ledger, &[&all[..5], &[snapshot(5, 2, 6)]].concat()), [1, 0, 0, 0]);
}

#[test]
fn a_delete_after_expired_records_counts_though_an_epoch_ends_with_it() {
    let mut ledger = ledger();
    let all = streamed(&ledger);
    ledger.expire(0, ledger.tables[0].partition(5));
    ledger.commit(&[planned(0, 5, Kind::Create, Token::new(0, 8, 0))]);
    ledger.expire(0, ledger.tables[0].partition(5));
    for (kind, number) in [(Kind::Delete, 9), (Kind::Create, 10)] {
        ledger.commit(&[planned(0, 5, kind, Token::new(0, number, 0))]);
    }
    let later = streamed(&ledger).split_off(9);
    let ends_with = |records: &[Record]| judged(&ledger, &[&all[..5], records].concat());
    let again = later[1].clone().in_epoch(2);
    assert_eq!(ends_with(&[later[0].clone(), again.clone()]), CLEAN);
    assert_eq!(ends_with(&[again]), [1, 0, 0, 0], "without the delete");
}

#[test]
fn a_replay_has_everything_since_its_beginning() {
    let mut ledger = ledger();
    ledger.replays.insert(2, 3);
    let all = streamed(&ledger);
    let replay = |from: usize| {
        let again = all[from..].iter().cloned().map(|record| record.in_epoch(2));
        all.iter().cloned().chain(again).collect::<Vec<_>>()
    };
    assert_eq!(judged(&ledger, &replay(3)), CLEAN);
    assert_eq!(judged(&ledger, &replay(4)), [1, 0, 0, 0], "one change of a key is missing");
    assert_eq!(judged(&ledger, &replay(5)), [2, 0, 0, 0], "a key is missing");
    assert_eq!(judged(&ledger, &replay(2))[0], 0, "a delete from before is no loss");
    assert_ne!(judged(&ledger, &replay(2)), CLEAN, "but it is too much");
    let mut back = all.clone();
    back[4].epoch = 2;
    back.push(all[4].clone());
    assert_eq!(judged(&ledger, &back)[2], 1, "back to an epoch that is over");
}

#[test]
fn each_table_is_judged_by_its_own_topic() {
    let ledger = ledger_of(1);
    let all = streamed(&ledger);
    assert_eq!(judged(&ledger, &all), CLEAN);
    for missing in 0..all.len() {
        let without = [&all[..missing], &all[missing + 1..]].concat();
        assert_eq!(judged(&ledger, &without), [1, 0, 0, 0], "without record {missing}");
        let twice = [&all[..=missing], &all[missing..]].concat();
        assert!(judged(&ledger, &twice)[1] >= 1, "record {missing} twice");
    }
    let mut elsewhere = all.clone();
    elsewhere[0].table = 0;
    assert_eq!(judged(&ledger, &elsewhere), [1, 0, 0, 1], "in the other topic");
    // Records of the other table may expire, and its snapshot may collapse.
    let mut ledger = ledger;
    ledger.expire(0, 0);
    ledger.add_table(Table::lines("line_2"));
    assert_eq!(judged(&ledger, &all[1..]), [1, 0, 0, 0]);
    ledger.expire(1, ledger.tables[1].partition(0));
    assert_eq!(judged(&ledger, &all[1..]), CLEAN);
}

#[test]
fn a_table_that_is_added_begins_with_a_snapshot() {
    let mut ledger = ledger();
    let before = streamed(&ledger);
    ledger.add_table(Table::lines("line_2"));
    let change = |kind, number| planned(2, 4, kind, Token::new(0, number, 0));
    ledger.commit(&[change(Kind::Create, 8)]);
    ledger.commit(&[change(Kind::Update, 9)]);
    ledger.collapse_until_here();
    ledger.commit(&[change(Kind::Update, 10)]);
    let own = streamed(&ledger).split_off(8);
    let state = Record { table: 2, ..snapshot(4, 1, 9) };
    let with = |records: &[Record]| judged(&ledger, &[&before, records].concat());
    assert_eq!(with(&own), CLEAN, "all streamed");
    assert_eq!(with(&[state.clone(), own[2].clone()]), CLEAN, "a snapshot first");
    assert_eq!(with(&own[2..]), CLEAN, "its row was changed while the snapshot was read");
    assert_eq!(with(std::slice::from_ref(&state)), [1, 0, 0, 0], "the change after it");
    assert_eq!(with(&[]), [1, 0, 0, 0]);
    assert_eq!(with(&[state, own[1].clone(), own[2].clone()]), [0, 0, 1, 0], "what the snapshot has");
}

#[test]
fn a_table_that_is_read_again_shows_what_its_stream_omits() {
    let mut ledger = ledger();
    let all = streamed(&ledger);
    let again = |records: &[Record]| [&all, records].concat();
    assert_eq!(judged(&ledger, &again(&[snapshot(0, 1, 4)])), CLEAN);
    assert_eq!(judged(&ledger, &again(&[snapshot(0, 1, 4), snapshot(0, 1, 4)])), [0, 1, 0, 0]);
    ledger.read_again(0, 1);
    let omitted = [(0, Kind::Delete, 8), (5, Kind::Create, 9), (5, Kind::Update, 10)];
    for (id, kind, number) in omitted {
        ledger.commit(&[planned(0, id, kind, Token::new(0, number, 0))]);
    }
    ledger.collapse_until_here();
    let judged = |records: &[Record]| judged(&ledger, &again(records));
    assert_eq!(judged(&[gone(0, 1), snapshot(5, 1, 10)]), CLEAN);
    assert_eq!(judged(&[snapshot(0, 1, 4), gone(0, 1), snapshot(5, 1, 9), snapshot(5, 1, 10)]), CLEAN);
    assert_eq!(judged(&[gone(0, 1)]), [1, 0, 0, 0], "the last state of key 5");
    assert_eq!(judged(&[snapshot(5, 1, 10)]), [1, 0, 0, 0], "the last state of key 0");
    assert_eq!(judged(&[gone(0, 1), gone(0, 1), snapshot(5, 1, 10)]), [0, 1, 0, 0]);
    assert_eq!(judged(&[gone(0, 1), snapshot(5, 1, 10), snapshot(5, 1, 10), snapshot(5, 1, 10)]), [0, 1, 0, 0]);
}

#[test]
fn two_deletes_around_an_omitted_creation_are_told_apart_by_their_positions() {
    let mut ledger = ledger();
    ledger.read_again(0, 1);
    for (kind, number) in [(Kind::Delete, 8), (Kind::Create, 9), (Kind::Delete, 10), (Kind::Create, 11)] {
        ledger.commit(&[planned(0, 0, kind, Token::new(0, number, 0))]);
    }
    ledger.collapse_until_here();
    let deleted = |pos| Record { pos, in_snapshot: false, ..gone(0, 1) };
    let last = snapshot(0, 1, 11);
    let judged =
        |records: &[Record]| judged(&ledger, &[&streamed(&ledger)[..5], &streamed(&ledger)[9..], records].concat());
    assert_eq!(judged(&[deleted(8), deleted(10), last.clone()]), CLEAN);
    assert_eq!(judged(&[gone(0, 1), deleted(10), last.clone()]), CLEAN, "the sweep of a snapshot saw the first");
    assert_eq!(judged(&[deleted(10), last.clone()]), CLEAN);
    assert_eq!(judged(&[deleted(8), deleted(8), last.clone()]), [0, 1, 0, 0], "the same delete");
    assert_eq!(judged(&[deleted(8), deleted(10), deleted(12), last.clone()]), [0, 1, 0, 0], "a third delete");
    assert_eq!(judged(&[deleted(8), deleted(10), snapshot(0, 1, 4), last]), [0, 0, 1, 0], "a row from before both");
}

#[test]
fn a_streamed_delete_before_an_omitted_one_is_not_lost() {
    let row = Row { table: 0, id: 0 };
    let mut ledger = ledger();
    ledger.commit(&[planned(0, 0, Kind::Delete, Token::new(0, 8, 0))]);
    ledger.read_again(0, 1);
    for (kind, number) in [(Kind::Create, 9), (Kind::Delete, 10)] {
        ledger.commit(&[planned(0, 0, kind, Token::new(0, number, 0))]);
    }
    ledger.collapse_until_here();
    ledger.commit(&[planned(0, 0, Kind::Create, Token::new(0, 11, 0))]);
    let all = streamed(&ledger);
    // The changes of key 0, but for those that were committed before the table was read again; then those of key 5.
    let records = [&all[..6], &all[8..]].concat();
    assert_eq!(judged(&ledger, &records), CLEAN);
    let end = |end: &[Record]| judged(&ledger, &[&records[..5], end, &records[7..]].concat());
    assert_eq!(end(&[records[6].clone()]), [1, 0, 0, 0], "the delete is missing");
    assert_eq!(end(&[records[5].clone(), records[5].clone(), records[6].clone()]), [0, 1, 0, 0], "it comes twice");
    // Another row of its transaction shows the position: it is the omitted one that was streamed, and the first is lost.
    let mut with_other = ledger.clone();
    with_other.rows.insert(Row { table: 1, id: 5 }, vec![Change { kind: Kind::Create, ..ledger.rows[&row][7] }]);
    let other = Record { table: 1, op: Op::Create, id: 5, token: Some(Token::new(0, 10, 0)), ..all[7].clone() };
    let judged = |delete: &Record| {
        self::judged(&with_other, &[&records[..5], &[other.clone(), delete.clone()], &records[6..]].concat())
    };
    assert_eq!(judged(&all[7]), [1, 0, 0, 0]);
    assert_eq!(judged(&records[5]), CLEAN);
}

#[test]
fn an_added_column_counts_from_the_first_change_that_writes_it() {
    let mut ledger = ledger_of(1);
    ledger.add_column(1);
    let token = (100..).map(|number| Token::new(0, number, 0));
    let token = token.clone().find(|token| ledger.tables[1].avro(5, *token, 1).last() != Some(&0)).unwrap();
    ledger.commit(&[Planned { extras: 1, ..planned(1, 5, Kind::Create, token) }]);
    let mut all = streamed(&ledger);
    assert_eq!(judged(&ledger, &all), CLEAN);
    all[8].extras = 0;
    assert_eq!(judged(&ledger, &all), [1, 0, 0, 1], "it is missing");
}

#[test]
fn a_transaction_has_one_position_in_all_topics() {
    let mut ledger = ledger();
    let of = |table, row| planned(table, 10, Kind::Create, Token::new(1, 0, row));
    ledger.commit(&[of(0, 0), of(1, 1)]);
    let mut all = streamed(&ledger);
    let places: Vec<_> = all[8..].iter().map(|record| (record.table, record.pos)).collect();
    assert_eq!(places, [(0, 8), (1, 8)]);
    assert_eq!(judged(&ledger, &all), CLEAN);
    all[9].pos += 1;
    assert_eq!(judged(&ledger, &all), [0, 0, 0, 1]);
}

impl Record {
    fn in_epoch(self, epoch: u64) -> Self {
        Self { epoch, ..self }
    }
}
