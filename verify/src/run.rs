//! Runs the steps in order: fix a position, wait, read the topic, the dead letters, the logs, and the table with
//! PostgreSQL; then collect the details of the differences.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::error::{Error, Result};
use model::table_name::TableName;
use mysql::table;
use mysql_async::Conn;
use runtime::config::{KafkaSettings, MySqlSettings, PINNED_SCHEMA, PostgresSettings, RegistrySettings, Settings};

use crate::arrival::{self, Patience};
use crate::compare::Comparison;
use crate::contract::{self, Contract};
use crate::cut::{BinlogEnd, Cut};
use crate::elsewhere::Elsewhere;
use crate::explain;
use crate::findings::{Check, Finding, Findings};
use crate::gaps::{Gap, Gaps};
use crate::letters::Texts;
use crate::line::{self, Form};
use crate::logs::{Judge, Logs, Others};
use crate::postgres::Stored;
use crate::reading::Reader;
use crate::rechecks::Rechecks;
use crate::report::Report;
use crate::rules::{self, Rules};
use crate::schemas::{self, Schemas};
use crate::source::Source;
use crate::span::{Bounds, Span};
use crate::topic::{Consumed, Topic};

/// The places to compare.
#[derive(Clone)]
pub(crate) struct Parts {
    mysql: MySqlSettings,
    kafka: KafkaSettings,
    registry: RegistrySettings,
    postgres: Option<PostgresSettings>,
    rules: Rules,
    form: Form,
    /// Logs folders.
    logs: Vec<PathBuf>,
    /// The main table, `database.table`, after which the progress is named.
    source: String,
    /// The tables that are compared in other runs, if there are any.
    others: Option<Others>,
}

impl Parts {
    /// Reads them from the settings.
    ///
    /// # Errors
    /// Usage, with the name of the setting.
    pub(crate) fn from(settings: &Settings) -> Result<Self> {
        Ok(Self {
            mysql: MySqlSettings::from(settings)?,
            kafka: KafkaSettings::from(settings)?,
            registry: RegistrySettings::from(settings)?,
            postgres: PostgresSettings::from(settings)?,
            rules: rules::of(settings)?,
            form: line::form(settings),
            logs: folders(settings.text("consumer.logs")),
            source: settings.main_table().to_string(),
            others: None,
        })
    }
}

impl Parts {
    /// The places of each of these tables; the first run reports the lines that belong to none.
    ///
    /// # Errors
    /// As [`Self::from`].
    pub(crate) fn of_tables(settings: &Settings, tables: &[TableName]) -> Result<Vec<Self>> {
        let mut parts = Vec::new();
        for name in tables {
            parts.push(Self::from(&settings.of_table(name))?);
        }
        if let [_] = tables {
            return Ok(parts);
        }
        let mut names: HashSet<String> = tables.iter().map(record_name).collect();
        names.insert(contract::parse(PINNED_SCHEMA)?.name);
        let has_flat = parts.iter().any(|parts| parts.form == Form::Flat);
        for (number, (parts, name)) in parts.iter_mut().zip(tables).enumerate() {
            let own = (parts.form == Form::Nested).then(|| record_name(name));
            parts.others = Some(Others { own, names: names.clone(), has_flat, reports_unknown: number == 0 });
        }
        Ok(parts)
    }
}

/// The full name of the records of a table whose schema is made from it.
fn record_name(table: &TableName) -> String {
    format!("{}.{}", avro::schema::adjusted(&table.database), avro::schema::adjusted(&table.table))
}

/// The logs folders of a setting: paths separated by commas, unless a folder has the whole text as its name.
fn folders(text: &str) -> Vec<PathBuf> {
    if Path::new(text).is_dir() { vec![text.into()] } else { text.split(',').map(|p| p.trim().into()).collect() }
}

