//! The load: several writers, each with a separate connection and separate keys, and their ledger.
//!
//! Each transaction also writes its number into a side table. When the connection is lost at COMMIT, that number shows
//! whether the transaction committed; only then does the ledger record it.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use testbed::servers::ADMIN;
use tokio::runtime::Runtime;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};
use tokio::task::JoinHandle;

use super::ledger::Ledger;
use super::plan::{Place, Plan, Rows};
use super::table::{Table, at_first};
use super::token::PROBES;

/// The side table with the number of each writer's last transaction; in the database of the table.
const MARKS: &str = "chaos_marks";
/// The time limit for the writers to end their transactions; a killed MySQL must be up again within it.
const QUIET: Duration = Duration::from_secs(90);
/// The longest pause of a writer after a large transaction.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// The state that the writers share.
pub(crate) struct Shared {
    database: String,
    /// MySQL's own port, past the proxy.
    port: AtomicU16,
    /// Changes per second of each writer.
    rate: AtomicU32,
    ledger: Mutex<Ledger>,
    /// Transactions that a fault stopped before COMMIT.
    failures: AtomicU64,
    last_failure: Mutex<String>,
    /// Each transaction holds it shared; a pause holds it exclusively.
    turn: Arc<RwLock<()>>,
}

/// Writers that run until they are dropped.
pub struct Load {
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<()>>,
    paused: Option<OwnedRwLockWriteGuard<()>>,
}

impl Load {
    /// Creates the side table, the tables beside the product table, and the writers, which wait for [`Load::resume`].
    pub(crate) fn new(runtime: &Runtime, database: &str, port: u16, seed: u64) -> Result<Self> {
        let shared = Arc::new(Shared {
            database: database.to_owned(),
            port: AtomicU16::new(port),
            rate: AtomicU32::new(0),
            ledger: Mutex::new(Ledger::new(at_first())),
            failures: AtomicU64::new(0),
            last_failure: Mutex::default(),
            turn: Arc::default(),
        });
        let mut load = Self { shared, writers: Vec::new(), paused: None };
        load.set_rate(500);
        load.pause(runtime)?;
        runtime.block_on(async {
            let mut conn = load.shared.connect().await?;
            let tables = load.ledger().tables.clone();
            for statement in tables.iter().filter_map(|table| table.create()) {
                conn.query_drop(statement).await?;
            }
            conn.query_drop(format!("CREATE TABLE {MARKS} (writer INT PRIMARY KEY, txn BIGINT NOT NULL)")).await?;
            for lane in 0..=PROBES {
                conn.query_drop(format!("INSERT INTO {MARKS} VALUES ({lane}, -1)")).await?;
            }
            anyhow::Ok(())
        })?;
        for lane in 0..PROBES {
            let writer = Writer::new(lane, &load.shared);
            load.writers.push(runtime.spawn(writer.run(StdRng::seed_from_u64(seed ^ (lane + 1) << 48))));
        }
        Ok(load)
    }

    /// A writer on the keys of the probes.
    pub(crate) fn prober(&self) -> Writer {
        Writer::new(PROBES, &self.shared)
    }

    /// Changes per second of all writers together.
    pub fn set_rate(&self, rate: u32) {
        self.shared.rate.store((rate / PROBES as u32).max(1), Ordering::Relaxed);
    }

    pub(crate) fn pause(&mut self, runtime: &Runtime) -> Result<()> {
        if self.paused.is_none() {
            let turn = Arc::clone(&self.shared.turn).write_owned();
            let paused = runtime.block_on(async { tokio::time::timeout(QUIET, turn).await });
            self.paused = Some(paused.map_err(|_| {
                anyhow!("the writers did not come between two transactions within {QUIET:?}: {}", self.last_failure())
            })?);
        }
        Ok(())
    }

    /// Lets the writers continue, on MySQL's port.
    pub(crate) fn resume(&mut self, port: u16) {
        self.shared.port.store(port, Ordering::Relaxed);
        self.paused = None;
    }

    /// Whether the writers are paused.
    pub fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// The commits so far; for the complete list, pause the load first.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.shared.ledger()
    }

    /// Creates a table while the writers run, which then write to it; returns its number.
    pub(crate) async fn add_table(&self, name: &str) -> Result<usize> {
        let table = Table::lines(name);
        self.shared.connect().await?.query_drop(table.create().unwrap_or_default()).await?;
        let mut ledger = self.ledger();
        ledger.add_table(table);
        Ok(ledger.tables.len() - 1)
    }

    /// Adds a column to the table while the writers run, which then write it too; returns its name.
    pub(crate) async fn add_column(&self, table: usize) -> Result<String> {
        let statement = self.ledger().tables[table].add_column();
        self.shared.connect().await?.query_drop(statement).await?;
        let mut ledger = self.ledger();
        ledger.add_column(table);
        Ok(ledger.tables[table].columns().pop().unwrap_or_default())
    }

    /// The number of transactions that ended before COMMIT, and the last error.
    pub fn failures(&self) -> (u64, String) {
        (self.shared.failures.load(Ordering::Relaxed), self.last_failure())
    }

    fn last_failure(&self) -> String {
        self.shared.last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.writers.iter().for_each(JoinHandle::abort);
    }
}

impl Shared {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A direct connection to the database.
    pub(crate) async fn connect(&self) -> Result<Conn> {
        connect(self.port.load(Ordering::Relaxed), Some(&self.database)).await
    }
}

