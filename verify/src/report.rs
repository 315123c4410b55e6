//! The result: tables for a person, one JSON object for a program.

use serde::Serialize;

use crate::findings::{Check, Finding, Findings};
use crate::logs::Logs;
use crate::topic::Topic;

/// Names with their numbers, in an order that means something.
#[derive(Debug, Default)]
pub(crate) struct Counts(Vec<(String, u64)>);

impl Serialize for Counts {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, count)| (name, count)))
    }
}

impl FromIterator<(String, u64)> for Counts {
    fn from_iter<I: IntoIterator<Item = (String, u64)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

/// Everything that was counted. This is the form of `--json`; its keys stay.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    /// Everything agrees.
    pub(crate) agree: bool,
    pub(crate) topic: String,
    /// `database.table`
    pub(crate) table: String,
    pub(crate) records: u64,
    pub(crate) per_partition: Vec<PartitionReport>,
    pub(crate) epochs: Vec<u64>,
    pub(crate) ops: Ops,
    /// Products that are alive in the topic.
    pub(crate) keys: u64,
    /// Lines of each log.
    pub(crate) logs: Counts,
    pub(crate) lines: u64,
    pub(crate) dead_letters: u64,
    /// Records that a rule leaves out of the logs.
    pub(crate) filtered: u64,
    /// Lines of records that are no longer in the topic: not checked.
    pub(crate) expired_lines: u64,
    pub(crate) table_rows: u64,
    /// `null` when PostgreSQL is off.
    pub(crate) postgres_rows: Option<u64>,
    /// Records in no log.
    pub(crate) lost: u64,
    /// Records more than once in the logs, and changes more than once in the topic.
    pub(crate) doubled: u64,
    /// Records and lines out of order.
    pub(crate) out_of_order: u64,
    pub(crate) torn: u64,
    /// How many of each kind of difference.
    pub(crate) counts: Counts,
    /// The first ten of each kind.
    pub(crate) differences: Vec<Finding>,
    /// What a reader should know besides.
    pub(crate) notes: Vec<String>,
}

/// Records of one partition.
#[derive(Debug, Serialize)]
pub(crate) struct PartitionReport {
    pub(crate) partition: usize,
    pub(crate) records: u64,
    /// `null` when it is empty.
    pub(crate) last_offset: Option<i64>,
    /// The logs that hold its lines, with their number.
    pub(crate) logs: Counts,
}

/// Records by what happened.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Ops {
    pub(crate) r: u64,
    pub(crate) c: u64,
    pub(crate) u: u64,
    pub(crate) d: u64,
}

impl Report {
    /// Takes over what was counted in the topic and the logs.
    pub(crate) fn count(&mut self, topic: &Topic, logs: &Logs) {
        self.records = topic.records() as u64;
        self.per_partition = topic
            .partitions
            .iter()
            .enumerate()
            .map(|(partition, records)| {
                let of = |log: &crate::logs::Log| log.partitions.get(partition).copied().unwrap_or(0);
                let holders = logs.logs.iter().filter(|log| of(log) > 0).map(|log| (log.name.clone(), of(log)));
                PartitionReport {
                    partition,
                    records: records.offsets.len() as u64,
                    last_offset: records.offsets.last().copied(),
                    logs: holders.collect(),
                }
            })
            .collect();
        self.epochs = topic.epochs.iter().copied().collect();
        let [r, c, u, d] = topic.ops;
        self.ops = Ops { r, c, u, d };
        self.keys = topic.keys.values().filter(|k| k.state.is_some()).count() as u64;
        self.logs = logs.logs.iter().map(|log| (log.name.clone(), log.lines)).collect();
        self.lines = logs.logs.iter().map(|log| log.lines).sum();
        self.dead_letters = topic.dead_letters;
        self.filtered = topic.filtered;
        self.expired_lines = logs.expired;
    }

