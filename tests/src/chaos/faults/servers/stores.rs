//! The registry and PostgreSQL fail, and all servers at once.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::Rng;
use schema_registry_converter::async_impl::schema_registry::{SrSettings, post_schema};
use schema_registry_converter::schema_registry_common::{SchemaType, SuppliedSchema};
use xtask::services::Kafka;

use super::super::Fault;
use super::{SEEN, wait_all_ready, wait_unready};
use crate::Running;
use crate::chaos::{Arena, CONSUMERS, wait_for};

pub(in crate::chaos::faults) const FAULTS: &[Fault] = &[
    Fault {
        name: "registry-down",
        expects: "the programs are restarted while the registry is away: all say that they wait for it, and continue",
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
        name: "registry-emptied",
        expects: "the registry loses its schemas and gives their ids to others while consumers are behind: they say that it has \
                  lost them, and with a start of the producer every record is read, none a dead letter",
        weight: 1,
        quick: false,
        run: registry_emptied,
    },
    Fault {
        name: "postgres-kill",
        expects: "PostgreSQL is killed and started again: the consumers say that they wait for it, and continue",
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

/// Stops the consumers, and then the producer once it has written more records for them.
fn leave_records_unread(arena: &mut Arena) -> Result<()> {
    for consumer in arena.consumers.iter_mut() {
        let ended = consumer.take().context("a consumer does not run")?.stop();
        ensure!(ended.code == 0, "a consumer stops with {}: {}", ended.code, ended.err);
    }
    // Consumers ask for the schema when they have a record to decode.
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
    Ok(())
}

fn registry_away(arena: &mut Arena, pause: Duration) -> Result<()> {
    leave_records_unread(arena)?;
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
    // A consumer without records to decode does not need the registry.
    wait_for("a consumer waits for the registry", UNTIL_JOINED, || (waiting(arena) > 0).then_some(()))?;
    arena.check_running()
}

fn waits_for_registry(consumer: &crate::Running) -> bool {
    consumer.http("/ready").is_some_and(|(code, text)| code == 503 && text.contains("schema registry"))
}

fn registry_emptied(arena: &mut Arena) -> Result<()> {
    let before = dead_letters(arena)?;
    leave_records_unread(arena)?;
    arena.servers.registry.server.kill()?;
    arena.servers.registry.forget()?;
    arena.servers.registry.start_again()?;
    for number in 0..arena.rng.random_range(0..4) {
        arena.block_on(register_another(&arena.servers.registry.url(), number))?;
    }
    for number in 0..CONSUMERS {
        arena.start_consumer(number);
    }
    let says = |consumer: &Running| {
        let waits = |(code, text): &(u16, String)| *code == 503 && text.contains("it has lost its schemas");
        consumer.http("/ready").is_some_and(|answer| waits(&answer))
    };
    // A consumer without records to decode does not need the registry.
    wait_for("a consumer says that the registry has lost its schemas", Duration::from_secs(30), || {
        arena.running_consumers().any(says).then_some(())
    })?;
    arena.start_producer();
    wait_all_ready(arena)?;
    arena.settle()?;
    arena.resume_load();
    ensure!(dead_letters(arena)? == before, "a record became a dead letter");
    Ok(())
}

fn dead_letters(arena: &Arena) -> Result<usize> {
    let (settings, mut count) = (arena.world.kafka(), 0);
    kafka::scan(&settings, &format!("{}.dlq", settings.topic), &mut |_| {
        count += 1;
        Ok(())
    })?;
    Ok(count)
}

/// Registers a schema of another subject, which gets the next id.
async fn register_another(url: &str, number: u32) -> Result<()> {
    let schema =
        format!(r#"{{"type": "record", "name": "other_{number}", "fields": [{{"name": "id", "type": "long"}}]}}"#);
    let schema = SuppliedSchema::new(None, SchemaType::Avro, schema);
    post_schema(&SrSettings::new(url.to_owned()), format!("other-{number}-value"), schema).await?;
    Ok(())
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

/// Child processes of the killed server may outlive it for an instant, during which it refuses to start.
fn start_postgres(arena: &mut Arena) -> Result<()> {
    let postgres = &mut arena.servers.postgres;
    wait_for("PostgreSQL starts again", Duration::from_secs(30), || postgres.start_again().ok())
}
