//! `time_track/last_read_timestamp.json`: shows the progress to a person, whose edit requests a replay.
//!
//! The authoritative position is in Kafka ([`Progress`](model::position::Progress)); this file shows it, and a person edits it to request a
//! replay. Invariant: the program writes an identity for the request into the file before carrying it out, and commits
//! the identity with the new epoch, so a crash in between neither loses the request nor carries it out twice.
//!
//! The file is replaced by rename after fsync, and the folder is locked while a producer runs.

mod content;
mod decision;

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fs2::FileExt;
use model::error::{Code, Error, Result};
use runtime::failpoint;
use runtime::step::ProducerStep;

pub use content::{Request, State, Written, parse};
pub use decision::{Start, decide, restored};

/// Name of the file within the folder.
pub const FILE: &str = "last_read_timestamp.json";

/// Maximum bytes of the file: far above the GTID set of any server.
const LONGEST: u64 = 16 * 1024 * 1024;

/// The folder with the checkpoint file, locked against a second producer.
#[derive(Debug)]
pub struct CheckpointFile {
    path: PathBuf,
    _lock: File,
}

impl CheckpointFile {
    /// Creates the folder if need be and locks it.
    ///
    /// # Errors
    /// Definite when another producer holds the lock (it is named) or the folder is not writable.
    pub fn lock(folder: &Path) -> Result<Self> {
        let unusable = |path: &Path, e: &std::io::Error| {
            Error::new(Code::FileAccess, format!("{}: {e}", path.display()))
                .with_remedy("producer.time_track must name a folder that this user may write to")
        };
        fs::create_dir_all(folder).map_err(|e| unusable(folder, &e))?;
        require_replaceable(&folder.join(FILE))?;
        let lock_path = folder.join(".lock");
        let mut lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&lock_path)
            .map_err(|e| unusable(&lock_path, &e))?;
        if let Err(e) = lock_patiently(&lock) {
            if e.kind() != fs2::lock_contended_error().kind() {
                return Err(unusable(&lock_path, &e));
            }
            let mut holder = String::new();
            lock.read_to_string(&mut holder).map_err(|e| unusable(&lock_path, &e))?;
            return Err(Error::new(
                Code::AnotherProducer,
                format!("{}: a producer is at work here ({})", folder.display(), holder.trim()),
            )
            .with_remedy("stop it first, or give this one its own producer.time_track and kafka.transactional_id"));
        }
        let host = fs::read_to_string("/etc/hostname").unwrap_or_default();
        let holder = format!("process {} on {}\n", std::process::id(), host.trim());
        lock.set_len(0).and_then(|()| lock.write_all(holder.as_bytes())).map_err(|e| unusable(&lock_path, &e))?;
        Ok(Self { path: folder.join(FILE), _lock: lock })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The meaning of this text of the file; a missing file requests a snapshot.
    ///
    /// # Errors
    /// See [`parse`].
    pub fn state(&self, text: Option<&str>) -> Result<State> {
        match text {
            None => Ok(State::Asked(Request { from: None, id: None })),
            Some(text) => parse(text, &self.path),
        }
    }

    /// The file's text, see [`text`].
    ///
    /// # Errors
    /// As [`text`].
    pub fn text(&self) -> Result<Option<String>> {
        text(&self.path)
    }

    /// Replaces the file durably if its text is still `seen`; returns false when somebody has edited it meanwhile.
    ///
    /// # Errors
    /// Definite, with the file and the reason; the old file then stays unchanged.
    pub fn replace(&self, seen: Option<&str>, text: &str) -> Result<bool> {
        replace(&self.path, text, || Ok(self.text()?.as_deref() == seen))
    }

    /// Makes sure that the request has an identity in the file before it is carried out. Returns the request with it,
    /// or `None` when somebody has edited the file since it was `seen`.
    ///
    /// # Errors
    /// See [`CheckpointFile::replace`].
    pub fn identify(&self, mut request: Request, seen: Option<&str>) -> Result<Option<Request>> {
        if request.id.is_none() {
            request.id = Some(format!("{} {}", request.prefix(), uuid::Uuid::new_v4()));
        }
        Ok(self.replace(seen, &request.text())?.then_some(request))
    }
}

