//! Runs cargo on this workspace and passes its output through unaltered.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::interrupt;

/// The root of the checkout.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// A cargo call in the root of the checkout.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(arguments);
    command
}

/// Cargo's target folder.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Runs a command to its end; passes an interrupt on to the command and its child processes.
///
/// # Errors
/// When the command cannot be started or we are interrupted.
pub fn run_through(command: &mut Command) -> Result<ExitStatus> {
    let shown = format!("{:?} {:?}", command.get_program(), command.get_args().collect::<Vec<_>>());
    let mut child = command.process_group(0).spawn().with_context(|| format!("cannot run {shown}"))?;
    let group = Pid::from_raw(child.id().cast_signed());
    let mut told = false;
    loop {
        if let Some(status) = child.try_wait()? {
            interrupt::check()?;
            return Ok(status);
        }
        if interrupt::asked() && !told {
            // The process group may have ended already.
            killpg(group, Signal::SIGINT).ok();
            told = true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// How the programs are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// The release build, for users.
    Release,
    /// With the failpoints at which tests kill the programs; only the selection of packages enables them.
    Test,
}

/// Builds the programs and returns the folder they are in.
///
/// # Errors
/// When they don't compile.
pub fn build_programs(build: Build) -> Result<PathBuf> {
    let mut command = cargo(&["build", "--bins", "--quiet"]);
    let folder = match build {
        Build::Release => {
            command.arg("--release");
            "release"
        }
        Build::Test => {
            command.args(["--workspace", "--exclude", "xtask"]);
            "debug"
        }
    };
    if !run_through(&mut command)?.success() {
        bail!("the programs do not compile: see above");
    }
    Ok(target().join(folder))
}
