//! Settling the slots of consumers that are gone: their logs may end with lines that no transaction committed.
//!
//! A thread of its own does it, because a member of the group that waits for a gone neighbour's transaction to end must not
//! be the one that has to end it.
//!
//! Invariant: a slot is settled under its lock, so never that of a living (or stopped) process.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use pipeline::config::KafkaSettings;
use pipeline::error::Result;
use pipeline::failpoint;
use tokio_util::sync::CancellationToken;

use crate::log_file::LogFile;
use crate::marker;
use crate::slot::{Slot, Slots};

/// How often it looks, when nothing calls for it.
const INTERVAL: Duration = Duration::from_secs(60);
/// How soon it tries again after an error that may heal.
const RETRY: Duration = Duration::from_secs(5);

/// Settles whenever the assignment `changed`, and every minute; ends when the program does.
pub(crate) fn run(settings: &KafkaSettings, slots: &Slots, changed: &Receiver<()>, shutdown: &CancellationToken) {
    let mut pause = INTERVAL;
    loop {
        match changed.recv_timeout(pause) {
            Err(RecvTimeoutError::Disconnected) => return,
            // What has gathered meanwhile is served by one look.
            Ok(()) => while changed.try_recv().is_ok() {},
            Err(RecvTimeoutError::Timeout) => {}
        }
        if shutdown.is_cancelled() {
            return;
        }
        pause = match slots.settle_abandoned(&mut |slot| settle(settings, slot)) {
            Ok(()) => INTERVAL,
            Err(error) => {
                tracing::warn!(remedy = error.remedy(), "the log of a consumer that is gone can't be settled: {error}");
                if error.is_transient() { RETRY } else { INTERVAL }
            }
        };
    }
}

/// Ends what the slot's producer had in flight, and cuts its log to what is committed.
fn settle(settings: &KafkaSettings, slot: &Slot) -> Result<()> {
    let opened = marker::open(settings, slot, "consumer.settling")?;
    let log = LogFile::open(slot.id(), &slot.log_path(), opened.committed.length)?;
    failpoint::at("consumer.settled");
    tracing::info!(slot = %slot.name(), committed = log.committed(), "settled the slot of a consumer that is gone");
    Ok(())
}
