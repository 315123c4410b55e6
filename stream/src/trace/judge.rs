//! Where a change stands, and why. Pure.

use model::escape;
use model::position::RecordPosition;

use super::facts::{Facts, Hop, Standing, StoredRow, Trace, Traced, parsed};
use crate::fault::Fault;
use crate::letters::{Kind, Letter, way_into_postgres};
use crate::record::Change;
use crate::status::{Partition, State, Status, Table};
use crate::text::counted;

/// Judges the facts about a row.
pub(super) fn judge(facts: Facts) -> Trace {
    let Facts { mut trace, status } = facts;
    trace.standing = of_row(&trace, &status);
    trace
}

/// Judges the facts about a transaction; `is_cut` when it has more changes than are there.
pub(super) fn judge_transaction(facts: Facts, position: &str, is_cut: bool) -> Trace {
    let Facts { mut trace, status } = facts;
    trace.standing =
        if trace.changes.is_empty() { unfound(&trace, &status, position) } else { of_transaction(&trace, &status) };
    if is_cut {
        trace.standing.text.push_str("; the transaction has more than these: --last N");
    }
    trace
}

/// No record is of the transaction.
fn unfound(trace: &Trace, status: &Status, position: &str) -> Standing {
    let searched: i64 = trace.searched.iter().map(|(_, searched)| searched.to - searched.from).sum();
    let mut text = format!("no record of {} is among the last {searched} offsets", escape::cut(position, 100));
    let has_gtids = status.reached.as_ref().is_some_and(|reached| reached.gtid_set.is_some());
    if has_gtids && matches!(RecordPosition::parse(position, false), Some(RecordPosition::File(..))) {
        text.push_str(" (the server has GTIDs, so records are named by these: UUID:NUMBER)");
    }
    if !trace.searched.iter().all(|(_, searched)| searched.is_complete) {
        return Standing::new(Hop::Unknown, text).remedy("look further with --all");
    }
    let why = "which are all: it changed no taken table, or is not in Kafka yet";
    Standing::new(Hop::Nowhere, format!("{text}, {why}; {}", producer(status)))
}

/// The changes of a transaction stand where the first one is held up.
fn of_transaction(trace: &Trace, status: &Status) -> Standing {
    const READ: &str = "the group has read all of these changes";
    let changes = &trace.changes;
    if let Some(unread) = changes.iter().find(|traced| !traced.is_consumed) {
        return consumer(unread, status);
    }
    if let Some(standing) = changes.iter().find_map(unreadable) {
        return standing;
    }
    if let Some(standing) = without_postgres(trace, READ) {
        return standing;
    }
    let behind = |traced: &Traced| behind(traced, READ, partition_of(traced, status)?.postgres_next?);
    if let Some(standing) = changes.iter().find_map(behind) {
        return standing;
    }
    let is_concerned = |table: &&Table| changes.iter().any(|traced| traced.change.table == table.name);
    let parked: u64 = status.tables.iter().filter(is_concerned).filter_map(|table| table.parked_keys).sum();
    if parked == 0 {
        return Standing::new(Hop::Arrived, READ);
    }
    let keys = counted(parked, "key is parked", "keys are parked");
    let text = format!("{READ}; in PostgreSQL {keys}: `stream trace KEY` says whether one of these is among them");
    Standing::new(Hop::Arrived, text)
}

fn of_row(trace: &Trace, status: &Status) -> Standing {
    let last = trace.changes.last();
    let is_complete = trace.searched.iter().all(|(_, searched)| searched.is_complete);
    if let Some(source) = &trace.source
        && !source.is_in(last.and_then(|traced| traced.change.row.as_ref()))
        && (last.is_some() || source.exists)
    {
        if last.is_none() && !is_complete {
            return unseen(trace);
        }
        return in_source(trace, status, last);
    }
    match (last, &trace.source) {
        (None, _) if !is_complete => unseen(trace),
        (None, Some(_)) => Standing::new(Hop::Nowhere, "there is no row with this key in MySQL, and none in the topic"),
        (None, None) => {
            let mysql = fault(trace, "MySQL").map_or("does not answer", Fault::what_it_does);
            Standing::new(Hop::Unknown, format!("the topic has no change of this key, and MySQL {mysql}"))
        }
        (Some(last), _) => in_topic(trace, status, last),
    }
}

fn fault<'a>(trace: &'a Trace, part: &str) -> Option<&'a Fault> {
    trace.faults.iter().find(|fault| fault.part == part)
}

fn unseen(trace: &Trace) -> Standing {
    let searched: i64 = trace.searched.iter().map(|(_, searched)| searched.to - searched.from).sum();
    let text = format!("no change of this key is among the last {searched} offsets of its partition");
    Standing::new(Hop::Unknown, text).remedy("look further with --all")
}

