//! The command line: run, show or change the checkpoint, check the configuration.

use std::sync::Arc;

use avro::registry::{Found, Registry};
use clap::{Arg, ArgAction, Command};
use kafka::doctor::{self, Check};
use kafka::{LastRecords, Resource, Right};
use model::error::{Code, Error, Result};
use model::escape;
use model::position::Progress;
use model::time::Micros;
use runtime::config::Pattern;
use runtime::program::Context;
use serde_json::{Value, json};

use crate::checkpoint::{self, FILE, Request, State};
use crate::endpoint::Endpoint;
use crate::history;
use crate::list_tables;
use crate::preflight;
use crate::prepared;
use crate::probe;
use crate::publish::Target;
use crate::run::run;
use crate::server::Server;
use crate::settings::ProducerSettings;
use crate::snapshot_requests;
use crate::status::Status;
use crate::table_progress;
use crate::taken;

const SHOWN: &str = "Print one JSON object: file {path, state (missing, damaged, written, asks_for_snapshot, asks_for_time), \
    content}, kafka {topic, epoch, position, read_up_to, snapshot_rows}, null before the first start; refused, why a start \
    would refuse the file";
const ASKED: &str = "Print one JSON object: asked_for (snapshot, time, table), since, table, file; null is what is not \
    asked for";
const RESTORED: &str = "Print one JSON object: file, epoch, position";

fn json_flag(form: &'static str) -> Arg {
    Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print JSON instead of text").long_help(form)
}

/// The program's own flags and subcommands.
pub fn command() -> Command {
    let time = Arg::new("time")
        .value_name("TIME")
        .required(true)
        .help("e.g. 2026-11-21T04:00:00Z, or 2026-11-21 04:00:00 in UTC");
    Command::new("cdc-producer")
        .about("Tails MySQL's binlog and publishes each committed change exactly once to Kafka, a topic for each table")
        .subcommand(Command::new("doctor").about("Check MySQL, Kafka and the registry, and say what to do"))
        .subcommand(
            Command::new("tables")
                .about("List the server's tables: which are taken and how, and why one is not")
                .arg(json_flag("Print one JSON object: tables [{table, pattern, topic, records, refused}]")),
        )
        .subcommand(
            Command::new("snapshot")
                .about("Ask for a snapshot of one table, while the others continue")
                .arg(
                    Arg::new("table")
                        .value_name("DB.TABLE")
                        .required(true)
                        .help("A table that is taken, e.g. shop.orders"),
                )
                .arg(json_flag(ASKED)),
        )
        .subcommand(
            Command::new("checkpoint")
                .about("Look at the progress, restore the file, or ask for a replay")
                .subcommand_required(true)
                .subcommand(Command::new("show").about("What the checkpoint file and Kafka say").arg(json_flag(SHOWN)))
                .subcommand(
                    Command::new("restore")
                        .about("Write the checkpoint file from the position in Kafka, to continue there")
                        .arg(json_flag(RESTORED)),
                )
                .subcommand(
                    Command::new("reset")
                        .about("Ask for a snapshot of the table, then the binlog: a new epoch")
                        .arg(json_flag(ASKED)),
                )
                .subcommand(
                    Command::new("set")
                        .about("Ask for every change committed at or after a time: a new epoch")
                        .arg(time)
                        .arg(json_flag(ASKED)),
                ),
        )
}

/// Executes the command line.
///
/// # Errors
/// The error of the command.
pub async fn execute(context: Context) -> Result<()> {
    let settings = ProducerSettings::from(&context.settings)?;
    match context.arguments.subcommand() {
        Some(("doctor", _)) => doctor::conclude(&checks(&settings).await?),
        Some(("snapshot", arguments)) => {
            let table = arguments.get_one::<String>("table").map_or("", String::as_str);
            ask_for_table(&settings, table, arguments.get_flag("json"))
        }
        Some(("tables", arguments)) => list_tables::print(&settings, arguments.get_flag("json")).await,
        Some(("checkpoint", arguments)) => match arguments.subcommand() {
            Some(("restore", arguments)) => restore(&settings, arguments.get_flag("json")).await,
            Some(("reset", arguments)) => ask(&settings, None, arguments.get_flag("json")),
            Some(("set", arguments)) => {
                let text = arguments.get_one::<String>("time").map_or("", String::as_str);
                let time = Micros::parse(text).ok_or_else(|| {
                    Error::new(Code::CommandLine, format!("{text:?} is no time"))
                        .with_remedy("write it like 2026-11-21T04:00:00Z")
                })?;
                // The server's clock counts, which the producer asks; it may be ahead of this one by a little.
                if time.0 > Micros::now().0 + 60_000_000 {
                    let text = format!("{time} is in the future, so no change was committed since");
                    return Err(Error::new(Code::CommandLine, text).with_remedy("name a time that has passed"));
                }
                ask(&settings, Some(time), arguments.get_flag("json"))
            }
            Some((_, arguments)) if arguments.get_flag("json") => show_json(&settings).await,
            _ => show(&settings).await,
        },
        _ => {
            let status = Status::new(&context.metrics, context.health, settings.heartbeat);
            run(settings, status, context.shutdown).await
        }
    }
}

