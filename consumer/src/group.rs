//! Membership of the consumer group: the partitions that this member owns, and the offset from which it reads each.
//!
//! Static membership with the classic protocol and `cooperative-sticky`: a member that rejoins within the session
//! timeout gets its partitions back, and the other members keep theirs.
//!
//! Invariants:
//!
//! A partition is read from the group's committed offset. The member looks the offset up when the partition is assigned
//! (it waits until a transaction of the former owner has ended) and compares it with the logs' offsets
//! ([`crate::start_offset`]). An offset that is no longer in the topic is an error and never a jump.
//!
//! At each change of the assignment the member also looks up the offsets of the partitions that stay. A static member
//! that was expelled and joins again (JoinGroup answered with UNKNOWN_MEMBER_ID) keeps its partitions without a
//! callback from the client library, and other members may have committed further offsets.
//!
//! Commits carry the generation of the last change that was processed, never the client's own, which is ahead of it.
//! Callers detect assignment changes by comparing [`Group::changes`]. Never commit records polled before a change with
//! group metadata taken after it: the broker validates the generation, not partition ownership.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kafka::{Failure, GroupMember, Logging, Partition, Topic};
use model::error::{Error, Result};
use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use runtime::config::KafkaSettings;
use runtime::failpoint;
use runtime::step::ConsumerStep;

use crate::assignment;
use crate::group_state::{Seen, State};
use crate::offsets;
use crate::slot_name::Name;
use crate::start_offset::{Facts, Start, judge, refusal};
use crate::topics::Topics;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

struct Context {
    logging: Logging,
    /// The main table's.
    settings: KafkaSettings,
    topics: Topics,
    state: Mutex<State>,
    /// Notified of each change of the assignment.
    changed: Sender<()>,
}

