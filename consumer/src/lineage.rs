//! Decides which log an opened file is, and so what its opening may do. Pure.
//!
//! Two records must agree before a log is written to: the file `.owner` beside it, and the log checkpoint in Kafka.
//! Both name the last opening of the log, its *session*. Each opening draws a new session, writes it to the file first
//! and then, in a Kafka transaction, to the log checkpoint. So only the copy of a folder that was opened last has the
//! log checkpoint's session. The other copy is refused: its lines may differ from the committed ones.
//!
//! The file of a log that was moved (into another folder, to another number) names the log checkpoint of its former
//! place. The log is taken over: one Kafka transaction writes the log checkpoint of the new place and marks the former
//! one as moved. A folder of the previous version, whose log checkpoints have no folder in their names, is taken over
//! in the same way.

use kafka::slots::LogCheckpoint;
use serde::{Deserialize, Serialize};

use crate::slot_name::{Key, Name};

/// What the file `.owner` of a slot says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// There is no file.
    None,
    /// The text of the previous version: the topic and group of the log's lines.
    Text(String),
    /// The text of this version.
    Note(Note),
}

/// The file `.owner` as this version writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The main topic of the lines.
    pub topic: String,
    /// The group that they were written for.
    pub group: String,
    /// The log checkpoint that says how much of the log is committed.
    #[serde(rename = "marker")]
    pub checkpoint: Key,
    /// That log checkpoint's session when this was written.
    pub session: String,
    /// The session that is being written to the log checkpoint.
    pub next: String,
}

impl Owner {
    pub(crate) fn parse(text: &str) -> Self {
        match serde_json::from_str(text) {
            Ok(note) => Self::Note(note),
            Err(_) if text.trim().is_empty() => Self::None,
            Err(_) => Self::Text(text.trim().to_owned()),
        }
    }

    /// Whether the previous version wrote the lines.
    pub(crate) fn is_of_the_version_before(&self, log_length: u64) -> bool {
        matches!(self, Self::Text(_)) || (*self == Self::None && log_length > 0)
    }
}

/// The text of `.owner` in the previous version.
pub(crate) fn owner_text(topic: &str, group: &str) -> String {
    format!("topic {topic} for group {group}")
}

/// A log before it is opened.
#[derive(Clone, Debug)]
pub struct Log<'a> {
    /// Bytes in the file.
    pub length: u64,
    /// The main topic that is read.
    pub topic: &'a str,
    /// The group that reads it.
    pub group: &'a str,
    /// Its place.
    pub name: &'a Name,
    /// What the file `.owner` says.
    pub owner: &'a Owner,
    /// The previous version used its folder.
    pub legacy: bool,
}

impl Log<'_> {
    /// The keys of other log checkpoints from which the log may have to be taken over; the first existing one counts.
    pub fn former_keys(&self) -> Vec<Key> {
        let plain = Name { folder: None, ..self.name.clone() };
        let legacy = || {
            let mut keys = vec![plain.key(self.group), Key(plain.to_string())];
            keys.dedup();
            keys
        };
        match self.owner {
            Owner::Note(note) if self.is_ours(note) && note.checkpoint != self.name.key(self.group) => {
                vec![note.checkpoint.clone()]
            }
            Owner::Text(text) if *text == owner_text(self.topic, self.group) => legacy(),
            Owner::None if self.legacy => legacy(),
            _ => Vec::new(),
        }
    }

    fn is_ours(&self, note: &Note) -> bool {
        note.topic == self.topic && note.group == self.group
    }
}

/// The step of an opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The slot has no lines: its log checkpoint says 0.
    Begin,
    /// Its own log checkpoint counts.
    Continue,
    /// The former log checkpoint counts, and becomes its own.
    TakeOver,
}

/// Why a log must not be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineageError {
    /// It has lines, but no log checkpoint of the group counts them.
    Foreign,
    /// Another copy of this log checkpoint's log was opened later, at the given place.
    Continued(Key, String),
    /// It was taken over by another folder or slot: its log checkpoint's key and the place.
    Moved(String, String),
    /// A person declared its folder lost, from the given place.
    Forgotten(String),
    /// It replaced a log that has other lines.
    Occupied(Key),
}

