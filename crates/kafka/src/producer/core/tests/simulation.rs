//! Transactions beside brokers that keep Kafka's rules, while connections break at any time, requests arrive late, other
//! producers fence this one and callers stop waiting: each committed transaction is in the partitions as a whole, once
//! and in order, and nothing else is.
//!
//! Long histories meet faults at random, short ones meet every placement of one fault or two ([`exhaustive`]). The same
//! histories find what is wrong with a core that lacks one of its guards ([`mutants`]).

mod exhaustive;
mod mutants;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use self::mutants::Mutant;
use super::brokers::{Brokers, OFFSETS};
use super::cluster::{Cluster, PARTITIONS};
use super::decisions::Decisions;
use super::{V1, V2, member, offset};
use crate::producer::core::Stage;
use crate::producer::failure::Failure;

/// A transaction as its caller wants it.
#[derive(Clone, Debug, Default)]
struct Transaction {
    /// Partition and value of each record.
    records: Vec<(i32, String)>,
    /// Whether the group's offsets are part of it.
    has_offsets: bool,
    is_aborted: bool,
}

/// How a transaction ended, as far as the producer knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Committed,
    Aborted,
    Unknown,
}

/// What was done of a transaction.
#[derive(Clone, Copy, Debug, Default)]
struct Steps {
    is_commit_sent: bool,
    is_aborted: bool,
}

/// Transactions of a producer and its successors.
struct History {
    brokers: Rc<RefCell<Brokers>>,
    version: i16,
    mutant: Mutant,
    producer: Option<Cluster>,
    producers: u32,
    ends: Vec<(End, Transaction)>,
}

impl History {
    fn new(version: i16, mutant: Mutant, decisions: Decisions) -> Self {
        let brokers = Rc::new(RefCell::new(Brokers::new(version == V2, decisions)));
        Self { brokers, version, mutant, producer: None, producers: 0, ends: Vec::new() }
    }

    fn successor(&mut self) -> Cluster {
        let mut cluster = Cluster::new(2, self.version);
        let brokers = Rc::clone(&self.brokers);
        cluster.script(move |seen| brokers.borrow_mut().take(seen));
        cluster.core.initialise();
        cluster.run();
        assert_eq!((cluster.core.stage(), cluster.core.failure()), (Stage::Ready, None));
        self.producers += 1;
        cluster
    }

    /// # Errors
    /// When the producer waits for nothing.
    fn transaction(&mut self, wanted: Transaction) -> Result<(), String> {
        let mut cluster = self.producer.take().unwrap_or_else(|| self.successor());
        cluster.core.begin();
        for two in wanted.records.chunks(2) {
            two.iter().for_each(|(partition, value)| cluster.send("t", *partition, value));
            // A partition may have several batches.
            cluster.core.flush().expect("batches");
        }
        if wanted.has_offsets {
            let number = i64::try_from(self.ends.len()).expect("a small number");
            cluster.core.send_offsets(member(), vec![offset(0, number)]);
        }
        let end = self.end(&mut cluster, wanted.is_aborted)?;
        self.ends.push((end, wanted));
        self.mutant.apply(&mut cluster);
        let core = &cluster.core;
        let is_usable = core.stage() == Stage::Ready && core.stale().is_none() && core.failure().is_none();
        self.producer = is_usable.then_some(cluster);
        Ok(())
    }

    fn end(&self, cluster: &mut Cluster, is_aborted: bool) -> Result<End, String> {
        if !is_aborted {
            cluster.core.commit().expect("batches");
        }
        let mut steps = Steps::default();
        self.run(cluster, &mut steps);
        if is_aborted && !steps.is_aborted && cluster.core.failure().is_none() {
            cluster.core.abort();
            steps.is_aborted = true;
            self.run(cluster, &mut steps);
        }
        match cluster.core.failure().cloned() {
            None if cluster.core.stage() != Stage::Ready => {
                Err(format!("{:?} waits: {:?}", cluster.core.stage(), cluster.core.trouble()))
            }
            None => Ok(if steps.is_aborted { End::Aborted } else { End::Committed }),
            Some(failure) if failure.is_abortable() => {
                cluster.core.abort();
                steps.is_aborted = true;
                self.run(cluster, &mut steps);
                Ok(End::Aborted)
            }
            Some(Failure::Broken(_) | Failure::Fenced(_)) => {
                Ok(if steps.is_commit_sent { End::Unknown } else { End::Aborted })
            }
            Some(failure) => Err(failure.to_string()),
        }
    }

