//! The sink's tables: created when they are missing, checked before the first write when they exist.
//!
//! Invariant: the sink never writes to a table that would round, cut, pad or reinterpret a value, hide a row, or lose
//! rows in a crash. A table may refuse some values: such a record is parked.

use model::error::{Error, Result};
use sinks::postgres::Target;
use tokio_postgres::{Client, types::Type};

use super::{Refusal, Row};

/// The default of `postgres.schema`.
const DEFAULT_SCHEMA: &str = "public";

/// The tables and the statement that creates each; sent in one transaction under a lock, as consumers start together.
const TABLES: [(&str, &str); 3] = [
    (
        "product",
        "CREATE TABLE IF NOT EXISTS product (
            id bigint PRIMARY KEY,
            name text,
            category text,
            price numeric(10, 2),
            discount_price numeric(10, 2),
            last_updated timestamptz(6),
            source_partition int NOT NULL,
            source_offset bigint NOT NULL
        )",
    ),
    (
        "product_offsets",
        "CREATE TABLE IF NOT EXISTS product_offsets (
            topic text,
            partition int,
            next_offset bigint NOT NULL,
            PRIMARY KEY (topic, partition)
        )",
    ),
    (
        "product_parked",
        "CREATE TABLE IF NOT EXISTS product_parked (
            topic text,
            partition int,
            \"offset\" bigint,
            id bigint NOT NULL,
            column_name text,
            sqlstate text NOT NULL,
            reason text NOT NULL,
            parked_at timestamptz NOT NULL DEFAULT now(),
            dead_letter boolean NOT NULL DEFAULT false,
            replaced_by bigint,
            PRIMARY KEY (topic, partition, \"offset\")
        );
        CREATE INDEX IF NOT EXISTS product_parked_current ON product_parked (topic, partition) WHERE replaced_by IS NULL;
        CREATE INDEX IF NOT EXISTS product_parked_owed ON product_parked (topic, partition) WHERE NOT dead_letter",
    ),
];

/// Their names.
pub(super) const NAMES: [&str; 3] = [TABLES[0].0, TABLES[1].0, TABLES[2].0];

const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtext('product_offsets'))";

const FIND_NAMES: &str = "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1";

const ELSEWHERE: &str = "SELECT n.nspname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = to_regclass('product_offsets')";

/// A column that a table must have.
struct Wanted {
    table: &'static str,
    column: &'static str,
    /// The type as PostgreSQL writes it.
    type_name: &'static str,
    key: bool,
}

const fn wanted(table: &'static str, column: &'static str, type_name: &'static str, key: bool) -> Wanted {
    Wanted { table, column, type_name, key }
}

const WANTED: [Wanted; 20] = [
    wanted("product", "id", "bigint", true),
    wanted("product", "name", "text", false),
    wanted("product", "category", "text", false),
    wanted("product", "price", "numeric(10,2)", false),
    wanted("product", "discount_price", "numeric(10,2)", false),
    wanted("product", "last_updated", "timestamp with time zone", false),
    wanted("product", "source_partition", "integer", false),
    wanted("product", "source_offset", "bigint", false),
    wanted("product_offsets", "topic", "text", true),
    wanted("product_offsets", "partition", "integer", true),
    wanted("product_offsets", "next_offset", "bigint", false),
    wanted("product_parked", "topic", "text", true),
    wanted("product_parked", "partition", "integer", true),
    wanted("product_parked", "offset", "bigint", true),
    wanted("product_parked", "id", "bigint", false),
    wanted("product_parked", "column_name", "text", false),
    wanted("product_parked", "sqlstate", "text", false),
    wanted("product_parked", "reason", "text", false),
    wanted("product_parked", "dead_letter", "boolean", false),
    wanted("product_parked", "replaced_by", "bigint", false),
];

/// For each table: its kind, its properties apart from the columns, and the columns of the unique indexes that an
/// upsert can use (valid, not deferrable, not partial, no expressions).
const FIND_TABLES: &str = "SELECT c.relname::text, c.relkind::text, c.relpersistence::text, row_security_active(c.oid),
    EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid AND c.relkind <> 'p'),
    EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type IN ('2', '3', '4')),
    ARRAY(SELECT t.tgname::text FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D'),
    ARRAY(SELECT (SELECT string_agg(a.attname::text, ', ' ORDER BY a.attnum) FROM pg_attribute a
            WHERE a.attrelid = c.oid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))
        FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid
            AND i.indpred IS NULL AND i.indexprs IS NULL),
    ARRAY(SELECT i.indexrelid::regclass::text FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND NOT i.indisprimary)
    || ARRAY(SELECT f.conname::text FROM pg_constraint f WHERE f.conrelid = c.oid AND f.contype IN ('f', 'x'))
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = ANY ($2)";

