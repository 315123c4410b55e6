//! The topics and the group: ends, committed offsets, who holds which partition, dead letters.
//!
//! A member whose process has ended stays in the group until its session times out, and the other members' `/ready`
//! knows nothing of it. But the operating system frees the lock of its slot at once: a member of this machine's logs
//! folder whose lock is free has stopped.

use std::collections::BTreeSet;
use std::time::SystemTime;

use consumer::slot::Holders;
use consumer::slot_name::Name;
use consumer::tables::Taken;
use kafka::{Bounds, GroupReader, LastRecords, Member, TopicSpec, committed_progress};
use model::error::Result;
use model::position::Progress;
use model::time::Micros;

use super::facts::{Answer, Consumer, PATIENCE, Partition, Snapshot, State, Table, snapshot_of};
use crate::pipeline::Pipeline;

/// Offsets of the dead letters that are counted one by one; beyond, markers of transactions count too.
const COUNTED_LETTERS: i64 = 20_000;

/// What Kafka says.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) progress: Option<Progress>,
    pub(super) tables: Vec<Table>,
    pub(super) members: Vec<Member>,
}

/// The clients.
pub(super) struct Reader {
    pub(super) records: LastRecords,
    group: GroupReader,
}

impl Reader {
    pub(super) fn new(pipeline: &Pipeline) -> Result<Self> {
        Ok(Self { records: LastRecords::for_search(&pipeline.kafka)?, group: GroupReader::new(&pipeline.kafka)? })
    }

    pub(super) fn reach(&self) -> Result<()> {
        self.group.reach(PATIENCE)
    }

    /// Asks Kafka. Blocks.
    ///
    /// # Errors
    /// Transient when it does not answer; definite when a right is missing.
    pub(super) fn look(&self, pipeline: &Pipeline) -> Result<Seen> {
        self.reach()?;
        let progress = committed_progress::now(&self.records, &pipeline.kafka)?;
        let mut tables = Vec::new();
        for taken in pipeline.tables(progress.as_ref())? {
            tables.push(self.table(&taken, progress.as_ref(), pipeline)?);
        }
        Ok(Seen { progress, tables, members: self.group.members()? })
    }

    fn table(&self, taken: &Taken, progress: Option<&Progress>, pipeline: &Pipeline) -> Result<Table> {
        let topic = taken.kafka.topic.clone();
        let count = self.records.partition_count(&topic)?;
        let source = pipeline.settings.main_table().to_string();
        let snapshot = progress.and_then(|progress| snapshot_of(progress, &source, &taken.name.to_string()));
        let mut table = Table {
            name: taken.name.to_string(),
            exists: count.is_some(),
            snapshot: snapshot.map(Snapshot::of),
            partitions: self.partitions(&topic, count.unwrap_or(0))?,
            dead_letters: self.letters(&TopicSpec::dead_letters(&taken.kafka).name)?,
            parked_keys: None,
            postgres_behind: None,
            topic,
        };
        if let (Some(shown), Some(begin)) = (&mut table.snapshot, snapshot.and_then(|s| s.begin.as_ref()))
            && let Some(begun) = self.first_record(&table.topic, begin, &table.partitions)?
        {
            shown.began(begun);
        }
        Ok(table)
    }

