//! Synchronises the checkpoint file with the progress in Kafka while the producer runs, and follows a person's edits.
//!
//! Invariant: no content of the file ends a producer that has streamed. An edit that can't be followed is reported and
//! left in the file, and the stream continues from the position in Kafka until the file changes again.

use std::time::Duration;

use model::error::{Error, Result};
use model::position::Progress;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::checkpoint::{CheckpointFile, Request, Start, Written, decide, parse};
use crate::endpoint::Endpoint;
use crate::locate;
use crate::status::Status;

/// How often the file is read: often enough for a person, rarely enough for a disk.
const EVERY: Duration = Duration::from_millis(500);

/// The result of reading the file: its text, `None` when it is missing, or why it can't be read.
type Look = std::result::Result<Option<String>, String>;

/// What a process knows of the checkpoint file, kept across sessions.
#[derive(Debug, Default)]
pub(crate) struct CheckpointSync {
    /// The last text of the file that could be followed; `None` before the first session streams.
    accepted: Option<String>,
    /// The result that was refused, as it can't be followed.
    refused: Option<Look>,
    /// The last result, if it is neither of these.
    unsettled: Option<Look>,
    /// The last reported error, while it persists.
    reported: Option<String>,
}

/// The classification of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The file has the accepted text.
    Unchanged,
    /// It has just changed. Programs that save a file may empty or remove it first, so the next read decides.
    Unsettled,
    /// It still has the refused content.
    Refused,
    /// Somebody has edited it.
    Edited,
}

/// The inputs of a session that synchronises the file.
pub(crate) struct Watched<'a> {
    pub(crate) file: &'a CheckpointFile,
    /// `database.table`.
    pub(crate) source: &'a str,
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) status: &'a Status,
    /// The progress in Kafka.
    pub(crate) committed: watch::Receiver<Option<Progress>>,
}

impl CheckpointSync {
    /// Updates the file with the committed progress until `finished` is cancelled. When a person requests a replay,
    /// cancels `stop` and returns true.
    pub(crate) async fn watch(
        &mut self,
        watched: &Watched<'_>,
        stop: &CancellationToken,
        finished: &CancellationToken,
    ) -> bool {
        loop {
            let stopping = tokio::select! {
                () = finished.cancelled() => true,
                () = tokio::time::sleep(EVERY) => false,
            };
            let text = watched.file.text();
            match self.compare(&look_of(&text)) {
                Verdict::Unchanged => self.update(watched),
                Verdict::Edited if !stopping => {
                    let is_followed = tokio::select! {
                        () = finished.cancelled() => return false,
                        is_followed = self.follow(watched, text) => is_followed,
                    };
                    if is_followed {
                        stop.cancel();
                        return true;
                    }
                }
                Verdict::Edited | Verdict::Unsettled | Verdict::Refused => {}
            }
            if stopping {
                return false;
            }
        }
    }

    /// Decides how a session begins, from the `text` of the file and the progress in Kafka. A process that has streamed
    /// continues from Kafka when the file can't be followed.
    ///
    /// # Errors
    /// At the first start, why the file can't be followed; transient when the server can't be asked.
    pub(crate) async fn start(&mut self, watched: &Watched<'_>, text: Result<Option<String>>) -> Result<Start> {
        let committed = watched.committed.borrow().clone();
        let decided = |state| decide(state, committed, watched.source, watched.file.path());
        let Some(accepted) = &self.accepted else { return decided(watched.file.state(text?.as_deref())?) };
        let accepted = parse(accepted, watched.file.path())?;
        let look = look_of(&text);
        if self.refused.as_ref() != Some(&look) {
            match judge(watched, text).await {
                Err(error) if !error.is_transient() => self.refuse(look, watched.status, &error),
                judged => {
                    self.refused = None;
                    return judged;
                }
            }
        }
        decided(accepted)
    }