/// Decides from the log's own log checkpoint and from the former one, which is the first existing of
/// [`Log::former_keys`].
///
/// # Errors
/// See [`LineageError`].
pub fn decide(
    log: &Log<'_>,
    own: Option<&LogCheckpoint>,
    former: Option<&LogCheckpoint>,
) -> Result<Step, LineageError> {
    let kept = own.filter(|m| m.moved.is_none());
    let empty = |refusal| match log.length {
        0 if kept.is_some_and(|m| m.length > 0) => Ok(Step::Continue),
        0 => Ok(Step::Begin),
        _ => Err(refusal),
    };
    let own_key = log.name.key(log.group);
    let former_moved = |former: &LogCheckpoint| former.moved.as_ref().map(|m| moved(&own_key, m));
    match log.owner {
        Owner::Note(note) if log.is_ours(note) => {
            let has = |m: &&LogCheckpoint| [&note.session, &note.next].contains(&&m.session);
            if kept.is_some_and(|m| has(&m) && !m.session.is_empty()) {
                return Ok(Step::Continue);
            }
            if note.checkpoint == own_key {
                return match own {
                    None => empty(LineageError::Foreign),
                    Some(LogCheckpoint { moved: Some(m), .. }) => empty(moved(&own_key, m)),
                    Some(checkpoint) => Err(LineageError::Continued(own_key, checkpoint.place.clone())),
                };
            }
            match former {
                None => empty(LineageError::Foreign),
                Some(checkpoint) => match former_moved(checkpoint) {
                    Some(refusal) => empty(refusal),
                    None if !has(&checkpoint) => {
                        empty(LineageError::Continued(note.checkpoint.clone(), checkpoint.place.clone()))
                    }
                    None if kept.is_some_and(|m| m.length > 0) => Err(LineageError::Occupied(note.checkpoint.clone())),
                    None => Ok(Step::TakeOver),
                },
            }
        }
        // The previous version wrote here last, even if this version was used before it.
        Owner::Text(text) if *text == owner_text(log.topic, log.group) => match former {
            None => empty(LineageError::Foreign),
            Some(checkpoint) => former_moved(checkpoint).map_or(Ok(Step::TakeOver), empty),
        },
        Owner::None if kept.is_some() => Ok(Step::Continue),
        Owner::None => match former.map(former_moved) {
            None => empty(LineageError::Foreign),
            Some(None) => Ok(Step::TakeOver),
            Some(Some(refusal)) => empty(refusal),
        },
        Owner::Note(_) | Owner::Text(_) => empty(LineageError::Foreign),
    }
}

