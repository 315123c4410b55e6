//! Disks, clocks and topics in unusual states.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use rdkafka::admin::{AdminClient, AdminOptions};

use super::fault::Fault;
use super::people::{Who, ask, refuses, some_consumer, stop_producer};
use crate::harness::{Harness, wait_for};
use testbed::{Clock, Running, SmallDisk};

/// The faults of this family.
pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "disk-full-logs",
        expects: "a consumer whose log's disk is full is not ready and says why, tears no line, and continues without help when \
                  there is room",
        weight: 2,
        quick: true,
        run: disk_full_logs,
    },
    Fault {
        name: "disk-full-time-track",
        expects: "a producer that can't write its checkpoint file says so and continues, as the position is in Kafka; the \
                  file follows when there is room",
        weight: 2,
        quick: true,
        run: disk_full_time_track,
    },
    Fault {
        name: "clock-set-back",
        expects: "producer and consumer continue as before when their hosts' clocks are set back, forth and back",
        weight: 2,
        quick: true,
        run: clock_set_back,
    },
    Fault {
        name: "million-rows",
        expects: "a transaction of a million rows, and one that deletes them, stream through a producer whose memory may not \
                  grow by more than 192 MiB",
        weight: 0,
        quick: false,
        run: million_rows,
    },
    Fault {
        name: "topic-deleted",
        expects: "the producer stops definitely when its topic is gone, the consumers when it is created again; after a reset, \
                  with a new group, log folder and database, all agree again",
        weight: 0,
        quick: false,
        run: topic_deleted,
    },
];

const SOON: Duration = Duration::from_secs(20);
const MIB: u64 = 1 << 20;

fn ready(running: &Running) -> bool {
    running.http("/ready").is_some_and(|(code, _)| code == 200)
}

/// The folder of the slot that the next consumer will claim: the first whose lock is free.
fn next_slot(logs: &Path) -> Result<PathBuf> {
    for number in 1.. {
        let folder = logs.join(format!("consumer_{number}"));
        let Ok(lock) = fs::File::options().write(true).open(folder.join(".lock")) else { return Ok(folder) };
        if Flock::lock(lock, FlockArg::LockExclusiveNonblock).is_ok() {
            return Ok(folder);
        }
    }
    bail!("no slot is free")
}

fn disk_full_logs(harness: &mut Harness) -> Result<()> {
    harness.resume_load();
    let (number, _) = some_consumer(harness)?;
    let ended = harness.consumers[number].take().context("it runs")?.stop();
    ensure!(ended.code == 0, "asked to stop, the consumer left with {}:\n{}", ended.code, ended.err);
    let slot = next_slot(Path::new(harness.bed.get("CONSUMER_LOGS")))?;
    let length = fs::metadata(slot.join("consumer_log.json")).map_or(0, |m| m.len());
    let log = harness.bed.folder.join(format!("consumer{number}.log"));
    let (consumer, disk) =
        SmallDisk::start(&harness.bed.command("consumer", &[]), "consumer", log, &slot, length + 4 * MIB)?;
    wait_for("the consumer is ready", SOON, || ready(&consumer).then_some(()))?;
    disk.fill()?;
    wait_for("/ready says that the disk is full", SOON, || {
        let (code, said) = consumer.http("/ready")?;
        (code == 503 && said.contains("consumer_log.json") && said.contains("No space left")).then_some(())
    })
    .with_context(|| format!("/ready: {:?}", consumer.http("/ready")))?;
    ensure!(consumer.said().contains("make room on the disk"), "no remedy:\n{}", consumer.log_end());
    disk.free()?;
    wait_for("it continues", SOON, || ready(&consumer).then_some(()))?;
    let ended = consumer.stop();
    ensure!(ended.code == 0, "after the full disk the consumer left with {}:\n{}", ended.code, ended.err);
    let lines = fs::read(slot.join("consumer_log.json"))?;
    ensure!(lines.len() as u64 > length && lines.ends_with(b"\n"), "it wrote nothing, or tore a line");
    harness.start_all();
    Ok(())
}

fn disk_full_time_track(harness: &mut Harness) -> Result<()> {
    harness.resume_load();
    stop_producer(harness)?;
    let folder = PathBuf::from(harness.bed.get("PRODUCER_TIME_TRACK"));
    let log = harness.bed.folder.join("cdc-producer.log");
    let command = harness.bed.command("cdc-producer", &[]);
    let (producer, disk) = SmallDisk::start(&command, "cdc-producer", log, &folder, MIB)?;
    wait_for("the producer is ready", SOON, || ready(&producer).then_some(()))?;
    disk.fill()?;
    wait_for("it says that the file is out of date", SOON, || {
        producer.said().contains("the checkpoint file is out of date").then_some(())
    })?;
    ensure!(producer.said().contains("make room and let this user write"), "no remedy:\n{}", producer.log_end());
    let file = disk.file("last_read_timestamp.json");
    let old = fs::read_to_string(&file)?;
    serde_json::from_str::<serde_json::Value>(&old).context("the checkpoint file is torn")?;
    // The stream continues meanwhile.
    harness.producer = Some(producer);
    harness.probe()?;
    let producer = harness.producer.as_ref().context("it runs")?;
    ensure!(ready(producer), "it streams, but is not ready");
    ensure!(fs::read_to_string(&file)? == old, "the file was written to a full disk");
    disk.free()?;
    wait_for("the file follows", SOON, || fs::read_to_string(&file).is_ok_and(|now| now != old).then_some(()))?;
    stop_producer(harness)?;
    harness.start_all();
    Ok(())
}

