//! Time from the start of a process to the first record that a reader of committed records sees; servers and topics
//! exist already. The process before it was stopped, or was killed in the middle of a transaction.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kafka::{Record, TransactionalProducer};
use model::position::CHECKPOINT_SUFFIX;
use mysql_async::prelude::Queryable;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use runtime::config::KafkaSettings;
use testbed::programs::Programs;
use testbed::servers::DATABASE;

use crate::backlog::options;
use crate::debezium::{Debezium, Format, Options};
use crate::lab::Lab;
use crate::load;
use crate::topic;

const PATIENCE: Duration = Duration::from_secs(120);

/// A topic that a program has written to before and writes to again.
pub struct Start {
    settings: KafkaSettings,
    programs: Programs,
    debezium: Option<Options>,
    next_id: u64,
}

impl Start {
    /// Creates table and topics, and lets each program store its position.
    ///
    /// # Errors
    /// When a program fails.
    pub fn make(lab: &mut Lab, with_debezium: bool) -> Result<Self> {
        lab.runtime.block_on(load::prepare(&lab.stack.mysql))?;
        let topic = lab.fresh_name("start");
        let mut start = Self {
            settings: topic::settings(&lab.kafka(), &topic)?,
            programs: lab.programs(&topic),
            debezium: None,
            next_id: 1,
        };
        start.insert(lab)?;
        let mut producer = start.programs.producer()?;
        topic::wait_for(&start.settings, 1, || producer.check())?;
        producer.stop()?;
        if with_debezium {
            let name = lab.fresh_name("debezium_start");
            let mut options = options(lab, lab.stack.dir().join("runs").join(&name), Format::Avro);
            options.topic_prefix = name;
            lab.runtime.block_on(topic::make_anew(&topic::settings(&lab.kafka(), &options.topic())?))?;
            Debezium::take_position(&options)?;
            start.debezium = Some(options);
        }
        Ok(start)
    }

    fn insert(&mut self, lab: &Lab) -> Result<()> {
        let statement = format!("INSERT INTO product VALUES ({}, 'cup', 'cat_1', 1.25, NOW(6))", self.next_id);
        self.next_id += 1;
        lab.runtime.block_on(async {
            let mut conn = load::connect(&lab.stack.mysql, Some(DATABASE)).await?;
            Ok(conn.query_drop(statement).await?)
        })
    }

    /// Seconds from the start of our producer to the first record.
    ///
    /// # Errors
    /// When no record arrives within two minutes.
    pub fn ours(&mut self, lab: &Lab) -> Result<f64> {
        let tail = tail(&self.settings)?;
        self.insert(lab)?;
        let begun = Instant::now();
        let mut producer = self.programs.producer()?;
        let seconds = first_record(&tail, begun)?;
        producer.stop()?;
        Ok(seconds)
    }

    /// As [`Self::ours`], after a process that a kill ended within a Kafka transaction: of that the broker only sees that
    /// nobody ends the transaction of the producer's transactional id.
    ///
    /// # Errors
    /// As [`Self::ours`].
    pub fn ours_after_a_kill(&mut self, lab: &Lab) -> Result<f64> {
        let topic = &self.settings.topic;
        let (id, checkpoint) = (format!("{topic}.producer"), format!("{topic}{CHECKPOINT_SUFFIX}"));
        let killed = TransactionalProducer::new(&self.settings, &id)?;
        killed.begin()?;
        let topics = [topic.as_str(), checkpoint.as_str()];
        for (topic, partitions) in topics.into_iter().zip([self.settings.partitions, 1]) {
            for partition in 0..partitions {
                killed.send(&Record {
                    topic,
                    partition: Some(partition),
                    key: b"0",
                    value: Some(b""),
                    header: None,
                })?;
            }
        }
        killed.flush()?;
        drop(killed);
        self.ours(lab)
    }

    /// Seconds from the start of Debezium to the first record.
    ///
    /// # Errors
    /// When no record arrives within two minutes, or Debezium is left out.
    pub fn debezium(&mut self, lab: &Lab) -> Result<f64> {
        self.insert(lab)?;
        let options = self.debezium.as_ref().context("Debezium was left out")?;
        let tail = tail(&topic::settings(&lab.kafka(), &options.topic())?)?;
        let begun = Instant::now();
        let mut debezium = Debezium::start(options)?;
        let seconds = first_record(&tail, begun)?;
        debezium.stop()?;
        Ok(seconds)
    }
}

/// A reader at the end of the topic.
fn tail(settings: &KafkaSettings) -> Result<BaseConsumer> {
    let consumer = topic::reader(settings)?;
    let mut partitions = TopicPartitionList::new();
    for partition in 0..settings.partitions {
        let (_, end) = consumer.fetch_watermarks(&settings.topic, partition, PATIENCE)?;
        partitions.add_partition_offset(&settings.topic, partition, Offset::Offset(end))?;
    }
    consumer.assign(&partitions)?;
    Ok(consumer)
}

fn first_record(tail: &BaseConsumer, begun: Instant) -> Result<f64> {
    loop {
        if let Some(record) = tail.poll(Duration::from_millis(100)) {
            record?;
            return Ok(begun.elapsed().as_secs_f64());
        }
        ensure!(begun.elapsed() < PATIENCE, "no record within {PATIENCE:?}");
    }
}