    /// Takes over what was found.
    pub(crate) fn conclude(&mut self, findings: &Findings) {
        self.agree = findings.is_empty();
        self.lost = findings.count(Check::Lost);
        self.doubled = findings.count(Check::Doubled) + findings.count(Check::Repeated);
        self.out_of_order = findings.count(Check::Order) + findings.count(Check::LineOrder);
        self.torn = findings.count(Check::Torn);
        let name = |check: Check| serde_json::to_value(check).ok().and_then(|v| v.as_str().map(str::to_owned));
        self.counts = findings.counts().filter_map(|(check, count)| Some((name(check)?, count))).collect();
        self.differences = findings.first().cloned().collect();
    }

    /// The text for a person, with its last line `OK: …` or `DIFFERENT: …`.
    pub(crate) fn render(&self, findings: &Findings) -> String {
        let mut text = String::new();
        if !self.per_partition.is_empty() {
            text.push_str(&self.partitions_table());
            text.push('\n');
            text.push_str(&self.logs_table());
            text.push('\n');
            text.push_str(&self.sums_table());
            text.push('\n');
        }
        for (check, count) in findings.counts() {
            text.push_str(&format!("{}: {count}\n", check.title()));
            for finding in findings.first().filter(|f| f.check == check) {
                text.push_str(&describe(finding));
            }
            let shown = Findings::FIRST as u64;
            if count > shown {
                text.push_str(&format!("  … and {} more\n", count - shown));
            }
            text.push('\n');
        }
        for note in &self.notes {
            text.push_str(&format!("note: {note}\n"));
        }
        text.push_str(&self.verdict(findings));
        text
    }

    fn partitions_table(&self) -> String {
        let rows = self.per_partition.iter().map(|p| {
            let logs: Vec<&str> = p.logs.0.iter().map(|(name, _)| name.as_str()).collect();
            let last = p.last_offset.map_or_else(|| "-".to_owned(), |o| o.to_string());
            vec![p.partition.to_string(), p.records.to_string(), last, logs.join(", ")]
        });
        table(&["partition", "records", "last offset", "lines in"], rows, &[true, true, true, false])
    }

    fn logs_table(&self) -> String {
        let rows = self.logs.0.iter().map(|(name, lines)| {
            let of = |p: &&PartitionReport| p.logs.0.iter().any(|(holder, _)| holder == name);
            let partitions: Vec<String> =
                self.per_partition.iter().filter(of).map(|p| p.partition.to_string()).collect();
            vec![name.clone(), lines.to_string(), partitions.join(", ")]
        });
        table(&["log", "lines", "partitions"], rows, &[false, true, false])
    }

    fn sums_table(&self) -> String {
        let Ops { r, c, u, d } = self.ops;
        let epochs = if self.epochs.len() == 1 { String::new() } else { format!(" in {} epochs", self.epochs.len()) };
        let mut rows = vec![
            (
                format!("changes in {}", self.topic),
                self.records,
                format!("{r} snapshot, {c} create, {u} update, {d} delete{epochs}"),
            ),
            ("lines in the logs".to_owned(), self.lines, String::new()),
        ];
        for (what, count, remark) in [
            ("dead letters", self.dead_letters, "parked, in no log"),
            ("left out by rules", self.filtered, "in no log"),
            ("lines of expired records", self.expired_lines, "not checked"),
        ] {
            if count > 0 {
                rows.push((what.to_owned(), count, remark.to_owned()));
            }
        }
        rows.push((
            format!("rows in {}", self.table),
            self.table_rows,
            format!("{} products alive in the topic", self.keys),
        ));
        if let Some(count) = self.postgres_rows {
            rows.push(("rows in PostgreSQL".to_owned(), count, String::new()));
        }
        let rows = rows.into_iter().map(|(what, count, remark)| vec![what, count.to_string(), remark]);
        table(&["what", "number", ""], rows, &[false, true, false])
    }

