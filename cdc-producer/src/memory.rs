//! State that a process keeps across sessions.

use model::error::{Code, Error, Result};
use model::position::Progress;

use crate::checkpoint_sync::CheckpointSync;
use crate::fencing::{Exit, Fencing};
use crate::settings::ProducerSettings;

/// The state that is kept across sessions.
#[derive(Default)]
pub(crate) struct Memory {
    /// Whose the last fence was.
    pub(crate) fencing: Fencing<Progress>,
    /// The last session committed new progress.
    pub(crate) advanced: bool,
    /// What the process knows of the checkpoint file.
    pub(crate) checkpoint_sync: CheckpointSync,
    /// A session has reached streaming at least once.
    pub(crate) has_run: bool,
}

impl Memory {
    /// See [`Fencing::may_go_on`].
    pub(crate) fn may_go_on(&self, committed: Option<&Progress>, settings: &ProducerSettings) -> Result<()> {
        let kafka = &settings.kafka;
        self.fencing.may_go_on(committed).map_err(|exit| match exit {
            Exit::TransactionTimeout => Error::new(
                Code::TransactionTimeout,
                format!(
                    "a transaction of {} takes longer than one of Kafka may be open ({} s)",
                    settings.source(),
                    kafka.transaction_timeout.as_secs()
                ),
            )
            .with_remedy("raise kafka.transaction_timeout (the broker's transaction.max.timeout.ms is its limit)"),
            Exit::AnotherProducer => Error::new(
                Code::AnotherProducer,
                format!("another producer with the transactional id {} is at work", kafka.transactional_id),
            )
            .with_remedy(
                "run one producer for a source; give another source its own kafka.topic or kafka.transactional_id",
            ),
        })
    }
}
