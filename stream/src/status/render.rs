//! The state of the pipeline on one screen. Pure.

use std::collections::BTreeSet;

use model::escape;
use model::time::Micros;

use super::facts::{Consumer, Partition, Producer, Reached, Snapshot, Source, State, Status, Table, folder};
use super::latency::Latency;
use crate::text::{Screen, bytes, counted, duration, grouped, paragraph, table, time};

/// Partitions that fit beside the rest on a screen; of more, only those that need attention are shown.
const MOST_PARTITIONS: usize = 24;
/// The binlog is kept for less than this: worth a line.
const SOON: f64 = 86_400.0;

const SILENT: &str = "NO ANSWER at /metrics: it hangs, or stream.metrics lacks its address";
const SILENT_ELSEWHERE: &str = "NO ANSWER at /metrics, where it has answered: it may have stopped, or hang";

/// The text for a terminal of this width; with `all`, every partition has its line.
pub fn render(status: &Status, all: bool, width: Option<usize>) -> String {
    with_partitions(status, if all { usize::MAX } else { MOST_PARTITIONS }, width)
}

/// The text for a screen that is drawn again in place, which can't show more than its rows. Without room for all,
/// partitions that need no attention are left out (with `all` they are not), then the last lines, which are counted.
pub(crate) fn fitted(status: &Status, all: bool, screen: Screen) -> String {
    // The cursor is in the line behind the text.
    let room = screen.rows.saturating_sub(1);
    let fits = |text: &String| text.lines().count() <= room;
    let width = Some(screen.columns);
    let text = render(status, all, width);
    let text = if all || fits(&text) { text } else { with_partitions(status, 0, width) };
    if fits(&text) {
        return text;
    }
    let shown: Vec<&str> = text.lines().take(room.saturating_sub(1)).collect();
    let hidden = text.lines().count() - shown.len();
    let lines = shown.iter().map(|line| format!("{line}\n")).collect::<String>();
    format!("{lines}{} without room here\n", counted(hidden as u64, "line", "lines"))
}

/// The text; where there are more than `most` partitions, only those that need attention have a line.
fn with_partitions(status: &Status, most: usize, width: Option<usize>) -> String {
    let mut text = format!("{} UTC\n\n", Micros::parse(&status.at).map_or_else(|| status.at.clone(), time));
    let mut lines: Vec<(&str, String)> = Vec::new();
    for fault in &status.faults {
        let remedy = fault.what_to_do.as_deref().map_or_else(String::new, |remedy| format!(" ({remedy})"));
        lines.push((fault.label(), format!("{}: {}{remedy}", fault.part, fault.reason)));
    }
    lines.extend(source(status.source.as_ref(), status.reached.as_ref()));
    lines.push(("producer", producer(status)));
    if let Some(Latency { p50_seconds, p99_seconds, changes }) = status.latency {
        let [half, most] = [p50_seconds, p99_seconds].map(duration);
        let since = if has_rates(&status.tables) { "the look before" } else { "the consumers' start" };
        let of = format!("{} changes since {since}", grouped(changes));
        lines.push(("latency", format!("{half} (median), {most} (p99) from a commit to its line in a log; {of}")));
    }
    for shown in &status.tables {
        lines.extend(shown.snapshot.as_ref().map(|snapshot| ("snapshot", running(&shown.name, snapshot))));
    }
    lines.iter().for_each(|(head, rest)| text.push_str(&paragraph(head, 11, rest, width)));
    let names = Names::of(&status.consumers, &status.free_slots);
    if let [shown] = status.tables.as_slice() {
        text.push_str(&format!("\n{}", paragraph("", 0, &heading(shown), width)));
    } else if !status.tables.is_empty() {
        text.push_str(&format!("\n{}", tables(&status.tables, width)));
    }
    text.push_str(&partitions(&status.tables, &names, most, width));
    text.push_str(&consumers(status, &names, width));
    text
}

fn source(source: Option<&Source>, reached: Option<&Reached>) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if let Some(Source { version, address, end, .. }) = source {
        lines.push(("MySQL", format!("{version} at {address}, its binlog ends at {end}")));
    }
    let Some(reached) = reached else { return lines };
    let at = Micros::parse(&reached.committed_at).map_or_else(|| reached.committed_at.clone(), time);
    let behind = source.map_or_else(String::new, |source| behind(source, reached));
    lines.push((
        "Kafka",
        format!("has all up to {}, epoch {}{behind}; last commit {at}", reached.position, reached.epoch),
    ));
    if let Some(purge) = source.and_then(|source| source.purge_seconds).filter(|purge| *purge < SOON) {
        lines.push((
            "binlog",
            if purge < 0.0 {
                "the server may delete the one that is needed next AT ANY TIME (binlog_expire_logs_seconds)".to_owned()
            } else {
                format!("the one that is needed next is kept for {} more", duration(purge))
            },
        ));
    }
    if reached.prepared > 0 {
        lines.push((
            "XA",
            format!(
                "{} for their outcome",
                counted(reached.prepared as u64, "prepared transaction waits", "prepared transactions wait")
            ),
        ));
    }
    lines
}

