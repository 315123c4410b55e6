//! A program as a process, its log in a file.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::eventually;

/// A running program; it is killed when the test lets it go.
pub struct Running {
    child: Child,
    name: String,
    log: PathBuf,
}

/// What a program left behind when it ended.
pub struct Ended {
    /// Its exit code; −1 when a signal ended it.
    pub code: i32,
    /// Its standard output.
    pub out: String,
    /// Its log and its error.
    pub err: String,
}

impl Running {
    /// Starts the command with its standard error in the file `log`.
    pub fn start(mut command: Command, name: &str, log: PathBuf) -> Self {
        let file = File::options().create(true).append(true).open(&log).expect("to create the log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let child = command.spawn().unwrap_or_else(|e| panic!("{name} does not start: {e}"));
        Self { child, name: name.to_owned(), log }
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("to read the log")
    }

    /// Waits until its log has this text; fails when it ends before.
    pub fn wait_for(&mut self, text: &str) {
        self.wait_for_within(text, Duration::from_secs(60));
    }

    /// The same with a deadline of its own.
    pub fn wait_for_within(&mut self, text: &str, patience: Duration) {
        let (name, log) = (self.name.clone(), self.log.clone());
        let child = &mut self.child;
        eventually(&format!("{name} logs {text:?}; see {}", log.display()), patience, || {
            let logged = fs::read_to_string(&log).expect("to read the log");
            if logged.contains(text) {
                return Some(());
            }
            if let Some(status) = child.try_wait().expect("to ask for its status") {
                panic!("{name} ended ({status}) before it logged {text:?}:\n{logged}");
            }
            None
        });
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.child.kill().expect("to kill it");
        self.child.wait().expect("to wait for its end");
    }

    /// Sends a signal by its name: `TERM`, `STOP`, `CONT`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(status.expect("kill").success());
    }

    /// SIGTERM, then waits for its end.
    pub fn stop(self) -> Ended {
        self.signal("TERM");
        self.wait()
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Ended {
        let name = self.name.clone();
        let status: ExitStatus = eventually(&format!("{name} ends"), Duration::from_secs(90), || {
            self.child.try_wait().expect("to ask for its status")
        });
        Ended { code: status.code().unwrap_or(-1), out: String::new(), err: self.log() }
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("to ask for its status").is_none()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs the command to its end.
pub(crate) fn run(mut command: Command) -> Ended {
    let output = command.stdin(Stdio::null()).output().expect("the program starts");
    Ended {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
