//! The snapshot: chunks of the table that meet the stream of its changes.
//!
//! Two keys, each a separate chunk. Clients write while the producer reads: a write is in the binlog first and becomes
//! visible to queries after that, in any order between keys; one key's writes wait for each other, as rows are locked. The
//! topic holds a second key from an earlier epoch, which is gone from the table unless it is written again. When all rows are
//! out, the sweep looks for such keys in the topic; what was handed to Kafka can be read there later.

use stateright::{Model, Property};

use crate::check::{breaks, holds, is_quiet};

const KEYS: usize = 2;
/// Transactions that clients commit meanwhile, and crashes of the producer.
const WRITES: usize = 3;
const CRASHES: u8 = 1;

/// A guard that is taken out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Without {
    Nothing,
    /// A chunk is read before everything up to the stream's position is visible.
    Visibility,
    /// The binlog's end is looked up before the chunk is read.
    HighAfterRead,
    /// A chunk goes out at once, not when the stream has reached the binlog's end.
    HighMark,
    /// What the stream touched stays in the chunk.
    Touch,
    /// The stream's position is taken after the first chunk was read.
    PositionFirst,
    /// What is gone from the table is not deleted from the topic.
    Sweep,
    /// The sweep begins before every row is out.
    SweepLast,
    /// The sweep does not look at what this epoch has written.
    SweepCompare,
    /// The sweep looks at it before it can be read.
    SweepMark,
    /// What the stream brings back meanwhile is deleted from the topic all the same.
    SweepTouch,
}

/// A state of a key and the number of the write that made it: 0 for what the table had at the beginning.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
struct Value {
    write: u8,
    exists: bool,
}

/// What a transaction does to each key.
type Write = [Option<bool>; KEYS];

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct State {
    binlog: Vec<Write>,
    /// Which of them queries see.
    visible: Vec<bool>,
    /// The last state of each key in the topic; none of this epoch yet.
    topic: [Option<Value>; KEYS],
    /// The stream brought a change twice or after a newer one, or a chunk brought an older one after a newer one.
    wrong: bool,
    /// Where the stream is; `None` before the epoch has begun.
    position: Option<usize>,
    /// Keys that the snapshot is through with.
    done: usize,
    chunk: Option<Chunk>,
    /// Keys whose last record was handed to Kafka and can't be read yet.
    unread: [bool; KEYS],
    sweep: Sweep,
    crashes: u8,
}

/// The pass of the sweep; it has room for all keys.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum Sweep {
    Waits,
    /// Keys that were alive before the epoch, and of which nothing newer is known, as the stream continues; and those whose
    /// newer records could not be read when it began.
    Collected {
        gone: [bool; KEYS],
        pending: [bool; KEYS],
    },
    /// What the epoch had written was looked at.
    Compared {
        gone: [bool; KEYS],
    },
    Done,
}

/// Keys that the topic holds alive from before the epoch.
const OLD: [bool; KEYS] = [false, true];

/// One key on its way out.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct Chunk {
    /// What the query saw; `None` before it.
    row: Option<Value>,
    /// The binlog's end; `None` before it was looked up.
    high: Option<usize>,
    touched: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// A client commits: it is in the binlog.
    Commit(Write),
    /// And queries see it.
    Show(usize),
    Begin,
    /// A step of the chunk: the query, or the look at the binlog's end.
    ReadRow,
    ReadEnd,
    Emit,
    Stream,
    /// What was handed to Kafka can be read.
    Settle,
    /// Steps of the sweep.
    Collect,
    Compare,
    Delete,
    Crash,
}

impl State {
    /// What a query sees of a key; the second key is gone from the table at first.
    fn seen(&self, key: usize) -> Value {
        let writes = self.binlog.iter().zip(&self.visible).enumerate();
        let last =
            writes.filter(|(_, (_, visible))| **visible).filter_map(|(i, (w, _))| Some((i, w[key]?))).next_back();
        last.map_or(Value { write: 0, exists: key == 0 }, |(i, exists)| Value { write: i as u8 + 1, exists })
    }

    fn put(&mut self, key: usize, value: Value, streamed: bool) {
        let before = self.topic[key].replace(value).map_or(-1, |v| i16::from(v.write));
        let least = before + i16::from(streamed);
        self.wrong |= i16::from(value.write) < least;
        self.unread[key] = true;
    }

