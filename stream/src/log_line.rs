//! Finds the lines of records in a log.
//!
//! A log has the lines of each partition in the order of their offsets, beside lines of other partitions. So a line is
//! found by halving the file: a line of the partition near the middle tells in which half it is. A log of gigabytes takes
//! some twenty reads of a few blocks. The next line of a partition is mostly close behind the one that was found before,
//! as for the changes of a transaction, so that block is looked at first.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use memchr::{memchr, memmem};
use model::error::{Code, Error, Result};
use rules::line::Written;

/// Bytes that are read at once, and the size below which the rest is read line by line.
const BLOCK: usize = 64 * 1024;

/// The place of a record, as its line has it.
#[derive(Clone, Debug)]
pub(crate) struct Place<'a> {
    record: Option<&'a str>,
    partition: i32,
    offset: i64,
    /// Text that each line of the partition has, so that most other lines need not be parsed.
    mark: String,
}

/// A line that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Its first byte in the file.
    pub(crate) begin: u64,
    /// Its bytes, without the newline.
    length: u64,
    pub(crate) text: String,
}

impl Line {
    fn new(begin: u64, line: &[u8]) -> Self {
        Self { begin, length: line.len() as u64, text: String::from_utf8_lossy(line).into_owned() }
    }

    /// The byte behind its newline.
    fn behind(&self) -> u64 {
        self.begin + self.length + 1
    }
}

impl<'a> Place<'a> {
    /// The place of a record, of a table whose nested lines have this name.
    pub(crate) fn new(record: Option<&'a str>, partition: i32, offset: i64) -> Self {
        Self { record, partition, offset, mark: format!("\"partition\":{partition},") }
    }

    /// The offset of a line of this partition.
    fn offset_of(&self, line: &[u8]) -> Option<i64> {
        memmem::find(line, self.mark.as_bytes())?;
        let Written { table, partition, offset } = Written::read(line)?;
        (partition == self.partition && table.as_deref() == self.record).then_some(offset)
    }
}

/// A log, of which only the first bytes count: what its log checkpoint has.
pub(crate) struct LogFile {
    path: PathBuf,
    /// Open since the first line was looked for.
    file: Option<File>,
    length: u64,
    /// By table and partition, the last line that was found: its offset, and the byte behind it.
    passed: BTreeMap<(Option<String>, i32), (i64, u64)>,
}

/// What the lines of a stretch tell about a record.
enum Scanned {
    Found(Line),
    /// A line of a later record came first, so there is none.
    Passed,
    /// All lines are before it, or of other partitions.
    Before,
}

impl LogFile {
    /// A log that is read when a line is looked for; what is behind its first `length` bytes is left out.
    pub(crate) fn new(path: PathBuf, length: u64) -> Self {
        Self { path, file: None, length, passed: BTreeMap::new() }
    }

    /// The line of the record.
    ///
    /// # Errors
    /// When it can't be read.
    pub(crate) fn find(&mut self, place: &Place<'_>) -> Result<Option<Line>> {
        let key = (place.record.map(str::to_owned), place.partition);
        let from = self.passed.get(&key).filter(|(offset, _)| *offset < place.offset).map(|(_, behind)| *behind);
        let found = self
            .search(place, from)
            .map_err(|e| Error::new(Code::FileAccess, format!("cannot read {}", self.path.display())).with_source(e))?;
        if let Some(line) = &found {
            self.passed.insert(key, (place.offset, line.behind()));
        }
        Ok(found)
    }

    /// Searches from the first byte of a line on, which is close before the record's line if there is one.
    fn search(&mut self, place: &Place<'_>, from: Option<u64>) -> io::Result<Option<Line>> {
        let file = match self.file.take() {
            Some(file) => file,
            None => File::open(&self.path)?,
        };
        let file = self.file.insert(file);
        let (mut low, mut high) = (from.unwrap_or(0), self.length.min(file.metadata()?.len()));
        if let Some(from) = from {
            let near = next_line(file, high.min(from + BLOCK as u64), high)?;
            match scan(file, place, from, near)? {
                Scanned::Found(line) => return Ok(Some(line)),
                Scanned::Passed => return Ok(None),
                Scanned::Before => low = near,
            }
        }
        while high - low > BLOCK as u64 {
            let middle = next_line(file, low + (high - low) / 2, high)?;
            if middle >= high {
                break;
            }
            let mut seen = None;
            each_line(file, middle, high, &mut |begin, line| {
                seen = place.offset_of(line).map(|offset| (offset, Line::new(begin, line)));
                seen.is_none()
            })?;
            match seen {
                Some((offset, line)) if offset == place.offset => return Ok(Some(line)),
                Some((offset, line)) if offset < place.offset => low = line.behind(),
                _ => high = middle,
            }
        }
        Ok(match scan(file, place, low, high)? {
            Scanned::Found(line) => Some(line),
            Scanned::Passed | Scanned::Before => None,
        })
    }
}