/// The row in MySQL differs from its last record.
fn in_source(trace: &Trace, status: &Status, last: Option<&Traced>) -> Standing {
    if trace.uncommitted > 0 {
        let text = "the topic has it in a Kafka transaction that is open: readers see it once it is committed";
        return Standing::new(Hop::Producer, text)
            .remedy("wait; a transaction of a producer that is gone is ended by the next one, or by its timeout");
    }
    if let Some(letter) = trace.letter.as_ref().filter(|letter| letter.kind == Kind::Row && is_newer(letter, last)) {
        return refused(letter);
    }
    if let Some(reason) = trace.source.as_ref().and_then(|source| source.refused.as_ref()) {
        return Standing::new(
            Hop::Producer,
            format!("no record can carry the row, which will be parked: {reason}; {}", producer(status)),
        );
    }
    let remedy = if is_stopped(status) {
        "start cdc-producer; if it ends at once, `stream doctor` and its log name the reason"
    } else {
        "`stream doctor` says what keeps the producer; its log and /ready name the reason"
    };
    Standing::new(Hop::Producer, format!("MySQL has it, the topic does not: {}", producer(status))).remedy(remedy)
}

fn is_newer(letter: &Letter, last: Option<&Traced>) -> bool {
    let at = last.and_then(|traced| parsed(traced.change.committed_at.as_ref()));
    letter.committed().zip(at).is_none_or(|(letter, last)| letter >= last.0)
}

fn refused(letter: &Letter) -> Standing {
    let column = letter.column.as_deref().unwrap_or("?");
    let text = format!("the producer parked it, since no record can carry it: column {column}: {}", letter.reason);
    Standing::new(Hop::Parked, text)
        .remedy(format!("correct the row in {}; the change then arrives as any other", letter.table))
}

fn is_stopped(Status { producer, .. }: &Status) -> bool {
    producer.holder.is_none() && producer.metrics.is_none() && producer.has_folder
}

/// How far the producer is.
fn producer(status: &Status) -> String {
    let runs = match (&status.producer.holder, &status.producer.metrics) {
        (None, None) if is_stopped(status) => "the producer is stopped (nobody holds producer.time_track)",
        (None, None) => "whether the producer runs is not known here",
        (_, Some(answer)) if !answer.is_ready => "the producer is not ready",
        _ if status.has_silent_producer() => "the producer gives no answer at /metrics: it may hang",
        _ => "the producer runs",
    };
    let snapshot = status.tables.iter().find_map(|table| table.snapshot.as_ref().map(|snapshot| (table, snapshot)));
    let snapshot = snapshot.map_or_else(String::new, |(table, snapshot)| {
        format!("; a snapshot of {} runs, {} rows so far", table.name, snapshot.rows)
    });
    let at = match (&status.reached, &status.source) {
        (Some(reached), Some(source)) => {
            format!("; it is at {}, and the binlog ends at {}", reached.position, source.end)
        }
        (Some(reached), None) => format!("; it is at {}", reached.position),
        (None, _) => "; it has committed no position yet".to_owned(),
    };
    format!("{runs}{at}{snapshot}")
}

/// The last record is the row as it is in MySQL.
fn in_topic(trace: &Trace, status: &Status, last: &Traced) -> Standing {
    if !last.is_consumed {
        return consumer(last, status);
    }
    if let Some(standing) = unreadable(last) {
        return standing;
    }
    match &trace.postgres {
        Some(stored) => postgres(last, stored, trace),
        None => without_postgres(trace, "it is in a log").unwrap_or_else(|| Standing::new(Hop::Arrived, in_log(last))),
    }
}

/// A record that the group has passed over, since it can't read it.
fn unreadable(traced: &Traced) -> Option<Standing> {
    let Change { partition, offset, unreadable, .. } = &traced.change;
    let reason = unreadable.as_ref()?;
    let place = format!("at offset {offset} of partition {partition}");
    let text = format!("the consumers can't read the record {place}, so it is a dead letter: {reason}");
    Some(Standing::new(Hop::Parked, text).remedy("`stream dlq list` shows it"))
}

/// What has got as far as `head` says, and PostgreSQL could not be asked.
fn without_postgres(trace: &Trace, head: &str) -> Option<Standing> {
    let does = fault(trace, "PostgreSQL")?.what_it_does();
    Some(Standing::new(Hop::Unknown, format!("{head}; PostgreSQL {does}")))
}

/// What has got as far as `head` says, and not into PostgreSQL, which has the partition up to `next`.
fn behind(traced: &Traced, head: &str, next: i64) -> Option<Standing> {
    let Change { partition, offset, .. } = &traced.change;
    if next > *offset {
        return None;
    }
    let at = format!("PostgreSQL has partition {partition} up to offset {next}, and the change is at {offset}");
    let remedy = "look at /ready and the log of the consumer that holds the partition";
    Some(Standing::new(Hop::Postgres, format!("{head}; {at}")).remedy(remedy))
}

