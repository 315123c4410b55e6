//! Short histories with every placement of some faults; and what they find in a core that lacks a guard.
//!
//! The core itself is explored, not a model of its requests, which could differ from it: it has no sockets and clocks, so
//! a history depends on nothing but the decisions of [`Search`], and is run once with each list of them. What the programs
//! make of its failures is in the model of the producers (`tests/tests/protocol_model/producer.rs`).

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use super::mutants::Mutant;
use super::{End, History, Transaction};
use crate::producer::core::tests::decisions::{Decisions, Search};
use crate::producer::core::tests::{V1, V2};

/// A commit of two partitions, which different brokers lead, one of them with two batches, and of offsets; an abort; a
/// commit of one partition.
fn three() -> [Transaction; 3] {
    let transaction = |values: &[(i32, &str)], has_offsets, is_aborted| {
        let records = values.iter().map(|(partition, value)| (*partition, (*value).to_owned())).collect();
        Transaction { records, has_offsets, is_aborted }
    };
    [
        transaction(&[(0, "0.0"), (1, "0.1"), (0, "0.2")], true, false),
        transaction(&[(0, "1.0")], false, true),
        transaction(&[(0, "2.0")], false, false),
    ]
}

/// Two commits, with a batch less and without offsets.
fn two() -> [Transaction; 2] {
    let [mut first, mut second, _] = three();
    first.records.pop();
    (first.has_offsets, second.is_aborted) = (false, false);
    [first, second]
}

/// Runs every history of these transactions with up to so many faults; returns their number.
///
/// # Errors
/// What is wrong in the first one that is wrong, and its steps.
fn explore(version: i16, mutant: Mutant, transactions: &[Transaction], faults: u32) -> Result<u32, String> {
    let mut search = Search::new(faults);
    for number in 1.. {
        let mut history = History::new(version, mutant, Decisions::Every(search));
        let mut outcome = transactions.iter().try_for_each(|transaction| history.transaction(transaction.clone()));
        outcome = outcome.and_then(|()| history.check());
        let History { brokers, ends, producers, producer, .. } = history;
        drop(producer);
        if let Err(why) = outcome {
            return Err(format!("{why}\n    {}", brokers.borrow().steps.join("\n    ")));
        }
        let brokers = Rc::into_inner(brokers).map(RefCell::into_inner).expect("all producers are gone");
        let Decisions::Every(mut next) = brokers.decisions else { unreachable!("they were handed over") };
        if next.is_undisturbed() && mutant == Mutant::None {
            // Connections alone change no outcome, and on V2 no producer has to be replaced.
            let wanted = |(end, transaction): &(End, Transaction)| (*end == End::Aborted) == transaction.is_aborted;
            let are_as_wanted = ends.iter().all(|end| wanted(end) && end.0 != End::Unknown);
            if !are_as_wanted || (version == V2 && producers != 1) {
                return Err(format!("{ends:?} by {producers} producers\n    {}", brokers.steps.join("\n    ")));
            }
        }
        if !next.next() {
            return Ok(number);
        }
        search = next;
    }
    unreachable!("a history is the last one")
}

fn holds(transactions: &[Transaction], faults: u32) {
    for version in [V1, V2] {
        let started = Instant::now();
        match explore(version, Mutant::None, transactions, faults) {
            Ok(count) => println!("V{version}: {count} histories in {:?}", started.elapsed()),
            Err(why) => panic!("V{version}: {why}"),
        }
    }
}

#[test]
fn three_transactions_with_every_fault() {
    holds(&three(), 1);
}

#[test]
fn two_transactions_with_every_two_faults() {
    holds(&two(), 2);
}

#[test]
#[ignore = "a minute of computation"]
fn three_transactions_with_every_two_faults() {
    holds(&three(), 2);
}

/// On V1, what arrives late belongs to the next transaction. On V2, brokers refuse it by its epoch, and they add
/// partitions themselves.
#[test]
fn each_guard_is_needed() {
    for (mutant, versions) in [
        (Mutant::ProducesEarly, &[V1][..]),
        (Mutant::EndsEarly, &[V1, V2]),
        (Mutant::EndsBeforeOffsets, &[V1, V2]),
        (Mutant::ChangesBatch, &[V1, V2]),
        (Mutant::ChangesSequence, &[V1, V2]),
        (Mutant::NeverStale, &[V1]),
        (Mutant::AbortsCommit, &[V1, V2]),
    ] {
        for version in [V1, V2] {
            match explore(version, mutant, &three(), 1) {
                Ok(count) => {
                    assert!(!versions.contains(&version), "{mutant:?}, V{version}: {count} histories are right")
                }
                Err(why) => {
                    assert!(versions.contains(&version), "{mutant:?}, V{version}: {why}");
                    println!("{mutant:?}, V{version}: {why}");
                }
            }
        }
    }
}
