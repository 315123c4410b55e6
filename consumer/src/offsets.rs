//! Looks up the group's committed offsets and compares them with the logs before a partition is read.
//!
//! Our own commits carry a note beside each offset ([`add`]). An offset with the note was committed together with the
//! lines before it. An offset without it was set by a person, a tool or an earlier version of this program, and is
//! compared with the slots' log checkpoints.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kafka::{GroupOffset, Partition};
use model::error::{Code, Error, Result};
use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{TopicPartitionList, TopicPartitionListElem};
use runtime::config::KafkaSettings;

use crate::log_checkpoint;
use crate::start_offset::{Facts, Fault, Start, judge, refusal};
use crate::topics::Topics;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A former owner's open transaction hides its offsets until a neighbour has recovered the slot.
const OFFSETS_LIMIT: Duration = Duration::from_secs(60);
/// A committed transaction is not visible everywhere at once: only a difference that lasts this long counts.
const LASTING: Duration = Duration::from_secs(10);
/// How often to compare again while there is a difference.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// The note beside the offsets of our commits, followed by the offset itself.
const NOTE: &str = "in the logs up to ";

/// A committed offset of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Committed {
    /// The offset of the next record.
    pub(crate) next: i64,
    /// The note says that it was committed together with the lines before it.
    pub(crate) noted: bool,
}

/// An offset with our note for a commit; `main` is the name of the main topic.
pub(crate) fn noted(main: &str, partition: Partition, next: i64) -> GroupOffset {
    let (topic, note) = (partition.topic.name(main).to_owned(), format!("{NOTE}{next}"));
    GroupOffset { topic, partition: partition.number, next, note }
}

/// Adds an offset with our note to a list for a commit; `main` is the name of the main topic.
///
/// # Errors
/// When it is not a valid offset.
pub(crate) fn add(
    list: &mut TopicPartitionList,
    main: &str,
    partition: Partition,
    next: i64,
) -> Result<(), KafkaError> {
    let mut element = list.add_partition(partition.topic.name(main), partition.number);
    element.set_metadata(noted(main, partition, next).note);
    element.set_offset(Offset::Offset(next))
}

/// The partitions of our topics. A static member that rejoins with another topic before its session ends is assigned
/// partitions of the old one. This member ignores those, and partitions of our topics have no owner until a member
/// detects it ([`crate::orphaned_partitions`]).
pub(crate) fn of_topics(settings: &KafkaSettings, topics: &Topics, all: &TopicPartitionList) -> TopicPartitionList {
    let (mut ours, known) = (TopicPartitionList::new(), topics.all());
    for partition in partitions(all, &settings.topic) {
        if known.contains_key(&partition.topic) {
            ours.add_partition(partition.topic.name(&settings.topic), partition.number);
        }
    }
    if ours.count() < all.count() {
        let topic = &settings.topic;
        tracing::warn!(topic, "the group still has members of another topic; its partitions are left alone");
    }
    ours
}

/// The partitions of a list, in order; `main` is the name of the main topic.
pub(crate) fn partitions(list: &TopicPartitionList, main: &str) -> Vec<Partition> {
    let mut partitions: Vec<Partition> = list.elements().iter().map(|element| partition(element, main)).collect();
    partitions.sort_unstable();
    partitions
}

fn partition(element: &TopicPartitionListElem<'_>, main: &str) -> Partition {
    Partition::of(element.topic(), element.partition(), main)
}

