//! The programs of the pipeline as processes on a stack: one cdc-producer, five consumers, and the two that end after
//! their work, product-updater and verify.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::Signal;

use crate::servers::server::{Launch, Server};
use crate::servers::{CDC, Stack, UPDATER, VERIFY};
use crate::{cargo, interrupt};

/// The number of consumers: two partitions each.
pub const CONSUMERS: usize = 5;

/// Settings of the user's environment that must not reach the programs on our servers.
const SETTINGS: [&str; 10] = [
    "DB_",
    "KAFKA_",
    "SCHEMA_REGISTRY_",
    "POSTGRES_",
    "PRODUCER_",
    "CONSUMER_",
    "UPDATER_",
    "RULES_",
    "METRICS_",
    "STREAM_",
];
/// Where the console answers: at the first free port.
const CONSOLE: &str = "127.0.0.1:8080-8099";
/// The time in which it says where.
const CONSOLE_STARTS: Duration = Duration::from_secs(20);

/// How programs are started on one stack.
#[derive(Debug, Clone)]
pub struct Programs {
    folder: PathBuf,
    /// Where they are started.
    work: PathBuf,
    logs: PathBuf,
    env: Vec<(String, String)>,
}

/// A program ended unexpectedly.
#[derive(Debug)]
pub struct Ended {
    /// The exit code to return.
    pub code: u8,
    message: String,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Ended {}

impl Programs {
    /// Programs from `folder`, to run on `stack`.
    pub fn new(folder: PathBuf, stack: &Stack) -> Self {
        let settings = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        let foreign = settings.filter(|name| SETTINGS.iter().any(|prefix| name.starts_with(prefix)));
        // An empty setting counts as unset.
        let mut env: Vec<(String, String)> = foreign.map(|name| (name, String::new())).collect();
        env.extend(stack.env());
        Self { folder, work: cargo::root(), logs: stack.dir().join("logs"), env }
    }

    /// The same, started in another folder than the root of the checkout.
    #[must_use]
    pub fn within(mut self, work: &Path) -> Self {
        self.work = work.to_owned();
        self
    }

    /// The same with one more setting.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The folder of the programs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of the programs' logs.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// Starts cdc-producer with only the rights that it needs.
    ///
    /// # Errors
    /// When the program is missing.
    pub fn producer(&self) -> Result<Program> {
        self.start("cdc-producer", "cdc-producer", &[], Some(CDC))
    }

    /// Starts a consumer; `number` only names its log, as the consumer claims its slot itself.
    ///
    /// # Errors
    /// When the program is missing.
    pub fn consumer(&self, number: usize) -> Result<Program> {
        self.start("consumer", &format!("consumer-{number}"), &[], None)
    }

    /// Starts product-updater; its output goes to [`Programs::output`].
    ///
    /// # Errors
    /// When the program is missing.
    pub fn updater(&self, arguments: &[&str]) -> Result<Program> {
        self.start("product-updater", "product-updater", arguments, Some(UPDATER))
    }

    /// Starts verify; its output goes to [`Programs::output`].
    ///
    /// # Errors
    /// When the program is missing.
    pub fn verify(&self, arguments: &[&str]) -> Result<Program> {
        self.start("verify", "verify", arguments, Some(VERIFY))
    }