    /// Writes the file at the beginning of a session; false when somebody has edited it since it was `seen`. Leaves a
    /// refused file unchanged; a process that has streamed continues even if the file can't be written.
    ///
    /// # Errors
    /// At the first start, as [`CheckpointFile::replace`].
    pub(crate) fn begin(
        &mut self,
        file: &CheckpointFile,
        seen: Option<&str>,
        text: String,
        status: &Status,
    ) -> Result<bool> {
        if self.refused.is_some() {
            return Ok(true);
        }
        match file.replace(seen, &text) {
            Ok(true) => self.accept(text),
            Ok(false) => return Ok(false),
            Err(error) if self.accepted.is_some() => self.report(status, &error),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Classifies a result, and remembers it.
    fn compare(&mut self, look: &Look) -> Verdict {
        let verdict = if matches!(look, Ok(Some(text)) if Some(text) == self.accepted.as_ref()) {
            Verdict::Unchanged
        } else if self.refused.as_ref() == Some(look) {
            Verdict::Refused
        } else if self.unsettled.as_ref() == Some(look) {
            Verdict::Edited
        } else {
            Verdict::Unsettled
        };
        match verdict {
            Verdict::Unchanged => (self.refused, self.unsettled) = (None, None),
            Verdict::Refused => self.unsettled = None,
            Verdict::Unsettled | Verdict::Edited => self.unsettled = Some(look.clone()),
        }
        verdict
    }

    fn accept(&mut self, text: String) {
        (self.accepted, self.refused, self.unsettled) = (Some(text), None, None);
    }

    /// Writes the progress in Kafka to the file, if it differs from the accepted text.
    fn update(&mut self, watched: &Watched<'_>) {
        let now = watched.committed.borrow().as_ref().map(|progress| Written::of(progress, watched.source).text());
        let Some(new) = now.filter(|text| Some(text) != self.accepted.as_ref()) else {
            return self.is_well(watched.status);
        };
        match watched.file.replace(self.accepted.as_deref(), &new) {
            Ok(true) => {
                self.accept(new);
                self.is_well(watched.status);
            }
            // Edited at this moment: the next read finds the edit.
            Ok(false) => {}
            Err(error) => self.report(watched.status, &error),
        }
    }

    /// Follows a person's edit; returns whether a new epoch must begin.
    async fn follow(&mut self, watched: &Watched<'_>, text: Result<Option<String>>) -> bool {
        let look = look_of(&text);
        match judge(watched, text).await {
            Ok(Start::Begin { request, .. }) => {
                let seen = look.ok().flatten();
                match watched.file.identify(request, seen.as_deref()) {
                    Ok(Some(_)) => {
                        tracing::info!(file = %watched.file.path().display(), "the checkpoint file was edited: following it");
                        return true;
                    }
                    Ok(None) => {}
                    // The next read tries again.
                    Err(error) => self.report(watched.status, &error),
                }
            }
            Ok(Start::Resume(_)) => {
                tracing::info!(file = %watched.file.path().display(), "the checkpoint file says a position that Kafka has");
                if let Ok(Some(text)) = look {
                    self.accept(text);
                }
                self.update(watched);
            }
            Err(error) if error.is_transient() => {
                tracing::debug!(%error, "cannot see whether the edit can be followed")
            }
            Err(error) => self.refuse(look, watched.status, &error),
        }
        false
    }

    fn refuse(&mut self, look: Look, status: &Status, error: &Error) {
        (self.refused, self.unsettled, self.reported) = (Some(look), None, None);
        self.report(status, error);
    }

    /// Reports an error once while it persists.
    fn report(&mut self, status: &Status, error: &Error) {
        status.file_outdated(Some(error));
        let text = Some(error.to_string());
        if self.reported != text {
            tracing::error!(
                %error,
                what_to_do = error.remedy(),
                "the checkpoint file is out of date; the stream continues from the position in Kafka"
            );
            self.reported = text;
        }
    }

    fn is_well(&mut self, status: &Status) {
        status.file_outdated(None);
        if self.reported.take().is_some() {
            tracing::info!("the checkpoint file is up to date again");
        }
    }
}

fn look_of(text: &Result<Option<String>>) -> Look {
    text.as_ref().cloned().map_err(ToString::to_string)
}

/// Decides what the text of the file requests.
///
/// # Errors
/// Definite when it can't be followed; transient when the server can't be asked.
async fn judge(watched: &Watched<'_>, text: Result<Option<String>>) -> Result<Start> {
    let (file, committed) = (watched.file, watched.committed.borrow().clone());
    let start = decide(file.state(text?.as_deref())?, committed, watched.source, file.path())?;
    if let Start::Begin { request: Request { from: Some(at), .. }, .. } = &start {
        let reached = locate::require_reached(watched.endpoint, *at).await;
        reached.map_err(|e| e.at(&file.path().display().to_string()))?;
    }
    Ok(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_counts_when_two_looks_find_it() {
        use Verdict::{Edited, Refused, Unchanged, Unsettled};
        let text = |text: &str| Ok(Some(text.to_owned()));
        let mut sync = CheckpointSync::default();
        sync.accept("ours".to_owned());
        for (look, want) in [
            (text("ours"), Unchanged),
            // An editor empties or removes the file before it writes.
            (text(""), Unsettled),
            (text("new"), Unsettled),
            (Ok(None), Unsettled),
            (text("ours"), Unchanged),
            (Ok(None), Unsettled),
            (Ok(None), Edited),
            // It stays an edit until it is accepted or refused.
            (Ok(None), Edited),
            (Err("no right".to_owned()), Unsettled),
            (Err("no right".to_owned()), Edited),
        ] {
            assert_eq!(sync.compare(&look), want, "{look:?}");
        }
        sync.refused = Some(text("typo"));
        for (look, want) in [
            (text("typo"), Refused),
            (text("typo"), Refused),
            (text("typos"), Unsettled),
            (text("typo"), Refused),
            (text("typos"), Unsettled),
            (text("ours"), Unchanged),
            // The same content was put in again, so it is reported again.
            (text("typo"), Unsettled),
            (text("typo"), Edited),
        ] {
            assert_eq!(sync.compare(&look), want, "{look:?}");
        }
    }
}
