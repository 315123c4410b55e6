//! Runs the steps in order: fix a position and wait; in one pass or several read the topic, the dead letters, the logs,
//! and the table with PostgreSQL; then collect the details of the differences.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::error::{Error, Result};
use mysql::table;
use mysql_async::Conn;
use runtime::config::{MySqlSettings, PINNED_SCHEMA, Settings};
use tokio::sync::Mutex;
use tracing::info;

use crate::arrival::{self, Missing, Patience};
use crate::compare::Comparison;
use crate::contract::{self, Contract};
use crate::cut::{BinlogEnd, Cut};
use crate::elsewhere::Elsewhere;
use crate::explain;
use crate::findings::{Check, Finding, Findings};
use crate::gaps::{Gap, Gaps};
use crate::letters::{self, Texts};
use crate::line::Form;
use crate::logs::{Judge, Logs, Others};
use crate::parts::Parts;
use crate::pass::{Pass, Share};
use crate::postgres::{Stored, StoredRows};
use crate::reading::Reader;
use crate::rechecks::Rechecks;
use crate::report::Report;
use crate::schemas::{self, Schemas};
use crate::source::Source;
use crate::span::{Bounds, Span};
use crate::topic::{Consumed, Topic};

/// Changes that are in the topic more than once, and are looked at one by one.
const MOST_REPEATED: usize = 10_000;
/// The wait for changes on their way, without `--wait`.
const ON_ITS_WAY: Duration = Duration::from_secs(5);
/// The wait for open transactions, at least.
const SETTLING: Duration = Duration::from_secs(10);

/// Where patterns select the tables, waits until the producer has read the binlog so far, and so has taken each table
/// that matches.
///
/// # Errors
/// Errors of MySQL and Kafka.
pub(crate) async fn wait_for_tables(settings: &Settings, wait: Duration) -> Result<()> {
    if !settings.tables()?.has_patterns() {
        return Ok(());
    }
    let Parts { mysql, kafka, source, .. } = Parts::from(settings)?;
    let end = BinlogEnd::ask(&mut table::connect(&mysql).await?).await?;
    let patience = Patience { until: Instant::now() + wait, asked: true };
    // What is missing then is reported for each table.
    blocking(move || arrival::of_producer(&kafka, &source, &end, patience)).await.map(drop)
}

/// Compares everything up to one position of the source, which it fixes; with `wait` it first waits until everything
/// has arrived, at most so long.
///
/// # Errors
/// Transient when a server can't be reached; definite when something can't be read at all.
pub(crate) async fn run(parts: Parts, wait: Option<Duration>) -> Result<(Report, Findings)> {
    let mut run = Run::new(parts, wait);
    let mut conn = table::connect(&run.parts.mysql).await?;
    let MySqlSettings { database, table, .. } = &run.parts.mysql;
    let source = Source::look_up(&mut conn, database, table).await?;
    let mut cut = match run.fix(&mut conn, &source).await? {
        Ok(fixed) => fixed,
        Err(missing) => return Ok(run.not_arrived(missing)),
    };
    let contract = {
        let Parts { registry, rules, form, .. } = &run.parts;
        schemas::contract(registry, &contract::parse(PINNED_SCHEMA)?, &source, rules.clone(), *form).await?
    };
    let contract = Arc::new(contract);
    let read = run.open_topic(&contract).await?;
    cut.close(&mut conn).await?;
    let mut sides = Sides { conn, source, cut, contract, read: Arc::new(Mutex::new(read)), postgres: None };
    run.passes(&mut sides).await?;
    run.explain(&sides.read).await?;
    if let Some(Postgres { stored: Some(stored), .. }) = &sides.postgres {
        stored.describe(&sides.contract, &mut run.findings).await?;
    }
    match run.unpublished.take() {
        Some(missing) if run.gaps.count(Gap::Unpublished) > 0 => {
            run.findings.add(Check::Waiting, || Finding::new(Check::Waiting, missing.text));
        }
        Some(missing) if run.findings.count(Check::Table) > 0 => {
            run.report.notes.push(format!("{}: rows that are not published yet differ from the topic", missing.text));
        }
        _ => {}
    }
    Ok(run.conclude())
}

/// One comparison.
struct Run {
    parts: Parts,
    begun: Instant,
    wait: Option<Duration>,
    report: Report,
    findings: Findings,
    gaps: Gaps,
    /// What the producer has not published yet; `None` when it has everything up to the position.
    unpublished: Option<Missing>,
    /// Records that the consumers have not read yet.
    behind: u64,
    /// Changes that are in the topic more than once.
    repeated: Vec<u64>,
}

