//! Checks the consumers' logs line by line: each line belongs to exactly one record and equals its expected line, member
//! for member ([`crate::line`]).
//!
//! Consumers may append meanwhile: a line of a record after the span's end is left to the next run, provided that the
//! topic has that record by then.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::error::{Code, Error, Result};

use crate::findings::{Check, Finding, Findings};
use crate::line::{self, Parsed};
use crate::span::Span;
use crate::status::Status;
use crate::topic::{FILTERED, Fate, LAST_LOG, Topic, UNREADABLE, UNSEEN};

/// How often, and how long apart, to reread a line without a newline: a consumer may be appending it.
const APPENDING: (u32, Duration) = (20, Duration::from_millis(100));

/// The logs that were read.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    pub(crate) logs: Vec<Log>,
    /// Lines of records that are no longer in the topic (retention, compaction) and so can't be checked.
    pub(crate) expired: u64,
    /// Lines of records after the span's end.
    pub(crate) later: u64,
}

/// One log.
#[derive(Debug)]
pub(crate) struct Log {
    /// The slot, `consumer_1`.
    pub(crate) name: String,
    /// The pass's lines.
    pub(crate) lines: u64,
    /// The pass's lines of each partition.
    pub(crate) partitions: Vec<u64>,
}

/// The facts that the lines are compared with.
pub(crate) struct Judge<'a> {
    pub(crate) topic: &'a mut Topic,
    /// The part of the topic that was read.
    pub(crate) span: &'a Span,
    /// The columns whose numbers may have several texts.
    pub(crate) floats: &'a HashSet<String>,
    /// Older records of a key may be gone.
    pub(crate) compacted: bool,
    /// The tables whose lines the logs have besides; `None` when there is one table only.
    pub(crate) others: Option<&'a Others>,
    /// Asks for the topic's present bounds.
    pub(crate) ask: &'a mut dyn FnMut() -> Result<Span>,
    pub(crate) findings: &'a mut Findings,
}

/// The tables that are compared, in a run for one of them.
#[derive(Clone, Debug)]
pub(crate) struct Others {
    /// The name in the nested lines of the run's table; `None` if its lines are flat.
    pub(crate) own: Option<String>,
    /// The names in the nested lines of all tables.
    pub(crate) names: HashSet<String>,
    /// Whether a table has flat lines.
    pub(crate) has_flat: bool,
    /// Reports lines that belong to none of the tables; one run does.
    pub(crate) reports_unknown: bool,
}

/// Whose line it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Own,
    Other,
    Nobodys,
}

impl Others {
    fn whose(&self, table: Option<&str>) -> Whose {
        match (table, self.own.as_deref()) {
            (table, own) if table == own => Whose::Own,
            (Some(table), _) if self.names.contains(table) => Whose::Other,
            (None, _) if self.has_flat => Whose::Other,
            _ => Whose::Nobodys,
        }
    }
}

/// The state of reading one log.
struct Reading {
    log: Log,
    /// Lines, of all tables and passes.
    lines: u64,
    /// The number that the log's records get as their [`Fate`].
    number: Fate,
    /// The last offset of each partition.
    last: Vec<i64>,
    /// Bytes.
    read: u64,
    /// The topic's ends, and the log's length in bytes when they were asked for.
    ends: Option<(Span, u64)>,
}

/// The outcome for a line without a newline.
enum Tail {
    /// The newline has arrived.
    Whole,
    /// The line is gone: its consumer cut it off as uncommitted.
    Cut,
    Torn,
}

impl Logs {
    /// Reads every `consumer_*/consumer_log.json` in these folders.
    ///
    /// # Errors
    /// Definite when a file can't be read; errors of `judge.ask`.
    pub(crate) fn read(folders: &[PathBuf], judge: &mut Judge<'_>) -> Result<Self> {
        let mut all = Self::default();
        let mut status = Status::new(&judge.topic.pass.label, "lines read");
        let partitions = judge.topic.partitions.len();
        for (name, path) in files(folders)? {
            let number = all.logs.len() as Fate + 1;
            if number > LAST_LOG {
                return Err(Error::definite(format!("there are more than {LAST_LOG} logs")));
            }
            let log = Log { name, lines: 0, partitions: vec![0; partitions] };
            let reading = Reading { log, lines: 0, number, last: vec![-1; partitions], read: 0, ends: None };
            let log = all.read_one(&path, reading, judge, &mut status)?;
            all.logs.push(log);
        }
        Ok(all)
    }

