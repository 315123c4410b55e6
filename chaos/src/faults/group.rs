//! Changes of the group's offsets and the topic's partitions by people and by Kafka's retention.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::Rng;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use runtime::config::KafkaSettings;

use super::fault::Fault;
use super::people::{Who, ask, refuses, refuses_to_start};
use crate::harness::{Harness, wait_for};
use testbed::programs::CONSUMERS;

/// The faults of this family.
pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "offsets-moved",
        expects: "the group's offsets are moved back or ahead while no consumer runs: a consumer refuses to start, and \
                  `consumer restore-offsets` mends it",
        weight: 1,
        quick: false,
        run: offsets_moved,
    },
    Fault {
        name: "partitions-raised",
        expects: "the topic gets more partitions under load: all programs stop before a key moves, and work on with a new topic",
        weight: 1,
        quick: false,
        run: partitions_raised,
    },
    Fault {
        name: "retention-empties-a-partition",
        expects: "all records of a partition, or those before some offset, expire after they were read: no consumer stops, \
                  nor the one that takes the partition over",
        weight: 1,
        quick: false,
        run: retention_empties_a_partition,
    },
];

const SOON: Duration = Duration::from_secs(60);

fn admin(harness: &Harness) -> Result<AdminClient<DefaultClientContext>> {
    Ok(kafka::client_config(&harness.bed.kafka()).create()?)
}

/// A client with the group's id, which does not join it.
fn client(harness: &Harness) -> Result<BaseConsumer> {
    let settings = harness.bed.kafka();
    Ok(kafka::consumer_config(&settings, &settings.group_id).create()?)
}

/// A random table: its number, and the settings of its topic.
fn some_topic(harness: &mut Harness) -> (usize, KafkaSettings) {
    let tables = harness.load.ledger().tables.clone();
    let table = harness.rng.random_range(0..tables.len());
    (table, harness.bed.kafka_of(&tables[table].name))
}

/// The group's offset of each partition of the topic that has one.
fn offsets(harness: &Harness, settings: &KafkaSettings) -> Result<BTreeMap<i32, i64>> {
    let mut list = TopicPartitionList::new();
    list.add_partition_range(&settings.topic, 0, settings.partitions - 1);
    let list = client(harness)?.committed_offsets(list, SOON)?;
    let offset = |p: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match p.offset() {
        Offset::Offset(offset) => Some((p.partition(), offset)),
        _ => None,
    };
    Ok(list.elements().iter().filter_map(offset).collect())
}

fn offsets_moved(harness: &mut Harness) -> Result<()> {
    for consumer in harness.consumers.iter_mut() {
        let ended = consumer.take().context("a consumer does not run")?.stop();
        ensure!(ended.code == 0, "a consumer stops with {}: {}", ended.code, ended.err);
    }
    harness.resume_load();
    let settings = harness.bed.kafka();
    let before = offsets(harness, &settings)?;
    let back = harness.rng.random_bool(0.5);
    let many = harness.rng.random_range(1..=before.len());
    let mut list = TopicPartitionList::new();
    let mut places = Vec::new();
    for (partition, offset) in before.iter().take(many) {
        let by = harness.rng.random_range(1..=100);
        let moved = if back { (offset - by).max(0) } else { offset + by };
        list.add_partition_offset(&settings.topic, *partition, Offset::Offset(moved))?;
        places.push(format!("partition {partition}: the group's offset is {moved}, the logs have it up to {offset}"));
    }
    let client = client(harness)?;
    wait_for("nobody is in the group any more", SOON, || client.commit(&list, CommitMode::Sync).ok())?;
    let what = if back { "were moved back" } else { "were moved ahead" };
    let says: Vec<&str> =
        [what, "`consumer restore-offsets`"].into_iter().chain(places.iter().map(String::as_str)).collect();
    refuses_to_start(harness, Who::Consumer(0), &says)?;
    wait_for("`consumer restore-offsets`", SOON, || {
        (harness.bed.run("consumer", &["restore-offsets"]).code == 0).then_some(())
    })?;
    let after = offsets(harness, &settings)?;
    ensure!(after == before, "the offsets are {after:?} and not {before:?}");
    harness.start_all();
    harness.all_ready()
}

