//! A replay on request: first what would happen, then, with the word that the plan names, the request itself.
//!
//! The word has the number of the epoch that would begin, so that a plan that was overtaken by another replay is refused.

use cdc_producer::checkpoint::{self, FILE, Request, State};
use cdc_producer::{settings::ProducerSettings, snapshot_requests};
use kafka::{LastRecords, committed_progress};
use model::error::{Code, Error, Result};
use model::table_name::TableName;
use model::time::Micros;
use runtime::config::Pattern;
use serde::{Deserialize, Serialize};

use crate::pipeline::Pipeline;

/// What a person asks for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    kind: Kind,
    #[serde(default)]
    since: Option<String>,
    #[serde(default)]
    table: Option<String>,
    #[serde(default)]
    word: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Snapshot,
    Since,
    Table,
}

/// What would happen.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub(super) struct Plan {
    /// What a person must write.
    word: String,
    lines: Vec<String>,
}

/// A request that can be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Replay {
    Snapshot,
    Since(Micros),
    Table(TableName),
}

/// What is known about the pipeline.
struct Known {
    epoch: u64,
    holder: Option<String>,
    tables: Vec<TableName>,
    /// The checkpoint file asks for a replay that has not begun.
    is_asked: bool,
    now: Micros,
}

/// What would happen, and the word for it.
///
/// # Errors
/// Usage for a request that can't be carried out; transient when Kafka does not answer.
pub(super) fn plan(pipeline: &Pipeline, wanted: &Wanted) -> Result<Plan> {
    let known = look(pipeline)?;
    Ok(planned(&replay(wanted, &known)?, &known))
}

/// Asks for the replay. Returns what happens now.
///
/// # Errors
/// As [`plan`]; usage when the word is not that of the present plan; definite when the file can't be written.
pub(super) fn ask(pipeline: &Pipeline, wanted: &Wanted) -> Result<String> {
    let known = look(pipeline)?;
    let replay = replay(wanted, &known)?;
    let plan = planned(&replay, &known);
    if wanted.word.as_deref() != Some(plan.word.as_str()) {
        return Err(refused(
            format!("the word is not {:?}", plan.word),
            "look again at what would happen: another replay may have begun",
        ));
    }
    let folder = ProducerSettings::from(&pipeline.settings)?.time_track;
    match &replay {
        Replay::Table(name) => snapshot_requests::ask(&folder, name)?,
        Replay::Snapshot => write(&folder, None)?,
        Replay::Since(time) => write(&folder, Some(*time))?,
    }
    tracing::warn!(replay = ?replay, epoch = known.epoch, "a replay was asked for in the console");
    Ok(begins(&known))
}

fn write(folder: &std::path::Path, from: Option<Micros>) -> Result<()> {
    checkpoint::replace(&folder.join(FILE), &Request { from, id: None }.text(), || Ok(true)).map(drop)
}

fn refused(text: impl Into<String>, remedy: &str) -> Error {
    Error::new(Code::CommandLine, text).with_remedy(remedy)
}

fn look(pipeline: &Pipeline) -> Result<Known> {
    let folder = ProducerSettings::from(&pipeline.settings)?.time_track;
    if !folder.is_dir() {
        let text = format!("{} is not here", folder.display());
        return Err(refused(text, "start the console where the producer runs, with the same producer.time_track"));
    }
    let records = LastRecords::new(&pipeline.kafka)?;
    let progress = committed_progress::now(&records, &pipeline.kafka);
    let tables = pipeline.known_tables(&records);
    records.close();
    let path = folder.join(FILE);
    let state = checkpoint::text(&path)?.map(|text| checkpoint::parse(&text, &path)).transpose()?;
    Ok(Known {
        epoch: progress?.map_or(0, |progress| progress.epoch),
        holder: checkpoint::holder(&folder)?,
        tables: tables?.into_iter().map(|table| table.name).collect(),
        is_asked: matches!(state, Some(State::Asked(_))),
        now: Micros::now(),
    })
}

