//! `consumer forget-folder`: declares the logs of a lost folder, whose bytes no longer count for the group.

use std::collections::BTreeMap;

use kafka::slots::{self, FolderId, LogCheckpoint};
use kafka::{Failure, GroupReader, Member, TransactionalProducer};
use model::error::{Code, Error, Result};
use runtime::config::KafkaSettings;

use super::{last, send};
use crate::slot_name::Key;

/// Declares the logs of this folder lost. Returns the committed bytes of each. Blocks.
///
/// # Errors
/// Definite when a consumer of that folder is in the group, or no log checkpoint names the folder; transient when Kafka
/// can't be reached.
pub(crate) fn forget(settings: &KafkaSettings, folder: &FolderId, place: &str) -> Result<BTreeMap<String, u64>> {
    let of_folder = |checkpoint: &LogCheckpoint| checkpoint.folder == folder.as_str() && checkpoint.moved.is_none();
    let keys: Vec<Key> =
        slots::log_checkpoints(settings)?.into_iter().filter(|(_, m)| of_folder(m)).map(|(key, _)| Key(key)).collect();
    if keys.is_empty() {
        let text = format!("no log of folder {folder} is known to group {}", settings.group_id);
        return Err(Error::new(Code::CommandLine, text)
            .with_remedy("take the folder's identity from the message that names it"));
    }
    let part = format!("-{folder}-");
    let members = GroupReader::new(settings)?.members()?;
    if let Some(Member { id, .. }) = members.into_iter().find(|member| member.id.contains(&part)) {
        return Err(Error::new(
            Code::AnotherConsumer,
            format!("{id} of folder {folder} is in the group {}", settings.group_id),
        )
        .with_remedy("stop its consumers, and wait until their session (kafka.session_timeout) is over"));
    }
    let mut forgotten = BTreeMap::new();
    for key in keys {
        let producer = TransactionalProducer::new(settings, &key.transactional_id(&settings.topic))?;
        let Some(checkpoint) = last(settings, &key)?.filter(of_folder) else { continue };
        let commit = || {
            producer.begin()?;
            send(&producer, &slots::topic(settings), &key, &checkpoint.moved_to(&settings.group_id, "", place))?;
            producer.commit()
        };
        commit()
            .map_err(|e: Failure| e.into_error(&format!("cannot write the log checkpoint of {}", key.describe())))?;
        forgotten.insert(checkpoint.slot, checkpoint.length);
    }
    Ok(forgotten)
}
