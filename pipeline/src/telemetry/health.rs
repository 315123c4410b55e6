//! Whether a program is alive and ready, as it says itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The state that `/health` and `/ready` answer from. A program updates it; clones share it.
#[derive(Clone, Debug)]
pub struct Health(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    last_progress: Instant,
    deadline: Duration,
    /// Why it is not ready; `None` when it is.
    waiting_for: Option<String>,
}

impl Health {
    /// Alive as long as progress is reported at least every `deadline`; not ready yet.
    pub fn new(deadline: Duration) -> Self {
        let waiting_for = Some("starting".to_owned());
        Self(Arc::new(Mutex::new(State { last_progress: Instant::now(), deadline, waiting_for })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the deadline.
    pub fn set_deadline(&self, deadline: Duration) {
        self.state().deadline = deadline;
    }

    /// Something real has happened: a record, a heartbeat of the server, an empty poll that the broker answered.
    pub fn progress(&self) {
        self.state().last_progress = Instant::now();
    }

    /// It does its work.
    pub fn ready(&self) {
        let mut state = self.state();
        state.waiting_for = None;
        state.last_progress = Instant::now();
    }

    /// It does not do its work at the moment, because of this.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.state().waiting_for = Some(reason.into());
    }

    /// Why it is not alive; `None` when it is.
    pub fn unhealthy(&self) -> Option<String> {
        let state = self.state();
        let silent = state.last_progress.elapsed();
        (silent > state.deadline).then(|| {
            let waiting = state.waiting_for.as_ref().map(|w| format!(" ({w})")).unwrap_or_default();
            format!("no progress for {} s, {} s are allowed{waiting}", silent.as_secs(), state.deadline.as_secs())
        })
    }

    /// Why it is not ready; `None` when it is.
    pub fn unready(&self) -> Option<String> {
        let waiting = self.state().waiting_for.clone();
        waiting.or_else(|| self.unhealthy())
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
}
