//! A CSV file, row by row: each row is a change of a table, or is refused with line, column and reason.
//!
//! Each row is checked separately, including bytes that are not UTF-8, so one bad row does not affect others. The
//! module [`crate::records`] defines the rows; a [`Format`] knows the columns, and makes a change of a row.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use model::error::{Code, Error, Result};

use crate::change::Place;
use crate::records::{Record, Records};

/// The column that says whether a row is written or deleted.
pub(crate) const OP: &str = "op";

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

/// The columns of the files of a table, and how a row becomes a change of it.
pub(crate) trait Format: Clone + Send + 'static {
    type Change: Send + 'static;

    /// Maximum bytes of a row.
    fn row_bytes(&self) -> usize;

    /// The names that a header may have, in lower case.
    fn names(&self) -> Vec<String>;

    /// What the first line must do: "be id,name".
    fn header(&self) -> String;

    /// Whether the header must have the column.
    fn is_required(&self, column: usize) -> bool;

    /// Why the header may not have the column.
    fn refused(&self, column: usize) -> Option<String>;

    /// The change that a row with the header's number of fields makes.
    fn change(&self, fields: &Fields<'_>) -> Result<Self::Change, Fault>;

    /// The change's place in the file.
    fn place(change: &Self::Change) -> Place;
}

/// A row of the file: a change, or the fault and the row's bytes.
pub(crate) enum Line<C> {
    Change(C),
    Bad(Fault, Vec<u8>),
}

/// Consecutive rows of a file.
pub(crate) struct Chunk<C> {
    pub(crate) changes: Vec<C>,
    pub(crate) bad: Vec<(Fault, Vec<u8>)>,
    /// Bytes of the file that were read up to here.
    pub(crate) read_bytes: u64,
    /// The file ends here.
    pub(crate) at_end: bool,
}

/// An open file.
pub(crate) struct CsvFile<F> {
    name: String,
    records: Records<BufReader<File>>,
    format: F,
    header: Header,
}

/// The columns of a file.
#[derive(Default)]
struct Header {
    /// The names that it may have.
    names: Vec<String>,
    /// The index of each of them in a row.
    places: Vec<Option<usize>>,
    width: usize,
}

/// The fields of a row, by the format's columns.
pub(crate) struct Fields<'a> {
    record: &'a Record,
    header: &'a Header,
}

impl<'a> Fields<'a> {
    /// Whether the header has the column.
    pub(crate) fn has(&self, column: usize) -> bool {
        self.header.places[column].is_some()
    }

    /// The column's text, empty when the header does not have it.
    pub(crate) fn text(&self, column: usize) -> Result<&'a str, Fault> {
        let Some(field) = self.header.places[column].and_then(|place| self.record.get(place)) else { return Ok("") };
        if let Some(at) = field.iter().position(|b| *b == 0) {
            let reason = format!("byte {} of the field is the character NUL, which no text holds", at + 1);
            return Err(self.fault(column, reason));
        }
        std::str::from_utf8(field)
            .map_err(|e| self.fault(column, format!("byte {} of the field is not UTF-8", e.valid_up_to() + 1)))
    }

    /// Whether the row deletes, by its column [`OP`].
    pub(crate) fn is_delete(&self, op: usize) -> Result<bool, Fault> {
        match self.text(op)?.trim().to_ascii_lowercase().as_str() {
            "" | "upsert" => Ok(false),
            "delete" => Ok(true),
            other => Err(self.fault(op, format!("{:?} is neither upsert nor delete", shortened(other)))),
        }
    }

    /// The row's place in the file.
    pub(crate) fn place(&self) -> Place {
        Place { line: self.record.line, byte: self.record.byte }
    }

    /// A fault of the row in this column.
    pub(crate) fn fault(&self, column: usize, reason: impl Into<String>) -> Fault {
        fault(&self.header.names[column], reason)
    }
}

