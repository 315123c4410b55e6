//! Kills and stops programs at named points between two durable steps.
//!
//! Each point is a call `runtime::failpoint::at(…)` in the program. The harness starts the program again with the
//! variable `FAILPOINTS`, so that it ends itself there after a few passes: only the point decides the moment.

use std::fmt::Display;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::Rng;
use runtime::step::{ConsumerStep, DurableStep, ProducerStep};

use super::fault::Fault;
use crate::harness::{Harness, wait_for};
use testbed::Running;
use testbed::programs::CONSUMERS;

/// The time limit for reaching a point, including the program's start.
const PATIENCE: Duration = Duration::from_secs(90);
/// The harness's transaction timeout is 10 s, and a broker checks every 10 s for transactions that exceed theirs.
const PAST_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(22);

/// A fault that kills a program at a step.
macro_rules! kill {
    ($step:expr, $expects:literal, $run:ident $(, $passes:literal)?) => {
        Fault {
            name: $step.kill(),
            expects: $expects,
            weight: 2,
            quick: true,
            run: |harness| $run(harness, $step $(, $passes)?),
        }
    };
}

/// A fault that stops a program at a step.
macro_rules! stop {
    ($step:expr, $expects:literal, $run:ident) => {
        Fault { name: $step.stop(), expects: $expects, weight: 1, quick: false, run: |harness| $run(harness, $step) }
    };
}

/// The faults of this family.
pub(super) const FAULTS: &[Fault] = &[
    kill!(
        ProducerStep::Initialised,
        "killed after init_transactions, before the position is read back: the next start reads it",
        kill_producer,
        0
    ),
    kill!(
        ProducerStep::Begun,
        "killed when a Kafka transaction has begun: it leaves nothing, the binlog is read again",
        kill_producer,
        20
    ),
    kill!(
        ProducerStep::Sending,
        "killed in the middle of a batch: the half that was sent is aborted by the next start and sent again",
        kill_producer,
        20
    ),
    kill!(
        ProducerStep::Sent,
        "killed with records and position sent, before the commit: both are aborted and sent again",
        kill_producer,
        20
    ),
    kill!(
        ProducerStep::Committed,
        "killed after the commit, before the checkpoint file says so: the file is behind, Kafka's position counts",
        kill_producer,
        20
    ),
    kill!(
        ProducerStep::FileSynced,
        "killed between the new checkpoint file's fsync and its rename: the old one is valid, Kafka's position counts",
        kill_producer,
        4
    ),
    kill!(
        ProducerStep::FileRenamed,
        "killed after the rename, before the folder's fsync: either file is valid",
        kill_producer,
        4
    ),
    kill!(
        ProducerStep::Identified,
        "killed when a reset has its identity in the file, before the new epoch is committed: begun once, by the next start",
        kill_in_snapshot,
        0
    ),
    kill!(
        ProducerStep::EpochCommitted,
        "killed when the new epoch is committed, before the file says so: its identity is in Kafka, it is not begun twice",
        kill_in_snapshot,
        0
    ),
    kill!(
        ProducerStep::ChunkRead,
        "killed with a chunk read and not sent: the snapshot continues after the last committed chunk",
        kill_in_snapshot,
        4
    ),
    kill!(
        ProducerStep::ChunkSending,
        "killed in the middle of a chunk's records: they are aborted, the chunk is read again",
        kill_in_snapshot,
        4
    ),
    kill!(
        ProducerStep::SweepCollected,
        "killed when the keys that may be gone are known: the pass is made again after the last committed one",
        kill_in_snapshot,
        0
    ),
    kill!(
        ProducerStep::SweepCompared,
        "killed when the keys that are gone are known, before a tombstone: the pass is made again",
        kill_in_snapshot,
        0
    ),
    kill!(
        ProducerStep::SweepSending,
        "killed in the middle of the tombstones of what is gone: they are aborted, or found when the pass is made again",
        kill_in_snapshot,
        0
    ),
    kill!(
        ConsumerStep::Initialised,
        "killed after init_transactions, before the log's committed length is read: the next start reads it",
        kill_consumer,
        0
    ),
    kill!(ConsumerStep::Polled, "killed with a batch in memory: it is polled again", kill_consumer, 10),
    kill!(
        ConsumerStep::RowsCommitted,
        "killed after PostgreSQL's commit, before the log: PostgreSQL passes by what it has when the batch is read again",
        kill_consumer,
        10
    ),
    kill!(
        ConsumerStep::Appending,
        "killed in the middle of a line: the next start cuts off the torn line and what is before it of the batch",
        kill_with_lines
    ),
    kill!(
        ConsumerStep::Appended,
        "killed after the append, before its fsync and the Kafka transaction: whole lines behind the committed length are cut off",
        kill_with_lines
    ),
    kill!(
        ConsumerStep::Synced,
        "killed after the fsync, before the commit: the transaction is aborted, durable lines that it has not committed are cut off",
        kill_with_lines
    ),
    kill!(
        ConsumerStep::Marked,
        "killed with the log's length sent, before the offsets: the transaction is aborted, the lines are cut off",
        kill_with_lines
    ),
    kill!(
        ConsumerStep::OffsetsSent,
        "killed with length and offsets sent, perhaps before the fsync: the transaction is aborted, the lines are cut off",
        kill_with_lines
    ),
    kill!(
        ConsumerStep::Committed,
        "killed after the commit: nothing is open, the next start continues after it",
        kill_consumer,
        10
    ),
    kill!(
        ConsumerStep::Recovering,
        "killed while it recovers a gone neighbour's slot, before the cut: the next consumer cuts the log",
        kill_recovering
    ),
    kill!(
        ConsumerStep::Recovered,
        "killed when a gone neighbour's log is cut, before the slot says so: the next consumer finds nothing to cut",
        kill_recovering
    ),
    Fault {
        name: ConsumerStep::Revoking.kill(),
        expects: "killed while a partition is taken from it, which then belongs to nobody: the group deals it out again",
        weight: 1,
        quick: true,
        run: kill_revoking,
    },
    stop!(
        ProducerStep::Sent,
        "stopped before a commit past the transaction timeout: fenced when it wakes, it restarts from Kafka's position",
        stop_producer
    ),
    stop!(
        ProducerStep::Sending,
        "stopped with half a batch sent, past the transaction timeout: the half is aborted, and it restarts",
        stop_producer
    ),
    stop!(
        ConsumerStep::RowsCommitted,
        "stopped after PostgreSQL's commit past the session timeout: others take over; its batch is refused when it wakes",
        stop_consumer
    ),
    stop!(
        ConsumerStep::Synced,
        "stopped after the fsync, before its commit, past both timeouts: others wait for the transaction's end; when it wakes it is fenced",
        stop_consumer
    ),
    stop!(
        ConsumerStep::Marked,
        "stopped within a Kafka transaction past both timeouts: it is aborted, others take over, it cuts its lines off",
        stop_consumer
    ),
    stop!(
        ConsumerStep::OffsetsSent,
        "stopped with length and offsets sent past both timeouts: the transaction is aborted, others take over, it cuts its lines off",
        stop_consumer
    ),
];

