//! Finds the line of a record in a log.
//!
//! A log has the lines of each partition in the order of their offsets, beside lines of other partitions. So a line is
//! found by halving the file: a line of the partition near the middle tells in which half it is. A log of gigabytes takes
//! some twenty reads of a few blocks.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rules::line::Written;

/// Bytes that are read at once, and the size below which the rest is read line by line.
const BLOCK: usize = 64 * 1024;

/// The place of a record, as its line has it.
#[derive(Clone, Debug)]
pub(crate) struct Place<'a> {
    /// The name of the table's records, of nested lines.
    pub(crate) record: Option<&'a str>,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

/// A line that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Its first byte in the file.
    pub(crate) begin: u64,
    pub(crate) text: String,
}

impl Line {
    fn new(begin: u64, line: &[u8]) -> Self {
        Self { begin, text: String::from_utf8_lossy(line).into_owned() }
    }
}

impl Place<'_> {
    /// The offset of a line of this partition.
    fn offset_of(&self, line: &[u8]) -> Option<i64> {
        let Written { table, partition, offset } = Written::read(line)?;
        (partition == self.partition && table.as_deref() == self.record).then_some(offset)
    }
}

/// The line of the record among the first `length` bytes of a log.
///
/// # Errors
/// Any error of the file system.
pub(crate) fn find(path: &Path, length: u64, place: &Place<'_>) -> io::Result<Option<Line>> {
    let file = File::open(path)?;
    let length = length.min(file.metadata()?.len());
    let (mut low, mut high) = (0, length);
    while high - low > BLOCK as u64 {
        let middle = next_line(&file, low + (high - low) / 2, high)?;
        if middle >= high {
            break;
        }
        let mut seen = None;
        each_line(&file, middle, high, &mut |begin, line| {
            seen = place.offset_of(line).map(|offset| (offset, Line::new(begin, line)));
            seen.is_none()
        })?;
        match seen {
            Some((offset, line)) if offset == place.offset => return Ok(Some(line)),
            Some((offset, line)) if offset < place.offset => low = line.begin + line.text.len() as u64 + 1,
            _ => high = middle,
        }
    }
    let mut found = None;
    each_line(&file, low, high, &mut |begin, line| {
        let offset = place.offset_of(line);
        found = offset.filter(|offset| *offset == place.offset).map(|_| Line::new(begin, line));
        offset.is_none_or(|offset| offset < place.offset)
    })?;
    Ok(found)
}

/// The first byte of the line that begins behind `at`, before `end`; else `end`.
fn next_line(file: &File, at: u64, end: u64) -> io::Result<u64> {
    let mut found = end;
    each_block(file, at, end, &mut |begin, block| {
        let newline = block.iter().position(|byte| *byte == b'\n');
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
        while let Some(length) = rest[done..].iter().position(|byte| *byte == b'\n') {
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
        let length = file.path().metadata().expect("a file").len();
        let find = |partition, offset| {
            super::find(file.path(), length, &Place { record: None, partition, offset }).expect("to read the log")
        };
        for (partition, offset, begin) in lines.iter().step_by(97).chain([&lines[0], &lines[5_999]]) {
            let line = find(*partition, *offset).unwrap_or_else(|| panic!("{partition} {offset}"));
            assert_eq!(line.begin, *begin);
            assert!(line.text.contains(&format!("\"offset\":{offset},")), "{}", line.text);
        }
        for (partition, offset) in [(3, 1), (3, 4_001), (3, 90_000), (9, 2), (7, 4), (0, -1), (0, 1)] {
            assert_eq!(find(partition, offset), None, "{partition} {offset}");
        }
    }

    #[test]
    fn a_line_behind_the_committed_length_is_none() {
        let (file, lines) = log();
        let (partition, offset, begin) = lines[5_998];
        let place = Place { record: None, partition, offset };
        assert_eq!(super::find(file.path(), begin, &place).expect("to read"), None);
        let other = Place { record: Some("shop.orders"), ..place };
        assert_eq!(super::find(file.path(), u64::MAX, &other).expect("to read"), None);
    }
}
