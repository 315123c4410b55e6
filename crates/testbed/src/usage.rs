//! Resource use of a process: clock_getcpuclockid(3), proc_pid_status(5).

use std::fs;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;

/// The resources that a running process has used since its start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// CPU time of all its threads, user and system, in seconds.
    pub cpu_seconds: f64,
    /// The peak resident memory, in megabytes of 10^6 bytes.
    pub peak_rss_mb: f64,
    /// The present resident memory, in the same unit.
    pub rss_mb: f64,
}

impl Usage {
    /// Reads them for a running process.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: u32) -> Result<Self> {
        let gone = || format!("process {pid} is gone");
        // The fields of /proc/PID/stat are counted at ticks of the clock, which a paced load may keep step with.
        let used = clock_getcpuclockid(Pid::from_raw(pid.try_into()?)).and_then(ClockId::now).with_context(gone)?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).with_context(gone)?;
        let megabytes =
            |name| bytes(&status, name).map(|bytes| bytes as f64 / 1e6).with_context(|| format!("no {name}"));
        Ok(Self {
            cpu_seconds: Duration::from(used).as_secs_f64(),
            peak_rss_mb: megabytes("VmHWM:")?,
            rss_mb: megabytes("VmRSS:")?,
        })
    }
}

/// The peak resident memory of a process, in bytes; `None` when it has ended.
pub fn peak_memory(pid: u32) -> Option<u64> {
    bytes(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmHWM:")
}

/// The field of this name in a process's status, which has KiB.
fn bytes(status: &str, name: &str) -> Option<u64> {
    let field = status.lines().find_map(|line| line.strip_prefix(name))?;
    field.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib * 1_024)
}

/// The growth of a process's peak resident memory.
#[derive(Clone, Debug, Default)]
pub struct Peaks(Vec<(i64, f64)>);

impl Peaks {
    /// The peak up to a time in milliseconds since 1970, in megabytes; 0 without a measurement by then.
    pub fn until(&self, ms: i64) -> f64 {
        self.0.iter().take_while(|(time, _)| *time <= ms).last().map_or(0.0, |(_, megabytes)| *megabytes)
    }
}

/// Measures the [`Peaks`] of a running process in a separate thread.
#[derive(Debug)]
pub struct Watch {
    stop: Sender<()>,
    thread: JoinHandle<Peaks>,
}

impl Watch {
    const EVERY: Duration = Duration::from_millis(20);

    /// Starts measuring.
    pub fn start(pid: u32) -> Self {
        let (stop, told) = channel();
        let ask = move || {
            let mut peaks = Peaks::default();
            loop {
                let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
                let Ok(usage) = Usage::of(pid) else { return peaks };
                peaks.0.push((time, usage.peak_rss_mb));
                if told.recv_timeout(Self::EVERY) != Err(RecvTimeoutError::Timeout) {
                    return peaks;
                }
            }
        };
        Self { stop, thread: std::thread::spawn(ask) }
    }

    /// Stops measuring and returns the peaks.
    ///
    /// # Errors
    /// When its thread has died.
    pub fn end(self) -> Result<Peaks> {
        drop(self.stop);
        self.thread.join().map_err(|_| anyhow::anyhow!("the thread that asks for memory has died"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_usage_grows() {
        let before = Usage::of(std::process::id()).expect("we run");
        let filled = vec![1_u8; 64 << 20];
        let sum = || filled.iter().map(|b| u64::from(*b)).sum::<u64>();
        // Other tests in this process use its CPU as well.
        let mut total = sum();
        while Usage::of(std::process::id()).expect("we run").cpu_seconds < before.cpu_seconds + 0.05 {
            total += sum();
        }
        let after = Usage::of(std::process::id()).expect("we run");
        assert!(total > 0 && after.rss_mb > before.rss_mb + 60.0, "{before:?} {after:?}");
        assert!(after.peak_rss_mb >= after.rss_mb);
        assert!(Usage::of(u32::MAX - 1).is_err());
    }
}
