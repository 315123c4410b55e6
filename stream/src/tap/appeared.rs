//! The tables that have a topic now: at the start, and looked for again and again by a thread, since a look waits while
//! Kafka is away.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

use consumer::tables::Taken;
use kafka::LastRecords;
use model::error::{Error, Result};

use crate::pipeline::{Pipeline, select};

/// The pause between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// A table that has a topic.
pub(super) struct Found {
    pub(super) taken: Taken,
    /// Partitions of the topic.
    pub(super) partitions: usize,
}

/// The tables that have a topic, or the only one of them that is wanted. Blocks.
///
/// # Errors
/// As [`Pipeline::known_tables`] and [`select`].
pub(super) fn find(pipeline: &Pipeline, records: &LastRecords, only: Option<&str>) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for taken in select(pipeline.known_tables(records)?, only)? {
        if let Some(partitions) = records.partition_count(&taken.kafka.topic)?.filter(|count| *count > 0) {
            found.push(Found { taken, partitions });
        }
    }
    Ok(found)
}

/// Passes on what [`find`] finds, until the receiver is dropped. Call it within a runtime.
///
/// # Errors
/// Usage when a setting can't be used; definite when the system gives no thread.
pub(super) fn watch(pipeline: &Pipeline, only: Option<&str>) -> Result<Receiver<Vec<Found>>> {
    let (records, pipeline, only) = (LastRecords::new(&pipeline.kafka)?, pipeline.clone(), only.map(str::to_owned));
    let (send, found) = sync_channel(1);
    let look = move || {
        loop {
            thread::sleep(EVERY);
            match find(&pipeline, &records, only.as_deref()) {
                Ok(found) => {
                    if send.send(found).is_err() {
                        return;
                    }
                }
                // The reader of the topics reports that Kafka is away.
                Err(error) => tracing::debug!("new tables can't be looked for: {error}"),
            }
        }
    };
    let started = thread::Builder::new().name("new tables".to_owned()).spawn(look);
    started.map_err(|e| Error::definite("no thread can be started that looks for new tables").with_source(e))?;
    Ok(found)
}
