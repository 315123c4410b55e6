//! The steps in their order: wait, read the topic, the dead letters, the logs, the table with PostgreSQL; then explain.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use pipeline::config::{self, KafkaSettings, MySqlSettings, PostgresSettings, RegistrySettings, Settings};
use pipeline::error::{Error, Result};
use pipeline::registry::Registry;
use pipeline::table::{self, SourceTable};
use pipeline::transform::Rules;

use crate::arrival::{self, End};
use crate::compare;
use crate::findings::{Check, Finding, Findings};
use crate::logs::{Kept, Logs};
use crate::postgres::Rows;
use crate::reading::Reader;
use crate::report::Report;
use crate::topic::{self, Topic};

/// What is compared.
#[derive(Clone)]
pub(crate) struct Parts {
    mysql: MySqlSettings,
    kafka: KafkaSettings,
    registry: RegistrySettings,
    postgres: Option<PostgresSettings>,
    rules: Rules,
    logs: PathBuf,
}

impl Parts {
    /// From the settings.
    ///
    /// # Errors
    /// Usage, naming the setting.
    pub(crate) fn from(settings: &Settings) -> Result<Self> {
        Ok(Self {
            mysql: MySqlSettings::from(settings)?,
            kafka: KafkaSettings::from(settings)?,
            registry: RegistrySettings::from(settings)?,
            postgres: PostgresSettings::from(settings)?,
            rules: config::rules(settings)?,
            logs: settings.path("consumer.logs"),
        })
    }
}

/// Compares everything; with `wait` it first lets everything arrive, so long at most.
///
/// # Errors
/// Transient when a server can't be reached; definite when something can't be read at all.
pub(crate) async fn run(parts: Parts, wait: Option<Duration>) -> Result<(Report, Findings)> {
    let deadline = wait.map(|wait| Instant::now() + wait);
    let MySqlSettings { database, table, .. } = &parts.mysql;
    let source = format!("{database}.{table}");
    let mut report = Report { topic: parts.kafka.topic.clone(), table: source.clone(), ..Report::default() };
    let mut findings = Findings::default();

    let mut conn = table::connect(&parts.mysql).await?;
    let inspected = SourceTable::inspect(&mut conn, database, table).await?;
    let end = End::ask(&mut conn).await?;
    if let Some(deadline) = deadline {
        let (kafka, end) = (parts.kafka.clone(), end.clone());
        if let Some(missing) = blocking(move || arrival::of_producer(&kafka, &source, &end, deadline)).await? {
            return Ok(not_arrived(report, findings, missing));
        }
    }

    let step = parts.clone();
    let registry = Registry::new(parts.registry.clone())?;
    let (mut topic, logs, first_offsets, missing, found, mut reader) = blocking(move || {
        let bounds = arrival::bounds(&step.kafka)?;
        let first_offsets: Vec<i64> = bounds.iter().map(|(first, _)| *first).collect();
        let mut reader = Reader::new(registry);
        let mut topic = Topic::read(&step.kafka, bounds.len(), &step.rules, &mut reader, &mut findings)?;
        let missing = match deadline {
            Some(deadline) => arrival::of_consumers(&step.kafka, &topic, deadline)?,
            None => None,
        };
        topic.read_dead_letters(&step.kafka, &mut findings)?;
        let kept = Kept { from: &first_offsets, compacted: step.kafka.cleanup_policy.contains("compact") };
        let logs = Logs::read(&step.logs, &mut topic, &kept, &mut findings)?;
        topic.report_missing(&mut findings);
        Ok((topic, logs, first_offsets, missing, findings, reader))
    })
    .await?;
    findings = found;
    if let Some(missing) = missing {
        findings.add(Check::Waiting, || Finding::new(Check::Waiting, missing));
    }

    compare::begin(&mut conn).await?;
    let mut stored = match &parts.postgres {
        Some(settings) => Rows::open(settings).await?,
        None => None,
    };
    let rows = stored.as_mut();
    report.table_rows =
        compare::compare(&mut conn, &inspected, &mut topic, &first_offsets, rows, &parts.rules, &mut findings).await?;
    if parts.postgres.is_some() {
        report.postgres_rows = Some(stored.as_ref().map_or(0, |rows| rows.count));
        if stored.is_none() && report.table_rows > 0 {
            findings.add(Check::Postgres, || Finding::new(Check::Postgres, "PostgreSQL has no table product"));
        }
    }

    let repeated = topic.repeated();
    report.count(&topic, &logs);
    drop(topic);
    let step = parts.clone();
    findings = blocking(move || {
        topic::explain(&step.kafka, &step.rules, &mut reader, &repeated, &mut findings)?;
        Ok(findings)
    })
    .await?;
    if !findings.is_empty() && End::ask(&mut conn).await? != end {
        report
            .notes
            .push("MySQL was written to while this ran: run it again when it is quiet, or with --wait".to_owned());
    }
    report.conclude(&findings);
    Ok((report, findings))
}

fn not_arrived(mut report: Report, mut findings: Findings, missing: String) -> (Report, Findings) {
    findings.add(Check::Waiting, || Finding::new(Check::Waiting, missing));
    report.notes.push("nothing was compared: see whether the producer runs, and what it says".to_owned());
    report.conclude(&findings);
    (report, findings)
}

/// Kafka's client blocks, so it gets a thread of its own.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Error::definite("a step of the comparison ended in a panic").with_source(e))?
}
