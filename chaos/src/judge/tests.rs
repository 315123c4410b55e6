//! The judge finds each kind of error in manipulated records.

use super::*;

const GTID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

/// A record of the topic.
#[derive(Clone)]
struct Record {
    id: i64,
    epoch: u64,
    op: Op,
    token: Option<Token>,
    in_snapshot: bool,
}

/// Key 0: create, update, delete, create, update. Key 5: create, update, delete. The ledger's transactions are the
/// changes.
fn ledger() -> Ledger {
    let mut ledger = Ledger::default();
    let mut number = 0;
    for (id, kinds) in [(0, "cudcu"), (5, "cud")] {
        for kind in kinds.chars() {
            let kind = match kind {
                'c' => Kind::Create,
                'u' => Kind::Update,
                _ => Kind::Delete,
            };
            ledger.commit(&[(id, kind, Token::new(0, number, 0))]);
            number += 1;
        }
    }
    ledger
}

/// All changes of the ledger as epoch 1 streams them.
fn streamed(ledger: &Ledger) -> Vec<Record> {
    let mut keys: Vec<_> = ledger.keys.iter().collect();
    keys.sort_by_key(|(id, _)| **id);
    let records = keys.into_iter().flat_map(|(id, changes)| {
        changes.iter().map(|change| {
            let op = match change.kind {
                Kind::Create => Op::Create,
                Kind::Update => Op::Update,
                Kind::Delete => Op::Delete,
            };
            let token = (op != Op::Delete).then_some(change.token);
            Record { id: *id, epoch: 1, op, token, in_snapshot: false }
        })
    });
    records.collect()
}

fn snapshot(id: i64, epoch: u64, token: u32) -> Record {
    Record { id, epoch, op: Op::Snapshot, token: Some(Token::new(0, token, 0)), in_snapshot: true }
}

fn gone(id: i64, epoch: u64) -> Record {
    Record { id, epoch, op: Op::Delete, token: None, in_snapshot: true }
}

fn judged(ledger: &Ledger, records: &[Record]) -> [u64; 4] {
    let mut judge = Judge::new(ledger);
    for record in records {
        let pos = if record.in_snapshot { format!("{GTID}:1-7") } else { format!("{GTID}:7") };
        let source = Source { op: record.op, ts_us: 0, pos: pos.into(), row: 0, epoch: record.epoch };
        let value = record.token.map(|token| {
            let state = token.state();
            let product = Product {
                id: record.id,
                name: Some(&state.name),
                category: state.category,
                price: state.price,
                last_updated: state.last_updated,
            };
            let mut value = Vec::new();
            product.encode(1, &mut value);
            value
        });
        judge.record(record.id, &source, value.as_deref(), "here");
    }
    let verdict = judge.conclude();
    assert_eq!(verdict.is_clean(), verdict.findings.is_empty());
    [verdict.lost, verdict.doubled, verdict.out_of_order, verdict.wrong]
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
    use kafka::partition_of;
    let partition = |id: &str| partition_of(id.as_bytes(), 10);
    assert_ne!(partition("0"), partition("5"));
    let mut ledger = ledger();
    let all = streamed(&ledger);
    ledger.expire(partition("5"));
    assert_eq!(judged(&ledger, &all), CLEAN);
    assert_eq!(judged(&ledger, &[&all[..5], &all[6..]].concat()), CLEAN, "the first of key 5");
    assert_eq!(judged(&ledger, &all[..6]), [1, 0, 0, 0], "what comes first expires first");
    assert_eq!(judged(&ledger, &all[..5]), CLEAN, "all of key 5");
    assert_eq!(judged(&ledger, &all[1..]), [1, 0, 0, 0], "of key 0 nothing may");
    // A later change must exist, and a later snapshot must be correct.
    ledger.commit(&[(5, Kind::Create, Token::new(0, 8, 0))]);
    assert_eq!(judged(&ledger, &all[..5]), [1, 0, 0, 0]);
    assert_eq!(judged(&ledger, &[&all[..5], &streamed(&ledger)[8..]].concat()), CLEAN);
    assert_eq!(judged(&ledger, &[&all[..5], &[snapshot(5, 2, 6)]].concat()), [1, 0, 0, 0]);
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

impl Record {
    fn in_epoch(self, epoch: u64) -> Self {
        Self { epoch, ..self }
    }
}
