//! The registry and PostgreSQL fail, and all servers at once.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::Rng;
use schema_registry_converter::async_impl::schema_registry::{SrSettings, post_schema};
use schema_registry_converter::schema_registry_common::{SchemaType, SuppliedSchema};
use testbed::servers::Kafka;

use super::super::fault::Fault;
use super::effects::{SEEN, wait_all_ready, wait_unready};
use crate::harness::{Harness, wait_for};
use testbed::Running;
use testbed::programs::CONSUMERS;

pub(in crate::faults) const FAULTS: &[Fault] = &[
    Fault {
        name: "registry-down",
        expects: "the programs are restarted while the registry is away: all say that they wait for it, and continue",
        weight: 1,
        quick: false,
        run: |harness| registry_away(harness, Duration::ZERO),
    },
    Fault {
        name: "registry-down-long",
        expects: "the same for half a minute",
        weight: 0,
        quick: false,
        run: |harness| registry_away(harness, Duration::from_secs(30)),
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
        run: |harness| postgres_away(harness, Duration::ZERO),
    },
    Fault {
        name: "postgres-down-long",
        expects: "the same for a minute",
        weight: 0,
        quick: false,
        run: |harness| postgres_away(harness, Duration::from_secs(60)),
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
fn leave_records_unread(harness: &mut Harness) -> Result<()> {
    for consumer in harness.consumers.iter_mut() {
        let ended = consumer.take().context("a consumer does not run")?.stop();
        ensure!(ended.code == 0, "a consumer stops with {}: {}", ended.code, ended.err);
    }
    // Consumers ask for the schema when they have a record to decode.
    let before = harness.the_producer()?.metric("producer_records_committed_total");
    let more = || {
        harness
            .the_producer()
            .ok()?
            .metric("producer_records_committed_total")
            .filter(|now| Some(*now) > before.map(|b| b + 100.0))
    };
    wait_for("something for the consumers to read", Duration::from_secs(30), more)?;
    let ended = harness.producer.take().context("the producer does not run")?.stop();
    ensure!(ended.code == 0, "the producer stops with {}: {}", ended.code, ended.err);
    Ok(())
}

fn registry_away(harness: &mut Harness, pause: Duration) -> Result<()> {
    leave_records_unread(harness)?;
    harness.servers.registry.server.kill()?;
    harness.start_all();
    let seen = restarted_wait(harness);
    std::thread::sleep(pause);
    harness.servers.registry.start_again()?;
    seen?;
    wait_all_ready(harness)
}

fn restarted_wait(harness: &mut Harness) -> Result<()> {
    const UNTIL_JOINED: Duration = Duration::from_secs(30);
    wait_unready(harness.the_producer()?, &["schema registry"], SEEN)?;
    let waiting = |harness: &Harness| harness.running_consumers().filter(|c| waits_for_registry(c)).count();
    // A consumer without records to decode does not need the registry.
    wait_for("a consumer waits for the registry", UNTIL_JOINED, || (waiting(harness) > 0).then_some(()))?;
    harness.check_running()
}

fn waits_for_registry(consumer: &testbed::Running) -> bool {
    consumer.http("/ready").is_some_and(|(code, text)| code == 503 && text.contains("schema registry"))
}

fn registry_emptied(harness: &mut Harness) -> Result<()> {
    if harness.load.ledger().tables.iter().any(|table| table.extras > 0) {
        // Nobody but the registry has the schemas from before a column was added.
        return registry_away(harness, Duration::ZERO);
    }
    let before = dead_letters(harness)?;
    leave_records_unread(harness)?;
    harness.servers.registry.server.kill()?;
    harness.servers.registry.forget()?;
    harness.servers.registry.start_again()?;
    for number in 0..harness.rng.random_range(0..4) {
        harness.block_on(register_another(&harness.servers.registry.url(), number))?;
    }
    for number in 0..CONSUMERS {
        harness.start_consumer(number);
    }
    let says = |consumer: &Running| {
        let waits = |(code, text): &(u16, String)| *code == 503 && text.contains("it has lost its schemas");
        consumer.http("/ready").is_some_and(|answer| waits(&answer))
    };
    // A consumer without records to decode does not need the registry.
    wait_for("a consumer says that the registry has lost its schemas", Duration::from_secs(30), || {
        harness.running_consumers().any(says).then_some(())
    })?;
    harness.start_producer();
    wait_all_ready(harness)?;
    harness.settle()?;
    harness.resume_load();
    ensure!(dead_letters(harness)? == before, "a record became a dead letter");
    Ok(())
}

/// The number of dead letters of all tables.
fn dead_letters(harness: &Harness) -> Result<usize> {
    let mut count = 0;
    let tables = harness.load.ledger().tables.clone();
    for table in &tables {
        let settings = harness.bed.kafka_of(&table.name);
        kafka::scan(&settings, &format!("{}.dlq", settings.topic), &mut |_| {
            count += 1;
            Ok(())
        })?;
    }
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

fn postgres_away(harness: &mut Harness, pause: Duration) -> Result<()> {
    harness.servers.postgres.server.kill()?;
    let seen = harness
        .running_consumers()
        .try_for_each(|c| wait_unready(c, &["PostgreSQL"], Duration::from_secs(20)).map(drop));
    std::thread::sleep(pause);
    start_postgres(harness)?;
    seen?;
    wait_all_ready(harness)
}

fn kill_all(harness: &mut Harness) -> Result<()> {
    let servers = &mut harness.servers;
    for server in servers.kafka.iter_mut().map(|k| &mut k.server).chain([
        &mut servers.mysql.server,
        &mut servers.registry.server,
        &mut servers.postgres.server,
    ]) {
        server.kill()?;
    }
    let seen =
        wait_unready(harness.the_producer()?, &["MySQL", "binlog", "Kafka", "publishing"], Duration::from_secs(20));
    start_postgres(harness)?;
    let servers = &mut harness.servers;
    servers.mysql.start_again()?;
    Kafka::start_all_again(&mut servers.kafka)?;
    servers.registry.start_again()?;
    seen?;
    wait_all_ready(harness)
}

/// Child processes of the killed server may outlive it for an instant, during which it refuses to start.
fn start_postgres(harness: &mut Harness) -> Result<()> {
    let postgres = &mut harness.servers.postgres;
    wait_for("PostgreSQL starts again", Duration::from_secs(30), || postgres.start_again().ok())
}