/// The value of `FAILPOINTS` for an action at `point`, after a random number of passes below `passes`.
pub(super) fn after_passes(harness: &mut Harness, point: impl DurableStep, passes: u32, deed: &str) -> String {
    let off = harness.rng.random_range(0..=passes);
    let off = if off == 0 { String::new() } else { format!("{off}*off->") };
    point.failpoint(&format!("{off}1*return({deed})"))
}

/// The number of times that a log reports the point.
pub(super) fn visits(log: &str, point: impl DurableStep) -> usize {
    let here = format!("point=\"{}\"", point.name());
    log.lines().filter(|line| line.contains("failpoint") && line.contains(&here)).count()
}

/// Waits until the program, whose log had `before` visits at its start, has killed itself at the point; returns its
/// log.
pub(super) fn dies_at(mut running: Running, point: impl DurableStep + Display, before: usize) -> Result<String> {
    wait_for(&format!("{} ends at {point}", running.name()), PATIENCE, || (!running.is_running()).then_some(()))
        .with_context(|| running.log_end())?;
    let ended = running.wait();
    ensure!(ended.code == -1, "it ended with {} before it came to {point}:\n{}", ended.code, ended.err);
    ensure!(visits(&ended.err, point) > before, "a signal ended it, but not at {point}:\n{}", ended.err);
    Ok(ended.err)
}

/// Kills the producer; returns its log so far.
pub(super) fn end_producer(harness: &mut Harness) -> String {
    harness.producer.take().map_or_else(String::new, |producer| {
        let log = producer.log();
        producer.kill();
        log
    })
}

fn kill_producer(harness: &mut Harness, point: ProducerStep, passes: u32) -> Result<()> {
    let before = visits(&end_producer(harness), point);
    let failpoints = after_passes(harness, point, passes, "kill");
    harness.start_producer_with(&[("FAILPOINTS", &failpoints)]);
    dies_at(harness.producer.take().context("it was started")?, point, before)?;
    harness.start_producer();
    Ok(())
}

