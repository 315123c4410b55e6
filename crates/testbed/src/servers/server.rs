//! One server process: ends with this process at the latest, is watched until it is ready, and is stopped in order.
//!
//! The kernel kills the process when the thread that spawned it ends (`setpriv --pdeathsig`), so no server survives
//! even a `kill -9` of this process. All spawning is therefore done by one thread that lives as long as this process.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::interrupt;

/// The options of a process; kept to start it again.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Variables on top of ours.
    pub env: Vec<(String, String)>,
    /// The file for its standard output, which replaces an existing file; without it, the output goes to the log.
    pub output: Option<PathBuf>,
    /// The working folder.
    pub folder: PathBuf,
    /// Where its output goes, appended.
    pub log: PathBuf,
    /// The user it runs as when this process is root; that user keeps root's right to pass through closed folders.
    pub user: Option<String>,
    /// The signal that asks it to stop in order.
    pub stop_signal: Signal,
}

/// A child process. Dropping it kills it.
#[derive(Debug)]
pub struct Server {
    name: String,
    launch: Launch,
    child: Option<Child>,
    /// It was found to have ended.
    has_ended: bool,
    /// Bytes in the log before this start.
    log_before: u64,
    /// Bytes of the log that [`Server::new_lines`] has returned.
    log_seen: u64,
}

const STOP_DEADLINE: Duration = Duration::from_secs(30);
const LOG_TAIL_LINES: usize = 20;
const LOG_TAIL_BYTES: u64 = 16 * 1024;

