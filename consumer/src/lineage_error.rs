//! The error texts for a log that is not opened, each with its remedy.

use model::error::{Code, Error};
use runtime::config::KafkaSettings;

use crate::lineage::LineageError;
use crate::slot::Slot;
use crate::slot_name::Key;

/// The text and the remedy of a lineage error.
pub(crate) fn of(settings: &KafkaSettings, slot: &Slot, error: &LineageError) -> Error {
    let (path, id) = (slot.log_path(), slot.id());
    let path = path.display();
    match error {
        LineageError::Foreign => foreign(settings, slot),
        LineageError::Continued(_, place) if place == slot.place() => Error::new(Code::LogCopied, format!(
            "{path} is an older copy of the log of {id}: the log was opened again after the copy was made"
        ))
        .with_remedy(format!(
            "put back the log as it was last, with its dot files; or, to continue with this one, run: consumer accept-log {id}"
        )),
        LineageError::Continued(key, place) => Error::new(Code::LogCopied, format!(
            "{path} is an older copy of the log of {}, which was opened later at {place}",
            key.describe()
        ))
        .with_remedy(format!(
            "two machines may not use copies of one logs folder. To continue at {place}, delete this copy with its dot files: \
             an empty folder gets a new identity. To continue here, stop the consumers there, copy {id} from there with \
             its dot files, and delete the logs folder there",
        )),
        LineageError::Moved(key, place) => Error::new(Code::LogCopied, format!(
            "the lines of {path} belong to {}, which took this log over at {place}",
            Key(key.clone()).describe()
        ))
        .with_remedy(format!(
            "delete this copy of {id} with its dot files: the slot then begins with an empty log. To have the log here again, \
             stop the consumer there and move its folder here"
        )),
        LineageError::Forgotten(place) => Error::new(Code::LogCopied, format!(
            "{path} belongs to a logs folder that was declared lost at {place} (consumer forget-folder)"
        ))
        .with_remedy(format!("to continue with this log all the same, run: consumer accept-log {id}")),
        LineageError::Occupied(key) => Error::new(Code::LogCopied, format!(
            "{path} is the log of {}, but {id} of this folder has committed lines in another log",
            key.describe()
        ))
        .with_remedy(format!(
            "put the own log of {id} back, and rename this folder to consumer_N with a number that is free: its log is then \
             taken over"
        )),
    }
}

fn foreign(settings: &KafkaSettings, slot: &Slot) -> Error {
    let length = std::fs::metadata(slot.log_path()).map_or(0, |log| log.len());
    Error::new(Code::LogUnknown, format!(
        "{} has {length} bytes, but topic {} at {} knows of no consumer that wrote them for group {}",
        slot.log_path().display(),
        settings.topic,
        settings.bootstrap_servers,
        settings.group_id
    ))
    .with_remedy(format!(
        "they come from another topic, cluster or group: move the file away, or name another folder (consumer.logs); or, to \
         continue behind its lines, run: consumer accept-log {}",
        slot.id()
    ))
}

/// The log lacks committed lines, and was last open elsewhere.
pub(crate) fn older_copy(slot: &Slot, place: &str, error: &Error) -> Error {
    let text = format!("{error}; the log was last open at {place}, so this is an older copy of it");
    Error::new(Code::LogCopied, text).with_remedy(format!(
        "copy the folder {} from {place} with its dot files while both are stopped; or, to continue without the lines that are \
         missing here, run: consumer accept-log {}",
        slot.id(),
        slot.id()
    ))
}

/// A logs folder of the group at this place is gone, with its lines.
pub(crate) fn gone(slot: &Slot, folder: &str, bytes: u64) -> Error {
    Error::new(Code::FolderGone, format!(
        "{} held the logs folder {folder} with {bytes} committed bytes of this group, which is gone",
        slot.place()
    ))
    .with_remedy(format!(
        "put the folder back with its dot files. If its lines are lost for good, run: consumer forget-folder {folder}. If \
         that folder is on another machine that has the same host name, give this one another path (consumer.logs)"
    ))
}