/// Columns: table, name, type as PostgreSQL writes it, its modifier, and whether it is required, nullable, generated.
const FIND_COLUMNS: &str = "SELECT c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod), a.atttypmod,
    a.attnotnull, a.atthasdef OR a.attidentity <> '', a.attgenerated <> '' OR a.attidentity = 'a'
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = ANY ($2) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

/// A table as the catalog describes it.
#[derive(Clone, Debug, Default)]
struct Table {
    name: String,
    /// `pg_class.relkind`.
    kind: String,
    unlogged: bool,
    row_security: bool,
    parent: bool,
    rules: bool,
    triggers: Vec<String>,
    /// The columns of each usable unique index, with `, ` between them.
    unique: Vec<String>,
    /// Unique indexes beside the primary key, foreign keys and exclusion constraints.
    constraints: Vec<String>,
}

/// A column as the catalog describes it.
#[derive(Clone, Debug, Default)]
struct Column {
    table: String,
    name: String,
    type_name: String,
    /// `pg_attribute.atttypmod`.
    modifier: i32,
    not_null: bool,
    has_default: bool,
    /// It accepts no value from an INSERT.
    generated: bool,
}

/// Known limits of the columns of `product` below those of their type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Characters.
    name: Option<i32>,
    /// Characters.
    category: Option<i32>,
}

/// The result of checking the tables.
#[derive(Debug, Default)]
pub(crate) struct Look {
    pub(crate) limits: Limits,
    /// Warnings for a person, although the tables are usable.
    pub(crate) warnings: Vec<String>,
    /// The confirmed properties, one line for each table.
    pub(crate) found: Vec<String>,
}

impl Limits {
    /// Whether a row must be compared with a limit before it is sent.
    pub(super) fn any(self) -> bool {
        self != Self::default()
    }

    /// The reason why the table can't hold the row, if it can be seen here: a character that PostgreSQL can't store, or
    /// a text that is too long, from which PostgreSQL would silently cut trailing blanks.
    pub(super) fn refusal(self, row: &Row) -> Option<Refusal> {
        let texts = [("name", &row.name, self.name), ("category", &row.category, self.category)];
        texts.into_iter().find_map(|(column, text, limit)| {
            let text = text.as_deref()?;
            let refusal = |sqlstate: &str, reason| {
                Some(Refusal { sqlstate: sqlstate.to_owned(), column: Some(column.to_owned()), reason })
            };
            if text.contains('\0') {
                return refusal("22021", "the text has a NUL character, which PostgreSQL can't hold".to_owned());
            }
            let limit = limit.and_then(|limit| usize::try_from(limit).ok())?;
            // A text has at most as many characters as bytes.
            if text.len() <= limit {
                return None;
            }
            let length = text.chars().count();
            let reason = format!("the text has {length} characters, the column takes {limit}");
            if length > limit { refusal("22001", reason) } else { None }
        })
    }
}

/// Creates the missing tables and checks the existing ones, in the open transaction.
///
/// # Errors
/// Definite, with every difference; transient when the connection breaks.
pub(super) async fn prepare(client: &Client, target: &Target) -> Result<Look> {
    make(client, target).await?;
    look(client, target.schema()).await
}

async fn make(client: &Client, target: &Target) -> Result<()> {
    let failed = |e| sinks::postgres::failed("cannot create the tables product, product_offsets and product_parked", e);
    let mut locked = false;
    loop {
        let missing = missing(client, target).await?;
        if missing.is_empty() {
            return Ok(());
        }
        let wanted = TABLES.iter().filter(|(name, _)| missing.contains(name));
        let sql = wanted.map(|(_, sql)| *sql).collect::<Vec<_>>().join("; ");
        // Do not require the right to create tables when all of them exist. Repeat the check under the lock.
        client.batch_execute(if locked { &sql } else { LOCK }).await.map_err(failed)?;
        locked = true;
    }
}