    fn read_one(
        &mut self,
        path: &Path,
        mut reading: Reading,
        judge: &mut Judge<'_>,
        status: &mut Status,
    ) -> Result<Log> {
        let file = File::open(path).map_err(|e| unreadable(path, e))?;
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let mut line = Vec::new();
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line).map_err(|e| unreadable(path, e))? == 0 {
                return Ok(reading.log);
            }
            if line.last() != Some(&b'\n') {
                match tail(&mut reader, &mut line, reading.read).map_err(|e| unreadable(path, e))? {
                    Tail::Whole => {}
                    Tail::Cut => return Ok(reading.log),
                    Tail::Torn if !judge.reports_unknown() => return Ok(reading.log),
                    Tail::Torn => {
                        judge.findings.add(Check::Torn, || {
                            let place = format!("{} line {}", reading.log.name, reading.lines + 1);
                            let text = format!("{place} has no end ({} bytes)", line.len());
                            Finding::new(Check::Torn, text).found(shown(&line))
                        });
                        return Ok(reading.log);
                    }
                }
            }
            status.one_more();
            reading.lines += 1;
            let length = || reader.get_ref().metadata().map(|m| m.len()).map_err(|e| unreadable(path, e));
            self.judge(&line, &mut reading, judge, length)?;
            reading.read += line.len() as u64;
        }
    }

    /// Checks one line; `length` is the log's length in bytes.
    fn judge(
        &mut self,
        line: &[u8],
        reading: &mut Reading,
        judge: &mut Judge<'_>,
        length: impl Fn() -> Result<u64>,
    ) -> Result<()> {
        let place = || format!("{} line {}", reading.log.name, reading.lines);
        let is_reported = judge.reports_unknown();
        let Some(parsed) = line::parse(line, judge.floats) else {
            if is_reported {
                reading.log.lines += 1;
                judge.unknown(&place(), "is not a line of a consumer: it names no partition and offset", line, None);
            }
            return Ok(());
        };
        match judge.others.map_or(Whose::Own, |others| others.whose(parsed.table.as_deref())) {
            Whose::Own => {}
            Whose::Nobodys if is_reported => {
                judge.unknown(&place(), "is of a table that tables does not take", line, None);
                return Ok(());
            }
            Whose::Other | Whose::Nobodys => return Ok(()),
        }
        let Parsed { partition, offset, .. } = parsed;
        let at = Some((partition, offset));
        let index = usize::try_from(partition).unwrap_or(usize::MAX);
        let is_later = judge.span.is_later(partition, offset);
        // The order of lines concerns the lines of all passes.
        let mut before = -1;
        if let Some(last) = reading.last.get_mut(index).filter(|_| !is_later) {
            before = std::mem::replace(last, offset.max(*last));
        }
        if !judge.topic.pass.has_record(partition, offset) {
            return Ok(());
        }
        reading.log.lines += 1;
        let place = format!("{} line {}", reading.log.name, reading.lines);
        let Some(records) = judge.topic.partitions.get(index) else {
            judge.unknown(&place, "is of a partition that the topic has not", line, None);
            return Ok(());
        };
        reading.log.partitions[index] += 1;
        if let Ok(i) = records.offsets.binary_search(&offset) {
            self.of_record(&place, line, (&parsed, before), i, reading.number, judge);
            return Ok(());
        }
        let end = records.last.unwrap_or(-1);
        if offset < judge.span.first[index] || (judge.compacted && offset < end) {
            self.expired += 1;
        } else if is_later && reading.has_come(judge, partition, offset, length)? {
            self.later += 1;
        } else {
            judge.unknown(&place, "is of an offset where the topic has no record", line, at);
        }
        Ok(())
    }

    /// Checks the line of record `i` of its partition; `last` is the last offset of the partition in the log before it.
    fn of_record(
        &self,
        place: &str,
        line: &[u8],
        (parsed, last): (&Parsed, i64),
        i: usize,
        number: Fate,
        judge: &mut Judge<'_>,
    ) {
        let Parsed { partition, offset, hash, .. } = *parsed;
        let records = &mut judge.topic.partitions[partition as usize];
        match records.fates[i] {
            UNSEEN => {
                records.fates[i] = number;
                if offset < last {
                    judge.findings.add(Check::LineOrder, || {
                        let text = format!("{place} comes after the line of offset {last}");
                        Finding::new(Check::LineOrder, text).at(partition, offset)
                    });
                }
            }
            FILTERED | UNREADABLE => {
                let filtered = records.fates[i] == FILTERED;
                let reason = if filtered {
                    "is of a record that a rule leaves out"
                } else {
                    "is of a record that can't be read"
                };
                judge.unknown(place, reason, line, Some((partition, offset)));
                return;
            }
            fate => judge.findings.add(Check::Doubled, || {
                let before = match self.logs.get(usize::from(fate) - 1) {
                    Some(other) => format!("is in {} already", other.name),
                    None if fate == number => "is in this log already".to_owned(),
                    None => "is a dead letter too".to_owned(),
                };
                Finding::new(Check::Doubled, format!("{place}: the record {before}")).at(partition, offset)
            }),
        }
        if records.fates[i] <= LAST_LOG && records.lines[i] != hash {
            judge.findings.add(Check::Wrong, || {
                let text = format!("{place} differs from what its record gives");
                Finding::new(Check::Wrong, text).at(partition, offset).found(shown(line))
            });
        }
    }
}

