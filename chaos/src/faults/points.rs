//! Kills and stops programs at named points between two durable steps.
//!
//! Each point is a call `runtime::failpoint::at(…)` in the program. The harness starts the program again with the
//! variable `FAILPOINTS`, so that it ends itself there after a few passes: only the point decides the moment.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::Rng;

use super::fault::Fault;
use crate::harness::{Harness, wait_for};
use testbed::Running;
use testbed::programs::CONSUMERS;

/// The time limit for reaching a point, including the program's start.
const PATIENCE: Duration = Duration::from_secs(90);
/// The harness's transaction timeout is 10 s, and a broker checks every 10 s for transactions that exceed theirs.
const PAST_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(22);

const fn killed(name: &'static str, expects: &'static str, run: fn(&mut Harness) -> Result<()>) -> Fault {
    Fault { name, expects, weight: 2, quick: true, run }
}

const fn stopped(name: &'static str, expects: &'static str, run: fn(&mut Harness) -> Result<()>) -> Fault {
    Fault { name, expects, weight: 1, quick: false, run }
}

/// The faults of this family.
pub(super) const FAULTS: &[Fault] = &[
    killed(
        "kill-producer-initialised",
        "killed after init_transactions, before the position is read back: the next start reads it",
        |harness| kill_producer(harness, "producer.initialised", 0),
    ),
    killed(
        "kill-producer-begun",
        "killed when a Kafka transaction has begun: it leaves nothing, the binlog is read again",
        |harness| kill_producer(harness, "producer.begun", 20),
    ),
    killed(
        "kill-producer-sending",
        "killed in the middle of a batch: the half that was sent is aborted by the next start and sent again",
        |harness| kill_producer(harness, "producer.sending", 20),
    ),
    killed(
        "kill-producer-sent",
        "killed with records and position sent, before the commit: both are aborted and sent again",
        |harness| kill_producer(harness, "producer.sent", 20),
    ),
    killed(
        "kill-producer-committed",
        "killed after the commit, before the checkpoint file says so: the file is behind, Kafka's position counts",
        |harness| kill_producer(harness, "producer.committed", 20),
    ),
    killed(
        "kill-producer-file-synced",
        "killed between the new checkpoint file's fsync and its rename: the old one is valid, Kafka's position counts",
        |harness| kill_producer(harness, "producer.file-synced", 4),
    ),
    killed(
        "kill-producer-file-renamed",
        "killed after the rename, before the folder's fsync: either file is valid",
        |harness| kill_producer(harness, "producer.file-renamed", 4),
    ),
    killed(
        "kill-producer-identified",
        "killed when a reset has its identity in the file, before the new epoch is committed: begun once, by the next start",
        |harness| kill_in_snapshot(harness, "producer.identified", 0),
    ),
    killed(
        "kill-producer-epoch-committed",
        "killed when the new epoch is committed, before the file says so: its identity is in Kafka, it is not begun twice",
        |harness| kill_in_snapshot(harness, "producer.epoch-committed", 0),
    ),
    killed(
        "kill-producer-chunk-read",
        "killed with a chunk read and not sent: the snapshot continues after the last committed chunk",
        |harness| kill_in_snapshot(harness, "producer.chunk-read", 4),
    ),
    killed(
        "kill-producer-chunk-sending",
        "killed in the middle of a chunk's records: they are aborted, the chunk is read again",
        |harness| kill_in_snapshot(harness, "producer.chunk-sending", 4),
    ),
    killed(
        "kill-producer-sweep-collected",
        "killed when the keys that may be gone are known: the pass is made again after the last committed one",
        |harness| kill_in_snapshot(harness, "producer.sweep-collected", 0),
    ),
    killed(
        "kill-producer-sweep-compared",
        "killed when the keys that are gone are known, before a tombstone: the pass is made again",
        |harness| kill_in_snapshot(harness, "producer.sweep-compared", 0),
    ),
    killed(
        "kill-producer-sweep-sending",
        "killed in the middle of the tombstones of what is gone: they are aborted, or found when the pass is made again",
        |harness| kill_in_snapshot(harness, "producer.sweep-sending", 0),
    ),
    killed(
        "kill-consumer-initialised",
        "killed after init_transactions, before the log's committed length is read: the next start reads it",
        |harness| kill_consumer(harness, "consumer.initialised", 0),
    ),
    killed("kill-consumer-polled", "killed with a batch in memory: it is polled again", |harness| {
        kill_consumer(harness, "consumer.polled", 10)
    }),
    killed(
        "kill-consumer-rows-committed",
        "killed after PostgreSQL's commit, before the log: PostgreSQL passes by what it has when the batch is read again",
        |harness| kill_consumer(harness, "consumer.rows-committed", 10),
    ),
    killed(
        "kill-consumer-appending",
        "killed in the middle of a line: the next start cuts off the torn line and what is before it of the batch",
        |harness| kill_with_lines(harness, "consumer.appending"),
    ),
    killed(
        "kill-consumer-appended",
        "killed after the append, before its fsync: whole lines behind the committed length are cut off",
        |harness| kill_with_lines(harness, "consumer.appended"),
    ),
    killed(
        "kill-consumer-synced",
        "killed after the fsync, before the Kafka transaction: durable lines that no transaction committed are cut off",
        |harness| kill_with_lines(harness, "consumer.synced"),
    ),
    killed(
        "kill-consumer-marked",
        "killed with the log's length sent, before the offsets: the transaction is aborted, the lines are cut off",
        |harness| kill_with_lines(harness, "consumer.marked"),
    ),
    killed(
        "kill-consumer-offsets-sent",
        "killed with length and offsets sent, before the commit: the transaction is aborted, the lines are cut off",
        |harness| kill_with_lines(harness, "consumer.offsets-sent"),
    ),
    killed(
        "kill-consumer-committed",
        "killed after the commit: nothing is open, the next start continues after it",
        |harness| kill_consumer(harness, "consumer.committed", 10),
    ),
    killed(
        "kill-consumer-recovering",
        "killed while it recovers a gone neighbour's slot, before the cut: the next consumer cuts the log",
        |harness| kill_recovering(harness, "consumer.recovering"),
    ),
    killed(
        "kill-consumer-recovered",
        "killed when a gone neighbour's log is cut, before the slot says so: the next consumer finds nothing to cut",
        |harness| kill_recovering(harness, "consumer.recovered"),
    ),
    Fault {
        name: "kill-consumer-revoking",
        expects: "killed while a partition is taken from it, which then belongs to nobody: the group deals it out again",
        weight: 1,
        quick: true,
        run: kill_revoking,
    },
    stopped(
        "stop-producer-sent",
        "stopped before a commit past the transaction timeout: fenced when it wakes, it restarts from Kafka's position",
        |harness| stop_producer(harness, "producer.sent"),
    ),
    stopped(
        "stop-producer-sending",
        "stopped with half a batch sent, past the transaction timeout: the half is aborted, and it restarts",
        |harness| stop_producer(harness, "producer.sending"),
    ),
    stopped(
        "stop-consumer-rows-committed",
        "stopped after PostgreSQL's commit past the session timeout: others take over; its batch is refused when it wakes",
        |harness| stop_consumer(harness, "consumer.rows-committed"),
    ),
    stopped(
        "stop-consumer-synced",
        "stopped after the fsync past the session timeout: others take over; when it wakes it cuts its lines off",
        |harness| stop_consumer(harness, "consumer.synced"),
    ),
    stopped(
        "stop-consumer-marked",
        "stopped within a Kafka transaction past both timeouts: it is aborted, others take over, it cuts its lines off",
        |harness| stop_consumer(harness, "consumer.marked"),
    ),
    stopped(
        "stop-consumer-offsets-sent",
        "stopped before its commit past both timeouts: others wait for the transaction's end; when it wakes it is fenced",
        |harness| stop_consumer(harness, "consumer.offsets-sent"),
    ),
];

