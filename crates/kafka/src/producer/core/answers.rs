//! What follows from each answer.

use std::sync::Arc;
use std::time::Instant;

use super::super::failure::Failure;
use super::super::link::{Answer, Subject};
use super::super::pause::{Length, Pause};
use super::super::policy::{Reaction, reaction, refusal};
use super::super::slots::Membership;
use super::{Core, LinkId};
use crate::wire::answers::{Address, Coordinator, Identified, Metadata, Produced};
use crate::wire::codes::KafkaCode;
use crate::wire::requests::{Api, Coordinates, Level};
use model::error::Code;

/// Topic, partition and what became of it.
type PartitionCode = (Arc<str>, i32, KafkaCode);

/// The first partition of each error. Each counts once, as every loss of the coordinator makes the pause longer.
fn errors(answers: &[PartitionCode]) -> Vec<&PartitionCode> {
    let mut errors: Vec<&PartitionCode> = Vec::new();
    for answer in answers.iter().filter(|(.., code)| code.is_error()) {
        if errors.iter().all(|(.., code)| *code != answer.2) {
            errors.push(answer);
        }
    }
    errors
}

/// A batch that brokers call corrupt so often is given up.
const CORRUPT_TRIES: u32 = 5;

impl Core {
    pub(super) fn answered(&mut self, id: LinkId, subject: Subject, answer: Answer, now: Instant) {
        match (subject, answer) {
            (Subject::Metadata, Answer::Metadata(metadata)) => self.leaders_answered(metadata, now),
            (Subject::Coordinator(of), Answer::Coordinator(found)) => self.coordinator_answered(of, found, now),
            (Subject::Initialise, Answer::Identified(answer)) => self.initialised(id, answer, now),
            (Subject::AddPartitions(slots), Answer::Partitions(answers)) => self.added(&slots, &answers, now),
            (Subject::AddOffsets, Answer::Code(code)) => self.offsets_added(code, now),
            (Subject::Produce(slots), Answer::Produced(answers, nodes)) => {
                self.produced(&slots, answers, nodes, now);
            }
            (Subject::Offsets, Answer::Partitions(answers)) => self.offsets_answered(&answers, now),
            (Subject::End { commit }, Answer::Identified(answer)) => self.end_answered(commit, answer, now),
            // The kind of the answer follows from the subject.
            (subject, _) => self.fail(Failure::Broken(format!("{} has another answer", subject.api().name()))),
        }
    }

    /// Reacts to an error of a request to the coordinator `of`; the request is due again after the returned pause.
    fn react(&mut self, api: Api, code: KafkaCode, of: Coordinates, what: &str, now: Instant) -> Option<Length> {
        let reaction = reaction(api, code, self.level);
        let text = || format!("{}{what}: {code}", api.name());
        match reaction {
            Reaction::Done => None,
            Reaction::Again(length) => {
                self.trouble = Some(text());
                Some(length)
            }
            Reaction::Leaders | Reaction::Halve => Some(Length::Usual),
            Reaction::Coordinator => {
                self.trouble = Some(text());
                self.lose_coordinator(of, now);
                None
            }
            Reaction::Abort | Reaction::Rebalanced | Reaction::Fenced | Reaction::Broken | Reaction::Refused => {
                self.fail_with(reaction, code, text());
                None
            }
        }
    }

    fn fail_with(&mut self, reaction: Reaction, code: KafkaCode, reason: String) {
        self.fail(match reaction {
            Reaction::Fenced => Failure::Fenced(reason),
            Reaction::Abort => Failure::Abortable(reason),
            Reaction::Rebalanced => Failure::Rebalanced(reason),
            Reaction::Refused | Reaction::Halve => {
                let (code, remedy) = refusal(code).unwrap_or((Code::RecordRefused, "see Kafka's log for the reason"));
                Failure::Refused { code, reason, remedy: remedy.into() }
            }
            _ => Failure::Broken(reason),
        });
    }

    fn leaders_answered(&mut self, metadata: Metadata, now: Instant) {
        self.leaders.is_asked = false;
        self.leaders_answers += 1;
        if !metadata.brokers.is_empty() {
            self.nodes = metadata.brokers.into_iter().collect();
            self.adopt();
        }
        for topic in metadata.topics {
            if topic.code.is_error() {
                self.counts.remove(&topic.name);
                self.topic_is_missing(&topic.name, topic.code);
                continue;
            }
            self.counts.insert(topic.name.clone(), topic.partitions.len());
            for leader in topic.partitions {
                if let Some(slot) = self.slots.find(&topic.name, leader.partition) {
                    self.slots.all[slot].leader = Some(leader.leader).filter(|leader| *leader >= 0);
                }
            }
        }
        self.leaders_found(now);
    }