fn partitions_raised(harness: &mut Harness) -> Result<()> {
    harness.settle()?;
    let (settings, epoch) = (harness.bed.kafka(), harness.epoch()?);
    harness.begin_main_topic();
    harness.resume_load();
    let more = settings.partitions as usize + harness.rng.random_range(1..=settings.partitions as usize);
    let raise = NewPartitions::new(&settings.topic, more);
    let raised = harness.block_on(admin(harness)?.create_partitions([&raise], &AdminOptions::new()))?;
    ensure!(raised.iter().all(Result::is_ok), "{raised:?}");
    let count = format!("topic {} has {more} partitions, but {} are wanted", settings.topic, settings.partitions);
    let says = [count.as_str(), "kafka.topic", "kafka.partitions", "consumer.logs", "`cdc-producer checkpoint reset`"];
    let all = std::iter::once(Who::Producer).chain((0..CONSUMERS).map(Who::Consumer));
    for who in all {
        refuses(harness, who, &says, |_| Ok(()))?;
    }
    refuses_to_start(harness, Who::Producer, &says)?;
    refuses_to_start(harness, Who::Consumer(0), &says)?;
    let reader = client(harness)?;
    for partition in settings.partitions..more as i32 {
        let (_, end) = reader.fetch_watermarks(&settings.topic, partition, SOON)?;
        ensure!(end == 0, "a record went to partition {partition}");
    }
    // The remedy. With a new logs folder, the topics of the other tables are read from their beginning too.
    for name in ["KAFKA_TOPIC", "KAFKA_GROUP_ID", "CONSUMER_LOGS"] {
        let new = format!("{}_{epoch}", harness.bed.get(name));
        harness.bed.set(name, new);
    }
    harness.block_on(async {
        let client = testbed::postgres(harness.bed.get("POSTGRES_URL")).await?;
        let all =
            client.query_one("SELECT string_agg(tablename, ', ') FROM pg_tables WHERE schemaname = 'public'", &[]);
        let all: String = all.await?.get(0);
        client.batch_execute(&format!("TRUNCATE {all}")).await
    })?;
    ask(harness, &["reset"])?;
    harness.start_all();
    harness.epoch_after(epoch)?;
    harness.collapse_until_here()
}

fn retention_empties_a_partition(harness: &mut Harness) -> Result<()> {
    harness.settle()?;
    let (table, settings) = some_topic(harness);
    let partition = harness.rng.random_range(0..settings.partitions);
    let (_, end) = client(harness)?.fetch_watermarks(&settings.topic, partition, SOON)?;
    // The last offset is that of a transaction marker. A consumer commits the offset behind it when no record follows
    // for some seconds, or when it stops; after an earlier kill, the marker looks like an unread record.
    let kill = harness.rng.random_bool(0.5);
    let wanted = if kill { end } else { end - 1 };
    let read = wait_for("the partition is read", SOON, || {
        offsets(harness, &settings).ok()?.get(&partition).copied().filter(|offset| *offset >= wanted)
    })?;
    let emptied = harness.rng.random_bool(0.7);
    let before = if emptied { Offset::End } else { Offset::Offset(harness.rng.random_range(0..=read)) };
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&settings.topic, partition, before)?;
    let deleted = harness.block_on(admin(harness)?.delete_records(&list, &AdminOptions::new()))?;
    ensure!(deleted.elements().iter().all(|e| e.error().is_ok()), "{deleted:?}");
    harness.load.ledger().expire(table, partition);
    // The running consumers, and those that get the partition.
    harness.all_ready()?;
    for consumer in harness.consumers.iter_mut() {
        let consumer = consumer.take().context("a consumer does not run")?;
        if kill {
            consumer.kill();
        } else {
            let ended = consumer.stop();
            ensure!(ended.code == 0, "a consumer stops with {}: {}", ended.code, ended.err);
        }
    }
    harness.start_all();
    // Require a change in each partition.
    harness.settle()?;
    harness.resume_load();
    harness.all_ready()
}
