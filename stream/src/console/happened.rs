//! What has happened between two looks at the pipeline: rebalances, stops, faults, replays. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::status::{Consumer, State, Status};
use crate::text::counted;

/// How much a person should mind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Level {
    /// Something is well again.
    #[serde(rename = "good")]
    Good,
    /// A fact.
    #[serde(rename = "")]
    Note,
    /// It may need somebody.
    #[serde(rename = "warning")]
    Warning,
    /// It needs somebody.
    #[serde(rename = "bad")]
    Bad,
}

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Happened {
    /// When it was seen, RFC 3339.
    at: String,
    level: Level,
    subject: String,
    text: String,
}

/// Collects what differs.
struct Changes {
    at: String,
    list: Vec<Happened>,
}

impl Changes {
    fn add(&mut self, level: Level, subject: impl Into<String>, text: impl Into<String>) {
        self.list.push(Happened { at: self.at.clone(), level, subject: subject.into(), text: text.into() });
    }
}

/// What has happened from one look to the next.
pub(super) fn between(before: &Status, now: &Status) -> Vec<Happened> {
    let mut changes = Changes { at: now.at.clone(), list: Vec::new() };
    faults(before, now, &mut changes);
    source(before, now, &mut changes);
    producer(before, now, &mut changes);
    // Who holds what is not known while Kafka is away.
    if !is_away(before, "Kafka") && !is_away(now, "Kafka") {
        consumers(before, now, &mut changes);
        partitions(before, now, &mut changes);
        tables(before, now, &mut changes);
    }
    changes.list
}

fn is_away(status: &Status, part: &str) -> bool {
    status.faults.iter().any(|fault| fault.part == part)
}

fn faults(before: &Status, now: &Status, changes: &mut Changes) {
    let mut seen = BTreeSet::new();
    for fault in now.faults.iter().filter(|fault| seen.insert(&fault.part)) {
        if !is_away(before, &fault.part) {
            let what = if fault.refuses { "refuses" } else { "gives no answer" };
            changes.add(Level::Bad, &fault.part, format!("{what}: {}", fault.reason));
        }
    }
    let mut seen = BTreeSet::new();
    for fault in before.faults.iter().filter(|fault| seen.insert(&fault.part)) {
        if !is_away(now, &fault.part) {
            changes.add(Level::Good, &fault.part, "answers again");
        }
    }
}

fn source(before: &Status, now: &Status, changes: &mut Changes) {
    if let (Some(then), Some(source)) = (&before.source, &now.source)
        && then.server_uuid != source.server_uuid
    {
        changes.add(Level::Warning, "MySQL", format!("another server answers: {}", source.server_uuid));
    }
    if let (Some(then), Some(reached)) = (&before.reached, &now.reached)
        && then.epoch != reached.epoch
    {
        changes.add(Level::Warning, "replay", format!("epoch {} has begun", reached.epoch));
    }
}

fn producer(before: &Status, now: &Status, changes: &mut Changes) {
    let runs = |status: &Status| status.producer.holder.is_some() || status.producer.metrics.is_some();
    match (runs(before), runs(now)) {
        (true, false) => changes.add(Level::Bad, "cdc-producer", "has stopped"),
        (false, true) => changes.add(Level::Good, "cdc-producer", "runs"),
        _ if before.producer.holder != now.producer.holder => {
            changes.add(Level::Note, "cdc-producer", "was started again");
        }
        _ => {}
    }
    let (Some(then), Some(answer)) = (&before.producer.metrics, &now.producer.metrics) else { return };
    ready("cdc-producer", (then.is_ready, answer.is_ready), answer.reason.as_deref(), changes);
    aborts("cdc-producer", then.aborts, answer.aborts, changes);
}

fn ready(subject: &str, (then, now): (bool, bool), reason: Option<&str>, changes: &mut Changes) {
    match (then, now) {
        (true, false) => {
            changes.add(Level::Warning, subject, format!("is not ready: {}", reason.unwrap_or("no reason")))
        }
        (false, true) => changes.add(Level::Good, subject, "is ready again"),
        _ => {}
    }
}