fn in_log(last: &Traced) -> String {
    match (&last.log, &last.no_log) {
        (Some(log), _) => format!("it is in the log of {}", log.slot),
        (None, Some(reason)) => format!("the group has read it; {reason}"),
        (None, None) => "the group has read it".to_owned(),
    }
}

fn partition_of<'a>(traced: &Traced, status: &'a Status) -> Option<&'a Partition> {
    let table = status.tables.iter().find(|table| table.name == traced.change.table)?;
    table.partitions.iter().find(|partition| partition.number as i32 == traced.change.partition)
}

/// Why the group has not read a record.
fn consumer(traced: &Traced, status: &Status) -> Standing {
    let (number, offset) = (traced.change.partition, traced.change.offset);
    let Some(partition) = partition_of(traced, status) else {
        return Standing::new(
            Hop::Unknown,
            "how far the group is in this partition is not known: Kafka gives no answer",
        );
    };
    let at = partition.committed.map_or_else(|| "has no offset".to_owned(), |next| format!("is at {next}"));
    let head = format!("the group {} {at} in partition {number}, and the change is at {offset}", status.group);
    let (why, remedy) = held(partition, status);
    Standing::new(Hop::Consumer, format!("{head}; {why}")).remedy(remedy)
}

fn held(partition: &Partition, status: &Status) -> (String, &'static str) {
    let Some(name) = &partition.holder else {
        return ("nobody holds the partition".to_owned(), "start a consumer");
    };
    let consumer = status.consumers.iter().find(|consumer| consumer.name == *name);
    let before_end = format!("{} offsets are before the end", partition.lag);
    if let Some(consumer) = consumer.filter(|consumer| consumer.is_silent) {
        if consumer.state == State::Elsewhere {
            return (
                format!("{name} holds it and gives no answer at /metrics, where it has answered; {before_end}"),
                "look for its process where its logs are: end one that hangs, and start a consumer",
            );
        }
        return (
            format!("{name} holds it and gives no answer at /metrics; {before_end}"),
            "wait; if it stays so, the consumer hangs: end its process, and start a consumer",
        );
    }
    match consumer.map(|consumer| (consumer.state, consumer.metrics.as_ref())) {
        Some((State::Stopped, _)) => (
            format!(
                "{name} holds it and has stopped: its lock is free; the partition waits for it, {:.0} s at most",
                status.session_timeout
            ),
            "start a consumer: it takes the slot and its partitions",
        ),
        Some((_, Some(answer))) if !answer.is_ready => {
            let reason = answer.reason.as_deref().unwrap_or("it gives no reason");
            (format!("{name} holds it and is not ready: {reason}"), "follow what its /ready and its log say")
        }
        Some((State::Elsewhere, None)) => (
            format!("{name} holds it; whether it runs is not known here; {before_end}"),
            "wait; if the group's offset stays where it is, look for its process where its logs are",
        ),
        _ => (
            format!("{name} holds it and runs; {before_end}"),
            "wait; if the group's offset stays where it is, look at the log and /ready of that consumer",
        ),
    }
}

fn postgres(last: &Traced, stored: &StoredRow, trace: &Trace) -> Standing {
    let (partition, offset) = (last.change.partition, last.change.offset);
    let is_gone = last.change.row.is_none() || last.no_log.is_some();
    if let Some(parked) =
        stored.parked.as_ref().filter(|parked| (parked.partition, parked.offset) >= (partition, offset))
    {
        let column = parked.column.as_ref().map_or_else(String::new, |column| format!("column {column}: "));
        let text = format!("PostgreSQL refuses it, so it is parked: {column}{} ({})", parked.reason, parked.sqlstate);
        return Standing::new(Hop::Parked, text).remedy(way_into_postgres(Some(&parked.sqlstate)));
    }
    if stored.place() == Some((partition, offset)) || (is_gone && !stored.exists && stored.next(partition) > offset) {
        let state = if is_gone { "the row is not there any more" } else { "PostgreSQL has it" };
        return Standing::new(Hop::Arrived, format!("{}; {state}", in_log(last)));
    }
    if let Some(standing) = behind(last, &in_log(last), stored.next(partition)) {
        return standing;
    }
    if stored.place().is_some_and(|place| place.0 == partition && place.1 > offset) {
        return Standing::new(Hop::Arrived, "PostgreSQL has a later change already, which came meanwhile");
    }
    let text = format!(
        "PostgreSQL has read the change, and its row of key {} is not that",
        trace.key.as_deref().unwrap_or("?")
    );
    Standing::new(Hop::Unknown, text).remedy("was the row changed by somebody else? `stream verify` compares all rows")
}

#[cfg(test)]
mod tests;
