//! Producers, Kafka's transactions, and the progress.
//!
//! The source is a binlog of [`ROWS`] rows in transactions that end at [`ENDS`]. Two hosts may run a producer with the same
//! transactional id. Kafka's part is told as it is: `init_transactions` raises the epoch, aborts what is open and waits for
//! what is being committed; a commit is decided at once and shows in each partition later; a request may arrive late, even
//! after its sender has given it up, and counts if its epoch is still the newest.

use stateright::{Model, Property};

use crate::check::{breaks, holds, is_quiet};

/// Rows of the source.
const ROWS: u8 = 3;
/// How many rows there are when each transaction of the source is complete.
const ENDS: [u8; 2] = [2, 3];
/// Crashes, requests that stall until their sender stops waiting, transactions that outlive their timeout, and starts beside a
/// producer that runs already, in one run.
const FAULTS: Faults = Faults { crashes: 1, stalls: 1, timeouts: 1, seconds: 2 };

/// A guard that is taken out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Without {
    Nothing,
    /// The progress is read before `init_transactions`.
    InitFirst,
    /// The progress is committed separately, after the records.
    OneTransaction,
    /// A commit may come within a transaction of the source, whose end then counts as reached.
    WholeTransactions,
    /// After a request that stalled, the transaction is aborted and the same producer continues.
    NewProducer,
    /// After a commit that was sent again over another connection, the same producer continues.
    NewConnection,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct Faults {
    crashes: u8,
    stalls: u8,
    timeouts: u8,
    seconds: u8,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct State {
    /// Records that a reader of committed data sees.
    topic: Vec<u8>,
    /// Rows that are done, by the progress that such a reader sees.
    progress: u8,
    /// The newest epoch of the transactional id.
    epoch: u8,
    open: Option<Transaction>,
    /// Decided, and not yet seen in the topic of the records, or of the progress.
    committing: Option<Transaction>,
    late: Vec<(u8, Request)>,
    hosts: [Host; 2],
    left: Faults,
}

#[derive(Clone, Debug, Default, Hash, PartialEq, Eq)]
struct Transaction {
    records: Vec<u8>,
    progress: Option<u8>,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum Request {
    Record(u8),
    Commit,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
enum Host {
    Down,
    /// Its first step is done: `init_transactions`, with the epoch it gave.
    Initialised(u8),
    /// The same without the guard: the progress that was read.
    Looked(u8),
    Running(Running),
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
struct Running {
    epoch: u8,
    /// Rows that its commits have covered, as it believes.
    done: u8,
    /// Rows that it has sent.
    sent: u8,
    /// Without the guard: the progress that waits for a separate transaction.
    owed: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Start(usize),
    Ready(usize),
    Send(usize),
    SendStalls(usize),
    Commit(usize),
    CommitStalls(usize),
    /// Its connection breaks, it sends the same again over another one, and the first copy is on its way still.
    CommitTwice(usize),
    Crash(usize),
    /// A reader sees the records of what is being committed.
    ShowRecords,
    /// A reader sees the progress.
    ShowProgress,
    LateRequest(usize),
    Timeout,
}

impl State {
    /// `init_transactions`; not before what is being committed is done.
    fn init(&mut self) -> Option<u8> {
        if self.committing.is_some() {
            return None;
        }
        self.open = None;
        self.epoch += 1;
        Some(self.epoch)
    }

    fn produce(&mut self, record: u8) {
        self.open.get_or_insert_default().records.push(record);
    }

    fn decide(&mut self) {
        self.committing = self.open.take();
    }

    fn shown(&mut self) {
        if self.committing.as_ref().is_some_and(|c| c.records.is_empty() && c.progress.is_none()) {
            self.committing = None;
        }
    }
}

impl Without {
    /// A producer's next request; `None` when it has nothing to ask for, or waits.
    fn request(self, state: &State, host: &Running, action: Action) -> Option<Option<u8>> {
        // What is being committed holds up the next transaction.
        if state.committing.is_some() {
            return None;
        }
        let open = host.sent > host.done;
        let complete = ENDS.contains(&host.sent) || self == Self::WholeTransactions;
        match action {
            Action::Send(_) | Action::SendStalls(_) => (host.owed.is_none() && host.sent < ROWS).then_some(None),
            _ if host.owed.is_some() => Some(host.owed),
            _ if open && complete => Some(ENDS.into_iter().find(|end| *end >= host.sent)),
            _ => None,
        }
    }
}

impl Model for Without {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            topic: Vec::new(),
            progress: 0,
            epoch: 0,
            open: None,
            committing: None,
            late: Vec::new(),
            hosts: [Host::Down, Host::Down],
            left: FAULTS,
        }]
    }

    /// Those that may be possible; the next state says whether they are.
    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        use Action as A;
        for (n, host) in state.hosts.iter().enumerate() {
            match host {
                Host::Down => actions.push(A::Start(n)),
                Host::Initialised(_) | Host::Looked(_) => actions.push(A::Ready(n)),
                Host::Running(_) => {
                    actions.extend([A::Send(n), A::SendStalls(n), A::Commit(n), A::CommitStalls(n), A::CommitTwice(n)]);
                }
            }
            if state.left.crashes > 0 {
                actions.push(A::Crash(n));
            }
        }
        actions.extend((0..state.late.len()).map(A::LateRequest));
        if state.committing.is_some() {
            actions.extend([A::ShowRecords, A::ShowProgress]);
        }
        actions.extend(state.open.as_ref().map(|_| A::Timeout));
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Start(n) => {
                if state.hosts[n] != Host::Down {
                    return None;
                }
                if state.hosts[1 - n] != Host::Down {
                    state.left.seconds = state.left.seconds.checked_sub(1)?;
                }
                state.hosts[n] = match self {
                    Self::InitFirst => Host::Looked(state.progress),
                    _ => Host::Initialised(state.init()?),
                };
            }
            Action::Ready(n) => {
                let (epoch, done) = match state.hosts[n] {
                    Host::Initialised(epoch) => (epoch, state.progress),
                    Host::Looked(progress) => (state.init()?, progress),
                    _ => return None,
                };
                state.hosts[n] = Host::Running(Running { epoch, done, sent: done, owed: None });
            }
            Action::Crash(n) => {
                if state.hosts[n] == Host::Down {
                    return None;
                }
                state.left.crashes = state.left.crashes.checked_sub(1)?;
                state.hosts[n] = Host::Down;
            }
            Action::Send(n)
            | Action::SendStalls(n)
            | Action::Commit(n)
            | Action::CommitStalls(n)
            | Action::CommitTwice(n) => {
                let Host::Running(mut host) = state.hosts[n] else { return None };
                let progress = self.request(&state, &host, action)?;
                if host.epoch != state.epoch {
                    // Fenced: it makes a new producer, or leaves.
                    state.hosts[n] = Host::Down;
                    return Some(state);
                }
                match action {
                    Action::Send(_) => {
                        state.produce(host.sent);
                        host.sent += 1;
                    }
                    Action::Commit(_) | Action::CommitTwice(_) => {
                        host.owed = None;
                        let apart = *self == Self::OneTransaction && host.sent > host.done;
                        if apart {
                            host.owed = progress;
                        } else {
                            state.open.get_or_insert_default().progress = progress;
                        }
                        host.done = host.sent;
                        state.decide();
                        if matches!(action, Action::CommitTwice(_)) {
                            state.left.stalls = state.left.stalls.checked_sub(1)?;
                            state.late.push((host.epoch, Request::Commit));
                            if *self != Self::NewConnection {
                                state.hosts[n] = Host::Down;
                                return Some(state);
                            }
                        }
                    }
                    _ => {
                        state.left.stalls = state.left.stalls.checked_sub(1)?;
                        let request = match action {
                            Action::SendStalls(_) => Request::Record(host.sent),
                            _ => {
                                state.open.get_or_insert_default().progress = progress;
                                Request::Commit
                            }
                        };
                        state.late.push((host.epoch, request));
                        if *self != Self::NewProducer {
                            state.hosts[n] = Host::Down;
                            return Some(state);
                        }
                        state.open = None;
                        host.sent = host.done;
                    }
                }
                state.hosts[n] = Host::Running(host);
            }
            Action::ShowRecords => {
                let transaction = state.committing.as_mut().filter(|t| !t.records.is_empty())?;
                state.topic.append(&mut transaction.records);
                state.shown();
            }
            Action::ShowProgress => {
                state.progress = state.committing.as_mut()?.progress.take()?;
                state.shown();
            }
            Action::LateRequest(n) => {
                let (epoch, request) = state.late.remove(n);
                // One of an older epoch, or beside a commit that is not done, is refused.
                if epoch == state.epoch && state.committing.is_none() {
                    match request {
                        Request::Record(record) => state.produce(record),
                        Request::Commit => state.decide(),
                    }
                }
            }
            Action::Timeout => {
                state.open.take()?;
                state.left.timeouts = state.left.timeouts.checked_sub(1)?;
                state.epoch += 1;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn zombie(state: &State) -> bool {
            state.hosts.iter().any(|h| matches!(h, Host::Running(r) if r.epoch < state.epoch && r.sent > r.done))
        }
        vec![
            Property::always(ONCE, |_, s: &State| s.topic.iter().copied().eq(0..s.topic.len() as u8)),
            Property::always("the progress is that of the records", |_, s: &State| {
                s.committing.is_some() || s.progress == s.topic.len() as u8
            }),
            Property::always("in the end all is there", |model, s: &State| {
                (s.topic.len() as u8 == ROWS && s.progress == ROWS) || !is_quiet(model, s)
            }),
            Property::sometimes("a crash leaves an open transaction", |_, s: &State| {
                s.open.is_some() && s.hosts == [Host::Down, Host::Down]
            }),
            Property::sometimes("a crash leaves a decided commit that nobody sees", |_, s: &State| {
                s.committing.as_ref().is_some_and(|c| c.records.len() == 2) && s.hosts == [Host::Down, Host::Down]
            }),
            Property::sometimes("a zombie has sent half of its transaction", |_, s: &State| zombie(s)),
            Property::sometimes("a late commit meets the transaction of a successor", |_, s: &State| {
                s.late.iter().any(|(epoch, r)| *epoch < s.epoch && *r == Request::Commit) && s.open.is_some()
            }),
            Property::sometimes("all is there after every fault", |_, s: &State| {
                s.topic.len() as u8 == ROWS && s.left == Faults { crashes: 0, stalls: 0, timeouts: 0, seconds: 0 }
            }),
        ]
    }
}

const ONCE: &str = "each record once and in order";

#[test]
fn the_producers_keep_the_promise() {
    holds("producer", Without::Nothing);
}

#[test]
fn each_guard_of_the_producer_is_needed() {
    breaks("progress read before init_transactions", Without::InitFirst, ONCE);
    breaks("progress in a separate transaction", Without::OneTransaction, ONCE);
    breaks("a commit within a transaction of the source", Without::WholeTransactions, ONCE);
    breaks("the same producer after a timeout", Without::NewProducer, ONCE);
    breaks("the same producer after a broken connection", Without::NewConnection, ONCE);
}
