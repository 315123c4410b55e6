//! The servers that every case uses, and the programs as people use them.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use pipeline::config::KafkaSettings;
use pipeline::kafka::TransactionalProducer;
use tokio::runtime::Runtime;
use xtask::background;
use xtask::programs::{Program, Programs};
use xtask::services::{Ports, Stack, StackOptions};

use crate::topic;

/// Fresh servers and release builds.
pub struct Stand {
    /// MySQL, Kafka, registry, PostgreSQL.
    pub stack: Stack,
    /// For MySQL's connections.
    pub runtime: Runtime,
    programs: PathBuf,
    names: u32,
}

impl Stand {
    /// Starts them with their data in `folder`, which is emptied; the programs are in the folder `programs`.
    ///
    /// # Errors
    /// When a server does not start.
    pub fn start(folder: PathBuf, programs: PathBuf) -> Result<Self> {
        background::clean(&folder)?;
        // Binlogs are kept, and caches hold what is measured.
        let mysql_flags = vec!["--innodb-buffer-pool-size=1G".to_owned(), "--max-binlog-size=1G".to_owned()];
        // Five members that come together are dealt their partitions together (the default is 3 s).
        let kafka_settings = vec!["group.initial.rebalance.delay.ms=1500".to_owned()];
        let stack = Stack::start(&StackOptions { dir: folder, ports: Ports::default(), mysql_flags, kafka_settings })?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let stand = Self { stack, runtime, programs, names: 0 };
        // Kafka makes its own topic for the first of all transactions, which takes a second: no run shall pay for it.
        drop(TransactionalProducer::new(&topic::settings(&stand.kafka(), "warm_up")?, "warm_up")?);
        Ok(stand)
    }

    /// A name that no run has had yet.
    pub fn fresh_name(&mut self, what: &str) -> String {
        self.names += 1;
        format!("{what}_{}", self.names)
    }

    /// Where Kafka listens.
    pub fn kafka(&self) -> String {
        format!("127.0.0.1:{}", self.stack.kafka.port)
    }

    /// Programs that work on this topic, with folders of its own.
    pub fn programs(&self, topic: &str) -> Programs {
        let folder = self.stack.dir().join("runs").join(topic);
        let place = |name: &str| folder.join(name).display().to_string();
        Programs::new(self.programs.clone(), &self.stack)
            .with("KAFKA_TOPIC", topic)
            .with("KAFKA_GROUP_ID", topic)
            .with("PRODUCER_TIME_TRACK", &place("time_track"))
            .with("CONSUMER_LOGS", &place("consumer_logs"))
    }

    /// Starts the producer on a topic of its own, to replay everything since `from` (RFC 3339).
    ///
    /// # Errors
    /// When it does not start.
    pub fn replay(&self, settings: &KafkaSettings, from: &str) -> Result<Program> {
        let topic = &settings.topic;
        let folder = self.stack.dir().join("runs").join(topic).join("time_track");
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let file = folder.join("last_read_timestamp.json");
        fs::write(&file, format!("{{\"last_read_timestamp\": \"{from}\"}}\n"))?;
        self.programs(topic).with("KAFKA_PARTITIONS", &settings.partitions.to_string()).producer()
    }
}