fn aborts(subject: &str, then: u64, now: u64, changes: &mut Changes) {
    if now > then {
        let what = counted(now - then, "Kafka transaction", "Kafka transactions");
        let text = format!("aborted {what}; the records are processed again");
        changes.add(Level::Warning, subject, text);
    }
}

/// The name without the folder: `consumer_3`.
fn short(name: &str) -> &str {
    name.split_once('-').map_or(name, |(slot, _)| slot)
}

fn consumers(before: &Status, now: &Status, changes: &mut Changes) {
    let by_name = |status: &'_ Status| -> BTreeMap<String, Consumer> {
        status.consumers.iter().map(|consumer| (consumer.name.clone(), consumer.clone())).collect()
    };
    let (then, here) = (by_name(before), by_name(now));
    for (name, consumer) in &here {
        let Some(earlier) = then.get(name) else {
            let text = if consumer.state == State::Joins { "has started" } else { "has joined the group" };
            changes.add(Level::Good, short(name), text);
            continue;
        };
        match (earlier.state, consumer.state) {
            (State::Stopped, State::Stopped) => {}
            (_, State::Stopped) => {
                let text = format!("has stopped; its partitions wait for it, {:.0} s at most", now.session_timeout);
                changes.add(Level::Bad, short(name), text);
            }
            (State::Stopped, _) => changes.add(Level::Good, short(name), "runs again"),
            (State::Joins, State::Runs) => changes.add(Level::Good, short(name), "has joined the group"),
            _ => {}
        }
        match (earlier.is_silent, consumer.is_silent) {
            (false, true) => {
                changes.add(Level::Bad, short(name), "gives no answer at /metrics: it may have stopped, or hang");
            }
            (true, false) if consumer.metrics.is_some() => changes.add(Level::Good, short(name), "answers again"),
            _ => {}
        }
        if let (Some(then), Some(answer)) = (&earlier.metrics, &consumer.metrics) {
            ready(short(name), (then.is_ready, answer.is_ready), answer.reason.as_deref(), changes);
            aborts(short(name), then.aborts, answer.aborts, changes);
        }
    }
    for name in then.keys().filter(|name| !here.contains_key(*name)) {
        changes.add(Level::Note, short(name), "has left the group");
    }
}

/// Partitions that went from one holder to another, together for the same pair.
fn partitions(before: &Status, now: &Status, changes: &mut Changes) {
    let mut moved: BTreeMap<(Option<&str>, Option<&str>), Vec<String>> = BTreeMap::new();
    for table in &now.tables {
        let Some(earlier) = before.tables.iter().find(|earlier| earlier.topic == table.topic) else { continue };
        for (partition, then) in table.partitions.iter().zip(&earlier.partitions) {
            if partition.holder != then.holder {
                let shown = if now.tables.len() > 1 {
                    format!("{}/{}", table.topic, partition.number)
                } else {
                    partition.number.to_string()
                };
                moved.entry((then.holder.as_deref(), partition.holder.as_deref())).or_default().push(shown);
            }
        }
    }
    for ((from, to), numbers) in moved {
        let subject = if let [one] = numbers.as_slice() {
            format!("partition {one}")
        } else {
            format!("partitions {}", numbers.join(", "))
        };
        let holder = |name: Option<&str>| name.map_or("nobody", short).to_owned();
        let level = if to.is_none() { Level::Warning } else { Level::Note };
        changes.add(level, subject, format!("went from {} to {}", holder(from), holder(to)));
    }
}

fn tables(before: &Status, now: &Status, changes: &mut Changes) {
    for table in &now.tables {
        let Some(then) = before.tables.iter().find(|then| then.topic == table.topic) else {
            changes.add(Level::Note, &table.topic, format!("carries {} now", table.name));
            continue;
        };
        if table.dead_letters > then.dead_letters {
            let count = table.dead_letters - then.dead_letters;
            let text = counted(count, "new dead letter", "new dead letters");
            changes.add(Level::Warning, &table.topic, text);
        }
        match (&then.snapshot, &table.snapshot) {
            (None, Some(_)) => changes.add(Level::Note, &table.name, "its snapshot has begun"),
            (Some(_), None) => changes.add(Level::Good, &table.name, "its snapshot is complete"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
