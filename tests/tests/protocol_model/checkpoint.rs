//! The checkpoint file: what a person asks for, and the view of the progress.
//!
//! One producer with the lock of the folder, and a person who may write a reset request into the file at any moment,
//! whole (as `checkpoint reset` does). A reset request that overtakes another stands for both. What a start does, the
//! producer's own [`decide`] says.

use std::path::Path;

use cdc_producer::checkpoint::{self, Request, Start, Written, decide};
use model::position::Progress as Committed;
use stateright::{Model, Property};

use crate::check::{breaks, holds, is_quiet};
use crate::progress::{SOURCE, committed};

/// Reset requests of a person, the first start not counted; crashes; and commits of each epoch.
const REQUESTS: u8 = 2;
const CRASHES: u8 = 2;
const COMMITS: u8 = 2;

/// A guard that is taken out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Without {
    Nothing,
    /// A reset request is carried out without an identity.
    Identity,
    /// The identity is written to the file after the epoch is begun.
    IdentityFirst,
    /// The file is replaced without a look at what it says.
    Look,
    /// The position is taken from the file.
    KafkasPosition,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum File {
    /// A reset request (0 is the missing file), with its identity once it has one.
    Request(u8, Option<u8>),
    /// Epoch and position.
    View(u8, u8),
}

