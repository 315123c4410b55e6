//! Reads the topics' ends while somebody watches: counts every change, and decodes the few that are shown. What appears
//! meanwhile, a topic or more partitions, is read from its first record. After an error it continues where it was.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use consumer::tables::Taken;
use kafka::{Followed, Follower, LastRecords};
use model::change::{Op, SOURCE_HEADER, Source};
use model::error::Result;
use model::time::Micros;
use rand::Rng as _;
use rdkafka::Message as _;
use rdkafka::message::BorrowedMessage;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::earlier::Earlier;
use super::hub::Hub;
use super::shown::{Before, Shown};
use super::tally::{SHOWN, Tally};
use crate::pipeline::Pipeline;
use crate::record::{Change, Raw, Records};

/// By topic, the offset of each partition where the reader begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Starts(BTreeMap<String, Vec<i64>>);

const TICK: Duration = Duration::from_millis(250);
const POLL: Duration = Duration::from_millis(25);
/// The pause before a schema is looked up again that could not be.
const REGISTRY_PAUSE: Duration = Duration::from_secs(5);
/// The pause before the reader begins again after an error.
const AGAIN: Duration = Duration::from_secs(2);

/// A change that was chosen to be shown.
struct Chosen {
    table: usize,
    raw: Raw,
    before: Option<Option<Box<[u8]>>>,
}

/// A table whose topic is read.
struct Table {
    taken: Taken,
    records: Records,
    /// By partition that is read, the offset of its next record.
    next: Vec<i64>,
}

/// The reader.
struct Live {
    pipeline: Pipeline,
    follower: Option<Follower>,
    tables: Vec<Table>,
    /// By topic, the place in `tables`.
    places: HashMap<String, usize>,
    /// What it reads; `None` before Kafka has answered.
    known: Option<Starts>,
    tally: Tally,
    earlier: Earlier,
    chosen: Vec<Chosen>,
    /// Until when schemas are not looked up.
    rests: Option<Instant>,
}

/// Reads until it is stopped, also after errors, which the state names too. Blocks; call it within a runtime.
pub(super) fn read(
    pipeline: Pipeline,
    hub: &Hub,
    mut starts: watch::Receiver<Option<Starts>>,
    stop: &CancellationToken,
) {
    let mut live = Live::new(pipeline);
    while let Err(error) = live.read(hub, &mut starts, stop) {
        tracing::warn!(code = error.code().name(), what_to_do = error.remedy(), "{error}");
        live.follower = None;
        live.known = None;
        starts.mark_changed();
        Handle::current().block_on(stop.run_until_cancelled(tokio::time::sleep(AGAIN)));
    }
}

impl Starts {
    /// Adds what a look has found: topics with, by partition, the end of their records.
    pub(super) fn add<'a>(known: Option<Self>, found: impl Iterator<Item = (&'a str, Vec<i64>)>) -> Self {
        // The first look finds what was there before somebody watched.
        let is_first = known.is_none();
        let mut starts = known.unwrap_or_default();
        for (topic, ends) in found {
            let known = starts.0.entry(topic.to_owned()).or_default();
            let new = ends.into_iter().skip(known.len()).map(|end| if is_first { end } else { 0 });
            known.extend(new);
        }
        starts
    }
}

impl Table {
    /// Topic, partition and next offset of each partition.
    fn places(&self) -> impl Iterator<Item = (String, i32, i64)> {
        let topic = &self.taken.kafka.topic;
        self.next.iter().enumerate().map(move |(partition, offset)| (topic.clone(), partition as i32, *offset))
    }
}

impl Live {
    fn new(pipeline: Pipeline) -> Self {
        Self {
            follower: None,
            tables: Vec::new(),
            places: HashMap::new(),
            known: None,
            tally: Tally::default(),
            earlier: Earlier::default(),
            chosen: Vec::with_capacity(SHOWN),
            rests: None,
            pipeline,
        }
    }

    /// Reads until it is stopped.
    ///
    /// # Errors
    /// Usage when a setting can't be used; transient when Kafka does not answer; definite when a right is missing.
    fn read(
        &mut self,
        hub: &Hub,
        starts: &mut watch::Receiver<Option<Starts>>,
        stop: &CancellationToken,
    ) -> Result<()> {
        let (mut tick, mut second) = (Instant::now() + TICK, Instant::now() + Duration::from_secs(1));
        while !stop.is_cancelled() {
            // A look is told once a second, a record comes thousands of times.
            if starts.has_changed().unwrap_or(false) {
                let found = starts.borrow_and_update().clone();
                if found != self.known
                    && let Some(found) = found
                {
                    self.assign(found)?;
                }
            }
            self.poll()?;
            let now = Instant::now();
            if now >= tick {
                tick = now + TICK;
                self.tick(hub);
            }
            if now >= second {
                second = now + Duration::from_secs(1);
                let (written, latency) = self.tally.second();
                // Before it reads, it does not know that nothing is written.
                if self.follower.is_some() {
                    hub.second(Micros::now().0 / 1_000_000, written, latency);
                }
            }
        }
        Ok(())
    }

    /// Takes the next record, if there is one soon.
    fn poll(&mut self) -> Result<()> {
        let Some(follower) = self.follower.take() else {
            std::thread::sleep(POLL);
            return Ok(());
        };
        // That Kafka is away is part of the state.
        if let Followed::Record(message) = follower.next(POLL)? {
            self.take(&message);
        }
        self.follower = Some(follower);
        Ok(())
    }