/// The text of the checkpoint file at `path`; `None` when its folder exists but the file does not.
///
/// # Errors
/// Definite when it can't be read, is no regular file or has more than 16 MiB.
pub fn text(path: &Path) -> Result<Option<String>> {
    let failed = |reason: String| {
        Error::new(Code::FileAccess, format!("{}: {reason}", path.display()))
            .with_remedy("make it a file that this user may read, in a folder that this user may write to")
    };
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(e) if e.kind() == ErrorKind::NotFound && path.parent().is_some_and(Path::is_dir) => return Ok(None),
        Err(e) => return Err(failed(e.to_string())),
    };
    // Opening a pipe would wait for a writer.
    if !found.is_file() {
        return Err(failed("not a regular file".to_owned()));
    }
    let file = File::open(path).map_err(|e| failed(e.to_string()))?;
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(|e| failed(e.to_string()))?;
    if bytes.len() as u64 > LONGEST {
        return Err(failed(format!("it has more than {LONGEST} bytes, a fixed limit")));
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Replaces a file durably: temporary file, fsync, rename, fsync of the folder. A lock on the folder excludes other
/// programs that do the same. `still` is called directly before the rename; if it returns false, so does this function.
///
/// # Errors
/// Definite, with the file and the reason.
pub fn replace(path: &Path, text: &str, still: impl FnOnce() -> Result<bool>) -> Result<bool> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let temporary = path.with_extension("json.tmp");
    let mut wanted = Ok(true);
    let write = || -> std::io::Result<()> {
        let folder = File::open(folder)?;
        lock(&folder)?;
        match fs::remove_file(&temporary) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        // A new file: neither a link is followed nor a pipe opened that somebody has put there.
        let mut file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        wanted = still();
        if !matches!(wanted, Ok(true)) {
            return fs::remove_file(&temporary);
        }
        failpoint::at(ProducerStep::FileSynced);
        fs::rename(&temporary, path)?;
        failpoint::at(ProducerStep::FileRenamed);
        folder.sync_all()
    };
    write().map_err(|e| {
        // The temporary file of a failed rename is useless.
        drop(fs::remove_file(&temporary));
        if e.kind() == ErrorKind::ResourceBusy {
            return mounted_alone(path);
        }
        Error::new(Code::FileAccess, format!("cannot write {}: {e}", path.display()))
            .with_remedy("make room and let this user write to the folder; the position itself is safe in Kafka")
    })?;
    wanted
}

/// Locks a producer's file; a look at the lock ([`holder`]) has it for an instant.
fn lock_patiently(lock: &File) -> std::io::Result<()> {
    const PATIENCE: Duration = Duration::from_millis(200);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match lock.try_lock_exclusive() {
            Err(e) if e.kind() == fs2::lock_contended_error().kind() && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            locked => return locked,
        }
    }
}

/// Who holds the lock of the folder, as the holder has written it; `None` when nobody does. Changes nothing.
///
/// # Errors
/// Definite when the lock can't be read.
pub fn holder(folder: &Path) -> Result<Option<String>> {
    let path = folder.join(".lock");
    let unreadable = |e: std::io::Error| Error::new(Code::FileAccess, format!("{}: {e}", path.display()));
    let mut lock = match File::open(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.map_err(unreadable)?,
    };
    match FileExt::try_lock_shared(&lock) {
        Ok(()) => Ok(None),
        Err(e) if e.kind() == fs2::lock_contended_error().kind() => {
            let mut text = String::new();
            lock.read_to_string(&mut text).map_err(unreadable)?;
            Ok(Some(text.trim().to_owned()))
        }
        Err(e) => Err(unreadable(e)),
    }
}

/// Locks the folder, for which another program may have to finish first.
fn lock(folder: &File) -> std::io::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match folder.try_lock_exclusive() {
            Err(e) if e.kind() == fs2::lock_contended_error().kind() && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(e) if e.kind() == fs2::lock_contended_error().kind() => {
                return Err(std::io::Error::other("another program has locked its folder for 2 s"));
            }
            locked => return locked,
        }
    }
}

/// Whether the file can be replaced: not when it is a separate mount, as a container's volume of one file is.
///
/// # Errors
/// Definite when it is.
pub fn require_replaceable(path: &Path) -> Result<()> {
    // Where the system has no such list, the rename fails with its reason.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let Ok(real) = fs::canonicalize(path) else { return Ok(()) };
    if is_mount_point(&mounts, &real.to_string_lossy()) { Err(mounted_alone(path)) } else { Ok(()) }
}

/// Whether the list of mounts (proc(5), `/proc/PID/mountinfo`) has this path as a mount point: the fifth field, in which a
/// space is `\040`.
fn is_mount_point(mounts: &str, path: &str) -> bool {
    let escaped = path.replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011").replace('\n', "\\012");
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(escaped.as_str()))
}

fn mounted_alone(path: &Path) -> Error {
    Error::new(
        Code::CheckpointFileMounted,
        format!("{} is mounted as a single file, so it cannot be replaced by a rename", path.display()),
    )
    .with_remedy("mount the folder (producer.time_track), not the file; the position itself is safe in Kafka")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_of_one_file_is_seen() {
        let mounts = "22 1 8:1 / / rw - ext4 /dev/a rw\n\
                      63 22 8:1 /a /app/time\\040track/last.json rw,relatime shared:1 - ext4 /dev/a rw\n";
        assert!(is_mount_point(mounts, "/app/time track/last.json"));
        assert!(!is_mount_point(mounts, "/app/time track"));
        assert!(!is_mount_point("", "/app/time track/last.json"));
    }
}
