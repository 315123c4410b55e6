//! Stores bad rows for a person: `FILE.rejects.csv` has line, column, reason and the row's original bytes.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use csv::Writer;
use model::error::{Code, Error, Result};

use crate::csv_file::Fault;

/// Suffix of these files; the updater does not read them as data.
pub(crate) const SUFFIX: &str = ".rejects.csv";

/// The rejects of one file. The first reject creates the file.
pub(crate) struct Rejects {
    path: PathBuf,
    writer: Option<Writer<File>>,
}

impl Rejects {
    /// For the data file `name`; removes the rejects file of an earlier run.
    ///
    /// # Errors
    /// Definite when it can't be removed.
    pub(crate) fn new(folder: &Path, name: &str) -> Result<Self> {
        let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
        let path = folder.join(format!("{stem}{SUFFIX}"));
        match fs::remove_file(&path) {
            Err(e) if !matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                Err(unwritable(&path, e))
            }
            _ => Ok(Self { path, writer: None }),
        }
    }

    /// The path of the file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a row.
    ///
    /// # Errors
    /// Definite when it can't be written.
    pub(crate) fn add(&mut self, fault: &Fault, row: &[u8]) -> Result<()> {
        let written = self.write(fault, row);
        written.map_err(|e| unwritable(&self.path, e))
    }

    fn write(&mut self, fault: &Fault, row: &[u8]) -> std::io::Result<()> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => {
                if let Some(folder) = self.path.parent() {
                    fs::create_dir_all(folder)?;
                }
                let writer = none.insert(Writer::from_writer(create(&self.path)?));
                writer.write_record(["line", "column", "reason", "row"])?;
                writer
            }
        };
        let line = fault.line.to_string();
        writer.write_record([line.as_bytes(), fault.column.as_bytes(), fault.reason.as_bytes(), row])?;
        Ok(())
    }

    /// Writes the buffered rows to the file.
    ///
    /// # Errors
    /// Definite when it can't be written.
    pub(crate) fn close(self) -> Result<()> {
        let Some(mut writer) = self.writer else { return Ok(()) };
        writer.flush().map_err(|e| unwritable(&self.path, e))
    }
}

fn unwritable(path: &Path, error: std::io::Error) -> Error {
    Error::new(Code::FileAccess, format!("cannot write the rejected rows to {}", path.display()))
        .with_source(error)
        .with_remedy("name a folder that this user may write to with --rejects (updater.rejects)")
}
/// Rows of a file may be secret, so only the owner and the group may read the rejects. Does not follow a symbolic link.
fn create(path: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o640).custom_flags(libc::O_NOFOLLOW).open(path)
}
