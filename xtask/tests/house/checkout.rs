//! The files of the checkout.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders that hold no source: what builds, programs and servers write, and golden files, which show the programs.
const OMITTED: [&str; 6] = ["target", "consumer_logs", "time_track", "reports", "golden", "fixtures"];

/// One text file.
pub(crate) struct File {
    /// Its path below the root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// The root of the checkout.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All files with this extension, in the order of their paths.
pub(crate) fn files(extension: &str) -> Vec<File> {
    let (root, mut found) = (root(), Vec::new());
    add(&root, &root, extension, &mut found);
    assert!(!found.is_empty(), "no .{extension} files below {}", root.display());
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn add(root: &Path, folder: &Path, extension: &str, found: &mut Vec<File>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            if !name.starts_with('.') && !OMITTED.contains(&name) {
                add(root, &path, extension, found);
            }
        } else if path.extension().is_some_and(|e| e == extension) {
            let path_below = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            found.push(File { path: path_below, text: fs::read_to_string(&path).unwrap() });
        }
    }
}
