//! A CSV file, row by row: each row is a [`Change`], or is refused with line, column and reason.
//!
//! Each row is checked separately, including bytes that are not UTF-8, so one bad row does not affect others. The
//! module [`crate::records`] defines the rows.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use model::error::{Code, Error, Result};
use model::product::Price;
use model::time::Micros;

use crate::change::{Change, Place, Row};
use crate::precision::Precision;
use crate::records::Records;

/// The first and the last time that `TIMESTAMP(6)` holds (reference manual, "The DATE, DATETIME, and TIMESTAMP Types").
const TIMES: [Micros; 2] = [Micros(1_000_000), Micros(2_147_483_647_499_999)];
const NAME_CHARS: usize = 300;
const CATEGORY_CHARS: usize = 500;
/// Replaces an empty category.
const NO_CATEGORY: &str = "Uncategorized";

const COLUMNS: [&str; 6] = ["id", "name", "category", "price", "last_updated", "op"];

/// Why a row can't be used, or the whole file if the row is the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) line: u64,
    /// Empty when the fault concerns the whole row.
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

/// A row of the file: a change, or the fault and the row's bytes.
pub(crate) enum Line {
    Change(Change),
    Bad(Fault, Vec<u8>),
}

/// Consecutive rows of a file.
pub(crate) struct Chunk {
    pub(crate) changes: Vec<Change>,
    pub(crate) bad: Vec<(Fault, Vec<u8>)>,
    /// Bytes of the file that were read up to here.
    pub(crate) read_bytes: u64,
    /// The file ends here.
    pub(crate) at_end: bool,
}

/// The limits and formats of rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    /// Maximum bytes of a row.
    pub(crate) row_bytes: usize,
    /// The precision of `last_updated` in the table.
    pub(crate) precision: Precision,
}

/// An open file.
pub(crate) struct CsvFile {
    name: String,
    records: Records<BufReader<File>>,
    precision: Precision,
    /// The index of each of [`COLUMNS`].
    places: [Option<usize>; 6],
    width: usize,
}

impl CsvFile {
    /// Opens a file and reads its header; `Ok(Err(…))` when the header can't be used, and so no row can.
    ///
    /// # Errors
    /// Definite when it can't be read.
    pub(crate) fn open(path: &Path, format: Format) -> Result<std::result::Result<Self, (Fault, Vec<u8>)>> {
        let name = path.display().to_string();
        let (file, begin, mark) = match open(path) {
            Ok(opened) => opened,
            Err(error) => {
                return match not_a_file(path, &error) {
                    Some(reason) => Ok(Err((fault("", reason).at(1), Vec::new()))),
                    None => Err(unreadable(&name, error)),
                };
            }
        };
        if matches!(mark, [0xFF, 0xFE, _] | [0xFE, 0xFF, _]) {
            return Ok(Err((fault("", "the file is UTF-16; save it as UTF-8").at(1), Vec::new())));
        }
        let records = Records::new(BufReader::new(file), begin, format.row_bytes);
        let mut file = Self { name, records, precision: format.precision, places: [None; 6], width: 0 };
        Ok(match file.read_header()? {
            None => Ok(file),
            Some(fault) => Err((fault, file.records.record.raw)),
        })
    }

