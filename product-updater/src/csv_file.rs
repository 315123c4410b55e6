//! A CSV file, row by row: each row is a [`Change`] or is refused with line, column and reason.
//!
//! RFC 4180 with LF or CRLF, quoted fields, line breaks inside of quotes, and a byte order mark if there is one. Each row
//! is checked for itself, bytes that are not UTF-8 included, so that one bad row costs nothing but itself.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use csv::ByteRecord;
use pipeline::error::{Error, Result};
use pipeline::record::{Micros, Price};

use crate::change::{Change, Row};

/// The first and the last moment that `TIMESTAMP(6)` holds (reference manual, "The DATE, DATETIME, and TIMESTAMP Types").
const TIMES: [Micros; 2] = [Micros(1_000_000), Micros(2_147_483_647_499_999)];
const NAME_CHARS: usize = 300;
const CATEGORY_CHARS: usize = 500;
/// What an empty category becomes.
const NO_CATEGORY: &str = "Uncategorized";

const COLUMNS: [&str; 6] = ["id", "name", "category", "price", "last_updated", "op"];

/// Why a row, or the whole file when it is the header, can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) line: u64,
    /// Empty when the row as a whole is meant.
    pub(crate) column: String,
    pub(crate) reason: String,
}

impl Fault {
    fn at(self, line: u64) -> Self {
        Self { line, ..self }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.column.as_str() {
            "" => write!(f, "line {}: {}", self.line, self.reason),
            column => write!(f, "line {}, column {column}: {}", self.line, self.reason),
        }
    }
}

/// A row of the file: a change, or what is wrong and the row itself.
pub(crate) enum Line {
    Change(Change),
    Bad(Fault, ByteRecord),
}

/// Rows of a file that come one after another.
pub(crate) struct Chunk {
    pub(crate) changes: Vec<Change>,
    pub(crate) bad: Vec<(Fault, ByteRecord)>,
    /// The share of the file that was read up to here, in bytes.
    pub(crate) read_bytes: u64,
    /// Nothing comes after it.
    pub(crate) at_end: bool,
}

/// An open file.
pub(crate) struct CsvFile {
    name: String,
    reader: csv::Reader<BufReader<File>>,
    lines: Lines,
    record: ByteRecord,
    /// Where each of [`COLUMNS`] stands.
    places: [Option<usize>; 6],
    width: usize,
}

impl CsvFile {
    /// Opens a file and reads its header; `Ok(Err(…))` when it can't be used: nothing in it can then.
    ///
    /// # Errors
    /// Definite when it can't be read.
    pub(crate) fn open(path: &Path) -> Result<std::result::Result<Self, (Fault, ByteRecord)>> {
        let name = path.display().to_string();
        let (file, second, mark) = open_twice(path).map_err(|e| unreadable(&name, e))?;
        if matches!(mark, [0xFF, 0xFE, _] | [0xFE, 0xFF, _]) {
            return Ok(Err((fault("", "the file is UTF-16; save it as UTF-8").at(1), ByteRecord::new())));
        }
        let reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(BufReader::new(file));
        let lines = Lines { reader: BufReader::new(second), byte: 0, line: 1, after_return: false };
        let mut file = Self { name, reader, lines, record: ByteRecord::new(), places: [None; 6], width: 0 };
        Ok(match file.read_header()? {
            None => Ok(file),
            Some(fault) => Err((fault, file.record)),
        })
    }