fn behind(source: &Source, reached: &Reached) -> String {
    if source.is_same_server == Some(false) {
        let (known, now) = (&reached.server_uuid, &source.server_uuid);
        return format!("; ANOTHER SERVER answers: {now}, the position is of {known}");
    }
    match (source.behind_bytes, source.behind_seconds) {
        (Some(0), _) => "; nothing is missing".to_owned(),
        (Some(missing), Some(seconds)) => format!("; {} and {} behind", bytes(missing), duration(seconds)),
        (Some(missing), None) => format!("; {} behind", bytes(missing)),
        (None, _) => String::new(),
    }
}

fn producer(status: &Status) -> String {
    let Producer { holder, has_folder, metrics } = &status.producer;
    let runs = match (holder, metrics) {
        (Some(holder), None) if status.has_silent_producer() => format!("runs: {holder}; {SILENT}"),
        (Some(holder), _) => format!("runs: {holder}"),
        (None, Some(answer)) => format!("runs: it answers at {}", answer.address),
        (None, None) if *has_folder => "STOPPED: nobody holds the lock of producer.time_track here".to_owned(),
        (None, None) => {
            "unknown: producer.time_track is not here, and no address of it is known (stream.metrics)".to_owned()
        }
    };
    let told = metrics.as_ref().map_or_else(String::new, |answer| {
        let ready = if answer.is_ready { "ready" } else { "NOT READY" };
        let reason = answer.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
        format!("; {}; {ready}{reason}", counted(answer.aborts, "abort", "aborts"))
    });
    format!("{runs}{told}")
}

fn running(name: &str, snapshot: &Snapshot) -> String {
    let mut rest = format!("{name}: {}", grouped(snapshot.rows));
    match snapshot.of {
        Some(of) if snapshot.step == "rows" => rest.push_str(&format!(" of about {} rows", grouped(of))),
        _ => rest.push_str(" rows"),
    }
    if snapshot.step == "deletes" {
        rest.push_str(" are in the topic; keys that are gone from the table are being deleted there");
        return rest;
    }
    if let Some(rate) = snapshot.rows_per_second {
        rest.push_str(&format!(", {} a second", grouped(rate.round() as u64)));
    }
    if let Some(left) = snapshot.seconds_left {
        rest.push_str(&format!(", about {} left", duration(left)));
    }
    rest
}

/// The words about a table that its head has.
fn heading(shown: &Table) -> String {
    let Table { name, topic, dead_letters, .. } = shown;
    if !shown.exists {
        return format!("{name} → {topic}: the topic is not there yet");
    }
    let written: i64 = shown.partitions.iter().map(|partition| partition.written_last_minute).sum();
    let mut parts = vec![format!("lag {}", grouped(shown.lag()))];
    parts.push(format!("{} in the last minute", counted(written.unsigned_abs(), "offset", "offsets")));
    parts.push(counted(*dead_letters, "dead letter", "dead letters"));
    if let Some(keys) = shown.parked_keys {
        let behind = shown.postgres_behind.unwrap_or(0);
        let behind = if behind > 0 {
            format!(" {} offsets behind the group", grouped(behind))
        } else {
            " not behind".to_owned()
        };
        parts.push(format!("PostgreSQL{behind}, {} parked", counted(keys, "key", "keys")));
    }
    format!("{name} → {topic}: {}", parts.join("; "))
}

fn tables(tables: &[Table], width: Option<usize>) -> String {
    let row = |shown: &Table| {
        let written: i64 = shown.partitions.iter().map(|partition| partition.written_last_minute).sum();
        let number = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), grouped);
        vec![
            shown.name.clone(),
            if shown.exists { shown.topic.clone() } else { format!("{} (not there yet)", shown.topic) },
            grouped(shown.lag()),
            grouped(written),
            grouped(shown.dead_letters),
            number(shown.postgres_behind.map(|behind| behind.max(0) as u64)),
            number(shown.parked_keys),
        ]
    };
    let heads = ["table", "topic", "lag", "last minute", "dead letters", "PostgreSQL lag", "keys parked"];
    table(&heads, tables.iter().map(row).collect(), &[2, 3, 4, 5, 6], width)
}

/// Whether it was compared with the look before.
fn has_rates(tables: &[Table]) -> bool {
    tables.iter().flat_map(|table| &table.partitions).any(|p| p.written_per_second.is_some())
}

