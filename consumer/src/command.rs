//! What a person asks of a consumer that does not run.

use pipeline::config::KafkaSettings;
use pipeline::error::{Error, Result};
use pipeline::kafka;

use crate::marker;
use crate::offsets;
use crate::slot::{SlotId, Slots};

/// Gives the group back the offsets that Kafka has dropped.
///
/// # Errors
/// Those of [`offsets::restore`].
pub(crate) fn restore_offsets(kafka: &KafkaSettings) -> Result<()> {
    let restored = tokio::task::block_in_place(|| offsets::restore(kafka))?;
    for (partition, offset) in &restored {
        println!("partition {partition}: {offset}");
    }
    println!("{} offsets of group {} were missing and are there again", restored.len(), kafka.group_id);
    Ok(())
}

/// Takes a slot's log as it is for what is committed.
///
/// # Errors
/// Usage when there is no such slot, definite when its consumer runs, transient when Kafka does not answer.
pub(crate) async fn accept_log(kafka: &KafkaSettings, slots: &Slots, name: &str) -> Result<()> {
    let unknown = || Error::usage(format!("{name:?} is no slot")).with_remedy("name a slot, e.g. consumer_1");
    let id = SlotId::parse(name).ok_or_else(unknown)?;
    let held =
        || Error::definite(format!("{id} is held by a running consumer")).with_remedy("stop that consumer first");
    let slot = slots.take(id)?.ok_or_else(held)?;
    kafka::ensure_topics(kafka, &[marker::topic(kafka)]).await?;
    let accepted = tokio::task::block_in_place(|| marker::accept(kafka, &slot))?;
    slot.note_settled()?;
    println!("{name}: {} bytes were committed, {} are from now on", accepted.before, accepted.after);
    if accepted.after < accepted.before {
        println!(
            "warning: the lines of {} bytes are gone and will not be written again",
            accepted.before - accepted.after
        );
    }
    Ok(())
}
