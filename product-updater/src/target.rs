//! The table that changes are applied to.

use std::path::PathBuf;
use std::time::Duration;

use model::error::{Error, Result};
use tokio::time::Instant;

use crate::change::Effect;
use crate::csv_file::Format;
use crate::row_error::RowError;

/// The result of a change: its effect, or why the table refuses it.
pub(crate) type Applied = Result<Effect, RowError>;

/// A table with the rules by which changes are applied to it.
pub(crate) trait Target {
    type Format: Format<Change = Self::Change>;
    type Change: Send + 'static;

    /// The format of its files, whose rows have at most this many bytes.
    fn format(&self, row_bytes: usize) -> Self::Format;

    /// Prepares for these files, which are applied in this order.
    fn begin(&mut self, files: &[PathBuf], format: &Self::Format);

    /// Applies a chunk in one transaction; the first change has the number `first`. Returns the effect of each change.
    /// Retries after a transient error; if the chunk was committed after all, the retry changes nothing.
    ///
    /// A strict target commits nothing of a chunk with a refused row, and returns the effects of the changes up to that
    /// row.
    ///
    /// # Errors
    /// Definite errors of the server; transient ones that persist.
    async fn apply(&mut self, first: u64, chunk: &[Self::Change]) -> Result<Vec<Applied>>;

    /// Closes the connection.
    async fn close(self);
}

/// Pauses between the attempts to apply a chunk while the server is away or a lock is held.
pub(crate) struct Retry {
    started: Instant,
    patience: Duration,
    pause: Duration,
}

impl Retry {
    /// Retries for at most this long.
    pub(crate) fn within(patience: Duration) -> Self {
        Self { started: Instant::now(), patience, pause: Duration::from_millis(50) }
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// The given one, when another attempt does not help or the time is over.
    pub(crate) async fn after(&mut self, error: Error) -> Result<()> {
        if !error.is_transient() || self.started.elapsed() > self.patience {
            return Err(error);
        }
        tracing::warn!(%error, retry_in_ms = self.pause.as_millis() as u64, "trying the chunk again");
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(Duration::from_secs(5));
        Ok(())
    }
}
