//! A program's folder on a separate small disk, which a test fills up.
//!
//! The program runs in a mount namespace with a tmpfs over the folder, so nothing stays mounted after a failure, and an
//! unprivileged user needs only user namespaces. When the program ends, the folder's files are copied back to the real
//! disk.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::machine::find_program;
use anyhow::{Context, Result, bail, ensure};
use nix::unistd::geteuid;

use crate::process::Running;

/// Passes SIGTERM on to the program; the program dies with a killed script.
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
    /// The path of the folder that the program sees, as seen from outside its namespace.
    folder: PathBuf,
}

impl SmallDisk {
    /// Starts the program of `command` with `folder` on a disk of `bytes`, to which the folder's files are copied
    /// first.
    ///
    /// # Errors
    /// When this machine does not allow mounting.
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
                "{name} does not start on a separate disk; mounting takes root or user namespaces:\n{}",
                running.log_end()
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Ok((running, disk))
    }

    /// The path of a file in the folder that the program sees.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Fills the disk to the last byte.
    ///
    /// # Errors
    /// For errors other than a full disk.
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

    /// Frees the space again.
    ///
    /// # Errors
    /// When the disk was not filled.
    pub fn free(&self) -> Result<()> {
        Ok(fs::remove_file(self.file("filler"))?)
    }
}
