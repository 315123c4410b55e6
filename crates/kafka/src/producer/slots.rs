//! The partitions that a producer writes to, and what each has to send.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use super::pause::Pause;
use crate::wire::compression::Compression;
use crate::wire::record_batch::{self, Record, Records, Sealed, next_sequence};
use crate::wire::requests::Identity;

/// Bytes of records, not compressed, at which a batch is closed: below the 1,048,588 bytes that a topic and a broker with
/// their defaults accept.
const BATCH: usize = 900_000;

/// Whether a partition is part of the transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Membership {
    #[default]
    Out,
    /// The coordinator was asked to add it.
    Asked,
    In,
}

/// A batch that was sent. Its bytes stay the same until it is acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) bytes: Arc<Vec<u8>>,
    pub(crate) count: i32,
    sequence: i32,
    /// A request with it has no answer yet.
    pub(crate) on_the_way: bool,
}

/// A partition.
#[derive(Debug)]
pub(crate) struct Slot {
    /// The number of its topic.
    pub(crate) topic: usize,
    pub(crate) partition: i32,
    pub(crate) leader: Option<i32>,
    pub(crate) membership: Membership,
    pub(crate) sent: Option<Sent>,
    pub(crate) pause: Pause,
    records: Records,
    waiting: VecDeque<Sealed>,
    /// Of the next record.
    sequence: i32,
    is_active: bool,
}

impl Slot {
    /// Whether nothing of it is left to be acknowledged.
    pub(crate) fn is_done(&self) -> bool {
        self.records.is_empty() && self.waiting.is_empty() && self.sent.is_none()
    }

    /// Whether it has a batch that may be sent now.
    pub(crate) fn has_batch(&self) -> bool {
        match &self.sent {
            Some(sent) => !sent.on_the_way,
            None => !self.waiting.is_empty(),
        }
    }

    /// Takes the next batch to send, or the one that has to be sent again.
    pub(crate) fn send(&mut self, producer: Identity) -> Option<Arc<Vec<u8>>> {
        if self.sent.is_none() {
            let mut sealed = self.waiting.pop_front()?;
            sealed.stamp(producer.id, producer.epoch, self.sequence);
            let (count, sequence) = (sealed.count(), self.sequence);
            self.sequence = next_sequence(sequence, count);
            let bytes = Arc::new(sealed.into_bytes());
            self.sent = Some(Sent { bytes, count, sequence, on_the_way: false });
        }
        let sent = self.sent.as_mut()?;
        sent.on_the_way = true;
        Some(Arc::clone(&sent.bytes))
    }

    /// The batch on its way is not written, or nobody knows: it will be sent again.
    pub(crate) fn not_written(&mut self) {
        if let Some(sent) = &mut self.sent {
            sent.on_the_way = false;
        }
    }

    /// Puts the batch, which is too large, back as two; returns `false` when it is a single record.
    ///
    /// # Errors
    /// When the batch can't be read.
    pub(crate) fn halve(&mut self, compression: Compression) -> io::Result<bool> {
        let Some(sent) = self.sent.take_if(|sent| sent.count > 1) else { return Ok(false) };
        self.sequence = sent.sequence;
        for mut half in record_batch::halves(&sent.bytes)?.into_iter().rev() {
            self.waiting.push_front(half.seal(compression, Vec::new())?);
        }
        Ok(true)
    }
}

/// The topics and their partitions.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    pub(crate) all: Vec<Slot>,
    /// Those that this transaction writes to.
    pub(crate) active: Vec<usize>,
    names: Vec<String>,
    numbers: HashMap<String, usize>,
    /// By topic and partition.
    by_place: Vec<Vec<Option<usize>>>,
    /// The topic of the last record.
    last: usize,
    /// Bytes of records that are not sealed.
    open: usize,
    /// Bytes of sealed batches that are not acknowledged.
    sealed: usize,
}

impl Slots {
    /// The name of a topic by its number.
    pub(crate) fn name(&self, topic: usize) -> &str {
        &self.names[topic]
    }

    /// All topics.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// The number of the topic, which is new when it is not known yet.
    pub(crate) fn topic(&mut self, name: &str) -> usize {
        if self.names.get(self.last).is_some_and(|last| last == name) {
            return self.last;
        }
        self.last = match self.numbers.get(name) {
            Some(number) => *number,
            None => {
                let number = self.names.len();
                self.numbers.insert(name.to_owned(), number);
                self.names.push(name.to_owned());
                self.by_place.push(Vec::new());
                number
            }
        };
        self.last
    }

