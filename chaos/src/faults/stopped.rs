//! Processes that are stopped (SIGSTOP) past every timeout, and continue after others have taken over.
//!
//! A stopped process can report nothing. The faults require that it does not answer, that others take over its work
//! where possible, and that its old state does no harm when it continues.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::Rng;

use super::fault::Fault;
use crate::harness::{Harness, wait_for};
use testbed::{Running, TestBed};

/// Longer than `kafka.transaction_timeout` of an harness, after which the broker aborts (it checks every 10 s).
const PAST_TRANSACTION: Duration = Duration::from_secs(14);
/// Longer than `kafka.session_timeout` of an harness.
const PAST_SESSION: Duration = Duration::from_secs(8);
/// The time limit for everything to work again.
const PATIENCE: Duration = Duration::from_secs(60);

/// The faults of this family.
pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "stop-producer-past-transaction",
        expects: "the producer sleeps for longer than its transaction may be open, wakes, and continues",
        weight: 2,
        quick: false,
        run: producer_alone,
    },
    Fault {
        name: "stop-producer-taken-over",
        expects: "another host's producer takes over while it sleeps; it wakes, is refused, names the reason and leaves",
        weight: 0,
        quick: false,
        run: producer_taken_over,
    },
    Fault {
        name: "stop-consumer-past-session",
        expects: "its neighbours take its partitions; it wakes, does no harm with its half batch, and gets partitions again",
        weight: 3,
        quick: false,
        run: one_consumer,
    },
    Fault {
        name: "stop-all-consumers-past-session",
        expects: "the whole group sleeps past its session, wakes and continues",
        weight: 3,
        quick: false,
        run: all_consumers,
    },
    Fault {
        name: "stop-all-consumers-in-rebalance",
        expects: "all of them sleep past their session just when a member joins: who wakes first does not repeat the others' work",
        weight: 2,
        quick: false,
        run: all_in_a_rebalance,
    },
    Fault {
        name: "stop-consumer-in-rebalance",
        expects: "a member sleeps past its session in the middle of a rebalance: the others continue without it, and it comes back",
        weight: 1,
        quick: false,
        run: in_a_rebalance,
    },
];

fn producer(harness: &Harness) -> Result<&Running> {
    harness.producer.as_ref().context("the producer runs")
}

/// Stops the programs for `time` and a little more, and requires that none answers meanwhile.
fn sleeping(programs: &[&Running], time: Duration, arena_chance: u64) -> Result<()> {
    programs.iter().for_each(|program| program.signal("STOP"));
    let until = Instant::now() + time + Duration::from_millis(arena_chance);
    for program in programs {
        // The threads of a process stop one after the other.
        let quiet = wait_for("it does not answer", PATIENCE, || program.http("/health").is_none().then_some(()));
        quiet.with_context(|| format!("the stopped {}", program.name()))?;
    }
    sleep(until.saturating_duration_since(Instant::now()));
    Ok(())
}

fn must_be_ready(program: &Running) -> Result<()> {
    let ready = || program.http("/ready").filter(|(status, _)| *status == 200).map(drop);
    let ready = wait_for(&format!("{} is ready", program.name()), PATIENCE, ready);
    ready.with_context(|| program.log_end())
}

fn producer_alone(harness: &mut Harness) -> Result<()> {
    let more = harness.rng.random_range(0..2_000);
    let producer = producer(harness)?;
    let committed = |p: &Running| p.metric("producer_records_committed_total");
    sleeping(&[producer], PAST_TRANSACTION, more)?;
    producer.signal("CONT");
    let before = wait_for("it answers", PATIENCE, || committed(producer))?;
    // The same process must continue, under the load.
    let goes_on = wait_for("it commits again", PATIENCE, || committed(producer).filter(|now| *now > before).map(drop));
    goes_on.with_context(|| producer.log_end())?;
    must_be_ready(producer)?;
    harness.check_running()
}

fn producer_taken_over(harness: &mut Harness) -> Result<()> {
    let more = harness.rng.random_range(0..2_000);
    sleeping(&[producer(harness)?], PAST_TRANSACTION, more)?;
    // The other host has a copy of the folder, as after restoring a backup.
    let here = harness.bed.get("PRODUCER_TIME_TRACK").to_owned();
    let there = harness.bed.folder.join(format!("time_track_{}", harness.rng.random::<u32>()));
    copy_files(&here, &there)?;
    let second = start_second(&harness.bed, &there);
    must_be_ready(&second)?;
    let zombie = harness.producer.take().context("the producer runs")?;
    zombie.signal("CONT");
    let ended = zombie.wait();
    let why = "another producer with the transactional id";
    ensure!(ended.code == 1 && ended.err.contains(why), "it ended with {}:\n{}", ended.code, ended.err);
    // The zombie's last attempt may have aborted a transaction of the second producer.
    harness.producer = Some(second);
    harness.probe()?;
    let second = harness.producer.take().context("the second producer runs")?;
    must_be_ready(&second)?;
    // The producer moves back to the first host, with its folder.
    let ended = second.stop();
    ensure!(ended.code == 0, "the second producer ended with {}:\n{}", ended.code, ended.err);
    copy_files(there.to_str().context("a plain path")?, std::path::Path::new(&here))?;
    fs::remove_dir_all(&there)?;
    harness.start_all();
    Ok(())
}