    /// Reads the partitions that it does not read yet.
    fn assign(&mut self, found: Starts) -> Result<()> {
        let records = LastRecords::new(&self.pipeline.kafka)?;
        let known = self.pipeline.known_tables(&records);
        records.close();
        let mut new = Vec::new();
        for taken in known? {
            let topic = taken.kafka.topic.clone();
            let Some(starts) = found.0.get(&topic) else { continue };
            let place = match self.places.get(&topic) {
                Some(place) => *place,
                None => {
                    self.tables.push(Table { records: Records::new(&taken)?, next: Vec::new(), taken });
                    self.places.insert(topic, self.tables.len() - 1);
                    self.tables.len() - 1
                }
            };
            let table = &mut self.tables[place];
            let old = table.next.len();
            table.next.extend(starts.iter().skip(old));
            new.extend(table.places().skip(old));
        }
        match &self.follower {
            Some(follower) if !new.is_empty() => follower.add(&new)?,
            None if !self.tables.is_empty() => {
                let all: Vec<_> = self.tables.iter().flat_map(Table::places).collect();
                self.follower = Some(Follower::new(&self.pipeline.kafka, &all)?);
            }
            _ => {}
        }
        self.known = Some(found);
        Ok(())
    }

    /// Counts a record, and keeps it if it is shown.
    fn take(&mut self, message: &BorrowedMessage<'_>) {
        let Some(table) = self.places.get(message.topic()).copied() else { return };
        if let Some(next) = self.tables[table].next.get_mut(message.partition() as usize) {
            *next = message.offset() + 1;
        }
        let source = kafka::header(message, SOURCE_HEADER).and_then(|header| Source::parse(header).ok());
        let op = source.as_ref().map(|source| source.op);
        let since = |source: Source<'_>| u32::try_from((Micros::now().0 - source.ts_us).max(0)).ok();
        let before = self.earlier.replace(table, message.key().unwrap_or_default(), message.payload());
        let place = self.tally.add(op, source.and_then(since), |below| rand::rng().random_range(0..below));
        let Some(place) = place else { return };
        let chosen = Chosen { table, raw: Raw::of(message), before };
        match self.chosen.get_mut(place) {
            Some(replaced) => *replaced = chosen,
            None => self.chosen.push(chosen),
        }
    }

    fn tick(&mut self, hub: &Hub) {
        let counted = self.tally.tick();
        let mut chosen = std::mem::replace(&mut self.chosen, Vec::with_capacity(SHOWN));
        if counted.count == 0 {
            return;
        }
        chosen.sort_by_key(|chosen| chosen.raw.written);
        let shown = chosen.into_iter().map(|chosen| self.show(chosen)).collect();
        hub.flow(counted, shown);
    }

    fn show(&mut self, Chosen { table, raw, before }: Chosen) -> Shown {
        let Table { taken, records, .. } = &mut self.tables[table];
        let topic = &taken.kafka.topic;
        if self.rests.is_some_and(|until| until > Instant::now()) {
            let reason = "the schema registry does not answer".to_owned();
            return Shown::new(topic, undecoded(taken, &raw, reason), Before::Unknown);
        }
        let before = match before {
            None => Before::Unknown,
            Some(None) => Before::Nothing,
            // Without the header, which is that of this change.
            Some(Some(value)) => match records.read(&Raw { value: Some(value.into()), header: None, ..raw.clone() }) {
                Ok((change, _)) => change.row.map_or(Before::Unknown, Before::Row),
                Err(_) => Before::Unknown,
            },
        };
        match records.read(&raw) {
            Ok((change, _)) => Shown::new(topic, change, before).short(),
            Err(error) => {
                self.rests = Some(Instant::now() + REGISTRY_PAUSE);
                Shown::new(topic, undecoded(taken, &raw, error.to_string()), Before::Unknown)
            }
        }
    }
}

/// A change whose value could not be decoded now.
fn undecoded(taken: &Taken, raw: &Raw, reason: String) -> Change {
    let source = raw.header.as_deref().and_then(|header| Source::parse(header).ok());
    Change {
        table: taken.name.to_string(),
        key: String::from_utf8_lossy(raw.key.as_deref().unwrap_or_default()).into_owned(),
        op: source.as_ref().map(|source| source.op).map(Op::letter),
        committed_at: source.as_ref().map(|source| Micros(source.ts_us).to_string()),
        position: source.as_ref().map(|source| source.pos.clone().into_owned()),
        row_number: source.as_ref().map(|source| source.row),
        epoch: source.as_ref().map(|source| source.epoch),
        partition: raw.partition,
        offset: raw.offset,
        written_at: raw.written.map(|at| at.to_string()),
        row: None,
        unreadable: Some(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_appears_is_read_from_its_first_record() {
        let first = Starts::add(None, [("a", vec![7, 8])].into_iter());
        assert_eq!(first.0["a"], [7, 8]);
        let same = Starts::add(Some(first.clone()), [("a", vec![9, 9])].into_iter());
        assert_eq!(same, first, "what was known stays");
        let more = Starts::add(Some(same), [("a", vec![9, 9, 3]), ("b", vec![2])].into_iter());
        assert_eq!((&more.0["a"][..], &more.0["b"][..]), (&[7, 8, 0][..], &[0][..]));
        let less = Starts::add(Some(more.clone()), std::iter::empty());
        assert_eq!(less, more, "a topic that is away stays known");
    }
}
