//! Transactions beside brokers that keep Kafka's rules, while connections break at any time and requests arrive late:
//! each committed transaction is in the partitions as a whole, once and in order, and nothing else is.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::cluster::{Batch, Cluster, PARTITIONS, Reply, Seen};
use super::{V1, V2};
use crate::producer::core::Stage;
use crate::producer::failure::Failure;
use crate::wire::codes::KafkaCode as K;
use crate::wire::requests::Api;

/// A partition as its leader has it.
#[derive(Default)]
struct Partition {
    /// Values, and whether they are committed; `None` while their transaction is open.
    log: Vec<(String, Option<bool>)>,
    epoch: i16,
    /// The last batch of the epoch: its first sequence and its records.
    last: Option<(i32, usize)>,
    /// It has records of an open transaction.
    is_open: bool,
}

/// Coordinator and leaders.
struct Brokers {
    is_v2: bool,
    epoch: i16,
    partitions: BTreeMap<i32, Partition>,
    /// The partitions of the open transaction; `None` without one.
    ongoing: Option<Vec<i32>>,
    /// The end of the last transaction, whose markers are written after so many more requests.
    ending: Option<(bool, Vec<i32>, u32)>,
    last_end: Option<bool>,
    random: StdRng,
    /// Requests that will arrive late.
    late: Vec<Seen>,
    /// Of a hundred requests so many lose their connection.
    breaks: u32,
}

impl Brokers {
    fn below(&mut self, bound: u32) -> u32 {
        self.random.random_range(0..bound)
    }

    /// A request arrives over a connection that may break before or after it, or that holds it back.
    fn take(&mut self, seen: &Seen) -> Reply {
        if !self.late.is_empty() && self.below(4) == 0 {
            let late = self.below(self.late.len() as u32) as usize;
            let late = self.late.swap_remove(late);
            self.apply(&late);
        }
        let is_of_transaction = matches!(seen.api, Api::AddPartitionsToTxn | Api::Produce | Api::EndTxn);
        if self.below(100) < self.breaks {
            match self.below(3) {
                0 if is_of_transaction => self.late.push(seen.clone()),
                1 => drop(self.apply(seen)),
                _ => {}
            }
            return Reply::Break;
        }
        self.apply(seen)
    }

    fn apply(&mut self, seen: &Seen) -> Reply {
        self.ending.iter_mut().for_each(|(.., requests)| *requests = requests.saturating_sub(1));
        if self.ending.as_ref().is_some_and(|(.., requests)| *requests == 0) {
            self.write_markers();
        }
        match seen.api {
            Api::InitProducerId => self.initialise(),
            Api::AddPartitionsToTxn => self.add(seen),
            Api::Produce => {
                Reply::Each(seen.batches.iter().map(|batch| (batch.partition, self.append(batch))).collect())
            }
            Api::EndTxn => self.end(seen),
            _ => Reply::Good,
        }
    }

    fn write_markers(&mut self) {
        let Some((commit, partitions, _)) = self.ending.take() else { return };
        for number in partitions {
            let partition = self.partitions.entry(number).or_default();
            partition.log.iter_mut().filter(|(_, is)| is.is_none()).for_each(|(_, is)| *is = Some(commit));
            partition.is_open = false;
            if self.is_v2 && partition.epoch < self.epoch {
                (partition.epoch, partition.last) = (self.epoch, None);
            }
        }
    }

    fn initialise(&mut self) -> Reply {
        self.write_markers();
        self.epoch += 1;
        if let Some(partitions) = self.ongoing.take() {
            self.ending = Some((false, partitions, 0));
            self.write_markers();
        }
        self.last_end = None;
        Reply::Epoch(self.epoch)
    }

    fn add(&mut self, seen: &Seen) -> Reply {
        let (places, epoch) = seen.text.split_once(" epoch ").expect("its form");
        if epoch != self.epoch.to_string() {
            return Reply::Code(K::PRODUCER_FENCED);
        }
        if self.ending.is_some() {
            return Reply::Code(K::CONCURRENT_TRANSACTIONS);
        }
        let numbers = places.split(' ').map(|place| place.trim_start_matches("t-").parse().expect("a number"));
        let ongoing = self.ongoing.get_or_insert_default();
        for number in numbers {
            if !ongoing.contains(&number) {
                ongoing.push(number);
            }
        }
        Reply::Good
    }