/// Reads a stretch line by line.
fn scan(file: &File, place: &Place<'_>, low: u64, high: u64) -> io::Result<Scanned> {
    let mut scanned = Scanned::Before;
    each_line(file, low, high, &mut |begin, line| {
        match place.offset_of(line) {
            Some(offset) if offset == place.offset => scanned = Scanned::Found(Line::new(begin, line)),
            Some(offset) if offset > place.offset => scanned = Scanned::Passed,
            _ => return true,
        }
        false
    })?;
    Ok(scanned)
}
/// The first byte of the line that begins behind `at`, before `end`; else `end`.
fn next_line(file: &File, at: u64, end: u64) -> io::Result<u64> {
    let mut found = end;
    each_block(file, at, end, &mut |begin, block| {
        let newline = memchr(b'\n', block);
        found = newline.map_or(end, |place| begin + place as u64 + 1);
        newline.is_none()
    })?;
    Ok(found)
}

/// Passes the lines from `begin`, the first byte of a line, to `end`, without their newlines, while `each` is true.
fn each_line(file: &File, begin: u64, end: u64, each: &mut dyn FnMut(u64, &[u8]) -> bool) -> io::Result<()> {
    let (mut rest, mut line_begin, mut goes) = (Vec::new(), begin, true);
    each_block(file, begin, end, &mut |_, block| {
        rest.extend_from_slice(block);
        let mut done = 0;
        while let Some(length) = memchr(b'\n', &rest[done..]) {
            if !each(line_begin, &rest[done..done + length]) {
                goes = false;
                return false;
            }
            done += length + 1;
            line_begin += length as u64 + 1;
        }
        rest.drain(..done);
        true
    })?;
    if goes && !rest.is_empty() {
        each(line_begin, &rest);
    }
    Ok(())
}

fn each_block(file: &File, begin: u64, end: u64, each: &mut dyn FnMut(u64, &[u8]) -> bool) -> io::Result<()> {
    let (mut block, mut at) = (vec![0; BLOCK], begin);
    while at < end {
        let wanted = usize::try_from(end - at).unwrap_or(BLOCK).min(BLOCK);
        let read = file.read_at(&mut block[..wanted], at)?;
        if read == 0 || !each(at, &block[..read]) {
            break;
        }
        at += read as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// A log of 6,000 lines; partition 3 has only the lines from 2,000 to 4,000, partition 9 the first and the last.
    fn log() -> (tempfile::NamedTempFile, Vec<(i32, i64, u64)>) {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        let (mut text, mut lines) = (Vec::new(), Vec::new());
        for number in 0..6_000_i64 {
            let partition = match number {
                0 | 5_999 => 9,
                2_000..4_000 if number % 2 == 0 => 3,
                _ => (number % 3) as i32,
            };
            lines.push((partition, number * 2, text.len() as u64));
            let line = format!("{{\"id\":{number},\"partition\":{partition},\"offset\":{},\"x\":\"é\"}}\n", number * 2);
            text.extend_from_slice(line.as_bytes());
        }
        file.write_all(&text).expect("written");
        (file, lines)
    }

    #[test]
    fn each_line_is_found_wherever_it_is() {
        let (file, lines) = log();
        let open = || LogFile::new(file.path().to_owned(), u64::MAX);
        let find = |log: &mut LogFile, partition, offset| {
            log.find(&Place::new(None, partition, offset)).expect("to read the log")
        };
        // Once each in a log that was just opened, once in one in which the line before was found, and once backward.
        let (mut forward, mut backward) = (open(), open());
        let wanted = || lines.iter().step_by(97).chain([&lines[5_999]]);
        for ((partition, offset, begin), last) in wanted().zip(wanted().rev()) {
            for found in [find(&mut open(), *partition, *offset), find(&mut forward, *partition, *offset)] {
                let line = found.unwrap_or_else(|| panic!("{partition} {offset}"));
                assert_eq!(line.begin, *begin);
                assert!(line.text.contains(&format!("\"offset\":{offset},")), "{}", line.text);
            }
            assert_eq!(find(&mut backward, last.0, last.1).map(|line| line.begin), Some(last.2));
        }
        for (partition, offset) in [(3, 1), (3, 4_001), (3, 90_000), (9, 2), (7, 4), (0, -1), (0, 1)] {
            assert_eq!(find(&mut open(), partition, offset), None, "{partition} {offset}");
            assert_eq!(find(&mut forward, partition, offset), None, "{partition} {offset}");
        }
    }

    #[test]
    fn a_line_far_behind_the_last_one_is_found() {
        let (file, lines) = log();
        let mut log = LogFile::new(file.path().to_owned(), u64::MAX);
        for (partition, offset, begin) in [&lines[0], &lines[5_999], &lines[1], &lines[5_000]] {
            let place = Place::new(None, *partition, *offset);
            assert_eq!(log.find(&place).expect("to read").map(|line| line.begin), Some(*begin));
        }
    }

    #[test]
    fn a_line_behind_the_committed_length_is_none() {
        let (file, lines) = log();
        let (partition, offset, begin) = lines[5_998];
        let find =
            |length, place: &Place<'_>| LogFile::new(file.path().to_owned(), length).find(place).expect("to read");
        let place = Place::new(None, partition, offset);
        assert_eq!(find(begin, &place), None);
        assert_eq!(find(u64::MAX, &place).map(|line| line.begin), Some(begin));
        assert_eq!(find(u64::MAX, &Place::new(Some("shop.orders"), partition, offset)), None);
    }
}