    fn partitions(&self, topic: &str, count: usize) -> Result<Vec<Partition>> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let ends = self.records.stable_ends(topic, count)?;
        let bounds = self.records.bounds(topic, count)?;
        let committed = self.group.committed(topic, count)?;
        let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as i64);
        let recent = self.records.offsets_since(topic, count, now - 60_000)?;
        let partition = |number: usize| {
            let Bounds { begin, end: written } = bounds.get(number).copied()?;
            let (end, committed) = (*ends.get(number)?, *committed.get(number)?);
            Some(Partition {
                number,
                begin,
                end,
                open: (written - end).max(0),
                committed,
                lag: (end - committed.unwrap_or(begin).max(begin)).max(0),
                holder: None,
                waits: false,
                written_last_minute: recent.get(number).copied().flatten().map_or(0, |first| (end - first).max(0)),
                written_per_second: None,
                read_per_second: None,
                postgres_next: None,
            })
        };
        Ok((0..count).filter_map(partition).collect())
    }

    /// The number of dead letters.
    fn letters(&self, topic: &str) -> Result<u64> {
        let Some(count) = self.records.partition_count(topic)? else { return Ok(0) };
        let ends = self.records.stable_ends(topic, count)?;
        let mut letters = 0;
        for (partition, (bounds, end)) in self.records.bounds(topic, count)?.into_iter().zip(ends).enumerate() {
            if end - bounds.begin > COUNTED_LETTERS {
                letters += u64::try_from(end - bounds.begin).unwrap_or(0);
                continue;
            }
            self.records.read_range(topic, partition as i32, bounds.begin..end, &|| false, &mut |_| {
                letters += 1;
                Ok(())
            })?;
        }
        Ok(letters)
    }

    /// When the first record of a snapshot was written, which began at these offsets.
    fn first_record(&self, topic: &str, begin: &[i64], partitions: &[Partition]) -> Result<Option<Micros>> {
        let begun = |(partition, begin): &(&Partition, &i64)| partition.end > **begin;
        let Some((partition, begin)) = partitions.iter().zip(begin).find(begun) else { return Ok(None) };
        let first = std::cell::Cell::new(None);
        let (number, end) = (partition.number as i32, partition.end);
        self.records.read_range(topic, number, *begin..end, &|| first.get().is_some(), &mut |message| {
            let time = rdkafka::Message::timestamp(message).to_millis().map(|ms| Micros(ms * 1_000));
            first.set(first.get().or(time));
            Ok(())
        })?;
        Ok(first.get())
    }
}

/// The consumers, and the free slots of the logs folder; without the group's members when Kafka does not answer.
/// `answered` names those that answered at `/metrics` in an earlier look. Pure.
pub(super) fn consumers(
    members: Option<&[Member]>,
    holders: Option<&Holders>,
    answers: &[Answer],
    answered: &BTreeSet<String>,
) -> (Vec<Consumer>, Vec<String>) {
    let mut slots: Vec<(String, bool)> = Vec::new();
    if let Some(Holders { folder, slots: held }) = holders {
        let name = |slot| Name { slot, folder: Some(folder.clone()) }.to_string();
        slots.extend(held.iter().map(|(slot, is_held)| (name(*slot), *is_held)));
    }
    let answer = |name: &str| answers.iter().find(|answer| answer.slot().as_deref() == Some(name)).cloned();
    let is_here = |name: &str| {
        let folder = Name::parse(name).and_then(|name| name.folder);
        holders.is_some_and(|holders| folder.as_ref() == Some(&holders.folder))
    };
    let state = |name: &str| match slots.iter().find(|(slot, _)| slot == name) {
        Some((_, true)) => State::Runs,
        Some((_, false)) => State::Stopped,
        // Its folder was removed.
        None if is_here(name) => State::Stopped,
        None => State::Elsewhere,
    };
    let mut consumers: Vec<Consumer> = members
        .unwrap_or_default()
        .iter()
        .map(|member| Consumer {
            name: member.instance().to_owned(),
            host: member.host.clone(),
            state: state(member.instance()),
            partitions: member.partitions.clone(),
            metrics: answer(member.instance()),
            is_silent: false,
        })
        .collect();
    let is_member = |name: &str, consumers: &[Consumer]| consumers.iter().any(|consumer| consumer.name == name);
    for (name, _) in slots.iter().filter(|(_, is_held)| *is_held) {
        if !is_member(name, &consumers) {
            let metrics = answer(name);
            consumers.push(Consumer {
                name: name.clone(),
                host: String::new(),
                state: if members.is_some() { State::Joins } else { State::Runs },
                partitions: Vec::new(),
                metrics,
                is_silent: false,
            });
        }
    }
    let has_answers = consumers.iter().any(|consumer| consumer.metrics.is_some());
    for consumer in &mut consumers {
        let must_answer = match consumer.state {
            State::Runs => has_answers,
            // One look can't tell whether its address is among those that are asked: Kafka shows from where it talks to
            // the brokers only. If it has answered before, it is, and a consumer that has stopped shows at once.
            State::Elsewhere => answered.contains(&consumer.name),
            State::Stopped | State::Joins => false,
        };
        consumer.is_silent = must_answer && consumer.metrics.is_none();
    }
    let order = |name: &str| Name::parse(name).map(|name| (name.folder.map(|f| f.to_string()), name.slot.0));
    consumers.sort_by_key(|consumer| (order(&consumer.name), consumer.name.clone()));
    let free = slots.iter().filter(|(name, is_held)| !is_held && !is_member(name, &consumers));
    let free = free.map(|(name, _)| name.clone()).collect();
    (consumers, free)
}

