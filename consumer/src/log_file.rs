//! The log of one slot: appends lines, and cuts off lines that no transaction committed.
//!
//! Invariant: the first `committed` bytes are durable and are never changed again; everything behind them belongs to
//! the current batch. An opening cuts off at most that batch: [`crate::log_floor`] says which bytes must stay.
//! A batch is durable *before* its transaction commits ([`LogFile::sync`]), so the committed length never exceeds the
//! file.
//!
//! People delete, rotate and edit files. Before each batch and while idle, [`LogFile::check`] checks that the path
//! still leads to this file and that the file still ends where this process left it: lines written into a file without
//! a name would be lost with the process.
//!
//! Not here: which length is committed ([`crate::log_checkpoint`]).

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::error::{Code, Error, Result};
use runtime::failpoint;
use runtime::step::ConsumerStep;

use crate::folder::unwritable;
use crate::log_floor::{self, LogFloor};
use crate::opening::Settlement;
use crate::slot_name::SlotId;

/// An open log, cut to its committed length.
#[derive(Debug)]
pub(crate) struct LogFile {
    slot: SlotId,
    path: PathBuf,
    file: Arc<File>,
    committed: u64,
    floor: LogFloor,
}

impl LogFile {
    /// Opens the log of `slot` and cuts off what lies behind the committed length.
    ///
    /// # Errors
    /// Definite when the file is shorter than its committed length, when more than an uncommitted batch would be cut
    /// off, or when it can't be written to.
    pub(crate) fn open(slot: SlotId, path: &Path, committed: u64) -> Result<Self> {
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = open.map_err(|e| unwritable(path, e))?;
        let floor = LogFloor::open(path).map_err(|e| unwritable(path, e))?;
        let mut log = Self { slot, path: path.to_owned(), file: Arc::new(file), committed, floor };
        require_floor(slot, path, log.length()?, committed)?;
        log.recover()?;
        log.cut_back().map_err(|e| unwritable(path, e))?;
        log.floor.set(committed).map_err(|e| unwritable(path, e))?;
        Ok(log)
    }

    /// Checks that the path still leads to this file, and cuts off bytes that somebody else appended.
    ///
    /// # Errors
    /// Definite when the path leads to another file or to none, or when committed lines are missing.
    pub(crate) fn check(&mut self) -> Result<()> {
        if self.length()? == self.committed { Ok(()) } else { self.recover() }
    }

    /// The length of the file, if the path still leads to it.
    fn length(&self) -> Result<u64> {
        let own = self.file.metadata().map_err(|e| unwritable(&self.path, e))?;
        match std::fs::metadata(&self.path) {
            Ok(there) if (there.dev(), there.ino()) == (own.dev(), own.ino()) => {}
            Ok(_) => return Err(self.replaced("there is another file in its place")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(self.replaced("there is no such file any more"));
            }
            Err(e) => return Err(unwritable(&self.path, e)),
        }
        Ok(own.len())
    }

    /// Rolls the current batch back: cuts off the uncommitted bytes.
    ///
    /// # Errors
    /// As [`LogFile::check`]: missing committed lines must not become a gap in the file.
    pub(crate) fn roll_back(&mut self) -> Result<()> {
        let length = self.length()?;
        if let Settlement::Lost(bytes) = Settlement::of(length, self.committed) {
            return Err(shorter(self.slot, &self.path, length, self.committed, bytes));
        }
        self.cut_back().map_err(|e| unwritable(&self.path, e))
    }

    /// Cuts off the bytes behind the committed length.
    fn recover(&mut self) -> Result<()> {
        let length = self.file.metadata().map_err(|e| unwritable(&self.path, e))?.len();
        let settlement = Settlement::of(length, self.committed);
        if let Settlement::Lost(bytes) = settlement {
            return Err(shorter(self.slot, &self.path, length, self.committed, bytes));
        }
        if !ends_a_line(&self.file, self.committed).map_err(|e| unwritable(&self.path, e))? {
            return Err(edited(self.slot, &self.path, self.committed));
        }
        if let Settlement::Cut(bytes) = settlement {
            let (file, committed) = (self.path.display(), self.committed);
            tracing::warn!(%file, bytes, committed, "cut off what no transaction committed");
            self.cut_back().map_err(|e| unwritable(&self.path, e))?;
        }
        Ok(())
    }