    fn append(&mut self, batch: &Batch) -> K {
        let is_added = self.ongoing.as_ref().is_some_and(|partitions| partitions.contains(&batch.partition));
        let partition = self.partitions.entry(batch.partition).or_default();
        if batch.epoch < partition.epoch {
            return K::INVALID_PRODUCER_EPOCH;
        }
        let count = batch.values.len();
        if batch.epoch == partition.epoch {
            if partition.last.is_some_and(|(first, records)| first == batch.sequence && records == count) {
                return K::NONE;
            }
            let next = partition.last.map_or(0, |(first, records)| first + records as i32);
            if batch.sequence != next {
                return K::OUT_OF_ORDER_SEQUENCE_NUMBER;
            }
        } else if batch.sequence != 0 {
            return K::OUT_OF_ORDER_SEQUENCE_NUMBER;
        }
        // A partition with an open transaction of this epoch takes more without asking anybody.
        if !(partition.is_open && batch.epoch == partition.epoch) {
            if batch.epoch != self.epoch {
                return K::INVALID_PRODUCER_EPOCH;
            }
            if self.is_v2 && self.ending.is_some() {
                return K::CONCURRENT_TRANSACTIONS;
            }
            if self.is_v2 && !is_added {
                self.ongoing.get_or_insert_default().push(batch.partition);
            } else if !is_added {
                return K::INVALID_TXN_STATE;
            }
        }
        (partition.epoch, partition.last, partition.is_open) = (batch.epoch, Some((batch.sequence, count)), true);
        partition.log.extend(batch.values.iter().map(|value| (value.clone(), None)));
        K::NONE
    }

    fn end(&mut self, seen: &Seen) -> Reply {
        let (what, epoch) = seen.text.split_once(" epoch ").expect("its form");
        let (commit, epoch) = (what == "commit", epoch.parse::<i16>().expect("a number"));
        let is_retry = self.is_v2 && epoch + 1 == self.epoch;
        if epoch != self.epoch && !is_retry {
            return Reply::Code(K::PRODUCER_FENCED);
        }
        if self.ending.is_some() {
            return Reply::Code(K::CONCURRENT_TRANSACTIONS);
        }
        let is_complete = self.ongoing.is_none();
        if is_retry || is_complete {
            let is_same = self.last_end == Some(commit) && (is_retry || (!self.is_v2 && is_complete));
            return if is_same { Reply::Epoch(self.epoch) } else { Reply::Code(K::INVALID_TXN_STATE) };
        }
        let partitions = self.ongoing.take().unwrap_or_default();
        self.epoch += i16::from(self.is_v2);
        self.last_end = Some(commit);
        let requests = 1 + self.below(4);
        self.ending = Some((commit, partitions, requests));
        Reply::Epoch(self.epoch)
    }
}

/// How a transaction ended, as far as the producer knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Committed,
    Aborted,
    Unknown,
}

