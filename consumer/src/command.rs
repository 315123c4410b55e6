//! The subcommands that a person runs, most of them while the consumer is stopped.

use clap::ArgMatches;
use kafka::slots::FolderId;
use model::error::{Code, Error, Result};
use runtime::config::{KafkaSettings, Settings};

use crate::kept_lines::Kept;
use crate::log_checkpoint;
use crate::log_checkpoint::accept::{Accepted, accept};
use crate::log_checkpoint::forget::forget;
use crate::repair::{self, Set};
use crate::retry_parked::retry_parked;
use crate::slot::Slots;
use crate::slot_name::SlotId;
use crate::tables;
use crate::topics::Topics;

/// Runs the subcommand; `None` when there is none.
pub(crate) async fn asked(
    arguments: &ArgMatches,
    settings: &Settings,
    kafka: &KafkaSettings,
    slots: &Slots,
) -> Option<Result<()>> {
    let (command, arguments) = arguments.subcommand()?;
    if command == "retry-parked" {
        return Some(retry_parked(settings).await.map(|retried| println!("{retried}")));
    }
    let tables = match tokio::task::block_in_place(|| tables::known(settings, kafka, &|| false)) {
        Ok(tables) => tables,
        Err(error) => return Some(Err(error)),
    };
    let topics = &Topics::new(&tables);
    let text = |id| arguments.get_one::<String>(id).map_or("", String::as_str);
    Some(match command {
        "accept-log" => accept_log(kafka, topics, slots, text("slot")).await,
        "forget-folder" => forget_folder(kafka, slots, text("folder")),
        "skip-deleted" => skip_deleted(kafka, topics),
        _ => restore_offsets(kafka, topics),
    })
}

/// Sets the group's offsets to what the logs have.
///
/// # Errors
/// Those of [`repair::restore`].
fn restore_offsets(kafka: &KafkaSettings, topics: &Topics) -> Result<()> {
    let restored = tokio::task::block_in_place(|| repair::restore(kafka, topics))?;
    for Set { partition, before, now } in &restored {
        match before {
            None => println!("partition {partition}: {now}, it was missing"),
            Some(before) => println!("partition {partition}: {now}, it was {before}"),
        }
    }
    let missing = restored.iter().filter(|set| set.before.is_none()).count();
    println!(
        "{missing} offsets of group {} were missing and are there again, {} were set to what the logs have",
        kafka.group_id,
        restored.len() - missing
    );
    Ok(())
}

/// Moves the group's offsets past records that the topic no longer has.
///
/// # Errors
/// Those of [`repair::skip_deleted`].
fn skip_deleted(kafka: &KafkaSettings, topics: &Topics) -> Result<()> {
    let skipped = tokio::task::block_in_place(|| repair::skip_deleted(kafka, topics))?;
    for Set { partition, before, now } in &skipped {
        println!("partition {partition}: offsets {} to {} are in no log", before.unwrap_or(0), now - 1);
    }
    println!("group {} continues behind deleted records in {} partitions", kafka.group_id, skipped.len());
    Ok(())
}

/// Declares a logs folder of the group lost.
///
/// # Errors
/// Usage when the text is no identity or this folder's own, and those of [`forget`].
fn forget_folder(kafka: &KafkaSettings, slots: &Slots, id: &str) -> Result<()> {
    let unknown = || {
        Error::new(Code::CommandLine, format!("{id:?} is no identity of a logs folder"))
            .with_remedy("name the 8 characters that stand in the file .folder of a logs folder, e.g. k7x2m9qa")
    };
    let folder = FolderId::parse(id).ok_or_else(unknown)?;
    if slots.identity().id == folder {
        return Err(Error::new(
            Code::CommandLine,
            format!("{folder} is the logs folder {}, which is not lost", slots.place()),
        )
        .with_remedy("name the folder that is gone"));
    }
    let forgotten = tokio::task::block_in_place(|| forget(kafka, &folder, slots.place()))?;
    for (slot, bytes) in &forgotten {
        println!("{slot} of folder {folder}: {bytes} committed bytes");
    }
    println!("folder {folder} is declared lost: its lines are not expected any more, and will not be written again");
    Ok(())
}

/// Accepts a slot's log as it is as the committed one.
///
/// # Errors
/// Usage when there is no such slot, definite when its consumer runs, transient when Kafka does not answer.
async fn accept_log(kafka: &KafkaSettings, topics: &Topics, slots: &Slots, name: &str) -> Result<()> {
    let unknown =
        || Error::new(Code::CommandLine, format!("{name:?} is no slot")).with_remedy("name a slot, e.g. consumer_1");
    let id = SlotId::parse(name).ok_or_else(unknown)?;
    let held = || {
        Error::new(Code::AnotherConsumer, format!("{id} is held by a running consumer"))
            .with_remedy("stop that consumer first")
    };
    let slot = slots.take(id)?.ok_or_else(held)?;
    kafka::ensure_topics(kafka, &[log_checkpoint::topic(kafka)]).await?;
    let accepted = tokio::task::block_in_place(|| accept(kafka, topics, slots, &slot))?;
    slot.mark_recovered()?;
    let Accepted { before, after, cut, is_new_group } = accepted;
    match before {
        Some(before) => println!("{name}: {before} bytes were committed, {after} are from now on"),
        None => println!("{name}: how much was committed is unknown, {after} bytes are from now on"),
    }
    if let Some(Kept { bytes, path }) = &cut {
        println!(
            "warning: {bytes} bytes were cut off, as their records are read again or are in another log; they are kept in {}",
            path.display()
        );
    }
    if is_new_group && after > 0 {
        println!(
            "warning: Kafka at {} knows nothing that group {} has read: the consumers read topic {} from its beginning",
            kafka.bootstrap_servers, kafka.group_id, kafka.topic
        );
    }
    let missing = before.unwrap_or(0).saturating_sub(after);
    if missing > 0 {
        println!(
            "warning: the log has {missing} bytes less than were committed; lines that are gone will not be written again"
        );
    }
    Ok(())
}
