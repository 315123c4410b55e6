//! Killed or stopped brokers: a lone one, or a leader or coordinator of three.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use rand::Rng;
use testbed::servers::Kafka;

use super::super::fault::Fault;
use super::effects::{SEEN, wait_all_ready, wait_unready};
use crate::cluster::{Cluster, GROUPS, TRANSACTIONS};
use crate::harness::{Harness, wait_for};

pub(in crate::faults) const FAULTS: &[Fault] = &[
    Fault {
        name: "broker-kill",
        expects: "a random broker is killed and started again: nothing ends; one that was alone holds everything up",
        weight: 4,
        quick: true,
        run: |harness| {
            let broker = any(harness);
            killed(harness, broker, |_| Ok(()))
        },
    },
    Fault {
        name: "broker-kill-leader",
        expects: "the leader of a random partition of the topic is killed: with three brokers another takes over",
        weight: 3,
        quick: false,
        run: |harness| {
            let partition = harness.rng.random_range(0..10);
            let topic = harness.bed.kafka().topic;
            kill_leader(harness, &topic, partition)
        },
    },
    Fault {
        name: "broker-kill-producer-coordinator",
        expects: "the coordinator of the producer's transactions is killed while they run",
        weight: 3,
        quick: false,
        run: |harness| {
            let id = harness.bed.kafka().transactional_id;
            kill_coordinator(harness, TRANSACTIONS, &id)
        },
    },
    Fault {
        name: "broker-kill-consumer-coordinator",
        expects: "the coordinator of a random consumer's transactions is killed while they run",
        weight: 3,
        quick: false,
        run: |harness| {
            let slot = harness.rng.random_range(1..=harness.consumers.len());
            let kafka = harness.bed.kafka();
            let folder = kafka::slots::Folder::read(Path::new(harness.bed.get("CONSUMER_LOGS")))?;
            let folder = folder.context("the logs folder has no identity")?.id;
            // The id contains the group's name unless it is the default group.
            let id = format!("{}.consumer_{slot}-{folder}.{}", kafka.topic, kafka.group_id);
            kill_coordinator(harness, TRANSACTIONS, &id)
        },
    },
    Fault {
        name: "broker-kill-group-coordinator",
        expects: "the coordinator of the consumers' group is killed: they keep or get their partitions, nothing twice",
        weight: 3,
        quick: false,
        run: |harness| {
            let group = harness.bed.kafka().group_id;
            kill_coordinator(harness, GROUPS, &group)
        },
    },
    Fault {
        name: "broker-stop",
        expects: "a random broker is stopped for one to four seconds: nothing ends, no session is lost",
        weight: 3,
        quick: true,
        run: |harness| {
            let pause = Duration::from_millis(harness.rng.random_range(1_000..4_000));
            let broker = any(harness);
            stopped(harness, broker, pause, |_| Ok(()))
        },
    },
    Fault {
        name: "broker-stop-long",
        expects: "every broker is stopped past session and transaction timeouts: all say that they wait, and continue",
        weight: 0,
        quick: false,
        run: stop_all_long,
    },
    Fault {
        name: "broker-flap",
        expects: "every broker is stopped past the transaction timeout, twice with a second between: the same",
        weight: 0,
        quick: false,
        run: |harness| {
            stop_all(harness, Duration::from_secs(13), |_| Ok(()))?;
            std::thread::sleep(Duration::from_secs(1));
            stop_all(harness, Duration::from_secs(13), |_| Ok(()))
        },
    },
    Fault {
        name: "broker-restart",
        expects: "one broker after the other is stopped in order and started again: nothing ends",
        weight: 1,
        quick: false,
        run: |harness| {
            for broker in 0..harness.servers.kafka.len() {
                harness.servers.kafka[broker].restart()?;
                harness.check_running()?;
                harness.probe()?;
            }
            Ok(())
        },
    },
    Fault {
        name: "broker-kill-all",
        expects: "every broker is killed at once and started again: nothing ends",
        weight: 1,
        quick: false,
        run: |harness| {
            for broker in &mut harness.servers.kafka {
                broker.server.kill()?;
            }
            stands_still(harness)?;
            Kafka::start_all_again(&mut harness.servers.kafka)?;
            harness.check_running()
        },
    },
];

