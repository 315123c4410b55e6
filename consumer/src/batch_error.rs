//! Errors of a batch, and what the loop does after each.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use kafka::Failure;
use model::error::{Code, Error, Result};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::group::PollError;
use crate::slot_name::SlotId;

const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// So many fencings within this time mean a second process, not an accident.
const FENCINGS: usize = 5;
const FENCING_WINDOW: Duration = Duration::from_secs(60);

/// Why a batch was not committed, and what follows.
#[derive(Debug)]
pub enum BatchError {
    /// The group rebalanced during the batch: roll back and poll, which brings the new assignment.
    Rebalanced,
    /// Roll back and read it again with the same clients.
    Retry(Error),
    /// Discard the clients and create new ones: the outcome is unknown, or they are unusable.
    Reconnect {
        /// The cause.
        error: Error,
        /// Another process took over this slot's identity, or this process did not answer for too long.
        fenced: bool,
    },
    /// A person must act.
    Fatal(Error),
}

/// Chooses by the error's class.
impl From<Error> for BatchError {
    fn from(error: Error) -> Self {
        if error.is_transient() { Self::Retry(error) } else { Self::Fatal(error) }
    }
}

impl From<PollError> for BatchError {
    fn from(error: PollError) -> Self {
        match error {
            PollError::Ended { error, fenced } => Self::Reconnect { error, fenced },
            PollError::Definite(error) => Self::Fatal(error),
        }
    }
}

impl BatchError {
    /// An error while the clients are being created: they are created again.
    pub(crate) fn at_start(error: Error) -> Self {
        if !error.is_transient() {
            return Self::Fatal(error);
        }
        let fenced = matches!(error.cause(), Some(Failure::Fenced(_)));
        Self::Reconnect { error, fenced }
    }

    /// The reaction to a failure of the transaction, which has been aborted if it can be.
    pub fn of(failure: Failure) -> Self {
        match failure {
            Failure::Rebalanced(_) => Self::Rebalanced,
            Failure::Abortable(_) => Self::Retry(Error::transient("the batch was rolled back").with_source(failure)),
            failure => Self::broken(failure),
        }
    }

    /// The reaction to an error after which the transaction can't be aborted.
    pub(crate) fn broken(failure: Failure) -> Self {
        match failure {
            Failure::Refused { .. } => return Self::at_start(failure.into_error("Kafka refuses the batch")),
            Failure::OtherCount { .. } => return Self::Fatal(failure.into_error("cannot read on")),
            _ => {}
        }
        let fenced = matches!(failure, Failure::Fenced(_));
        // The transaction itself was committed or aborted.
        let what = if matches!(failure, Failure::Stale(_)) {
            "the clients are created again"
        } else {
            "the batch was not committed"
        };
        Self::Reconnect { error: Error::transient(what).with_source(failure), fenced }
    }
}

/// Increasing pauses between attempts.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Backoff {
    pub(crate) fn new() -> Self {
        Self(SHORTEST)
    }

    /// After a success, the next pause is the shortest again.
    pub(crate) fn reset(&mut self) {
        self.0 = SHORTEST;
    }

    /// Waits, but not past a shutdown.
    pub(crate) fn wait(&mut self, runtime: &Runtime, shutdown: &CancellationToken) {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST);
        runtime.block_on(async {
            // Either way the caller looks at the token next.
            tokio::time::timeout(pause, shutdown.cancelled()).await.unwrap_or_default();
        });
    }
}

/// Counts how often another process took over this slot's identity.
#[derive(Debug, Default)]
pub(crate) struct Fences(VecDeque<Instant>);

impl Fences {
    /// # Errors
    /// Definite when it happens repeatedly.
    pub(crate) fn note(&mut self, slot: SlotId, now: Instant) -> Result<()> {
        self.0.push_back(now);
        self.0.retain(|at| now.duration_since(*at) < FENCING_WINDOW);
        if self.0.len() < FENCINGS {
            return Ok(());
        }
        Err(Error::new(Code::AnotherConsumer, format!(
            "{slot} was fenced {FENCINGS} times within {} s: another process uses its transactional id or its member id",
            FENCING_WINDOW.as_secs()
        ))
        .with_remedy(
            "look for a process with a copy of this logs folder (consumer.logs), or with the same group (kafka.group_id) and \
             ids that do not come from this folder, and stop it",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fencing_after_fencing_is_an_error() {
        let mut fences = Fences::default();
        let start = Instant::now();
        let mut note = |seconds| fences.note(SlotId(1), start + Duration::from_secs(seconds)).is_ok();
        assert_eq!([0, 1, 2, 3, 61, 62, 63, 64].map(&mut note), [true; 8]);
        assert!(!note(65));
    }

    #[test]
    fn a_fence_while_the_clients_are_created_counts() {
        for (failure, wanted) in [(Failure::Fenced("F".to_owned()), true), (Failure::Broken("B".to_owned()), false)] {
            let error = failure.into_error("cannot begin");
            let BatchError::Reconnect { error, fenced } = BatchError::at_start(error) else { panic!("try again") };
            assert_eq!(fenced, wanted, "{error}");
            assert!(error.to_string().starts_with("cannot begin: "), "{error}");
        }
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let stopped = CancellationToken::new();
        stopped.cancel();
        let mut backoff = Backoff::new();
        for _ in 0..10 {
            backoff.wait(&runtime, &stopped);
        }
        assert_eq!(backoff.0, LONGEST);
        backoff.reset();
        assert_eq!(backoff.0, SHORTEST);
    }
}
