//! Membership of the consumer group: which partitions are ours, and from where each is read.
//!
//! Static membership with the classic protocol and `cooperative-sticky`: a member that comes back within the session
//! timeout has its partitions again and nobody else moves.
//!
//! Invariants: a partition is read from the group's committed offset, which is looked up when the partition is assigned
//! (waiting for a transaction of its former owner to end) and compared with what the logs have ([`crate::start_offset`]); an
//! offset that is no longer in the topic is an error and never a jump. At each change of the assignment the offsets of the partitions that stay are looked up as well: a static member
//! that was thrown out and joins again (JoinGroup answered with UNKNOWN_MEMBER_ID) keeps its partitions without a word from
//! the client library, and others may have gone on with them. Commits carry the generation of the last change that was
//! seen, never the client's own, which is ahead of it. Whoever polls learns of each change of the assignment by [`Group::changes`]: records that were polled before it
//! must not be committed with the metadata of after it, as the broker checks the generation and not who owns a partition.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pipeline::config::KafkaSettings;
use pipeline::error::{Error, Result};
use pipeline::failpoint;
use pipeline::kafka::{self, Failure, Logging};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use crate::lineage::Name;
use crate::offsets;
use crate::owners;
use crate::start_offset::{Facts, Start, judge, refusal};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// What the callbacks leave for the loop.
#[derive(Default)]
struct State {
    /// Our partitions, and the offset of each from which records are not committed yet.
    committed: BTreeMap<i32, i64>,
    /// Those of them of which the group's own offset is another one, or has no note.
    unnoted: BTreeSet<i32>,
    /// By partition, what this slot has committed last.
    done: BTreeMap<i32, i64>,
    /// By partition, the offsets that the topic no longer had when the group came to it for the first time.
    missing: BTreeMap<i32, i64>,
    changes: u64,
    /// Partitions that stayed ours while others went on with them, which must be read from their offset anew.
    moved: BTreeSet<i32>,
    /// Our member and generation as of the last change.
    metadata: Option<Arc<ConsumerGroupMetadata>>,
    failed: Option<Error>,
    /// The client is being closed: it does not look for its coordinator any more, so offsets can't be looked up.
    closing: bool,
    /// When a broker was last heard of.
    heard: Option<Instant>,
    /// Each partition as last seen.
    seen: BTreeMap<i32, Seen>,
}

/// A partition in the client's statistics.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Its end.
    end: i64,
    /// Everything up to its end was fetched and polled.
    drained: bool,
}

struct Context {
    logging: Logging,
    settings: KafkaSettings,
    state: Mutex<State>,
    /// Told whenever the assignment changes.
    changed: Sender<()>,
}

impl Context {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.logging.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.logging.error(error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        let mut state = self.state();
        let up = statistics.brokers.values().filter(|b| b.state == "UP");
        let silent = up.filter_map(|b| u64::try_from(b.rxidle).ok()).min();
        let heard = silent.and_then(|micros| Instant::now().checked_sub(Duration::from_micros(micros)));
        state.heard = state.heard.max(heard);
        let partitions = statistics.topics.values().flat_map(|t| t.partitions.values());
        let seen = |p: &rdkafka::statistics::Partition| Seen {
            end: p.ls_offset,
            drained: p.next_offset >= p.ls_offset && p.fetchq_cnt == 0,
        };
        state.seen = partitions.filter(|p| p.ls_offset >= 0).map(|p| (p.partition, seen(p))).collect();
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, kind: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        // The loop that waits for a transaction of a gone neighbour must not be the one that settles it.
        self.changed.send(()).unwrap_or_default();
        // Before the offsets are looked up: should the group move on meanwhile, commits are refused.
        let metadata = consumer.group_metadata().map(Arc::new);
        let partitions = &mut offsets::of_topic(&self.settings.topic, partitions);
        let outcome = if self.state().closing {
            self.let_go(consumer, kind, partitions)
        } else if kind == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.assign(consumer, partitions)
        } else {
            self.revoke(consumer, partitions).and_then(|()| self.keep(consumer))
        };
        let mut state = self.state();
        state.changes += 1;
        state.metadata = metadata;
        if let Err(error) = outcome {
            state.failed = Some(error);
        }
    }
}

