//! The file `.committed` beside a log: the length that the log's consumer recorded as committed at its last write.
//!
//! The log checkpoint in Kafka has the committed length, and an opening cuts off the bytes behind it. A user who may
//! write to the log checkpoints' topic could write a smaller length, and a restored topic has an older one; both would
//! cut committed lines. So nothing below the length in this file is ever cut. It is a lower bound: it is written after
//! each commit and not synced, so it may be one batch behind after a kill, more after a power failure, and missing
//! where the previous version ran.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

const NAME: &str = ".committed";
const VERSION: u32 = 1;
/// The file always has this size, so that a full disk has room for the next length.
const SIZE: usize = 64;

#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    /// Bytes.
    length: u64,
}

/// The open file.
#[derive(Debug)]
pub(crate) struct LogFloor(File);

impl LogFloor {
    /// Opens the file beside `log`, or creates it.
    ///
    /// # Errors
    /// Any error of the file system.
    pub(crate) fn open(log: &Path) -> io::Result<Self> {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path(log)).map(Self)
    }

    /// Writes the committed length.
    ///
    /// # Errors
    /// Any error of the file system.
    pub(crate) fn set(&self, length: u64) -> io::Result<()> {
        let mut text = serde_json::to_vec(&Content { version: VERSION, length })?;
        text.resize(SIZE - 1, b' ');
        text.push(b'\n');
        self.0.write_all_at(&text, 0)
    }
}

/// The length that the consumer of `log` recorded as committed; 0 when the file is missing or unreadable.
pub(crate) fn read(log: &Path) -> u64 {
    let content = std::fs::read(path(log)).ok().and_then(|text| serde_json::from_slice::<Content>(&text).ok());
    content.filter(|content| content.version == VERSION).map_or(0, |content| content.length)
}

fn path(log: &Path) -> PathBuf {
    log.with_file_name(NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back_and_is_nothing_when_it_is_torn() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let log = dir.path().join("consumer_log.json");
        assert_eq!(read(&log), 0);
        let floor = LogFloor::open(&log).expect("a new file");
        for length in [606_000, u64::MAX, 7] {
            floor.set(length).expect("room");
            assert_eq!(read(&log), length);
            assert_eq!(std::fs::metadata(dir.path().join(NAME)).expect("the file").len(), SIZE as u64);
        }
        for text in ["", "{\"version\":1,\"len", "{\"version\":2,\"length\":9}"] {
            std::fs::write(dir.path().join(NAME), text).expect("written");
            assert_eq!(read(&log), 0, "{text}");
        }
    }
}