/// Prints a JSON object on one line.
fn print_json(object: &Value) {
    println!("{}", escape::escaped(&object.to_string()));
}

fn ask(settings: &ProducerSettings, from: Option<Micros>, is_json: bool) -> Result<()> {
    let path = settings.time_track.join(FILE);
    create_folder(settings)?;
    checkpoint::replace(&path, &Request { from, id: None }.text(), || Ok(true))?;
    if is_json {
        let (what, since) = (if from.is_some() { "time" } else { "snapshot" }, from.map(|time| time.to_string()));
        print_json(&json!({ "asked_for": what, "since": since, "table": null, "file": path }));
        return Ok(());
    }
    match from {
        None => println!("asked for a snapshot, then the binlog"),
        Some(time) => println!("asked for every change committed at or after {time}"),
    }
    println!("a running producer begins at once, another one when it is started ({})", path.display());
    Ok(())
}

fn ask_for_table(settings: &ProducerSettings, text: &str, is_json: bool) -> Result<()> {
    let name = Pattern::parse(text).ok().and_then(|pattern| pattern.exact());
    let name = name.ok_or_else(|| {
        Error::new(Code::CommandLine, format!("{text:?} is no name of a table"))
            .with_remedy("write it like shop.orders")
    })?;
    if !settings.tables.takes(&name) {
        return Err(Error::new(Code::CommandLine, format!("tables does not take {name}"))
            .with_remedy("`cdc-producer tables` lists all tables"));
    }
    create_folder(settings)?;
    snapshot_requests::ask(&settings.time_track, &name)?;
    let path = snapshot_requests::path(&settings.time_track);
    if is_json {
        print_json(&json!({ "asked_for": "table", "since": null, "table": name.to_string(), "file": path }));
        return Ok(());
    }
    println!("asked for a snapshot of {name}; the stream of other tables continues");
    println!("a running producer begins at once, another one when it is started ({})", path.display());
    Ok(())
}

/// Writes the file as the producer would have written it.
async fn restore(settings: &ProducerSettings, is_json: bool) -> Result<()> {
    let path = settings.time_track.join(FILE);
    create_folder(settings)?;
    // A damaged file is replaced.
    let seen = checkpoint::text(&path).ok().flatten();
    let state = seen.as_deref().and_then(|text| checkpoint::parse(text, &path).ok());
    let progress = committed(settings).await?;
    let text = checkpoint::restored(state, progress.as_ref(), &settings.source())?;
    if !checkpoint::replace(&path, &text, || Ok(checkpoint::text(&path).ok().flatten() == seen))? {
        return Err(Error::transient(format!("{} was edited at this very moment", path.display()))
            .with_remedy("look at it, and run the command again"));
    }
    if is_json {
        let kafka = progress.map(|progress| (progress.epoch, progress.position.to_string()));
        let (epoch, position) = kafka.unzip();
        print_json(&json!({ "file": path, "epoch": epoch, "position": position }));
        return Ok(());
    }
    if let Some(progress) = progress {
        println!("{} says what Kafka has: epoch {} at {}", path.display(), progress.epoch, progress.position);
    }
    println!("a running producer continues as before, another one continues there when it is started");
    Ok(())
}

fn create_folder(settings: &ProducerSettings) -> Result<()> {
    std::fs::create_dir_all(&settings.time_track)
        .map_err(|e| Error::new(Code::FileAccess, format!("cannot create {}: {e}", settings.time_track.display())))
}

/// The content of the checkpoint file; `None` when it is missing.
fn parsed(settings: &ProducerSettings) -> Result<Option<State>> {
    // A start creates the folder.
    if !settings.time_track.exists() {
        return Ok(None);
    }
    let path = settings.time_track.join(FILE);
    checkpoint::text(&path)?.map(|text| checkpoint::parse(&text, &path)).transpose()
}