impl<F: Format> CsvFile<F> {
    /// Opens a file and reads its header; `Ok(Err(…))` when the header can't be used, and so no row can.
    ///
    /// # Errors
    /// Definite when it can't be read.
    pub(crate) fn open(path: &Path, format: F) -> Result<std::result::Result<Self, (Fault, Vec<u8>)>> {
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
        let records = Records::new(BufReader::new(file), begin, format.row_bytes());
        let mut file = Self { name, records, format, header: Header::default() };
        Ok(match file.read_header()? {
            None => Ok(file),
            Some(fault) => Err((fault, file.records.record.raw)),
        })
    }

    fn read_header(&mut self) -> Result<Option<Fault>> {
        let names = self.format.names();
        self.header = Header { places: vec![None; names.len()], names, width: 0 };
        match self.read_record()? {
            Ok(true) => {}
            Ok(false) => {
                let reason = format!("the file is empty; its first line must {}", self.format.header());
                return Ok(Some(fault("", reason).at(1)));
            }
            Err(fault) => return Ok(Some(fault)),
        }
        let record = &self.records.record;
        Ok(read_header(&mut self.header, record, &self.format).err().map(|fault| fault.at(record.line)))
    }

    /// The next row; `None` at the end.
    ///
    /// # Errors
    /// Definite when the file can't be read further.
    pub(crate) fn next(&mut self) -> Result<Option<Line<F::Change>>> {
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
    pub(crate) fn next_chunk(&mut self, rows: usize) -> Result<Chunk<F::Change>> {
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
            let Header { names, places, .. } = &self.header;
            let place = malformed.field.and_then(|field| places.iter().position(|place| *place == Some(field)));
            fault(place.map_or("", |column| &names[column]), malformed.reason).at(self.records.record.line)
        }))
    }

    fn change(&self) -> Result<F::Change, Fault> {
        let (record, header) = (&self.records.record, &self.header);
        if record.len() != header.width {
            let mut reason = format!("the row has {} columns, the header has {}", record.len(), header.width);
            let breaks = record.raw.iter().filter(|b| **b == b'\n').count();
            if breaks > 0 {
                reason.push_str(&format!(" (it holds {breaks} line breaks: is a quote left open?)"));
            }
            return Err(fault("", reason));
        }
        self.format.change(&Fields { record, header })
    }
}

/// Finds the columns of the first line.
fn read_header(header: &mut Header, record: &Record, format: &impl Format) -> Result<(), Fault> {
    let Header { names, places, width } = header;
    *width = record.len();
    for (place, field) in record.iter().enumerate() {
        let name = String::from_utf8_lossy(field).trim().to_lowercase();
        let Some(column) = names.iter().position(|known| *known == name) else {
            let separator = [';', '\t', '|'].into_iter().find(|s| *width == 1 && name.contains(*s));
            let reason = match separator {
                Some(separator) => format!("columns are separated by {separator:?}; use commas"),
                None => format!("{name:?} is no known column; known are {}", names.join(", ")),
            };
            return Err(fault("", reason));
        };
        if let Some(reason) = format.refused(column) {
            return Err(fault(&name, reason));
        }
        if places[column].replace(place).is_some() {
            return Err(fault(&name, "the column stands twice in the header"));
        }
    }
    match (0..names.len()).find(|column| places[*column].is_none() && format.is_required(*column)) {
        Some(column) => {
            Err(fault(&names[column], format!("the column is missing; the header must {}", format.header())))
        }
        None => Ok(()),
    }
}

/// The bytes of the row that begins at this offset of the file.
///
/// # Errors
/// Definite when the file can't be read.
pub(crate) fn row_at(path: &Path, byte: u64, row_bytes: usize) -> Result<Vec<u8>> {
    let read = || {
        let (mut file, ..) = open(path)?;
        file.seek(SeekFrom::Start(byte))?;
        let mut records = Records::new(BufReader::new(file), byte, row_bytes);
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
pub(crate) fn shortened(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
