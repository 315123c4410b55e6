//! What the opening of a log finds, and what follows: the log checkpoint that counts, the committed state, and what makes
//! the file hold exactly the committed bytes. Pure; `log_checkpoint` and `log_file` carry it out.

use std::collections::BTreeMap;

use kafka::Partition;
use kafka::slots::LogCheckpoint;

use crate::lineage::{self, LineageError, Log, Note, Step};
use crate::slot_name::Key;

/// The committed state of a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Length of the log, bytes.
    pub length: u64,
    /// The hash of the last bytes before that length; `None` in log checkpoints of the previous version.
    pub tail: Option<u64>,
    /// The offset after the last record that this slot processed, by partition; another slot may be further.
    pub offsets: BTreeMap<Partition, i64>,
}

impl From<&LogCheckpoint> for Committed {
    fn from(checkpoint: &LogCheckpoint) -> Self {
        Self { length: checkpoint.length, tail: checkpoint.tail, offsets: checkpoint.offsets.clone() }
    }
}

/// Takes over the offsets of `others` that are further.
pub(crate) fn furthest(offsets: &mut BTreeMap<Partition, i64>, others: &BTreeMap<Partition, i64>) {
    for (partition, next) in others {
        let known = offsets.entry(*partition).or_insert(*next);
        *known = (*known).max(*next);
    }
}

/// The log checkpoints that concern a log.
#[derive(Debug, Default)]
pub struct Found {
    /// The one of this slot and folder.
    pub own: Option<LogCheckpoint>,
    /// The first existing one of [`Log::former_keys`].
    pub former: Option<(Key, LogCheckpoint)>,
}

impl Found {
    /// See [`lineage::decide`].
    ///
    /// # Errors
    /// See [`LineageError`].
    pub fn decide(&self, log: &Log<'_>) -> Result<Step, LineageError> {
        lineage::decide(log, self.own.as_ref(), self.former.as_ref().map(|(_, checkpoint)| checkpoint))
    }

    /// The log checkpoint whose committed state the step takes.
    pub(crate) fn base(&self, step: Step) -> Option<&LogCheckpoint> {
        match step {
            Step::Begin => None,
            Step::Continue => self.own.as_ref(),
            Step::TakeOver => self.former.as_ref().map(|(_, checkpoint)| checkpoint),
        }
    }

    /// The committed state with which the step continues. Its offsets include those of the own log checkpoint.
    pub fn committed(&self, step: Step) -> Committed {
        let mut committed = self.base(step).map(Committed::from).unwrap_or_default();
        if let Some(own) = &self.own {
            furthest(&mut committed.offsets, &own.offsets);
        }
        committed
    }

    /// What `.owner` must say before the log checkpoint gets the session `next`.
    pub fn note(&self, log: &Log<'_>, step: Step, next: &str) -> Note {
        let own = log.name.key(log.group);
        let former = self.former.as_ref().filter(|_| step == Step::TakeOver);
        Note {
            topic: log.topic.to_owned(),
            group: log.group.to_owned(),
            checkpoint: former.map_or(own, |(key, _)| key.clone()),
            session: self.base(step).map_or_else(String::new, |checkpoint| checkpoint.session.clone()),
            next: next.to_owned(),
        }
    }
}

/// What makes the file hold exactly the committed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It does.
    Keep,
    /// Cut off so many bytes.
    Cut(u64),
    /// So many committed bytes are missing.
    Lost(u64),
}

impl Settlement {
    /// Of a file with this length, bytes, of which so many are committed.
    pub fn of(length: u64, committed: u64) -> Self {
        match length.checked_sub(committed) {
            Some(0) => Self::Keep,
            Some(surplus) => Self::Cut(surplus),
            None => Self::Lost(committed - length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_behind_the_committed_length_goes() {
        for (length, committed, want) in [
            (0, 0, Settlement::Keep),
            (10, 10, Settlement::Keep),
            (13, 10, Settlement::Cut(3)),
            (7, 10, Settlement::Lost(3)),
        ] {
            assert_eq!(Settlement::of(length, committed), want, "{length} {committed}");
        }
    }

    #[test]
    fn a_log_that_is_taken_over_keeps_the_offsets_of_both_places() {
        let at = |partition, next| (Partition::main(partition), next);
        let checkpoint = |length, offsets| LogCheckpoint { length, offsets, ..LogCheckpoint::default() };
        let found = Found {
            own: Some(checkpoint(0, [at(1, 9), at(2, 4)].into())),
            former: Some((Key("consumer_1".to_owned()), checkpoint(7, [at(1, 5), at(3, 6)].into()))),
        };
        let offsets = [at(1, 9), at(2, 4), at(3, 6)].into();
        assert_eq!(found.committed(Step::TakeOver), Committed { length: 7, tail: None, offsets });
        assert_eq!(found.committed(Step::Begin).offsets, [at(1, 9), at(2, 4)].into());
    }
}