    /// The sweep's turn.
    fn sweep(&mut self, without: Without, action: Action) -> Option<()> {
        self.position?;
        self.sweep = match (self.sweep, action) {
            (Sweep::Waits, Action::Collect) if self.done + usize::from(without == Without::SweepLast) >= KEYS => {
                Sweep::Collected { gone: OLD, pending: self.unread }
            }
            (Sweep::Collected { mut gone, pending }, Action::Compare) => {
                if pending.contains(&true) && without != Without::SweepMark {
                    return None;
                }
                let newer = |key: usize| self.topic[key].is_some() && !self.unread[key];
                (0..KEYS).for_each(|key| gone[key] &= !newer(key) || without == Without::SweepCompare);
                Sweep::Compared { gone }
            }
            (Sweep::Compared { gone }, Action::Delete) => {
                for key in (0..KEYS).filter(|key| gone[*key]) {
                    self.put(key, Value { write: 0, exists: false }, false);
                }
                Sweep::Done
            }
            _ => return None,
        };
        Some(())
    }

    /// The stream has brought a newer state of the key.
    fn touch(&mut self, key: usize) {
        if let Sweep::Collected { gone, .. } | Sweep::Compared { gone } = &mut self.sweep {
            gone[key] = false;
        }
        if let Some(chunk) = self.chunk.as_mut().filter(|_| key == self.done) {
            chunk.touched = true;
        }
    }
}

