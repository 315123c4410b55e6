//! The command line.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cdc_producer::settings::ProducerSettings;
use clap::{Arg, ArgAction, ArgMatches, Command};
use consumer::retry_parked::retry_parked;
use kafka::doctor;
use model::error::Result;
use runtime::config::Program;
use runtime::program::{self, Context};

use crate::console;
use crate::dlq::{self, Desk};
use crate::fault;
use crate::pipeline::Pipeline;
use crate::status::{self, Looker};
use crate::tap;
use crate::text;
use crate::trace::{self, Limits, Tracer, Wanted};

/// The commands of the producer that are its own here too.
const OF_PRODUCER: [&str; 3] = ["tables", "snapshot", "checkpoint"];
/// The pause between two looks of `--watch`.
const WATCH: Duration = Duration::from_secs(2);

/// Offsets of a partition that are looked at without `--all`.
const LOOKED_AT: i64 = 200_000;

const STATUS: &str = "Print one JSON object, with --watch one a line: at, group, source {address, version, server_uuid, \
    end, is_same_server, behind_bytes, behind_seconds, purge_seconds}, reached {epoch, position, gtid_set, server_uuid, \
    committed_at, prepared}, producer {holder, has_folder, metrics {address, is_ready, reason, aborts}}, tables [{name, \
    topic, exists, snapshot {step, rows, of, rows_per_second, seconds_left}, partitions [{number, begin, end, open, \
    committed, lag, holder, waits, written_last_minute, written_per_second, read_per_second}], dead_letters, parked_keys, \
    postgres_behind}], consumers [{name, host, state (runs, stopped, joins, elsewhere), partitions, metrics, is_silent}], latency {p50_seconds, \
    p99_seconds, changes}, free_slots, session_timeout, faults [{part, error, refuses, reason, what_to_do}]; null is \
    what is unknown";

/// Runs the program.
pub fn start() -> ExitCode {
    let different = AtomicBool::new(false);
    let code = program::start(Program::Stream, command(), |context| execute(context, &different));
    if different.into_inner() { ExitCode::FAILURE } else { code }
}

fn command() -> Command {
    let producer = cdc_producer::command::command();
    let of_producer = producer.get_subcommands().filter(|command| OF_PRODUCER.contains(&command.get_name()));
    let of_producer = of_producer.cloned().map(|command| command.display_order(100));
    Command::new("stream")
        .about("Shows the pipeline, the life of a row and the changes as they come, and operates it")
        .subcommand_required(true)
        .arg_required_else_help(true)
        // `-h` fits one screen.
        .disable_help_subcommand(true)
        .subcommand(status())
        .subcommand(trace())
        .subcommand(tap())
        .subcommand(letters())
        .subcommand(console::command())
        .subcommand(
            Command::new("doctor")
                .about("Check everything that the producer and the consumers need, and say what to do")
                .arg(json("Print one JSON object: checks [{program, name, outcome (good, note, warning, bad), found, remedy}]")),
        )
        .subcommand(verify::command().about("Compare table, topic, logs and PostgreSQL; exits 1 unless they agree"))
        .subcommands(of_producer)
}

fn status() -> Command {
    Command::new("status")
        .about("The pipeline on one screen; exits 75 when a part does not answer, 1 when one refuses")
        .arg(
            Arg::new("watch").long("watch").action(ArgAction::SetTrue).help("Look again every two seconds, with rates"),
        )
        .arg(
            Arg::new("partitions")
                .long("partitions")
                .action(ArgAction::SetTrue)
                .help("Show every partition, also of many; else those that need attention"),
        )
        .arg(json(STATUS))
}

const TRACE: &str = "Print one JSON object: table, topic, key, partition, source {exists, row, refused, read_at}, changes \
    [{table, key, op, committed_at, position, row_number, epoch, partition, offset, written_at, row, unreadable, is_consumed, \
    log {slot, file, byte, committed_by, line}, no_log, is_in_postgres}], searched [[partition, {from, to, begin, \
    is_complete}]], uncommitted, letter, postgres {table, exists, partition, offset, committed_at, row, parked {partition, \
    offset, column, sqlstate, reason}}, standing {hop (arrived, producer, consumer, postgres, parked, nowhere, unknown), text, \
    what_to_do}, faults [{part, error, refuses, reason, what_to_do}]";