/// The tables that must be created, in the open transaction.
///
/// # Errors
/// Definite when an earlier version created them in another schema; transient when the connection breaks.
pub(super) async fn missing(client: &Client, target: &Target) -> Result<Vec<&'static str>> {
    let failed = |e| sinks::postgres::failed("cannot look for the tables", e);
    let schema = target.schema();
    let there = client.query_typed(FIND_NAMES, &[(&schema, Type::TEXT)]).await.map_err(failed)?;
    let there: Vec<&str> = there.iter().map(|row| row.get(0)).collect();
    // A non-default schema is intended; before this setting existed, the search path chose the schema.
    if schema == DEFAULT_SCHEMA && !there.contains(&"product_offsets") {
        let found = elsewhere(client, target).await.map_err(failed)?;
        if let Some(other) = found.filter(|other| other != schema) {
            return Err(Error::definite(format!("the tables are in schema {other}, and postgres.schema is {schema}"))
                .with_remedy(format!(
                    "set postgres.schema to {other} to continue with them, or to an empty schema to begin with tables that the \
                     consumers make"
                )));
        }
    }
    Ok(TABLES.iter().map(|(name, _)| *name).filter(|name| !there.contains(name)).collect())
}

/// The schema of our tables on this user's own search path: a version without `postgres.schema` created them there.
async fn elsewhere(client: &Client, target: &Target) -> Result<Option<String>, tokio_postgres::Error> {
    client.batch_execute("SET LOCAL search_path TO DEFAULT").await?;
    let found = client.query_typed(ELSEWHERE, &[]).await?;
    client.batch_execute(&target.search_path()).await?;
    Ok(found.first().map(|row| row.get(0)))
}

/// Checks the tables of `schema`; says nothing about a missing one.
///
/// # Errors
/// As [`prepare`].
pub(crate) async fn look(client: &Client, schema: &str) -> Result<Look> {
    let failed = |e| sinks::postgres::failed("cannot look at the tables", e);
    let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
        [(&schema, Type::TEXT), (&NAMES.as_slice(), Type::TEXT_ARRAY)];
    let tables = client.query_typed(FIND_TABLES, &parameters).await.map_err(failed)?;
    let columns = client.query_typed(FIND_COLUMNS, &parameters).await.map_err(failed)?;
    let tables: Vec<Table> = tables
        .iter()
        .map(|row| Table {
            name: row.get(0),
            kind: row.get(1),
            unlogged: row.get::<_, &str>(2) != "p",
            row_security: row.get(3),
            parent: row.get(4),
            rules: row.get(5),
            triggers: row.get(6),
            unique: row.get(7),
            constraints: row.get(8),
        })
        .collect();
    let columns: Vec<Column> = columns
        .iter()
        .map(|row| Column {
            table: row.get(0),
            name: row.get(1),
            type_name: row.get(2),
            modifier: row.get(3),
            not_null: row.get(4),
            has_default: row.get(5),
            generated: row.get(6),
        })
        .collect();
    judge(schema, &tables, &columns)
}

/// Judges whether the consumers can use these tables.
///
/// # Errors
/// Definite, with every difference.
fn judge(schema: &str, tables: &[Table], columns: &[Column]) -> Result<Look> {
    let (mut look, mut faults) = (Look::default(), Vec::new());
    for table in tables {
        let of_table: Vec<&Column> = columns.iter().filter(|c| c.table == table.name).collect();
        let place = format!("{schema}.{}", table.name);
        let before = faults.len();
        faults.extend(faults_of_table(table).into_iter().map(|fault| format!("{place} {fault}")));
        for wanted in WANTED.iter().filter(|w| w.table == table.name) {
            match of_table.iter().find(|c| c.name == wanted.column) {
                None => faults.push(format!("{place} has no column {} ({})", wanted.column, wanted.type_name)),
                Some(column) => {
                    if let Some(fault) = fault_of_column(wanted, column) {
                        faults.push(format!("column {} of {place} {fault}", wanted.column));
                    }
                    note_limit(column, &place, &mut look);
                }
            }
        }
        let ours =
            |c: &Column| WANTED.iter().any(|w| w.table == c.table && w.column == c.name) || c.name == "parked_at";
        for extra in of_table.iter().filter(|c| c.not_null && !c.has_default && !c.generated && !ours(c)) {
            let Column { name, type_name, .. } = extra;
            faults.push(format!("column {name} of {place} ({type_name}) must not be null and has no default"));
        }
        if faults.len() == before {
            let list: Vec<String> = of_table.iter().map(|c| format!("{} {}", c.name, c.type_name)).collect();
            look.found.push(format!("{place}: {}", list.join(", ")));
        }
        look.warnings.extend(warnings_of(table, &place));
    }
    if faults.is_empty() {
        return Ok(look);
    }
    Err(Error::definite(format!("PostgreSQL's tables are not as the consumers need them: {}", faults.join("; ")))
        .with_remedy(
            "change what is named (ALTER TABLE), or name another schema in postgres.schema, where the consumers make their own \
             tables",
        ))
}