fn clock_set_back(harness: &mut Harness) -> Result<()> {
    const HOUR: Duration = Duration::from_secs(3_600);
    harness.resume_load();
    let clock = Clock::new(&harness.bed.folder)?;
    let (number, _) = some_consumer(harness)?;
    stop_producer(harness)?;
    harness.consumers[number].take().context("it runs")?.stop();
    harness.start_producer_with(&clock.variables());
    harness.start_consumer_with(number, &clock.variables());
    harness.probe()?;
    // Kafka accepts a client clock that is an hour ahead; a day is more than an adjustment.
    for (forth, back) in [(HOUR * 24, HOUR * 2), (HOUR * 2, HOUR * 24 * 365)] {
        clock.set_forward(forth)?;
        harness.probe().with_context(|| format!("{forth:?} ahead"))?;
        clock.set_back(back)?;
        harness.probe().with_context(|| format!("set back to {back:?} behind"))?;
    }
    // A change in every partition, so also in this consumer's.
    harness.settle()?;
    harness.resume_load();
    let producer = harness.producer.as_ref().context("it runs")?;
    for running in [producer, harness.consumers[number].as_ref().context("it runs")?] {
        ensure!(ready(running), "{} is not ready: {:?}", running.name(), running.http("/ready"));
    }
    stop_producer(harness)?;
    let ended = harness.consumers[number].take().context("it runs")?.stop();
    ensure!(ended.code == 0, "the consumer left with {}:\n{}", ended.code, ended.err);
    harness.start_all();
    Ok(())
}

fn million_rows(harness: &mut Harness) -> Result<()> {
    const ROOM: u64 = 192 * MIB;
    // The ids are below those that other faults use, and may have left.
    const FIRST: i64 = -2_000_000;
    let producer = harness.producer.as_ref().context("it runs")?;
    let status = fs::read_to_string(format!("/proc/{}/status", producer.pid()))?;
    let data =
        status.lines().find_map(|line| line.strip_prefix("VmData:")?.split_whitespace().next()?.parse::<u64>().ok());
    let limit = data.context("no VmData")? * 1024 + ROOM;
    // Lower only the soft limit: a lowered hard limit could not be raised for the next time.
    let limited = std::process::Command::new("prlimit")
        .args([format!("--pid={}", producer.pid()), format!("--data={limit}:")])
        .status()
        .context("prlimit (package util-linux)")?;
    ensure!(limited.success(), "prlimit ended with {limited}");
    let insert = format!(
        "INSERT INTO product (id, name, category, price, last_updated) \
         SELECT {FIRST} - 1 - a.n - 10*b.n - 100*c.n - 1000*d.n - 10000*e.n - 100000*f.n, \
         CONCAT('product ', a.n), 'CAT_5', 12.30, '2026-01-01' FROM digit a, digit b, digit c, digit d, digit e, digit f"
    );
    harness.commit_direct(&[
        "CREATE TABLE digit (n INT)",
        "INSERT INTO digit VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)",
        &insert,
        &format!("DELETE FROM product WHERE id < {FIRST}"),
        "DROP TABLE digit",
    ])?;
    harness.pause_load()?;
    let verified = harness.bed.run("verify", &["--wait", "300s"]);
    ensure!(verified.code == 0, "verify:\n{}\n{}", verified.out, verified.err);
    harness.check_running()?;
    harness.resume_load();
    Ok(())
}

fn topic_deleted(harness: &mut Harness) -> Result<()> {
    harness.settle()?;
    let (settings, epoch) = (harness.bed.kafka(), harness.epoch()?);
    let admin: AdminClient<_> = kafka::client_config(&settings).create()?;
    let deleted = harness.block_on(admin.delete_topics(&[&settings.topic], &AdminOptions::new()))?;
    ensure!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    harness.begin_main_topic();
    harness.resume_load();
    let producer = harness.producer.as_mut().context("it runs")?;
    // A record waits for its topic for three quarters of the transaction timeout.
    wait_for("the producer stops", SOON * 3, || (!producer.is_running()).then_some(()))?;
    refuses(harness, Who::Producer, &["is gone, but the position in", "checkpoint reset"], |_| Ok(()))?;
    ask(harness, &["reset"])?;
    harness.start_producer();
    for number in 0..harness.consumers.len() {
        if harness.consumers[number].is_some() {
            let says = ["was deleted and created again", "kafka.group_id", "consumer.logs"];
            refuses(harness, Who::Consumer(number), &says, |_| Ok(()))?;
        }
    }
    for name in ["KAFKA_GROUP_ID", "CONSUMER_LOGS", "POSTGRES_URL"] {
        let anew = format!("{}_{epoch}", harness.bed.get(name));
        harness.bed.set(name, anew);
    }
    harness.start_all();
    harness.epoch_after(epoch)?;
    harness.collapse_until_here()
}
