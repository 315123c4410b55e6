//! Runs cargo on this workspace and passes its output through unaltered.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
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
    wait(&mut spawn(command)?)
}

/// As [`run_through`], and repeats the output of failed tests at the end: a long run hides it among thousands of lines.
///
/// # Errors
/// As [`run_through`], and when the output cannot be read or written.
pub fn run_tests(command: &mut Command) -> Result<ExitStatus> {
    let mut child = spawn(command.stdout(Stdio::piped()))?;
    let output = child.stdout.take().context("the tests have no output")?;
    let reader = std::thread::spawn(move || -> io::Result<String> {
        let (mut failed, mut failing, mut tracing) = (String::new(), false, false);
        for line in BufReader::new(output).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            writeln!(io::stdout(), "{line}")?;
            failing = line == "failures:" || failing && !line.starts_with("test result:");
            tracing = line == "stack backtrace:" || tracing && !line.is_empty();
            if failing && !tracing {
                failed += &line;
                failed.push('\n');
            }
        }
        Ok(failed)
    });
    let status = wait(&mut child)?;
    let failed = reader.join().map_err(|_| anyhow!("the tests' output was not read to its end"))??;
    if !failed.is_empty() {
        writeln!(io::stdout(), "\nthe failed tests again\n{failed}")?;
    }
    Ok(status)
}

fn spawn(command: &mut Command) -> Result<Child> {
    let shown = format!("{:?} {:?}", command.get_program(), command.get_args().collect::<Vec<_>>());
    command.process_group(0).spawn().with_context(|| format!("cannot run {shown}"))
}

fn wait(child: &mut Child) -> Result<ExitStatus> {
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
