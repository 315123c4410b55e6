//! Waits for visible effects on the programs.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::harness::{Harness, wait_for};
use testbed::Running;

/// The time limit for visible effects, unless a timeout determines it.
pub(super) const SEEN: Duration = Duration::from_secs(10);

impl Harness {
    pub(super) fn the_producer(&self) -> Result<&Running> {
        self.producer.as_ref().context("the producer does not run")
    }

    pub(super) fn running_consumers(&self) -> impl Iterator<Item = &Running> {
        self.consumers.iter().flatten()
    }
}

/// Waits until `/ready` of the program reports a reason with one of these words.
pub(super) fn wait_unready(program: &Running, words: &[&str], patience: Duration) -> Result<String> {
    let what = format!("{} says in /ready that it waits, for {words:?}", program.name());
    let mut last = None;
    let seen = wait_for(&what, patience, || {
        let answer = program.http("/ready");
        let found = answer.clone().filter(|(code, text)| *code == 503 && words.iter().any(|word| text.contains(word)));
        last = answer.or_else(|| last.take());
        found.map(|(_, text)| text)
    });
    seen.map_err(|e| anyhow!("{e}; its last answer is {last:?}\n{}", program.log_end()))
}

/// Waits until every program is ready again.
pub(super) fn wait_all_ready(harness: &mut Harness) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(60);
    let programs = harness.consumers.iter().chain([&harness.producer]).flatten();
    for program in programs {
        let mut last = None;
        wait_for(&format!("{} is ready again", program.name()), PATIENCE, || {
            last = program.http("/ready");
            last.as_ref().filter(|(code, _)| *code == 200).map(drop)
        })
        .map_err(|e| anyhow!("{e}; its last answer is {last:?}\n{}", program.log_end()))?;
    }
    harness.check_running()
}

/// Waits until the producer has ended with exit code 1 and has logged all these texts.
pub(super) fn wait_stopped(harness: &mut Harness, patience: Duration, words: &[&str]) -> Result<()> {
    let mut producer = harness.producer.take().context("the producer does not run")?;
    let before = producer.log().len();
    let ended = wait_for("the producer stops", patience, || (!producer.is_running()).then_some(()));
    ended.map_err(|e| anyhow!("{e}; it says {:?}\n{}", producer.http("/ready"), producer.log_end()))?;
    let ended = producer.wait();
    // Its log continues over restarts: only the part after the fault counts.
    let logged = ended.err.get(before.saturating_sub(LAST_WORDS)..).unwrap_or(&ended.err);
    let missing: Vec<_> = words.iter().filter(|word| !logged.contains(**word)).collect();
    anyhow::ensure!(
        ended.code == 1 && missing.is_empty(),
        "the producer must exit with 1 and log {missing:?}; it exited with {} and logged\n{logged}",
        ended.code
    );
    Ok(())
}

/// The last bytes of the log from before this call that may be about the fault.
const LAST_WORDS: usize = 2_000;

/// Applies the remedy that the producer names: a new snapshot. Returns when it is complete.
pub(super) fn reset_checkpoint(harness: &mut Harness) -> Result<()> {
    let epoch = harness.epoch()?;
    let ended = harness.bed.run("cdc-producer", &["checkpoint", "reset"]);
    anyhow::ensure!(ended.code == 0, "checkpoint reset exits with {}: {}", ended.code, ended.err);
    harness.start_producer();
    harness.epoch_after(epoch)?;
    Ok(())
}