    fn read_header(&mut self) -> Result<Option<Fault>> {
        let header = COLUMNS[..5].join(",");
        if !self.read_record()? {
            return Ok(Some(fault("", format!("the file is empty; its first line must be {header}")).at(1)));
        }
        let line = self.line()?;
        self.width = self.record.len();
        for (place, field) in self.record.iter().enumerate() {
            let name = String::from_utf8_lossy(field).trim().to_ascii_lowercase();
            let Some(column) = COLUMNS.iter().position(|c| *c == name) else {
                let separator = [';', '\t', '|'].into_iter().find(|s| self.width == 1 && name.contains(*s));
                let reason = match separator {
                    Some(separator) => format!("columns are separated by {separator:?}; use commas"),
                    None => format!("{name:?} is no known column; known are {}", COLUMNS.join(", ")),
                };
                return Ok(Some(fault("", reason).at(line)));
            };
            if self.places[column].replace(place).is_some() {
                return Ok(Some(fault(&name, "the column stands twice in the header").at(line)));
            }
        }
        let missing = COLUMNS[..5].iter().zip(&self.places).find(|(_, place)| place.is_none());
        let reason = format!("the column is missing; the header must be {header}");
        Ok(missing.map(|(column, _)| fault(column, reason).at(line)))
    }

    /// The next row; `None` at the end.
    ///
    /// # Errors
    /// Definite when the file can't be read on.
    pub(crate) fn next(&mut self) -> Result<Option<Line>> {
        if !self.read_record()? {
            return Ok(None);
        }
        Ok(Some(match self.change() {
            Ok(change) => Line::Change(change),
            Err(fault) => Line::Bad(fault.at(self.line()?), self.record.clone()),
        }))
    }

    /// The next rows, at most so many, bad ones among them.
    ///
    /// # Errors
    /// Definite when the file can't be read on.
    pub(crate) fn next_chunk(&mut self, rows: usize) -> Result<Chunk> {
        let mut chunk = Chunk { changes: Vec::with_capacity(rows), bad: Vec::new(), read_bytes: 0, at_end: false };
        while chunk.changes.len() + chunk.bad.len() < rows && !chunk.at_end {
            match self.next()? {
                Some(Line::Change(change)) => chunk.changes.push(change),
                Some(Line::Bad(fault, record)) => chunk.bad.push((fault, record)),
                None => chunk.at_end = true,
            }
        }
        chunk.read_bytes = self.reader.position().byte();
        Ok(chunk)
    }

    fn read_record(&mut self) -> Result<bool> {
        self.reader.read_byte_record(&mut self.record).map_err(|e| unreadable(&self.name, e))
    }

    /// The line where the record begins; each record may be asked for once.
    fn line(&mut self) -> Result<u64> {
        let byte = self.record.position().map_or(0, csv::Position::byte);
        self.lines.of(byte).map_err(|e| unreadable(&self.name, e))
    }

    fn change(&self) -> Result<Change, Fault> {
        if self.record.len() != self.width {
            let mut reason = format!("the row has {} columns, the header has {}", self.record.len(), self.width);
            let breaks = self.record.as_slice().iter().filter(|b| **b == b'\n').count();
            if breaks > 0 {
                reason.push_str(&format!(" (it holds {breaks} line breaks: is a quote left open?)"));
            }
            return Err(fault("", reason));
        }
        let text = |column: usize| -> Result<&str, Fault> {
            let Some(field) = self.places[column].and_then(|place| self.record.get(place)) else { return Ok("") };
            std::str::from_utf8(field).map_err(|e| {
                let reason = format!("byte {} of the field is not UTF-8", e.valid_up_to() + 1);
                fault(COLUMNS[column], reason)
            })
        };
        let bad = |column: usize, reason: String| fault(COLUMNS[column], reason);
        let id = text(0)?.trim();
        let id = id.parse::<i32>().map_err(|_| {
            bad(0, format!("{:?} is not a whole number from {} to {}", shortened(id), i32::MIN, i32::MAX))
        })?;
        let at = timestamp(text(4)?.trim()).map_err(|reason| bad(4, reason))?;
        let delete = match text(5)?.trim().to_ascii_lowercase().as_str() {
            "" | "upsert" => false,
            "delete" => true,
            other => return Err(bad(5, format!("{:?} is neither upsert nor delete", shortened(other)))),
        };
        if delete {
            return Ok(Change { id, at, row: None });
        }
        let limited = |column: usize, most: usize| {
            let value = text(column)?;
            match value.chars().count() {
                n if n > most => Err(bad(column, format!("{n} characters; at most {most} fit"))),
                _ => Ok(value.to_owned()),
            }
        };
        let name = limited(1, NAME_CHARS)?;
        let mut category = limited(2, CATEGORY_CHARS)?;
        if category.trim().is_empty() {
            NO_CATEGORY.clone_into(&mut category);
        }
        let price = price(text(3)?.trim()).map_err(|reason| bad(3, reason))?;
        Ok(Change { id, at, row: Some(Row { name, category, price }) })
    }
}