impl Server {
    /// Starts the process. It may not be ready yet: see [`Server::wait_ready`].
    ///
    /// # Errors
    /// When the log can't be opened or the program is missing.
    pub fn start(name: &str, launch: Launch) -> Result<Self> {
        let log_before = fs::metadata(&launch.log).map_or(0, |log| log.len());
        let child = spawn(name, &launch)?;
        Ok(Self {
            name: name.to_owned(),
            launch,
            child: Some(child),
            has_ended: false,
            log_before,
            log_seen: log_before,
        })
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The folder it runs in.
    pub fn folder(&self) -> &Path {
        &self.launch.folder
    }

    /// The file with its output.
    pub fn log(&self) -> &Path {
        &self.launch.log
    }

    /// Polls until `ready` returns true.
    ///
    /// # Errors
    /// When the process ends, the deadline passes or a signal arrives; the message shows the end of the log.
    pub fn wait_ready(&mut self, deadline: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let started = Instant::now();
        loop {
            interrupt::check()?;
            // Check this first: another server may answer in place of one that has ended.
            if let Some(status) = self.try_status()? {
                bail!("{} ended with {status} instead of starting{}", self.name, self.tail());
            }
            if ready() {
                return Ok(());
            }
            if started.elapsed() > deadline {
                bail!("{} was not ready within {} s{}", self.name, deadline.as_secs(), self.tail());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The exit status when the process has ended, `None` while it runs.
    ///
    /// # Errors
    /// When the system can't report the status.
    pub fn try_status(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.child {
            Some(child) => {
                let status = child.try_wait().with_context(|| format!("cannot ask for the state of {}", self.name))?;
                self.has_ended = status.is_some();
                Ok(status)
            }
            None => Ok(Some(ExitStatus::from_raw(0))),
        }
    }

    /// Waits for the end of the process.
    ///
    /// # Errors
    /// When a signal arrives.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.try_status()? {
                return Ok(status);
            }
            interrupt::check()?;
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Sends a signal (SIGSTOP, SIGCONT …).
    ///
    /// # Errors
    /// When the process is not running.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().with_context(|| format!("{} is not running", self.name))?;
        kill(pid_of(child), signal).with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// Asks to stop without waiting for it.
    pub fn ask_to_stop(&self) {
        // The number of a process that was found to have ended may be another one's.
        if let Some(child) = self.child.as_ref().filter(|_| !self.has_ended) {
            // It may have ended since.
            kill(pid_of(child), self.launch.stop_signal).ok();
        }
    }

    /// Stops in order; kills after 30 s.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub fn stop(&mut self) -> Result<()> {
        self.ask_to_stop();
        let started = Instant::now();
        while let Some(child) = &mut self.child {
            if child.try_wait()?.is_some() {
                self.child = None;
            } else if started.elapsed() > STOP_DEADLINE {
                self.kill()?;
            } else {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    /// Kills at once (SIGKILL) and waits for the end.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().with_context(|| format!("cannot wait for the end of {}", self.name))?;
        }
        Ok(())
    }

    /// Starts the stopped process again in the same way.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_again(&mut self) -> Result<()> {
        self.kill()?;
        self.log_before = fs::metadata(&self.launch.log).map_or(0, |log| log.len());
        self.child = Some(spawn(&self.name, &self.launch)?);
        Ok(())
    }

    /// The end of the log since the start, at most 16 KiB.
    pub fn logged(&self) -> String {
        last_bytes(&self.launch.log, self.log_before, LOG_TAIL_BYTES).unwrap_or_default()
    }

    /// The whole lines that were logged since the last call.
    pub fn new_lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let Ok(mut file) = File::open(&self.launch.log) else { return lines };
        let mut bytes = Vec::new();
        // Reading again later is the remedy for an error.
        if file.seek(SeekFrom::Start(self.log_seen)).and_then(|_| file.read_to_end(&mut bytes)).is_ok() {
            let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            self.log_seen += whole as u64;
            lines.extend(String::from_utf8_lossy(&bytes[..whole]).lines().map(str::to_owned));
        }
        lines
    }

    /// The end of the log since the start, for an error message.
    pub fn tail(&self) -> String {
        tail_from(&self.launch.log, self.log_before)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A failure can't be handled here, and the kernel kills what is left.
        self.kill().ok();
    }
}

/// The last lines of a log and where it is, for an error message.
pub fn tail_of(log: &Path) -> String {
    tail_from(log, 0)
}

fn tail_from(log: &Path, start: u64) -> String {
    let text = last_bytes(log, start, LOG_TAIL_BYTES).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
    let mut message = String::from("\n  the end of its log:");
    for line in last {
        message.push_str("\n  | ");
        message.push_str(line);
    }
    message.push_str(&format!("\n  the whole log: {}", log.display()));
    message
}

fn last_bytes(path: &Path, start: u64, count: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(count).max(start)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

fn spawn(name: &str, launch: &Launch) -> Result<Child> {
    let (program, _) = launch.command.split_first().context("an empty command")?;
    if let Some(folder) = launch.log.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let log = OpenOptions::new().create(true).append(true).open(&launch.log);
    let log = log.with_context(|| format!("cannot write the log {}", launch.log.display()))?;
    let output = match &launch.output {
        Some(path) => File::create(path).with_context(|| format!("cannot write {}", path.display()))?,
        None => log.try_clone()?,
    };
    let mut command = bound_to_us(launch.user.as_deref());
    command.args(&launch.command).envs(launch.env.iter().map(|(k, v)| (k, v))).current_dir(&launch.folder);
    // Keep the terminal's Ctrl-C away: this process stops the server itself, in order.
    command.process_group(0).stdin(Stdio::null()).stdout(output).stderr(log);
    on_lasting_thread(command)
        .with_context(|| format!("cannot start {name} ({program}): is util-linux's setpriv there?"))
}

/// A `setpriv` call that runs the rest of its arguments, as `user` if given; the kernel kills them when this process
/// ends.
pub fn bound_to_us(user: Option<&str>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if let Some(user) = user {
        command.args([format!("--reuid={user}"), format!("--regid={user}"), "--init-groups".to_owned()]);
        command.args(["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]);
    }
    command.arg("--");
    command
}

type Order = (Command, mpsc::Sender<std::io::Result<Child>>);

fn on_lasting_thread(command: Command) -> Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                answer.send(command.spawn()).ok();
            }
        });
        orders
    });
    let (answer, result) = mpsc::channel();
    spawner.send((command, answer)).map_err(|_| anyhow!("the thread that starts processes has ended"))?;
    Ok(result.recv()??)
}

