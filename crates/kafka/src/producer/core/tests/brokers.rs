//! Brokers that keep Kafka's rules of transactions, over connections that break and hold requests back.

use std::collections::{BTreeMap, BTreeSet};

use super::cluster::{Batch, Reply, Seen};
use super::decisions::Decisions;
use crate::wire::codes::KafkaCode as K;
use crate::wire::requests::Api;

/// The offsets of the group are in a partition, too, but have no sequences.
pub(super) const OFFSETS: i32 = -1;

const OF_TRANSACTIONS: [Api; 5] =
    [Api::AddPartitionsToTxn, Api::AddOffsetsToTxn, Api::Produce, Api::TxnOffsetCommit, Api::EndTxn];

/// A partition as its leader has it.
#[derive(Default)]
pub(super) struct Partition {
    /// Values, and whether they are committed; `None` while their transaction is open.
    pub(super) log: Vec<(String, Option<bool>)>,
    epoch: i16,
    /// The last batch of the epoch: its first sequence and its records.
    last: Option<(i32, usize)>,
    /// It has records of an open transaction.
    is_open: bool,
}

/// Coordinator and leaders.
pub(super) struct Brokers {
    is_v2: bool,
    epoch: i16,
    pub(super) partitions: BTreeMap<i32, Partition>,
    /// The partitions of the open transaction; `None` without one.
    ongoing: Option<Vec<i32>>,
    /// The end of the last transaction, whose markers are written after so many more requests.
    ending: Option<(bool, Vec<i32>, u32)>,
    last_end: Option<bool>,
    pub(super) decisions: Decisions,
    /// Requests that will arrive late.
    late: Vec<Seen>,
    /// What happened.
    pub(super) steps: Vec<String>,
    /// Transactions of the producer that one marker has ended.
    pub(super) mixed: Option<Vec<String>>,
}

impl Brokers {
    pub(super) fn new(is_v2: bool, decisions: Decisions) -> Self {
        Self {
            is_v2,
            epoch: 0,
            partitions: BTreeMap::new(),
            ongoing: None,
            ending: None,
            last_end: None,
            decisions,
            late: Vec::new(),
            steps: Vec::new(),
            mixed: None,
        }
    }

    /// A request arrives over a connection that may break before or after it, or that holds it back.
    pub(super) fn take(&mut self, seen: &Seen) -> Reply {
        let is_of_transaction = OF_TRANSACTIONS.contains(&seen.api);
        let is_of_producer = is_of_transaction || seen.api == Api::InitProducerId;
        if is_of_producer {
            self.late_arrives();
        }
        let fault = self.decisions.fault(is_of_transaction, self.ongoing.is_some());
        let reply = self.meet(seen, fault);
        if is_of_producer {
            self.steps.push(format!("{} {}: {fault:?}, {reply:?}", seen.api.name(), seen.text));
        }
        reply
    }

    fn meet(&mut self, seen: &Seen, fault: Fault) -> Reply {
        match fault {
            Fault::None => return self.apply(seen),
            Fault::Lost => {}
            Fault::Unanswered => drop(self.apply(seen)),
            Fault::Late => self.late.push(seen.clone()),
            Fault::Fenced => {
                self.initialise();
                return self.apply(seen);
            }
            Fault::TimedOut => {
                self.epoch += 1;
                self.decide(false);
                return self.apply(seen);
            }
        }
        Reply::Break
    }

    /// Late requests may arrive now.
    fn late_arrives(&mut self) {
        while let Some(late) = self.decisions.arrival(self.late.len()) {
            let late = self.late.remove(late);
            self.steps.push(format!("late: {} {}", late.api.name(), late.text));
            self.apply(&late);
        }
    }

    /// A last producer initialises its transactions, which ends what is open; then everything arrives that is late.
    pub(super) fn finish(&mut self) {
        self.late_arrives();
        self.initialise();
        for late in std::mem::take(&mut self.late) {
            self.apply(&late);
        }
        self.write_markers();
    }

    fn apply(&mut self, seen: &Seen) -> Reply {
        if let Some((.., requests)) = &mut self.ending {
            *requests -= 1;
            if *requests == 0 {
                self.write_markers();
            }
        }
        match seen.api {
            Api::InitProducerId => self.initialise(),
            Api::AddPartitionsToTxn => {
                let (places, epoch) = split(&seen.text);
                let number = |place: &str| place.trim_start_matches("t-").parse().expect("a number");
                self.add(places.split(' ').map(number).collect(), epoch)
            }
            Api::AddOffsetsToTxn => self.add(vec![OFFSETS], split(&seen.text).1),
            Api::Produce => {
                Reply::Each(seen.batches.iter().map(|batch| (batch.partition, self.append(batch))).collect())
            }
            Api::TxnOffsetCommit => Reply::Code(self.commit_offsets(seen)),
            Api::EndTxn => self.end(seen),
            _ => Reply::Good,
        }
    }