/// The value of `FAILPOINTS` for an action at `point`, after a random number of passes below `passes`.
pub(super) fn after_passes(harness: &mut Harness, point: &str, passes: u32, deed: &str) -> String {
    let off = harness.rng.random_range(0..=passes);
    let off = if off == 0 { String::new() } else { format!("{off}*off->") };
    format!("{point}={off}1*return({deed})")
}

/// The number of times that a log reports the point.
pub(super) fn visits(log: &str, point: &str) -> usize {
    let here = format!("point=\"{point}\"");
    log.lines().filter(|line| line.contains("failpoint") && line.contains(&here)).count()
}

/// Waits until the program, whose log had `before` visits at its start, has killed itself at the point; returns its
/// log.
pub(super) fn dies_at(mut running: Running, point: &str, before: usize) -> Result<String> {
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

fn kill_producer(harness: &mut Harness, point: &str, passes: u32) -> Result<()> {
    let before = visits(&end_producer(harness), point);
    let failpoints = after_passes(harness, point, passes, "kill");
    harness.start_producer_with(&[("FAILPOINTS", &failpoints)]);
    dies_at(harness.producer.take().context("it was started")?, point, before)?;
    harness.start_producer();
    Ok(())
}

/// Requests a new snapshot, in small chunks for a point that is passed several times, and kills the producer during it.
fn kill_in_snapshot(harness: &mut Harness, point: &str, passes: u32) -> Result<()> {
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
fn kill_consumer(harness: &mut Harness, point: &str, passes: u32) -> Result<()> {
    let (number, log) = end_consumer(harness)?;
    let failpoints = after_passes(harness, point, passes, "kill");
    harness.start_consumer_with(number, &[("FAILPOINTS", &failpoints)]);
    dies_at(harness.consumers[number].take().context("it was started")?, point, visits(&log, point))?;
    harness.start_consumer(number);
    Ok(())
}

/// Kills a consumer at a point that leaves lines behind the committed length. The next process that opens the log, the
/// consumer or a neighbour that recovers it, must cut them off and log it.
fn kill_with_lines(harness: &mut Harness, point: &str) -> Result<()> {
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
fn kill_recovering(harness: &mut Harness, point: &str) -> Result<()> {
    let number = harness.rng.random_range(0..harness.consumers.len());
    let before = harness.consumers[number].as_ref().map_or(0, |consumer| visits(&consumer.log(), point));
    harness.consumers.iter_mut().filter_map(Option::take).for_each(Running::kill);
    harness.start_consumer_with(number, &[("FAILPOINTS", &format!("{point}=1*return(kill)"))]);
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
    const POINT: &str = "consumer.revoking";
    let (number, log) = end_consumer(harness)?;
    harness.start_consumer_with(number, &[("FAILPOINTS", &format!("{POINT}=1*return(kill)"))]);
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
fn stops_at(running: &Running, point: &str, before: usize) -> Result<()> {
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

fn stop_producer(harness: &mut Harness, point: &str) -> Result<()> {
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

fn stop_consumer(harness: &mut Harness, point: &str) -> Result<()> {
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