fn any(harness: &mut Harness) -> usize {
    let brokers = harness.servers.kafka.len();
    harness.rng.random_range(0..brokers)
}

fn alone(harness: &Harness) -> bool {
    harness.servers.kafka.len() == 1
}

/// Kills a broker, runs `meanwhile`, and starts it again.
fn killed(harness: &mut Harness, broker: usize, meanwhile: impl FnOnce(&mut Harness) -> Result<()>) -> Result<()> {
    harness.servers.kafka[broker].server.kill()?;
    let seen = if alone(harness) { stands_still(harness) } else { meanwhile(harness) };
    harness.servers.kafka[broker].start_again()?;
    seen?;
    harness.check_running()
}

/// Requires that nothing is committed any more, and that no program ends.
fn stands_still(harness: &mut Harness) -> Result<()> {
    let committed = |harness: &Harness| harness.the_producer().ok()?.metric("producer_kafka_transactions_total");
    // Answers from before the kill may still be on their way.
    std::thread::sleep(Duration::from_millis(200));
    let before = committed(harness).context("the producer shows no numbers")?;
    std::thread::sleep(Duration::from_millis(500));
    let after = committed(harness).context("the producer shows no numbers")?;
    ensure!((after - before).abs() < 0.5, "{before} and then {after} transactions are committed without a broker");
    harness.check_running()
}

fn kill_leader(harness: &mut Harness, topic: &str, partition: i32) -> Result<()> {
    let cluster = Cluster::new(&harness.bed.kafka())?;
    let leader =
        wait_for(&format!("{topic} [{partition}] has a leader"), SEEN, || cluster.leader(topic, partition).ok()?)?;
    let topic = topic.to_owned();
    killed(harness, leader, |harness| {
        // The dead broker's session must time out first.
        wait_for(&format!("another leader of {topic} [{partition}]"), Duration::from_secs(30), || {
            cluster.leader(&topic, partition).ok()?.filter(|now| *now != leader)
        })?;
        // Two of three brokers are sufficient for everything.
        harness.probe().map(drop)
    })
}

fn kill_coordinator(harness: &mut Harness, states: &str, id: &str) -> Result<()> {
    let partition = Cluster::new(&harness.bed.kafka())?.partition_of(states, id)?;
    kill_leader(harness, states, partition)
}

fn stopped(
    harness: &mut Harness,
    broker: usize,
    pause: Duration,
    meanwhile: impl FnOnce(&mut Harness) -> Result<()>,
) -> Result<()> {
    let ends = Instant::now() + pause;
    harness.servers.kafka[broker].server.signal(Signal::SIGSTOP)?;
    let seen =
        if alone(harness) { stands_still(harness).and_then(|()| meanwhile(harness)) } else { meanwhile(harness) };
    std::thread::sleep(ends.saturating_duration_since(Instant::now()));
    harness.servers.kafka[broker].server.signal(Signal::SIGCONT)?;
    seen?;
    harness.check_running()
}

/// Suspends every broker for `pause`, runs `meanwhile`, and lets them continue.
fn stop_all(harness: &mut Harness, pause: Duration, meanwhile: impl FnOnce(&mut Harness) -> Result<()>) -> Result<()> {
    let ends = Instant::now() + pause;
    for broker in &harness.servers.kafka {
        broker.server.signal(Signal::SIGSTOP)?;
    }
    let seen = meanwhile(harness);
    std::thread::sleep(ends.saturating_duration_since(Instant::now()));
    for broker in &harness.servers.kafka {
        broker.server.signal(Signal::SIGCONT)?;
    }
    seen?;
    harness.check_running()
}

fn stop_all_long(harness: &mut Harness) -> Result<()> {
    const UNTIL_SEEN: Duration = Duration::from_secs(40);
    stop_all(harness, Duration::from_secs(20), |harness| {
        wait_unready(harness.the_producer()?, &["publishing to", "Kafka"], UNTIL_SEEN)?;
        for consumer in harness.running_consumers() {
            wait_unready(consumer, &["broker", "batch", "Kafka"], UNTIL_SEEN)?;
        }
        Ok(())
    })?;
    wait_all_ready(harness)
}