impl Judge<'_> {
    /// Whether this pass of this run reports what belongs to no table or record.
    fn reports_unknown(&self) -> bool {
        self.topic.pass.is_first() && self.others.is_none_or(|others| others.reports_unknown)
    }

    /// Reports a line that belongs to no record.
    fn unknown(&mut self, place: &str, reason: &str, line: &[u8], at: Option<(i32, i64)>) {
        self.findings.add(Check::Stranger, || {
            let finding = Finding::new(Check::Stranger, format!("{place} {reason}")).found(shown(line));
            match at {
                Some((partition, offset)) => finding.at(partition, offset),
                None => finding,
            }
        });
    }
}

impl Reading {
    /// Whether the topic has reached this offset by now. The topic had the records of all lines that the log held when
    /// it was asked, so it is asked again only for lines that were appended since.
    fn has_come(
        &mut self,
        judge: &mut Judge<'_>,
        partition: i32,
        offset: i64,
        length: impl Fn() -> Result<u64>,
    ) -> Result<bool> {
        if let Some((ends, asked_at)) = &self.ends
            && (self.read < *asked_at || !ends.is_later(partition, offset))
        {
            return Ok(!ends.is_later(partition, offset));
        }
        let asked_at = length()?;
        let ends = (judge.ask)()?;
        let has_come = !ends.is_later(partition, offset);
        self.ends = Some((ends, asked_at));
        Ok(has_come)
    }
}

/// Waits until a line is complete or cut off, or returns it as torn; `before` is the number of bytes before it.
fn tail(reader: &mut BufReader<File>, line: &mut Vec<u8>, before: u64) -> std::io::Result<Tail> {
    let (times, pause) = APPENDING;
    for _ in 0..times {
        std::thread::sleep(pause);
        reader.read_until(b'\n', line)?;
        if line.last() == Some(&b'\n') {
            return Ok(Tail::Whole);
        }
        if reader.get_ref().metadata()?.len() < before + line.len() as u64 {
            return Ok(Tail::Cut);
        }
    }
    Ok(Tail::Torn)
}

fn shown(line: &[u8]) -> String {
    String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(line)).into_owned()
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    Error::new(Code::FileAccess, format!("cannot read {}", path.display()))
        .with_source(error)
        .with_remedy("run verify as a user who may read it, or correct consumer.logs")
}

/// The logs, by folder and in the order of their numbers: the slot's name (with its folder if there are several) and
/// the path.
fn files(folders: &[PathBuf]) -> Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    for folder in folders {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(|e| unreadable(folder, e))? {
            let name = entry.map_err(|e| unreadable(folder, e))?.file_name().to_string_lossy().into_owned();
            let path = folder.join(&name).join("consumer_log.json");
            if let Some(number) = name.strip_prefix("consumer_").and_then(|n| n.parse::<u64>().ok())
                && path.exists()
            {
                found.push((number, name, path));
            }
        }
        found.sort();
        let name = |name| if folders.len() == 1 { name } else { folder.join(name).display().to_string() };
        files.extend(found.into_iter().map(|(_, slot, path)| (name(slot), path)));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_belongs_to_one_table() {
        let names: HashSet<String> = ["shop.a", "shop.b"].map(str::to_owned).into();
        let of = |own: Option<&str>, has_flat| Others {
            own: own.map(str::to_owned),
            names: names.clone(),
            has_flat,
            reports_unknown: true,
        };
        for (own, has_flat, line, want) in [
            (Some("shop.a"), true, Some("shop.a"), Whose::Own),
            (Some("shop.a"), true, Some("shop.b"), Whose::Other),
            (Some("shop.a"), true, Some("shop.c"), Whose::Nobodys),
            (Some("shop.a"), true, None, Whose::Other),
            (Some("shop.a"), false, None, Whose::Nobodys),
            (None, true, None, Whose::Own),
            (None, true, Some("shop.b"), Whose::Other),
        ] {
            assert_eq!(of(own, has_flat).whose(line), want, "{own:?} {line:?}");
        }
    }
}