/// What Kafka holds: the last epoch, the identity it was begun with, the position.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
struct Progress {
    epoch: u8,
    identity: Option<u8>,
    position: u8,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum Process {
    Down,
    /// It has read the file and the progress.
    Looked(File),
    /// The reset request has its identity, and the file says so; without the guards not always. The number is that of the
    /// epoch that begins.
    Identified(File, u8),
    /// The new epoch is in Kafka, or the old one continues.
    Begun(File),
    /// The file says what it wrote last.
    Running(File),
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct State {
    file: File,
    kafka: Option<Progress>,
    process: Process,
    /// Where the producer reads on, when that is not the progress in Kafka.
    reads_from: Option<u8>,
    /// The reset requests for which an epoch was begun, in order.
    begun: Vec<u8>,
    /// A position was committed twice.
    doubled: bool,
    /// Identities given, reset requests made, crashes left.
    identities: u8,
    requests: u8,
    crashes: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Request,
    Look,
    /// The next step of a start.
    Prepare,
    Commit,
    /// The view is written, or the edit is noticed.
    Watch,
    Crash,
}

impl Progress {
    /// As the producer commits it.
    fn committed(self) -> Committed {
        committed(self.epoch, self.identity, self.position)
    }
}

impl File {
    /// As the producer reads it.
    fn content(self) -> checkpoint::State {
        match self {
            Self::Request(_, id) => checkpoint::State::Asked(Request { from: None, id: id.map(|id| id.to_string()) }),
            Self::View(epoch, position) => {
                let progress = Progress { epoch, identity: None, position }.committed();
                checkpoint::State::Written(Box::new(Written::of(&progress, SOURCE)))
            }
        }
    }
}

impl Without {
    /// Replaces the file if it still says what was seen; otherwise the producer starts again with its present content.
    fn replace(self, state: &mut State, seen: File, new: File) -> bool {
        let wanted = state.file == seen || self == Self::Look;
        if wanted {
            state.file = new;
        } else {
            state.process = Process::Down;
        }
        wanted
    }

    /// The first step of a start that has read the file and the progress.
    fn begin(self, state: &mut State, seen: File) -> Option<()> {
        let kafka = state.kafka.map(Progress::committed);
        let start = decide(seen.content(), kafka, SOURCE, Path::new("file")).ok()?;
        match (start, seen) {
            (Start::Resume(_), seen) => {
                if let File::View(_, position) = seen {
                    state.reads_from = (self == Self::KafkasPosition).then_some(position);
                }
                state.process = Process::Begun(seen);
            }
            (Start::Begin { epoch, request: Request { id, .. } }, File::Request(request, _)) => {
                let epoch = epoch as u8;
                let id = id.and_then(|id| id.parse().ok()).unwrap_or(state.identities + 1);
                let with_id = File::Request(request, (self != Self::Identity).then_some(id));
                if self == Self::IdentityFirst {
                    state.process = Process::Identified(with_id, epoch);
                } else if self.replace(state, seen, with_id) {
                    state.process = Process::Identified(with_id, epoch);
                    state.identities = state.identities.max(id);
                }
            }
            (Start::Begin { .. }, File::View(..)) => return None,
        }
        Some(())
    }

    fn prepare(self, state: &mut State) -> Option<()> {
        match state.process {
            Process::Looked(seen) => self.begin(state, seen)?,
            Process::Identified(File::Request(request, id), epoch) => {
                state.kafka = Some(Progress { epoch, identity: id, position: 0 });
                state.reads_from = None;
                state.begun.push(request);
                state.process = Process::Begun(File::Request(request, id.filter(|_| self != Self::IdentityFirst)));
            }
            Process::Begun(seen) => {
                let kafka = state.kafka?;
                let view = File::View(kafka.epoch, kafka.position);
                if self.replace(state, seen, view) {
                    state.process = Process::Running(view);
                }
            }
            _ => return None,
        }
        Some(())
    }
}

impl Model for Without {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            file: File::Request(0, None),
            kafka: None,
            process: Process::Down,
            reads_from: None,
            begun: Vec::new(),
            doubled: false,
            identities: 0,
            requests: 0,
            crashes: CRASHES,
        }]
    }

    fn actions(&self, _: &State, actions: &mut Vec<Action>) {
        use Action as A;
        actions.extend([A::Request, A::Look, A::Prepare, A::Commit, A::Watch, A::Crash]);
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match (action, state.process) {
            (Action::Request, _) if state.requests < REQUESTS => {
                state.requests += 1;
                state.file = File::Request(state.requests, None);
            }
            (Action::Look, Process::Down) => state.process = Process::Looked(state.file),
            (Action::Prepare, _) => self.prepare(&mut state)?,
            (Action::Commit, Process::Running(_)) => {
                let kafka = state.kafka.as_mut()?;
                let from = state.reads_from.unwrap_or(kafka.position);
                if from == COMMITS {
                    return None;
                }
                state.doubled |= from < kafka.position;
                kafka.position = from + 1;
                state.reads_from = state.reads_from.map(|_| from + 1);
            }
            (Action::Watch, Process::Running(written)) => {
                let view = File::View(state.kafka?.epoch, state.kafka?.position);
                if written == view && state.file == written {
                    return None;
                }
                if self.replace(&mut state, written, view) {
                    state.process = Process::Running(view);
                }
            }
            (Action::Crash, process) if process != Process::Down => {
                state.crashes = state.crashes.checked_sub(1)?;
                state.process = Process::Down;
            }
            _ => return None,
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONCE, |_, s: &State| s.begun.windows(2).all(|w| w[0] < w[1])),
            Property::always(NO_DOUBLES, |_, s: &State| !s.doubled),
            Property::always(DONE, |model, s: &State| {
                let shown = s.kafka.is_some_and(|k| k.position == COMMITS && s.file == File::View(k.epoch, COMMITS));
                (s.begun.last() == Some(&s.requests) && shown) || !is_quiet(model, s)
            }),
            Property::sometimes("a crash comes between an epoch and the file", |_, s: &State| {
                let File::Request(_, id) = s.file else { return false };
                s.process == Process::Down && id.is_some() && s.kafka.is_some_and(|k| k.identity == id)
            }),
            Property::sometimes("a crash comes between an identity and its epoch", |_, s: &State| {
                let File::Request(_, id) = s.file else { return false };
                s.process == Process::Down && id.is_some() && s.kafka.is_none_or(|k| k.identity != id)
            }),
            Property::sometimes("a crash leaves a file that is behind", |_, s: &State| {
                s.process == Process::Down
                    && s.kafka.is_some_and(|k| s.file == File::View(k.epoch, 0) && k.position > 0)
            }),
            Property::sometimes("a reset request comes while the one before it is carried out", |_, s: &State| {
                s.requests == 2 && matches!(s.process, Process::Identified(File::Request(1, _), _))
            }),
            Property::sometimes("each reset request has an epoch", |_, s: &State| s.begun == [0, 1, 2]),
        ]
    }
}

const ONCE: &str = "a reset request is carried out once";
const NO_DOUBLES: &str = "nothing is committed twice in an epoch";
const DONE: &str = "in the end the last reset request is carried out, and the file shows it";

#[test]
fn the_checkpoint_file_loses_no_request() {
    holds("checkpoint", Without::Nothing);
}

#[test]
fn each_guard_of_the_checkpoint_is_needed() {
    breaks("a reset request without an identity", Without::Identity, ONCE);
    breaks("the identity written after the epoch", Without::IdentityFirst, ONCE);
    breaks("the file replaced unseen", Without::Look, DONE);
    breaks("the position of the file", Without::KafkasPosition, NO_DOUBLES);
}
