//! Makes changes at a fixed rate, each in a separate transaction.
//!
//! The loop is open: every change has a planned time, independent of earlier changes. A delayed connection catches up
//! at once. So a stall also counts for the changes that were due during it; if they were only made later, it would be
//! hidden.

use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use testbed::servers::{DATABASE, MySql};
use tokio::time::{Instant, sleep_until};

use crate::load;

/// At 10,000 changes a second, each commit may take 1.6 ms.
const CONNECTIONS: u64 = 16;

/// The connections for changes, and their progress.
pub struct Pace {
    conns: Vec<Conn>,
    /// The highest id inserted; they begin at 1.
    pub last_id: u64,
}

/// One stretch at a rate.
#[derive(Clone, Copy, Debug)]
pub struct Stretch {
    /// Changes a second.
    pub rate: u64,
    /// Seconds at its beginning without measurement.
    pub warm_up: u64,
    /// Measured seconds.
    pub measured: u64,
}

/// The changes that a stretch inserted.
#[derive(Clone, Debug)]
pub struct Paced {
    /// The requested rate.
    pub rate: u64,
    /// The ids to measure.
    pub ids: std::ops::RangeInclusive<u64>,
    /// From a change's planned time to the return of its COMMIT, 99 of 100, in milliseconds.
    pub late_p99_ms: f64,
}

impl Pace {
    /// Connects.
    ///
    /// # Errors
    /// MySQL's own.
    pub async fn new(mysql: &MySql) -> Result<Self> {
        let mut conns = Vec::new();
        for _ in 0..CONNECTIONS {
            conns.push(load::connect(mysql, Some(DATABASE)).await?);
        }
        Ok(Self { conns, last_id: 0 })
    }

    /// Inserts a row at each planned time.
    ///
    /// # Errors
    /// MySQL's own.
    pub async fn run(mut self, stretch: Stretch) -> Result<(Self, Paced)> {
        let Stretch { rate, warm_up, measured } = stretch;
        let (first, changes) = (self.last_id + 1, rate * (warm_up + measured));
        let begin = Instant::now();
        let mut writers = Vec::new();
        for (number, mut conn) in (0_u64..).zip(self.conns.drain(..)) {
            writers.push(tokio::spawn(async move {
                let insert =
                    conn.prep("INSERT INTO product VALUES (?, 'folding garden chair', 'cat_5', 12.25, NOW(6))");
                let insert = insert.await?;
                let mut late = Histogram::<u64>::new(3)?;
                for n in (number..changes).step_by(CONNECTIONS as usize) {
                    let planned = begin + Duration::from_micros(n * 1_000_000 / rate);
                    sleep_until(planned).await;
                    conn.exec_drop(&insert, (first + n,)).await?;
                    late.record(planned.elapsed().as_micros() as u64)?;
                }
                anyhow::Ok((conn, late))
            }));
        }
        let mut all = Histogram::<u64>::new(3)?;
        for writer in writers {
            let (conn, late) = writer.await.context("a writer died")??;
            self.conns.push(conn);
            all.add(late)?;
        }
        self.last_id += changes;
        let ids = first + rate * warm_up..=self.last_id;
        Ok((self, Paced { rate, ids, late_p99_ms: all.value_at_quantile(0.99) as f64 / 1e3 }))
    }
}
