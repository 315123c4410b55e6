//! What `status` knows: plain data, whose JSON form is that of `--json`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use consumer::slot_name::Name;
use kafka::slots::FolderId;
use model::position::{Progress, SnapshotProgress};
use model::time::Micros;
use serde::Serialize;

use super::latency::{self, Latency};
use crate::fault::Fault;

/// The time that a part has to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// The state of the pipeline: the form of `--json`; its keys are stable.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    /// When it was asked for, RFC 3339.
    pub at: String,
    /// The consumer group.
    pub group: String,
    /// The server; `null` when it does not answer.
    pub source: Option<Source>,
    /// What is in Kafka; `null` before the first start, and when Kafka does not answer.
    pub reached: Option<Reached>,
    /// The producer.
    pub producer: Producer,
    /// Each table with its partitions.
    pub tables: Vec<Table>,
    /// Each consumer of the group, and each slot of the logs folder that a consumer holds.
    pub consumers: Vec<Consumer>,
    /// How long changes took into the logs, since the look before (`--watch`), else since the consumers' start; `null` when
    /// there were none, or no consumer's metrics are known.
    pub latency: Option<Latency>,
    /// Slots of the logs folder that nobody holds and the group does not name.
    pub free_slots: Vec<String>,
    /// The group's session timeout, after which a stopped consumer's partitions go to others, in seconds.
    pub session_timeout: f64,
    /// The parts that gave no answer.
    pub faults: Vec<Fault>,
    #[serde(skip)]
    pub(super) taken: Option<Instant>,
}

impl Status {
    /// For tests of what uses it.
    #[cfg(test)]
    pub(crate) fn for_test(
        reached: Option<Reached>,
        producer: Producer,
        tables: Vec<Table>,
        consumers: impl IntoIterator<Item = Consumer>,
    ) -> Self {
        Self {
            at: "2026-11-30T02:10:12.123456Z".to_owned(),
            group: "g".to_owned(),
            source: None,
            reached,
            producer,
            tables,
            consumers: consumers.into_iter().collect(),
            latency: None,
            free_slots: Vec::new(),
            session_timeout: 45.0,
            faults: Vec::new(),
            taken: None,
        }
    }

    /// Whether the producer has no answer at `/metrics` where a consumer has.
    pub(crate) fn has_silent_producer(&self) -> bool {
        self.producer.holder.is_some() && self.producer.metrics.is_none() && self.has_answers()
    }

    /// Whether a consumer answers at `/metrics`.
    pub(super) fn has_answers(&self) -> bool {
        self.shown().next().is_some()
    }

    /// What the consumers show, with their addresses.
    fn shown(&self) -> impl Iterator<Item = (&str, &str)> {
        let answers = self.consumers.iter().filter_map(|consumer| consumer.metrics.as_ref());
        answers.map(|answer| (answer.address.as_str(), answer.text.as_str()))
    }

    /// Takes the latency since the start of the consumers.
    pub(super) fn take_latency(&mut self) {
        self.latency = latency::between(self.shown(), None);
    }

    /// Adds what happened since an earlier look: records that were written and read in a second, and their latency.
    pub fn compare(&mut self, before: &Self) {
        self.latency = latency::between(self.shown(), Some(&before.shown().collect::<Vec<_>>()));
        let Some(seconds) = self.taken.zip(before.taken).map(|(now, then)| (now - then).as_secs_f64()) else { return };
        if seconds <= 0.0 {
            return;
        }
        for table in &mut self.tables {
            let Some(earlier) = before.tables.iter().find(|earlier| earlier.topic == table.topic) else { continue };
            for (now, then) in table.partitions.iter_mut().zip(&earlier.partitions) {
                let rate = |now: i64, then: i64| (now - then).max(0) as f64 / seconds;
                now.written_per_second = Some(rate(now.end, then.end));
                now.read_per_second = now.committed.zip(then.committed).map(|(now, then)| rate(now, then));
            }
            if let (Some(now), Some(then)) = (&mut table.snapshot, &earlier.snapshot) {
                now.compare(then, seconds);
            }
        }
    }
}

/// The server, and how far Kafka is behind it.
#[derive(Clone, Debug, Serialize)]
pub struct Source {
    /// `host:port`
    pub address: String,
    /// Its version.
    pub version: String,
    /// `@@server_uuid`
    pub server_uuid: String,
    /// The end of its binlog, `file:offset`.
    pub end: String,
    /// Whether the position in Kafka is of this server; `null` without a position.
    pub is_same_server: Option<bool>,
    /// Bytes of binlog behind the position. Events of tables that are not taken count too, unless the producer's metrics
    /// are known; `null` when they can't be compared.
    pub behind_bytes: Option<u64>,
    /// Seconds since Kafka had everything, at most; `null` when it is unknown.
    pub behind_seconds: Option<f64>,
    /// Seconds until the server may delete the binlog that is needed next; `null` when it never does.
    pub purge_seconds: Option<f64>,
}