/// The administrator's connection to MySQL on this port, in UTC.
pub(crate) async fn connect(port: u16, database: Option<&str>) -> Result<Conn> {
    connect_as(ADMIN, port, database).await
}

/// A connection of the user with this name and password.
pub(crate) async fn connect_as((user, password): (&str, &str), port: u16, database: Option<&str>) -> Result<Conn> {
    let options = OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(port)
        .user(Some(user))
        .pass(Some(password))
        .db_name(database)
        .prefer_socket(false)
        .setup(vec!["SET time_zone = '+00:00', transaction_isolation = 'READ-COMMITTED'"]);
    let conn = tokio::time::timeout(Duration::from_secs(5), Conn::new(options)).await;
    conn.context("MySQL does not answer")?.context("no connection to MySQL")
}

/// One writer and its rows.
pub(crate) struct Writer {
    lane: u64,
    shared: Arc<Shared>,
    conn: Option<Conn>,
    /// The number of the next transaction.
    next: u32,
    pub(crate) rows: Rows,
}

/// The outcome of a transaction.
enum Ended {
    Committed,
    RolledBack,
    /// The connection was lost at COMMIT.
    Unknown,
}

impl Writer {
    fn new(lane: u64, shared: &Arc<Shared>) -> Self {
        Self { lane, shared: Arc::clone(shared), conn: None, next: 0, rows: Rows::new(lane) }
    }

    async fn run(mut self, mut rng: StdRng) {
        loop {
            let turn = Arc::clone(&self.shared.turn).read_owned().await;
            let number = self.number();
            let tables = self.shared.ledger().tables.clone();
            let plan = Plan::draw(number, &self.rows, &tables, &mut rng);
            let changes = plan.changes.len() as u32;
            let committed = self.transact(plan).await;
            drop(turn);
            let rest = if committed {
                let rate = self.shared.rate.load(Ordering::Relaxed);
                // Keep the writers out of step with each other.
                Duration::from_secs_f64(f64::from(changes) / f64::from(rate) * rng.random_range(0.5..1.5))
            } else {
                Duration::from_millis(100)
            };
            tokio::time::sleep(rest.min(LONGEST_REST)).await;
        }
    }

    /// The number of the next transaction.
    pub(crate) fn number(&mut self) -> u32 {
        self.next += 1;
        self.next - 1
    }

    /// Runs the transaction once; returns whether it committed. Updates the ledger and the rows.
    pub(crate) async fn transact(&mut self, plan: Plan<'_>) -> bool {
        let committed = match self.send(&plan).await {
            Ok(Ended::Committed) => true,
            Ok(Ended::RolledBack) => false,
            Ok(Ended::Unknown) => self.look_up(plan.number).await,
            Err(error) => {
                self.conn = None;
                self.shared.failures.fetch_add(1, Ordering::Relaxed);
                *self.shared.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = format!("{error:#}");
                false
            }
        };
        if committed {
            self.shared.ledger().commit(&plan.changes);
            self.rows = plan.rows;
        }
        committed
    }

    /// Connects; one of the writers compresses its transactions.
    async fn connect(&self) -> Result<Conn> {
        let mut conn = self.shared.connect().await?;
        if self.lane == 1 {
            conn.query_drop("SET SESSION binlog_transaction_compression = ON").await?;
        }
        Ok(conn)
    }

    /// Sends the transaction. An error means that it certainly did not commit.
    async fn send(&mut self, plan: &Plan<'_>) -> Result<Ended> {
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => self.connect().await?,
        };
        conn.query_drop("BEGIN").await?;
        for statement in &plan.statements {
            conn.query_drop(statement).await?;
        }
        conn.query_drop(format!("UPDATE {MARKS} SET txn = {} WHERE writer = {}", plan.number, self.lane)).await?;
        if plan.rollback {
            conn.query_drop("ROLLBACK").await?;
            self.conn = Some(conn);
            return Ok(Ended::RolledBack);
        }
        match conn.query_drop("COMMIT").await {
            Ok(()) => {
                self.conn = Some(conn);
                Ok(Ended::Committed)
            }
            Err(_) => Ok(Ended::Unknown),
        }
    }

    /// Looks up whether the transaction whose COMMIT had no answer has committed. If a session is still executing it,
    /// the row's lock makes this query wait.
    async fn look_up(&mut self, number: u32) -> bool {
        loop {
            let answer: Result<Option<i64>> = async {
                let mut conn = self.shared.connect().await?;
                let query = format!("SELECT txn FROM {MARKS} WHERE writer = {} FOR UPDATE", self.lane);
                let found = conn.query_first(query).await?;
                self.conn = Some(conn);
                Ok(found)
            }
            .await;
            match answer {
                Ok(found) => return found == Some(i64::from(number)),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Commits a change of each of these places, retrying until the deadline; returns its number.
    pub(crate) async fn probe(&mut self, places: &[Place], deadline: Instant) -> Result<u32> {
        loop {
            let number = self.number();
            let tables = self.shared.ledger().tables.clone();
            let plan = Plan::touch(number, &self.rows, &tables, places);
            if self.transact(plan).await {
                return Ok(number);
            }
            if Instant::now() > deadline {
                let last = self.shared.last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
                return Err(anyhow!("a probe could not be committed: {last}"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