/// A free port on loopback, outside the range of outgoing connections. No other call in any process gets it while this
/// process lives: a server takes seconds to bind it.
///
/// # Errors
/// When many tries found none.
pub fn free_port() -> Result<u16> {
    use std::hash::{BuildHasher, RandomState};
    for attempt in 0..1000_u16 {
        let port = 20_000 + u16::try_from(RandomState::new().hash_one(attempt) % 12_000)?;
        if reserve(port)? && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("found no free port between 20000 and 32000 on 127.0.0.1")
}

/// Reserves the port for this process; returns whether it succeeded. The kernel keeps the reservation, a name in the
/// abstract namespace (`unix(7)`), until the process ends.
fn reserve(port: u16) -> Result<bool> {
    static RESERVED: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    let name = SocketAddr::from_abstract_name(format!("product-stream-port-{port}"))?;
    let Ok(reservation) = UnixListener::bind_addr(&name) else { return Ok(false) };
    RESERVED.lock().map_err(|_| anyhow!("a thread ended while it reserved a port"))?.push(reservation);
    Ok(true)
}

/// Returns `wanted` if it is free, otherwise an error; a free port when none is wanted.
///
/// # Errors
/// When the wanted port is taken.
pub fn port_or_free(what: &str, wanted: Option<u16>) -> Result<u16> {
    let Some(port) = wanted else { return free_port() };
    match TcpListener::bind(("127.0.0.1", port)) {
        Ok(_) => Ok(port),
        Err(error) => bail!("port {port} for {what} cannot be used ({error}): give another one or none"),
    }
}

/// The result of a thread that starts a server.
///
/// # Errors
/// The thread's own, or that it panicked.
pub fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| Err(anyhow!("a thread that starts a server panicked")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(name: &str) -> Launch {
        let folder = std::env::temp_dir();
        let log = folder.join(format!("xtask-{name}-{}.log", std::process::id()));
        let command = ["sleep", "60"].map(str::to_owned).to_vec();
        Launch { command, env: vec![], output: None, folder, log, user: None, stop_signal: Signal::SIGTERM }
    }

    #[test]
    fn a_server_outlives_the_thread_that_asked_for_it_and_not_its_handle() {
        let mut launch = sleeper("lasting");
        let (log, signal) = (launch.log.clone(), launch.log.with_extension("go"));
        let script =
            format!("echo awake; until [ -e {} ]; do sleep 0.02; done; echo on; exec sleep 60", signal.display());
        launch.command = vec!["sh".to_owned(), "-c".to_owned(), script];
        let says = |text: &str| fs::read_to_string(&log).is_ok_and(|log| log.ends_with(text));
        let deadline = Duration::from_secs(10);
        let mut server = std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let mut server = Server::start("sleep", launch).unwrap();
                server.wait_ready(deadline, || says("awake\n")).unwrap();
                server
            });
            asking.join().unwrap()
        });
        fs::write(&signal, "").unwrap();
        server.wait_ready(deadline, || says("on\n")).unwrap();
        let pid = Pid::from_raw(server.pid().unwrap().cast_signed());
        assert!(kill(pid, None).is_ok());
        drop(server);
        assert!(kill(pid, None).is_err());
        fs::remove_file(&log).unwrap();
        fs::remove_file(signal).unwrap();
    }

    #[test]
    fn a_port_is_given_once() {
        let port = free_port().unwrap();
        assert!(TcpListener::bind(("127.0.0.1", port)).is_ok(), "nobody listens there");
        assert!(!reserve(port).unwrap());
    }

    #[test]
    fn a_server_that_ends_at_once_shows_its_log() {
        let mut launch = sleeper("broken");
        launch.command = ["sh", "-c", "echo no such option >&2; exit 3"].map(str::to_owned).to_vec();
        let log = launch.log.clone();
        let mut server = Server::start("the server", launch).unwrap();
        let error = server.wait_ready(Duration::from_secs(10), || false).unwrap_err().to_string();
        assert!(error.starts_with("the server ended with exit status: 3 instead of starting"), "{error}");
        assert!(error.contains("| no such option") && error.contains(&log.display().to_string()), "{error}");
        fs::remove_file(log).unwrap();
    }
}