/// The position that is in Kafka.
#[derive(Clone, Debug, Serialize)]
pub struct Reached {
    /// The replay, from 1.
    pub epoch: u64,
    /// `file:offset`
    pub position: String,
    /// The transactions up to there; `null` without GTIDs.
    pub gtid_set: Option<String>,
    /// The server of the position.
    pub server_uuid: String,
    /// When the last transaction before it was committed, RFC 3339.
    pub committed_at: String,
    /// Prepared XA transactions with rows, whose outcome is not known yet.
    pub prepared: usize,
}

/// A running snapshot of a table.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    /// `rows`, or `deletes`: all rows are in the topic, and keys that are gone are being deleted there.
    pub step: &'static str,
    /// Rows in the topic so far.
    pub rows: u64,
    /// Rows of the table, as the server estimates them; `null` when it is not known.
    pub of: Option<u64>,
    /// Rows in a second; `null` before it is known.
    pub rows_per_second: Option<f64>,
    /// Seconds that the rest takes; `null` before it is known.
    pub seconds_left: Option<f64>,
}

impl Reached {
    pub(super) fn of(progress: &Progress) -> Self {
        let position = &progress.position;
        Self {
            epoch: progress.epoch,
            position: format!("{}:{}", position.file, position.offset),
            gtid_set: position.gtid_set.as_ref().map(ToString::to_string),
            server_uuid: position.server_uuid.clone(),
            committed_at: position.committed_at.to_string(),
            prepared: progress.prepared_rows.len(),
        }
    }
}

impl Snapshot {
    pub(super) fn of(progress: &SnapshotProgress) -> Self {
        let step = if progress.sweep.is_some() { "deletes" } else { "rows" };
        Self { step, rows: progress.emitted(), of: None, rows_per_second: None, seconds_left: None }
    }

    /// Takes the rate since it began at this time.
    pub(super) fn began(&mut self, begun: Micros) {
        self.rate(self.rows as f64 / ((Micros::now().0 - begun.0) as f64 / 1e6).max(0.001));
    }

    /// Takes the rate since an earlier look.
    pub(super) fn compare(&mut self, before: &Self, seconds: f64) {
        if self.rows > before.rows {
            self.rate((self.rows - before.rows) as f64 / seconds);
        }
    }

    pub(super) fn rate(&mut self, rate: f64) {
        if rate > 0.0 {
            self.rows_per_second = Some(rate);
            self.seconds_left = self.of.map(|of| of.saturating_sub(self.rows) as f64 / rate);
        }
    }
}

/// A table and its topic.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Table {
    /// `database.table`
    pub name: String,
    /// Its topic.
    pub topic: String,
    /// Whether the topic exists.
    pub exists: bool,
    /// The running snapshot.
    pub snapshot: Option<Snapshot>,
    /// Its partitions, in order.
    pub partitions: Vec<Partition>,
    /// Dead letters of the topic, all that are kept; more than 20,000 offsets count with the markers between them.
    pub dead_letters: u64,
    /// Keys of which PostgreSQL has an older state, as the last one is parked; `null` when PostgreSQL is off or away.
    pub parked_keys: Option<u64>,
    /// Offsets that the group has committed and PostgreSQL does not have yet; `null` as above.
    pub postgres_behind: Option<i64>,
}

/// A partition of a topic.
#[derive(Clone, Debug, Serialize)]
pub struct Partition {
    /// Its number.
    pub number: usize,
    /// The first offset that is kept.
    pub begin: i64,
    /// The offset behind the last committed record.
    pub end: i64,
    /// Offsets behind the end, of transactions that are open.
    pub open: i64,
    /// The group's offset: that of the next record it reads; `null` when it has none.
    pub committed: Option<i64>,
    /// Offsets that the group has not read; the marker that ends a transaction has one too.
    pub lag: i64,
    /// The member that holds it, by its slot's name; `null` when nobody does.
    pub holder: Option<String>,
    /// Whether its holder has stopped.
    pub waits: bool,
    /// Offsets that were written in the last minute.
    pub written_last_minute: i64,
    /// Offsets that were written in a second, since the look before (`--watch`).
    pub written_per_second: Option<f64>,
    /// Offsets that the group has read in a second, since the look before (`--watch`).
    pub read_per_second: Option<f64>,
    /// The offset up to which PostgreSQL has the records; `None` when PostgreSQL is off or away.
    #[serde(skip)]
    pub(crate) postgres_next: Option<i64>,
}

/// What a member of the group does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It holds its slot's lock and is in the group.
    Runs,
    /// Its slot's lock is free, and the group still names it.
    Stopped,
    /// It holds its slot's lock and is not in the group yet.
    Joins,
    /// It is in the group, and its logs folder is not here, so nothing shows whether it runs.
    Elsewhere,
}