/// What all passes compare, each side in one state.
struct Sides {
    /// Has the table's snapshot.
    conn: Conn,
    source: Source,
    cut: Cut,
    contract: Arc<Contract>,
    read: Arc<Mutex<Read>>,
    /// The first pass opens it, after it has read the logs.
    postgres: Option<Postgres>,
}

/// The topic's part to compare, and its reader.
struct Read {
    span: Span,
    bounds: Bounds,
    reader: Reader,
    /// Known when the first pass has waited for the consumers.
    consumed: Option<Consumed>,
    /// The dead letters to compare, if there are any.
    letters: Option<Span>,
}

/// PostgreSQL's snapshot.
struct Postgres {
    /// `None` when there is no such table, or PostgreSQL is off.
    stored: Option<Stored>,
    /// The topic's ends after the snapshot was taken.
    ends: Span,
}

/// The results of one pass.
struct Outcome {
    topic: Topic,
    logs: Logs,
    rechecks: Rechecks,
    findings: Findings,
    gaps: Gaps,
    repeated: Vec<u64>,
    behind: u64,
    rows: u64,
    stored: u64,
    note: Option<String>,
}

impl Run {
    fn new(parts: Parts, wait: Option<Duration>) -> Self {
        let table = format!("{}.{}", parts.mysql.database, parts.mysql.table);
        let report = Report { topic: parts.kafka.topic.clone(), table, ..Report::default() };
        let (findings, gaps) = (Findings::default(), Gaps::default());
        Self {
            parts,
            begun: Instant::now(),
            wait,
            report,
            findings,
            gaps,
            unpublished: None,
            behind: 0,
            repeated: Vec::new(),
        }
    }

    fn patience(&self, least: Duration) -> Patience {
        let until = (self.begun + self.wait.unwrap_or_default()).max(Instant::now() + least);
        Patience { until, asked: self.wait.is_some() }
    }

    async fn of_producer(&self, end: &BinlogEnd, patience: Patience) -> Result<Option<Missing>> {
        let (kafka, source, end) = (self.parts.kafka.clone(), self.parts.source.clone(), end.clone());
        blocking(move || arrival::of_producer(&kafka, &source, &end, patience)).await
    }

    /// Fixes the position once the producer has reached it or nearly so; otherwise returns what is missing. Without
    /// `--wait`, it notes what is missing.
    async fn fix(&mut self, conn: &mut Conn, source: &Source) -> Result<Result<Cut, String>> {
        if self.wait.is_some() {
            // Wait before the snapshot is opened, as a long snapshot keeps the server from purging old row versions.
            let end = BinlogEnd::ask(conn).await?;
            if let Some(missing) = self.of_producer(&end, self.patience(Duration::ZERO)).await? {
                return Ok(Err(missing.text));
            }
        }
        let cut = Cut::open(conn, source).await?;
        self.report.position = cut.high().describe();
        let missing = self.of_producer(cut.high(), self.patience(ON_ITS_WAY)).await?;
        Ok(match (self.wait, missing) {
            (Some(_), Some(missing)) => Err(missing.text),
            (_, missing) => {
                self.unpublished = missing;
                Ok(cut)
            }
        })
    }

    async fn open_topic(&mut self, contract: &Arc<Contract>) -> Result<Read> {
        let (registry, kafka) = (self.parts.registry.clone(), self.parts.kafka.clone());
        let schemas = Schemas::new(registry, kafka.clone(), Arc::clone(contract))?;
        let (contract, deadline) = (Arc::clone(contract), self.patience(SETTLING).until);
        let (read, open) = blocking(move || {
            let mut reader = Reader::new(schemas, contract);
            let bounds = Bounds::required(&kafka)?;
            let (span, open) = bounds.settled(deadline)?;
            reader.look_at_dead_letters(&kafka)?;
            Ok((Read { span, bounds, reader, consumed: None, letters: None }, open))
        })
        .await?;
        if let Some(open) = open {
            self.findings.add(Check::Waiting, || Finding::new(Check::Waiting, open));
        }
        Ok(read)
    }

