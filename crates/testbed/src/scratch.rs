//! Folders of tests. They stay when a test ends, for a look at what failed, until the next run of all tests.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// Free bytes that a run of all tests needs.
const ROOM: u64 = 20 << 30;

fn root() -> PathBuf {
    std::env::temp_dir().join("product-stream-tests")
}

/// The folder of this process with this name; it may not exist yet.
pub fn folder(name: &str) -> PathBuf {
    root().join(format!("{name}_{}", std::process::id()))
}

/// Removes the folders of processes that have ended.
///
/// # Errors
/// When one can't be removed.
pub fn clean() -> Result<()> {
    let Ok(folders) = fs::read_dir(root()) else { return Ok(()) };
    for folder in folders {
        let path = folder?.path();
        if !process_of(&path).is_some_and(|process| Path::new("/proc").join(process.to_string()).exists()) {
            fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

fn process_of(folder: &Path) -> Option<u32> {
    folder.file_name()?.to_str()?.rsplit_once('_')?.1.parse().ok()
}

/// Refuses to start the tests when the servers and the tests' folders do not have the room that they need.
///
/// # Errors
/// When a disk has too little room.
pub fn need_room(servers: &Path) -> Result<()> {
    for place in [servers, &std::env::temp_dir()] {
        let disk = place.ancestors().find(|folder| folder.is_dir()).unwrap_or(place);
        let disk = nix::sys::statvfs::statvfs(disk)
            .with_context(|| format!("cannot ask for the room of {}", place.display()))?;
        let free = disk.blocks_available() * disk.fragment_size();
        if free < ROOM {
            bail!(
                "{} has {} GiB of room; the tests need {} GiB: make room there, or set TMPDIR and CARGO_TARGET_DIR to \
                 folders of another disk",
                place.display(),
                free >> 30,
                ROOM >> 30
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_ended_processes_are_removed() {
        // The highest process number of Linux is 4194304.
        let ended = root().join("ended_4194305");
        let ours = folder("ours");
        for folder in [&ended, &ours] {
            fs::create_dir_all(folder).unwrap();
        }
        clean().unwrap();
        assert!(!ended.exists() && ours.exists());
        fs::remove_dir(ours).unwrap();
    }

    #[test]
    fn a_folder_without_a_process_is_of_nobody() {
        assert_eq!(process_of(Path::new("/tmp/product-stream-tests/quick_77")), Some(77));
        assert_eq!(process_of(Path::new("/tmp/product-stream-tests/quick")), None);
    }
}
