//! The top-level folders that the programs write to, `consumer_logs/` and `time_track/`, and the owner of the files in
//! them.
//!
//! A demo starts with empty folders, but never deletes files that it did not write: during a run, a list of its files
//! with lengths and times is kept under `target/`. A file that is not on the list, or that has changed since, belongs
//! to the user.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use testbed::cargo;
use testbed::servers::{holder, lock};

const FOLDERS: [&str; 2] = ["consumer_logs", "time_track"];
const LISTED: usize = 5;

/// The folders and the list of files that this checkout's runs wrote.
#[derive(Debug)]
pub(crate) struct Outputs {
    root: PathBuf,
    list: PathBuf,
    /// The folder of the lock.
    held: PathBuf,
}

impl Default for Outputs {
    fn default() -> Self {
        Self { root: cargo::root(), list: cargo::target().join("outputs.json"), held: cargo::target().join("outputs") }
    }
}

impl Outputs {
    /// The folders of programs that are started in `work`, with the list and the lock beside them unless that is the
    /// checkout.
    pub(crate) fn of(work: &Path) -> Self {
        if cargo::root().canonicalize().is_ok_and(|root| root == work) {
            return Self::default();
        }
        Self { root: work.to_owned(), list: work.join("outputs.json"), held: work.join("outputs") }
    }

    /// Locks the folders against other runs until the lock is dropped.
    ///
    /// # Errors
    /// When another run is writing to them.
    pub(crate) fn hold(&self) -> Result<File> {
        fs::create_dir_all(&self.held).with_context(|| format!("cannot create {}", self.held.display()))?;
        lock(&self.held)?.with_context(|| {
            format!(
                "{} is writing to consumer_logs/ and time_track/\n  \
                 what to do: wait for its end, or stop it by Ctrl-C in its terminal or by `cargo xtask down`",
                holder(&self.held)
            )
        })
    }

    /// Whether a new run may empty the folders.
    ///
    /// # Errors
    /// When there are files of the user, and `fresh` is not set.
    pub(crate) fn check(&self, fresh: bool) -> Result<()> {
        let foreign = self.foreign()?;
        if !foreign.is_empty() && !fresh {
            let shown = foreign.iter().take(LISTED).cloned().collect::<Vec<_>>().join(", ");
            let more =
                if foreign.len() > LISTED { format!(" and {} more", foreign.len() - LISTED) } else { String::new() };
            bail!(
                "the output folders hold files that no demo wrote: {shown}{more}\n  \
                 what to do: move them away, or let `--fresh` delete everything in consumer_logs/ and time_track/"
            );
        }
        Ok(())
    }

    /// Empties the folders for a new run; with `fresh` it also deletes the user's files.
    ///
    /// # Errors
    /// As [`Outputs::check`].
    pub(crate) fn empty(&self, fresh: bool) -> Result<()> {
        self.check(fresh)?;
        for folder in FOLDERS {
            let folder = self.root.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                if path.ends_with(".gitkeep") {
                    continue;
                }
                let removed = if path.is_dir() && !path.is_symlink() {
                    fs::remove_dir_all(&path)
                } else {
                    fs::remove_file(&path)
                };
                removed.with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        self.claim("")
    }

    /// Lists the present files as written by the run on the stack `owner`.
    ///
    /// # Errors
    /// When the list cannot be written.
    pub(crate) fn claim(&self, owner: &str) -> Result<()> {
        let text = json!({ "owner": owner, "files": self.files()? }).to_string();
        fs::write(&self.list, text).with_context(|| format!("cannot write {}", self.list.display()))
    }

    /// The stack whose run wrote the files last.
    pub(crate) fn owner(&self) -> Option<String> {
        self.listed().get("owner")?.as_str().filter(|owner| !owner.is_empty()).map(str::to_owned)
    }

    /// The files that the runs did not write.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub(crate) fn foreign(&self) -> Result<Vec<String>> {
        let listed = self.listed();
        let is_ours = |path: &str, mark: &str| listed["files"][path].as_str() == Some(mark);
        let files = self.files()?.into_iter();
        Ok(files.filter(|(path, mark)| !is_ours(path, mark)).map(|(path, _)| path).collect())
    }

    fn listed(&self) -> Value {
        let text = fs::read_to_string(&self.list).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Each file with its length and time of change.
    fn files(&self) -> Result<BTreeMap<String, String>> {
        let mut files = BTreeMap::new();
        for folder in FOLDERS {
            self.add_files(&self.root.join(folder), &mut files)?;
        }
        Ok(files)
    }

    fn add_files(&self, folder: &Path, files: &mut BTreeMap<String, String>) -> Result<()> {
        if !folder.is_dir() {
            return Ok(());
        }
        for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                self.add_files(&path, files)?;
            } else if entry.file_name() != ".gitkeep" {
                let Ok(metadata) = entry.metadata() else { continue };
                let changed = metadata.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                let name = path.strip_prefix(&self.root).unwrap_or(&path).display().to_string();
                files.insert(name, format!("{} bytes at {}", metadata.len(), changed.as_nanos()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs(name: &str) -> Outputs {
        let root = std::env::temp_dir().join(format!("xtask-outputs-{name}-{}", std::process::id()));
        fs::create_dir_all(root.join("time_track")).unwrap();
        fs::write(root.join("time_track/.gitkeep"), "").unwrap();
        Outputs { list: root.join("list.json"), held: root.join("held"), root }
    }

    #[test]
    fn one_run_at_a_time() {
        let outputs = outputs("held");
        let held = outputs.hold().unwrap();
        let error = outputs.hold().unwrap_err().to_string();
        let program = std::env::current_exe().unwrap();
        let name = program.file_name().unwrap().to_str().unwrap();
        assert!(error.starts_with(&format!("process {} ({name}", std::process::id())), "{error}");
        drop(held);
        drop(outputs.hold().unwrap());
        fs::remove_dir_all(&outputs.root).unwrap();
    }

    #[test]
    fn only_what_a_run_wrote_is_deleted() {
        let outputs = outputs("own");
        let log = outputs.root.join("consumer_logs/consumer_1/consumer_log.json");
        outputs.empty(false).unwrap();
        fs::create_dir_all(log.parent().unwrap()).unwrap();
        fs::write(&log, "one\n").unwrap();
        let error = outputs.empty(false).unwrap_err().to_string();
        assert!(error.contains("consumer_logs/consumer_1/consumer_log.json") && error.contains("--fresh"), "{error}");

        outputs.claim("stack").unwrap();
        assert_eq!(outputs.owner().as_deref(), Some("stack"));
        outputs.empty(false).unwrap();
        assert!(!log.exists() && outputs.root.join("time_track/.gitkeep").exists());

        fs::create_dir_all(log.parent().unwrap()).unwrap();
        fs::write(&log, "one\n").unwrap();
        outputs.claim("stack").unwrap();
        fs::write(&log, "one\nand a line by somebody else\n").unwrap();
        assert!(outputs.empty(false).is_err());
        outputs.empty(true).unwrap();
        assert!(!log.exists());
        fs::remove_dir_all(&outputs.root).unwrap();
    }
}