/// Requests a new snapshot, in small chunks for a point that is passed several times, and kills the producer during it.
fn kill_in_snapshot(harness: &mut Harness, point: ProducerStep, passes: u32) -> Result<()> {
    let chunk = ("PRODUCER_SNAPSHOT_CHUNK", if passes > 0 { "20" } else { "500" });
    // Earlier commits belong to the stream of this epoch.
    harness.settle()?;
    let epoch = harness.epoch()?;
    harness.collapse_from_here()?;
    let before = visits(&end_producer(harness), point);
    let asked = harness.bed.run("cdc-producer", &["checkpoint", "reset"]);
    ensure!(asked.code == 0, "checkpoint reset: {}", asked.err);
    let committed = |harness: &Harness| harness.load.ledger().transactions();
    let transactions = committed(harness) + 100;
    harness.resume_load();
    // The rows that they delete are missing when the epoch begins.
    wait_for("the load's transactions", PATIENCE, || (committed(harness) >= transactions).then_some(()))?;
    let failpoints = after_passes(harness, point, passes, "kill");
    harness.start_producer_with(&[("FAILPOINTS", &failpoints), chunk]);
    dies_at(harness.producer.take().context("it was started")?, point, before)?;
    harness.start_producer();
    let now = harness.epoch_after(epoch)?;
    ensure!(now == epoch + 1, "one reset was asked for in epoch {epoch}, and now it is epoch {now}");
    harness.collapse_until_here()
}

/// Kills a random consumer; returns its number and its log so far.
pub(super) fn end_consumer(harness: &mut Harness) -> Result<(usize, String)> {
    let number = harness.rng.random_range(0..harness.consumers.len());
    let consumer = harness.consumers[number].take().context("every consumer runs between two faults")?;
    let log = consumer.log();
    consumer.kill();
    Ok((number, log))
}

/// Kills a random consumer at the point and starts it again.
fn kill_consumer(harness: &mut Harness, point: ConsumerStep, passes: u32) -> Result<()> {
    let (number, log) = end_consumer(harness)?;
    let failpoints = after_passes(harness, point, passes, "kill");
    harness.start_consumer_with(number, &[("FAILPOINTS", &failpoints)]);
    dies_at(harness.consumers[number].take().context("it was started")?, point, visits(&log, point))?;
    harness.start_consumer(number);
    Ok(())
}

/// Kills a consumer at a point that leaves lines behind the committed length. The next process that opens the log, the
/// consumer or a neighbour that recovers it, must cut them off and log it.
fn kill_with_lines(harness: &mut Harness, point: ConsumerStep) -> Result<()> {
    const CUT: &str = "cut off what no transaction committed";
    let cuts = |harness: &Harness| -> usize {
        let logs = harness.consumers.iter().flatten().map(Running::log);
        logs.map(|log| log.matches(CUT).count()).sum()
    };
    let (number, log) = end_consumer(harness)?;
    let failpoints = after_passes(harness, point, 10, "kill");
    harness.start_consumer_with(number, &[("FAILPOINTS", &failpoints)]);
    let running = harness.consumers[number].take().context("it was started")?;
    let others = cuts(harness);
    let own = dies_at(running, point, visits(&log, point))?.matches(CUT).count();
    harness.start_consumer(number);
    wait_for("the cut of the lines that no transaction committed", PATIENCE, || {
        (cuts(harness) > others + own).then_some(())
    })
}

/// Kills all consumers; the first one to restart finds the other slots abandoned, and dies while it recovers one.
fn kill_recovering(harness: &mut Harness, point: ConsumerStep) -> Result<()> {
    let number = harness.rng.random_range(0..harness.consumers.len());
    let before = harness.consumers[number].as_ref().map_or(0, |consumer| visits(&consumer.log(), point));
    harness.consumers.iter_mut().filter_map(Option::take).for_each(Running::kill);
    harness.start_consumer_with(number, &[("FAILPOINTS", &point.failpoint("1*return(kill)"))]);
    dies_at(harness.consumers[number].take().context("it was started")?, point, before)?;
    harness.start_all();
    Ok(())
}

fn has_partitions(harness: &Harness, number: usize) -> bool {
    harness.consumers[number].as_ref().is_some_and(|consumer| {
        let said = consumer.said();
        said.lines().any(|line| line.contains("partitions assigned") && !line.contains("=[]"))
    })
}

fn is_running(harness: &mut Harness, number: usize) -> bool {
    harness.consumers[number].as_mut().is_some_and(Running::is_running)
}

