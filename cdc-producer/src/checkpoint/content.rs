//! The content of the checkpoint file: what a program writes, and what a person asks for. Pure.

use std::path::Path;

use model::error::{Code, Error, Result};
use model::gtid::GtidSet;
use model::position::Progress;
use model::time::Micros;
use serde::{Deserialize, Serialize};
use serde_json::Value;

const HELP: &str = "to replay, set last_read_timestamp to null (snapshot of the table, then the binlog) or to a time such as \
                    2026-11-21T04:00:00Z (every change committed from then on)";

/// The fields that a program writes, next to the timestamp, so that it detects an edit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The timestamp as it was written, RFC 3339 in UTC.
    pub last_read_timestamp: String,
    /// `database.table`.
    pub source: String,
    /// The server whose binlog was read.
    pub server_uuid: String,
    /// Counts the replays.
    pub epoch: u64,
    /// Transactions that are in Kafka, where the server has GTIDs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gtid_set: Option<GtidSet>,
    /// Binlog file.
    pub file: String,
    /// Offset in it.
    pub offset: u64,
    /// Rows that a running snapshot has read.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub snapshot_rows: Option<u64>,
}

impl Written {
    /// The file's content for this `progress` of the source `database.table`.
    pub fn of(progress: &Progress, source: &str) -> Self {
        let position = &progress.position;
        Self {
            last_read_timestamp: position.committed_at.to_string(),
            source: source.to_owned(),
            server_uuid: position.server_uuid.clone(),
            epoch: progress.epoch,
            gtid_set: position.gtid_set.clone(),
            file: position.file.clone(),
            offset: position.offset,
            snapshot_rows: progress.snapshot_rows(),
        }
    }

    /// The file's text.
    pub fn text(&self) -> String {
        Form { last_read_timestamp: Some(&self.last_read_timestamp), producer: Some(self), request: None, help: HELP }
            .text()
    }
}

/// The file's fields in the order in which a person reads them.
#[derive(Serialize)]
struct Form<'a> {
    last_read_timestamp: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    producer: Option<&'a Written>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<&'a str>,
    help: &'static str,
}

impl Form<'_> {
    fn text(&self) -> String {
        // Texts and numbers always have a JSON form.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

/// A person's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Start time of the replay; `None` requests a snapshot.
    pub from: Option<Micros>,
    /// Identity; `None` until the program has assigned one.
    pub id: Option<String>,
}

impl Request {
    /// The text of a file with this request, with its identity if it has one.
    pub fn text(&self) -> String {
        let from = self.from.map(|t| t.to_string());
        Form { last_read_timestamp: from.as_deref(), producer: None, request: self.id.as_deref(), help: HELP }.text()
    }

    /// An identity belongs to one request: when a person edits the time, the old identity is void.
    pub(super) fn prefix(&self) -> String {
        self.from.map_or_else(|| "snapshot".to_owned(), |t| t.to_string())
    }
}

/// The content of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Written by a program, unedited.
    Written(Box<Written>),
    /// A request for a replay, or the first start.
    Asked(Request),
}

/// Reads the text of a checkpoint file; `path` is for messages.
///
/// # Errors
/// Definite when it is not JSON of the expected form.
pub fn parse(text: &str, path: &Path) -> Result<State> {
    let refuse = |reason: String| {
        Error::new(Code::CheckpointFileDamaged, format!("{}: {reason}", path.display())).with_remedy(
            "nothing was overwritten. `cdc-producer checkpoint restore` writes the file from the position in Kafka; for a \
             replay: `cdc-producer checkpoint reset` (snapshot) or `cdc-producer checkpoint set TIME`",
        )
    };
    let value: Value = serde_json::from_str(text).map_err(|e| refuse(format!("not valid JSON: {e}")))?;
    let Value::Object(fields) = value else { return Err(refuse("not a JSON object".to_owned())) };
    let from = match fields.get("last_read_timestamp") {
        None => return Err(refuse("it has no last_read_timestamp".to_owned())),
        Some(Value::Null) => None,
        Some(Value::String(text)) => Some(Micros::parse(text).ok_or_else(|| {
            refuse(format!("last_read_timestamp {text:?} is neither RFC 3339 nor YYYY-MM-DD HH:MM:SS[.ffffff] (UTC)"))
        })?),
        Some(other) => return Err(refuse(format!("last_read_timestamp is {other}, not a text or null"))),
    };
    if let Some(written) = fields.get("producer") {
        let written: Written = serde_json::from_value(written.clone())
            .map_err(|e| refuse(format!("its part \"producer\" is damaged: {e}")))?;
        if from.is_some_and(|t| t.to_string() == written.last_read_timestamp) {
            return Ok(State::Written(Box::new(written)));
        }
    }
    let mut request = Request { from, id: None };
    let id = fields.get("request").and_then(Value::as_str);
    request.id = id.filter(|id| id.starts_with(&request.prefix())).map(str::to_owned);
    Ok(State::Asked(request))
}
