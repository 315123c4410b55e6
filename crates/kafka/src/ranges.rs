//! Begin and end offsets of a topic's partitions, and reading a range of records.

use std::ops::{ControlFlow, Range};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};

use super::client::{Logging, REQUEST_TIMEOUT, unreachable};
use super::read_back::LastRecords;
use super::read_back::{SETTLING, SPREADING, is_new, partition_count, until_eof};
use super::topics::LOOK_EVERY;
use model::error::{Error, Result};

/// The offsets of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The first offset that retention has kept.
    pub begin: i64,
    /// The offset behind the last record, committed or not.
    pub end: i64,
}

impl LastRecords {
    /// The bounds of each partition of an existing topic. Blocks.
    ///
    /// # Errors
    /// Transient when Kafka can't be reached.
    pub fn bounds(&self, topic: &str, partitions: usize) -> Result<Vec<Bounds>> {
        let begins = self.offsets(self.written.of(topic), topic, partitions, Offset::Beginning)?;
        let ends = self.offsets(self.written.of(topic), topic, partitions, Offset::End)?;
        Ok(begins.into_iter().zip(ends).map(|(begin, end)| Bounds { begin, end }).collect())
    }

    /// By partition of an existing topic, the offset before which every transaction has ended (last stable offset).
    /// Blocks.
    ///
    /// # Errors
    /// As [`LastRecords::bounds`].
    pub fn stable_ends(&self, topic: &str, partitions: usize) -> Result<Vec<i64>> {
        self.offsets(self.committed.of(topic), topic, partitions, Offset::End)
    }

    /// By partition of an existing topic, the offset of the first record that was written at or after this time,
    /// milliseconds since 1970; `None` when there is none. Blocks.
    ///
    /// # Errors
    /// As [`LastRecords::bounds`].
    pub fn offsets_since(&self, topic: &str, partitions: usize, time_ms: i64) -> Result<Vec<Option<i64>>> {
        let mut list = TopicPartitionList::new();
        let ask = (0..partitions)
            .try_for_each(|partition| list.add_partition_offset(topic, partition as i32, Offset::Offset(time_ms)))
            .and_then(|()| self.written.of(topic).offsets_for_times(list, REQUEST_TIMEOUT));
        let found = ask.map_err(|e| self.failed(topic, &e))?;
        let offset = |offset| if let Offset::Offset(offset) = offset { Some(offset) } else { None };
        Ok(found.elements().iter().map(|element| offset(element.offset())).collect())
    }

    /// The number of a topic's partitions; `None` when there is no such topic. Blocks.
    ///
    /// # Errors
    /// As [`partition_count`].
    pub fn partition_count(&self, topic: &str) -> Result<Option<usize>> {
        partition_count(&self.settings, self.committed.connecting(), &self.logging, topic)
    }

