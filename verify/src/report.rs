//! The result: tables for a person, one JSON object for a program.

use std::collections::BTreeSet;

use model::escape;
use serde::Serialize;

use crate::findings::{Check, Finding, Findings};
use crate::gaps::{Gap, Gaps, NotCompared};
use crate::logs::Logs;
use crate::topic::Topic;

/// Names with their numbers, in a meaningful order.
#[derive(Debug, Default)]
pub(crate) struct Counts(Vec<(String, u64)>);

impl Serialize for Counts {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, count)| (name, count)))
    }
}

impl Counts {
    fn add(&mut self, name: &str, count: u64) {
        match self.0.iter_mut().find(|(found, _)| found == name) {
            Some((_, sum)) => *sum += count,
            None => self.0.push((name.to_owned(), count)),
        }
    }
}

impl FromIterator<(String, u64)> for Counts {
    fn from_iter<I: IntoIterator<Item = (String, u64)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

/// The verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// Everything was compared and agrees.
    Agree,
    /// Everything that was compared agrees; the report lists the rest.
    AgreeAsFarAsCompared,
    /// Nothing could be compared.
    #[default]
    NothingCompared,
    /// Something has not arrived yet; everything else agrees.
    Behind,
    /// Something differs.
    Different,
}

impl Verdict {
    /// Whether the exit code is 0; with `complete`, only if everything was compared.
    pub(crate) fn is_success(self, complete: bool) -> bool {
        self == Self::Agree || (self == Self::AgreeAsFarAsCompared && !complete)
    }
}

/// All counts. This is the format of `--json`; its keys are stable.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) verdict: Verdict,
    /// Everything was compared and agrees.
    pub(crate) agree: bool,
    pub(crate) topic: String,
    /// `database.table`
    pub(crate) table: String,
    /// The position up to which verify compared: a GTID set, or file and offset on a server without GTIDs.
    pub(crate) position: String,
    /// The passes over all places, by `verify.memory`.
    pub(crate) passes: u64,
    /// The items that could not be compared, with the reason.
    pub(crate) not_compared: Vec<NotCompared>,
    pub(crate) records: u64,
    pub(crate) per_partition: Vec<PartitionReport>,
    pub(crate) epochs: Vec<u64>,
    pub(crate) ops: Ops,
    /// Rows that exist in the topic.
    pub(crate) keys: u64,
    /// Lines of each log.
    pub(crate) logs: Counts,
    pub(crate) lines: u64,
    pub(crate) dead_letters: u64,
    /// Records that PostgreSQL does not store.
    pub(crate) parked_records: u64,
    /// Dead letters of rows that the producer could not carry.
    pub(crate) refused_rows: u64,
    /// Keys with an older row or none in PostgreSQL, as their last record is parked.
    pub(crate) parked_keys: u64,
    /// Records that a rule filters out of the logs.
    pub(crate) filtered: u64,
    /// Lines of records that are no longer in the topic: not checked.
    pub(crate) expired_lines: u64,
    /// Lines of records after the position: left to the next run.
    pub(crate) later_lines: u64,
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
    /// The number of differences of each kind.
    pub(crate) counts: Counts,
    /// The first ten of each kind.
    pub(crate) differences: Vec<Finding>,
    /// Further notes for the reader.
    pub(crate) notes: Vec<String>,
}

/// Records of one partition.
#[derive(Debug, Default, Serialize)]
pub(crate) struct PartitionReport {
    pub(crate) partition: usize,
    pub(crate) records: u64,
    /// `null` when it is empty.
    pub(crate) last_offset: Option<i64>,
    /// The logs that hold its lines, with the number of lines.
    pub(crate) logs: Counts,
}

/// Records by outcome.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Ops {
    pub(crate) r: u64,
    pub(crate) c: u64,
    pub(crate) u: u64,
    pub(crate) d: u64,
}

