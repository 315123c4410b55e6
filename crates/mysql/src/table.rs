//! The source table: its carried columns, matched to the fields of the record by name, with each conversion checked
//! beforehand.
//!
//! Invariant: a column that can't be carried without loss is an error with the column's name. The binlog side checks
//! its columns by the same [`ColumnType::check`] and converts by the same functions ([`crate::convert`]).

use std::sync::Arc;

use model::error::{Code, Error, Result};
use model::schema::RecordSchema;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::column::ColumnType;
use crate::conversion_error::ConversionError;

mod connection;
mod inspect;
mod tls;
mod visible;

pub use connection::{
    ENABLE_BINLOG, VARIABLES, answered, connect, failed, opts, quoted, quoted_in_grant, require_logged_rows,
};
pub use tls::{no_tls, tls_connector};
pub use visible::{grant_lock_tables, wait_for_writers};

/// A carried column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnPlan {
    /// Its name as the table spells it.
    pub name: String,
    /// Its place in the table, from 0.
    pub place: usize,
    /// Its type.
    pub kind: ColumnType,
    /// Its full type as the server prints it: `decimal(10,2)`.
    pub full_type: String,
    /// The server's other attributes of it: `auto_increment`, `STORED GENERATED`.
    pub extra: String,
}

impl ColumnPlan {
    /// Its type with the other attributes that decide its values.
    pub fn definition(&self) -> String {
        format!("{} {}", self.full_type, self.extra).trim_end().to_owned()
    }

    /// Whether its values are computed from other columns.
    pub fn is_generated(&self) -> bool {
        self.extra.split(' ').any(|word| word.eq_ignore_ascii_case("generated"))
    }
}

/// The fields that a table's records are to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contract {
    /// The schema of the default table's records.
    pub schema: Arc<RecordSchema>,
    /// Its JSON text.
    pub text: Arc<str>,
    /// Take every column of the table: those of the schema as it has them, if they are all there, and the others by
    /// their types.
    pub all: bool,
}

impl Contract {
    /// Reads the schema's JSON text.
    ///
    /// # Errors
    /// Definite when it is not the schema of a flat record.
    pub fn new(text: &str, all: bool) -> Result<Arc<Self>> {
        let schema = avro::schema::parse(text).map_err(|reason| Error::definite(format!("the schema: {reason}")))?;
        Ok(Arc::new(Self { schema: Arc::new(schema), text: text.into(), all }))
    }
}

/// A table that can be read without loss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceTable {
    /// Database, as the server spells it.
    pub database: String,
    /// Table, as the server spells it.
    pub table: String,
    /// The schema of its records.
    pub schema: Arc<RecordSchema>,
    /// Its JSON text.
    pub schema_text: Arc<str>,
    /// The fields that were asked for.
    pub contract: Arc<Contract>,
    /// Whether the schema was made from the table's columns, so that it changes with them.
    pub is_derived: bool,
    /// The columns that fill the schema's fields, in their order.
    pub columns: Vec<ColumnPlan>,
    /// Bytes of the largest value: [`KafkaSettings::longest_value`](runtime::config::KafkaSettings::longest_value).
    pub longest_value: usize,
}

impl SourceTable {
    /// A table that does not exist yet, with the columns that the schema names.
    pub fn expected(database: &str, table: &str, contract: &Arc<Contract>) -> Self {
        let schema = &contract.schema;
        let column = |(place, field): (usize, &model::schema::Field)| ColumnPlan {
            name: field.column.clone(),
            place,
            kind: ColumnType::Unsupported { reason: "the table does not exist".to_owned(), remedy: "create it" },
            full_type: String::new(),
            extra: String::new(),
        };
        Self {
            database: database.to_owned(),
            table: table.to_owned(),
            schema: Arc::clone(schema),
            schema_text: Arc::clone(&contract.text),
            contract: Arc::clone(contract),
            is_derived: false,
            columns: schema.fields.iter().enumerate().map(column).collect(),
            longest_value: usize::MAX,
        }
    }

    /// `database.table`
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.database, self.table)
    }

    /// The columns for a `SELECT`, in the order of the fields.
    pub fn select_list(&self) -> String {
        self.columns.iter().map(|c| quoted(&c.name)).collect::<Vec<_>>().join(", ")
    }

    /// Spells the fields as the last earlier schema that has them; see [`avro::evolution::keep_spelling`].
    pub fn keep_spelling<'a>(&mut self, earlier: impl DoubleEndedIterator<Item = &'a RecordSchema> + Clone) {
        let mut schema = RecordSchema::clone(&self.schema);
        avro::evolution::keep_spelling(&mut schema, earlier);
        if self.is_derived && schema != *self.schema {
            let types: Vec<String> = self.columns.iter().map(|column| column.kind.to_string()).collect();
            self.schema_text = avro::schema::write(&schema, &types).into();
            self.schema = Arc::new(schema);
        }
    }

    /// Checks that the table has the columns of the schema that was given, if its earlier records have them.
    ///
    /// # Errors
    /// Definite, with the columns that are gone.
    pub fn require_given<'a>(&self, mut earlier: impl Iterator<Item = &'a RecordSchema>) -> Result<()> {
        let given = &self.contract.schema;
        if self.schema.name == given.name || !earlier.any(|schema| schema.name == given.name) {
            return Ok(());
        }
        let is_gone = |name: &&str| self.columns.iter().all(|c| c.name.to_lowercase() != name.to_lowercase());
        let gone: Vec<&str> = given.fields.iter().map(|field| field.column.as_str()).filter(is_gone).collect();
        if gone.is_empty() {
            return Ok(());
        }
        let gone = gone.join(", ");
        let name = self.full_name();
        Err(Error::new(Code::ColumnMissing, format!("{name} has no column {gone}, which its records have"))
            .with_remedy(format!(
                "add the column {gone} again, then `cdc-producer snapshot {name}`; or name another topic (kafka.topic)"
            )))
    }

    /// Whether its records can't be without the field with this index: the key, and a schema that was given, have it.
    pub fn needs(&self, index: usize) -> bool {
        let is_given = self.schema.name == self.contract.schema.name && index < self.contract.schema.fields.len();
        !self.is_derived || is_given || self.schema.key.contains(&index)
    }

    /// The primary key's columns, in the order of the key.
    pub fn key_columns(&self) -> impl Iterator<Item = &ColumnPlan> {
        self.schema.key.iter().filter_map(|index| self.columns.get(*index))
    }

    /// The error for the column of this field that is refused.
    pub fn refused(&self, field: usize, refusal: &ConversionError) -> Error {
        let column = self.columns.get(field).map_or("?", |column| column.name.as_str());
        Error::new(Code::ColumnRefused, format!("{}, column {column}: {}", self.full_name(), refusal.reason))
            .with_remedy(&*refusal.remedy)
    }
}

/// Whether the server logs the rows that a foreign key changes.
///
/// InnoDB's own cascades change rows without an event in the binlog (manual, "Restrictions on Foreign Keys"); since 9.6
/// the server executes them, and logs them, unless `innodb_native_foreign_keys` is on.
///
/// # Errors
/// As [`failed`].
pub async fn logs_cascades(conn: &mut Conn) -> Result<bool> {
    if conn.server_version() < (9, 6, 0) {
        return Ok(false);
    }
    let native: Option<(String, String)> =
        answered(conn.query_first("SHOW GLOBAL VARIABLES LIKE 'innodb_native_foreign_keys'"))
            .await
            .map_err(|e| failed("ask whether the server logs cascades", e))?;
    Ok(native.is_none_or(|(_, value)| value != "ON"))
}