#[cfg(test)]
mod tests {
    use consumer::slot_name::SlotId;
    use kafka::slots::FolderId;

    use super::*;

    fn member(instance: &str, partitions: &[i32]) -> Member {
        Member {
            id: format!("{instance}-6b0f4a3e-9c7d-4a5e-8f01-23456789abcd"),
            host: "10.0.0.7".to_owned(),
            partitions: partitions.iter().map(|number| kafka::Partition::main(*number)).collect(),
        }
    }

    #[test]
    fn a_member_whose_lock_is_free_has_stopped() {
        let folder = FolderId::parse("aaaaaaaa").expect("an identity");
        let slots = vec![(SlotId(1), true), (SlotId(2), false), (SlotId(3), true), (SlotId(4), false)];
        let holders = Holders { folder, slots };
        let members = [
            member("consumer_2-aaaaaaaa", &[2, 3]),
            member("consumer_1-aaaaaaaa", &[0, 1]),
            member("consumer_1-bbbbbbbb", &[4]),
            member("other", &[5]),
        ];
        let none = BTreeSet::new();
        let (consumers, free) = consumers(Some(&members), Some(&holders), &[], &none);
        let shown: Vec<String> =
            consumers.iter().map(|c| format!("{} {:?} {:?}", c.name, c.state, c.partitions)).collect();
        assert_eq!(
            shown,
            [
                "other Elsewhere [5]",
                "consumer_1-aaaaaaaa Runs [0, 1]",
                "consumer_2-aaaaaaaa Stopped [2, 3]",
                "consumer_3-aaaaaaaa Joins []",
                "consumer_1-bbbbbbbb Elsewhere [4]",
            ]
        );
        assert_eq!(free, ["consumer_4-aaaaaaaa"]);
        let nowhere = super::consumers(Some(&members), None, &[], &none).0;
        assert!(nowhere.iter().all(|consumer| consumer.state == State::Elsewhere));
        let answer = |slot: u32, folder: &str| Answer {
            text: format!("\nconsumer_slot{{slot=\"consumer_{slot}\",folder=\"{folder}\"}} 1\n"),
            ..Answer::default()
        };
        let silent = |answers: &[Answer], answered: &[&str]| {
            let answered = answered.iter().map(|name| (*name).to_owned()).collect();
            let found = super::consumers(Some(&members), Some(&holders), answers, &answered).0;
            found.into_iter().filter(|c| c.is_silent).map(|c| c.name).collect::<Vec<_>>()
        };
        assert_eq!(silent(&[], &[]), [""; 0], "none has an address");
        assert_eq!(silent(&[answer(3, "aaaaaaaa")], &[]), ["consumer_1-aaaaaaaa"]);
        // One elsewhere, whose address is not known before it has answered, and one whose lock says more.
        let before = ["consumer_1-bbbbbbbb", "consumer_2-aaaaaaaa"];
        assert_eq!(silent(&[], &before), ["consumer_1-bbbbbbbb"]);
        assert_eq!(silent(&[answer(1, "aaaaaaaa"), answer(1, "bbbbbbbb")], &before), [""; 0]);
        let unknown = super::consumers(None, Some(&holders), &[], &none).0;
        assert_eq!(unknown.iter().map(|consumer| consumer.state).collect::<Vec<_>>(), [State::Runs, State::Runs]);
    }
}