impl Context {
    fn assign(&self, consumer: &BaseConsumer<Self>, partitions: &mut TopicPartitionList) -> Result<()> {
        let new = offsets::numbers(partitions);
        let outcome = self.starts(consumer, &new);
        if let Ok(starts) = &outcome {
            for (partition, (start, _)) in starts {
                let from = Offset::Offset(start.from);
                partitions.set_partition_offset(&self.settings.topic, *partition, from).map_err(unexpected)?;
            }
        }
        // Even when it failed: the client library waits for an answer.
        consumer.incremental_assign(partitions).map_err(unexpected)?;
        let starts = outcome?;
        self.keep(consumer)?;
        let mut state = self.state();
        for (partition, (Start { from, missing }, noted)) in starts {
            state.committed.insert(partition, from);
            if !noted {
                state.unnoted.insert(partition);
            }
            if missing > 0 {
                state.missing.insert(partition, missing);
                let (topic, last) = (&self.settings.topic, missing - 1);
                tracing::warn!(
                    topic,
                    partition,
                    "the topic no longer has offsets 0 to {last}, and this group begins now: their changes are in none of its \
                     logs; `cdc-producer checkpoint reset` writes the present rows to the topic once more"
                );
            }
        }
        let owned: Vec<i32> = state.committed.keys().copied().collect();
        if new.is_empty() {
            tracing::info!(?owned, "no partition is new after a rebalance");
        } else {
            tracing::info!(partitions = ?new, ?owned, "partitions assigned");
        }
        Ok(())
    }

    /// Where partitions that are new to us are to be read from.
    fn starts(&self, consumer: &BaseConsumer<Self>, new: &[i32]) -> Result<BTreeMap<i32, (Start, bool)>> {
        if new.is_empty() {
            return Ok(BTreeMap::new());
        }
        let (topic, wanted) = (&self.settings.topic, self.settings.partitions);
        if new.iter().any(|partition| *partition >= wanted) {
            let metadata = consumer.fetch_metadata(Some(topic), REQUEST_TIMEOUT).map_err(unexpected)?;
            let count = metadata.topics().iter().find(|t| t.name() == topic).map_or(0, |t| t.partitions().len());
            return Err(Failure::OtherCount { topic: topic.clone(), count, wanted }.into_error("cannot read on"));
        }
        let bounds = offsets::bounds(&self.settings, consumer, new)?;
        let done = self.state().done.clone();
        offsets::starts(&self.settings, consumer, new, &done, &bounds)
    }

    fn revoke(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) -> Result<()> {
        let gone = offsets::numbers(partitions);
        failpoint::at("consumer.revoking");
        let mut state = self.state();
        state.committed.retain(|partition, _| !gone.contains(partition));
        state.unnoted.retain(|partition| !gone.contains(partition));
        let owned: Vec<i32> = state.committed.keys().copied().collect();
        drop(state);
        tracing::info!(partitions = ?gone, ?owned, lost = consumer.assignment_lost(), "partitions revoked");
        consumer.incremental_unassign(partitions).map_err(unexpected)
    }

    /// What the client library waits for, and nothing more: these partitions will not be read.
    fn let_go(
        &self,
        consumer: &BaseConsumer<Self>,
        kind: RDKafkaRespErr,
        partitions: &TopicPartitionList,
    ) -> Result<()> {
        if kind == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            consumer.incremental_assign(partitions).map_err(unexpected)
        } else {
            consumer.incremental_unassign(partitions).map_err(unexpected)
        }
    }

    /// Looks up how far the group has come in the partitions that stay.
    fn keep(&self, consumer: &BaseConsumer<Self>) -> Result<()> {
        let kept = self.state().committed.clone();
        if kept.is_empty() {
            return Ok(());
        }
        let partitions: Vec<i32> = kept.keys().copied().collect();
        // Those that nothing was committed of yet have no offset to be compared with.
        let mut done = kept.clone();
        done.retain(|partition, _| !self.state().unnoted.contains(partition));
        let starts = offsets::starts(&self.settings, consumer, &partitions, &done, &BTreeMap::new())?;
        let mut state = self.state();
        for (partition, (Start { from, .. }, _)) in starts {
            let known = kept[&partition];
            if from > known {
                tracing::warn!(partition, from = known, to = from, "others went on with a partition that stays ours");
                state.committed.insert(partition, from);
                state.moved.insert(partition);
            }
        }
        Ok(())
    }
}

fn unexpected(error: KafkaError) -> Error {
    Error::transient("the Kafka client refuses the assignment").with_source(error)
}

/// The ids of the members that the group has, as far as its coordinator knows. Blocks.
///
/// # Errors
/// Transient when Kafka does not answer.
pub(crate) fn members(settings: &KafkaSettings) -> Result<Vec<String>> {
    let logging = Logging::default();
    let what = format!("cannot look up the members of group {}", settings.group_id);
    let failed = |e: KafkaError| kafka::unreachable(settings, &what, &e, &logging);
    let config = kafka::consumer_config(settings, &settings.group_id);
    let consumer: BaseConsumer<Logging> = config.create_with_context(logging.clone()).map_err(failed)?;
    let groups = consumer.fetch_group_list(Some(&settings.group_id), REQUEST_TIMEOUT).map_err(failed)?;
    Ok(groups.groups().iter().flat_map(|group| group.members()).map(|member| member.id().to_owned()).collect())
}