    fn topic_is_missing(&mut self, topic: &str, code: KafkaCode) {
        let is_active = self.slots.active.iter().any(|slot| self.slots.name(self.slots.all[*slot].topic) == topic);
        if !is_active {
            return;
        }
        let reason = format!("topic {topic}: {code}");
        match refusal(code) {
            Some(_) => self.fail_with(Reaction::Refused, code, reason),
            None => self.trouble = Some(reason),
        }
    }

    fn coordinator_answered(&mut self, of: Coordinates, found: Coordinator, now: Instant) {
        self.seat(of).search.is_asked = false;
        let what = if of == Coordinates::Group { format!(" of group {}", self.group) } else { String::new() };
        if !found.code.is_error() {
            self.nodes.insert(found.node, found.address);
            self.adopt();
            let seat = self.seat(of);
            seat.node = Some(found.node);
            seat.search.pause = Pause::default();
        } else if let Some(length) = self.react(Api::FindCoordinator, found.code, of, &what, now) {
            self.seat(of).search.pause.again(length, now);
        }
    }

    fn initialised(&mut self, id: LinkId, answer: Identified, now: Instant) {
        self.step.is_asked = false;
        let what = format!(" of {}", self.options.transactional_id);
        if let Some(length) = self.react(Api::InitProducerId, answer.code, Coordinates::Transactions, &what, now) {
            self.step.pause.again(length, now);
        }
        if !answer.code.is_error() {
            let Some(producer) = answer.producer else {
                return self.fail(Failure::Broken("InitProducerId has no id".to_owned()));
            };
            self.level = self.level_of_cluster(id);
            self.slots.end(true);
            self.identity = Some(producer);
            self.stage = super::Stage::Ready;
            tracing::debug!(level = ?self.level, "transactions are initialised");
        }
    }

    /// The kind of transactions that the cluster has finalised, as its newest answer says, when this broker speaks it.
    pub(super) fn level_of_cluster(&self, id: LinkId) -> Level {
        let newest = self.links.values().map(|link| &link.versions).max_by_key(|versions| versions.features_epoch);
        let is_finalised = newest.is_some_and(|versions| versions.transaction_version >= 2);
        let speaks = |api: Api| {
            let version = Level::V2.version(api);
            self.links.get(&id).is_some_and(|link| link.versions.of(api, version, version).is_some())
        };
        let speaks_all = [Api::Produce, Api::TxnOffsetCommit, Api::EndTxn].into_iter().all(speaks);
        if is_finalised && speaks_all { Level::V2 } else { Level::V1 }
    }

    fn added(&mut self, slots: &[usize], answers: &[PartitionCode], now: Instant) {
        self.step.is_asked = false;
        let mut pause = None;
        self.is_known |= answers.iter().any(|(.., code)| !self.adds_nothing(Api::AddPartitionsToTxn, *code));
        for (topic, partition, _) in answers.iter().filter(|(.., code)| !code.is_error()) {
            if let Some(slot) = self.slots.find(topic, *partition).filter(|slot| slots.contains(slot)) {
                self.slots.all[slot].membership = Membership::In;
            }
        }
        let errors = errors(answers);
        let is_asked = |slot: &usize| self.slots.all[*slot].membership == Membership::Asked;
        if errors.is_empty() && slots.iter().any(is_asked) {
            self.trouble = Some("an answer to AddPartitionsToTxn lacks partitions".to_owned());
            self.is_known = true;
            pause = Some(Length::Usual);
        }
        for (topic, partition, code) in errors {
            // The error of another partition counts.
            if *code == KafkaCode::OPERATION_NOT_ATTEMPTED {
                continue;
            }
            let what = format!(" with topic {topic}, partition {partition}");
            let again = self.react(Api::AddPartitionsToTxn, *code, Coordinates::Transactions, &what, now);
            pause = pause.or(again);
        }
        self.not_added(slots);
        match pause {
            Some(length) => self.step.pause.again(length, now),
            None => self.step.pause = Pause::default(),
        }
    }

    /// Whether the coordinator answers with this error before it writes. After its other errors, the addition may count.
    fn adds_nothing(&self, api: Api, code: KafkaCode) -> bool {
        let is_before_the_write = matches!(
            code,
            KafkaCode::UNKNOWN_TOPIC_OR_PARTITION
                | KafkaCode::OPERATION_NOT_ATTEMPTED
                | KafkaCode::CONCURRENT_TRANSACTIONS
        );
        is_before_the_write || reaction(api, code, self.level) == Reaction::Refused
    }

    fn offsets_added(&mut self, code: KafkaCode, now: Instant) {
        self.is_known |= !self.adds_nothing(Api::AddOffsetsToTxn, code);
        let what = format!(" of group {}", self.group);
        let pause = self.react(Api::AddOffsetsToTxn, code, Coordinates::Transactions, &what, now);
        self.offsets_due(pause, now, |offsets| offsets.is_added = !code.is_error());
    }