/// Shows both, and then the error with which a start would refuse the file, if any.
async fn show(settings: &ProducerSettings) -> Result<()> {
    let path = settings.time_track.join(FILE);
    let parsed = parsed(settings);
    match &parsed {
        Err(_) => println!("{}\n  damaged: see below", path.display()),
        Ok(None) => println!("{}\n  is not there: the next start begins with a snapshot", path.display()),
        Ok(Some(State::Written(w))) => println!(
            "{}\n  read up to      {}\n  source          {} on server {}\n  epoch           {}\n  position        {}:{}\n  GTIDs           {}",
            path.display(),
            w.last_read_timestamp,
            w.source,
            w.server_uuid,
            w.epoch,
            w.file,
            w.offset,
            w.gtid_set.as_ref().map_or("-".to_owned(), ToString::to_string),
        ),
        Ok(Some(State::Asked(Request { from: None, .. }))) => println!("{}\n  asks for a snapshot", path.display()),
        Ok(Some(State::Asked(Request { from: Some(t), .. }))) => {
            println!("{}\n  asks for every change since {t}", path.display())
        }
    }
    let topic = Target::new(settings).checkpoint_topic;
    let progress = committed(settings).await?;
    match &progress {
        None => println!("Kafka ({topic})\n  no position yet"),
        Some(p) => println!(
            "Kafka ({topic})\n  read up to      {}\n  epoch           {}\n  position        {}\n  snapshot        {}",
            p.position.committed_at,
            p.epoch,
            p.position,
            p.snapshot_rows().map_or("complete or not asked for".to_owned(), |rows| format!("{rows} rows read")),
        ),
    }
    match parsed? {
        Some(state) => checkpoint::decide(state, progress, &settings.source(), &path).map(drop),
        None => Ok(()),
    }
}