/// What polling found wrong.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The membership has ended; make a new one. `fenced`: another process has the same identity.
    Ended { error: Error, fenced: bool },
    /// It stays until a person acts.
    Definite(Error),
}

/// A member of the group.
pub(crate) struct Group {
    topic: String,
    partitions: i32,
    group_id: String,
    consumer: BaseConsumer<Context>,
}

impl Drop for Group {
    fn drop(&mut self) {
        self.consumer.context().state().closing = true;
    }
}

impl Group {
    /// Joins the group under the slot's name, which no slot of another folder has; `done` is what the slot has committed of each partition, `changed` is told
    /// whenever the assignment changes.
    ///
    /// # Errors
    /// Usage when the client refuses its configuration.
    pub(crate) fn join(
        settings: &KafkaSettings,
        slot: &Name,
        done: BTreeMap<i32, i64>,
        changed: Sender<()>,
    ) -> Result<Self> {
        let state = Mutex::new(State { done, ..State::default() });
        let context = Context { logging: Logging::default(), settings: settings.clone(), state, changed };
        let refused = |e| {
            Error::usage("the Kafka client refuses its configuration")
                .with_source(e)
                .with_remedy("correct the kafka.* setting that it names; --check-config shows what is in force")
        };
        let consumer: BaseConsumer<Context> = kafka::consumer_config(settings, &settings.group_id)
            .set("group.instance.id", slot.to_string())
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", settings.session_timeout.as_millis().to_string())
            .set("heartbeat.interval.ms", (settings.session_timeout / 10).as_millis().clamp(100, 1_000).to_string())
            // Where to begin is always said; what is not in the topic any more must not be jumped over.
            .set("auto.offset.reset", "error")
            .set("statistics.interval.ms", "2000")
            .create_with_context(context)
            .map_err(refused)?;
        consumer.subscribe(&[&settings.topic]).map_err(refused)?;
        let (topic, group_id) = (settings.topic.clone(), settings.group_id.clone());
        Ok(Self { topic, partitions: settings.partitions, group_id, consumer })
    }

    /// How often the assignment has changed.
    pub(crate) fn changes(&self) -> u64 {
        self.consumer.context().state().changes
    }

    /// Our partitions with the group's committed offsets.
    pub(crate) fn committed(&self) -> BTreeMap<i32, i64> {
        self.consumer.context().state().committed.clone()
    }

    /// Notes what a transaction committed.
    pub(crate) fn note_committed(&self, offsets: &BTreeMap<i32, i64>) {
        let mut state = self.consumer.context().state();
        for (partition, offset) in offsets {
            state.done.insert(*partition, *offset);
            state.unnoted.remove(partition);
            if let Some(committed) = state.committed.get_mut(partition) {
                *committed = *offset;
            }
        }
    }

    /// When a broker last sent anything, as of the last statistics, which come every two seconds. Fetches and heartbeats are
    /// answered at least every three.
    pub(crate) fn heard(&self) -> Option<Instant> {
        self.consumer.context().state().heard
    }

    /// Records that are not committed yet, by partition, as of the last statistics. Nothing may be in hand: what was polled is
    /// committed. Transaction markers count as well, except where all is read.
    pub(crate) fn lag(&self) -> BTreeMap<i32, i64> {
        let state = self.consumer.context().state();
        let lag = |(partition, offset): (&i32, &i64)| {
            let seen = state.seen.get(partition)?;
            Some((*partition, if seen.drained { 0 } else { (seen.end - offset).max(0) }))
        };
        state.committed.iter().filter_map(lag).collect()
    }

    /// The generation and member that the next batch is polled under.
    pub(crate) fn metadata(&self) -> Option<Arc<ConsumerGroupMetadata>> {
        self.consumer.context().state().metadata.clone()
    }

    /// Partitions of which older records may have been fetched than the group comes to next; to be given to
    /// [`Group::seek`].
    pub(crate) fn take_moved(&self) -> BTreeSet<i32> {
        std::mem::take(&mut self.consumer.context().state().moved)
    }

