//! The states of a key during this run: its row in the table's snapshot must be one of them.

/// The state of the key at [`crate::cut::Cut`]'s low end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    /// The hash of its value; `None` when it was deleted.
    Record(Option<u64>),
    /// The topic has no older record: there was no row, unless its record has expired.
    Nothing,
    /// The state is unknown: a snapshot of the producer passed the key, or compaction may have removed its record.
    Unknown,
}

/// Whether the topic's records allow a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    Equal,
    Different,
    /// The row is not the last state, and the one before has expired.
    Expired,
    /// The row is not the last state, and the one before is unknown.
    Passed,
}

/// A key with records after the low end.
#[derive(Debug)]
pub(crate) struct Recent {
    pub(crate) key: String,
    before: Before,
    /// Its states after each of these records, but the last one.
    since: Vec<Option<u64>>,
}

impl Recent {
    /// Starts with the first record after the low end; `old` is the state by the record before it, if there is one.
    pub(crate) fn new(key: &str, old: Option<Option<u64>>, compacted: bool) -> Self {
        let before = match old {
            Some(state) => Before::Record(state),
            None if compacted => Before::Unknown,
            None => Before::Nothing,
        };
        Self { key: key.to_owned(), before, since: Vec::new() }
    }

    /// Adds a further record; `old` is the state before it.
    pub(crate) fn push(&mut self, old: Option<u64>) {
        self.since.push(old);
    }

    /// Notes a snapshot's record: changes before it need not have records.
    pub(crate) fn passed_by_snapshot(&mut self) {
        self.before = Before::Unknown;
    }

    /// Judges a row that is not the key's last state against the other states. `may_have_expired` says whether records
    /// of this key's partition may have expired.
    pub(crate) fn judge(&self, row: Option<u64>, may_have_expired: bool) -> Match {
        if self.since.contains(&row) {
            return Match::Equal;
        }
        match self.before {
            Before::Record(state) if state == row => Match::Equal,
            Before::Record(_) => Match::Different,
            Before::Nothing if row.is_none() => Match::Equal,
            Before::Nothing if may_have_expired => Match::Expired,
            Before::Nothing => Match::Different,
            Before::Unknown => Match::Passed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_one_of_the_states_since_the_low_end() {
        let mut updated = Recent::new("7", Some(Some(1)), false);
        updated.push(Some(2));
        updated.push(None);
        for (row, want) in
            [(Some(1), Match::Equal), (Some(2), Match::Equal), (None, Match::Equal), (Some(7), Match::Different)]
        {
            assert_eq!(updated.judge(row, true), want, "{row:?}");
        }
        let created = Recent::new("7", None, false);
        assert_eq!(created.judge(None, false), Match::Equal);
        assert_eq!(created.judge(Some(7), false), Match::Different);
        assert_eq!(created.judge(Some(7), true), Match::Expired);
        assert_eq!(Recent::new("7", None, true).judge(Some(7), false), Match::Passed);
        updated.passed_by_snapshot();
        assert_eq!(updated.judge(Some(7), false), Match::Passed);
        assert_eq!(updated.judge(Some(2), false), Match::Equal);
    }
}
