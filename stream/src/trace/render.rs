//! The life of a row as text. Pure.

use model::escape;
use model::time::Micros;

use super::facts::{Hop, Parked, SourceRow, StoredRow, Trace, Traced, parsed};
use crate::search::Searched;
use crate::text::{duration, paragraph, time};

/// Characters of a row that are shown.
const LONGEST: usize = 600;

/// The text for a terminal of this width.
pub fn render(trace: &Trace, width: Option<usize>) -> String {
    let mut text = match (&trace.key, trace.partition) {
        (Some(key), Some(partition)) => format!(
            "{} key {} → topic {}, partition {partition}\n",
            escape::shown(&trace.table),
            escape::cut(key, LONGEST),
            escape::shown(&trace.topic)
        ),
        _ => String::new(),
    };
    if let Some(source) = &trace.source {
        text.push_str(&format!("\n{}", paragraph("MySQL", 12, &of_source(source), width)));
    }
    for traced in &trace.changes {
        text.push_str(&change(traced, trace.key.is_none(), width));
    }
    for (partition, searched) in &trace.searched {
        let Searched { from, to, begin, is_complete } = searched;
        if !is_complete {
            let last = to - 1;
            text.push_str(&format!(
                "\n(looked at offsets {from} to {last} of partition {partition}, which begins at {begin}; --all looks at all)\n"
            ));
        } else if from > begin && trace.key.is_some() {
            text.push_str(&format!(
                "\n(offsets before {from} of partition {partition} may have older changes: --last N)\n"
            ));
        }
    }
    if let Some(stored) = &trace.postgres {
        text.push_str(&format!("\n{}", paragraph("PostgreSQL", 12, &of_postgres(stored), width)));
        if let Some(parked) = &stored.parked {
            text.push_str(&paragraph("", 12, &of_parked(parked), width));
        }
    }
    for fault in &trace.faults {
        let why = format!("{}: {}", fault.part, fault.reason);
        text.push_str(&format!("\n{}", paragraph(fault.label(), 12, &why, width)));
    }
    let head = match trace.standing.hop {
        Hop::Arrived => "ARRIVED",
        Hop::Producer => "WAITS FOR THE PRODUCER",
        Hop::Consumer => "WAITS FOR A CONSUMER",
        Hop::Postgres => "WAITS FOR POSTGRESQL",
        Hop::Parked => "PARKED",
        Hop::Nowhere => "NOWHERE",
        Hop::Unknown => "UNKNOWN",
    };
    text.push_str(&format!("\n{}", paragraph("", 0, &format!("{head}: {}", trace.standing.text), width)));
    if let Some(remedy) = &trace.standing.what_to_do {
        text.push_str(&paragraph("  what to do:", 14, remedy, width));
    }
    text
}

fn of_source(source: &SourceRow) -> String {
    let at = Micros::parse(&source.read_at).map_or_else(|| source.read_at.clone(), time);
    match (&source.row, &source.refused) {
        (Some(row), _) => format!("{at}  {}", escape::cut(&row.shown(), LONGEST)),
        (None, Some(reason)) => format!("{at}  a row that no record can carry: {}", escape::shown(reason)),
        (None, None) => format!("{at}  no row"),
    }
}

fn change(traced: &Traced, with_table: bool, width: Option<usize>) -> String {
    let line = |head: &str, rest: &str| paragraph(&format!("  {head}"), 12, rest, width);
    let change = &traced.change;
    let committed = parsed(change.committed_at.as_ref());
    let written = parsed(change.written_at.as_ref());
    let what = match change.op {
        Some("r") => "read by a snapshot",
        Some("c") => "created",
        Some("u") => "updated",
        Some("d") => "deleted",
        _ => "a record that can't be read",
    };
    let of = if with_table { format!(" {} key {}", change.table, change.key) } else { String::new() };
    let shown = |at: Option<Micros>| at.map_or_else(|| "-".to_owned(), time);
    let place = format!("partition {} offset {}", change.partition, change.offset);
    let mut text = format!("\n{}  {what}{}\n", shown(committed), escape::shown(&of));
    if let Some(position) = &change.position {
        let (row, epoch) = (change.row_number.unwrap_or(0), change.epoch.unwrap_or(0));
        text.push_str(&line("commit", &format!("{}, row {row}, epoch {epoch}", escape::cut(position, 200))));
    }
    text.push_str(&line("topic", &format!("{}{}, {place}", shown(written), after(committed, written))));
    match (&traced.log, &traced.no_log) {
        (Some(log), _) => {
            let by = parsed(log.committed_by.as_ref());
            let at = by.map_or_else(String::new, |at| format!("{}{}, ", time(at), after(written, Some(at))));
            text.push_str(&line("log", &format!("{at}{} at byte {}", log.file.display(), log.byte)));
        }
        (None, Some(reason)) => text.push_str(&line("log", reason)),
        (None, None) if traced.is_consumed => text.push_str(&line("log", "read")),
        (None, None) => text.push_str(&line("log", "not read yet")),
    }
    if traced.is_in_postgres {
        text.push_str(&line("sink", "this is the row that PostgreSQL has"));
    }
    match (&change.row, &change.unreadable) {
        (Some(row), _) => text.push_str(&line("row", &escape::cut(&row.shown(), LONGEST))),
        (None, Some(reason)) => text.push_str(&line("row", &format!("unreadable: {reason}"))),
        (None, None) => {}
    }
    text
}