fn start_second(bed: &TestBed, time_track: &std::path::Path) -> Running {
    let mut command = bed.command("cdc-producer", &[]);
    command.env("PRODUCER_TIME_TRACK", time_track);
    Running::start(command, "the second cdc-producer", bed.folder.join("cdc-producer-2.log"))
}

fn copy_files(from: &str, to: &std::path::Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Whether the consumer was assigned partitions after its log had this length.
fn assigned_since(consumer: &Running, length: usize) -> bool {
    consumer.log().get(length..).is_some_and(|log| log.contains("partitions assigned"))
}

fn one_consumer(harness: &mut Harness) -> Result<()> {
    let more = harness.rng.random_range(0..2_000);
    let number = harness.rng.random_range(0..harness.consumers.len());
    let lengths: Vec<usize> = harness.consumers.iter().map(|c| c.as_ref().map_or(0, |c| c.log().len())).collect();
    let consumer = |harness: &Harness, number: usize| -> Result<()> {
        let program = harness.consumers[number].as_ref().context("the consumer runs")?;
        sleeping(&[program], PAST_SESSION, more)
    };
    consumer(harness, number)?;
    let others = |harness: &Harness| {
        let others = harness.consumers.iter().enumerate().filter(|(i, _)| *i != number);
        others.filter_map(|(i, c)| Some((i, c.as_ref()?))).any(|(i, c)| assigned_since(c, lengths[i])).then_some(())
    };
    wait_for("a neighbour takes its partitions", PATIENCE, || others(harness))?;
    let sleeper = harness.consumers[number].as_ref().context("the consumer runs")?;
    let length = sleeper.log().len();
    sleeper.signal("CONT");
    let back = wait_for("it has partitions again", PATIENCE, || assigned_since(sleeper, length).then_some(()));
    back.with_context(|| sleeper.log_end())?;
    for consumer in harness.consumers.iter().flatten() {
        must_be_ready(consumer)?;
    }
    harness.check_running()
}

fn all_consumers(harness: &mut Harness) -> Result<()> {
    let more = harness.rng.random_range(0..2_000);
    let all: Vec<&Running> = harness.consumers.iter().flatten().collect();
    sleeping(&all, PAST_SESSION, more)?;
    all.iter().for_each(|consumer| consumer.signal("CONT"));
    for consumer in all {
        must_be_ready(consumer)?;
    }
    harness.check_running()
}

/// Stops all during a rebalance: answers to old requests wait for the processes, from a group that has rebalanced
/// since.
fn all_in_a_rebalance(harness: &mut Harness) -> Result<()> {
    let newcomer = harness.consumers.len();
    harness.start_consumer(newcomer);
    let new = harness.consumers[newcomer].as_ref().context("the newcomer runs")?;
    wait_for("the newcomer is given partitions", PATIENCE, || assigned_since(new, 0).then_some(()))?;
    // Its neighbours are about to join again, to revoke their partitions.
    sleep(Duration::from_millis(harness.rng.random_range(0..700)));
    let all: Vec<&Running> = harness.consumers.iter().flatten().collect();
    sleeping(&all, PAST_SESSION, 0)?;
    for consumer in &all {
        consumer.signal("CONT");
        sleep(Duration::from_millis(harness.rng.random_range(0..500)));
    }
    all.into_iter().try_for_each(must_be_ready)?;
    let ended = harness.consumers.pop().flatten().context("the newcomer runs")?.stop();
    ensure!(ended.code == 0, "the newcomer ended with {}:\n{}", ended.code, ended.err);
    harness.check_running()
}

fn in_a_rebalance(harness: &mut Harness) -> Result<()> {
    let more = harness.rng.random_range(0..1_000);
    let sleeper = harness.rng.random_range(0..harness.consumers.len());
    let newcomer = harness.consumers.len();
    harness.start_consumer(newcomer);
    let new = harness.consumers[newcomer].as_mut().context("the newcomer runs")?;
    wait_for("the newcomer has a slot", PATIENCE, || new.said().contains("slot claimed").then_some(()))?;
    sleep(Duration::from_millis(more));
    let program = harness.consumers[sleeper].as_ref().context("the consumer runs")?;
    let length = program.log().len();
    sleeping(&[program], PAST_SESSION, more)?;
    let new = harness.consumers[newcomer].as_ref().context("the newcomer runs")?;
    let given = wait_for("the newcomer has partitions", PATIENCE, || assigned_since(new, 0).then_some(()));
    given.with_context(|| new.log_end())?;
    let program = harness.consumers[sleeper].as_ref().context("the consumer runs")?;
    program.signal("CONT");
    let back = wait_for("it has partitions again", PATIENCE, || assigned_since(program, length).then_some(()));
    back.with_context(|| program.log_end())?;
    let ended = harness.consumers.pop().flatten().context("the newcomer runs")?.stop();
    ensure!(ended.code == 0, "the newcomer ended with {}:\n{}", ended.code, ended.err);
    for consumer in harness.consumers.iter().flatten() {
        must_be_ready(consumer)?;
    }
    harness.check_running()
}
