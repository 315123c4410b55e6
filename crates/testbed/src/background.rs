//! Stacks that run in the background: how to find, stop and remove them.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::servers::server::tail_of;
use crate::servers::{Stack, holder, in_use, lock};
use crate::{interrupt, progress};

/// Writes the file by which other processes find a running stack, with this environment.
///
/// # Errors
/// When it cannot be written.
pub fn announce(stack: &Stack, env: &[(String, String)]) -> Result<()> {
    let part = stack.dir().join("env.part");
    fs::write(&part, env_lines(env))?;
    Ok(fs::rename(part, stack.dir().join("env"))?)
}

/// Removes that file.
pub fn withdraw(dir: &Path) {
    // The file does not exist if the stack never started.
    fs::remove_file(dir.join("env")).ok();
}

/// `export NAME=value` lines; none of the values needs quotes.
pub fn env_lines(env: &[(String, String)]) -> String {
    env.iter().map(|(name, value)| format!("export {name}={value}\n")).collect()
}

/// Starts `cargo xtask services` as a separate process and waits until it is ready.
///
/// # Errors
/// When it fails; the message shows the end of its output.
pub fn detach(dir: &Path, arguments: &[String]) -> Result<()> {
    fs::create_dir_all(dir)?;
    let env = dir.join("env");
    if lock(dir)?.is_none() {
        let text = fs::read_to_string(&env).with_context(|| {
            format!("{} is in use by {}, which is not ready: try again in a moment", dir.display(), holder(dir))
        })?;
        progress::note(&format!("already running; its environment is in {}", env.display()));
        print!("{text}");
        return Ok(());
    }
    withdraw(dir);
    let log = dir.join("services.log");
    let output = fs::File::create(&log)?;
    let mut command = Command::new("setsid");
    command.arg(std::env::current_exe()?).arg("services").args(arguments);
    // Start a new session, so that closing the terminal does not end the process.
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let step = progress::step("services", "starting in the background");
    let mut child = command.spawn().context("cannot start setsid (util-linux)")?;
    while !env.exists() {
        if interrupt::asked() {
            kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).ok();
        }
        if let Some(status) = child.try_wait()? {
            bail!("the services ended with {status}{}", tail_of(&log));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    step.done(&format!("running; stop them with `cargo xtask down`; environment: {}", env.display()));
    print!("{}", fs::read_to_string(&env)?);
    Ok(())
}

/// Stops the stack in `dir`. Returns whether one was running.
///
/// # Errors
/// When it does not stop within a minute.
pub fn down(dir: &Path) -> Result<bool> {
    if !dir.is_dir() || lock(dir)?.is_some() {
        return Ok(false);
    }
    let file = dir.join("lock");
    let pid = fs::read_to_string(&file)?;
    let pid: i32 = pid.trim().parse().with_context(|| format!("{} holds no process id", file.display()))?;
    let step = progress::step("services", "stopping");
    kill(Pid::from_raw(pid), Signal::SIGTERM).with_context(|| format!("cannot stop process {pid}"))?;
    let started = Instant::now();
    while lock(dir)?.is_none() {
        if started.elapsed() > Duration::from_secs(60) {
            bail!("process {pid} has not stopped within 60 s: see {}", dir.display());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    step.done("stopped");
    Ok(true)
}

/// Removes a stack's data.
///
/// # Errors
/// When the stack is running.
pub fn clean(dir: &Path) -> Result<()> {
    if !dir.is_dir() {
        return Ok(());
    }
    let Some(_lock) = lock(dir)? else {
        bail!("{}", in_use(dir));
    };
    fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))
}