/// The wait for changes on their way, without `--wait`.
const ON_ITS_WAY: Duration = Duration::from_secs(5);
/// The wait for open transactions, at least.
const SETTLING: Duration = Duration::from_secs(10);

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
    let (mut cut, producer) = match run.fix(&mut conn, &source).await? {
        Ok(fixed) => fixed,
        Err(missing) => return Ok(run.not_arrived(missing)),
    };
    let contract = {
        let Parts { registry, rules, form, .. } = &run.parts;
        schemas::contract(registry, &contract::parse(PINNED_SCHEMA)?, &source, rules.clone(), *form).await?
    };
    let contract = Arc::new(contract);
    let mut read = run.read_topic(&cut, &contract).await?;
    cut.close(&mut conn).await?;
    let logs;
    (read, logs) = run.read_logs(read).await?;
    let (rechecks, stored) = run.compare(&mut conn, &source, &cut, &mut read).await?;
    run.report.count(&read.topic, &logs);
    run.explain(read, rechecks).await?;
    if let Some(stored) = &stored {
        stored.describe(&contract, &mut run.findings).await?;
    }
    if let Some(producer) = producer.filter(|_| run.findings.count(Check::Table) > 0) {
        run.report.notes.push(format!("{producer}: rows that are not published yet differ from the topic"));
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
}

/// The topic, and its reader.
struct Read {
    topic: Topic,
    /// The part of the topic to compare.
    span: Span,
    bounds: Bounds,
    reader: Reader,
    consumed: Consumed,
}

impl Run {
    fn new(parts: Parts, wait: Option<Duration>) -> Self {
        let table = format!("{}.{}", parts.mysql.database, parts.mysql.table);
        let report = Report { topic: parts.kafka.topic.clone(), table, ..Report::default() };
        let (findings, gaps) = (Findings::default(), Gaps::default());
        Self { parts, begun: Instant::now(), wait, report, findings, gaps }
    }

    fn patience(&self, least: Duration) -> Patience {
        let until = (self.begun + self.wait.unwrap_or_default()).max(Instant::now() + least);
        Patience { until, asked: self.wait.is_some() }
    }

    async fn of_producer(&self, end: &BinlogEnd, patience: Patience) -> Result<Option<String>> {
        let (kafka, source, end) = (self.parts.kafka.clone(), self.parts.source.clone(), end.clone());
        blocking(move || arrival::of_producer(&kafka, &source, &end, patience)).await
    }

    /// Fixes the position once the producer has reached it or nearly so; otherwise returns what is missing. Without
    /// `--wait`, it returns the position together with what is missing.
    async fn fix(&mut self, conn: &mut Conn, source: &Source) -> Result<Result<(Cut, Option<String>), String>> {
        if self.wait.is_some() {
            // Wait before the snapshot is opened, as a long snapshot keeps the server from purging old row versions.
            let end = BinlogEnd::ask(conn).await?;
            if let Some(missing) = self.of_producer(&end, self.patience(Duration::ZERO)).await? {
                return Ok(Err(missing));
            }
        }
        let cut = Cut::open(conn, source).await?;
        self.report.position = cut.high().describe();
        let missing = self.of_producer(cut.high(), self.patience(ON_ITS_WAY)).await?;
        Ok(match (self.wait, missing) {
            (Some(_), Some(missing)) => Err(missing),
            (_, missing) => Ok((cut, missing)),
        })
    }

    async fn read_topic(&mut self, cut: &Cut, contract: &Arc<Contract>) -> Result<Read> {
        let (registry, kafka) = (self.parts.registry.clone(), self.parts.kafka.clone());
        let schemas = Schemas::new(registry, kafka, Arc::clone(contract))?;
        let contract = Arc::clone(contract);
        let (parts, cut, deadline) = (self.parts.clone(), cut.clone(), self.patience(SETTLING).until);
        let mut findings = std::mem::take(&mut self.findings);
        let (read, findings) = blocking(move || {
            let mut reader = Reader::new(schemas, contract);
            let bounds = Bounds::required(&parts.kafka)?;
            let (mut span, open) = bounds.settled(deadline)?;
            if let Some(open) = open {
                findings.add(Check::Waiting, || Finding::new(Check::Waiting, open));
            }
            reader.look_at_dead_letters(&parts.kafka)?;
            let topic = Topic::read(&parts.kafka, &span, &cut, &mut reader, &mut findings)?;
            // Records may have expired while the topic was read.
            span.first = bounds.now()?.first;
            Ok((Read { topic, span, bounds, reader, consumed: Consumed::default() }, findings))
        })
        .await?;
        self.findings = findings;
        Ok(read)
    }

