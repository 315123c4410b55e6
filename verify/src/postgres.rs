//! Reads PostgreSQL's table in one snapshot: by the hash of each key, the hash of its row and the record that it names.

use std::collections::HashMap;
use std::time::Duration;

use model::error::{Code, Error, Result};
use runtime::config::PostgresSettings;
use sinks::postgres::{Access, Target, failed};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};

use crate::canonical;
use crate::contract::{Contract, KeyHash, key_text, row_hash};
use crate::findings::{Check, Findings};
use crate::pass::{KeyMap, Pass};
use crate::status::Status;

/// One snapshot of the table.
pub(crate) struct Stored {
    client: Client,
    table: String,
    query: String,
}

/// The rows of a pass.
#[derive(Default)]
pub(crate) struct StoredRows {
    pub(crate) rows: KeyMap<StoredRow>,
    /// Number of rows that were read.
    pub(crate) count: u64,
}

impl StoredRows {
    /// An estimate of the bytes for so many rows.
    pub(crate) fn bytes_of(rows: u64) -> u64 {
        KeyMap::<StoredRow>::bytes_for(rows)
    }
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoredRow {
    /// Hash of its texts in the columns after the rules.
    pub(crate) hash: u64,
    /// Partition and offset of its record; negative without one.
    place: (i32, i64),
}

impl StoredRow {
    /// Partition and offset of its record.
    pub(crate) fn place(&self) -> Option<(i32, i64)> {
        Some(self.place).filter(|(_, offset)| *offset >= 0)
    }
}

/// Settings that decide how the server prints values; the time zone is set with the transaction.
const FORMATS: &str = "SET LOCAL DateStyle = 'ISO, YMD'; SET LOCAL IntervalStyle = 'postgres'; \
                       SET LOCAL bytea_output = 'hex'; SET LOCAL extra_float_digits = 3";
const BLOCK: &str = "FETCH 5000 FROM rows";
/// A connection that died silently brings no answer, and the system detects that only after hours.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

fn unread(table: &str) -> String {
    format!("cannot read PostgreSQL's table {table}")
}

impl Stored {
    /// Connects and begins the snapshot; `None` when there is no such database or table.
    ///
    /// # Errors
    /// Usage when the URL can't be read; transient when the server can't be reached; definite when it refuses.
    pub(crate) async fn open(settings: &PostgresSettings, contract: &Contract) -> Result<Option<Self>> {
        let (target, table) = (Target::from(settings, "verify")?, settings.table.as_str());
        let client = match answered(&target.what(), target.connect()).await? {
            Err(e) if e.code() == Some(&SqlState::INVALID_CATALOG_NAME) => return Ok(None),
            other => other.map_err(|e| failed(&target.what(), e))?,
        };
        let columns = contract.plan.columns.iter().map(|column| format!("{}::text, ", quoted(&column.name)));
        let columns: String = columns.collect();
        let query = format!("SELECT {columns}source_partition, source_offset FROM {}", quoted(table));
        let begin = format!("{}; {FORMATS}", target.begin(Access::Read));
        let unread = unread(table);
        answered(&unread, client.batch_execute(&begin)).await?.map_err(|e| failed(&unread, e))?;
        match answered(&unread, client.batch_execute(&format!("{query} LIMIT 0"))).await? {
            Err(e) if e.code() == Some(&SqlState::UNDEFINED_TABLE) => return Ok(None),
            Err(e) if e.code() == Some(&SqlState::UNDEFINED_COLUMN) => return Err(other_columns(table, e)),
            other => other.map_err(|e| failed(&unread, e))?,
        }
        Ok(Some(Self { client, table: table.to_owned(), query }))
    }

    /// Reads the rows of a pass; `before` is the memory that it has already, in bytes.
    ///
    /// # Errors
    /// As [`Stored::open`] and [`Pass::check`].
    pub(crate) async fn read(&self, contract: &Contract, pass: &Pass, before: usize) -> Result<StoredRows> {
        let mut read = StoredRows::default();
        let (mut seen, mut status) = (0, Status::new(&pass.label, "rows of PostgreSQL read"));
        self.each(contract, |key, row, place| {
            seen += 1;
            status.one_more();
            let key = KeyHash::of(&key);
            if pass.has_key(key) {
                read.count += 1;
                read.rows.insert(key, StoredRow { hash: row_hash(&row), place: place.unwrap_or((-1, -1)) });
            }
            pass.look(seen, || before + read.rows.bytes())
        })
        .await?;
        pass.check(before + read.rows.bytes())?;
        Ok(read)
    }

