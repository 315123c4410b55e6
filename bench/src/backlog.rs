//! A backlog that is already in the binlog, into Kafka as Avro: how fast, for how much CPU and memory.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use mysql_async::prelude::Queryable;

use crate::load::{self, Load};
use crate::process::Usage;
use crate::stand::Stand;
use crate::topic::{self, Arrival};

/// One run of one program over the whole backlog.
#[derive(Clone, Debug)]
pub struct Run {
    /// Seconds from the start of the process to the first record.
    pub first_s: f64,
    /// Seconds from the start of the process to the last record.
    pub last_s: f64,
    /// What is in the topic.
    pub arrival: Arrival,
    /// What the process has used by then.
    pub usage: Usage,
}

impl Run {
    /// CPU seconds for a million changes.
    pub fn cpu_per_million(&self) -> f64 {
        self.usage.cpu_seconds / (self.arrival.records as f64 / 1e6)
    }

    /// Records a second from the start of the process to the last.
    pub fn rate_from_start(&self) -> f64 {
        self.arrival.records as f64 / self.last_s
    }
}

/// The backlog.
#[derive(Clone, Debug)]
pub struct Backlog {
    /// Row changes in it.
    pub changes: u64,
    /// A time before all of them, RFC 3339.
    pub from: String,
}

impl Backlog {
    /// Makes it on a fresh table.
    ///
    /// # Errors
    /// MySQL's own.
    pub fn make(stand: &Stand, load: Load) -> Result<Self> {
        stand.runtime.block_on(async {
            load::prepare(&stand.stack.mysql).await?;
            let mut conn = load::connect(&stand.stack.mysql, None).await?;
            conn.query_drop("DO SLEEP(1.1)").await?;
            let now: Option<String> =
                conn.query_first("SELECT DATE_FORMAT(UTC_TIMESTAMP(6), '%Y-%m-%dT%H:%i:%s.%fZ')").await?;
            conn.query_drop("DO SLEEP(1.1)").await?;
            let changes = load.run(&stand.stack.mysql).await?;
            Ok(Self { changes, from: now.context("MySQL gives no time")? })
        })
    }

    /// One run of ours.
    ///
    /// # Errors
    /// When the producer ends or stands still.
    pub fn ours(&self, stand: &mut Stand) -> Result<Run> {
        let topic = stand.fresh_name("ours");
        let settings = topic::settings(&stand.kafka(), &topic)?;
        let begun = now_ms()?;
        let mut producer = stand.replay(&topic, &self.from)?;
        let pid = producer.pid().context("it was started")?;
        let arrival = topic::wait_for(&settings, self.changes, || producer.check())?;
        let run = self.run(begun, arrival, pid)?;
        producer.stop()?;
        Ok(run)
    }

    fn run(&self, begun: i64, arrival: Arrival, pid: u32) -> Result<Run> {
        ensure!(
            arrival.records == self.changes,
            "{} records of {} changes: not every change once",
            arrival.records,
            self.changes
        );
        let seconds = |ms: i64| (ms - begun) as f64 / 1e3;
        Ok(Run {
            first_s: seconds(arrival.first_ms),
            last_s: seconds(arrival.last_ms),
            usage: Usage::of(pid)?,
            arrival,
        })
    }
}

fn now_ms() -> Result<i64> {
    Ok(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}