const HOW: &str = "All changes of a key are in one partition, that of the murmur2 hash of the key. It is read from its end \
    backward, until --last changes are found or 200,000 offsets were looked at (--all: to its beginning). PostgreSQL's row \
    has the offset that wrote it, so that change is shown however old it is. Lines are found in a log by halving the file: \
    those of a partition are in the order of their offsets. The time of a line is that of the log checkpoint that \
    committed it. The changes of a transaction (--position) are found by halving each partition, since the records of an \
    epoch are in the order of the source; if that finds nothing, the last 200,000 offsets of each partition are read. `tail -c +N FILE | head -1`, with N one more than the byte, prints a line.";

fn trace() -> Command {
    Command::new("trace")
        .about("The life of a row, hop by hop, and where its last change stands")
        .long_about(format!(
            "The life of a row: its changes in MySQL, the topic, a log and PostgreSQL, and where the last one stands.\n\n{HOW}"
        ))
        .arg(
            Arg::new("key")
                .value_name("KEY")
                .allow_hyphen_values(true)
                .required_unless_present_any(["position", "offset"])
                .help("The row's primary key, of several columns a JSON array: '[17,\"a\"]'"),
        )
        .arg(table_flag("The table, if several are taken"))
        .arg(
            Arg::new("position")
                .long("position")
                .value_name("POS")
                .conflicts_with_all(["key", "offset"])
                .help("The changes of a transaction instead: a GTID, or FILE:OFFSET"),
        )
        .arg(
            Arg::new("offset")
                .long("offset")
                .value_name("PARTITION:OFFSET")
                .value_parser(place)
                .conflicts_with("key")
                .help("The row whose record is at this place of the topic"),
        )
        .arg(
            Arg::new("last")
                .long("last")
                .value_name("N")
                .value_parser(clap::value_parser!(u32).range(1..=10_000))
                .default_value("10")
                .help("Changes that are shown"),
        )
        .arg(Arg::new("all").long("all").action(ArgAction::SetTrue).help("Look at all of the partition, however long it is"))
        .arg(json(TRACE))
}

const TAP: &str = "Print one JSON object a line: table, key, op, committed_at, position, row_number, epoch, partition, offset, \
    written_at, row, unreadable, before, is_before_known; row is null for a deleted row, before is the row before the \
    change as far as tap has seen it";

fn tap() -> Command {
    Command::new("tap")
        .about("Follow the changes as they come, readable, with what each one changed, until Ctrl-C")
        .arg(table_flag("Follow this table only"))
        .arg(
            Arg::new("key")
                .long("key")
                .value_name("KEY")
                .allow_hyphen_values(true)
                .help("Changes of the row with this key only"),
        )
        .arg(Arg::new("where").long("where").value_name("COLUMN=VALUE").action(ArgAction::Append).help(
            "Changes with this value in a column (of a delete, in the row before it, if read); several must all hold",
        ))
        .arg(Arg::new("op").long("op").value_name("c,u,d,r").help("Created, updated, deleted, read by a snapshot"))
        .arg(
            Arg::new("from")
                .long("from")
                .value_name("WHERE")
                .value_parser(from)
                .help("beginning, end [default], or the time of the first record: 2026-11-21T04:00:00Z"),
        )
        .arg(
            Arg::new("last")
                .long("last")
                .value_name("N")
                .value_parser(clap::value_parser!(u32).range(1..=100_000))
                .conflicts_with("from")
                .help("Begin with the last N changes, of the last 200,000 records of each partition"),
        )
        .arg(
            Arg::new("stop")
                .long("stop-at-end")
                .action(ArgAction::SetTrue)
                .help("Stop at the present end of each partition"),
        )
        .arg(json(TAP))
}

fn from(text: &str) -> Result<tap::From, String> {
    match text {
        "beginning" => Ok(tap::From::Beginning),
        "end" => Ok(tap::From::End),
        time => model::time::Micros::parse(time)
            .map(tap::From::Time)
            .ok_or_else(|| "not beginning, end or a time such as 2026-11-21T04:00:00Z".to_owned()),
    }
}

