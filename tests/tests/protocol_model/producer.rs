//! Producers, Kafka's transactions, and the progress. When a producer commits, where it continues, and whether it leaves to
//! another one, the producer's own functions say: [`OpenTransaction`], [`decide`] and [`Fencing`].
//!
//! The source is a binlog of [`ROWS`] rows in transactions that end at [`ENDS`]. Two hosts may run a producer with the same
//! transactional id. Kafka's part is told as it is: `init_transactions` raises the epoch, aborts what is open and waits for
//! what is being committed; a commit is decided at once and shows in each partition later; a request may arrive late, even
//! after its sender has given it up, and counts if its epoch is still the newest. With transactions of KIP-890, each one
//! has an epoch: its end raises it, and the producer continues with the new one.
//!
//! What the producer asks of the brokers, and when, is not described here: in `crates/kafka`, unit tests of its core run
//! short histories of requests with every placement of faults.

use std::path::Path;

use cdc_producer::checkpoint::{self, Start, Written, decide};
use cdc_producer::fencing::Fencing;
use cdc_producer::open_transaction::OpenTransaction;
use kafka::Level;
use stateright::{Model, Property};

use crate::check::{breaks, holds, is_quiet};
use crate::progress::{SOURCE, committed};

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
    /// After a commit that was sent again over another connection, the same producer continues, as it does on V2.
    NewConnection,
    /// A fenced producer never leaves.
    Leaving,
}

/// Producers of a cluster.
#[derive(Clone, Copy)]
struct Producers {
    without: Without,
    level: Level,
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
    /// It has left, as another producer is at work.
    Left,
    /// Its session has ended, and it begins another one.
    Between(Fencing<u8>),
    /// Its first step is done: `init_transactions`, with the epoch it gave.
    Initialised(u8, Fencing<u8>),
    /// The same without the guard: the progress that was read.
    Looked(u8, Fencing<u8>),
    Running(Running),
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct Running {
    epoch: u8,
    /// Rows that its commits have covered, as it believes.
    done: u8,
    /// Rows that it has sent.
    sent: u8,
    /// Without the guard: the progress that waits for a separate transaction.
    owed: Option<u8>,
    memory: Fencing<u8>,
}

impl Running {
    /// Its open transaction: each row is a batch.
    fn open(&self) -> OpenTransaction<u8> {
        let mut open = OpenTransaction::default();
        (self.done..self.sent).for_each(|row| open.add(1, 0, 1, end_behind(row)));
        open
    }

    /// Its session ends with a failure.
    fn ended(self, attempted: Option<u8>, is_fence: bool) -> Host {
        let mut memory = self.memory;
        memory.end(Some(self.done), attempted);
        memory.fail(is_fence, false);
        Host::Between(memory)
    }
}

/// The progress behind a row, if it is the last one of a transaction of the source.
fn end_behind(row: u8) -> Option<u8> {
    Some(row + 1).filter(|end| ENDS.contains(end))
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

    /// The same state with other names: only whether an epoch is the newest counts. There are fewer states to explore then.
    fn normalized(mut self) -> Self {
        let newest = std::mem::replace(&mut self.epoch, 1);
        let of_hosts = self.hosts.iter_mut().filter_map(|host| match host {
            Host::Initialised(epoch, _) => Some(epoch),
            Host::Running(running) => Some(&mut running.epoch),
            _ => None,
        });
        for epoch in of_hosts.chain(self.late.iter_mut().map(|(epoch, _)| epoch)) {
            *epoch = u8::from(*epoch == newest);
        }
        self
    }

    fn is_alive(&self, n: usize) -> bool {
        !matches!(self.hosts[n], Host::Down | Host::Left)
    }

    fn shown(&mut self) {
        if self.committing.as_ref().is_some_and(|c| c.records.is_empty() && c.progress.is_none()) {
            self.committing = None;
        }
    }
}

impl Producers {
    /// Ends the open transaction: a commit shows later. Returns the epoch of the next one.
    fn end(self, state: &mut State, is_commit: bool) -> u8 {
        let open = state.open.take();
        // A coordinator refuses to commit what it does not know.
        if self.level == Level::V2 && (open.is_some() || !is_commit) {
            state.epoch += 1;
        }
        state.committing = open.filter(|_| is_commit);
        state.epoch
    }

    /// A producer's next request; `None` when it has nothing to ask for, or waits.
    fn request(self, state: &State, host: &Running, action: Action) -> Option<Option<u8>> {
        // What is being committed holds up the next transaction.
        if state.committing.is_some() {
            return None;
        }
        let open = host.open();
        match action {
            Action::Send(_) | Action::SendStalls(_) => {
                let waits = open.comes_before(end_behind(host.sent).as_ref());
                (host.owed.is_none() && host.sent < ROWS && !waits).then_some(None)
            }
            _ if host.owed.is_some() => Some(host.owed),
            _ if self.without == Without::WholeTransactions && open.rows > 0 => {
                Some(ENDS.into_iter().find(|end| *end >= host.sent))
            }
            _ => open.end().map(|end| Some(*end)),
        }
    }