    /// Passes the key, the texts and the record of each row.
    async fn each(
        &self,
        contract: &Contract,
        mut each: impl FnMut(String, Vec<Option<String>>, Option<(i32, i64)>) -> Result<()>,
    ) -> Result<()> {
        let (unread, table) = (unread(&self.table), self.table.as_str());
        let declare = format!("DECLARE rows NO SCROLL CURSOR FOR {}", self.query);
        answered(&unread, self.client.batch_execute(&declare)).await?.map_err(|e| failed(&unread, e))?;
        let mut result = Ok(());
        while result.is_ok() {
            let block = self.client.query_typed(BLOCK, &[]);
            let block = answered(&unread, block).await?.map_err(|e| failed(&unread, e))?;
            if block.is_empty() {
                break;
            }
            for row in &block {
                let (row, place) = texts(contract, row).map_err(|e| other_columns(table, e))?;
                result = each(key(contract, &row), row, place);
                if result.is_err() {
                    break;
                }
            }
        }
        answered(&unread, self.client.batch_execute("CLOSE rows")).await?.map_err(|e| failed(&unread, e))?;
        result
    }

    /// Reads the rows again that the findings name, and adds them as text.
    ///
    /// # Errors
    /// As [`Stored::open`].
    pub(crate) async fn describe(&self, contract: &Contract, findings: &mut Findings) -> Result<()> {
        let mut wanted: HashMap<KeyHash, Option<(String, String)>> = HashMap::new();
        let is_open = |finding: &&mut crate::findings::Finding| {
            finding.check == Check::Postgres && finding.found.is_none() && finding.stored.is_some()
        };
        wanted.extend(findings.first_mut().filter(is_open).filter_map(|finding| Some((finding.stored?, None))));
        if wanted.is_empty() {
            return Ok(());
        }
        self.each(contract, |key, row, _| {
            if let Some(found) = wanted.get_mut(&KeyHash::of(&key)) {
                *found = Some((key, contract.describe_stored(&row)));
            }
            Ok(())
        })
        .await?;
        for finding in findings.first_mut().filter(is_open) {
            match finding.stored.and_then(|key| wanted.get(&key)?.clone()) {
                Some((key, row)) => {
                    finding.key.get_or_insert(key);
                    finding.found = Some(row);
                }
                None => finding.found = Some("nothing".to_owned()),
            }
        }
        Ok(())
    }
}

/// The canonical texts of a row, and the partition and offset of its record.
type Texts = (Vec<Option<String>>, Option<(i32, i64)>);

fn texts(contract: &Contract, row: &Row) -> Result<Texts, tokio_postgres::Error> {
    let columns = &contract.plan.columns;
    let mut texts = Vec::with_capacity(columns.len());
    for (i, column) in columns.iter().enumerate() {
        let text: Option<String> = row.try_get(i)?;
        texts.push(text.map(|text| canonical::of_postgres(column.kind, text)));
    }
    let (partition, offset): (Option<i32>, Option<i64>) =
        (row.try_get(columns.len())?, row.try_get(columns.len() + 1)?);
    Ok((texts, partition.zip(offset)))
}

fn key(contract: &Contract, row: &[Option<String>]) -> String {
    let cell = |name: &str| {
        let i = contract.plan.columns.iter().position(|column| column.name == name)?;
        Some((contract.plan.columns[i].kind, row[i].as_deref().unwrap_or_default()))
    };
    key_text(&contract.key_names().filter_map(cell).collect::<Vec<_>>())
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn other_columns(table: &str, error: tokio_postgres::Error) -> Error {
    Error::new(Code::PostgresTables, format!("PostgreSQL's table {table} has other columns than the consumers make"))
        .with_source(error)
}

/// The server's answer, or an error when it does not answer in time.
async fn answered<T>(
    what: &str,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<Result<T, tokio_postgres::Error>> {
    tokio::time::timeout(ANSWER_TIMEOUT, work).await.map_err(|_| {
        Error::new(Code::ServerUnreachable, format!("{what}: PostgreSQL did not answer within {ANSWER_TIMEOUT:?}"))
            .with_remedy("check that the server runs, and the network to it")
    })
}
