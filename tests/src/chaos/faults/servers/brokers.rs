//! Killed or stopped brokers: a lone one, or a leader or coordinator of three.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use rand::Rng;
use xtask::services::Kafka;

use super::super::Fault;
use super::{SEEN, wait_all_ready, wait_unready};
use crate::chaos::cluster::{Cluster, GROUPS, TRANSACTIONS};
use crate::chaos::{Arena, wait_for};

pub(in crate::chaos::faults) const FAULTS: &[Fault] = &[
    Fault {
        name: "broker-kill",
        expects: "a random broker is killed and started again: nothing ends; one that was alone holds everything up",
        weight: 4,
        quick: true,
        run: |arena| {
            let broker = any(arena);
            killed(arena, broker, |_| Ok(()))
        },
    },
    Fault {
        name: "broker-kill-leader",
        expects: "the leader of a random partition of the topic is killed: with three brokers another takes over",
        weight: 3,
        quick: false,
        run: |arena| {
            let partition = arena.rng.random_range(0..10);
            let topic = arena.world.kafka().topic;
            kill_leader(arena, &topic, partition)
        },
    },
    Fault {
        name: "broker-kill-producer-coordinator",
        expects: "the coordinator of the producer's transactions is killed while they run",
        weight: 3,
        quick: false,
        run: |arena| {
            let id = arena.world.kafka().transactional_id;
            kill_coordinator(arena, TRANSACTIONS, &id)
        },
    },
    Fault {
        name: "broker-kill-consumer-coordinator",
        expects: "the coordinator of a random consumer's transactions is killed while they run",
        weight: 3,
        quick: false,
        run: |arena| {
            let slot = arena.rng.random_range(1..=arena.consumers.len());
            let kafka = arena.world.kafka();
            let folder = kafka::slots::Folder::read(Path::new(arena.world.get("CONSUMER_LOGS")))?;
            let folder = folder.context("the logs folder has no identity")?.id;
            // The id contains the group's name unless it is the default group.
            let id = format!("{}.consumer_{slot}-{folder}.{}", kafka.topic, kafka.group_id);
            kill_coordinator(arena, TRANSACTIONS, &id)
        },
    },
    Fault {
        name: "broker-kill-group-coordinator",
        expects: "the coordinator of the consumers' group is killed: they keep or get their partitions, nothing twice",
        weight: 3,
        quick: false,
        run: |arena| {
            let group = arena.world.kafka().group_id;
            kill_coordinator(arena, GROUPS, &group)
        },
    },
    Fault {
        name: "broker-stop",
        expects: "a random broker is stopped for one to four seconds: nothing ends, no session is lost",
        weight: 3,
        quick: true,
        run: |arena| {
            let pause = Duration::from_millis(arena.rng.random_range(1_000..4_000));
            let broker = any(arena);
            stopped(arena, broker, pause, |_| Ok(()))
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
        run: |arena| {
            stop_all(arena, Duration::from_secs(13), |_| Ok(()))?;
            std::thread::sleep(Duration::from_secs(1));
            stop_all(arena, Duration::from_secs(13), |_| Ok(()))
        },
    },
    Fault {
        name: "broker-restart",
        expects: "one broker after the other is stopped in order and started again: nothing ends",
        weight: 1,
        quick: false,
        run: |arena| {
            for broker in 0..arena.servers.kafka.len() {
                arena.servers.kafka[broker].restart()?;
                arena.check_running()?;
                arena.probe()?;
            }
            Ok(())
        },
    },
    Fault {
        name: "broker-kill-all",
        expects: "every broker is killed at once and started again: nothing ends",
        weight: 1,
        quick: false,
        run: |arena| {
            for broker in &mut arena.servers.kafka {
                broker.server.kill()?;
            }
            stands_still(arena)?;
            Kafka::start_all_again(&mut arena.servers.kafka)?;
            arena.check_running()
        },
    },
];

fn any(arena: &mut Arena) -> usize {
    let brokers = arena.servers.kafka.len();
    arena.rng.random_range(0..brokers)
}

fn alone(arena: &Arena) -> bool {
    arena.servers.kafka.len() == 1
}

/// Kills a broker, runs `meanwhile`, and starts it again.
fn killed(arena: &mut Arena, broker: usize, meanwhile: impl FnOnce(&mut Arena) -> Result<()>) -> Result<()> {
    arena.servers.kafka[broker].server.kill()?;
    let seen = if alone(arena) { stands_still(arena) } else { meanwhile(arena) };
    arena.servers.kafka[broker].start_again()?;
    seen?;
    arena.check_running()
}

/// Requires that nothing is committed any more, and that no program ends.
fn stands_still(arena: &mut Arena) -> Result<()> {
    let committed = |arena: &Arena| arena.the_producer().ok()?.metric("producer_kafka_transactions_total");
    // Answers from before the kill may still be on their way.
    std::thread::sleep(Duration::from_millis(200));
    let before = committed(arena).context("the producer shows no numbers")?;
    std::thread::sleep(Duration::from_millis(500));
    let after = committed(arena).context("the producer shows no numbers")?;
    ensure!((after - before).abs() < 0.5, "{before} and then {after} transactions are committed without a broker");
    arena.check_running()
}

fn kill_leader(arena: &mut Arena, topic: &str, partition: i32) -> Result<()> {
    let cluster = Cluster::new(&arena.world.kafka())?;
    let leader =
        wait_for(&format!("{topic} [{partition}] has a leader"), SEEN, || cluster.leader(topic, partition).ok()?)?;
    let topic = topic.to_owned();
    killed(arena, leader, |arena| {
        // The dead broker's session must time out first.
        wait_for(&format!("another leader of {topic} [{partition}]"), Duration::from_secs(30), || {
            cluster.leader(&topic, partition).ok()?.filter(|now| *now != leader)
        })?;
        // Two of three brokers are sufficient for everything.
        arena.probe().map(drop)
    })
}

fn kill_coordinator(arena: &mut Arena, states: &str, id: &str) -> Result<()> {
    let partition = Cluster::new(&arena.world.kafka())?.partition_of(states, id)?;
    kill_leader(arena, states, partition)
}

fn stopped(
    arena: &mut Arena,
    broker: usize,
    pause: Duration,
    meanwhile: impl FnOnce(&mut Arena) -> Result<()>,
) -> Result<()> {
    let ends = Instant::now() + pause;
    arena.servers.kafka[broker].server.signal(Signal::SIGSTOP)?;
    let seen = if alone(arena) { stands_still(arena).and_then(|()| meanwhile(arena)) } else { meanwhile(arena) };
    std::thread::sleep(ends.saturating_duration_since(Instant::now()));
    arena.servers.kafka[broker].server.signal(Signal::SIGCONT)?;
    seen?;
    arena.check_running()
}

/// Suspends every broker for `pause`, runs `meanwhile`, and lets them continue.
fn stop_all(arena: &mut Arena, pause: Duration, meanwhile: impl FnOnce(&mut Arena) -> Result<()>) -> Result<()> {
    let ends = Instant::now() + pause;
    for broker in &arena.servers.kafka {
        broker.server.signal(Signal::SIGSTOP)?;
    }
    let seen = meanwhile(arena);
    std::thread::sleep(ends.saturating_duration_since(Instant::now()));
    for broker in &arena.servers.kafka {
        broker.server.signal(Signal::SIGCONT)?;
    }
    seen?;
    arena.check_running()
}

fn stop_all_long(arena: &mut Arena) -> Result<()> {
    const UNTIL_SEEN: Duration = Duration::from_secs(40);
    stop_all(arena, Duration::from_secs(20), |arena| {
        wait_unready(arena.the_producer()?, &["publishing to", "Kafka"], UNTIL_SEEN)?;
        for consumer in arena.running_consumers() {
            wait_unready(consumer, &["broker", "batch", "Kafka"], UNTIL_SEEN)?;
        }
        Ok(())
    })?;
    wait_all_ready(arena)
}
