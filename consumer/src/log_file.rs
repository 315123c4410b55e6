//! The log of one slot: lines are appended, and what no transaction committed is cut off again.
//!
//! Invariant: the first `committed` bytes are durable and are never touched again; everything behind them belongs to the
//! batch at hand. [`LogFile::append`] makes a batch durable *before* its transaction commits, so the committed length
//! never exceeds the file.
//!
//! Not here: which length is committed ([`crate::marker`]).

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use pipeline::error::{Error, Result};

use crate::slot::{SlotId, unwritable};

/// An open log, cut to its committed length.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
    committed: u64,
}

/// What is to be done with a file so that it holds exactly what is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settlement {
    Keep,
    /// Cut off so many bytes.
    Cut(u64),
    /// So many committed bytes are gone.
    Lost(u64),
}

impl Settlement {
    fn of(length: u64, committed: u64) -> Self {
        match length.checked_sub(committed) {
            Some(0) => Self::Keep,
            Some(surplus) => Self::Cut(surplus),
            None => Self::Lost(committed - length),
        }
    }
}

impl LogFile {
    /// Opens the log of `slot` and cuts off what lies behind the committed length.
    ///
    /// # Errors
    /// Definite when the file is shorter than what was committed, or can't be written to.
    pub(crate) fn open(slot: SlotId, path: &Path, committed: u64) -> Result<Self> {
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = open.map_err(|e| unwritable(path, e))?;
        let length = file.metadata().map_err(|e| unwritable(path, e))?.len();
        let mut log = Self { path: path.to_owned(), file, committed };
        match Settlement::of(length, committed) {
            Settlement::Keep => {}
            Settlement::Cut(bytes) => {
                tracing::warn!(file = %path.display(), bytes, committed, "cut off what no transaction committed");
            }
            Settlement::Lost(bytes) => return Err(shorter(slot, path, length, committed, bytes)),
        }
        log.cut_back().map_err(|e| unwritable(path, e))?;
        Ok(log)
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The committed length, bytes.
    pub(crate) fn committed(&self) -> u64 {
        self.committed
    }

    /// Appends a batch's lines behind the committed ones and makes them durable. Returns the file's new length, which
    /// counts as committed only after [`LogFile::note_committed`].
    ///
    /// # Errors
    /// Whatever the file system says, e.g. that the disk is full; the batch must then be cut off.
    pub(crate) fn append(&mut self, lines: &[u8]) -> io::Result<u64> {
        if !lines.is_empty() {
            self.file.write_all(lines)?;
            self.file.sync_data()?;
        }
        Ok(self.committed + lines.len() as u64)
    }

    /// Notes that a transaction committed this length.
    pub(crate) fn note_committed(&mut self, length: u64) {
        self.committed = length;
    }

    /// Cuts off what is not committed, durably.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub(crate) fn cut_back(&mut self) -> io::Result<()> {
        self.file.set_len(self.committed)?;
        self.file.sync_all()?;
        self.file.seek(SeekFrom::Start(self.committed)).map(drop)
    }
}

/// The length of the whole lines of a log: what lies behind its last newline is torn. A missing file has none.
///
/// # Errors
/// Whatever the file system says.
pub(crate) fn whole_lines(path: &Path) -> io::Result<u64> {
    let mut file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    let mut end = file.metadata()?.len();
    let mut block = vec![0; 64 * 1024];
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let part = &mut block[..(end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(part)?;
        if let Some(newline) = part.iter().rposition(|b| *b == b'\n') {
            return Ok(start + newline as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

fn shorter(slot: SlotId, path: &Path, length: u64, committed: u64, lost: u64) -> Error {
    Error::definite(format!(
        "{} has {length} bytes, but {committed} were committed: {lost} bytes are gone",
        path.display()
    ))
    .with_remedy(format!(
        "put the file back as it was (is this the folder that its consumers used before? consumer.logs); or, to go on without the lines that are gone, run: consumer accept-log {slot}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: SlotId = SlotId(1);

    #[test]
    fn what_lies_behind_the_committed_length_goes() {
        for (length, committed, want) in [
            (0, 0, Settlement::Keep),
            (10, 10, Settlement::Keep),
            (13, 10, Settlement::Cut(3)),
            (7, 10, Settlement::Lost(3)),
        ] {
            assert_eq!(Settlement::of(length, committed), want, "{length} {committed}");
        }
    }

    #[test]
    fn a_batch_counts_only_after_its_commit() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("log");
        let mut log = LogFile::open(SLOT, &path, 0).expect("a new file");
        let length = log.append(b"one\n").expect("room");
        log.note_committed(length);
        log.append(b"two\n").expect("room");
        log.cut_back().expect("cut");
        assert_eq!(std::fs::read(&path).expect("the file"), b"one\n");
        log.append(b"three\n").expect("room");
        assert_eq!(std::fs::read(&path).expect("the file"), b"one\nthree\n");
        drop(log);
        let log = LogFile::open(SLOT, &path, 4).expect("the file");
        assert_eq!((log.committed(), std::fs::read(&path).expect("the file")), (4, b"one\n".to_vec()));
    }

    #[test]
    fn a_file_that_lost_committed_lines_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("log");
        std::fs::write(&path, b"one\n").expect("written");
        let error = LogFile::open(SLOT, &path, 9).expect_err("too short");
        let text = format!("{error:?}");
        for part in ["log has 4 bytes, but 9 were committed: 5 bytes are gone", "consumer accept-log consumer_1"] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(std::fs::read(&path).expect("the file"), b"one\n");
    }

    #[test]
    fn whole_lines_end_with_the_last_newline() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("log");
        assert_eq!(whole_lines(&path).expect("no file"), 0);
        let long = [b"a\n".as_slice(), &vec![b'x'; 100_000]].concat();
        for (text, want) in [(b"".as_slice(), 0), (b"torn", 0), (b"a\nb\n", 4), (b"a\nb", 2), (&long, 2)] {
            std::fs::write(&path, text).expect("written");
            assert_eq!(whole_lines(&path).expect("the file"), want);
        }
    }
}