impl Report {
    /// Adds the counts of a pass over the topic and the logs.
    pub(crate) fn add(&mut self, topic: &Topic, logs: &Logs) {
        self.passes += 1;
        self.per_partition.resize_with(topic.partitions.len(), PartitionReport::default);
        for (partition, (report, records)) in self.per_partition.iter_mut().zip(&topic.partitions).enumerate() {
            report.partition = partition;
            report.records += records.count;
            report.last_offset = records.last;
            logs.logs.iter().for_each(|log| report.logs.add(&log.name, log.partitions[partition]));
            self.records += records.count;
        }
        let epochs: BTreeSet<u64> = self.epochs.iter().chain(&topic.epochs).copied().collect();
        self.epochs = epochs.into_iter().collect();
        let [r, c, u, d] = topic.ops;
        let ops = &self.ops;
        self.ops = Ops { r: ops.r + r, c: ops.c + c, u: ops.u + u, d: ops.d + d };
        self.keys += topic.keys.iter().filter(|(_, key)| key.state.is_some()).count() as u64;
        for log in &logs.logs {
            self.logs.add(&log.name, log.lines);
            self.lines += log.lines;
        }
        self.dead_letters += topic.dead_letters;
        self.parked_records += topic.parked.len() as u64;
        self.refused_rows += topic.refused_rows;
        self.filtered += topic.filtered;
        self.expired_lines += logs.expired;
        self.later_lines += logs.later;
    }

    /// Copies the differences and the items that could not be compared.
    pub(crate) fn conclude(&mut self, findings: &Findings, gaps: &Gaps) {
        for partition in &mut self.per_partition {
            partition.logs.0.retain(|(_, lines)| *lines > 0);
        }
        self.verdict = self.judge(findings, gaps);
        self.agree = self.verdict == Verdict::Agree;
        self.not_compared = gaps.list();
        self.parked_keys = gaps.count(Gap::Parked);
        self.lost = findings.count(Check::Lost);
        self.doubled = findings.count(Check::Doubled) + findings.count(Check::Repeated);
        self.out_of_order = findings.count(Check::Order) + findings.count(Check::LineOrder);
        self.torn = findings.count(Check::Torn);
        let name = |check: Check| serde_json::to_value(check).ok().and_then(|v| v.as_str().map(str::to_owned));
        self.counts = findings.counts().filter_map(|(check, count)| Some((name(check)?, count))).collect();
        self.differences = findings.first().cloned().collect();
    }

    fn judge(&self, findings: &Findings, gaps: &Gaps) -> Verdict {
        if findings.counts().any(|(check, _)| check != Check::Waiting) {
            return Verdict::Different;
        }
        if !findings.is_empty() {
            return Verdict::Behind;
        }
        if gaps.list().is_empty() {
            return Verdict::Agree;
        }
        // PostgreSQL's rows are compared with the table's rows.
        let rows = self.postgres_rows.is_some_and(|rows| rows > 0)
            || self.table_rows > gaps.count(Gap::Rows) + gaps.count(Gap::PassedRows) + gaps.count(Gap::Refused);
        if self.records > 0 || rows { Verdict::AgreeAsFarAsCompared } else { Verdict::NothingCompared }
    }

