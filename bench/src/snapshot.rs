//! Measures the snapshot of an existing table into Kafka as Avro.

use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use testbed::servers::DATABASE;

use crate::backlog::{Run, now_ms, options};
use crate::complete::{self, Of};
use crate::debezium::{Format, Snapshot};
use crate::lab::Lab;
use crate::load;
use crate::load::NAME;
use crate::topic;

/// A table with so many rows.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Rows in it.
    pub rows: u64,
}

/// Inserts so many rows into the table, with ids from 0 on.
///
/// # Errors
/// MySQL's own.
pub async fn fill(conn: &mut Conn, rows: u64) -> Result<()> {
    const TOGETHER: u64 = 2_000;
    for first in (0..rows).step_by(TOGETHER as usize) {
        let row = |id: u64| format!("({id},'{NAME}{id}','cat_{}',{}.25,NOW(6))", id % 20, id % 900);
        let values: Vec<String> = (first..(first + TOGETHER).min(rows)).map(row).collect();
        conn.query_drop(format!("INSERT INTO product VALUES {}", values.join(","))).await?;
    }
    Ok(())
}

impl Table {
    /// Fills it.
    ///
    /// # Errors
    /// MySQL's own.
    pub fn make(lab: &Lab, rows: u64) -> Result<Self> {
        lab.runtime.block_on(async {
            load::prepare(&lab.stack.mysql).await?;
            let mut conn = load::connect(&lab.stack.mysql, Some(DATABASE)).await?;
            fill(&mut conn, rows).await?;
            Ok(Self { rows })
        })
    }

    /// Runs our producer once.
    ///
    /// # Errors
    /// When the producer ends or makes no progress.
    pub fn ours(self, lab: &mut Lab) -> Result<Run> {
        let settings = topic::settings(&lab.kafka(), &lab.fresh_name("snapshot"))?;
        let begun = now_ms()?;
        let mut producer = lab.programs(&settings.topic).producer()?;
        let pid = producer.pid().context("it was started")?;
        let arrival = topic::wait_for(&settings, self.rows, || producer.check())?;
        let run = Run::of(&settings.topic, begun, arrival, pid, self.rows)?;
        complete::check(lab, &settings, Of::Ours)?;
        producer.stop()?;
        Ok(run)
    }

    /// Runs Debezium once.
    ///
    /// # Errors
    /// When it fails or makes no progress.
    pub fn debezium(self, lab: &mut Lab) -> Result<Run> {
        let name = lab.fresh_name("debezium_snapshot");
        let mut options = options(lab, lab.stack.dir().join("runs").join(&name), Format::Avro);
        (options.snapshot, options.topic_prefix) = (Snapshot::Initial, name);
        Run::of_debezium(lab, &options, self.rows)
    }

    /// The rate in rows a second at which `mysql --quick` streams into a pipe.
    ///
    /// # Errors
    /// When the client fails.
    pub fn select(self, lab: &Lab) -> Result<f64> {
        let begun = Instant::now();
        let mut client = lab.stack.mysql.client();
        client.args(["--quick", "--batch", "--skip-column-names", "-e", "SELECT * FROM product", DATABASE]);
        let mut client = client.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("cannot run mysql")?;
        let mut rows = client.stdout.take().context("its output")?;
        let bytes = std::io::copy(&mut rows, &mut std::io::sink())?;
        let status = client.wait()?;
        ensure!(status.success() && bytes > self.rows * 30, "mysql ended with {status} after {bytes} bytes");
        Ok(self.rows as f64 / begun.elapsed().as_secs_f64())
    }
}
