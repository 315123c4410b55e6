//! The registry and PostgreSQL away, and everything at once.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xtask::services::Kafka;

use super::super::Fault;
use super::{SEEN, wait_all_ready, wait_unready};
use crate::chaos::{Arena, wait_for};

pub(in crate::chaos::faults) const FAULTS: &[Fault] = &[
    Fault {
        name: "registry-down",
        expects: "the programs are restarted while the registry is away: all say that they wait for it, and go on",
        weight: 1,
        quick: false,
        run: |arena| registry_away(arena, Duration::ZERO),
    },
    Fault {
        name: "registry-down-long",
        expects: "the same for half a minute",
        weight: 0,
        quick: false,
        run: |arena| registry_away(arena, Duration::from_secs(30)),
    },
    Fault {
        name: "postgres-kill",
        expects: "PostgreSQL is killed and started again: the consumers say that they wait for it, and go on",
        weight: 3,
        quick: true,
        run: |arena| postgres_away(arena, Duration::ZERO),
    },
    Fault {
        name: "postgres-down-long",
        expects: "the same for a minute",
        weight: 0,
        quick: false,
        run: |arena| postgres_away(arena, Duration::from_secs(60)),
    },
    Fault {
        name: "servers-kill-all",
        expects: "all servers are killed at once and started again: nothing ends",
        weight: 1,
        quick: false,
        run: kill_all,
    },
];

fn registry_away(arena: &mut Arena, pause: Duration) -> Result<()> {
    for consumer in arena.consumers.iter_mut() {
        let ended = consumer.take().context("a consumer does not run")?.stop();
        ensure!(ended.code == 0, "a consumer stops with {}: {}", ended.code, ended.err);
    }
    // They ask for the schema when there is something to decode.
    let before = arena.the_producer()?.metric("producer_records_committed_total");
    let more = || {
        arena
            .the_producer()
            .ok()?
            .metric("producer_records_committed_total")
            .filter(|now| Some(*now) > before.map(|b| b + 100.0))
    };
    wait_for("something for the consumers to read", Duration::from_secs(30), more)?;
    let ended = arena.producer.take().context("the producer does not run")?.stop();
    ensure!(ended.code == 0, "the producer stops with {}: {}", ended.code, ended.err);
    arena.servers.registry.server.kill()?;
    arena.start_all();
    let seen = restarted_wait(arena);
    std::thread::sleep(pause);
    arena.servers.registry.start_again()?;
    seen?;
    wait_all_ready(arena)
}

fn restarted_wait(arena: &mut Arena) -> Result<()> {
    const UNTIL_JOINED: Duration = Duration::from_secs(30);
    wait_unready(arena.the_producer()?, &["schema registry"], SEEN)?;
    let waiting = |arena: &Arena| arena.running_consumers().filter(|c| waits_for_registry(c)).count();
    // Who has no records to decode does not need it.
    wait_for("a consumer waits for the registry", UNTIL_JOINED, || (waiting(arena) > 0).then_some(()))?;
    arena.check_running()
}

fn waits_for_registry(consumer: &crate::Running) -> bool {
    consumer.http("/ready").is_some_and(|(code, text)| code == 503 && text.contains("schema registry"))
}

fn postgres_away(arena: &mut Arena, pause: Duration) -> Result<()> {
    arena.servers.postgres.server.kill()?;
    let seen =
        arena.running_consumers().try_for_each(|c| wait_unready(c, &["PostgreSQL"], Duration::from_secs(20)).map(drop));
    std::thread::sleep(pause);
    start_postgres(arena)?;
    seen?;
    wait_all_ready(arena)
}

fn kill_all(arena: &mut Arena) -> Result<()> {
    let servers = &mut arena.servers;
    for server in servers.kafka.iter_mut().map(|k| &mut k.server).chain([
        &mut servers.mysql.server,
        &mut servers.registry.server,
        &mut servers.postgres.server,
    ]) {
        server.kill()?;
    }
    let seen =
        wait_unready(arena.the_producer()?, &["MySQL", "binlog", "Kafka", "publishing"], Duration::from_secs(20));
    start_postgres(arena)?;
    let servers = &mut arena.servers;
    servers.mysql.start_again()?;
    Kafka::start_all_again(&mut servers.kafka)?;
    servers.registry.start_again()?;
    seen?;
    wait_all_ready(arena)
}

/// The killed one's children may outlive it for an instant, and then it refuses to start.
fn start_postgres(arena: &mut Arena) -> Result<()> {
    let postgres = &mut arena.servers.postgres;
    wait_for("PostgreSQL starts again", Duration::from_secs(30), || postgres.start_again().ok())
}