impl Model for Without {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            binlog: Vec::new(),
            visible: Vec::new(),
            topic: [None; KEYS],
            wrong: false,
            position: None,
            done: 0,
            chunk: None,
            unread: [false; KEYS],
            sweep: if *self == Self::Sweep { Sweep::Done } else { Sweep::Waits },
            crashes: CRASHES,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        const ONE: [Option<bool>; 3] = [None, Some(true), Some(false)];
        if state.binlog.len() < WRITES {
            actions.extend(ONE.into_iter().flat_map(|one| ONE.map(|other| Action::Commit([one, other]))));
        }
        actions.extend((0..state.binlog.len()).map(Action::Show));
        use Action as A;
        actions.extend([A::Begin, A::ReadRow, A::ReadEnd, A::Emit, A::Stream, A::Crash]);
        actions.extend([A::Settle, A::Collect, A::Compare, A::Delete]);
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Commit(write) => {
                // Rows that an earlier writer still holds are waited for; a delete wants a row.
                let waits = |key: usize| {
                    let held = state.binlog.iter().zip(&state.visible).any(|(w, visible)| w[key].is_some() && !visible);
                    held || (write[key] == Some(false) && !state.seen(key).exists)
                };
                let touched = |key: &usize| write[*key].is_some();
                if write == [None; KEYS] || (0..KEYS).filter(touched).any(waits) {
                    return None;
                }
                state.binlog.push(write);
                state.visible.push(false);
            }
            Action::Show(write) => {
                if std::mem::replace(&mut state.visible[write], true) {
                    return None;
                }
            }
            Action::Begin => {
                if state.position.is_some() {
                    return None;
                }
                state.position = Some(state.binlog.len());
            }
            Action::ReadRow => {
                let position = state.position?;
                let visible = state.visible.iter().take(position).all(|v| *v) || *self == Self::Visibility;
                let order = *self != Self::HighAfterRead || state.chunk.is_some();
                if state.done == KEYS || state.chunk.as_ref().is_some_and(|c| c.row.is_some()) || !visible || !order {
                    return None;
                }
                let row = Some(state.seen(state.done));
                state.chunk.get_or_insert(Chunk { row: None, high: None, touched: false }).row = row;
            }
            Action::ReadEnd => {
                state.position?;
                let order = *self == Self::HighAfterRead || state.chunk.is_some();
                if state.done == KEYS || state.chunk.as_ref().is_some_and(|c| c.high.is_some()) || !order {
                    return None;
                }
                let high = state.binlog.len();
                state.chunk.get_or_insert(Chunk { row: None, high: None, touched: false }).high = Some(high);
                if *self == Self::PositionFirst && state.done == 0 {
                    state.position = Some(high);
                }
            }
            Action::Emit => {
                let Chunk { row: Some(row), high: Some(high), touched } = state.chunk.take()? else { return None };
                if state.position? < high && *self != Self::HighMark {
                    return None;
                }
                if row.exists && (!touched || *self == Self::Touch) {
                    state.put(state.done, row, false);
                }
                state.done += 1;
            }
            Action::Stream => {
                // The snapshot has its turn first: a chunk is read, or one whose time has come goes out.
                let position = state.position?;
                let due = |c: &Chunk| c.row.is_none() || c.high.is_none_or(|high| position >= high);
                if state.done < KEYS && state.chunk.as_ref().is_none_or(due) {
                    return None;
                }
                let write = *state.binlog.get(position)?;
                for (key, exists) in write.into_iter().enumerate() {
                    let Some(exists) = exists else { continue };
                    state.put(key, Value { write: position as u8 + 1, exists }, true);
                    let swept = state.sweep;
                    state.touch(key);
                    if *self == Self::SweepTouch {
                        state.sweep = swept;
                    }
                }
                state.position = Some(position + 1);
            }
            Action::Settle => {
                // Before the sweep nobody reads the topic.
                let reads = state.done == KEYS || state.sweep != Sweep::Waits;
                if !reads || std::mem::take(&mut state.unread) == [false; KEYS] {
                    return None;
                }
                if let Sweep::Collected { pending, .. } = &mut state.sweep {
                    *pending = [false; KEYS];
                }
            }
            Action::Collect | Action::Compare | Action::Delete => state.sweep(*self, action)?,
            Action::Crash => {
                // What went out is committed with the position and the last key; the chunk or the pass is gone.
                let in_pass = matches!(state.sweep, Sweep::Collected { .. } | Sweep::Compared { .. });
                if state.chunk.take().is_none() && !in_pass {
                    return None;
                }
                if in_pass {
                    state.sweep = Sweep::Waits;
                }
                state.unread = [false; KEYS];
                state.crashes = state.crashes.checked_sub(1)?;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ORDER, |_, s: &State| !s.wrong),
            Property::always(EQUAL, |model, s: &State| {
                // A key that is not in the topic is one that is not in the table; the second is there from before.
                let equal = |key: usize| {
                    let topic = s.topic[key].unwrap_or(Value { write: 0, exists: OLD[key] });
                    topic.exists == s.seen(key).exists && (!topic.exists || topic.write == s.seen(key).write)
                };
                (s.done == KEYS && s.sweep == Sweep::Done && (0..KEYS).all(equal)) || !is_quiet(model, s)
            }),
            Property::sometimes("a chunk shows a write that the stream has not come to", |_, s: &State| {
                let ahead = |c: &Chunk| c.row.is_some_and(|r| usize::from(r.write) > s.position.unwrap_or(0));
                s.chunk.as_ref().is_some_and(ahead)
            }),
            Property::sometimes("a write is in the binlog, and the chunk does not show it", |_, s: &State| {
                s.chunk.as_ref().is_some_and(|c| c.high > s.position && c.row.is_some()) && s.visible.contains(&false)
            }),
            Property::sometimes("the stream takes a row out of a chunk", |_, s: &State| {
                s.chunk.as_ref().is_some_and(|c| c.touched)
            }),
            Property::sometimes("the stream brings back what is gone", |_, s: &State| {
                s.done == 1 && s.topic[1].is_some_and(|v| v.exists)
            }),
            Property::sometimes("the stream takes a key out of a pass", |_, s: &State| {
                matches!(s.sweep, Sweep::Compared { gone } if gone == [false; KEYS]) && s.unread[1]
            }),
            Property::sometimes("what is brought back is deleted before", |_, s: &State| {
                s.sweep == Sweep::Done && s.topic[1] == Some(Value { write: 0, exists: false }) && s.seen(1).exists
            }),
            Property::sometimes("a crash loses a pass", |_, s: &State| {
                s.crashes == 0 && s.done == KEYS && s.sweep == Sweep::Waits
            }),
            Property::sometimes("a crash loses a touched chunk", |_, s: &State| {
                s.crashes == 0 && s.chunk.is_none() && s.done == 0 && s.topic[0].is_some()
            }),
        ]
    }
}

const ORDER: &str = "each change once, and nothing older after it";
const EQUAL: &str = "in the end the topic is the table";

#[test]
fn the_snapshot_meets_the_stream() {
    holds("snapshot", Without::Nothing);
}

#[test]
fn each_guard_of_the_snapshot_is_needed() {
    breaks("a chunk read before all up to the position is visible", Without::Visibility, ORDER);
    breaks("the binlog's end looked up before the chunk is read", Without::HighAfterRead, ORDER);
    breaks("a chunk goes out at once", Without::HighMark, ORDER);
    breaks("what the stream touched stays in the chunk", Without::Touch, ORDER);
    breaks("the position taken after the first chunk", Without::PositionFirst, EQUAL);
    breaks("what is gone stays in the topic", Without::Sweep, EQUAL);
    breaks("the sweep begins before every row is out", Without::SweepLast, EQUAL);
    breaks("the sweep does not look at what the epoch has written", Without::SweepCompare, EQUAL);
    breaks("the sweep looks before what was handed over can be read", Without::SweepMark, EQUAL);
    breaks("what the stream brings back is deleted", Without::SweepTouch, EQUAL);
}