    /// Waits for the consumers; then reads the dead letters and the logs.
    async fn read_logs(&mut self, mut read: Read) -> Result<(Read, Logs)> {
        let (parts, patience, settling) =
            (self.parts.clone(), self.patience(ON_ITS_WAY), self.patience(SETTLING).until);
        let mut findings = std::mem::take(&mut self.findings);
        let (read, logs, note, findings) = blocking(move || {
            let Read { topic, span, bounds, consumed, reader } = &mut read;
            *consumed = arrival::of_consumers(&parts.kafka, topic, patience)?;
            topic.read_dead_letters(&parts.kafka, &reader.contract, settling, &mut findings)?;
            let compacted = parts.kafka.cleanup_policy.contains("compact");
            let ask = &mut || bounds.now();
            let floats = &reader.floats;
            let others = own_name(&parts, &reader.contract);
            let others = others.as_ref();
            let mut judge = Judge { topic, span, floats, compacted, others, ask, findings: &mut findings };
            let logs = Logs::read(&parts.logs, &mut judge)?;
            let (elsewhere, note) = match topic.misses_lines().then(|| Elsewhere::look(&parts.kafka, &parts.logs)) {
                None => Default::default(),
                Some(Ok(elsewhere)) => (elsewhere, None),
                Some(Err(error)) if error.is_transient() => return Err(error),
                Some(Err(error)) => {
                    (Elsewhere::default(), Some(format!("lines may be in other logs folders: {error}")))
                }
            };
            let behind = topic.report_missing(consumed, &elsewhere, &mut findings);
            if let Some(missing) = consumed.missing.as_ref().filter(|_| behind > 0 || patience.asked) {
                findings.add(Check::Waiting, || Finding::new(Check::Waiting, missing));
            }
            Ok((read, logs, note, findings))
        })
        .await?;
        self.findings = findings;
        self.report.notes.extend(note);
        self.gaps.add(Gap::Partitions, read.span.first.iter().filter(|first| **first > 0).count() as u64);
        self.gaps.add(Gap::Lines, logs.expired);
        Ok((read, logs))
    }

    /// Compares the table with the topic and PostgreSQL. Returns the rows of PostgreSQL that must still be compared
    /// with their records, and the connection that reads them.
    async fn compare(
        &mut self,
        conn: &mut Conn,
        source: &Source,
        cut: &Cut,
        read: &mut Read,
    ) -> Result<(Rechecks, Option<Stored>)> {
        let contract = Arc::clone(&read.reader.contract);
        let mut stored = match &self.parts.postgres {
            Some(settings) => Stored::read(settings, &contract).await?,
            None => None,
        };
        let ends = tokio::task::block_in_place(|| read.bounds.now())?;
        let mut rechecks = Rechecks::default();
        let mut comparison = Comparison {
            topic: &mut read.topic,
            span: &read.span,
            cut,
            consumed: &read.consumed,
            contract: &contract,
            ends: &ends,
            findings: &mut self.findings,
            gaps: &mut self.gaps,
            rechecks: &mut rechecks,
            parked: HashSet::new(),
            refused: HashSet::new(),
            letters: &Texts::new(&self.parts.kafka, &contract),
        };
        let rows = comparison.run(conn, source, stored.as_mut()).await?;
        self.report.table_rows = rows;
        if self.parts.postgres.is_some() {
            self.report.postgres_rows = Some(stored.as_ref().map_or(0, |rows| rows.count));
            if stored.is_none() && rows > 0 {
                self.findings.add(Check::Postgres, || {
                    let table = self.parts.postgres.as_ref().map_or("", |settings| &settings.table);
                    Finding::new(Check::Postgres, format!("PostgreSQL has no table {table}"))
                });
            }
        }
        Ok((rechecks, stored))
    }

    /// Reads the topic once more for the details of the differences.
    async fn explain(&mut self, mut read: Read, mut rechecks: Rechecks) -> Result<()> {
        let repeated = read.topic.repeated();
        let Read { span, mut reader, topic, .. } = read;
        drop(topic);
        let (parts, mut findings) = (self.parts.clone(), std::mem::take(&mut self.findings));
        let mut gaps = std::mem::take(&mut self.gaps);
        (self.findings, self.gaps) = blocking(move || {
            rechecks.read(&parts.kafka, &span, &mut reader, &mut findings, &mut gaps)?;
            explain::explain(&parts.kafka, &span, &mut reader, &repeated, &mut findings)?;
            Ok((findings, gaps))
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