/// As [`show`], as JSON.
async fn show_json(settings: &ProducerSettings) -> Result<()> {
    let path = settings.time_track.join(FILE);
    let parsed = parsed(settings);
    let (state, content) = match &parsed {
        Err(_) => ("damaged", Value::Null),
        Ok(None) => ("missing", Value::Null),
        Ok(Some(State::Written(written))) => ("written", serde_json::to_value(written).unwrap_or_default()),
        Ok(Some(State::Asked(Request { from: None, .. }))) => ("asks_for_snapshot", Value::Null),
        Ok(Some(State::Asked(Request { from: Some(time), .. }))) => ("asks_for_time", json!(time.to_string())),
    };
    let topic = Target::new(settings).checkpoint_topic;
    let progress = committed(settings).await?;
    let kafka = progress.as_ref().map(|progress| {
        json!({
            "topic": topic,
            "epoch": progress.epoch,
            "position": progress.position.to_string(),
            "read_up_to": progress.position.committed_at.to_string(),
            "snapshot_rows": progress.snapshot_rows(),
        })
    });
    let judged = match parsed {
        Ok(Some(state)) => checkpoint::decide(state, progress, &settings.source(), &path).map(drop),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    let refused = judged.as_ref().err().map(ToString::to_string);
    let file = json!({ "path": path, "state": state, "content": content });
    print_json(&json!({ "file": file, "kafka": kafka, "refused": refused }));
    judged
}

/// The progress in Kafka.
async fn committed(settings: &ProducerSettings) -> Result<Option<Progress>> {
    let (kafka, target) = (settings.kafka.clone(), Target::new(settings));
    tokio::task::spawn_blocking(move || target.progress(LastRecords::new(&kafka)?))
        .await
        .map_err(|e| Error::definite(format!("looking into Kafka ended by a fault of the program: {e}")))?
}

/// Checks whether the stream can continue behind the committed position, and whether the earlier binlogs that it needs
/// exist.
async fn history(settings: &ProducerSettings, endpoint: &Endpoint, server: &Server) -> Vec<Check> {
    const NAME: &str = "history";
    let progress = match committed(settings).await {
        Ok(None) => return vec![Check::good(NAME, "no position yet: the first start begins with a snapshot")],
        Ok(Some(progress)) => progress,
        Err(e) => return vec![Check::failed(NAME, &e)],
    };
    let prepared = async { prepared::check(&mut endpoint.connect().await?, &progress).await };
    let prepared = prepared.await.unwrap_or_else(|e| Check::failed("prepared XA", &e));
    let proven = match history::resume(endpoint, server, &progress.position).await {
        Ok(proven) => probe::try_reading(endpoint, &proven.position).await.map(|()| proven),
        Err(e) => Err(e),
    };
    let history = match proven {
        Ok(proven) => Check::good(NAME, format!("complete after {}", proven.position)),
        Err(e) => Check::failed(NAME, &e),
    };
    vec![history, prepared]
}

/// The checks of what a start needs.
///
/// # Errors
/// Usage when the registry's settings can't be used.
pub async fn checks(settings: &ProducerSettings) -> Result<Vec<Check>> {
    let endpoint = Endpoint::new(settings.mysql.clone());
    let mut checks = Vec::new();
    let tables = match taken::tables(settings, &endpoint).await {
        Ok(tables) => tables,
        Err(e) => {
            checks.push(Check::failed("tables", &e));
            vec![settings.clone()]
        }
    };
    let mut schemas: Vec<Arc<str>> = tables.iter().map(|table| Arc::clone(&table.contract.text)).collect();
    match preflight::mysql(&endpoint, &tables).await {
        Ok(mut report) => {
            for (schema, found) in schemas.iter_mut().zip(&report.tables) {
                if let Some(table) = &found.table {
                    *schema = Arc::clone(&table.schema_text);
                }
            }
            // Without this right all other checks would fail as a consequence.
            if let (Some(server), true) = (&report.server, doctor::require(&report.checks).is_ok()) {
                report.checks.extend(history(settings, &endpoint, server).await);
            }
            checks.extend(report.checks);
        }
        Err(e) => checks.push(Check::failed("MySQL", &e)),
    }
    for table in &tables {
        checks.extend(kafka_checks(table).await);
    }
    for (table, schema) in tables.iter().zip(&schemas) {
        checks.push(match Registry::new(table.registry.clone())?.check(schema).await {
            Ok(Found::Good(found)) => Check::good("registry", found),
            Ok(Found::Unprotected(found, remedy)) => Check::warning("registry", found, remedy),
            Err(e) => Check::failed("registry", &e),
        });
    }
    let replaceable = checkpoint::require_replaceable(&settings.time_track.join(FILE));
    if let Err(e) = replaceable.and_then(|()| parsed(settings)) {
        checks.push(Check::failed("checkpoint", &e));
    }
    Ok(checks)
}

/// The producer's rights according to docs/security.md, on the existing topics.
fn rights(settings: &ProducerSettings, target: &Target, missing: &[String]) -> Vec<Check> {
    let topics = [&target.topic, &target.checkpoint_topic].into_iter().filter(|topic| !missing.contains(topic));
    let mut rights: Vec<_> =
        topics.map(|topic| (Resource::Topic(topic.clone()), &[Right::Read, Right::Write][..])).collect();
    let parked = target.parked_topic.iter().filter(|topic| !missing.contains(topic));
    rights.extend(parked.map(|topic| (Resource::Topic(topic.clone()), &[Right::Write][..])));
    let mut untold = format!("WRITE on the transactional id {}", settings.kafka.transactional_id);
    if !missing.is_empty() {
        untold = format!("{untold}, CREATE on {}", missing.join(", "));
    }
    doctor::rights(&settings.kafka, &rights, &untold)
}

async fn kafka_checks(settings: &ProducerSettings) -> Vec<Check> {
    let target = Target::new(settings);
    let missing = match kafka::check_topics(&settings.kafka, &target.topics(&settings.kafka)) {
        Ok(missing) => missing,
        Err(e) => return vec![Check::failed("Kafka", &e)],
    };
    let is_there = |topic: &String| !missing.contains(topic);
    let mut checks = vec![if missing.is_empty() {
        Check::good("Kafka", format!("topic {} is there", target.topic))
    } else {
        Check::good("Kafka", format!("to be created: {}", missing.join(", ")))
    }];
    checks.extend(rights(settings, &target, &missing));
    if !is_there(&target.topic) {
        return checks;
    }
    let partitions = usize::try_from(settings.kafka.partitions).unwrap_or(0);
    let known = || {
        let records = LastRecords::new(&settings.kafka)?;
        let (bounds, id) = (records.bounds(&target.topic, partitions)?, records.topic_id(&target.topic)?);
        if !is_there(&target.checkpoint_topic) {
            return Ok((bounds, None));
        }
        let progress = target.progress(records)?;
        let noted = progress.as_ref().and_then(|progress| progress.table(&target.source, &settings.name()));
        table_progress::check_count(noted, &bounds, &target.topic)?;
        noted.map_or(Ok(()), |noted| table_progress::check_topic(noted, &bounds, id.as_deref(), target.names()))?;
        Ok((bounds, noted.and_then(|noted| noted.complete.clone())))
    };
    let expired = match known() {
        Ok((bounds, complete)) => doctor::expired(&bounds, complete.as_ref()),
        Err(e) => {
            checks.push(Check::failed("Kafka", &e));
            Vec::new()
        }
    };
    checks.extend(doctor::topics(&settings.kafka, &expired).await);
    checks
}