    /// Compares everything, in as many passes as the memory requires.
    async fn passes(&mut self, sides: &mut Sides) -> Result<()> {
        let records = sides.read.lock().await.span.records();
        let rows = sides.source.rows_about(&mut sides.conn).await?.min(records);
        let with_postgres = if self.parts.postgres.is_some() { StoredRows::bytes_of(rows) } else { 0 };
        let need = Topic::bytes_of(records, rows).max(Topic::bytes_of(0, rows) + with_postgres);
        let mut shares = Share::all(need, self.parts.memory as u64);
        while let Some(share) = shares.pop() {
            let (number, of) = (self.report.passes + 1, self.report.passes + 1 + shares.len() as u64);
            let label = if of > 1 { format!("pass {number} of {of}: ") } else { String::new() };
            if of > 1 {
                info!(pass = number, of, table = self.report.table, "comparing a share of the keys");
            }
            let pass = Pass::new(share, self.parts.memory, label);
            match self.pass(sides, &pass).await {
                Ok(outcome) => self.add(outcome),
                Err(_) if pass.is_exceeded() => {
                    info!(pass = number, "the pass needs more than verify.memory: two passes instead");
                    shares.extend(pass.halves());
                }
                Err(error) => return Err(error),
            }
        }
        let read = sides.read.lock().await;
        self.gaps.add(Gap::Partitions, read.span.first.iter().filter(|first| **first > 0).count() as u64);
        let missing = read.consumed.as_ref().and_then(|consumed| consumed.missing.as_ref());
        if let Some(missing) = missing.filter(|_| self.behind > 0 || self.wait.is_some()) {
            self.findings.add(Check::Waiting, || Finding::new(Check::Waiting, missing));
        }
        if let Some(settings) = &self.parts.postgres
            && sides.postgres.as_ref().is_some_and(|postgres| postgres.stored.is_none())
            && self.report.table_rows > 0
        {
            self.findings.add(Check::Postgres, || {
                Finding::new(Check::Postgres, format!("PostgreSQL has no table {}", settings.table))
            });
        }
        Ok(())
    }

    /// One pass over all places.
    async fn pass(&self, sides: &mut Sides, pass: &Pass) -> Result<Outcome> {
        let outcome = self.read_topic_and_logs(sides, pass).await?;
        let mut outcome = self.compare(sides, outcome).await?;
        let (kafka, read) = (self.parts.kafka.clone(), Arc::clone(&sides.read));
        let ends = sides.postgres.as_ref().map(|postgres| postgres.ends.clone()).unwrap_or_default();
        blocking(move || {
            let mut read = read.blocking_lock();
            let Read { span, reader, .. } = &mut *read;
            let Outcome { rechecks, findings, gaps, .. } = &mut outcome;
            rechecks.read(&kafka, (span, &ends), reader, findings, gaps)?;
            Ok(outcome)
        })
        .await
    }

    /// Adds the results of a pass.
    fn add(&mut self, outcome: Outcome) {
        self.report.add(&outcome.topic, &outcome.logs);
        self.report.table_rows += outcome.rows;
        if self.parts.postgres.is_some() {
            *self.report.postgres_rows.get_or_insert_default() += outcome.stored;
        }
        self.findings.add_all(outcome.findings);
        self.gaps.add_all(&outcome.gaps);
        self.behind += outcome.behind;
        let room = MOST_REPEATED.saturating_sub(self.repeated.len()).min(outcome.repeated.len());
        self.repeated.extend_from_slice(&outcome.repeated[..room]);
        self.findings.count_further(Check::Repeated, (outcome.repeated.len() - room) as u64);
        self.report.notes.extend(outcome.note.filter(|note| !self.report.notes.contains(note)));
    }