    fn write_markers(&mut self) {
        let Some((commit, partitions, _)) = self.ending.take() else { return };
        let mut transactions = BTreeSet::new();
        for number in partitions {
            let partition = self.partitions.entry(number).or_default();
            for (value, is_committed) in partition.log.iter_mut().filter(|(_, is)| is.is_none()) {
                *is_committed = Some(commit);
                transactions.insert(value.split('.').next().unwrap_or_default().to_owned());
            }
            partition.is_open = false;
            if self.is_v2 && partition.epoch < self.epoch {
                (partition.epoch, partition.last) = (self.epoch, None);
            }
        }
        if transactions.len() > 1 {
            self.mixed = Some(transactions.into_iter().collect());
        }
    }

    /// The outcome of the open transaction is decided; its markers follow.
    fn decide(&mut self, commit: bool) {
        let partitions = self.ongoing.take().unwrap_or_default();
        self.last_end = Some(commit);
        self.ending = Some((commit, partitions, self.decisions.delay()));
    }

    fn initialise(&mut self) -> Reply {
        self.write_markers();
        self.epoch += 1;
        if self.ongoing.is_some() {
            // One epoch ends what is open, the next one is the producer's.
            self.decide(false);
            self.write_markers();
            self.epoch += 1;
        }
        self.last_end = None;
        Reply::Epoch(self.epoch)
    }

    fn add(&mut self, numbers: Vec<i32>, epoch: i16) -> Reply {
        if epoch != self.epoch {
            return Reply::Code(K::PRODUCER_FENCED);
        }
        if self.ending.is_some() {
            return Reply::Code(K::CONCURRENT_TRANSACTIONS);
        }
        let ongoing = self.ongoing.get_or_insert_default();
        for number in numbers {
            if !ongoing.contains(&number) {
                ongoing.push(number);
            }
        }
        Reply::Good
    }

    fn append(&mut self, batch: &Batch) -> K {
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
        if let Err(code) = self.verify(batch.partition, batch.epoch) {
            return code;
        }
        let partition = self.partitions.entry(batch.partition).or_default();
        partition.last = Some((batch.sequence, count));
        partition.log.extend(batch.values.iter().map(|value| (value.clone(), None)));
        K::NONE
    }

    /// Offsets replace each other, so the same ones may come twice in a transaction.
    fn commit_offsets(&mut self, seen: &Seen) -> K {
        let (text, epoch) = split(&seen.text);
        let value = text.rsplit_once("(up to ").expect("its form").1.trim_end_matches(')').to_owned();
        let partition = self.partitions.entry(OFFSETS).or_default();
        if epoch < partition.epoch {
            return K::INVALID_PRODUCER_EPOCH;
        }
        if let Err(code) = self.verify(OFFSETS, epoch) {
            return code;
        }
        let log = &mut self.partitions.entry(OFFSETS).or_default().log;
        if log.last().is_none_or(|last| *last != (value.clone(), None)) {
            log.push((value, None));
        }
        K::NONE
    }

    /// Whether the partition takes records of this epoch. With an open transaction it takes more without asking anybody.
    fn verify(&mut self, number: i32, epoch: i16) -> Result<(), K> {
        let is_added = self.ongoing.as_ref().is_some_and(|partitions| partitions.contains(&number));
        let partition = self.partitions.entry(number).or_default();
        if !(partition.is_open && epoch == partition.epoch) {
            if epoch != self.epoch {
                return Err(K::INVALID_PRODUCER_EPOCH);
            }
            if self.is_v2 && self.ending.is_some() {
                return Err(K::CONCURRENT_TRANSACTIONS);
            }
            if self.is_v2 && !is_added {
                self.ongoing.get_or_insert_default().push(number);
            } else if !is_added {
                return Err(K::INVALID_TXN_STATE);
            }
        }
        (partition.epoch, partition.is_open) = (epoch, true);
        Ok(())
    }

    fn end(&mut self, seen: &Seen) -> Reply {
        let (what, epoch) = split(&seen.text);
        let commit = what == "commit";
        let is_retry = self.is_v2 && epoch + 1 == self.epoch && self.last_end.is_some();
        if epoch != self.epoch && !is_retry {
            return Reply::Code(K::PRODUCER_FENCED);
        }
        if self.ending.is_some() {
            return Reply::Code(K::CONCURRENT_TRANSACTIONS);
        }
        let is_complete = self.ongoing.is_none();
        if is_retry || (is_complete && !self.is_v2) {
            let is_same = self.last_end == Some(commit);
            return if is_same { Reply::Epoch(self.epoch) } else { Reply::Code(K::INVALID_TXN_STATE) };
        }
        if is_complete && commit {
            return Reply::Code(K::INVALID_TXN_STATE);
        }
        self.epoch += i16::from(self.is_v2);
        self.decide(commit);
        Reply::Epoch(self.epoch)
    }
}

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// It is lost with its connection.
    Lost,
    /// Its answer is.
    Unanswered,
    /// It arrives later, after its connection broke.
    Late,
    /// Another producer has initialised its transactions before it.
    Fenced,
    /// The transaction has exceeded its timeout before it.
    TimedOut,
}

/// The text of a request before its epoch, and the epoch.
fn split(text: &str) -> (&str, i16) {
    let (what, epoch) = text.split_once(" epoch ").expect("its form");
    (what, epoch.parse().expect("a number"))
}
