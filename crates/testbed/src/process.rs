//! A program as a process, its log in a file.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use model::error::Code;

/// A running program; dropping it kills it.
pub struct Running {
    child: Child,
    name: String,
    log: PathBuf,
    /// The part of the log before this belongs to earlier processes.
    from: u64,
}

/// The results of a program that has ended.
pub struct Ended {
    /// Its exit code; −1 when a signal ended it.
    pub code: i32,
    /// Its standard output.
    pub out: String,
    /// Its log and its error.
    pub err: String,
}

impl Ended {
    /// Requires that the program ended with an error of this code, and that its log and its error have these texts.
    #[track_caller]
    pub fn assert_error(&self, code: Code, texts: &[&str]) {
        let name = format!("error[{}]: ", code.name());
        for text in texts.iter().copied().chain([name.as_str()]) {
            assert!(self.err.contains(text), "{text:?} is not in\n{}", self.err);
        }
        assert_eq!(self.code, i32::from(code.class().exit_code()), "{}", self.err);
    }
}

impl Running {
    /// Starts the command with its standard error in the file `log`.
    pub fn start(command: Command, name: &str, log: PathBuf) -> Self {
        Self::start_into(command, name, log, Stdio::null())
    }

    /// As [`Running::start`], with its standard output there.
    pub fn start_into(mut command: Command, name: &str, log: PathBuf, out: impl Into<Stdio>) -> Self {
        let file = File::options().create(true).append(true).open(&log).expect("to create the log");
        command.stdin(Stdio::null()).stdout(out).stderr(file);
        let from = fs::metadata(&log).expect("the log").len();
        let child = command.spawn().unwrap_or_else(|e| panic!("{name} does not start: {e}"));
        Self { child, name: name.to_owned(), log, from }
    }

    /// The whole log, including the part of earlier processes.
    pub fn log(&self) -> String {
        read_from(&self.log, 0)
    }

    /// What was logged since its start.
    pub fn said(&self) -> String {
        read_from(&self.log, self.from)
    }

    /// Waits until its log contains this text; fails when the program ends before.
    pub fn wait_for(&mut self, text: &str) {
        self.wait_for_within(text, Duration::from_secs(60));
    }

    /// Waits for the text until a deadline.
    pub fn wait_for_within(&mut self, text: &str, patience: Duration) {
        let (name, log, from) = (self.name.clone(), self.log.clone(), self.from);
        let child = &mut self.child;
        eventually(&format!("{name} logs {text:?}; see {}", log.display()), patience, || {
            let logged = read_from(&log, from);
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

    /// Sends SIGTERM, then waits for its end.
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

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The last lines of its log.
    pub fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// A path of its metrics server (`/metrics`, `/health`, `/ready`): status and body; `None` while it does not answer
    /// within two seconds. It needs `METRICS_LISTEN=127.0.0.1:0`.
    pub fn http(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.metrics_address()?).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
    }

    /// The address of its metrics server; `None` until the program has logged it.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        const SAID: &str = "readiness on http://";
        self.said().rsplit_once(SAID)?.1.split_whitespace().next()?.parse().ok()
    }

    /// The value of a metric, by its name with its labels as `/metrics` shows it.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let (_, text) = self.http("/metrics")?;
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The process may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
        // A failing test shows the programs' last log lines.
        if std::thread::panicking() {
            eprintln!("--- the end of {}'s log\n{}", self.name, self.log_end());
        }
    }
}

fn read_from(log: &Path, from: u64) -> String {
    let mut file = File::open(log).expect("the log");
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(from)).and_then(|_| file.read_to_end(&mut text)).expect("to read the log");
    String::from_utf8_lossy(&text).into_owned()
}

/// Runs the command to its end.
pub fn run(mut command: Command) -> Ended {
    let output = command.stdin(Stdio::null()).output().expect("the program starts");
    Ended {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Waits until `condition` returns a value; fails when it takes longer than `patience`.
pub fn eventually<T>(what: &str, patience: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