    /// Starts the console. Returns its address, too.
    ///
    /// # Errors
    /// When the program is missing, or ends at once.
    pub fn console(&self) -> Result<(Program, String)> {
        drop(fs::remove_file(self.logs.join("console.out")));
        let mut console = self.start("stream", "console", &["console", "--listen", CONSOLE], Some(CDC))?;
        let begun = Instant::now();
        loop {
            interrupt::check()?;
            console.check()?;
            let text = self.output("console").unwrap_or_default();
            if let Some((address, _)) = text.strip_prefix("console on ").and_then(|rest| rest.split_once('\n')) {
                return Ok((console, address.to_owned()));
            }
            if begun.elapsed() > CONSOLE_STARTS {
                bail!("the console does not say where it answers: see {}", self.logs.join("console.log").display());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts `stream status --watch --json`; its output goes to [`Programs::output`].
    ///
    /// # Errors
    /// When the program is missing.
    pub fn status(&self) -> Result<Program> {
        self.start("stream", "status", &["status", "--watch", "--json"], Some(CDC))
    }

    /// Starts `stream trace --json`; its output goes to [`Programs::output`].
    ///
    /// # Errors
    /// When the program is missing.
    pub fn trace(&self, arguments: &[&str]) -> Result<Program> {
        self.start("stream", "trace", &[&["trace", "--json"], arguments].concat(), Some(CDC))
    }

    /// The output of a program's last run.
    ///
    /// # Errors
    /// When it has not run.
    pub fn output(&self, program: &str) -> Result<String> {
        let path = self.logs.join(format!("{program}.out"));
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    fn start(&self, program: &str, name: &str, arguments: &[&str], login: Option<(&str, &str)>) -> Result<Program> {
        let mut env = self.env.clone();
        if let Some((user, password)) = login {
            env.push(("DB_USER".to_owned(), user.to_owned()));
            env.push(("DB_PASSWORD".to_owned(), password.to_owned()));
        }
        let mut command = vec![self.folder.join(program).display().to_string()];
        command.extend(arguments.iter().map(|&argument| argument.to_owned()));
        fs::create_dir_all(&self.logs).with_context(|| format!("cannot create {}", self.logs.display()))?;
        let log = self.logs.join(format!("{name}.log"));
        let output = Some(self.logs.join(format!("{name}.out")));
        let folder = self.work.clone();
        let launch = Launch { command, env, output, folder, log, user: None, stop_signal: Signal::SIGTERM };
        Ok(Program { name: name.to_owned(), server: Server::start(name, launch)?, is_shown: false })
    }
}

/// A running program.
#[derive(Debug)]
pub struct Program {
    name: String,
    server: Server,
    /// The program has ended, and the user has seen its error.
    is_shown: bool,
}

impl Program {
    /// Returns an error with the end of its log if the program has ended.
    ///
    /// # Errors
    /// [`Ended`].
    pub fn check(&mut self) -> Result<()> {
        match self.server.try_status()? {
            None => Ok(()),
            Some(status) => Err(self.ended(status)),
        }
    }

    /// The error of [`Self::check`], once for each end.
    ///
    /// # Errors
    /// When the system can't report whether it is running.
    pub fn newly_ended(&mut self) -> Result<Option<anyhow::Error>> {
        match self.server.try_status()? {
            Some(status) if !std::mem::replace(&mut self.is_shown, true) => Ok(Some(self.ended(status))),
            _ => Ok(None),
        }
    }

    /// The errors that it has logged since the last call: a person must act on each.
    pub fn new_errors(&mut self) -> Vec<String> {
        self.server.new_lines().into_iter().filter(|line| line.contains(" ERROR ")).collect()
    }

    /// Starts the program again if it has ended; returns whether it had.
    ///
    /// # Errors
    /// The errors of its start.
    pub fn start_again(&mut self) -> Result<bool> {
        if self.server.try_status()?.is_none() {
            return Ok(false);
        }
        self.is_shown = false;
        self.server.start_again().map(|()| true)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits for its end, and checks `others` meanwhile.
    ///
    /// # Errors
    /// [`Ended`] when its exit code is not 0, and the error of `others`.
    pub fn wait(&mut self, mut others: impl FnMut() -> Result<()>) -> Result<()> {
        loop {
            if let Some(status) = self.server.try_status()? {
                return if status.success() { Ok(()) } else { Err(self.ended(status)) };
            }
            interrupt::check()?;
            others()?;
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    /// Whether its recent log since its start contains this text.
    pub fn has_logged(&self, text: &str) -> bool {
        self.server.logged().contains(text)
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.server.pid()
    }

    /// Asks it to stop, without waiting.
    pub fn ask_to_stop(&self) {
        self.server.ask_to_stop();
    }

    /// Stops it in order.
    ///
    /// # Errors
    /// When its end can't be waited for.
    pub fn stop(&mut self) -> Result<()> {
        self.server.stop()
    }

    fn ended(&self, status: ExitStatus) -> anyhow::Error {
        let (code, meaning) = match status.code() {
            Some(0) => (1, "exit code 0, as after `kill`, though it should run on".to_owned()),
            Some(1) => (1, "exit code 1: something is definitely wrong, a person must act".to_owned()),
            Some(2) => (2, "exit code 2: a wrong setting or argument".to_owned()),
            Some(75) => (75, "exit code 75: a passing fault, another try may succeed".to_owned()),
            // `signal: 9 (SIGKILL)`.
            _ => (1, status.to_string()),
        };
        let logged = self.server.logged();
        let slot = slot_in(&logged).map_or_else(String::new, |slot| format!(", in the slot {slot},"));
        anyhow!(Ended { code, message: format!("{}{slot} ended with {meaning}{}", self.name, self.server.tail()) })
    }
}

/// The slot that a log names last: a consumer claims any that is free, so its number is not that of the process.
fn slot_in(log: &str) -> Option<&str> {
    let (_, rest) = log.rsplit_once("slot=")?;
    rest.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next().filter(|slot| !slot.is_empty())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn the_slot_is_the_one_that_is_named_last() {
        assert_eq!(
            slot_in("INFO slot claimed slot=consumer_1 log=x\nINFO consumer{slot=consumer_5}: on"),
            Some("consumer_5")
        );
        assert_eq!([slot_in("no slot"), slot_in("slot=")], [None, None]);
    }

    #[test]
    fn a_program_that_ends_is_shown_once_and_may_be_started_again() {
        let folder = crate::scratch::folder("programs");
        fs::create_dir_all(&folder).expect("a folder");
        let command =
            ["sh", "-c", "echo 'T ERROR what to do: this'; test -e works && exec sleep 60; exit 1"].map(str::to_owned);
        let launch = Launch {
            command: command.into(),
            env: Vec::new(),
            output: None,
            folder: folder.clone(),
            log: folder.join("log"),
            user: None,
            stop_signal: Signal::SIGTERM,
        };
        let server = Server::start("fragile", launch).expect("it starts");
        let mut program = Program { name: "fragile".to_owned(), server, is_shown: false };
        let ended = |program: &mut Program| {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(60) {
                if let Some(error) = program.newly_ended().expect("its state") {
                    return error.to_string();
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            panic!("it does not end");
        };
        for works in [false, true] {
            let shown = ended(&mut program);
            assert!(shown.contains("fragile ended with exit code 1") && shown.contains("what to do: this"), "{shown}");
            assert!(program.newly_ended().expect("its state").is_none(), "shown once");
            assert_eq!(program.new_errors(), ["T ERROR what to do: this"]);
            assert!(program.new_errors().is_empty(), "returned once");
            if works {
                fs::write(folder.join("works"), "").expect("the cause is gone");
            }
            assert!(program.start_again().expect("it starts"), "it had ended");
        }
        assert!(!program.start_again().expect("its state"), "it runs");
        program.stop().expect("it stops");
        fs::remove_dir_all(&folder).expect("its own folder");
    }
}