    fn replaced(&self, what: &str) -> Error {
        Error::new(
            Code::LogTruncated,
            format!("{}: {what}, and {} bytes of it were committed", self.path.display(), self.committed),
        )
        .with_remedy(ways_out(self.slot))
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The committed length, bytes.
    pub(crate) fn committed(&self) -> u64 {
        self.committed
    }

    /// Appends a batch's lines behind the committed ones; [`LogFile::sync`] makes them durable. Returns the file's new
    /// length, which counts as committed only after [`LogFile::note_committed`].
    ///
    /// # Errors
    /// Any error of the file system, e.g. a full disk; the caller must then roll the batch back.
    pub(crate) fn append(&mut self, lines: &[u8]) -> io::Result<u64> {
        if !lines.is_empty() {
            let (first, second) = failpoint::halves(lines);
            let mut file = &*self.file;
            file.write_all(first)?;
            failpoint::at(ConsumerStep::Appending);
            file.write_all(second)?;
        }
        Ok(self.committed + lines.len() as u64)
    }

    /// Makes what is appended durable, in a thread of its caller's choice.
    pub(crate) fn sync(&self) -> impl FnOnce() -> io::Result<()> + use<> {
        let file = Arc::clone(&self.file);
        move || file.sync_data()
    }

    /// See [`tail`], of the file as it is now.
    ///
    /// # Errors
    /// Any error of the file system.
    pub(crate) fn tail(&self, length: u64) -> io::Result<u64> {
        tail_of(&self.file, length)
    }

    /// Notes that a transaction committed this length.
    pub(crate) fn note_committed(&mut self, length: u64) {
        self.committed = length;
        if let Err(error) = self.floor.set(length) {
            tracing::warn!(%error, file = %self.path.display(), "cannot note beside the log how much of it is committed");
        }
    }

    /// Cuts off the uncommitted bytes, durably. The committed lines must exist.
    fn cut_back(&mut self) -> io::Result<()> {
        self.file.set_len(self.committed)?;
        self.file.sync_all()?;
        (&*self.file).seek(SeekFrom::Start(self.committed)).map(drop)
    }
}

/// Whether a line ends at the committed length; after an edit that changed the length it seldom does.
fn ends_a_line(file: &File, committed: u64) -> io::Result<bool> {
    let Some(last) = committed.checked_sub(1) else { return Ok(true) };
    let mut byte = [0];
    file.read_exact_at(&mut byte, last)?;
    Ok(byte == *b"\n")
}

/// Checks that a log still has its first `committed` bytes, by its length, the end of the last committed line and the
/// hash of the last bytes; changes nothing. A missing file has no bytes.
///
/// # Errors
/// Definite when committed bytes are missing or changed, or when the file can't be read.
pub(crate) fn examine(slot: SlotId, path: &Path, committed: u64, tail: Option<u64>) -> Result<()> {
    let unreadable = |e| Error::new(Code::FileAccess, format!("cannot read {}", path.display())).with_source(e);
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound && committed == 0 => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(shorter(slot, path, 0, committed, committed)),
        file => file.map_err(unreadable)?,
    };
    let length = file.metadata().map_err(unreadable)?.len();
    if let Settlement::Lost(bytes) = Settlement::of(length, committed) {
        return Err(shorter(slot, path, length, committed, bytes));
    }
    require_floor(slot, path, length, committed)?;
    if !ends_a_line(&file, committed).map_err(unreadable)? {
        return Err(edited(slot, path, committed));
    }
    match tail {
        Some(tail) if tail_of(&file, committed).map_err(unreadable)? != tail => Err(other_lines(slot, path, committed)),
        _ => Ok(()),
    }
}

/// Refuses a committed length that would cut lines which the log's consumer recorded as committed.
fn require_floor(slot: SlotId, path: &Path, length: u64, committed: u64) -> Result<()> {
    let known = log_floor::read(path).min(length);
    if committed >= known {
        return Ok(());
    }
    Err(Error::new(Code::LogCheckpointDiffers, format!(
        "the log checkpoint of {slot} in Kafka says that {committed} bytes of {} are committed, but its consumer committed {known}: {} bytes \
         of committed lines would be cut off",
        path.display(),
        known - committed
    ))
    .with_remedy(format!(
        "let nobody but the consumers write to the log checkpoints' topic (<kafka.topic>.slots), and to continue with the lines that the log \
         has, run: consumer accept-log {slot}; or, where Kafka was restored from an older state with the group's offsets, move the \
         bytes of the file behind {committed} into another file: their records are read again"
    )))
}

