//! The consumers' logs, line by line: each belongs to exactly one record, byte for byte.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use pipeline::error::{Error, Result};

use crate::findings::{Check, Finding, Findings};
use crate::status::Status;
use crate::topic::{FILTERED, Fate, LAST_LOG, Topic, UNREADABLE, UNSEEN, hash};

/// The logs that there are.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    pub(crate) logs: Vec<Log>,
    /// Lines of records that are no longer in the topic (retention, compaction) and so can't be checked.
    pub(crate) expired: u64,
}

/// One log.
#[derive(Debug)]
pub(crate) struct Log {
    /// The slot, `consumer_1`.
    pub(crate) name: String,
    pub(crate) lines: u64,
    /// Lines of each partition.
    pub(crate) partitions: Vec<u64>,
}

/// What is still in the topic.
pub(crate) struct Kept<'a> {
    /// First offset of each partition.
    pub(crate) from: &'a [i64],
    /// Older records of a key may be gone.
    pub(crate) compacted: bool,
}

impl Logs {
    /// Reads every `consumer_*/consumer_log.json` in `folder`.
    ///
    /// # Errors
    /// Definite when a file can't be read.
    pub(crate) fn read(folder: &Path, topic: &mut Topic, kept: &Kept<'_>, findings: &mut Findings) -> Result<Self> {
        let mut all = Self::default();
        let mut status = Status::new("lines read");
        for (name, path) in files(folder)? {
            let number = all.logs.len() as Fate + 1;
            if number > LAST_LOG {
                return Err(Error::definite(format!("{} holds more than {LAST_LOG} logs", folder.display())));
            }
            let mut log = Log { name, lines: 0, partitions: vec![0; topic.partitions.len()] };
            all.read_one(&path, &mut log, number, topic, kept, findings, &mut status)?;
            all.logs.push(log);
        }
        Ok(all)
    }

    #[allow(clippy::too_many_arguments, reason = "one pass that touches all of them")]
    fn read_one(
        &mut self,
        path: &Path,
        log: &mut Log,
        number: Fate,
        topic: &mut Topic,
        kept: &Kept<'_>,
        findings: &mut Findings,
        status: &mut Status,
    ) -> Result<()> {
        let file = File::open(path).map_err(|e| unreadable(path, e))?;
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let mut last = vec![-1; topic.partitions.len()];
        let mut line = Vec::new();
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line).map_err(|e| unreadable(path, e))? == 0 {
                return Ok(());
            }
            let number_of_line = log.lines + 1;
            let place = format!("{} line {number_of_line}", log.name);
            let found = || String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line)).into_owned();
            if line.last() != Some(&b'\n') {
                findings.add(Check::Torn, || {
                    let text = format!("{place} has no end ({} bytes)", line.len());
                    Finding::new(Check::Torn, text).found(found())
                });
                return Ok(());
            }
            status.one_more();
            log.lines += 1;
            let mut stranger = |reason: &str, at: Option<(i32, i64)>| {
                findings.add(Check::Stranger, || {
                    let finding = Finding::new(Check::Stranger, format!("{place} {reason}")).found(found());
                    match at {
                        Some((partition, offset)) => finding.at(partition, offset),
                        None => finding,
                    }
                });
            };
            let Some((partition, offset)) = origin(&line) else {
                stranger("is not a line of a consumer: it names no partition and offset", None);
                continue;
            };
            let index = usize::try_from(partition).unwrap_or(usize::MAX);
            let Some(records) = topic.partitions.get_mut(index) else {
                stranger("is of a partition that the topic has not", None);
                continue;
            };
            log.partitions[index] += 1;
            let Ok(i) = records.offsets.binary_search(&offset) else {
                let end = records.offsets.last().copied().unwrap_or(-1);
                if offset < kept.from.get(index).copied().unwrap_or(0) || (kept.compacted && offset < end) {
                    self.expired += 1;
                } else {
                    stranger("is of an offset where the topic has no record", Some((partition, offset)));
                }
                continue;
            };
            match records.fates[i] {
                UNSEEN => {
                    records.fates[i] = number;
                    if offset < last[index] {
                        findings.add(Check::LineOrder, || {
                            let text = format!("{place} comes after the line of offset {}", last[index]);
                            Finding::new(Check::LineOrder, text).at(partition, offset)
                        });
                    }
                }
                FILTERED => stranger("is of a record that a rule leaves out", Some((partition, offset))),
                UNREADABLE => stranger("is of a record that can't be read", Some((partition, offset))),
                fate => findings.add(Check::Doubled, || {
                    let before = match self.logs.get(usize::from(fate) - 1) {
                        Some(other) => format!("is in {} already", other.name),
                        None if fate == number => "is in this log already".to_owned(),
                        None => "is a dead letter too".to_owned(),
                    };
                    Finding::new(Check::Doubled, format!("{place}: the record {before}")).at(partition, offset)
                }),
            }
            last[index] = last[index].max(offset);
            if records.fates[i] <= LAST_LOG && records.lines[i] != hash(&line) {
                findings.add(Check::Wrong, || {
                    let text = format!("{place} differs from what its record gives");
                    Finding::new(Check::Wrong, text).at(partition, offset).found(found())
                });
            }
        }
    }
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    Error::definite(format!("cannot read {}", path.display()))
        .with_source(error)
        .with_remedy("run verify as a user who may read it, or correct consumer.logs")
}

/// The logs in the order of their numbers: name of the slot and path.
fn files(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
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
    Ok(found.into_iter().map(|(_, name, path)| (name, path)).collect())
}

/// The partition and offset of a line. Quotes within its texts are escaped, so the last `,"partition":` is the field.
fn origin(line: &[u8]) -> Option<(i32, i64)> {
    const PARTITION: &[u8] = b",\"partition\":";
    const OFFSET: &[u8] = b",\"offset\":";
    let start = line.windows(PARTITION.len()).rposition(|w| w == PARTITION)? + PARTITION.len();
    let (partition, rest) = number(&line[start..])?;
    let (offset, _) = number(rest.strip_prefix(OFFSET)?)?;
    Some((partition.try_into().ok()?, offset))
}

fn number(text: &[u8]) -> Option<(i64, &[u8])> {
    let end = text.iter().position(|b| !b.is_ascii_digit())?;
    let (digits, rest) = text.split_at(end);
    Some((std::str::from_utf8(digits).ok()?.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_its_record() {
        for (line, want) in [
            (r#"{"id":7,"op":"c","partition":3,"offset":17,"source_ts":"x"}"#, Some((3, 17))),
            (r#"{"id":7,"name":",\"partition\":1,\"offset\":2,","partition":3,"offset":17}"#, Some((3, 17))),
            (r#"{"id":7,"partition":3}"#, None),
            (r#"{"id":7,"partition":,"offset":1}"#, None),
            (r#"{"id":7,"partition":3,"offset":99999999999999999999}"#, None),
            ("", None),
        ] {
            assert_eq!(origin(line.as_bytes()), want, "{line}");
        }
    }
}
