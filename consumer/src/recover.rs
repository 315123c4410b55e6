//! Recovers the slots of consumers that are gone: ends their transactions, and cuts lines that no transaction
//! committed.
//!
//! A separate thread does this: a group member that waits until a gone neighbour's transaction has ended can't be the
//! one that ends it.
//!
//! Invariant: a slot is recovered under its lock, so never while a running (or suspended) process holds it.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use model::error::Result;
use runtime::config::KafkaSettings;
use runtime::failpoint;
use runtime::step::ConsumerStep;
use tokio_util::sync::CancellationToken;

use crate::log_checkpoint;
use crate::log_file::LogFile;
use crate::slot::{Slot, Slots};
use crate::topics::Topics;

/// The interval of the checks without a change of the assignment.
const INTERVAL: Duration = Duration::from_secs(60);
/// The pause before a retry after a transient error.
const RETRY: Duration = Duration::from_secs(5);

/// Recovers after each change of the assignment (`changed`), and every minute; ends with the program.
pub(crate) fn run(
    settings: &KafkaSettings,
    topics: &Topics,
    slots: &Slots,
    changed: &Receiver<()>,
    shutdown: &CancellationToken,
) {
    let mut pause = INTERVAL;
    loop {
        match changed.recv_timeout(pause) {
            Err(RecvTimeoutError::Disconnected) => return,
            // One pass serves all notifications that have arrived.
            Ok(()) => while changed.try_recv().is_ok() {},
            Err(RecvTimeoutError::Timeout) => {}
        }
        if shutdown.is_cancelled() {
            return;
        }
        pause = match slots.recover_abandoned(&mut |slot| recover(settings, topics, slot)) {
            Ok(()) => INTERVAL,
            Err(error) => {
                tracing::warn!(
                    remedy = error.remedy(),
                    "the log of a consumer that is gone can't be recovered: {error}"
                );
                if error.is_transient() { RETRY } else { INTERVAL }
            }
        };
    }
}

/// Ends the open transaction of the slot's producer, and cuts its log to the committed length.
fn recover(settings: &KafkaSettings, topics: &Topics, slot: &Slot) -> Result<()> {
    let opened = log_checkpoint::open(settings, topics, slot, ConsumerStep::Recovering)?;
    let log = LogFile::open(slot.id(), &slot.log_path(), opened.committed.length)?;
    failpoint::at(ConsumerStep::Recovered);
    tracing::info!(slot = %slot.name(), committed = log.committed(), "recovered the slot of a consumer that is gone");
    Ok(())
}
