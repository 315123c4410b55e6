//! A folder of a program on a small disk of its own, which a test fills up.
//!
//! The program runs in a mount namespace with a tmpfs over the folder, so nothing stays mounted whatever happens, and who is
//! not root needs no more than user namespaces. When it ends, the folder's files are put back on the real disk.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::geteuid;
use xtask::machine::find_program;

use crate::Running;

/// Signals are handed on; a killed script takes the program with it.
const SCRIPT: &str = r#"
set -e
disk=$PLACE.disk
mkdir -p "$disk"
mount -t tmpfs -o "size=$SIZE" tmpfs "$disk"
cp -a "$PLACE/." "$disk/"
mount --bind "$disk" "$PLACE"
set +e
trap 'kill -TERM $program' TERM
setpriv --pdeathsig KILL "$0" &
program=$!
wait $program
code=$?
while kill -0 $program 2>/dev/null; do wait $program; code=$?; done
rm -f "$PLACE/filler"
umount "$PLACE" && cp -a "$disk/." "$PLACE/" && umount "$disk" && rmdir "$disk"
exit $code
"#;

/// The disk under a running program's folder.
pub struct SmallDisk {
    /// The folder as the program sees it, seen from outside.
    folder: PathBuf,
}

impl SmallDisk {
    /// Starts the program of `command` with `folder` on a disk of `bytes`, on which the folder's files are already.
    ///
    /// # Errors
    /// When this machine lets us mount nothing.
    pub fn start(command: &Command, name: &str, log: PathBuf, folder: &Path, bytes: u64) -> Result<(Running, Self)> {
        let unshare = find_program("unshare").context("there is no unshare: install util-linux")?;
        let mut small = Command::new(unshare);
        small.arg("--mount");
        if !geteuid().is_root() {
            small.args(["--user", "--map-root-user"]);
        }
        small.args(["sh", "-c", SCRIPT]).arg(command.get_program()).args(command.get_args());
        small.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        small.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        small.env("PLACE", folder).env("SIZE", bytes.to_string());
        if let Some(at) = command.get_current_dir() {
            small.current_dir(at);
        }
        let mut running = Running::start(small, name, log);
        let inside = Path::new("/proc").join(running.pid().to_string()).join("root");
        let disk = Self { folder: inside.join(folder.strip_prefix("/").unwrap_or(folder)) };
        while running.http("/health").is_none() {
            ensure!(
                running.is_running(),
                "{name} does not start on a disk of its own; mounting takes root or user namespaces:\n{}",
                running.log_end()
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Ok((running, disk))
    }

    /// A file of the folder, as the program sees it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Fills it to the last byte.
    ///
    /// # Errors
    /// When something else than the space is missing.
    pub fn fill(&self) -> Result<()> {
        let mut filler = File::options().create(true).append(true).open(self.file("filler"))?;
        for piece in [65_536, 1] {
            loop {
                match filler.write(&[b'x'; 65_536][..piece]) {
                    Ok(1..) => {}
                    Err(e) if e.kind() == ErrorKind::StorageFull => break,
                    other => bail!("cannot fill the disk: {other:?}"),
                }
            }
        }
        Ok(())
    }

    /// Makes room again.
    ///
    /// # Errors
    /// When it was not filled.
    pub fn free(&self) -> Result<()> {
        Ok(fs::remove_file(self.file("filler"))?)
    }
}