fn partitions(tables: &[Table], names: &Names, most: usize, width: Option<usize>) -> String {
    let count: usize = tables.iter().map(|table| table.partitions.len()).sum();
    let needs_attention = |partition: &Partition| partition.lag > 0 || partition.holder.is_none() || partition.waits;
    let shows = |partition: &&Partition| count <= most || needs_attention(partition);
    let has_rates = has_rates(tables);
    let several = tables.len() > 1;
    let mut rows = Vec::new();
    for shown in tables {
        for partition in shown.partitions.iter().filter(shows) {
            let number = partition.number.to_string();
            let mut row = vec![if several { format!("{}/{number}", shown.topic) } else { number }];
            let open = if partition.open > 0 { format!(" (+{} open)", partition.open) } else { String::new() };
            row.push(format!("{}{open}", partition.end));
            row.push(partition.committed.map_or_else(|| "-".to_owned(), |offset| offset.to_string()));
            row.push(partition.lag.to_string());
            if has_rates {
                let rate = |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}"));
                row.extend([rate(partition.written_per_second), rate(partition.read_per_second)]);
            }
            row.push(match &partition.holder {
                None => "NOBODY".to_owned(),
                Some(holder) if partition.waits => format!("{}: STOPPED", names.short(holder)),
                Some(holder) => names.short(holder),
            });
            rows.push(row);
        }
    }
    let hidden = count - rows.len();
    let mut text = String::new();
    if !rows.is_empty() {
        let rates: &[&str] = if has_rates { &["written/s", "read/s"] } else { &[] };
        let heads = [&["partition", "end", "committed", "lag"], rates, &["held by"]].concat();
        let right: Vec<usize> = (1..heads.len() - 1).collect();
        text = format!("\n{}", table(&heads, rows, &right, width));
    }
    if hidden > 0 {
        text.push_str(&format!(
            "\n{hidden} partitions without lag, each held by a consumer (--partitions shows them)\n"
        ));
    }
    text
}

fn consumers(status: &Status, names: &Names, width: Option<usize>) -> String {
    let Status { group, consumers, free_slots, .. } = status;
    let mut text = format!("\ngroup {}", escape::shown(group));
    if let Some(folder) = &names.folder {
        text.push_str(&format!(", logs folder {folder}"));
    }
    if consumers.is_empty() {
        text.push_str(": no consumer\n");
    } else {
        text.push('\n');
        let row = |consumer: &Consumer| {
            let partitions: Vec<String> = consumer.partitions.iter().map(ToString::to_string).collect();
            let partitions = if partitions.is_empty() { "-".to_owned() } else { partitions.join(", ") };
            let host = if consumer.host.is_empty() { "-".to_owned() } else { consumer.host.clone() };
            vec![names.short(&consumer.name), host, partitions, state(consumer, status)]
        };
        text.push_str(&table(
            &["consumer", "host", "partitions", "state"],
            consumers.iter().map(row).collect(),
            &[],
            width,
        ));
    }
    if !free_slots.is_empty() {
        let free: Vec<String> = free_slots.iter().map(|name| names.short(name)).collect();
        text.push_str(&paragraph("free slots:", 12, &free.join(", "), width));
    }
    text
}

fn state(consumer: &Consumer, status: &Status) -> String {
    let told = consumer.metrics.as_ref().map_or_else(String::new, |answer| {
        let ready = if answer.is_ready { "ready" } else { "NOT READY" };
        let reason = answer.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
        format!(", {}, {ready}{reason}", counted(answer.aborts, "abort", "aborts"))
    });
    match consumer.state {
        State::Runs if consumer.is_silent => format!("runs; {SILENT}"),
        State::Runs => format!("runs{told}"),
        State::Joins => format!("runs, not in the group yet{told}"),
        State::Stopped => format!(
            "STOPPED: its lock is free; its partitions wait for it, {} at most (kafka.session_timeout)",
            duration(status.session_timeout)
        ),
        State::Elsewhere => match folder(&consumer.name) {
            Some(folder) if consumer.is_silent => {
                format!("in the group; its logs folder {folder} is not here; {SILENT_ELSEWHERE}")
            }
            Some(folder) if told.is_empty() && status.has_answers() => {
                format!("in the group; its logs folder {folder} is not here, nor an answer of it at /metrics")
            }
            Some(folder) => format!("in the group; its logs folder {folder} is not here{told}"),
            None => "in the group; it is no consumer of ours".to_owned(),
        },
    }
}

/// The names of consumers: without their folder when all have the same.
struct Names {
    folder: Option<String>,
}

impl Names {
    fn of(consumers: &[Consumer], free_slots: &[String]) -> Self {
        let names = consumers.iter().map(|consumer| &consumer.name).chain(free_slots);
        let folders: BTreeSet<_> = names.map(|name| folder(name).map(|folder| folder.to_string())).collect();
        let only = if folders.len() == 1 { folders.into_iter().next().flatten() } else { None };
        Self { folder: only }
    }

    fn short(&self, name: &str) -> String {
        let end = self.folder.as_ref().map(|folder| format!("-{folder}"));
        end.and_then(|end| name.strip_suffix(end.as_str())).unwrap_or(name).to_owned()
    }
}

#[cfg(test)]
mod tests;
