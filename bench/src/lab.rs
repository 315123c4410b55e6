//! The servers for all cases, and the release programs.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use runtime::config::KafkaSettings;
use testbed::background;
use testbed::programs::{Program, Programs};
use testbed::servers::{Ports, Stack, StackOptions};
use tokio::runtime::Runtime;

use crate::warm_up;

/// Fresh servers and release builds.
pub struct Lab {
    /// MySQL, Kafka, registry, PostgreSQL.
    pub stack: Stack,
    /// The runtime for MySQL's connections.
    pub runtime: Runtime,
    programs: PathBuf,
    names: u32,
}

impl Lab {
    /// Starts the servers with their data in `folder`, which is emptied; the programs are in the folder `programs`.
    ///
    /// # Errors
    /// When a server does not start.
    pub fn start(folder: PathBuf, programs: PathBuf) -> Result<Self> {
        background::clean(&folder)?;
        // The large settings keep the binlogs in few files, and the measured data in the buffer pool.
        let mysql_flags = vec!["--innodb-buffer-pool-size=1G".to_owned(), "--max-binlog-size=1G".to_owned()];
        // Let five members that join together get their partitions in one rebalance (the default is 3 s).
        let kafka_settings = vec!["group.initial.rebalance.delay.ms=1500".to_owned()];
        let (ports, kafka_as_shipped) = (Ports::default(), true);
        let options = StackOptions { dir: folder, ports, mysql_flags, kafka_settings, kafka_as_shipped };
        let stack = Stack::start(&options)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let lab = Self { stack, runtime, programs, names: 0 };
        warm_up::broker(&lab.kafka(), &lab.runtime)?;
        Ok(lab)
    }

    /// A name that no run has used yet.
    pub fn fresh_name(&mut self, what: &str) -> String {
        self.names += 1;
        format!("{what}_{}", self.names)
    }

    /// Kafka's address.
    pub fn kafka(&self) -> String {
        format!("127.0.0.1:{}", self.stack.kafka.port)
    }

    /// The programs for this topic, with separate folders.
    pub fn programs(&self, topic: &str) -> Programs {
        let folder = self.stack.dir().join("runs").join(topic);
        let place = |name: &str| folder.join(name).display().to_string();
        Programs::new(self.programs.clone(), &self.stack)
            .with("KAFKA_TOPIC", topic)
            .with("KAFKA_GROUP_ID", topic)
            .with("PRODUCER_TIME_TRACK", &place("time_track"))
            .with("CONSUMER_LOGS", &place("consumer_logs"))
    }

    /// Starts the producer on a separate topic, to replay everything since `from` (RFC 3339).
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
