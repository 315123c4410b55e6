//! The liveness and readiness of a program.
//!
//! A blocked program can't report that it is blocked, so a server that must send regularly, or a call that must return
//! within a time, is a [`Watchdog`]: `/health` and `/ready` compute its silence when they are requested.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The state behind `/health` and `/ready`. A program updates it; clones share it.
#[derive(Clone, Debug)]
pub struct Health(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    last_progress: Instant,
    deadline: Duration,
    /// Why it is not ready; `None` when it is.
    waiting_for: Option<String>,
    /// A condition that a person must look at although the program works.
    warning: Option<String>,
    /// The slot that a consumer holds.
    slot: Option<String>,
    /// A blocking call: what it waits for, and since when.
    blocked: Option<(&'static str, Instant)>,
    watchdogs: Vec<Watchdog>,
}

/// A server or a call that must answer in time. Clones share it.
#[derive(Clone, Debug)]
pub struct Watchdog {
    name: &'static str,
    limit: Duration,
    /// The begin of the wait; `None` while no answer is due.
    since: Arc<Mutex<Option<Instant>>>,
}

impl Watchdog {
    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It has just answered or was just asked: the wait for its next answer begins now.
    pub fn wait(&self) {
        *self.since() = Some(Instant::now());
    }

    /// It last answered at this moment.
    pub fn wait_since(&self, at: Instant) {
        *self.since() = Some(at);
    }

    /// No answer is due any more.
    pub fn rest(&self) {
        *self.since() = None;
    }

    /// Runs work that may block; the program is unready once it takes longer than the limit.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        self.wait();
        let outcome = work();
        self.rest();
        outcome
    }

    /// The message that it is overdue; `None` when it is not.
    pub fn overdue(&self) -> Option<String> {
        let silent = (*self.since())?.elapsed();
        let name = self.name;
        (silent > self.limit).then(|| format!("{name} has not answered for {} s", silent.as_secs()))
    }
}

/// A call that blocks for longer than this makes the program unready.
const LONGEST_CALL: Duration = Duration::from_secs(10);

impl Health {
    /// Healthy as long as progress is reported at least every `deadline`; not ready yet.
    pub fn new(deadline: Duration) -> Self {
        let state = State {
            last_progress: Instant::now(),
            deadline,
            waiting_for: Some("starting".to_owned()),
            warning: None,
            slot: None,
            blocked: None,
            watchdogs: Vec::new(),
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Adds a server or call that must answer within `limit` whenever an answer is due. The message names the first
    /// overdue one in the order of creation.
    pub fn watchdog(&self, name: &'static str, limit: Duration) -> Watchdog {
        let watchdog = Watchdog { name, limit, since: Arc::default() };
        self.state().watchdogs.push(watchdog.clone());
        watchdog
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the deadline.
    pub fn set_deadline(&self, deadline: Duration) {
        self.state().deadline = deadline;
    }

    /// Reports real progress: a record, a heartbeat of the server, an empty poll that the broker answered.
    pub fn progress(&self) {
        self.state().last_progress = Instant::now();
    }

    /// The program works: it is ready.
    pub fn ready(&self) {
        let mut state = self.state();
        state.waiting_for = None;
        state.last_progress = Instant::now();
    }

    /// The slot that this process holds, shown beside the answers.
    pub fn show_slot(&self, slot: String) {
        self.state().slot = Some(slot);
    }

    /// The slot of [`Self::show_slot`].
    pub fn slot(&self) -> Option<String> {
        self.state().slot.clone()
    }

    /// The program is not ready, for this reason.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.state().waiting_for = Some(reason.into());
    }

    /// If the program is not ready, replaces the reason with its present work.
    pub fn still_waits_for(&self, work: &str) {
        if let Some(reason) = &mut self.state().waiting_for {
            work.clone_into(reason);
        }
    }

    /// Sets the condition that a person must look at although the program works; `None` when there is none.
    pub fn warn(&self, warning: Option<String>) {
        self.state().warning = warning;
    }

    /// The condition that a person must look at although the program works.
    pub fn warning(&self) -> Option<String> {
        self.state().warning.clone()
    }

    /// Makes a call that may block until `what` happens; while it takes too long, the program is not ready.
    pub fn while_waiting<T>(&self, what: &'static str, call: impl FnOnce() -> T) -> T {
        self.state().blocked = Some((what, Instant::now()));
        let outcome = call();
        self.state().blocked = None;
        outcome
    }

    /// Why it is not healthy; `None` when it is.
    pub fn unhealthy(&self) -> Option<String> {
        let state = self.state();
        let silent = state.last_progress.elapsed();
        (silent > state.deadline).then(|| {
            let waiting = state.waiting_for.clone().or_else(|| state.watchdogs.iter().find_map(Watchdog::overdue));
            let waiting = waiting.map(|w| format!(" ({w})")).unwrap_or_default();
            format!("no progress for {} s, {} s are allowed{waiting}", silent.as_secs(), state.deadline.as_secs())
        })
    }

    /// Why it is not ready; `None` when it is.
    pub fn unready(&self) -> Option<String> {
        let reason = {
            let state = self.state();
            let blocked = state.blocked.filter(|(_, since)| since.elapsed() > LONGEST_CALL);
            let blocked =
                || blocked.map(|(what, since)| format!("waits for {} s until {what}", since.elapsed().as_secs()));
            let overdue = || state.watchdogs.iter().find_map(Watchdog::overdue);
            state.waiting_for.clone().or_else(blocked).or_else(overdue)
        };
        reason.or_else(|| self.unhealthy())
    }

    /// Time since the last progress.
    pub fn silent_for(&self) -> Duration {
        self.state().last_progress.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_past_the_deadline_is_unhealthy() {
        let health = Health::new(Duration::from_secs(3600));
        assert_eq!((health.unhealthy(), health.unready()), (None, Some("starting".to_owned())));
        health.ready();
        assert_eq!(health.unready(), None);
        health.set_deadline(Duration::ZERO);
        let reason = "no progress for 0 s, 0 s are allowed".to_owned();
        assert_eq!((health.unhealthy(), health.unready()), (Some(reason.clone()), Some(reason)));
    }

    #[test]
    fn a_call_that_blocks_for_long_is_not_ready_though_something_else_goes_on() {
        let health = Health::new(Duration::from_secs(3600));
        health.ready();
        health.while_waiting("Kafka answers", || {
            assert_eq!(health.unready(), None);
            let earlier = Instant::now().checked_sub(Duration::from_secs(12));
            health.state().blocked = earlier.map(|since| ("Kafka answers", since));
            health.progress();
            assert_eq!(health.unready().as_deref(), Some("waits for 12 s until Kafka answers"));
            assert_eq!(health.unhealthy(), None);
        });
    }

    #[test]
    fn what_does_not_answer_is_named_without_anybody_saying_so() {
        let health = Health::new(Duration::from_secs(3600));
        let (patient, kafka) =
            (health.watchdog("MySQL", Duration::from_secs(3600)), health.watchdog("Kafka", Duration::ZERO));
        health.ready();
        assert_eq!(health.unready(), None);
        patient.wait();
        kafka.wait();
        assert_eq!(health.unready(), Some("Kafka has not answered for 0 s".to_owned()));
        kafka.rest();
        assert_eq!((health.unready(), kafka.during(|| health.unready().is_some())), (None, true));
        assert_eq!(health.unready(), None);
    }
}