    /// As [`LastRecords::read_range`], but also passes records of transactions that are open or were aborted, and waits
    /// for none. Blocks.
    ///
    /// # Errors
    /// As [`LastRecords::read_range`].
    pub fn read_written(
        &self,
        topic: &str,
        partition: i32,
        range: Range<i64>,
        each: &mut dyn FnMut(&BorrowedMessage<'_>) -> Result<()>,
    ) -> Result<()> {
        self.read_by(self.written.of(topic), (topic, partition), range, &|| false, each)
    }

    fn offsets(&self, by: &BaseConsumer<Logging>, topic: &str, partitions: usize, which: Offset) -> Result<Vec<i64>> {
        let deadline = Instant::now() + SPREADING;
        loop {
            match ask_offsets(by, topic, partitions, which) {
                Err(e) if is_new(&e) && Instant::now() < deadline => std::thread::sleep(LOOK_EVERY),
                answer => return answer.map_err(|e| self.failed(topic, &e)),
            }
        }
    }

    /// Passes the committed records of `range` in a partition to `each`, in order, until `each` fails or `stops`
    /// returns true. Waits for open transactions of any producer within the range, and checks `stops` meanwhile.
    /// Blocks.
    ///
    /// # Errors
    /// Transient when Kafka can't be reached; any error of `each`.
    pub fn read_range(
        &self,
        topic: &str,
        partition: i32,
        range: Range<i64>,
        stops: &dyn Fn() -> bool,
        each: &mut dyn FnMut(&BorrowedMessage<'_>) -> Result<()>,
    ) -> Result<()> {
        let committed = self.committed.of(topic);
        let begun = Instant::now();
        let mut told = false;
        let low = loop {
            let (low, high) = watermarks(committed, topic, partition).map_err(|e| self.failed(topic, &e))?;
            if high >= range.end {
                break low;
            }
            if stops() {
                return Ok(());
            }
            if begun.elapsed() > SETTLING && !std::mem::replace(&mut told, true) {
                tracing::warn!(
                    topic,
                    partition,
                    "a transaction stays open in this partition, and what is behind it cannot be read; \
                     kafka-transactions.sh finds one that hangs"
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let range = range.start.max(low)..range.end;
        if range.is_empty() { Ok(()) } else { self.read_by(committed, (topic, partition), range, stops, each) }
    }

    fn read_by(
        &self,
        reader: &BaseConsumer<Logging>,
        (topic, partition): (&str, i32),
        range: Range<i64>,
        stops: &dyn Fn() -> bool,
        each: &mut dyn FnMut(&BorrowedMessage<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(range.start))
            .and_then(|()| reader.assign(&list))
            .map_err(|e| self.failed(topic, &e))?;
        let outcome = until_eof(&self.settings, reader, &self.logging, topic, 1, &mut |message| {
            let offset = message.offset();
            if offset < range.end && message.partition() == partition {
                each(message)?;
            }
            let is_done = offset + 1 >= range.end || stops();
            Ok(if is_done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        // Else the client would fetch what comes next, a hundred times a second.
        drop(reader.unassign());
        outcome
    }

    /// The result of `take` for the last record before `end` for which `take` returns one; reads backwards in growing
    /// steps, since the last offsets are transaction markers. Blocks.
    ///
    /// # Errors
    /// As [`LastRecords::read_range`].
    pub fn last_before<T>(
        &self,
        topic: &str,
        partition: i32,
        end: i64,
        stops: &dyn Fn() -> bool,
        take: &dyn Fn(&BorrowedMessage<'_>) -> Option<T>,
    ) -> Result<Option<T>> {
        let mut back = 8;
        loop {
            let (start, mut last) = ((end - back).max(0), None);
            self.read_range(topic, partition, start..end, stops, &mut |message| {
                last = take(message).or(last.take());
                Ok(())
            })?;
            if last.is_some() || start == 0 || stops() {
                return Ok(last);
            }
            back *= 8;
        }
    }

    fn failed(&self, topic: &str, error: &KafkaError) -> Error {
        unreachable(&self.settings, &format!("cannot read topic {topic}"), error, &self.logging)
    }
}

fn ask_offsets(
    by: &BaseConsumer<Logging>,
    topic: &str,
    partitions: usize,
    which: Offset,
) -> Result<Vec<i64>, KafkaError> {
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition as i32, which)?;
    }
    // Kafka's protocol gives the first and the last offset as special times (ListOffsets).
    let found = by.offsets_for_times(list, REQUEST_TIMEOUT)?;
    let elements = found.elements();
    let offsets = elements.iter().map(|element| match (element.error(), element.offset()) {
        (Ok(()), Offset::Offset(offset)) => Ok(offset),
        (Ok(()), _) => Err(KafkaError::OffsetFetch(RDKafkaErrorCode::UnknownPartition)),
        (Err(e), _) => Err(e),
    });
    offsets.collect()
}

fn watermarks(consumer: &BaseConsumer<Logging>, topic: &str, partition: i32) -> Result<(i64, i64), KafkaError> {
    consumer.fetch_watermarks(topic, partition, REQUEST_TIMEOUT)
}