/// A history of a producer and its successors; returns how many of its transactions ended in each way.
fn history(seed: u64, version: i16, breaks: u32) -> [u32; 3] {
    let mut random = StdRng::seed_from_u64(seed);
    let brokers = Rc::new(RefCell::new(Brokers {
        is_v2: version == V2,
        epoch: 0,
        partitions: BTreeMap::new(),
        ongoing: None,
        ending: None,
        last_end: None,
        random: StdRng::seed_from_u64(!seed),
        late: Vec::new(),
        breaks,
    }));
    let mut producer = None;
    let mut ends: Vec<(End, Vec<(i32, String)>)> = Vec::new();
    for number in 0..40 {
        let mut cluster = producer.take().unwrap_or_else(|| successor(&brokers, version));
        let mut records = Vec::new();
        for index in 0..random.random_range(0..6) {
            let partition = random.random_range(0..PARTITIONS);
            records.push((partition, format!("{number}.{index}")));
        }
        cluster.core.begin();
        records.iter().for_each(|(partition, value)| cluster.send("t", *partition, value));
        let aborts = random.random_ratio(1, 8);
        if aborts {
            cluster.core.flush().expect("batches");
            (0..random.random_range(0..5)).for_each(|_| cluster.step());
            cluster.core.abort();
        } else {
            cluster.core.commit().expect("batches");
        }
        cluster.run();
        let end = settle(&mut cluster, aborts);
        ends.push((end, records));
        let is_usable = cluster.core.stage() == Stage::Ready && cluster.core.stale().is_none();
        producer = (is_usable && cluster.core.failure().is_none()).then_some(cluster);
    }
    // Its initialisation ends what is open; then the markers are written.
    drop(successor(&brokers, version));
    let mut brokers = brokers.borrow_mut();
    brokers.write_markers();
    check(&brokers, &ends, seed);
    [End::Committed, End::Aborted, End::Unknown].map(|of| ends.iter().filter(|(end, _)| *end == of).count() as u32)
}

fn settle(cluster: &mut Cluster, aborts: bool) -> End {
    match cluster.core.failure().cloned() {
        None if aborts => End::Aborted,
        None => {
            assert_eq!(cluster.core.stage(), Stage::Ready, "it waits: {:?}", cluster.core.trouble());
            End::Committed
        }
        Some(failure) if failure.is_abortable() => {
            cluster.core.abort();
            cluster.run();
            End::Aborted
        }
        Some(Failure::Broken(_) | Failure::Fenced(_)) => End::Unknown,
        Some(failure) => panic!("{failure}"),
    }
}

fn successor(brokers: &Rc<RefCell<Brokers>>, version: i16) -> Cluster {
    let mut cluster = Cluster::new(2, version);
    let brokers = Rc::clone(brokers);
    cluster.script(move |seen| brokers.borrow_mut().take(seen));
    cluster.core.initialise();
    cluster.run();
    assert_eq!((cluster.core.stage(), cluster.core.failure()), (Stage::Ready, None));
    cluster
}

fn check(brokers: &Brokers, ends: &[(End, Vec<(i32, String)>)], seed: u64) {
    let committed = |value: &str| {
        let is = |(of, committed): &&(String, Option<bool>)| of == value && *committed == Some(true);
        brokers.partitions.values().flat_map(|partition| &partition.log).filter(is).count()
    };
    let mut wanted: BTreeMap<i32, Vec<&str>> = BTreeMap::new();
    for (end, records) in ends {
        let counts: Vec<usize> = records.iter().map(|(_, value)| committed(value)).collect();
        let is_in = match end {
            End::Committed => true,
            End::Aborted => false,
            End::Unknown => counts.first().is_some_and(|count| *count > 0),
        };
        assert!(counts.iter().all(|count| *count == usize::from(is_in)), "seed {seed}: {end:?} {records:?} {counts:?}");
        if is_in {
            records.iter().for_each(|(partition, value)| wanted.entry(*partition).or_default().push(value));
        }
    }
    for (number, partition) in &brokers.partitions {
        assert!(partition.log.iter().all(|(_, is)| is.is_some()), "seed {seed}: partition {number} is open");
        let found: Vec<&str> =
            partition.log.iter().filter(|(_, is)| *is == Some(true)).map(|(value, _)| value.as_str()).collect();
        assert_eq!(found, wanted.remove(number).unwrap_or_default(), "seed {seed}, partition {number}");
    }
}

#[test]
fn every_transaction_is_whole_once_and_in_order() {
    for version in [V1, V2] {
        let mut all = [0; 3];
        for seed in 0..300 {
            let ends = history(seed, version, [0, 3, 10, 30][seed as usize % 4]);
            all.iter_mut().zip(ends).for_each(|(all, one)| *all += one);
        }
        // Each of the ways is taken.
        assert!(all[0] > 5_000 && all[1] > 500 && (version == V2 || all[2] < 12_000), "V{version}: {all:?}");
    }
}
