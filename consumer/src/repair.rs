//! Shows the group's offsets, and corrects them at a person's request while no consumer runs.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka::{Logging, Partition};
use model::error::{Code, Error, Result};
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use runtime::config::KafkaSettings;

use crate::log_checkpoint;
use crate::offsets::{self, Committed};
use crate::start_offset::{Facts, Fault, judge, refusal};
use crate::topics::Topics;

/// The time limit for a broker's answer.
const CONNECTING: Duration = Duration::from_secs(10);

/// A partition whose offset was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Set {
    pub(crate) partition: Partition,
    /// `None` when the group had none.
    pub(crate) before: Option<i64>,
    pub(crate) now: i64,
}

/// Sets the group's offsets to those of its logs; returns the ones that were missing or different. Blocks.
///
/// # Errors
/// Transient when Kafka can't be reached; definite when a consumer of the group is running, a right is missing, or the
/// logs are those of another topic.
pub(crate) fn restore(settings: &KafkaSettings, topics: &Topics) -> Result<Vec<Set>> {
    let Group { consumer, logging, committed, written, bounds } = Group::open(settings, topics)?;
    let mut set = Vec::new();
    for (partition, committed) in &committed {
        let before = committed.map(|c| c.next);
        // An offset with our note was committed together with its lines, even if no log checkpoint has them.
        let logs = noted(*committed).max(written.get(partition).copied());
        // Judge it with the new offset: the logs may be of another topic.
        if let Err(fault @ Fault::OtherTopic { .. }) = judge(Facts { group: logs, logs, bounds: bounds[partition] }) {
            return Err(refusal(settings, &[(*partition, fault)]).unwrap_or_else(|| Error::definite("another topic")));
        }
        let now = logs.unwrap_or(0);
        if before.unwrap_or(0) != now {
            set.push(Set { partition: *partition, before, now });
        }
    }
    commit(settings, &consumer, &logging, &set)?;
    Ok(set)
}

/// Moves the group's offsets past those that the topic no longer has; returns the changed partitions. Blocks.
///
/// # Errors
/// As [`restore`], and definite when the group's offsets do not agree with the logs.
pub(crate) fn skip_deleted(settings: &KafkaSettings, topics: &Topics) -> Result<Vec<Set>> {
    let group = Group::open(settings, topics)?;
    let (mut skipped, mut passed, mut faults) = (Vec::new(), Vec::new(), Vec::new());
    for (partition, facts) in group.facts() {
        match judge(facts) {
            Err(Fault::Deleted { next, low }) => skipped.push(Set { partition, before: Some(next), now: low }),
            Err(fault) => faults.push((partition, fault)),
            // Only a transaction marker is gone, which looks like a record once records follow.
            Ok(start) if facts.group.is_some_and(|g| g < start.from) => {
                passed.push(Set { partition, before: facts.group, now: start.from });
            }
            Ok(_) => {}
        }
    }
    if let Some(error) = refusal(settings, &faults) {
        return Err(error);
    }
    commit(settings, &group.consumer, &group.logging, &[skipped.as_slice(), &passed].concat())?;
    Ok(skipped)
}

/// Reports the group's offsets and lag; changes nothing. Blocks.
///
/// # Errors
/// Transient when Kafka can't be reached; definite when a right is missing, or a partition must not be read: see
/// [`Fault`].
pub(crate) fn look(settings: &KafkaSettings, topics: &Topics) -> Result<String> {
    let group = Group::open(settings, topics)?;
    let (mut faults, mut behind) = (Vec::new(), 0);
    for (partition, facts) in group.facts() {
        match judge(facts) {
            Ok(start) => behind += (facts.bounds.1 - start.from).max(0),
            Err(fault) => faults.push((partition, fault)),
        }
    }
    match refusal(settings, &faults) {
        Some(error) => Err(error),
        None => Ok(format!("{} agrees with its logs, and is {behind} offsets behind the topic", settings.group_id)),
    }
}

/// The present state of the group.
struct Group {
    consumer: BaseConsumer<Logging>,
    logging: Logging,
    committed: BTreeMap<Partition, Option<Committed>>,
    /// By partition, the offset that the logs reach.
    written: BTreeMap<Partition, i64>,
    bounds: BTreeMap<Partition, (i64, i64)>,
}

impl Group {
    fn open(settings: &KafkaSettings, topics: &Topics) -> Result<Self> {
        let logging = Logging::default();
        let failed = |e| unreachable(settings, &logging, e);
        let config = kafka::consumer_config(settings, &settings.group_id);
        let consumer: BaseConsumer<Logging> = config.create_with_context(logging.clone()).map_err(failed)?;
        kafka::give_token(settings, consumer.client())?;
        // Report here why the client can't connect, not from the later calls.
        consumer.fetch_metadata(Some(&settings.topic), CONNECTING).map_err(failed)?;
        let partitions = topics.partitions();
        let written = log_checkpoint::offsets(settings, topics)?;
        let committed = offsets::committed(settings, &consumer, &partitions)?;
        let bounds = offsets::bounds(settings, &consumer, &partitions)?;
        Ok(Self { consumer, logging, committed, written, bounds })
    }

    /// The facts of each partition.
    fn facts(&self) -> impl Iterator<Item = (Partition, Facts)> {
        self.committed.iter().map(|(partition, committed)| {
            let group = (committed.map(|c| c.next), committed.is_some_and(|c| c.noted));
            (*partition, Facts::new(group, self.written.get(partition).copied(), None, self.bounds[partition]))
        })
    }
}

fn noted(committed: Option<Committed>) -> Option<i64> {
    committed.filter(|c| c.noted).map(|c| c.next)
}

fn commit(settings: &KafkaSettings, consumer: &BaseConsumer<Logging>, logging: &Logging, set: &[Set]) -> Result<()> {
    use RDKafkaErrorCode::{IllegalGeneration, RebalanceInProgress, UnknownMemberId};
    if set.is_empty() {
        return Ok(());
    }
    let mut list = TopicPartitionList::new();
    let added = set.iter().try_for_each(|s| offsets::add(&mut list, &settings.topic, s.partition, s.now));
    let committed = added.and_then(|()| consumer.commit(&list, CommitMode::Sync));
    committed.map_err(|e| match e.rdkafka_error_code() {
        Some(UnknownMemberId | IllegalGeneration | RebalanceInProgress) => Error::new(
            Code::AnotherConsumer,
            format!("cannot set the offsets of group {}", settings.group_id),
        )
        .with_source(e)
        .with_remedy(
            "stop all consumers of the group first, and wait until their session (kafka.session_timeout) is over",
        ),
        _ => unreachable(settings, logging, e),
    })
}

fn unreachable(settings: &KafkaSettings, logging: &Logging, error: KafkaError) -> Error {
    kafka::unreachable(
        settings,
        &format!("cannot look up or set the offsets of group {}", settings.group_id),
        &error,
        logging,
    )
}