    /// The text for a person; its last line begins with `OK:`, `AS FAR AS COMPARED:`, `NOTHING COMPARED:`, `BEHIND:` or
    /// `DIFFERENT:`.
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
        for NotCompared { what, count, why } in &self.not_compared {
            text.push_str(&format!("not compared: {what}: {count} ({why})\n"));
        }
        for note in &self.notes {
            text.push_str(&format!("note: {}\n", escape::shown(note)));
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
            ("rows parked by the producer", self.refused_rows, "a record can't carry them"),
            ("parked for PostgreSQL", self.parked_records, "in the logs, refused by PostgreSQL"),
            ("left out by rules", self.filtered, "in no log"),
            ("lines of expired records", self.expired_lines, "not checked"),
            ("lines written meanwhile", self.later_lines, "after the position that is judged up to"),
        ] {
            if count > 0 {
                rows.push((what.to_owned(), count, remark.to_owned()));
            }
        }
        rows.push((
            format!("rows in {}", self.table),
            self.table_rows,
            format!("{} rows alive in the topic", self.keys),
        ));
        if let Some(count) = self.postgres_rows {
            rows.push(("rows in PostgreSQL".to_owned(), count, String::new()));
        }
        let rows = rows.into_iter().map(|(what, count, remark)| vec![what, count.to_string(), remark]);
        table(&["what", "number", ""], rows, &[false, true, false])
    }

    fn verdict(&self, findings: &Findings) -> String {
        let gaps: Vec<String> = self.not_compared.iter().map(|gap| format!("{}: {}", gap.what, gap.count)).collect();
        let gaps = gaps.join("; ");
        let (times, parked) = match self.dead_letters {
            0 => ("each in exactly one log", String::new()),
            n => ("each in exactly one log or parked", format!(" ({n} dead letters)")),
        };
        let postgres = if self.postgres_rows.is_some() { ", logs and PostgreSQL" } else { " and logs" };
        let changes = format!("{} changes, {times}{parked}", self.records);
        match self.verdict {
            Verdict::Agree => format!("OK: {changes}; table, topic{postgres} agree\n"),
            Verdict::AgreeAsFarAsCompared => {
                format!("AS FAR AS COMPARED: {changes}; table, topic{postgres} agree; not compared: {gaps}\n")
            }
            Verdict::NothingCompared => format!("NOTHING COMPARED: {gaps}\n"),
            Verdict::Behind => {
                let texts: Vec<&str> = findings.first().map(|finding| finding.text.as_str()).collect();
                format!("BEHIND: {}\n", escape::shown(&texts.join("; ")))
            }
            Verdict::Different => {
                let parts: Vec<String> =
                    findings.counts().map(|(check, count)| format!("{}: {count}", check.title())).collect();
                format!("DIFFERENT: {}\n", parts.join("; "))
            }
        }
    }
}

/// The report shows only the beginning of a long line.
const LONGEST_VALUE: usize = 400;

fn describe(finding: &Finding) -> String {
    let mut place = Vec::new();
    if let Some(key) = &finding.key {
        place.push(format!("key {}", escape::cut(key, LONGEST_VALUE)));
    }
    if let Some((partition, offset)) = finding.place() {
        place.push(format!("partition {partition}, offset {offset}"));
    }
    let place = if place.is_empty() { String::new() } else { format!("{}: ", place.join(", ")) };
    let mut text = format!("  {place}{}\n", escape::shown(&finding.text));
    for (what, value) in [("expected", &finding.expected), ("found   ", &finding.found)] {
        if let Some(value) = value {
            text.push_str(&format!("      {what} {}\n", escape::cut(value, LONGEST_VALUE)));
        }
    }
    text
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
                Finding::new(Check::Lost, "the record is in no log").key("7").at(3, offset).expected("{}")
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
        report.conclude(&findings, &Gaps::default());
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
        report.conclude(&Findings::default(), &Gaps::default());
        let want = "OK: 50 changes, each in exactly one log; table, topic, logs and PostgreSQL agree\n";
        assert_eq!(report.render(&Findings::default()), want);
    }

    #[test]
    fn what_was_not_compared_is_named_and_agreement_is_not_claimed() {
        let mut gaps = Gaps::default();
        gaps.add(Gap::Rows, 11);
        let mut report = Report { records: 1, table_rows: 12, ..Report::default() };
        report.conclude(&Findings::default(), &gaps);
        let want = "not compared: rows of the table whose last record has expired: 11 (the topic tells nothing of them)\n\
                    AS FAR AS COMPARED: 1 changes, each in exactly one log; table, topic and logs agree; \
                    not compared: rows of the table whose last record has expired: 11\n";
        assert_eq!(report.render(&Findings::default()), want);
        assert_eq!(
            (report.agree, report.verdict.is_success(false), report.verdict.is_success(true)),
            (false, true, false)
        );
        let mut report = Report { table_rows: 11, ..Report::default() };
        report.conclude(&Findings::default(), &gaps);
        assert_eq!((report.verdict, report.verdict.is_success(false)), (Verdict::NothingCompared, false));
    }

    #[test]
    fn lag_is_no_difference() {
        let mut findings = Findings::default();
        findings.add(Check::Waiting, || Finding::new(Check::Waiting, "the group g has 3 records to read"));
        let mut report = Report::default();
        report.conclude(&findings, &Gaps::default());
        assert!(report.render(&findings).ends_with("\nBEHIND: the group g has 3 records to read\n"));
        assert_eq!((report.agree, report.verdict.is_success(false)), (false, false));
    }
}