impl Context {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, file: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.logging.generate_oauth_token(file)
    }

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
        let last_answer = silent.and_then(|micros| Instant::now().checked_sub(Duration::from_micros(micros)));
        state.last_answer = state.last_answer.max(last_answer);
        let partitions = statistics.topics.values().flat_map(|t| {
            let topic = Topic::of(&t.topic, &self.settings.topic);
            t.partitions.values().map(move |p| (Partition { topic, number: p.partition }, p))
        });
        let seen = |p: &rdkafka::statistics::Partition| Seen {
            end: p.ls_offset,
            drained: p.next_offset >= p.ls_offset && p.fetchq_cnt == 0,
        };
        state.seen = partitions.filter(|(_, p)| p.ls_offset >= 0).map(|(partition, p)| (partition, seen(p))).collect();
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, kind: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        // Wake the thread that recovers slots: this callback may wait for a transaction that a gone neighbour left
        // open.
        self.changed.send(()).unwrap_or_default();
        // Take the metadata before the offsets are looked up: if the group rebalances in between, the broker refuses
        // commits.
        let metadata = kafka::group_member(consumer).map(Arc::new);
        let partitions = &mut offsets::of_topics(&self.settings, &self.topics, partitions);
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
        let new = offsets::partitions(partitions, &self.settings.topic);
        let outcome = self.starts(consumer, &new);
        if let Ok(starts) = &outcome {
            for (partition, (start, _)) in starts {
                let from = Offset::Offset(start.from);
                let topic = partition.topic.name(&self.settings.topic);
                partitions.set_partition_offset(topic, partition.number, from).map_err(unexpected)?;
            }
        }
        // Answer even after an error: the client library waits for it.
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
                let (topic, last) = (partition.topic.name(&self.settings.topic), missing - 1);
                tracing::warn!(
                    topic,
                    partition = partition.number,
                    "the topic no longer has offsets 0 to {last}, and this group begins now: their changes are in none of its \
                     logs; `cdc-producer checkpoint reset` writes the present rows to the topic once more"
                );
            }
        }
        let owned: Vec<Partition> = state.committed.keys().copied().collect();
        assignment::log_assigned(&new, &owned);
        Ok(())
    }

    /// The offsets from which to read newly assigned partitions.
    fn starts(&self, consumer: &BaseConsumer<Self>, new: &[Partition]) -> Result<BTreeMap<Partition, (Start, bool)>> {
        if new.is_empty() {
            return Ok(BTreeMap::new());
        }
        for (of, settings) in self.topics.all() {
            let (topic, wanted) = (settings.topic, settings.partitions);
            if new.iter().any(|partition| partition.topic == of && partition.number >= wanted) {
                let metadata = consumer.fetch_metadata(Some(&topic), REQUEST_TIMEOUT).map_err(unexpected)?;
                let count = metadata.topics().iter().find(|t| t.name() == topic).map_or(0, |t| t.partitions().len());
                return Err(Failure::OtherCount { topic, count, wanted }.into_error("cannot read on"));
            }
        }
        let bounds = offsets::bounds(&self.settings, consumer, new)?;
        let done = self.state().done.clone();
        offsets::starts(&self.settings, &self.topics, consumer, new, &done, &bounds)
    }

    fn revoke(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) -> Result<()> {
        let gone = offsets::partitions(partitions, &self.settings.topic);
        failpoint::at(ConsumerStep::Revoking);
        let mut state = self.state();
        state.committed.retain(|partition, _| !gone.contains(partition));
        state.unnoted.retain(|partition| !gone.contains(partition));
        let owned: Vec<Partition> = state.committed.keys().copied().collect();
        drop(state);
        assignment::log_revoked(&gone, &owned, consumer.assignment_lost());
        consumer.incremental_unassign(partitions).map_err(unexpected)
    }

    /// Only answers the client library; these partitions will not be read.
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

    /// Looks up the group's offsets of the partitions that stay assigned.
    fn keep(&self, consumer: &BaseConsumer<Self>) -> Result<()> {
        let kept = self.state().committed.clone();
        if kept.is_empty() {
            return Ok(());
        }
        let partitions: Vec<Partition> = kept.keys().copied().collect();
        // Partitions without a commit of ours have no offset to compare with.
        let mut done = kept.clone();
        done.retain(|partition, _| !self.state().unnoted.contains(partition));
        let starts = offsets::starts(&self.settings, &self.topics, consumer, &partitions, &done, &BTreeMap::new())?;
        let mut state = self.state();
        for (partition, (Start { from, .. }, _)) in starts {
            let known = kept[&partition];
            if from > known {
                tracing::warn!(%partition, from = known, to = from, "others went on with a partition that stays ours");
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

/// Errors of a poll.
#[derive(Debug)]
pub(crate) enum PollError {
    /// The membership has ended; create a new one. `fenced`: another process has the same identity.
    Ended { error: Error, fenced: bool },
    /// The error persists until a person acts.
    Definite(Error),
}

/// A member of the group.
pub(crate) struct Group {
    topics: Topics,
    consumer: BaseConsumer<Context>,
}

impl Drop for Group {
    fn drop(&mut self) {
        self.consumer.context().state().closing = true;
    }
}

impl Group {
    /// Joins the group under the slot's name, which no slot of another folder has. `done` has the slot's committed
    /// offset of each partition; each change of the assignment is sent to `changed`.
    ///
    /// # Errors
    /// Usage when the client refuses its configuration.
    pub(crate) fn join(
        settings: &KafkaSettings,
        topics: Topics,
        slot: &Name,
        done: BTreeMap<Partition, i64>,
        changed: Sender<()>,
    ) -> Result<Self> {
        let state = Mutex::new(State { done, ..State::default() });
        let logging = Logging::default();
        let context = Context { logging, settings: settings.clone(), topics: topics.clone(), state, changed };
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
            // Every partition has an explicit start offset; an offset that is no longer in the topic must not be
            // skipped.
            .set("auto.offset.reset", "error")
            .set("statistics.interval.ms", "2000")
            .create_with_context(context)
            .map_err(refused)?;
        kafka::give_token(settings, consumer.client())?;
        let group = Self { topics, consumer };
        group.subscribe().map_err(refused)?;
        Ok(group)
    }

    /// Subscribes to the topics as they are now.
    fn subscribe(&self) -> Result<(), KafkaError> {
        let all = self.topics.all();
        self.consumer.subscribe(&all.values().map(|settings| settings.topic.as_str()).collect::<Vec<_>>())
    }

    /// The main table's settings.
    fn settings(&self) -> &KafkaSettings {
        &self.consumer.context().settings
    }

    /// The number of assignment changes so far.
    pub(crate) fn changes(&self) -> u64 {
        self.consumer.context().state().changes
    }

    /// Our partitions with the group's committed offsets.
    pub(crate) fn committed(&self) -> BTreeMap<Partition, i64> {
        self.consumer.context().state().committed.clone()
    }

    /// Notes the offsets that a transaction committed.
    pub(crate) fn note_committed(&self, offsets: &BTreeMap<Partition, i64>) {
        let mut state = self.consumer.context().state();
        for (partition, offset) in offsets {
            state.done.insert(*partition, *offset);
            state.unnoted.remove(partition);
            if let Some(committed) = state.committed.get_mut(partition) {
                *committed = *offset;
            }
        }
    }

    /// When a broker last sent anything, as of the last statistics, which come every two seconds. Fetches and
    /// heartbeats are answered at least every three.
    pub(crate) fn last_answer(&self) -> Option<Instant> {
        self.consumer.context().state().last_answer
    }

    /// The number of records that are not committed yet, by partition, as of the last statistics. Call it only when
    /// everything polled is committed. Transaction markers count as records, except where everything is read.
    pub(crate) fn lag(&self) -> BTreeMap<Partition, i64> {
        let state = self.consumer.context().state();
        let lag = |(partition, offset): (&Partition, &i64)| {
            let seen = state.seen.get(partition)?;
            Some((*partition, if seen.drained { 0 } else { (seen.end - offset).max(0) }))
        };
        state.committed.iter().filter_map(lag).collect()
    }

    /// The generation and member that the next batch is polled under.
    pub(crate) fn metadata(&self) -> Option<Arc<GroupMember>> {
        self.consumer.context().state().metadata.clone()
    }

    /// Partitions whose fetched records may be older than the group's next offset; pass them to [`Group::seek`].
    pub(crate) fn take_moved(&self) -> BTreeSet<Partition> {
        std::mem::take(&mut self.consumer.context().state().moved)
    }

    /// Polls one record, or none within `timeout`. The callbacks run inside.
    ///
    /// # Errors
    /// See [`PollError`]; errors that the client recovers from are not returned.
    pub(crate) fn poll(&self, timeout: Duration) -> Result<Option<BorrowedMessage<'_>>, PollError> {
        let polled = self.consumer.poll(timeout);
        match self.consumer.context().state().failed.take() {
            None => {}
            Some(error) if error.is_transient() => return Err(PollError::Ended { error, fenced: false }),
            Some(error) => return Err(PollError::Definite(error)),
        }
        let error = match polled {
            None => return Ok(None),
            Some(Ok(message)) => return Ok(Some(message)),
            Some(Err(error)) => error,
        };
        let ended = |fenced, error| {
            let error = Error::transient("the membership of the consumer group has ended").with_source(error);
            Err(PollError::Ended { error, fenced })
        };
        match (&error, error.rdkafka_error_code()) {
            (KafkaError::MessageConsumptionFatal(code), _) => {
                ended(matches!(code, RDKafkaErrorCode::FencedInstanceId), error)
            }
            (_, Some(RDKafkaErrorCode::AutoOffsetReset)) => match self.out_of_range() {
                Some(error) => Err(PollError::Definite(error)),
                // A look-up failed, of a topic that not all brokers have in their metadata yet.
                None => ended(false, error),
            },
            (_, Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)) => {
                ended(false, error)
            }
            _ if offsets::is_refused(&error) => {
                Err(PollError::Definite(offsets::no_right(self.settings()).with_source(error)))
            }
            // A broker now refuses our password or certificate; the next start reports it.
            _ if self.consumer.context().logging.refused().is_some() => ended(false, error),
            _ => {
                tracing::debug!(%error, "poll");
                Ok(None)
            }
        }
    }

    /// Continues each of these partitions at the given offset.
    ///
    /// # Errors
    /// Transient when the client fails to seek; create a new membership then.
    pub(crate) fn seek(&self, offsets: &BTreeMap<Partition, i64>) -> Result<()> {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        for (partition, offset) in offsets {
            // The client can't seek in a partition for a moment after its assignment.
            let topic = partition.topic.name(&self.settings().topic);
            let to = Offset::Offset(*offset);
            while let Err(error) = self.consumer.seek(topic, partition.number, to, REQUEST_TIMEOUT) {
                if Instant::now() > deadline {
                    let text = format!("cannot read partition {partition} again from offset {offset}");
                    return Err(Error::transient(text).with_source(error));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    /// Partitions that the coordinator has assigned to no member. `None` when the coordinator does not answer within
    /// two seconds, or during a rebalance. No partition is unowned in an empty group.
    pub(crate) fn unowned(&self) -> Option<BTreeSet<Partition>> {
        let KafkaSettings { group_id, topic, .. } = self.settings();
        let groups = self.consumer.fetch_group_list(Some(group_id), Duration::from_secs(2)).ok()?;
        let group = groups.groups().iter().find(|g| g.name() == group_id && g.state() == "Stable")?;
        let mut unowned: BTreeSet<Partition> = self.topics.partitions().into_iter().collect();
        for member in group.members() {
            for partition in kafka::assigned(member.assignment().unwrap_or_default(), topic)? {
                unowned.remove(&partition);
            }
        }
        Some(unowned)
    }

    /// Leaves the group's partitions and joins again. The metadata of this join (the owned partitions and their
    /// generation) differs from the last one, so the broker makes all other members join again too.
    pub(crate) fn rejoin(&self) {
        self.consumer.unsubscribe();
        self.subscribe_again();
    }

    /// Subscribes to the topics as they are now, which makes the group assign partitions.
    pub(crate) fn subscribe_again(&self) {
        // An error means that the client is unusable, which the next poll reports.
        if let Err(error) = self.subscribe() {
            tracing::warn!(%error, "cannot join the group again");
        }
    }

    /// Whether the partition's end may be behind the group's offset, as of the last statistics.
    pub(crate) fn may_be_unfinished(&self, partition: Partition) -> bool {
        let end = self.consumer.context().state().seen.get(&partition).map(|seen| seen.end);
        end.is_none_or(|end| !self.is_finished(partition, end))
    }

    /// Whether the group's offset is `end`, with our note.
    pub(crate) fn is_finished(&self, partition: Partition, end: i64) -> bool {
        let state = self.consumer.context().state();
        state.committed.get(&partition) == Some(&end) && !state.unnoted.contains(&partition)
    }

    /// The number of offsets that the topic no longer had when the group first read our partitions.
    pub(crate) fn missing(&self) -> i64 {
        self.consumer.context().state().missing.values().sum()
    }

    /// The first existing offset of each of these partitions, and the one after the last.
    ///
    /// # Errors
    /// Transient when Kafka does not answer.
    pub(crate) fn bounds(&self, partitions: &[Partition]) -> Result<BTreeMap<Partition, (i64, i64)>> {
        offsets::bounds(&self.consumer.context().settings, &self.consumer, partitions)
    }

    /// The error for a group offset whose records are no longer in the topic; `None` when the bounds do not show it.
    fn out_of_range(&self) -> Option<Error> {
        let committed = self.committed();
        let bounds = self.bounds(&committed.keys().copied().collect::<Vec<_>>()).ok()?;
        let fault = |(partition, next): (&Partition, &i64)| {
            let facts = Facts { group: Some(*next), logs: Some(*next), bounds: *bounds.get(partition)? };
            judge(facts).err().map(|fault| (*partition, fault))
        };
        let faults: Vec<_> = committed.iter().filter_map(fault).collect();
        refusal(&self.consumer.context().settings, &faults)
    }
}
