//! Lists the files of the data folder: all of them, or those that are new or have changed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use model::error::{Code, Error, Result};

use crate::rejects;

/// Modification time and size of a file.
type Stamp = (Option<SystemTime>, u64);

/// Remembers which files were handed out, and in which state.
pub(crate) struct Folder {
    path: PathBuf,
    /// The last seen state, and whether the file was handed out in it.
    seen: HashMap<PathBuf, (Stamp, bool)>,
}

impl Folder {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, seen: HashMap::new() }
    }

    /// All files, in the order of their names.
    ///
    /// # Errors
    /// Definite when the folder can't be read.
    pub(crate) fn all(&mut self) -> Result<Vec<PathBuf>> {
        let files = csv_files(&self.path)?;
        self.seen = files.iter().map(|(path, stamp)| (path.clone(), (*stamp, true))).collect();
        Ok(files.into_iter().map(|(path, _)| path).collect())
    }

    /// The files that are new or changed, once they were the same at two looks: a file that is still being written is
    /// not ready.
    ///
    /// # Errors
    /// As [`Folder::all`].
    pub(crate) fn changed(&mut self) -> Result<Vec<PathBuf>> {
        let mut ready = Vec::new();
        let mut seen = HashMap::new();
        for (path, stamp) in csv_files(&self.path)? {
            let handed_out = match self.seen.get(&path) {
                Some((earlier, true)) if *earlier == stamp => true,
                Some((earlier, false)) if *earlier == stamp => {
                    ready.push(path.clone());
                    true
                }
                _ => false,
            };
            seen.insert(path, (stamp, handed_out));
        }
        self.seen = seen;
        Ok(ready)
    }
}

fn csv_files(folder: &Path) -> Result<Vec<(PathBuf, Stamp)>> {
    let failed = |e: std::io::Error| {
        Error::new(Code::FileAccess, format!("cannot read the data folder {}", folder.display()))
            .with_source(e)
            .with_remedy("name the folder of the CSV files with --data (updater.data)")
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().to_lowercase();
        if !name.ends_with(".csv") || name.ends_with(rejects::SUFFIX) || name.starts_with('.') {
            continue;
        }
        // A file that was removed in between is skipped. A link is refused when it is opened.
        let Ok(meta) = entry.metadata() else { continue };
        if !meta.is_dir() {
            files.push((entry.path(), (meta.modified().ok(), meta.len())));
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir_all, remove_dir_all, write};

    use super::*;

    #[test]
    fn a_file_is_handed_out_once_it_is_still() {
        let path = std::env::temp_dir().join(format!("updater-watch-{}", std::process::id()));
        create_dir_all(&path).expect("a folder for the test");
        let (b, a) = (path.join("b.csv"), path.join("a.CSV"));
        for name in ["b.csv", "a.CSV", "x.rejects.csv", "notes.txt", ".hidden.csv"] {
            write(path.join(name), "1").expect("a file for the test");
        }
        let mut folder = Folder::new(path.clone());
        assert_eq!(folder.all().ok(), Some(vec![a, b.clone()]));
        let changed = |folder: &mut Folder| folder.changed().expect("it is readable");
        assert!(changed(&mut folder).is_empty());
        write(&b, "22").expect("it is writable");
        assert!(changed(&mut folder).is_empty(), "it may still be written");
        write(&b, "333").expect("it is writable");
        assert!(changed(&mut folder).is_empty(), "it was");
        assert_eq!(changed(&mut folder), [b]);
        assert!(changed(&mut folder).is_empty());
        remove_dir_all(&path).expect("it is there");
        let error = folder.changed().expect_err("it is gone");
        assert!(error.to_string().starts_with(&format!("cannot read the data folder {}: ", path.display())), "{error}");
    }
}