/// `(+12 ms)`: the time from one hop to the next.
fn after(before: Option<Micros>, now: Option<Micros>) -> String {
    before.zip(now).map_or_else(String::new, |(before, now)| {
        let seconds = (now.0 - before.0) as f64 / 1e6;
        format!(" (+{})", duration(seconds))
    })
}

fn of_parked(parked: &Parked) -> String {
    let column = parked.column.as_ref().map_or_else(String::new, |column| format!("column {column}: "));
    format!("parked: partition {} offset {}: {column}{}", parked.partition, parked.offset, parked.reason)
}

fn of_postgres(stored: &StoredRow) -> String {
    let table = &stored.table;
    let Some((partition, offset)) = stored.place() else { return format!("{table} has no row with this key") };
    let at = parsed(stored.committed_at.as_ref()).map_or_else(String::new, |at| format!("{}  ", time(at)));
    let row = stored.row.as_ref().map_or("", |row| row.get());
    let row = escape::cut(row, LONGEST);
    format!("{at}{table}, written by partition {partition} offset {offset}: {row}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Change, Row};
    use crate::trace::{InLog, Standing};

    #[test]
    fn each_hop_has_its_line_with_the_time_since_the_one_before() {
        let row = Row(vec![("id".to_owned(), "9".to_owned()), ("name".to_owned(), "\"\u{1b}[2J\"".to_owned())]);
        let change = Change {
            table: "shop.p".to_owned(),
            key: "9".to_owned(),
            op: Some("u"),
            committed_at: Some("2026-11-30T02:10:11.100000Z".to_owned()),
            position: Some("u:23".to_owned()),
            row_number: Some(0),
            epoch: Some(1),
            partition: 3,
            offset: 120,
            written_at: Some("2026-11-30T02:10:11.112000Z".to_owned()),
            row: Some(row.clone()),
            unreadable: None,
        };
        let log = InLog {
            slot: "consumer_2".to_owned(),
            file: "logs/consumer_2/consumer_log.json".into(),
            byte: 4_096,
            committed_by: Some("2026-11-30T02:10:12.612000Z".to_owned()),
            line: String::new(),
        };
        let traced = Traced { change, is_consumed: true, log: Some(log), no_log: None, is_in_postgres: true };
        let read_at = "2026-11-30T02:11:00.000000Z".to_owned();
        let standing = Standing { text: "it is there".to_owned(), ..Standing::default() };
        let trace = Trace {
            table: "shop.p".to_owned(),
            topic: "t".to_owned(),
            key: Some("9".to_owned()),
            partition: Some(3),
            source: Some(SourceRow { exists: true, row: Some(row), refused: None, read_at }),
            changes: vec![traced],
            searched: vec![(3, Searched { from: 50, to: 121, begin: 7, is_complete: false })],
            uncommitted: 0,
            letter: None,
            postgres: None,
            standing: Standing { hop: Hop::Arrived, ..standing },
            faults: Vec::new(),
        };
        let want = "\
shop.p key 9 → topic t, partition 3

MySQL       2026-11-30 02:11:00.000  id=9 name=\"\\u001b[2J\"

2026-11-30 02:10:11.100  updated
  commit    u:23, row 0, epoch 1
  topic     2026-11-30 02:10:11.112 (+12 ms), partition 3 offset 120
  log       2026-11-30 02:10:12.612 (+1.5 s), logs/consumer_2/consumer_log.json at byte 4096
  sink      this is the row that PostgreSQL has
  row       id=9 name=\"\\u001b[2J\"

(looked at offsets 50 to 120 of partition 3, which begins at 7; --all looks at all)

ARRIVED: it is there
";
        assert_eq!(render(&trace, None), want);
        let mut enough = trace;
        enough.searched[0].1.is_complete = true;
        let text = render(&enough, None);
        assert!(text.contains("\n(offsets before 50 of partition 3 may have older changes: --last N)\n"), "{text}");
    }
}