    fn read_header(&mut self) -> Result<Option<Fault>> {
        let header = COLUMNS[..5].join(",");
        match self.read_record()? {
            Ok(true) => {}
            Ok(false) => {
                return Ok(Some(fault("", format!("the file is empty; its first line must be {header}")).at(1)));
            }
            Err(fault) => return Ok(Some(fault)),
        }
        let record = &self.records.record;
        let line = record.line;
        self.width = record.len();
        for (place, field) in record.iter().enumerate() {
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
    /// Definite when the file can't be read further.
    pub(crate) fn next(&mut self) -> Result<Option<Line>> {
        let read = match self.read_record()? {
            Ok(false) => return Ok(None),
            Ok(true) => self.change(),
            Err(fault) => Err(fault),
        };
        let record = &self.records.record;
        Ok(Some(match read {
            Ok(change) => Line::Change(change),
            Err(fault) => Line::Bad(fault.at(record.line), record.raw.clone()),
        }))
    }

    /// At most this many of the next rows, bad ones included; fewer when the bad ones are long.
    ///
    /// # Errors
    /// Definite when the file can't be read further.
    pub(crate) fn next_chunk(&mut self, rows: usize) -> Result<Chunk> {
        const MOST_BAD_BYTES: usize = 1 << 20;
        let mut chunk = Chunk { changes: Vec::with_capacity(rows), bad: Vec::new(), read_bytes: 0, at_end: false };
        let mut bad_bytes = 0;
        while chunk.changes.len() + chunk.bad.len() < rows && bad_bytes < MOST_BAD_BYTES && !chunk.at_end {
            match self.next()? {
                Some(Line::Change(change)) => chunk.changes.push(change),
                Some(Line::Bad(fault, row)) => {
                    bad_bytes += row.len();
                    chunk.bad.push((fault, row));
                }
                None => chunk.at_end = true,
            }
        }
        chunk.read_bytes = self.records.position();
        Ok(chunk)
    }

    /// False at the end; the inner error when the record is malformed.
    fn read_record(&mut self) -> Result<std::result::Result<bool, Fault>> {
        let read = self.records.next().map_err(|e| unreadable(&self.name, e))?;
        Ok(read.map_err(|malformed| {
            let column = |field| self.places.iter().position(|place| *place == Some(field)).map_or("", |c| COLUMNS[c]);
            fault(malformed.field.map_or("", column), malformed.reason).at(self.records.record.line)
        }))
    }

    fn change(&self) -> Result<Change, Fault> {
        let record = &self.records.record;
        if record.len() != self.width {
            let mut reason = format!("the row has {} columns, the header has {}", record.len(), self.width);
            let breaks = record.raw.iter().filter(|b| **b == b'\n').count();
            if breaks > 0 {
                reason.push_str(&format!(" (it holds {breaks} line breaks: is a quote left open?)"));
            }
            return Err(fault("", reason));
        }
        let text = |column: usize| -> Result<&str, Fault> {
            let Some(field) = self.places[column].and_then(|place| record.get(place)) else { return Ok("") };
            if let Some(at) = field.iter().position(|b| *b == 0) {
                let reason = format!("byte {} of the field is the character NUL, which no text holds", at + 1);
                return Err(fault(COLUMNS[column], reason));
            }
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
        let at = self.precision.stored(timestamp(text(4)?.trim()).map_err(|reason| bad(4, reason))?);
        let delete = match text(5)?.trim().to_ascii_lowercase().as_str() {
            "" | "upsert" => false,
            "delete" => true,
            other => return Err(bad(5, format!("{:?} is neither upsert nor delete", shortened(other)))),
        };
        let place = Place { line: record.line, byte: record.byte };
        if delete {
            return Ok(Change { id, at, row: None, place });
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
        Ok(Change { id, at, row: Some(Row { name, category, price }), place })
    }
}

/// The bytes of the row that begins at this offset of the file.
///
/// # Errors
/// Definite when the file can't be read.
pub(crate) fn row_at(path: &Path, byte: u64, format: Format) -> Result<Vec<u8>> {
    let read = || {
        let (mut file, ..) = open(path)?;
        file.seek(SeekFrom::Start(byte))?;
        let mut records = Records::new(BufReader::new(file), byte, format.row_bytes);
        // The record was well-formed at the first reading; if the file has changed, these bytes are its present
        // content.
        drop(records.next()?);
        Ok(records.record.raw)
    };
    read().map_err(|e: io::Error| unreadable(&path.display().to_string(), e))
}

/// The file behind its byte order mark, where that is, and its first three bytes. A link in the data folder is not followed, and
/// a pipe is not waited for.
fn open(path: &Path) -> io::Result<(File, u64, [u8; 3])> {
    let mut file = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut mark = Vec::new();
    (&file).take(3).read_to_end(&mut mark)?;
    mark.resize(3, 0);
    let mark = [mark[0], mark[1], mark[2]];
    let begin = if mark == *b"\xEF\xBB\xBF" { 3 } else { 0 };
    file.seek(SeekFrom::Start(begin))?;
    Ok((file, begin, mark))
}

/// Why a path is not read that is not a regular file.
fn not_a_file(path: &Path, error: &io::Error) -> Option<String> {
    if error.raw_os_error() == Some(libc::ELOOP) {
        return Some("it is a symbolic link, which is not followed; put the file itself here".to_owned());
    }
    let kind = path.symlink_metadata().ok()?.file_type();
    (!kind.is_file()).then(|| "it is no regular file (a folder, pipe, socket or device)".to_owned())
}

fn unreadable(name: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(Code::FileAccess, format!("cannot read {name}"))
        .with_source(error)
        .with_remedy("make it readable for this user")
}

/// A fault whose line is set later.
fn fault(column: &str, reason: impl Into<String>) -> Fault {
    Fault { line: 0, column: column.to_owned(), reason: reason.into() }
}

/// A field, shortened for an error message.
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