fn moved(own: &Key, moved: &kafka::slots::Moved) -> LineageError {
    if moved.to.is_empty() {
        LineageError::Forgotten(moved.place.clone())
    } else if moved.to == own.0 {
        // This slot took the log over, and later somebody put the file of an older copy here.
        LineageError::Continued(own.clone(), moved.place.clone())
    } else {
        LineageError::Moved(moved.to.clone(), moved.place.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot_name::SlotId;
    use kafka::slots::{FolderId, Moved};

    const GROUP: &str = "g";

    fn name(slot: u32, folder: &str) -> Name {
        Name { slot: SlotId(slot), folder: FolderId::parse(folder) }
    }

    fn own() -> Name {
        name(3, "bbbbbbbb")
    }

    fn checkpoint(length: u64, session: &str) -> LogCheckpoint {
        LogCheckpoint { length, session: session.to_owned(), place: "b:/logs".to_owned(), ..LogCheckpoint::default() }
    }

    fn gone_to(checkpoint: LogCheckpoint, to: &str) -> LogCheckpoint {
        let moved = Moved { group: GROUP.to_owned(), to: to.to_owned(), place: "c:/logs".to_owned() };
        LogCheckpoint { moved: Some(moved), ..checkpoint }
    }

    fn note(checkpoint: &Name, session: &str, next: &str) -> Owner {
        Owner::Note(Note {
            topic: "t".to_owned(),
            group: GROUP.to_owned(),
            checkpoint: checkpoint.key(GROUP),
            session: session.to_owned(),
            next: next.to_owned(),
        })
    }

    struct Case {
        length: u64,
        legacy: bool,
        owner: Owner,
        own: Option<LogCheckpoint>,
        former: Option<LogCheckpoint>,
    }

    impl Case {
        fn decide(&self) -> Result<Step, LineageError> {
            let Self { length, legacy, owner, .. } = self;
            let log = Log { length: *length, topic: "t", group: GROUP, name: &own(), owner, legacy: *legacy };
            // As in the caller: a former log checkpoint is read only if the log can have one.
            let former = self.former.as_ref().filter(|_| !log.former_keys().is_empty());
            decide(&log, self.own.as_ref(), former)
        }
    }

    fn case(
        length: u64,
        owner: Owner,
        own: Option<LogCheckpoint>,
        former: Option<LogCheckpoint>,
    ) -> Result<Step, LineageError> {
        Case { length, legacy: false, owner, own, former }.decide()
    }

    fn continued(name: &Name) -> Result<Step, LineageError> {
        Err(LineageError::Continued(name.key(GROUP), "b:/logs".to_owned()))
    }

    #[test]
    fn a_new_slot_begins_whatever_other_folders_hold() {
        assert_eq!(case(0, Owner::None, None, None), Ok(Step::Begin));
        // A log checkpoint of the previous version belongs to another folder.
        assert_eq!(case(0, Owner::None, None, Some(checkpoint(9, ""))), Ok(Step::Begin));
        assert_eq!(case(5, Owner::None, None, None), Err(LineageError::Foreign));
    }

    #[test]
    fn a_log_continues_by_either_session_of_its_note() {
        for session in ["one", "two"] {
            let owner = note(&own(), "one", "two");
            assert_eq!(case(5, owner, Some(checkpoint(5, session)), None), Ok(Step::Continue));
        }
        // Without `.owner`, the folder's identity decides.
        assert_eq!(case(5, Owner::None, Some(checkpoint(5, "one")), None), Ok(Step::Continue));
        assert_eq!(case(0, Owner::None, Some(checkpoint(5, "one")), None), Ok(Step::Continue));
        assert_eq!(case(5, note(&own(), "one", "two"), None, None), Err(LineageError::Foreign));
        assert_eq!(case(0, note(&own(), "one", "two"), None, None), Ok(Step::Begin));
    }

    #[test]
    fn of_two_copies_the_one_that_was_opened_last_counts_even_without_lines() {
        for length in [0, 5] {
            assert_eq!(
                case(length, note(&own(), "one", "two"), Some(checkpoint(length, "three")), None),
                continued(&own())
            );
        }
    }

    #[test]
    fn a_log_that_was_moved_here_is_taken_over() {
        let from = name(6, "aaaaaaaa");
        let owner = || note(&from, "one", "two");
        assert_eq!(case(5, owner(), None, Some(checkpoint(5, "two"))), Ok(Step::TakeOver));
        assert_eq!(case(5, owner(), Some(checkpoint(0, "x")), Some(checkpoint(5, "two"))), Ok(Step::TakeOver));
        assert_eq!(
            case(5, owner(), Some(gone_to(checkpoint(9, "x"), "y")), Some(checkpoint(5, "two"))),
            Ok(Step::TakeOver)
        );
        // A crash after the takeover's transaction, in whatever state the former place is since.
        let taken = Some(checkpoint(5, "two"));
        for former in [None, Some(gone_to(checkpoint(5, "one"), "consumer_3-bbbbbbbb.g")), Some(checkpoint(0, "x"))] {
            assert_eq!(case(5, owner(), taken.clone(), former), Ok(Step::Continue));
        }
        let occupied = case(5, owner(), Some(checkpoint(7, "x")), Some(checkpoint(5, "two")));
        assert_eq!(occupied, Err(LineageError::Occupied(from.key(GROUP))));
        assert_eq!(case(5, owner(), None, Some(checkpoint(5, "three"))), continued(&from));
        assert_eq!(case(5, owner(), None, None), Err(LineageError::Foreign));
    }

    #[test]
    fn what_was_taken_over_is_not_the_former_places_any_more() {
        let to = "consumer_6-cccccccc.g";
        let refused = Err(LineageError::Moved(to.to_owned(), "c:/logs".to_owned()));
        assert_eq!(case(5, note(&own(), "one", "two"), Some(gone_to(checkpoint(5, "two"), to)), None), refused);
        let from = note(&name(1, "aaaaaaaa"), "one", "two");
        assert_eq!(case(5, from, None, Some(gone_to(checkpoint(5, "two"), to))), refused);
        // The slot's folder was moved away as a whole and then created again.
        assert_eq!(case(0, Owner::None, Some(gone_to(checkpoint(5, "two"), to)), None), Ok(Step::Begin));
        let forgotten = Some(gone_to(checkpoint(5, "two"), ""));
        let refused = Err(LineageError::Forgotten("c:/logs".to_owned()));
        assert_eq!(case(5, note(&own(), "one", "two"), forgotten, None), refused);
    }

    #[test]
    fn a_folder_of_the_version_before_takes_its_logs_over_once() {
        let text = || Owner::Text(owner_text("t", GROUP));
        let legacy = |length, owner, own, former| Case { length, legacy: true, owner, own, former }.decide();
        assert_eq!(legacy(5, text(), None, Some(checkpoint(5, ""))), Ok(Step::TakeOver));
        assert_eq!(legacy(5, Owner::None, None, Some(checkpoint(5, ""))), Ok(Step::TakeOver));
        // A slot whose folder was deleted: the error says that its lines are missing.
        assert_eq!(legacy(0, Owner::None, None, Some(checkpoint(5, ""))), Ok(Step::TakeOver));
        // The previous version wrote here again.
        assert_eq!(legacy(9, text(), Some(checkpoint(5, "one")), Some(checkpoint(9, ""))), Ok(Step::TakeOver));
        let to = "consumer_3-cccccccc.g";
        let copy = legacy(5, text(), None, Some(gone_to(checkpoint(5, ""), to)));
        assert_eq!(copy, Err(LineageError::Moved(to.to_owned(), "c:/logs".to_owned())));
        // A file from before the takeover was put back here.
        let restored =
            legacy(5, text(), Some(checkpoint(9, "one")), Some(gone_to(checkpoint(5, ""), "consumer_3-bbbbbbbb.g")));
        assert_eq!(restored, Err(LineageError::Continued(own().key(GROUP), "c:/logs".to_owned())));
        assert_eq!(legacy(5, text(), None, None), Err(LineageError::Foreign));
    }

    #[test]
    fn lines_of_another_topic_or_group_are_foreign() {
        let other = Owner::Note(Note {
            topic: "other".to_owned(),
            group: GROUP.to_owned(),
            checkpoint: own().key(GROUP),
            session: "one".to_owned(),
            next: "two".to_owned(),
        });
        for owner in [other, Owner::Text(owner_text("t", "other"))] {
            assert_eq!(case(5, owner.clone(), Some(checkpoint(5, "one")), None), Err(LineageError::Foreign));
            assert_eq!(case(0, owner.clone(), None, None), Ok(Step::Begin));
            assert_eq!(
                case(0, owner, Some(checkpoint(5, "one")), None),
                Ok(Step::Continue),
                "and its length is refused"
            );
        }
    }

    #[test]
    fn a_note_reads_back_and_texts_are_the_version_before() {
        let owner = note(&own(), "one", "two");
        let Owner::Note(written) = &owner else { panic!("a note") };
        let text = serde_json::to_string(written).expect("JSON");
        assert_eq!(Owner::parse(&text), owner);
        let key = own().key(GROUP).0;
        assert!(
            text.contains(&format!(r#""marker":"{key}""#)),
            "the field has its first name in every version: {text}"
        );
        assert_eq!(Owner::parse("topic t for group g\n"), Owner::Text(owner_text("t", GROUP)));
        assert_eq!(Owner::parse("\n"), Owner::None);
    }
}