/// The request, checked. Pure.
fn replay(wanted: &Wanted, known: &Known) -> Result<Replay> {
    if known.is_asked {
        return Err(refused(
            "the checkpoint file asks for a replay already",
            "wait until it has begun; a producer that is stopped begins it when it is started",
        ));
    }
    match wanted.kind {
        Kind::Snapshot => Ok(Replay::Snapshot),
        Kind::Since => {
            let text = wanted.since.as_deref().unwrap_or_default();
            let time = Micros::parse(text)
                .ok_or_else(|| refused(format!("{text:?} is no time"), "write it like 2026-11-21T04:00:00Z"))?;
            if time > known.now {
                return Err(refused(format!("{time} is in the future"), "choose a time that has passed"));
            }
            Ok(Replay::Since(time))
        }
        Kind::Table => {
            let text = wanted.table.as_deref().unwrap_or_default();
            let name = Pattern::parse(text).ok().and_then(|pattern| pattern.exact());
            let taken = name.filter(|name| known.tables.contains(name));
            taken
                .map(Replay::Table)
                .ok_or_else(|| refused(format!("{text:?} is not taken"), "choose one of the tables"))
        }
    }
}

/// Pure.
fn planned(replay: &Replay, known: &Known) -> Plan {
    let next = known.epoch + 1;
    let tables: Vec<String> = known.tables.iter().map(ToString::to_string).collect();
    let tables = tables.join(", ");
    let again = "Records that were there before stay; each reader gets them once more, with the new epoch in the header. \
                 PostgreSQL ends with the same rows, and the logs get a further line for each record.";
    let (word, mut lines) = match replay {
        Replay::Snapshot => (
            format!("replay {next}"),
            vec![
                format!("Epoch {next} begins: a snapshot of every row of {tables}, then the binlog from there."),
                again.to_owned(),
                "Keys that are gone from a table get a delete.".to_owned(),
            ],
        ),
        Replay::Since(time) => (
            format!("replay {next}"),
            vec![
                format!("Epoch {next} begins: every change of {tables} that was committed at or after {time}."),
                again.to_owned(),
                "If MySQL no longer has the binlogs of that time, the producer refuses, stops and names the earliest time; \
                 until the request is taken back, no change arrives."
                    .to_owned(),
            ],
        ),
        Replay::Table(name) => (
            format!("snapshot {name}"),
            vec![
                format!("A snapshot of every row of {name} begins; the stream of all tables continues meanwhile."),
                again.to_owned(),
            ],
        ),
    };
    lines.push(begins(known));
    Plan { word, lines }
}

fn begins(known: &Known) -> String {
    match &known.holder {
        Some(holder) => format!("The producer ({holder}) begins at once."),
        None => "No producer runs here; it begins when one is started.".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        let name = |text: &str| Pattern::parse(text).expect("a name").exact().expect("a name");
        Known {
            epoch: 3,
            holder: None,
            tables: vec![name("shop.orders")],
            is_asked: false,
            now: Micros(1_763_697_600_000_000),
        }
    }

    fn wanted(json: &str) -> Wanted {
        serde_json::from_str(json).expect("a request")
    }

    #[test]
    fn a_request_is_checked_and_its_plan_names_the_epoch() {
        for (json, word) in [
            (r#"{"kind":"snapshot"}"#, Some("replay 4")),
            (r#"{"kind":"since","since":"2025-11-20T00:00:00Z"}"#, Some("replay 4")),
            (r#"{"kind":"since","since":"2035-11-20T00:00:00Z"}"#, None),
            (r#"{"kind":"since","since":"yesterday"}"#, None),
            (r#"{"kind":"since"}"#, None),
            (r#"{"kind":"table","table":"shop.orders"}"#, Some("snapshot shop.orders")),
            (r#"{"kind":"table","table":"shop.*"}"#, None),
            (r#"{"kind":"table","table":"../x"}"#, None),
        ] {
            let known = known();
            let found = replay(&wanted(json), &known).map(|replay| planned(&replay, &known).word);
            assert_eq!(found.ok().as_deref(), word, "{json}");
        }
        assert!(serde_json::from_str::<Wanted>(r#"{"kind":"drop"}"#).is_err());
        let asked = Known { is_asked: true, ..known() };
        assert!(replay(&wanted(r#"{"kind":"snapshot"}"#), &asked).is_err());
    }
}
