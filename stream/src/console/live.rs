//! Reads the topics' ends while somebody watches: counts every change, and decodes the few that are shown. What appears
//! meanwhile, a topic or more partitions, is read from its first record.

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
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::earlier::Earlier;
use super::hub::Hub;
use super::shown::{Before, Shown};
use super::tally::{SHOWN, Tally};
use crate::pipeline::Pipeline;
use crate::record::{Change, Raw, Records};

/// The topics and their numbers of partitions.
pub(super) type Topics = BTreeMap<String, usize>;

const TICK: Duration = Duration::from_millis(250);
const POLL: Duration = Duration::from_millis(25);
/// The pause before a schema is looked up again that could not be.
const REGISTRY_PAUSE: Duration = Duration::from_secs(5);

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
    /// Partitions that are read.
    partitions: usize,
}

/// The reader.
struct Live {
    pipeline: Pipeline,
    follower: Option<Follower>,
    tables: Vec<Table>,
    /// By topic, the place in `tables`.
    places: HashMap<String, usize>,
    /// The topics when they were last looked at; `None` before Kafka has answered.
    known: Option<Topics>,
    tally: Tally,
    earlier: Earlier,
    chosen: Vec<Chosen>,
    /// Until when schemas are not looked up.
    rests: Option<Instant>,
}

/// Reads until it is stopped. Blocks; call it within a runtime.
///
/// # Errors
/// Usage when a setting can't be used; transient when Kafka does not answer.
pub(super) fn read(
    pipeline: Pipeline,
    hub: &Hub,
    topics: &watch::Receiver<Option<Topics>>,
    stop: &CancellationToken,
) -> Result<()> {
    let mut live = Live::new(pipeline);
    let (mut tick, mut second) = (Instant::now() + TICK, Instant::now() + Duration::from_secs(1));
    while !stop.is_cancelled() {
        let found = topics.borrow().clone();
        if found != live.known
            && let Some(found) = found
        {
            live.assign(found)?;
        }
        live.poll()?;
        let now = Instant::now();
        if now >= tick {
            tick = now + TICK;
            live.tick(hub);
        }
        if now >= second {
            second = now + Duration::from_secs(1);
            let (written, latency) = live.tally.second();
            // Before it reads, it does not know that nothing is written.
            if live.follower.is_none() {
                continue;
            }
            hub.second(Micros::now().0 / 1_000_000, written, latency);
        }
    }
    Ok(())
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
    fn assign(&mut self, found: Topics) -> Result<()> {
        let records = LastRecords::new(&self.pipeline.kafka)?;
        let mut starts = Vec::new();
        for taken in self.pipeline.known_tables(&records)? {
            let topic = taken.kafka.topic.clone();
            let count = found.get(&topic).copied().unwrap_or(0);
            let place = self.places.get(&topic).copied();
            let before = place.map_or(0, |place| self.tables[place].partitions);
            if count <= before {
                continue;
            }
            // The first look finds what was there before somebody watched.
            let ends = if self.known.is_none() { records.stable_ends(&topic, count)? } else { vec![0; count] };
            starts.extend((before..count).map(|number| (topic.clone(), number as i32, ends[number])));
            match place {
                Some(place) => self.tables[place].partitions = count,
                None => {
                    self.places.insert(topic, self.tables.len());
                    self.tables.push(Table { records: Records::new(&taken)?, partitions: count, taken });
                }
            }
        }
        records.close();
        match &self.follower {
            _ if starts.is_empty() => {}
            Some(follower) => follower.add(&starts)?,
            None => self.follower = Some(Follower::new(&self.pipeline.kafka, &starts)?),
        }
        self.known = Some(found);
        Ok(())
    }

    /// Counts a record, and keeps it if it is shown.
    fn take(&mut self, message: &BorrowedMessage<'_>) {
        let Some(table) = self.places.get(message.topic()).copied() else { return };
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