    fn offsets_due(&mut self, pause: Option<Length>, now: Instant, change: impl FnOnce(&mut super::Offsets)) {
        let Some(offsets) = &mut self.offsets else { return };
        offsets.task.is_asked = false;
        match pause {
            Some(length) => offsets.task.pause.again(length, now),
            None => offsets.task.pause = Pause::default(),
        }
        change(offsets);
    }

    fn offsets_answered(&mut self, answers: &[PartitionCode], now: Instant) {
        let mut pause = None;
        for (topic, partition, code) in errors(answers) {
            let what = format!(" of group {}, topic {topic}, partition {partition}", self.group);
            let again = self.react(Api::TxnOffsetCommit, *code, Coordinates::Group, &what, now);
            pause = pause.or(again);
        }
        let mut answered: Vec<(&str, i32)> = answers.iter().map(|(topic, number, _)| (&**topic, *number)).collect();
        answered.sort_unstable();
        let wanted = self.offsets.as_ref().map_or(&[][..], |offsets| &offsets.of);
        let is_whole = wanted.iter().map(|offset| (offset.topic.as_str(), offset.partition)).eq(answered);
        let has_errors = answers.iter().any(|(.., code)| code.is_error());
        let is_done = is_whole && !has_errors;
        if !is_whole && !has_errors {
            self.trouble = Some("an answer to TxnOffsetCommit has other partitions".to_owned());
            pause = Some(Length::Usual);
        }
        self.offsets_due(pause, now, |offsets| offsets.is_done = is_done);
    }

    fn produced(
        &mut self,
        slots: &[usize],
        answers: Vec<(Arc<str>, i32, Produced)>,
        nodes: Vec<(i32, Address)>,
        now: Instant,
    ) {
        self.nodes.extend(nodes);
        slots.iter().for_each(|slot| self.slots.all[*slot].not_written());
        let mut left = slots.to_vec();
        for (topic, partition, produced) in answers {
            let slot = self.slots.find(&topic, partition);
            let Some(place) = left.iter().position(|left| Some(*left) == slot) else { continue };
            self.batch_answered(left.swap_remove(place), &topic, &produced, now);
        }
        // What the answer leaves out is sent again.
        left.iter().for_each(|slot| self.slots.all[*slot].pause.again(Length::Usual, now));
    }

    fn batch_answered(&mut self, number: usize, topic: &str, produced: &Produced, now: Instant) {
        let code = produced.code;
        let slot = &mut self.slots.all[number];
        let why = produced.message.as_ref().map_or_else(String::new, |message| format!(" ({message})"));
        let text = format!("Produce to topic {topic}, partition {}: {code}{why}", slot.partition);
        let mut reaction = reaction(Api::Produce, code, self.level);
        if code == KafkaCode::CORRUPT_MESSAGE && slot.pause.attempts() >= CORRUPT_TRIES {
            reaction = Reaction::Abort;
        }
        match reaction {
            Reaction::Done => self.slots.acknowledge(number),
            Reaction::Again(length) => {
                slot.pause.again(length, now);
                self.trouble = Some(text);
            }
            Reaction::Leaders => {
                let named = produced.leader.filter(|leader| self.nodes.contains_key(leader));
                match named.filter(|leader| slot.leader != Some(*leader)) {
                    Some(leader) => slot.leader = Some(leader),
                    None => {
                        slot.leader = None;
                        slot.pause.again(Length::Usual, now);
                    }
                }
                self.trouble = Some(text);
            }
            Reaction::Halve => match self.slots.halve(number, self.options.compression) {
                Ok(true) => {}
                Ok(false) => self.fail_with(Reaction::Refused, code, text),
                Err(error) => self.fail(Failure::Broken(format!("{text}; halving the batch: {error}"))),
            },
            Reaction::Coordinator
            | Reaction::Abort
            | Reaction::Rebalanced
            | Reaction::Fenced
            | Reaction::Broken
            | Reaction::Refused => {
                self.fail_with(reaction, code, text);
            }
        }
    }

    fn end_answered(&mut self, commit: bool, answer: Identified, now: Instant) {
        self.step.is_asked = false;
        if !answer.code.is_error() {
            let next = if self.level == Level::V2 { answer.producer } else { None };
            return self.ended(next);
        }
        let what = if commit { " (commit)" } else { " (abort)" };
        let reaction = reaction(Api::EndTxn, answer.code, self.level);
        if reaction == Reaction::Abort && commit {
            // The coordinator refuses the commit, so nothing is committed.
            self.is_ending = false;
        }
        if matches!(reaction, Reaction::Abort | Reaction::Refused) && !commit {
            // The next producer ends it, or is told the same at its start.
            return self.fail(Failure::Broken(format!("EndTxn{what}: {}", answer.code)));
        }
        if let Some(length) = self.react(Api::EndTxn, answer.code, Coordinates::Transactions, what, now) {
            self.step.pause.again(length, now);
        }
    }
}