/// Adds consumers one by one until a random one must revoke a partition, and kills it there. Its successor gets the
/// remaining partitions from the broker without a rebalance, so no member is assigned the revoked partition, unless
/// another member revokes one for the newcomer too and joins again.
fn kill_revoking(harness: &mut Harness) -> Result<()> {
    const POINT: ConsumerStep = ConsumerStep::Revoking;
    let (number, log) = end_consumer(harness)?;
    harness.start_consumer_with(number, &[("FAILPOINTS", &POINT.failpoint("1*return(kill)"))]);
    wait_for("it has its partitions again", PATIENCE, || has_partitions(harness, number).then_some(()))?;
    let mut revoked = 0;
    for newcomer in CONSUMERS..2 * CONSUMERS {
        revoked = revocations(harness);
        harness.start_consumer(newcomer);
        wait_for("the newcomer has a partition, or the one that should give it up is dead", PATIENCE, || {
            (has_partitions(harness, newcomer) || !is_running(harness, number)).then_some(())
        })?;
        if !is_running(harness, number) {
            break;
        }
    }
    dies_at(harness.consumers[number].take().context("it was started")?, POINT, visits(&log, POINT))?;
    harness.start_consumer(number);
    harness.settle()?;
    harness.resume_load();
    // Every partition was read to its end, for one of these reasons.
    let dealt = |consumer: &Running| consumer.said().contains("nobody in the group owns these partitions");
    let is_dealt = harness.consumers.iter().flatten().any(dealt) || revocations(harness) > revoked;
    ensure!(is_dealt, "no consumer saw a partition without an owner, and none revoked another one");
    harness.scale_back()
}

/// The number of times that the running consumers have revoked partitions.
fn revocations(harness: &Harness) -> usize {
    harness.consumers.iter().flatten().map(|consumer| consumer.said().matches("partitions revoked").count()).sum()
}

/// Waits until the program is stopped at the point.
fn stops_at(running: &Running, point: impl DurableStep + Display, before: usize) -> Result<()> {
    let state = format!("/proc/{}/stat", running.pid());
    wait_for(&format!("{} stops at {point}", running.name()), PATIENCE, || {
        let stat = std::fs::read_to_string(&state).unwrap_or_default();
        let stands = stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'));
        (stands && visits(&running.log(), point) > before).then_some(())
    })
    .with_context(|| running.log_end())
}

/// Waits until the program has logged one of these texts since it continued.
fn says(running: &Running, since: usize, one_of: &[&str]) -> Result<()> {
    wait_for(&format!("{} says one of {one_of:?}", running.name()), PATIENCE, || {
        let log = running.log();
        let new = log.get(since..)?;
        one_of.iter().any(|text| new.contains(text)).then_some(())
    })
    .with_context(|| running.log_end())
}

fn stop_producer(harness: &mut Harness, point: ProducerStep) -> Result<()> {
    let before = visits(&end_producer(harness), point);
    let failpoints = after_passes(harness, point, 20, "stop");
    harness.start_producer_with(&[("FAILPOINTS", &failpoints)]);
    let producer = harness.producer.as_ref().context("it was started")?;
    stops_at(producer, point, before)?;
    std::thread::sleep(PAST_TRANSACTION_TIMEOUT);
    ensure!(producer.http("/health").is_none(), "a stopped producer answers /health");
    let since = producer.log().len();
    producer.signal("CONT");
    // Its transaction is aborted: it is fenced, creates a new client, and finds that it wrote the progress itself.
    says(producer, since, &["trying again"])?;
    says(producer, since, &["reading "])?;
    harness.check_running()
}

fn stop_consumer(harness: &mut Harness, point: ConsumerStep) -> Result<()> {
    let (number, log) = end_consumer(harness)?;
    let failpoints = after_passes(harness, point, 10, "stop");
    harness.start_consumer_with(number, &[("FAILPOINTS", &failpoints)]);
    stops_at(harness.consumers[number].as_ref().context("it was started")?, point, visits(&log, point))?;
    // Every partition is read without it: the session timeout has passed, and its transaction has ended.
    harness.settle()?;
    harness.resume_load();
    let consumer = harness.consumers[number].as_ref().context("it was started")?;
    ensure!(consumer.http("/health").is_none(), "a stopped consumer answers /health");
    let since = consumer.log().len();
    consumer.signal("CONT");
    // Either the group or the broker refuses its batch first.
    says(consumer, since, &["a rebalance overtook the batch", "trying again"])?;
    says(consumer, since, &["partitions assigned"])?;
    harness.check_running()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_durable_step_has_a_fault() {
        let has_fault = |name: &str| FAULTS.iter().any(|fault| fault.name == name);
        let producer = ProducerStep::ALL.iter().map(|step| step.kill());
        let missing: Vec<&str> =
            producer.chain(ConsumerStep::ALL.iter().map(|step| step.kill())).filter(|name| !has_fault(name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