fn letters() -> Command {
    let offset = || {
        Arg::new("offset")
            .value_name("OFFSET")
            .required(true)
            .value_parser(clap::value_parser!(i64))
            .help("The letter's offset, as `dlq list` shows it")
    };
    let table = || table_flag("The letter's table, if several are taken");
    Command::new("dlq")
        .about("Dead letters: what is parked, why, and what leads it back")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("list")
                .about("List the dead letters")
                .arg(table_flag("Those of this table only"))
                .arg(json("Print one JSON object: letters [{table, topic, offset, written_at, kind (row, record, postgres, \
                    sent_again, foreign), key, reason, column, partition, record_offset, header, sqlstate, cut}], is_complete")),
        )
        .subcommand(
            Command::new("show")
                .about("Show a dead letter in full, what became of it, and what to do")
                .arg(offset())
                .arg(table())
                .arg(json("Print one JSON object: a letter as of `dlq list`, and value_hex, value_text, now (the record as it is \
                    read now), state (replaced, missing, unknown), because, what_to_do, faults")),
        )
        .subcommand(
            Command::new("replay")
                .about("Send a record again that could not be read when it came, exactly once")
                .long_about(REPLAY)
                .arg(offset())
                .arg(table())
                .arg(json("Print one JSON object: topic, key, partition, before, offset")),
        )
        .subcommand(
            Command::new("retry-parked")
                .about("Write what is parked for PostgreSQL to it again, after its table was changed so that it takes it")
                .arg(json("Print one JSON object: keys (whose last state is parked), partitions (that are written again)")),
        )
}

const REPLAY: &str = "Send a record again that could not be read when it came, exactly once.\n\n\
    Only a record is sent again that can be read now (the registry has its schema again), whose key has no later change, and \
    whose epoch is the present one. It is sent with the producer's transactional id: a running producer is fenced for a \
    moment and continues (producer_fences_total), and can't write a later change in between. A note in the topic of the dead \
    letters goes with it, so that nothing is sent twice. Rows that the producer parked, and records that PostgreSQL refuses, \
    have other ways back, which the command prints.";

fn table_flag(help: &'static str) -> Arg {
    Arg::new("table").long("table").value_name("DB.TABLE").help(help)
}

fn place(text: &str) -> Result<(i32, i64), String> {
    let parts =
        text.split_once(':').and_then(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?)));
    parts.ok_or_else(|| "not a partition and an offset, e.g. 3:1204".to_owned())
}

/// The flag `--json`, with the form of its output in the long help.
fn json(form: &'static str) -> Arg {
    Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print JSON instead of text").long_help(form)
}

async fn execute(context: Context, different: &AtomicBool) -> Result<()> {
    let (name, arguments) = match context.arguments.subcommand() {
        Some((name, arguments)) => (name.to_owned(), arguments.clone()),
        None => return Ok(()),
    };
    match name.as_str() {
        "status" => watch(&context, &arguments).await,
        "trace" => show_life(&context, &arguments).await,
        "dlq" => of_letters(&context, &arguments).await,
        "tap" => tokio::task::block_in_place(|| follow(&context, &arguments)),
        "console" => console::run(&context, &arguments).await,
        "doctor" => check(&context, &arguments).await,
        "verify" => {
            let found = AtomicBool::new(false);
            verify::execute(Context { arguments, ..context }, &found).await?;
            different.store(found.into_inner(), Ordering::Relaxed);
            Ok(())
        }
        _ => cdc_producer::command::execute(context).await,
    }
}

async fn watch(context: &Context, arguments: &ArgMatches) -> Result<()> {
    let looker = Looker::new(Pipeline::new(&context.settings)?)?;
    let [watches, is_json, all] = ["watch", "json", "partitions"].map(|flag| arguments.get_flag(flag));
    let mut before: Option<status::Status> = None;
    loop {
        let mut now = looker.look().await;
        if let Some(before) = &before {
            now.compare(before);
        }
        let written = if is_json {
            text::write_json(&now)?
        } else {
            text::write(&match text::screen().filter(|_| watches) {
                // Home, then the screen behind the text is cleared: it does not flicker.
                Some(screen) => {
                    format!("\x1b[H{}\x1b[J", status::fitted(&now, all, screen).replace('\n', "\x1b[K\n"))
                }
                None if watches => format!("{}\n", status::render(&now, all, None)),
                None => status::render(&now, all, text::width()),
            })?
        };
        if !watches {
            leave_open(looker);
            return fault::conclude(&now.faults);
        }
        before = Some(now);
        tokio::select! {
            () = tokio::time::sleep(WATCH) => {}
            () = context.shutdown.cancelled() => return Ok(()),
        }
        if !written {
            return Ok(());
        }
    }
}

