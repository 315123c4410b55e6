//! New epochs after a person or Kafka has removed something: the checkpoint topic, the table, the topic's records.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::{Offset, TopicPartitionList};

use super::fault::Fault;
use super::people::{Who, ask, refuses, refuses_to_start, stop_producer};
use crate::harness::{Harness, wait_for};

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
fn load_without_reader(harness: &mut Harness) -> Result<()> {
    let committed = |harness: &Harness| harness.load.ledger().transactions();
    let transactions = committed(harness) + 200;
    harness.resume_load();
    wait_for("the load's transactions", SOON, || (committed(harness) >= transactions).then_some(()))
}

fn checkpoint_topic_deleted(harness: &mut Harness) -> Result<()> {
    harness.settle()?;
    let (settings, epoch) = (harness.bed.kafka(), harness.epoch()?);
    harness.collapse_from_here()?;
    harness.resume_load();
    let topic = settings.checkpoint_topic.clone();
    let admin: AdminClient<_> = kafka::client_config(&settings).create()?;
    let deleted = harness.block_on(admin.delete_topics(&[&topic], &AdminOptions::new()))?;
    ensure!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    let producer = harness.producer.as_mut().context("it runs")?;
    // A record waits for its topic for three quarters of the transaction timeout.
    wait_for("the producer stops", SOON, || (!producer.is_running()).then_some(()))?;
    let says = ["Kafka holds no position", "checkpoint reset"];
    refuses(harness, Who::Producer, &says, |_| Ok(()))?;
    refuses_to_start(harness, Who::Producer, &says)?;
    load_without_reader(harness)?;
    ask(harness, &["reset"])?;
    harness.start_all();
    harness.epoch_after(epoch)?;
    harness.collapse_until_here()?;
    harness.resume_load();
    Ok(())
}

fn table_dropped(harness: &mut Harness) -> Result<()> {
    const COPY: [&str; 3] = [
        "CREATE TABLE product_copy LIKE product",
        "INSERT INTO product_copy SELECT * FROM product",
        "DROP TABLE product",
    ];
    harness.settle()?;
    let epoch = harness.epoch()?;
    refuses(harness, Who::Producer, &["DROP TABLE", "checkpoint reset"], |harness| harness.commit_direct(&COPY))?;
    refuses_to_start(harness, Who::Producer, &["DROP TABLE", "checkpoint reset"])?;
    harness.load.ledger().emptied.insert((0, epoch + 1));
    ask(harness, &["reset"])?;
    harness.start_producer();
    ensure!(harness.epoch_after(epoch)? == epoch + 1, "one reset begins one epoch");
    stop_producer(harness)?;
    harness.commit_direct(&["RENAME TABLE product_copy TO product"])?;
    ask(harness, &["reset"])?;
    harness.start_all();
    harness.epoch_after(epoch + 1)?;
    harness.resume_load();
    Ok(())
}

fn topic_cut_before_reset(harness: &mut Harness) -> Result<()> {
    harness.settle()?;
    let (settings, epoch) = (harness.bed.kafka(), harness.epoch()?);
    stop_producer(harness)?;
    let admin: AdminClient<_> = kafka::client_config(&settings).create()?;
    let mut all = TopicPartitionList::new();
    for partition in 0..settings.partitions {
        all.add_partition_offset(&settings.topic, partition, Offset::End)?;
    }
    let cut = harness.block_on(admin.delete_records(&all, &AdminOptions::new()))?;
    ensure!(cut.elements().iter().all(|e| e.error().is_ok()), "{cut:?}");
    harness.begin_main_topic();
    harness.load.ledger().expired.insert(0);
    load_without_reader(harness)?;
    ask(harness, &["reset"])?;
    harness.start_all();
    harness.epoch_after(epoch)?;
    let producer = harness.producer.as_ref().context("it runs")?;
    ensure!(producer.said().contains("have expired"), "the start does not say that records have expired");
    harness.settle()?;
    harness.collapse_until_here()?;
    postgres_follows(harness)?;
    harness.resume_load();
    Ok(())
}

/// Waits until PostgreSQL has as many products as MySQL; the load must be paused.
fn postgres_follows(harness: &mut Harness) -> Result<()> {
    const COUNT: &str = "SELECT count(*) FROM product";
    let mut conn = harness.mysql()?;
    let want: Option<i64> = harness.block_on(mysql_async::prelude::Queryable::query_first(&mut conn, COUNT))?;
    let url = harness.bed.get("POSTGRES_URL").to_owned();
    let count = |harness: &Harness| -> Result<i64> {
        harness.block_on(async {
            let client = testbed::postgres(&url).await?;
            Ok(client.query_one(COUNT, &[]).await?.get(0))
        })
    };
    wait_for("PostgreSQL has deleted what is gone", SOON, || (count(harness).ok() == want).then_some(()))
}