fn faults_of_table(table: &Table) -> Vec<String> {
    let mut faults = Vec::new();
    match table.kind.as_str() {
        "r" | "p" => {}
        "v" => faults.push("is a view, not a table".to_owned()),
        "m" => faults.push("is a materialized view, not a table".to_owned()),
        "f" => faults.push("is a foreign table, whose rows are not in this server's transactions".to_owned()),
        kind => faults.push(format!("is no table (relkind {kind})")),
    }
    for (wrong, fault) in [
        (table.unlogged, "is not logged: a crash of the server would empty it"),
        (table.row_security, "has row level security for this user, which hides rows"),
        (table.parent, "has tables that inherit from it, in which no key is unique"),
        (table.rules, "has rules that rewrite INSERT, UPDATE or DELETE"),
    ] {
        if wrong {
            faults.push(fault.to_owned());
        }
    }
    let key: Vec<&str> = WANTED.iter().filter(|w| w.table == table.name && w.key).map(|w| w.column).collect();
    let mut names = key.clone();
    names.sort_unstable();
    let has_key = table.unique.iter().any(|index| {
        let mut columns: Vec<&str> = index.split(", ").collect();
        columns.sort_unstable();
        columns == names
    });
    if !has_key && matches!(table.kind.as_str(), "r" | "p") {
        faults.push(format!("has no primary key ({})", key.join(", ")));
    }
    faults
}

/// How a column would alter its values, if it would.
fn fault_of_column(wanted: &Wanted, column: &Column) -> Option<String> {
    let found = column.type_name.as_str();
    if column.generated {
        return Some(format!("is generated ({found}), but the consumers write it ({})", wanted.type_name));
    }
    let fits = match wanted.type_name {
        "text" => found == "text" || found.starts_with("character varying"),
        "numeric(10,2)" => found == "numeric" || (found.starts_with("numeric(") && scale(column.modifier) >= 2),
        // The type without a precision has six digits.
        "timestamp with time zone" => matches!(found, "timestamp with time zone" | "timestamp(6) with time zone"),
        exactly => found == exactly,
    };
    let loss = match wanted.type_name {
        "numeric(10,2)" if found.starts_with("numeric(") => ", which rounds",
        "timestamp with time zone" if found.starts_with("timestamp") && found.contains("without") => {
            ", which depends on the session's time zone"
        }
        "timestamp with time zone" if found.starts_with("timestamp(") => ", which rounds",
        _ => "",
    };
    (!fits).then(|| format!("is {found}{loss}, and must be {}", wanted.type_name))
}

/// Digits after the point; `numeric`'s modifier has them in its lower 11 bits, with a sign (PostgreSQL's `numeric.c`).
fn scale(modifier: i32) -> i32 {
    ((modifier - 4) & 0x7ff ^ 0x400) - 0x400
}

/// Digits before the point.
fn whole_digits(modifier: i32) -> i32 {
    ((modifier - 4) >> 16 & 0xffff) - scale(modifier)
}

fn note_limit(column: &Column, place: &str, look: &mut Look) {
    const PARKED: &str = "a record with more is parked";
    let Column { name, type_name, modifier, .. } = column;
    let bounded = type_name.starts_with("character varying(");
    if bounded {
        // The modifier includes the length word.
        let limit = Some(modifier - 4);
        match name.as_str() {
            "name" => look.limits.name = limit,
            "category" => look.limits.category = limit,
            _ => {}
        }
    }
    if bounded || (type_name.starts_with("numeric(") && whole_digits(*modifier) < 8) {
        look.warnings.push(format!("column {name} of {place} is {type_name}: {PARKED}"));
    }
    if column.not_null && matches!(name.as_str(), "name" | "category" | "price" | "discount_price" | "last_updated") {
        look.warnings.push(format!("column {name} of {place} must not be null: a record without it is parked"));
    }
}

fn warnings_of(table: &Table, place: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    if !table.triggers.is_empty() {
        let names = table.triggers.join(", ");
        warnings.push(format!("{place} has triggers ({names}): what they change or leave out, `verify` reports"));
    }
    if !table.constraints.is_empty() {
        warnings.push(format!(
            "{place} has constraints over several rows ({}): changes of two keys arrive in any order, so a record may be \
             parked though the source allows both",
            table.constraints.join(", ")
        ));
    }
    warnings
}

#[cfg(test)]
mod tests;