/// Counts lines up to a byte of a file. (The reader's own count is off by one after CRLF and after empty lines.)
struct Lines {
    reader: BufReader<File>,
    byte: u64,
    line: u64,
    after_return: bool,
}

impl Lines {
    /// The line of the record that begins at this byte or, after line ends and empty lines, behind it. Bytes must be asked
    /// for in their order.
    fn of(&mut self, byte: u64) -> io::Result<u64> {
        loop {
            let Some(next) = self.reader.fill_buf()?.first().copied() else { return Ok(self.line) };
            if self.byte >= byte && !matches!(next, b'\r' | b'\n') {
                return Ok(self.line);
            }
            if next == b'\r' || (next == b'\n' && !self.after_return) {
                self.line += 1;
            }
            self.after_return = next == b'\r';
            self.byte += 1;
            self.reader.consume(1);
        }
    }
}

/// The file twice, behind its byte order mark, and its first three bytes.
fn open_twice(path: &Path) -> io::Result<(File, File, [u8; 3])> {
    let mut files = (File::open(path)?, File::open(path)?);
    let mut mark = Vec::new();
    (&files.0).take(3).read_to_end(&mut mark)?;
    mark.resize(3, 0);
    let mark = [mark[0], mark[1], mark[2]];
    let begin = if mark == *b"\xEF\xBB\xBF" { 3 } else { 0 };
    files.0.seek(SeekFrom::Start(begin))?;
    files.1.seek(SeekFrom::Start(begin))?;
    Ok((files.0, files.1, mark))
}

fn unreadable(name: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::definite(format!("cannot read {name}")).with_source(error).with_remedy("make it readable for this user")
}

/// A fault whose line is not known yet.
fn fault(column: &str, reason: impl Into<String>) -> Fault {
    Fault { line: 0, column: column.to_owned(), reason: reason.into() }
}

/// A field as an error message shows it.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn price(text: &str) -> Result<Price, String> {
    if let Some(price) = Price::parse(text) {
        return Ok(price);
    }
    let shown = shortened(text);
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let plain =
        digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') && digits.bytes().filter(|b| *b == b'.').count() <= 1;
    if !plain || !digits.bytes().any(|b| b.is_ascii_digit()) {
        return Err(format!("{shown:?} is not a decimal number such as 12.30"));
    }
    let decimals = digits.split_once('.').map_or(0, |(_, d)| d.trim_end_matches('0').len());
    Err(match decimals {
        0..=2 => format!("{shown} is out of range: DECIMAL(10,2) ends at 99999999.99"),
        n => format!("{shown} has {n} decimals; DECIMAL(10,2) holds 2, and nothing is rounded"),
    })
}

fn timestamp(text: &str) -> Result<Micros, String> {
    let Some(time) = Micros::parse(text) else {
        return Err(format!(
            "{:?} is not a time such as 2026-11-21T08:00:00.123456Z or 2026-11-21 08:00:00 (UTC), with at most 6 decimals",
            shortened(text)
        ));
    };
    if (TIMES[0]..=TIMES[1]).contains(&time) {
        return Ok(time);
    }
    Err(format!("{time} is out of range: TIMESTAMP holds {} to {}", TIMES[0], TIMES[1]))
}
