//! Measures how fast, and for how much CPU and memory, a program writes an existing backlog of the binlog into Kafka as
//! Avro.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use mysql_async::prelude::Queryable;
use runtime::config::KafkaSettings;
use testbed::servers::{DATABASE, MySql, copy_folder};

use crate::complete::{self, Of};
use crate::debezium::{Debezium, Format, HEAP_MB, Options, Snapshot};
use crate::lab::Lab;
use crate::load::{self, Load};
use crate::topic::{self, Arrival};
use testbed::{Peaks, Usage, Watch};

/// One run of one program over the whole backlog.
#[derive(Clone, Debug)]
pub struct Run {
    /// The topic that the program wrote.
    pub topic: String,
    /// Seconds from the start of the process to the first record.
    pub first_s: f64,
    /// Seconds from the start of the process to the last record.
    pub last_s: f64,
    /// The records of the topic.
    pub arrival: Arrival,
    /// The process's resource use by then.
    pub usage: Usage,
    /// The growth of its memory; only for our producer.
    pub peaks: Peaks,
}

impl Run {
    /// The run of a process that was started at `begun` (milliseconds since 1970) and has `expected` records to write.
    ///
    /// # Errors
    /// When the number of records differs, or the process has ended.
    pub fn of(topic: &str, begun: i64, arrival: Arrival, pid: u32, expected: u64) -> Result<Self> {
        ensure!(
            arrival.records == expected,
            "{} records instead of {expected}: not every change once",
            arrival.records
        );
        let seconds = |ms: i64| (ms - begun) as f64 / 1e3;
        Ok(Self {
            topic: topic.to_owned(),
            first_s: seconds(arrival.first_ms),
            last_s: seconds(arrival.last_ms),
            usage: Usage::of(pid)?,
            peaks: Peaks::default(),
            arrival,
        })
    }

    /// A run of Debezium with these options, into its topic, which is created again, as Debezium's position belongs to
    /// a topic name.
    ///
    /// # Errors
    /// When it fails, makes no progress, or does not write `expected` records.
    pub fn of_debezium(lab: &Lab, options: &Options, expected: u64) -> Result<Self> {
        let settings = topic::settings(&lab.kafka(), &options.topic())?;
        lab.runtime.block_on(topic::make_anew(&settings))?;
        let begun = now_ms()?;
        let mut debezium = Debezium::start(options)?;
        let pid = debezium.pid().context("it was started")?;
        let arrival = topic::wait_for(&settings, expected, || debezium.check())?;
        let run = Self::of(&settings.topic, begun, arrival, pid, expected)?;
        complete::check(lab, &settings, Of::Debezium)?;
        debezium.stop()?;
        Ok(run)
    }

    /// CPU seconds for a million changes.
    pub fn cpu_per_million(&self) -> f64 {
        self.usage.cpu_seconds / (self.arrival.records as f64 / 1e6)
    }

    /// The most memory resident in the first tenth of the time from the first record to the last, in megabytes.
    pub fn early_peak_mb(&self) -> f64 {
        let Arrival { first_ms, last_ms, .. } = self.arrival;
        self.peaks.until(first_ms + (last_ms - first_ms) / 10)
    }

    /// Records a second from the start of the process to the last.
    pub fn rate_from_start(&self) -> f64 {
        self.arrival.records as f64 / self.last_s
    }
}

/// Existing changes in the binlog.
#[derive(Clone, Debug)]
pub struct Backlog {
    /// The number of row changes.
    pub changes: u64,
    /// A time before all of them, RFC 3339.
    pub from: String,
    /// The folder with Debezium's position before all of them.
    debezium: Option<PathBuf>,
}

impl Backlog {
    /// Creates the backlog on a fresh table. Debezium takes its position beforehand, which needs ten seconds or more.
    ///
    /// # Errors
    /// MySQL's own, and Debezium's.
    pub fn make(lab: &mut Lab, load: Load, with_debezium: bool) -> Result<Self> {
        Self::of(lab, with_debezium, async |mysql| load.run(mysql).await)
    }

    /// Creates a backlog with `work`, which returns the number of its row changes.
    ///
    /// # Errors
    /// MySQL's own, and Debezium's.
    pub fn of(lab: &mut Lab, with_debezium: bool, work: impl AsyncFnOnce(&MySql) -> Result<u64>) -> Result<Self> {
        lab.runtime.block_on(load::prepare(&lab.stack.mysql))?;
        let debezium = with_debezium.then(|| lab.stack.dir().join("runs").join(lab.fresh_name("debezium_position")));
        if let Some(folder) = &debezium {
            Debezium::take_position(&options(lab, folder.clone(), Format::Avro))?;
        }
        lab.runtime.block_on(async {
            let mut conn = load::connect(&lab.stack.mysql, None).await?;
            conn.query_drop("DO SLEEP(1.1)").await?;
            let now: Option<String> =
                conn.query_first("SELECT DATE_FORMAT(UTC_TIMESTAMP(6), '%Y-%m-%dT%H:%i:%s.%fZ')").await?;
            conn.query_drop("DO SLEEP(1.1)").await?;
            let changes = work(&lab.stack.mysql).await?;
            Ok(Self { changes, from: now.context("MySQL gives no time")?, debezium })
        })
    }

    /// Runs our producer once.
    ///
    /// # Errors
    /// When the producer ends or makes no progress.
    pub fn ours(&self, lab: &mut Lab) -> Result<Run> {
        let topic = lab.fresh_name("ours");
        let settings = topic::settings(&lab.kafka(), &topic)?;
        self.ours_into(lab, &settings)
    }

    /// Runs our producer once into the topic of these settings.
    ///
    /// # Errors
    /// When the producer ends or makes no progress.
    pub fn ours_into(&self, lab: &Lab, settings: &KafkaSettings) -> Result<Run> {
        let begun = now_ms()?;
        let mut producer = lab.replay(settings, &self.from)?;
        let pid = producer.pid().context("it was started")?;
        let watch = Watch::start(pid);
        let arrival = topic::wait_for(settings, self.changes, || producer.check())?;
        let run = Run::of(&settings.topic, begun, arrival, pid, self.changes)?;
        complete::check(lab, settings, Of::Ours)?;
        producer.stop()?;
        Ok(Run { peaks: watch.end()?, ..run })
    }

    /// Runs Debezium once, from a copy of its position.
    ///
    /// # Errors
    /// When it fails, makes no progress, or the backlog was made without it.
    pub fn debezium(&self, lab: &mut Lab, format: Format) -> Result<Run> {
        let position = self.debezium.as_ref().context("the backlog was made without Debezium")?;
        let folder = lab.stack.dir().join("runs").join(lab.fresh_name("debezium"));
        copy_folder(position, &folder)?;
        let options = options(lab, folder, format);
        Run::of_debezium(lab, &options, self.changes)
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> Result<i64> {
    Ok(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}

pub(crate) fn options(lab: &Lab, folder: PathBuf, format: Format) -> Options {
    Options {
        folder,
        mysql_port: lab.stack.mysql.port,
        kafka: lab.kafka(),
        registry_url: lab.stack.registry.url(),
        database: DATABASE.to_owned(),
        topic_prefix: "debezium".to_owned(),
        format,
        snapshot: Snapshot::NoData,
        java_heap_mb: HEAP_MB,
    }
}