    /// The slot of a partition that was written to before.
    pub(crate) fn find(&self, topic: &str, partition: i32) -> Option<usize> {
        let topic = *self.numbers.get(topic)?;
        *self.by_place[topic].get(usize::try_from(partition).ok()?)?
    }

    fn slot(&mut self, topic: &str, partition: i32) -> usize {
        let topic = self.topic(topic);
        // A partition is never negative.
        let place = usize::try_from(partition).unwrap_or(0);
        let places = &mut self.by_place[topic];
        if places.len() <= place {
            places.resize(place + 1, None);
        }
        *places[place].get_or_insert_with(|| {
            self.all.push(Slot {
                topic,
                partition,
                leader: None,
                membership: Membership::Out,
                sent: None,
                pause: Pause::default(),
                records: Records::default(),
                waiting: VecDeque::new(),
                sequence: 0,
                is_active: false,
            });
            self.all.len() - 1
        })
    }

    /// Adds a record.
    ///
    /// # Errors
    /// When a batch can't be compressed.
    pub(crate) fn push(
        &mut self,
        topic: &str,
        partition: i32,
        record: &Record<'_>,
        compression: Compression,
    ) -> io::Result<()> {
        let number = self.slot(topic, partition);
        let slot = &mut self.all[number];
        if !slot.is_active {
            slot.is_active = true;
            self.active.push(number);
        }
        let before = slot.records.bytes();
        slot.records.push(record);
        self.open += slot.records.bytes() - before;
        if slot.records.bytes() >= BATCH { self.seal_one(number, compression) } else { Ok(()) }
    }

    fn seal_one(&mut self, number: usize, compression: Compression) -> io::Result<()> {
        let slot = &mut self.all[number];
        self.open -= slot.records.bytes();
        let sealed = slot.records.seal(compression, Vec::new())?;
        self.sealed += sealed.bytes().len();
        slot.waiting.push_back(sealed);
        Ok(())
    }

    /// Closes the batches of all records.
    ///
    /// # Errors
    /// When one can't be compressed.
    pub(crate) fn seal(&mut self, compression: Compression) -> io::Result<()> {
        for index in 0..self.active.len() {
            let number = self.active[index];
            if !self.all[number].records.is_empty() {
                self.seal_one(number, compression)?;
            }
        }
        Ok(())
    }

    /// Bytes of records that no batch has yet.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// Bytes of everything that is not acknowledged.
    pub(crate) fn buffered(&self) -> usize {
        self.open + self.sealed
    }

    /// The batch of the slot is written.
    pub(crate) fn acknowledge(&mut self, number: usize) {
        let slot = &mut self.all[number];
        slot.pause = Pause::default();
        if let Some(sent) = slot.sent.take() {
            self.sealed = self.sealed.saturating_sub(sent.bytes.len());
        }
    }

    /// Halves the slot's batch: see [`Slot::halve`].
    ///
    /// # Errors
    /// As [`Slot::halve`].
    pub(crate) fn halve(&mut self, number: usize, compression: Compression) -> io::Result<bool> {
        let slot = &mut self.all[number];
        let waiting = |slot: &Slot| slot.waiting.iter().map(|batch| batch.bytes().len()).sum::<usize>();
        let before = slot.sent.as_ref().map_or(0, |sent| sent.bytes.len()) + waiting(slot);
        let is_halved = slot.halve(compression)?;
        let after = slot.sent.as_ref().map_or(0, |sent| sent.bytes.len()) + waiting(slot);
        self.sealed = (self.sealed + after).saturating_sub(before);
        Ok(is_halved)
    }

    /// The transaction has ended: forgets what it has not sent. With `new_epoch` the sequences begin with 0.
    pub(crate) fn end(&mut self, new_epoch: bool) {
        for number in self.active.drain(..) {
            let slot = &mut self.all[number];
            slot.membership = Membership::Out;
            slot.sent = None;
            slot.pause = Pause::default();
            slot.records.clear();
            slot.waiting.clear();
            slot.is_active = false;
        }
        (self.open, self.sealed) = (0, 0);
        if new_epoch {
            self.all.iter_mut().for_each(|slot| slot.sequence = 0);
        }
    }

    /// Puts the active slots in the order of topics and partitions, which requests need.
    pub(crate) fn put_in_order(&mut self) {
        let all = &self.all;
        let place = |number: &usize| (all[*number].topic, all[*number].partition);
        if !self.active.is_sorted_by_key(place) {
            self.active.sort_unstable_by_key(place);
        }
    }
}
