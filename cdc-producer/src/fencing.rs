//! What a process remembers from one session to the next, to tell a fence by another producer from one of its own making.

use pipeline::error::{Error, Result};
use pipeline::position::Progress;

use crate::run::ProducerSettings;
use crate::view::View;

/// What is remembered from one session to the next.
#[derive(Default)]
pub(crate) struct Memory {
    /// Progress that this process committed or tried to commit.
    pub(crate) ours: Vec<Progress>,
    /// Times in a row that this process was fenced without getting anything committed.
    pub(crate) fenced: u32,
    /// The last time its Kafka transaction had been open for longer than it may be.
    pub(crate) outlived: bool,
    /// The last session committed something new.
    pub(crate) advanced: bool,
    /// What it knows of the checkpoint file.
    pub(crate) view: View,
    /// A session has once got as far as streaming.
    pub(crate) has_run: bool,
}

impl Memory {
    /// After a fence, which looks the same whether another producer took over or a transaction outlived its timeout:
    /// whether to try once more with the progress that is `committed`.
    pub(crate) fn may_go_on(&self, committed: Option<&Progress>, settings: &ProducerSettings) -> Result<()> {
        let ours = self.ours.is_empty() || committed.is_none_or(|c| self.ours.contains(c));
        if self.fenced == 0 || (ours && self.fenced == 1) {
            return Ok(());
        }
        let kafka = &settings.kafka;
        if ours && self.outlived {
            return Err(Error::definite(format!(
                "a transaction of {} takes longer than one of Kafka may be open ({} s)",
                settings.source(),
                kafka.transaction_timeout.as_secs()
            ))
            .with_remedy("raise kafka.transaction_timeout (the broker's transaction.max.timeout.ms is its limit)"));
        }
        Err(Error::definite(format!(
            "another producer with the transactional id {} is at work",
            kafka.transactional_id
        ))
        .with_remedy(
            "run one producer for a source; give another source its own kafka.topic or kafka.transactional_id",
        ))
    }
}