    /// Where a producer continues that finds this progress; `None` when it leaves.
    fn start(self, memory: &Fencing<u8>, progress: u8) -> Option<u8> {
        if self.without != Without::Leaving && memory.may_go_on(Some(&progress)).is_err() {
            return None;
        }
        let progress = committed(1, None, progress);
        let file = checkpoint::State::Written(Box::new(Written::of(&progress, SOURCE)));
        match decide(file, Some(progress), SOURCE, Path::new("file")) {
            Ok(Start::Resume(progress)) => Some(progress.position.offset as u8),
            _ => None,
        }
    }
}

impl Model for Producers {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            topic: Vec::new(),
            progress: 0,
            epoch: 1,
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
                Host::Down | Host::Left | Host::Between(_) => actions.push(A::Start(n)),
                Host::Initialised(..) | Host::Looked(..) => actions.push(A::Ready(n)),
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
                let memory = match &state.hosts[n] {
                    Host::Between(memory) => memory.clone(),
                    _ => Fencing::default(),
                };
                if !state.is_alive(n) && state.is_alive(1 - n) {
                    state.left.seconds = state.left.seconds.checked_sub(1)?;
                }
                state.hosts[n] = match self {
                    // One that must leave does so before it fences the other one once more.
                    _ if memory.fences() > 0 && self.start(&memory, state.progress).is_none() => Host::Left,
                    _ if self.without == Without::InitFirst => Host::Looked(state.progress, memory),
                    _ => Host::Initialised(state.init()?, memory),
                };
            }
            Action::Ready(n) => {
                let (epoch, progress, mut memory) = match state.hosts[n].clone() {
                    Host::Initialised(epoch, memory) => (epoch, state.progress, memory),
                    Host::Looked(progress, memory) => (state.init()?, progress, memory),
                    _ => return None,
                };
                state.hosts[n] = match self.start(&memory, progress) {
                    None => Host::Left,
                    Some(done) => {
                        memory.begin(done, Some(progress));
                        Host::Running(Running { epoch, done, sent: done, owed: None, memory })
                    }
                };
            }
            Action::Crash(n) => {
                if !state.is_alive(n) {
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
                let Host::Running(mut host) = state.hosts[n].clone() else { return None };
                let progress = self.request(&state, &host, action)?;
                if host.epoch != state.epoch {
                    state.hosts[n] = host.ended(progress, true);
                    return Some(state.normalized());
                }
                match action {
                    Action::Send(_) => {
                        state.produce(host.sent);
                        host.sent += 1;
                    }
                    Action::Commit(_) | Action::CommitTwice(_) => {
                        host.owed = None;
                        let apart = self.without == Without::OneTransaction && host.sent > host.done;
                        if apart {
                            host.owed = progress;
                        } else {
                            state.open.get_or_insert_default().progress = progress;
                        }
                        host.done = host.sent;
                        let epoch = self.end(&mut state, true);
                        if matches!(action, Action::CommitTwice(_)) {
                            state.left.stalls = state.left.stalls.checked_sub(1)?;
                            state.late.push((host.epoch, Request::Commit));
                            if self.level == Level::V1 && self.without != Without::NewConnection {
                                state.hosts[n] = host.ended(None, false);
                                return Some(state.normalized());
                            }
                        }
                        host.epoch = epoch;
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
                        if self.without != Without::NewProducer {
                            state.hosts[n] = host.ended(progress, false);
                            return Some(state.normalized());
                        }
                        host.epoch = self.end(&mut state, false);
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
                        Request::Commit => drop(self.end(&mut state, true)),
                    }
                }
            }
            Action::Timeout => {
                state.open.take()?;
                state.left.timeouts = state.left.timeouts.checked_sub(1)?;
                state.epoch += 1;
            }
        }
        Some(state.normalized())
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
            Property::always(DUEL, |_, s: &State| {
                let fenced_again = |host: &Host| matches!(host, Host::Running(r) if r.memory.fences() > 1);
                !s.hosts.iter().any(fenced_again)
            }),
            Property::always("not both leave, unless a transaction outlives its timeout", |_, s: &State| {
                s.hosts != [Host::Left, Host::Left] || s.left.timeouts < FAULTS.timeouts
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

const DUEL: &str = "a producer that was fenced twice without a commit fences nobody";
const ONCE: &str = "each record once and in order";

#[test]
fn the_producers_keep_the_promise() {
    holds("producer, V1", Producers { without: Without::Nothing, level: Level::V1 });
    holds("producer, V2", Producers { without: Without::Nothing, level: Level::V2 });
}

#[test]
fn each_guard_of_the_producer_is_needed() {
    for level in [Level::V1, Level::V2] {
        let of = |without| Producers { without, level };
        breaks("progress read before init_transactions", of(Without::InitFirst), ONCE);
        breaks("progress in a separate transaction", of(Without::OneTransaction), ONCE);
        breaks("a commit within a transaction of the source", of(Without::WholeTransactions), ONCE);
        breaks("a fenced producer that never leaves", of(Without::Leaving), DUEL);
    }
    let of = |without| Producers { without, level: Level::V1 };
    breaks("the same producer after a timeout", of(Without::NewProducer), ONCE);
    breaks("the same producer after a broken connection", of(Without::NewConnection), ONCE);
}

/// On V2 the guard of a new connection is not there, and that of a timeout could be left out.
#[test]
fn an_epoch_for_each_transaction_fences_what_is_late() {
    holds("the same producer after a timeout, V2", Producers { without: Without::NewProducer, level: Level::V2 });
}
