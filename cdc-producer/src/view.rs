//! Keeps the checkpoint file, which people see and edit, up to date with the progress in Kafka.

use std::time::Duration;

use pipeline::position::Progress;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::checkpoint::{CheckpointFile, Written};
use crate::status::Status;

/// Keeps the checkpoint file up to date with what is committed, until everything is `finished`. When a person edits it,
/// the file is left alone, the session is told to `stop`, and the answer is true.
pub(crate) async fn watch_file(
    file: &CheckpointFile,
    source: &str,
    view: String,
    mut committed: watch::Receiver<Option<Progress>>,
    status: &Status,
    stop: &CancellationToken,
    finished: &CancellationToken,
) -> bool {
    // Often enough for a person, seldom enough for a disk.
    const EVERY: Duration = Duration::from_millis(500);
    let mut written = Some(view);
    loop {
        let stopping = tokio::select! {
            () = finished.cancelled() => true,
            () = tokio::time::sleep(EVERY) => false,
        };
        let now = committed.borrow_and_update().clone();
        match file.text() {
            Ok(text) if text != written => {
                tracing::info!(file = %file.path().display(), "the checkpoint file was edited: following it");
                stop.cancel();
                return true;
            }
            Ok(_) => {
                let text = now.map(|p| Written::of(&p, source).text());
                match text.filter(|text| Some(text) != written.as_ref()) {
                    None => status.view_written(true),
                    Some(new) => match file.replace(written.as_deref(), &new) {
                        Ok(true) => {
                            written = Some(new);
                            status.view_written(true);
                        }
                        // Edited this very moment: the next look says so.
                        Ok(false) => continue,
                        Err(error) => {
                            status.view_written(false);
                            tracing::error!(%error, what_to_do = error.remedy(), "the checkpoint file is out of date");
                        }
                    },
                }
            }
            Err(error) => {
                status.view_written(false);
                tracing::error!(%error, what_to_do = error.remedy(), "the checkpoint file can't be read");
            }
        }
        if stopping {
            return false;
        }
    }
}