    fn verdict(&self, findings: &Findings) -> String {
        if self.agree {
            let postgres = if self.postgres_rows.is_some() { ", logs and PostgreSQL" } else { " and logs" };
            let (times, parked) = match self.dead_letters {
                0 => ("each in exactly one log", String::new()),
                n => ("each in exactly one log or parked", format!(" ({n} dead letters)")),
            };
            return format!("OK: {} changes, {times}{parked}; table, topic{postgres} agree\n", self.records);
        }
        let parts: Vec<String> =
            findings.counts().map(|(check, count)| format!("{}: {count}", check.title())).collect();
        format!("DIFFERENT: {}\n", parts.join("; "))
    }
}

fn describe(finding: &Finding) -> String {
    let mut place = Vec::new();
    if let Some(key) = finding.key {
        place.push(format!("key {key}"));
    }
    if let Some((partition, offset)) = finding.place() {
        place.push(format!("partition {partition}, offset {offset}"));
    }
    let place = if place.is_empty() { String::new() } else { format!("{}: ", place.join(", ")) };
    let mut text = format!("  {place}{}\n", finding.text);
    for (what, value) in [("expected", &finding.expected), ("found   ", &finding.found)] {
        if let Some(value) = value {
            text.push_str(&format!("      {what} {}\n", shorten(value)));
        }
    }
    text
}

/// A line may be long; a person needs its beginning.
fn shorten(text: &str) -> String {
    const LONGEST: usize = 400;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text.to_owned(),
    }
}

fn table(heads: &[&str], rows: impl Iterator<Item = Vec<String>>, right: &[bool]) -> String {
    let rows: Vec<Vec<String>> = rows.collect();
    let width = |i: usize| {
        let cells = rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count());
        cells.chain([heads[i].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let cells =
            cells.iter().zip(&widths).zip(right).map(|((cell, width), right)| {
                if *right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            });
        format!("{}\n", cells.collect::<Vec<_>>().join("   ").trim_end())
    };
    let mut text = line(heads.to_vec());
    text.push_str(&line(
        widths.iter().map(|w| "─".repeat(*w)).collect::<Vec<_>>().iter().map(String::as_str).collect(),
    ));
    rows.iter().for_each(|row| text.push_str(&line(row.iter().map(String::as_str).collect())));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_sees_counts_and_the_first_differences() {
        let mut findings = Findings::default();
        for offset in 0..12 {
            findings.add(Check::Lost, || {
                Finding::new(Check::Lost, "the record is in no log").key(7).at(3, offset).expected("{}")
            });
        }
        let mut report = Report {
            topic: "product_updates".to_owned(),
            table: "shop.product".to_owned(),
            records: 20,
            per_partition: vec![PartitionReport {
                partition: 3,
                records: 20,
                last_offset: Some(25),
                logs: [("consumer_1".to_owned(), 8)].into_iter().collect(),
            }],
            epochs: vec![1],
            ops: Ops { r: 0, c: 20, u: 0, d: 0 },
            logs: [("consumer_1".to_owned(), 8)].into_iter().collect(),
            lines: 8,
            table_rows: 20,
            keys: 20,
            ..Report::default()
        };
        report.conclude(&findings);
        let text = report.render(&findings);
        for part in [
            "partition   records   last offset   lines in\n─────────   ───────   ───────────   ──────────\n        3        20            25   consumer_1\n",
            "records in no log: 12\n  key 7, partition 3, offset 0: the record is in no log\n      expected {}\n",
            "  … and 2 more\n",
            "\nDIFFERENT: records in no log: 12\n",
        ] {
            assert!(text.contains(part), "{part:?} in\n{text}");
        }
        assert_eq!((report.agree, report.lost), (false, 12));
    }

    #[test]
    fn agreement_is_one_line_at_the_end() {
        let mut report = Report { records: 50, postgres_rows: Some(44), ..Report::default() };
        report.conclude(&Findings::default());
        let want = "OK: 50 changes, each in exactly one log; table, topic, logs and PostgreSQL agree\n";
        assert_eq!(report.render(&Findings::default()), want);
    }
}