/// The start offset of each of these partitions, and whether the group's offset equals it already; `done` has this
/// consumer's own commits. Waits for a transaction of a former owner to end.
///
/// # Errors
/// Transient when Kafka does not answer in time; definite when a right is missing, or the partition must not be read:
/// see [`Fault`].
pub(crate) fn starts<C: ConsumerContext>(
    settings: &KafkaSettings,
    topics: &Topics,
    consumer: &BaseConsumer<C>,
    partitions: &[Partition],
    done: &BTreeMap<Partition, i64>,
    bounds: &BTreeMap<Partition, (i64, i64)>,
) -> Result<BTreeMap<Partition, (Start, bool)>> {
    let deadline = Instant::now() + LASTING;
    loop {
        let committed = committed(settings, consumer, partitions)?;
        let mut starts = BTreeMap::new();
        let mut faults: Vec<(Partition, Fault)> = Vec::new();
        for (partition, facts) in facts(settings, topics, &committed, done, bounds)? {
            match judge(facts) {
                Ok(start) => {
                    let known = committed[&partition].is_some_and(|c| c.noted && c.next == start.from);
                    starts.insert(partition, (start, known));
                }
                Err(fault) => faults.push((partition, fault)),
            }
        }
        match refusal(settings, &faults) {
            None => return Ok(starts),
            Some(error) if Instant::now() > deadline => return Err(error),
            Some(error) => tracing::debug!("it is looked at again: {error}"),
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Collects the facts of each partition; without bounds they count as unlimited.
fn facts(
    settings: &KafkaSettings,
    topics: &Topics,
    committed: &BTreeMap<Partition, Option<Committed>>,
    done: &BTreeMap<Partition, i64>,
    bounds: &BTreeMap<Partition, (i64, i64)>,
) -> Result<BTreeMap<Partition, Facts>> {
    let all_noted = committed.values().all(|c| c.is_some_and(|c| c.noted));
    let written = if all_noted { BTreeMap::new() } else { log_checkpoint::offsets(settings, topics)? };
    let of = |(partition, committed): (&Partition, &Option<Committed>)| {
        let group = (committed.map(|c| c.next), committed.is_some_and(|c| c.noted));
        let bounds = bounds.get(partition).copied().unwrap_or((0, i64::MAX));
        (*partition, Facts::new(group, written.get(partition).copied(), done.get(partition).copied(), bounds))
    };
    Ok(committed.iter().map(of).collect())
}

/// By partition, the first existing offset, and the one after the last committed record or log checkpoint.
///
/// # Errors
/// Transient when Kafka does not answer.
pub(crate) fn bounds<C: ConsumerContext>(
    settings: &KafkaSettings,
    consumer: &BaseConsumer<C>,
    partitions: &[Partition],
) -> Result<BTreeMap<Partition, (i64, i64)>> {
    // One request for all partitions: behind a fetch of the same connection each request waits for half a second.
    let ask = |which: Offset| {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition_offset(partition.topic.name(&settings.topic), partition.number, which)?;
        }
        let answer = consumer.offsets_for_times(list, REQUEST_TIMEOUT)?;
        let offset = |p: TopicPartitionListElem<'_>| {
            p.error().map(|()| (partition(&p, &settings.topic), p.offset().to_raw().unwrap_or(0)))
        };
        answer.elements().into_iter().map(offset).collect::<Result<BTreeMap<Partition, i64>, KafkaError>>()
    };
    let both = || Ok((ask(Offset::Beginning)?, ask(Offset::End)?));
    let (low, end) = both().map_err(|e: KafkaError| {
        Error::transient("cannot look up the bounds of the partitions of the topics").with_source(e)
    })?;
    Ok(low.into_iter().filter_map(|(p, low)| Some((p, (low, *end.get(&p)?)))).collect())
}

/// Whether Kafka denies this user the right to read the topic or to join the group.
pub(crate) fn is_refused(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{GroupAuthorizationFailed, TopicAuthorizationFailed};
    matches!(error.rdkafka_error_code(), Some(TopicAuthorizationFailed | GroupAuthorizationFailed))
}

/// The error for a missing right, with its remedy.
pub(crate) fn no_right(settings: &KafkaSettings) -> Error {
    Error::new(Code::RightMissing, format!("Kafka does not let this user read topic {} in its group", settings.topic))
        .with_remedy("allow it: ACL READ on the topic and on the group (kafka.group_id)")
}

/// The group's offsets of these partitions; `None` where it has none.
///
/// # Errors
/// Transient when Kafka does not answer in time; definite when a right is missing.
pub(crate) fn committed<C: ConsumerContext>(
    settings: &KafkaSettings,
    consumer: &BaseConsumer<C>,
    partitions: &[Partition],
) -> Result<BTreeMap<Partition, Option<Committed>>> {
    let deadline = Instant::now() + OFFSETS_LIMIT;
    let mut wanted = TopicPartitionList::new();
    for partition in partitions {
        wanted.add_partition(partition.topic.name(&settings.topic), partition.number);
    }
    loop {
        let answer = consumer.committed_offsets(wanted.clone(), REQUEST_TIMEOUT).and_then(|list| {
            let offsets = list.elements().into_iter().map(|p| {
                let offset = match p.offset() {
                    Offset::Offset(next) => Some(Committed { next, noted: p.metadata() == format!("{NOTE}{next}") }),
                    _ => None,
                };
                p.error().map(|()| (partition(&p, &settings.topic), offset))
            });
            offsets.collect()
        });
        match answer {
            Ok(offsets) => return Ok(offsets),
            Err(error) if is_refused(&error) => return Err(no_right(settings).with_source(error)),
            Err(error) if Instant::now() > deadline => {
                let open = Error::new(Code::TransactionOpen, "cannot look up the group's offsets").with_source(error);
                return Err(open.with_remedy(
                    "a transaction of a consumer that is gone holds them back until the broker ends it \
                     (kafka.transaction_timeout); kafka-transactions.sh find-hanging names one that never ends, and abort ends it",
                ));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}