    /// Runs the cluster; a caller that waits for a commit may abort while requests are on their way.
    fn run(&self, cluster: &mut Cluster, steps: &mut Steps) {
        cluster.run_with(|cluster| {
            self.mutant.apply(cluster);
            steps.is_commit_sent |= cluster.core.is_ending();
            let is_asking = cluster.core.links.values().any(|link| !link.outgoing.is_empty());
            if !steps.is_aborted && is_asking && self.brokers.borrow_mut().decisions.deadline_passes() {
                self.brokers.borrow_mut().steps.push("the caller aborts".to_owned());
                cluster.core.abort();
                steps.is_aborted = true;
            }
        });
    }

    /// Checks everything after the last transaction.
    fn check(&self) -> Result<(), String> {
        let mut brokers = self.brokers.borrow_mut();
        brokers.finish();
        if let Some(mixed) = &brokers.mixed {
            return Err(format!("transactions {mixed:?} ended together"));
        }
        let wanted = wanted(&brokers, &self.ends)?;
        for (number, partition) in &brokers.partitions {
            if partition.log.iter().any(|(_, is_committed)| is_committed.is_none()) {
                return Err(format!("partition {number} is open: {:?}", partition.log));
            }
            let is_committed = |(value, is): &'_ (String, Option<bool>)| (*is == Some(true)).then(|| value.clone());
            let found: Vec<String> = partition.log.iter().filter_map(is_committed).collect();
            let wanted = wanted.get(number).cloned().unwrap_or_default();
            if found != wanted {
                return Err(format!("partition {number} has {found:?} instead of {wanted:?}"));
            }
        }
        Ok(())
    }
}

/// What the partitions should have.
fn wanted(brokers: &Brokers, ends: &[(End, Transaction)]) -> Result<BTreeMap<i32, Vec<String>>, String> {
    let count = |(partition, value): &(i32, String)| {
        let log = brokers.partitions.get(partition).map_or(&[][..], |partition| &partition.log);
        log.iter().filter(|(of, is_committed)| of == value && *is_committed == Some(true)).count()
    };
    let mut wanted: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    for (number, (end, transaction)) in ends.iter().enumerate() {
        let mut records = transaction.records.clone();
        records.extend(transaction.has_offsets.then(|| (OFFSETS, number.to_string())));
        let counts: Vec<usize> = records.iter().map(count).collect();
        let is_in = match end {
            End::Committed => true,
            End::Aborted => false,
            End::Unknown => counts.first().is_some_and(|count| *count > 0),
        };
        if counts.iter().any(|count| *count != usize::from(is_in)) {
            return Err(format!("transaction {number} is {end:?}, and its records are there so often: {counts:?}"));
        }
        if is_in {
            records.into_iter().for_each(|(partition, value)| wanted.entry(partition).or_default().push(value));
        }
    }
    Ok(wanted)
}

/// A long history; returns how many of its transactions ended in each way.
fn at_random(seed: u64, version: i16, breaks: u32) -> [usize; 3] {
    let mut random = StdRng::seed_from_u64(seed);
    let mut history = History::new(version, Mutant::None, Decisions::random(!seed, breaks));
    let outcome = (0..40).try_for_each(|number| {
        let record = |index| (random.random_range(0..PARTITIONS), format!("{number}.{index}"));
        let records = (0..6).map(record).collect::<Vec<_>>();
        let records = records.into_iter().take(random.random_range(0..=6)).collect();
        let (has_offsets, is_aborted) = (random.random_ratio(1, 3), random.random_ratio(1, 8));
        history.transaction(Transaction { records, has_offsets, is_aborted })
    });
    if let Err(why) = outcome.and_then(|()| history.check()) {
        panic!("seed {seed}, V{version}: {why}");
    }
    let ended = |of| history.ends.iter().filter(|(end, _)| *end == of).count();
    [End::Committed, End::Aborted, End::Unknown].map(ended)
}

#[test]
fn every_transaction_is_whole_once_and_in_order() {
    for version in [V1, V2] {
        let mut all = [0; 3];
        for seed in 0..150 {
            let ends = at_random(seed, version, [0, 3, 10, 30][seed as usize % 4]);
            all.iter_mut().zip(ends).for_each(|(all, one)| *all += one);
        }
        // Each of the ways is taken.
        assert!(all[0] > 2_500 && all[1] > 500 && all[2] > 50, "V{version}: {all:?}");
    }
}