/// The part of the bytes that the log's consumer recorded as committed which still exists; 0 when no line ends there
/// any more.
///
/// # Errors
/// Any error of the file system.
pub(crate) fn known(path: &Path, file: &File) -> io::Result<u64> {
    let known = log_floor::read(path);
    Ok(if known <= file.metadata()?.len() && ends_a_line(file, known)? { known } else { 0 })
}

/// Records the committed length of a log that no process has open.
///
/// # Errors
/// Definite when it can't be written.
pub(crate) fn note_accepted(path: &Path, length: u64) -> Result<()> {
    LogFloor::open(path).and_then(|floor| floor.set(length)).map_err(|e| unwritable(path, e))
}

/// A hash (FNV-1a) of the last 256 of the first `length` bytes of a log. Each line ends with partition and offset of
/// its record, so logs of different records have different ones.
///
/// # Errors
/// Any error of the file system; a missing file has no bytes.
pub(crate) fn tail(path: &Path, length: u64) -> io::Result<u64> {
    match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound && length == 0 => Ok(hash(&[])),
        file => tail_of(&file?, length),
    }
}

fn tail_of(file: &File, length: u64) -> io::Result<u64> {
    let mut bytes = [0; 256];
    let bytes = &mut bytes[..length.min(256) as usize];
    file.read_exact_at(bytes, length - bytes.len() as u64)?;
    Ok(hash(bytes))
}

fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// The end of the last line that ends within the first `end` bytes of a log; 0 when there is none.
///
/// # Errors
/// Any error of the file system.
pub(crate) fn whole_lines(file: &File, mut end: u64) -> io::Result<u64> {
    let mut block = [0; 4096];
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let part = &mut block[..(end - start) as usize];
        file.read_exact_at(part, start)?;
        if let Some(newline) = part.iter().rposition(|b| *b == b'\n') {
            return Ok(start + newline as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

fn shorter(slot: SlotId, path: &Path, length: u64, committed: u64, lost: u64) -> Error {
    Error::new(
        Code::LogTruncated,
        format!("{} has {length} bytes, but {committed} were committed: {lost} bytes are gone", path.display()),
    )
    .with_remedy(ways_out(slot))
}

fn edited(slot: SlotId, path: &Path, committed: u64) -> Error {
    Error::new(
        Code::LogTruncated,
        format!("{} was edited: no line ends after the {committed} bytes that were committed", path.display()),
    )
    .with_remedy(ways_out(slot))
}

fn other_lines(slot: SlotId, path: &Path, committed: u64) -> Error {
    Error::new(
        Code::LogTruncated,
        format!("{} has other lines than those of the {committed} bytes that were committed", path.display()),
    )
    .with_remedy(ways_out(slot))
}

fn ways_out(slot: SlotId) -> String {
    format!(
        "put the file back as it was (is this the folder that its consumers used before? consumer.logs); or, to continue without the lines that are gone, run: consumer accept-log {slot}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: SlotId = SlotId(1);

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
    fn what_people_do_to_a_file_in_use_is_noticed() {
        use std::fs;
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (path, aside) = (dir.path().join("log"), dir.path().join("aside"));
        let mut log = LogFile::open(SLOT, &path, 0).expect("a new file");
        let length = log.append(b"one\ntwo\n").expect("room");
        log.note_committed(length);
        log.check().expect("untouched");
        let mut refused = |text: &str| {
            let error = format!("{:?}", log.check().expect_err(text));
            assert!(error.contains(text) && error.contains("consumer accept-log consumer_1"), "{error}");
        };
        fs::rename(&path, &aside).expect("renamed");
        refused("log: there is no such file any more, and 8 bytes of it were committed");
        fs::write(&path, b"one\ntwo\n").expect("written");
        refused("log: there is another file in its place");
        fs::rename(&aside, &path).expect("renamed");
        fs::write(&path, b"one\n").expect("written");
        refused("log has 4 bytes, but 8 were committed: 4 bytes are gone");
        fs::write(&path, b"one more\ntwo\n").expect("written");
        refused("log was edited: no line ends after the 8 bytes that were committed");
        assert_eq!(fs::read(&path).expect("the file"), b"one more\ntwo\n");
        fs::write(&path, b"one\ntwo\nthree").expect("written");
        log.check().expect("only what nobody committed was added");
        log.append(b"four\n").expect("room");
        assert_eq!(fs::read(&path).expect("the file"), b"one\ntwo\nfour\n");
    }

    #[test]
    fn a_batch_that_is_given_up_leaves_no_gap_in_a_file_that_was_cut() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("log");
        let mut log = LogFile::open(SLOT, &path, 0).expect("a new file");
        let length = log.append(b"one\ntwo\n").expect("room");
        log.note_committed(length);
        log.append(b"three\n").expect("room");
        log.roll_back().expect("whole");
        assert_eq!(std::fs::read(&path).expect("the file"), b"one\ntwo\n");
        std::fs::write(&path, b"one\n").expect("written");
        let error = log.roll_back().expect_err("cut");
        assert!(error.to_string().contains("4 bytes are gone"), "{error}");
        assert_eq!(std::fs::read(&path).expect("the file"), b"one\n");
    }

    #[test]
    fn an_edited_file_is_refused_at_the_start_and_left_alone() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("log");
        std::fs::write(&path, b"one more\ntwo\n").expect("written");
        let error = LogFile::open(SLOT, &path, 8).expect_err("edited");
        assert!(error.to_string().contains("log was edited"), "{error}");
        assert_eq!(std::fs::read(&path).expect("the file"), b"one more\ntwo\n");
    }

    #[test]
    fn a_log_is_told_from_another_of_the_same_length() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("log");
        assert!(examine(SLOT, &path, 0, Some(tail(&path, 0).expect("no file"))).is_ok());
        assert!(examine(SLOT, &path, 4, None).expect_err("no file").to_string().contains("4 bytes are gone"));
        let long = [vec![b'x'; 300], b"\none\n".to_vec()].concat();
        std::fs::write(&path, &long).expect("written");
        let length = long.len() as u64;
        let known = tail(&path, length).expect("the file");
        std::fs::write(&path, [&long[..], b"more"].concat()).expect("written");
        assert!(examine(SLOT, &path, length, Some(known)).is_ok());
        std::fs::write(&path, [vec![b'x'; 300], b"\ntwo\n".to_vec()].concat()).expect("written");
        let text = format!("{:?}", examine(SLOT, &path, length, Some(known)).expect_err("another"));
        assert!(text.contains("has other lines than those of the 305 bytes"), "{text}");
        assert!(text.contains("consumer accept-log consumer_1"), "{text}");
        assert!(examine(SLOT, &path, length, None).is_ok());
    }

    #[test]
    fn what_its_consumer_knew_as_committed_is_never_cut() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("log");
        let text = b"one\ntwo\nthree\n".as_slice();
        let mut log = LogFile::open(SLOT, &path, 0).expect("a new file");
        let length = log.append(b"one\ntwo\n").expect("room");
        log.note_committed(length);
        log.append(b"three\n").expect("room");
        drop(log);
        for committed in [0, 4] {
            let errors = [
                LogFile::open(SLOT, &path, committed).map(drop).expect_err("too little"),
                examine(SLOT, &path, committed, None).expect_err("too little"),
            ];
            for error in errors {
                let (text, want) = (format!("{error:?}"), format!("{} bytes of committed lines", 8 - committed));
                assert!(text.contains(&want) && text.contains("consumer accept-log consumer_1"), "{text}");
            }
            assert_eq!(std::fs::read(&path).expect("the file"), text);
        }
        assert_eq!(known(&path, &File::open(&path).expect("the file")).expect("its length"), 8);
        // The second remedy: remove the bytes behind the log checkpoint's length.
        std::fs::write(&path, b"one\n").expect("written");
        assert_eq!(known(&path, &File::open(&path).expect("the file")).expect("its length"), 0);
        assert_eq!(LogFile::open(SLOT, &path, 4).expect("the log checkpoint's length").committed(), 4);
        std::fs::write(&path, text).expect("written");
        assert_eq!(LogFile::open(SLOT, &path, 8).expect("the uncommitted line is cut").committed(), 8);
        assert_eq!(std::fs::read(&path).expect("the file"), b"one\ntwo\n");
    }

    #[test]
    fn whole_lines_end_with_the_last_newline() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("log");
        let long = [b"a\n".as_slice(), &vec![b'x'; 100_000]].concat();
        for (text, want) in [(b"".as_slice(), 0), (b"torn", 0), (b"a\nb\n", 4), (b"a\nb", 2), (&long, 2)] {
            std::fs::write(&path, text).expect("written");
            let file = File::open(&path).expect("the file");
            assert_eq!(whole_lines(&file, text.len() as u64).expect("the file"), want);
        }
    }
}
