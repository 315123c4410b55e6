//! State that a process keeps across sessions, to distinguish a fence by another producer from a fence by its own
//! sessions.

use model::error::{Code, Error, Result};
use model::position::Progress;

use crate::checkpoint_sync::CheckpointSync;
use crate::settings::ProducerSettings;

/// The state that is kept across sessions.
#[derive(Default)]
pub(crate) struct Memory {
    /// Progress that this process committed or tried to commit.
    pub(crate) ours: Vec<Progress>,
    /// Number of consecutive fences without a commit in between.
    pub(crate) fenced: u32,
    /// At the last fence, the Kafka transaction had been open for longer than its timeout.
    pub(crate) outlived: bool,
    /// The last session committed new progress.
    pub(crate) advanced: bool,
    /// What the process knows of the checkpoint file.
    pub(crate) checkpoint_sync: CheckpointSync,
    /// A session has reached streaming at least once.
    pub(crate) has_run: bool,
}

impl Memory {
    /// After a fence, whether to retry with the `committed` progress. Kafka reports the same error whether another
    /// producer took over or a transaction exceeded its timeout.
    pub(crate) fn may_go_on(&self, committed: Option<&Progress>, settings: &ProducerSettings) -> Result<()> {
        let ours = self.ours.is_empty() || committed.is_none_or(|c| self.ours.contains(c));
        if self.fenced == 0 || (ours && self.fenced == 1) {
            return Ok(());
        }
        let kafka = &settings.kafka;
        if ours && self.outlived {
            return Err(Error::new(
                Code::TransactionTimeout,
                format!(
                    "a transaction of {} takes longer than one of Kafka may be open ({} s)",
                    settings.source(),
                    kafka.transaction_timeout.as_secs()
                ),
            )
            .with_remedy("raise kafka.transaction_timeout (the broker's transaction.max.timeout.ms is its limit)"));
        }
        Err(Error::new(
            Code::AnotherProducer,
            format!("another producer with the transactional id {} is at work", kafka.transactional_id),
        )
        .with_remedy(
            "run one producer for a source; give another source its own kafka.topic or kafka.transactional_id",
        ))
    }
}
