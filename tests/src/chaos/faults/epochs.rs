//! New epochs after a person or Kafka has removed something: the checkpoint topic, the table, the topic's records.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use model::position::CHECKPOINT_SUFFIX;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::{Offset, TopicPartitionList};

use super::Fault;
use super::people::{Who, ask, refuses, refuses_to_start, stop_producer};
use crate::chaos::{Arena, wait_for};

/// The faults of this family.
pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "checkpoint-topic-deleted",
        expects: "the checkpoint topic is deleted under load: the producer stops, and a reset deletes what has gone \
                  meanwhile, in an epoch with a number that the topic does not have",
        weight: 1,
        quick: false,
        run: checkpoint_topic_deleted,
    },
    Fault {
        name: "table-dropped",
        expects: "the table is dropped: the producer stops, a reset deletes every product in the topic, and one more brings \
                  the products of the table that has its name afterwards",
        weight: 1,
        quick: false,
        run: table_dropped,
    },
    Fault {
        name: "topic-cut-before-reset",
        expects: "all records of the topic expire and products are deleted while nobody reads: after a reset PostgreSQL has \
                  the products of the table",
        weight: 1,
        quick: false,
        run: topic_cut_before_reset,
    },
];

const SOON: Duration = Duration::from_secs(60);

/// Lets the writers commit so many transactions, deletes among them, while the producer is stopped.
fn load_without_reader(arena: &mut Arena) -> Result<()> {
    let committed = |arena: &Arena| arena.load.ledger().transactions();
    let transactions = committed(arena) + 200;
    arena.resume_load();
    wait_for("the load's transactions", SOON, || (committed(arena) >= transactions).then_some(()))
}

fn checkpoint_topic_deleted(arena: &mut Arena) -> Result<()> {
    arena.settle()?;
    let (settings, epoch) = (arena.world.kafka(), arena.epoch()?);
    arena.collapse_from_here()?;
    arena.resume_load();
    let topic = format!("{}{CHECKPOINT_SUFFIX}", settings.topic);
    let admin: AdminClient<_> = kafka::client_config(&settings).create()?;
    let deleted = arena.block_on(admin.delete_topics(&[&topic], &AdminOptions::new()))?;
    ensure!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    let producer = arena.producer.as_mut().context("it runs")?;
    // A record waits for its topic for three quarters of the transaction timeout.
    wait_for("the producer stops", SOON, || (!producer.is_running()).then_some(()))?;
    let says = ["Kafka holds no position", "checkpoint reset"];
    refuses(arena, Who::Producer, &says, |_| Ok(()))?;
    refuses_to_start(arena, Who::Producer, &says)?;
    load_without_reader(arena)?;
    ask(arena, &["reset"])?;
    arena.start_all();
    arena.epoch_after(epoch)?;
    arena.collapse_until_here()?;
    arena.resume_load();
    Ok(())
}

fn table_dropped(arena: &mut Arena) -> Result<()> {
    const COPY: [&str; 3] = [
        "CREATE TABLE product_copy LIKE product",
        "INSERT INTO product_copy SELECT * FROM product",
        "DROP TABLE product",
    ];
    arena.settle()?;
    let epoch = arena.epoch()?;
    refuses(arena, Who::Producer, &["DROP TABLE", "checkpoint reset"], |arena| arena.commit_direct(&COPY))?;
    refuses_to_start(arena, Who::Producer, &["DROP TABLE", "checkpoint reset"])?;
    arena.load.ledger().emptied.insert(epoch + 1);
    ask(arena, &["reset"])?;
    arena.start_producer();
    ensure!(arena.epoch_after(epoch)? == epoch + 1, "one reset begins one epoch");
    stop_producer(arena)?;
    arena.commit_direct(&["RENAME TABLE product_copy TO product"])?;
    ask(arena, &["reset"])?;
    arena.start_all();
    arena.epoch_after(epoch + 1)?;
    arena.resume_load();
    Ok(())
}

fn topic_cut_before_reset(arena: &mut Arena) -> Result<()> {
    arena.settle()?;
    let (settings, epoch) = (arena.world.kafka(), arena.epoch()?);
    stop_producer(arena)?;
    let admin: AdminClient<_> = kafka::client_config(&settings).create()?;
    let mut all = TopicPartitionList::new();
    for partition in 0..settings.partitions {
        all.add_partition_offset(&settings.topic, partition, Offset::End)?;
    }
    let cut = arena.block_on(admin.delete_records(&all, &AdminOptions::new()))?;
    ensure!(cut.elements().iter().all(|e| e.error().is_ok()), "{cut:?}");
    arena.collapse_from_the_beginning();
    arena.load.ledger().expired = true;
    load_without_reader(arena)?;
    ask(arena, &["reset"])?;
    arena.start_all();
    arena.epoch_after(epoch)?;
    let producer = arena.producer.as_ref().context("it runs")?;
    ensure!(producer.said().contains("have expired"), "the start does not say that records have expired");
    arena.settle()?;
    arena.collapse_until_here()?;
    postgres_follows(arena)?;
    arena.resume_load();
    Ok(())
}

/// Waits until PostgreSQL has as many products as MySQL; the load must be paused.
fn postgres_follows(arena: &mut Arena) -> Result<()> {
    const COUNT: &str = "SELECT count(*) FROM product";
    let mut conn = arena.mysql()?;
    let want: Option<i64> = arena.block_on(mysql_async::prelude::Queryable::query_first(&mut conn, COUNT))?;
    let url = arena.world.get("POSTGRES_URL").to_owned();
    let count = |arena: &Arena| -> Result<i64> {
        arena.block_on(async {
            let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
            tokio::spawn(connection);
            Ok(client.query_one(COUNT, &[]).await?.get(0))
        })
    };
    wait_for("PostgreSQL has deleted what is gone", SOON, || (count(arena).ok() == want).then_some(()))
}