    /// One record, or nothing within `timeout`. Callbacks run in here.
    ///
    /// # Errors
    /// See [`Trouble`]; errors that heal by themselves are none.
    pub(crate) fn poll(&self, timeout: Duration) -> Result<Option<BorrowedMessage<'_>>, Trouble> {
        let polled = self.consumer.poll(timeout);
        match self.consumer.context().state().failed.take() {
            None => {}
            Some(error) if error.is_transient() => return Err(Trouble::Ended { error, fenced: false }),
            Some(error) => return Err(Trouble::Definite(error)),
        }
        let error = match polled {
            None => return Ok(None),
            Some(Ok(message)) => return Ok(Some(message)),
            Some(Err(error)) => error,
        };
        let ended = |fenced, error| {
            let error = Error::transient("the membership of the consumer group has ended").with_source(error);
            Err(Trouble::Ended { error, fenced })
        };
        match (&error, error.rdkafka_error_code()) {
            (KafkaError::MessageConsumptionFatal(code), _) => {
                ended(matches!(code, RDKafkaErrorCode::FencedInstanceId), error)
            }
            (_, Some(RDKafkaErrorCode::AutoOffsetReset)) => match self.out_of_range() {
                Some(error) => Err(Trouble::Definite(error)),
                // A look-up failed, of a topic that not all brokers know yet.
                None => ended(false, error),
            },
            (_, Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)) => {
                ended(false, error)
            }
            _ if offsets::is_refused(&error) => {
                Err(Trouble::Definite(offsets::no_right(&self.consumer.context().settings).with_source(error)))
            }
            // A broker that takes our password or certificate no longer: a new start says so.
            _ if self.consumer.context().logging.refused().is_some() => ended(false, error),
            _ => {
                tracing::debug!(%error, "poll");
                Ok(None)
            }
        }
    }

    /// Reads each of these partitions from the given offset next.
    ///
    /// # Errors
    /// Transient when the client does not manage to; make a new membership then.
    pub(crate) fn seek(&self, offsets: &BTreeMap<i32, i64>) -> Result<()> {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        for (partition, offset) in offsets {
            // A partition that has just been assigned can't be moved for an instant.
            while let Err(error) = self.consumer.seek(&self.topic, *partition, Offset::Offset(*offset), REQUEST_TIMEOUT)
            {
                if Instant::now() > deadline {
                    let text = format!("cannot read partition {partition} again from offset {offset}");
                    return Err(Error::transient(text).with_source(error));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    /// Partitions that the coordinator has given to no member, as far as it is known: not when the coordinator does not answer
    /// within two seconds, nor in the middle of a rebalance. No partition is unowned in an empty group.
    pub(crate) fn unowned(&self) -> Option<BTreeSet<i32>> {
        let groups = self.consumer.fetch_group_list(Some(&self.group_id), Duration::from_secs(2)).ok()?;
        let group = groups.groups().iter().find(|g| g.name() == self.group_id && g.state() == "Stable")?;
        let mut unowned: BTreeSet<i32> = (0..self.partitions).collect();
        for member in group.members() {
            for partition in owners::assigned(member.assignment().unwrap_or_default(), &self.topic)? {
                unowned.remove(&partition);
            }
        }
        Some(unowned)
    }

    /// Gives all partitions up and joins again. The metadata of that join, which partitions are owned and since which
    /// generation, differs from the one before, and a broker then asks all others to join again as well.
    pub(crate) fn rejoin(&self) {
        self.consumer.unsubscribe();
        // Refused when the client is of no more use, which the next poll says.
        if let Err(error) = self.consumer.subscribe(&[&self.topic]) {
            tracing::warn!(%error, "cannot join the group again");
        }
    }

    /// Whether the partition's end may be behind the group's offset, as of the last statistics.
    pub(crate) fn may_be_unfinished(&self, partition: i32) -> bool {
        let end = self.consumer.context().state().seen.get(&partition).map(|seen| seen.end);
        end.is_none_or(|end| !self.is_finished(partition, end))
    }

    /// Whether the group's own offset is `end`, with our note.
    pub(crate) fn is_finished(&self, partition: i32, end: i64) -> bool {
        let state = self.consumer.context().state();
        state.committed.get(&partition) == Some(&end) && !state.unnoted.contains(&partition)
    }

    /// Offsets that the topic no longer had when the group came to our partitions for the first time.
    pub(crate) fn missing(&self) -> i64 {
        self.consumer.context().state().missing.values().sum()
    }

    /// The first offset of each of these partitions that is there, and the one after the last.
    ///
    /// # Errors
    /// Transient when Kafka does not answer.
    pub(crate) fn bounds(&self, partitions: &[i32]) -> Result<BTreeMap<i32, (i64, i64)>> {
        offsets::bounds(&self.consumer.context().settings, &self.consumer, partitions)
    }

    /// The records that the group comes to next are not there; `None` when that can't be shown.
    fn out_of_range(&self) -> Option<Error> {
        let committed = self.committed();
        let bounds = self.bounds(&committed.keys().copied().collect::<Vec<_>>()).ok()?;
        let fault = |(partition, next): (&i32, &i64)| {
            let facts = Facts { group: Some(*next), logs: Some(*next), bounds: *bounds.get(partition)? };
            judge(facts).err().map(|fault| (*partition, fault))
        };
        let faults: Vec<_> = committed.iter().filter_map(fault).collect();
        refusal(&self.consumer.context().settings, &faults)
    }
}
