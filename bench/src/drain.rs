//! Five consumers that drain a topic into their logs, and optionally into PostgreSQL.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use testbed::programs::{CONSUMERS, Program};

use crate::lab::Lab;
use testbed::{Usage, Watch};

/// How often to check a file that is being written.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The text that kcat writes after each record; no product has this name.
const END: &str = "<end>";

/// The results of five consumers.
#[derive(Clone, Copy, Debug)]
pub struct Drained {
    /// Records a second, from the first line to the last.
    pub rate: f64,
    /// Seconds from the start of the processes to the first line: mostly the group's first assignment.
    pub first_s: f64,
    /// CPU seconds for a million records, all five together.
    pub cpu_per_million: f64,
    /// The peak resident memory of the largest of them, in megabytes.
    pub peak_rss_mb: f64,
    /// The same peak in the first tenth of the time from the first line to the last.
    pub early_peak_mb: f64,
}

/// Runs five consumers of a new group on a topic with so many records; `postgres` is their PostgreSQL URL, empty for
/// none.
///
/// # Errors
/// When a consumer ends or makes no progress, or when `verify` finds a difference.
pub fn consumers(lab: &mut Lab, topic: &str, records: u64, postgres: &str) -> Result<Drained> {
    let name = lab.fresh_name("drain");
    let logs = lab.stack.dir().join("runs").join(&name);
    let programs = lab
        .programs(topic)
        .with("KAFKA_GROUP_ID", &name)
        .with("CONSUMER_LOGS", &logs.display().to_string())
        .with("POSTGRES_URL", postgres);
    let begun = (Instant::now(), SystemTime::now());
    let mut consumers = (1..=CONSUMERS).map(|n| programs.consumer(n)).collect::<Result<Vec<_>>>()?;
    let pids = consumers.iter().map(|consumer| consumer.pid().context("it was started"));
    let pids = pids.collect::<Result<Vec<_>>>()?;
    let watches: Vec<Watch> = pids.iter().copied().map(Watch::start).collect();
    let (mut first, mut bytes, mut since) = (None, 0, Instant::now());
    let last = loop {
        consumers.iter_mut().try_for_each(Program::check)?;
        let (now, changed) = written(&logs)?;
        if now > 0 {
            first.get_or_insert((begun.0.elapsed(), now));
        }
        if now != bytes {
            (bytes, since) = (now, Instant::now());
        }
        if now > 0 && since.elapsed() > Duration::from_millis(500) && lines(&logs)? == records {
            break changed;
        }
        ensure!(since.elapsed() < Duration::from_secs(60), "the consumers stalled after {} lines", lines(&logs)?);
        std::thread::sleep(LOOK_EVERY);
    };
    let (first, at_first) = first.context("no line was written")?;
    let first_s = first.as_secs_f64();
    let took = last.duration_since(begun.1)?.as_secs_f64() - first_s;
    // Lines that existed when the first one was seen took no part of that time.
    let rate = records as f64 * (1.0 - at_first as f64 / bytes as f64) / took;
    let tenth = begun.1 + first + Duration::from_secs_f64(took / 10.0);
    let tenth = i64::try_from(tenth.duration_since(UNIX_EPOCH)?.as_millis())?;
    let mut drained = Drained { rate, first_s, cpu_per_million: 0.0, peak_rss_mb: 0.0, early_peak_mb: 0.0 };
    for (pid, watch) in pids.into_iter().zip(watches) {
        let usage = Usage::of(pid)?;
        drained.early_peak_mb = drained.early_peak_mb.max(watch.end()?.until(tenth));
        drained.cpu_per_million += usage.cpu_seconds / (records as f64 / 1e6);
        drained.peak_rss_mb = drained.peak_rss_mb.max(usage.peak_rss_mb);
    }
    consumers.iter_mut().try_for_each(Program::stop)?;
    let verdict = programs.verify(&[])?.wait(|| Ok(()));
    verdict.with_context(|| programs.output("verify").unwrap_or_default())?;
    Ok(drained)
}

/// The rate in records a second at which `kcat` writes committed records to a file, from the first to the last.
///
/// # Errors
/// When kcat is missing or fails.
pub fn kcat(lab: &Lab, topic: &str, records: u64) -> Result<f64> {
    let path = lab.stack.dir().join("kcat.out");
    let mut kcat = Command::new("kcat");
    kcat.args(["-C", "-q", "-e", "-b", &lab.kafka(), "-t", topic, "-X", "isolation.level=read_committed"]);
    kcat.args(["-f", &format!("%k %s{END}")]).stdout(File::create(&path)?);
    let mut kcat = kcat.spawn().context("cannot run kcat: install it (apt-get install kcat)")?;
    let mut first = None;
    let status = loop {
        let bytes = fs::metadata(&path)?.len();
        if bytes > 0 {
            first.get_or_insert((SystemTime::now(), bytes));
        }
        if let Some(status) = kcat.try_wait()? {
            break status;
        }
        std::thread::sleep(LOOK_EVERY);
    };
    ensure!(status.success(), "kcat ended with {status}");
    let written = fs::read(&path)?;
    let got = written.windows(END.len()).filter(|bytes| *bytes == END.as_bytes()).count() as u64;
    ensure!(got == records, "kcat wrote {got} of {records} records");
    let (first, at_first) = first.context("kcat wrote nothing")?;
    let took = fs::metadata(&path)?.modified()?.duration_since(first)?.as_secs_f64();
    Ok(records as f64 * (1.0 - at_first as f64 / written.len() as f64) / took)
}

/// Bytes of all logs, and the time of the last write.
pub(crate) fn written(logs: &Path) -> Result<(u64, SystemTime)> {
    let (mut bytes, mut last) = (0, SystemTime::UNIX_EPOCH);
    for log in files(logs) {
        let metadata = fs::metadata(log)?;
        (bytes, last) = (bytes + metadata.len(), last.max(metadata.modified()?));
    }
    Ok((bytes, last))
}

/// Whether each of the five consumers has written a line.
pub(crate) fn each_has_lines(logs: &Path) -> bool {
    files(logs).iter().filter(|log| fs::metadata(log).is_ok_and(|file| file.len() > 0)).count() == CONSUMERS
}

/// Lines of all logs.
pub(crate) fn lines(logs: &Path) -> Result<u64> {
    let mut lines = 0;
    for log in files(logs) {
        lines += fs::read(log)?.iter().filter(|byte| **byte == b'\n').count() as u64;
    }
    Ok(lines)
}

fn files(logs: &Path) -> Vec<std::path::PathBuf> {
    let slots = (1..=CONSUMERS).map(|n| logs.join(format!("consumer_{n}")).join("consumer_log.json"));
    slots.filter(|log| log.exists()).collect()
}