    /// Reads the topic, the dead letters and the logs; the first pass waits for the consumers in between.
    async fn read_topic_and_logs(&self, sides: &Sides, pass: &Pass) -> Result<Outcome> {
        let (parts, patience, settling) =
            (self.parts.clone(), self.patience(ON_ITS_WAY), self.patience(SETTLING).until);
        let (read, cut, pass) = (Arc::clone(&sides.read), sides.cut.clone(), pass.clone());
        blocking(move || {
            let mut read = read.blocking_lock();
            let Read { span, bounds, reader, consumed, letters } = &mut *read;
            let mut findings = Findings::default();
            let mut topic = Topic::read(&parts.kafka, span, &cut, reader, &pass, &mut findings)?;
            let repeated = topic.repeated();
            // Records may have expired while the topic was read.
            span.first = bounds.now()?.first;
            if consumed.is_none() {
                *consumed = Some(arrival::of_consumers(&parts.kafka, &topic, patience)?);
                *letters = letters::settled(&parts.kafka, settling)?;
            }
            let consumed = consumed.as_ref();
            if let Some(letters) = letters {
                topic.read_dead_letters(&parts.kafka, &reader.contract, letters, &mut findings)?;
            }
            let others = own_name(&parts, &reader.contract);
            let mut judge = Judge {
                topic: &mut topic,
                span,
                floats: &reader.floats,
                compacted: parts.kafka.cleanup_policy.contains("compact"),
                others: others.as_ref(),
                ask: &mut || bounds.now(),
                findings: &mut findings,
            };
            let logs = Logs::read(&parts.logs, &mut judge)?;
            let (elsewhere, note) = match topic.misses_lines().then(|| Elsewhere::look(&parts.kafka, &parts.logs)) {
                None => Default::default(),
                Some(Ok(elsewhere)) => (elsewhere, None),
                Some(Err(error)) if error.is_transient() => return Err(error),
                Some(Err(error)) => {
                    (Elsewhere::default(), Some(format!("lines may be in other logs folders: {error}")))
                }
            };
            let behind = consumed.map_or(0, |c| topic.report_missing(c, &elsewhere, &mut findings));
            topic.drop_records();
            let mut gaps = Gaps::default();
            gaps.add(Gap::Lines, logs.expired);
            let rechecks = Rechecks::default();
            Ok(Outcome { topic, logs, rechecks, findings, gaps, repeated, behind, rows: 0, stored: 0, note })
        })
        .await
    }

    /// Compares the table with the topic and PostgreSQL.
    async fn compare(&self, sides: &mut Sides, mut outcome: Outcome) -> Result<Outcome> {
        let read = sides.read.lock().await;
        let contract = &sides.contract;
        if sides.postgres.is_none() {
            let stored = match &self.parts.postgres {
                Some(settings) => Stored::open(settings, contract).await?,
                None => None,
            };
            let ends = tokio::task::block_in_place(|| read.bounds.now())?;
            sides.postgres = Some(Postgres { stored, ends });
        }
        let Some(Postgres { stored, ends }) = &sides.postgres else { return Ok(outcome) };
        let rows = match stored {
            Some(stored) => stored.read(contract, &outcome.topic.pass, outcome.topic.bytes()).await?,
            None => StoredRows::default(),
        };
        outcome.stored = rows.count;
        let nothing = Consumed::default();
        let mut comparison = Comparison {
            topic: &mut outcome.topic,
            span: &read.span,
            cut: &sides.cut,
            consumed: read.consumed.as_ref().unwrap_or(&nothing),
            contract,
            ends,
            findings: &mut outcome.findings,
            gaps: &mut outcome.gaps,
            rechecks: &mut outcome.rechecks,
            parked: HashSet::new(),
            refused: HashSet::new(),
            letters: &Texts::new(&self.parts.kafka, contract),
            has_unpublished: self.unpublished.as_ref().is_some_and(|missing| missing.has_begun),
        };
        let rows = stored.is_some().then_some(rows.rows);
        outcome.rows = comparison.run(&mut sides.conn, &sides.source, rows).await?;
        Ok(outcome)
    }

    /// Reads the topic once more for the details of the differences.
    async fn explain(&mut self, read: &Arc<Mutex<Read>>) -> Result<()> {
        let (kafka, read) = (self.parts.kafka.clone(), Arc::clone(read));
        let mut repeated = std::mem::take(&mut self.repeated);
        let mut findings = std::mem::take(&mut self.findings);
        self.findings = blocking(move || {
            repeated.sort_unstable();
            let mut read = read.blocking_lock();
            let Read { span, reader, .. } = &mut *read;
            explain::explain(&kafka, span, reader, &repeated, &mut findings)?;
            Ok(findings)
        })
        .await?;
        Ok(())
    }

    fn not_arrived(mut self, missing: String) -> (Report, Findings) {
        self.findings.add(Check::Waiting, || Finding::new(Check::Waiting, missing));
        self.report.notes.push("nothing was compared: see whether the producer runs, and what it says".to_owned());
        self.conclude()
    }

    fn conclude(mut self) -> (Report, Findings) {
        self.report.conclude(&self.findings, &self.gaps);
        (self.report, self.findings)
    }
}

/// The other tables, with the name in this table's lines as the schema of its records has it.
fn own_name(parts: &Parts, contract: &Contract) -> Option<Others> {
    let own = (parts.form == Form::Nested).then(|| contract.record.clone());
    parts.others.clone().map(|others| Others { own, ..others })
}

/// Runs Kafka's client, which blocks, on a separate thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Error::definite("a step of the comparison ended in a panic").with_source(e))?
}
