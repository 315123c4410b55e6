//! Keeps what `consumer accept-log` cuts off a log in a file beside it, so that a line that is cut by mistake is not
//! lost.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use model::error::{Code, Error, Result};

use crate::folder::{LOG_NAME, unwritable};

/// The bytes kept from a log.
#[derive(Debug)]
pub(crate) struct Kept {
    /// Bytes behind the length to which the log is cut.
    pub(crate) bytes: u64,
    pub(crate) path: PathBuf,
}

/// Copies the bytes of a log behind its first `length` durably into a new file beside it; `None` when there are none.
///
/// # Errors
/// Definite when the log can't be read or the file can't be written, transient when the disk is full.
pub(crate) fn keep(log: &Path, length: u64) -> Result<Option<Kept>> {
    let unreadable = |e| Error::new(Code::FileAccess, format!("cannot read {}", log.display())).with_source(e);
    let mut file = match File::open(log) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(unreadable)?,
    };
    let bytes = file.metadata().map_err(unreadable)?.len().saturating_sub(length);
    if bytes == 0 {
        return Ok(None);
    }
    let (path, mut copy) = create(log, length).map_err(|e| unwritable(log, e))?;
    let mut write = || {
        file.seek(SeekFrom::Start(length))?;
        io::copy(&mut file, &mut copy)?;
        copy.sync_all()?;
        log.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    write().map_err(|e| {
        // Half a copy is useless and occupies space on a full disk.
        drop(fs::remove_file(&path));
        unwritable(&path, e)
    })?;
    Ok(Some(Kept { bytes, path }))
}

/// Creates a new file that only its owner may read.
fn create(log: &Path, length: u64) -> io::Result<(PathBuf, File)> {
    let mut path = log.with_file_name(format!("{LOG_NAME}.cut-{length}"));
    let mut number = 1;
    loop {
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                number += 1;
                path.set_file_name(format!("{LOG_NAME}.cut-{length}-{number}"));
            }
            file => return Ok((path, file?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn each_cut_has_a_file_and_a_log_without_one_has_none() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let log = dir.path().join(LOG_NAME);
        assert!(keep(&log, 0).expect("no log").is_none());
        fs::write(&log, "one\ntwo\n").expect("written");
        assert!(keep(&log, 8).expect("nothing to keep").is_none());
        assert!(keep(&log, 9).expect("nothing to keep").is_none());
        for (name, text) in [("cut-4", "two\n"), ("cut-4-2", "two\nth"), ("cut-4-3", "two\nth")] {
            let kept = keep(&log, 4).expect("room").expect("a file");
            assert_eq!(kept.path, dir.path().join(format!("{LOG_NAME}.{name}")));
            assert_eq!(
                (kept.bytes, fs::read_to_string(&kept.path).expect("the file")),
                (text.len() as u64, text.into())
            );
            assert_eq!(fs::metadata(&kept.path).expect("the file").permissions().mode() & 0o777, 0o600);
            fs::write(&log, "one\ntwo\nth").expect("written");
        }
        assert_eq!(fs::read_to_string(dir.path().join(format!("{LOG_NAME}.cut-4"))).expect("the file"), "two\n");
    }
}
