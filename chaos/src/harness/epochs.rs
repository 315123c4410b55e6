//! The producer's epochs and snapshots, and what the ledger has to know of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use model::position::{Progress, TableProgress};
use model::time::Micros;
use mysql_async::prelude::Queryable;

use super::{ARRIVAL, Harness, wait_for};

impl Harness {
    /// Until [`Harness::collapse_until_here`], changes committed from now on may be in the topics only as the state of a
    /// snapshot.
    ///
    /// # Errors
    /// When a writer does not end its transaction.
    pub fn collapse_from_here(&mut self) -> Result<()> {
        self.between_transactions(|harness| {
            let mut ledger = harness.load.ledger();
            let next = ledger.transactions();
            ledger.collapse_from(next);
            Ok(())
        })
    }

    /// The main topic is created again: all changes up to now may be in it only as a snapshot's state, and from now on
    /// those of all tables in theirs.
    pub fn begin_main_topic(&mut self) {
        self.load.ledger().begin_main_topic();
    }

    /// Every change committed from now on must be streamed. The snapshot must be complete.
    ///
    /// # Errors
    /// When a writer does not end its transaction.
    pub fn collapse_until_here(&mut self) -> Result<()> {
        self.between_transactions(|harness| {
            harness.load.ledger().collapse_until_here();
            Ok(())
        })
    }

    /// Every change committed from now on must be in the next epoch, which replays from the returned time.
    ///
    /// # Errors
    /// When MySQL or Kafka does not answer, or nothing has been committed to Kafka yet.
    pub fn replay_from_here(&mut self) -> Result<Micros> {
        self.between_transactions(|harness| {
            let epoch = harness.progress()?.context("no progress in Kafka yet")?.epoch + 1;
            let mut conn = harness.mysql()?;
            let now = async {
                // Earlier commits have an earlier time than this, and later commits a later one.
                conn.query_drop("DO SLEEP(0.01)").await?;
                let now: Option<String> = conn.query_first("SELECT CAST(UTC_TIMESTAMP(6) AS CHAR)").await?;
                conn.query_drop("DO SLEEP(0.01)").await?;
                anyhow::Ok(now)
            };
            let now = harness.block_on(now)?.context("MySQL gives no time")?;
            harness.load.ledger().replay_from_here(epoch);
            Micros::parse(&now).with_context(|| format!("MySQL gives a time of another form: {now}"))
        })
    }

    /// The producer's progress in Kafka.
    ///
    /// # Errors
    /// When Kafka does not answer.
    pub fn progress(&self) -> Result<Option<Progress>> {
        self.bed.find_progress()
    }

    /// The epoch committed to Kafka; 0 when there is none.
    ///
    /// # Errors
    /// When Kafka does not answer.
    pub fn epoch(&self) -> Result<u64> {
        Ok(self.progress()?.map_or(0, |progress| progress.epoch))
    }

    /// Waits until the producer is in a later epoch than this one, with the snapshots of all tables, if any, complete.
    ///
    /// # Errors
    /// When it takes longer than 90 s.
    pub fn epoch_after(&mut self, epoch: u64) -> Result<u64> {
        let deadline = Instant::now() + ARRIVAL;
        loop {
            let now = self.progress()?.filter(|progress| progress.epoch > epoch);
            if let Some(progress) = now.filter(|progress| self.snapshots_are_complete(progress)) {
                return Ok(progress.epoch);
            }
            self.check_running()?;
            ensure!(Instant::now() < deadline, "no complete epoch after {epoch} within {ARRIVAL:?}\n{}", self.ends());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn snapshots_are_complete(&self, progress: &Progress) -> bool {
        let tables = self.load.ledger().tables.clone();
        let is_complete = |number| self.of_table(progress, number).is_some_and(|table| table.snapshot.is_none());
        (0..tables.len()).all(is_complete)
    }

    fn of_table<'a>(&self, progress: &'a Progress, table: usize) -> Option<&'a TableProgress> {
        let name = format!("{}.{}", self.bed.name, self.load.ledger().tables[table].name);
        if table == 0 { Some(&progress.main) } else { progress.tables.get(&name) }
    }

    /// Waits until the snapshot of this table that was asked for last is complete.
    ///
    /// # Errors
    /// When it takes longer than 90 s.
    pub(crate) fn requested_snapshot(&mut self, table: usize) -> Result<()> {
        let requests = Path::new(self.bed.get("PRODUCER_TIME_TRACK")).join("snapshot_requests.json");
        let requests: BTreeMap<String, String> = serde_json::from_str(&fs::read_to_string(requests)?)?;
        let name = format!("{}.{}", self.bed.name, self.load.ledger().tables[table].name);
        let request = requests.get(&name);
        wait_for("the snapshot of one table", ARRIVAL, || {
            let progress = self.progress().ok()??;
            let of_table = self.of_table(&progress, table)?;
            (of_table.request.as_ref() == request && of_table.snapshot.is_none()).then_some(())
        })
        .with_context(|| self.ends())
    }

    /// Creates a table that the running producer takes, and lets the load write to it; returns its number. Until
    /// [`Harness::collapse_until_here`], its changes may be in its topic only as a snapshot's state.
    ///
    /// # Errors
    /// MySQL's own.
    pub fn add_table(&mut self) -> Result<usize> {
        let number = self.load.ledger().tables.len();
        self.runtime.block_on(self.load.add_table(&format!("line_{number}")))
    }

    /// Adds a column to the table while the load runs, which then writes it too; returns its name.
    ///
    /// # Errors
    /// MySQL's own.
    pub fn add_column(&mut self, table: usize) -> Result<String> {
        self.runtime.block_on(self.load.add_column(table))
    }
}