/// A member of the group, or a consumer on its way into it.
#[derive(Clone, Debug, Serialize)]
pub struct Consumer {
    /// `consumer_3-k7x2m9qa`: slot 3 of the logs folder k7x2m9qa.
    pub name: String,
    /// The address from which it talks to Kafka; empty when it is not in the group.
    pub host: String,
    /// What it does.
    pub state: State,
    /// Its partitions: a number is one of the main topic.
    pub partitions: Vec<kafka::Partition>,
    /// What it answers at `/metrics`.
    pub metrics: Option<Answer>,
    /// Whether it gives no answer there: it runs and another consumer answers, or it is elsewhere and has answered
    /// before (`--watch`).
    pub is_silent: bool,
}

#[cfg(test)]
impl Partition {
    /// One that is committed up to its end, for tests of what uses it.
    pub(crate) fn for_test(number: usize, end: i64, holder: Option<&str>) -> Self {
        Self {
            number,
            begin: 0,
            end,
            open: 0,
            committed: Some(end),
            lag: 0,
            holder: holder.map(str::to_owned),
            waits: false,
            written_last_minute: 0,
            written_per_second: None,
            read_per_second: None,
            postgres_next: None,
        }
    }
}

#[cfg(test)]
impl Consumer {
    /// One without partitions, for tests of what uses it.
    pub(crate) fn for_test(name: &str, state: State) -> Self {
        Self {
            name: name.to_owned(),
            host: String::new(),
            state,
            partitions: Vec::new(),
            metrics: None,
            is_silent: false,
        }
    }
}

impl Table {
    /// Offsets that the group has not read.
    pub(super) fn lag(&self) -> i64 {
        self.partitions.iter().map(|partition| partition.lag).sum()
    }

    /// Adds what PostgreSQL has.
    pub(super) fn add_parked(&mut self, parked: &Parked) {
        self.parked_keys = Some(parked.keys.get(&self.topic).copied().unwrap_or(0));
        let mut behind = 0;
        for partition in &mut self.partitions {
            let next = parked.next.get(&(self.topic.clone(), partition.number as i32)).copied().unwrap_or(0);
            partition.postgres_next = Some(next);
            behind += partition.committed.map_or(0, |committed| (committed - next.max(partition.begin)).max(0));
        }
        self.postgres_behind = Some(behind);
    }

    /// Names the holder of each partition; `main` is the name of the main topic.
    pub(super) fn name_holders(&mut self, consumers: &[Consumer], main: &str) {
        for partition in &mut self.partitions {
            let own = kafka::Partition::of(&self.topic, partition.number as i32, main);
            let holder = consumers.iter().find(|consumer| consumer.partitions.contains(&own));
            partition.holder = holder.map(|consumer| consumer.name.clone());
            partition.waits = holder.is_some_and(|consumer| consumer.state == State::Stopped);
        }
    }
}

/// What PostgreSQL has of each topic.
#[derive(Clone, Debug, Default)]
pub(super) struct Parked {
    /// By topic and partition, the offset up to which the records are in PostgreSQL.
    pub(super) next: BTreeMap<(String, i32), i64>,
    /// By topic, keys with an older state, as the last one is parked.
    pub(super) keys: BTreeMap<String, u64>,
}

/// The producer.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Producer {
    /// Who holds the lock of `producer.time_track`; `null` when nobody on this machine does.
    pub holder: Option<String>,
    /// Whether this machine has the folder.
    pub has_folder: bool,
    /// What it answers at `/metrics`; `null` when its address is unknown (`stream.metrics`) or it does not answer.
    pub metrics: Option<Answer>,
}

/// What a program answers at `/metrics`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Answer {
    /// Its address.
    pub address: String,
    /// Whether it is ready.
    pub is_ready: bool,
    /// Why it is not ready, or a warning; `null` when there is nothing to say.
    pub reason: Option<String>,
    /// Transactions that it aborted since its start.
    pub aborts: u64,
    #[serde(skip)]
    pub(crate) text: String,
}

impl Answer {
    /// The value of a metric without labels.
    pub(super) fn value(&self, name: &str) -> Option<f64> {
        value(&self.text, name)
    }

    pub(super) fn is_producer(&self) -> bool {
        self.text.contains("\nproducer_records_committed_total ")
    }

    /// The slot and the folder of a consumer.
    pub(super) fn slot(&self) -> Option<String> {
        let (_, labels) = self.text.split_once("\nconsumer_slot{")?;
        let label = |name: &str| labels.split('}').next()?.split_once(&format!("{name}=\""))?.1.split('"').next();
        Some(format!("{}-{}", label("slot")?, label("folder")?))
    }
}

/// The value of a metric without labels in a program's answer.
pub(super) fn value(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// The running snapshot of a table.
pub(super) fn snapshot_of<'a>(progress: &'a Progress, source: &str, table: &str) -> Option<&'a SnapshotProgress> {
    progress.table(source, table)?.snapshot.as_ref()
}

/// The folder's identity in a member's name.
pub(super) fn folder(name: &str) -> Option<FolderId> {
    Name::parse(name)?.folder
}