async fn show_life(context: &Context, arguments: &ArgMatches) -> Result<()> {
    let text = |id: &str| arguments.get_one::<String>(id).map(String::as_str);
    let wanted = match (arguments.get_one::<(i32, i64)>("offset"), text("position"), text("key")) {
        (Some((partition, offset)), ..) => Wanted::Offset(*partition, *offset),
        (_, Some(position), _) => Wanted::Position(position.to_owned()),
        (_, _, key) => Wanted::Key(key.unwrap_or_default().to_owned()),
    };
    let changes = arguments.get_one::<u32>("last").map_or(10, |last| *last as usize);
    let offsets = (!arguments.get_flag("all")).then_some(LOOKED_AT);
    let tracer = Tracer::new(Pipeline::new(&context.settings)?)?;
    let trace = tracer.trace(&wanted, text("table"), Limits { changes, offsets }).await;
    leave_open(tracer);
    let trace = trace?;
    if arguments.get_flag("json") {
        text::write_json(&trace)?;
    } else {
        text::write(&trace::render(&trace, text::width()))?;
    }
    fault::conclude(&trace.faults)
}

async fn of_letters(context: &Context, arguments: &ArgMatches) -> Result<()> {
    let Some((name, arguments)) = arguments.subcommand() else { return Ok(()) };
    let offset = || arguments.get_one::<i64>("offset").copied().unwrap_or_default();
    let is_json = arguments.get_flag("json");
    if name == "retry-parked" {
        let retried = retry_parked(&context.settings).await?;
        if is_json {
            text::write_json(&retried)?;
        } else {
            text::write(&format!("{retried}\n"))?;
        }
        return Ok(());
    }
    let table = arguments.get_one::<String>("table").map(String::as_str);
    let desk = tokio::task::block_in_place(|| Desk::new(Pipeline::new(&context.settings)?))?;
    match name {
        "list" => {
            let list = tokio::task::block_in_place(|| desk.list(table))?;
            if is_json {
                text::write_json(&list)?
            } else {
                text::write(&dlq::render_list(&list, text::width()))?
            };
            Ok(())
        }
        "show" => {
            let shown = desk.show(table, offset()).await?;
            if is_json {
                text::write_json(&shown)?
            } else {
                text::write(&dlq::render_letter(&shown))?
            };
            fault::conclude(&shown.faults)
        }
        _ => {
            let sent = tokio::task::block_in_place(|| dlq::replay(&desk, table, offset()))?;
            if is_json {
                text::write_json(&sent)?
            } else {
                text::write(&dlq::render_sent(&sent))?
            };
            Ok(())
        }
    }
}

/// Follows the topics; blocks.
fn follow(context: &Context, arguments: &ArgMatches) -> Result<()> {
    let text = |id: &str| arguments.get_one::<String>(id).map(String::as_str);
    let columns = arguments.get_many::<String>("where").into_iter().flatten().map(String::as_str);
    let filter = tap::Filter::new(text("key"), text("op"), columns)?;
    let from = match arguments.get_one::<u32>("last") {
        Some(last) => tap::From::Last(*last as usize),
        None => arguments.get_one::<tap::From>("from").copied().unwrap_or(tap::From::End),
    };
    let tap = tap::Tap::new(Pipeline::new(&context.settings)?, text("table"), filter)?;
    let [stops, is_json] = ["stop", "json"].map(|flag| arguments.get_flag(flag));
    tap::print(tap, from, stops, is_json, &context.shutdown)
}

/// Leaves the clients of a command open at its end: closing each takes a tenth of a second, and they hold nothing.
fn leave_open<T>(clients: T) {
    std::mem::forget(clients);
}

/// The checks of both programs, each under its name.
async fn check(context: &Context, arguments: &ArgMatches) -> Result<()> {
    #[derive(serde::Serialize)]
    struct Checked {
        program: &'static str,
        #[serde(flatten)]
        check: doctor::Check,
    }
    let producer = cdc_producer::command::checks(&ProducerSettings::from(&context.settings)?).await?;
    let consumer = consumer::doctor::checks(&context.settings).await?;
    let programs = [("cdc-producer", &producer), ("consumer", &consumer)];
    if arguments.get_flag("json") {
        let of = |(program, checks): (&'static str, &'_ Vec<doctor::Check>)| {
            checks.iter().map(|check| Checked { program, check: check.clone() }).collect::<Vec<_>>()
        };
        let checks: Vec<Checked> = programs.into_iter().flat_map(of).collect();
        text::write_json(&serde_json::json!({ "checks": checks }))?;
    } else {
        for (name, checks) in programs {
            text::write(&format!("== {name}\n{}", doctor::render(checks)))?;
        }
    }
    doctor::judge(&[producer, consumer].concat())
}
