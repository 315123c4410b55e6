//! The sink's tables: created when they are missing, checked before the first write when they exist.
//!
//! Invariant: the sink never writes to a table that would round, cut, pad or reinterpret a value, hide a row, or lose
//! rows in a crash. A table may refuse some values: such a record is parked.

use model::error::{Code, Error, Result};
use model::schema::FieldType;
use sinks::postgres::{Target, failed};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use super::fit::{Fit, fit};
use super::layout::{Layout, ParkedKey, SOURCE, quoted};
use super::limits::{Limit, Limits};
use crate::sql_value::type_name;

/// The default of `postgres.schema`.
const DEFAULT_SCHEMA: &str = "public";

/// The tables beside that of the rows; each is created under a lock, as consumers start together.
const TABLES: [(&str, &str); 2] = [
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

/// The names of all tables.
pub(super) fn names(table: &str) -> [&str; 3] {
    [table, TABLES[0].0, TABLES[1].0]
}

/// Makes room for keys that are no numbers.
pub(super) const PARK_TEXT_KEYS: &str =
    "ALTER TABLE product_parked ADD COLUMN IF NOT EXISTS key text, ALTER COLUMN id DROP NOT NULL";

pub(super) const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtext('product_offsets'))";

const FIND_NAMES: &str = "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1";

const ELSEWHERE: &str = "SELECT n.nspname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = to_regclass('product_offsets')";

/// A column that a table must have.
#[derive(Clone, Debug)]
struct Wanted {
    table: String,
    column: String,
    kind: WantedType,
    key: bool,
}

/// The type that a column must have.
#[derive(Clone, Copy, Debug)]
enum WantedType {
    /// As PostgreSQL writes it.
    Exactly(&'static str),
    /// One that holds each value of a field.
    Field(FieldType),
}

impl WantedType {
    fn name(self) -> String {
        match self {
            Self::Exactly(name) => name.to_owned(),
            Self::Field(kind) => type_name(kind),
        }
    }
}

/// The columns of the tables beside that of the rows; the key is first.
const WANTED: [(&str, &str, &str, bool); 11] = [
    ("product_offsets", "topic", "text", true),
    ("product_offsets", "partition", "integer", true),
    ("product_offsets", "next_offset", "bigint", false),
    ("product_parked", "topic", "text", true),
    ("product_parked", "partition", "integer", true),
    ("product_parked", "offset", "bigint", true),
    ("product_parked", "column_name", "text", false),
    ("product_parked", "sqlstate", "text", false),
    ("product_parked", "reason", "text", false),
    ("product_parked", "dead_letter", "boolean", false),
    ("product_parked", "replaced_by", "bigint", false),
];

/// The columns that the tables must have.
fn wanted(table: &str, layout: Option<&Layout>) -> Vec<Wanted> {
    let exactly = |table: &str, column: &str, name, key| Wanted {
        table: table.to_owned(),
        column: column.to_owned(),
        kind: WantedType::Exactly(name),
        key,
    };
    let mut all = Vec::new();
    if let Some(layout) = layout {
        all.extend(layout.columns.iter().enumerate().map(|(place, column)| Wanted {
            table: table.to_owned(),
            column: column.name.clone(),
            kind: WantedType::Field(column.kind),
            key: layout.key.contains(&place),
        }));
        all.push(exactly(table, SOURCE[0], "integer", false));
        all.push(exactly(table, SOURCE[1], "bigint", false));
        let parked = layout.parked_key();
        let name = if parked == ParkedKey::Id { "bigint" } else { "text" };
        all.push(exactly("product_parked", parked.column(), name, false));
    }
    all.extend(WANTED.iter().map(|(table, column, name, key)| exactly(table, column, name, *key)));
    all
}

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
pub(super) struct Column {
    pub(super) table: String,
    pub(super) name: String,
    pub(super) type_name: String,
    /// `pg_attribute.atttypmod`.
    pub(super) modifier: i32,
    pub(super) not_null: bool,
    pub(super) has_default: bool,
    /// It accepts no value from an INSERT.
    pub(super) generated: bool,
}

/// The result of checking the tables.
#[derive(Debug, Default)]
pub(crate) struct Look {
    pub(crate) limits: Limits,
    /// A column is wider than its field, so COPY can't write the rows.
    pub(crate) is_wider: bool,
    /// Warnings for a person, although the tables are usable.
    pub(crate) warnings: Vec<String>,
    /// The confirmed properties, one line for each table.
    pub(crate) found: Vec<String>,
}

/// Creates the missing tables and checks the existing ones, in the open transaction; that of the rows only if its
/// layout is known.
///
/// # Errors
/// Definite, with every difference; transient when the connection breaks.
pub(super) async fn prepare(client: &Client, target: &Target, table: &str, layout: Option<&Layout>) -> Result<Look> {
    make(client, target, table, layout).await?;
    look(client, target.schema(), table, layout, true).await
}

pub(super) async fn make(client: &Client, target: &Target, table: &str, layout: Option<&Layout>) -> Result<()> {
    let failed = |e| failed(&format!("cannot create the tables {table}, product_offsets and product_parked"), e);
    // The right to create tables is not needed when all of them exist. Under the lock they are looked for again.
    if missing(client, target, table).await?.is_empty() {
        return Ok(());
    }
    client.batch_execute(LOCK).await.map_err(failed)?;
    let missing = missing(client, target, table).await?;
    let rows = layout.filter(|_| missing.contains(&table)).map(|layout| layout.create(table));
    let beside = TABLES.iter().filter(|(name, _)| missing.contains(name)).map(|(_, sql)| (*sql).to_owned());
    let statements = [target.creation_path()].into_iter().chain(rows).chain(beside).chain([target.search_path()]);
    client.batch_execute(&statements.collect::<Vec<_>>().join("; ")).await.map_err(failed)
}

/// The tables that must be created, in the open transaction.
///
/// # Errors
/// Definite when an earlier version created them in another schema; transient when the connection breaks.
pub(super) async fn missing<'a>(client: &Client, target: &Target, table: &'a str) -> Result<Vec<&'a str>> {
    let failed = |e| failed("cannot look for the tables", e);
    let schema = target.schema();
    let there = client.query_typed(FIND_NAMES, &[(&schema, Type::TEXT)]).await.map_err(failed)?;
    let there: Vec<&str> = there.iter().map(|row| row.get(0)).collect();
    // A non-default schema is intended; before this setting existed, the search path chose the schema.
    if schema == DEFAULT_SCHEMA && !there.contains(&"product_offsets") {
        let found = elsewhere(client, target).await.map_err(failed)?;
        if let Some(other) = found.filter(|other| other != schema) {
            let text = format!("the tables are in schema {other}, and postgres.schema is {schema}");
            let remedy =
                format!("set postgres.schema to {other} to continue with them, or to an empty schema for new tables");
            return Err(Error::new(Code::PostgresTables, text).with_remedy(remedy));
        }
    }
    Ok(names(table).into_iter().filter(|name| !there.contains(name)).collect())
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
pub(crate) async fn look(
    client: &Client,
    schema: &str,
    table: &str,
    layout: Option<&Layout>,
    is_strict: bool,
) -> Result<Look> {
    let columns = find_columns(client, schema, table).await?;
    let tables: Vec<Table> = find(client, FIND_TABLES, schema, table)
        .await?
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
    judge(schema, &wanted(table, layout), &tables, &columns, is_strict)
}

async fn find(client: &Client, sql: &str, schema: &str, table: &str) -> Result<Vec<Row>> {
    let names = names(table);
    let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&schema, Type::TEXT), (&names.as_slice(), Type::TEXT_ARRAY)];
    client.query_typed(sql, &parameters).await.map_err(|e| failed("cannot look at the tables", e))
}

pub(super) async fn find_columns(client: &Client, schema: &str, table: &str) -> Result<Vec<Column>> {
    let column = |row: &Row| Column {
        table: row.get(0),
        name: row.get(1),
        type_name: row.get(2),
        modifier: row.get(3),
        not_null: row.get(4),
        has_default: row.get(5),
        generated: row.get(6),
    };
    Ok(find(client, FIND_COLUMNS, schema, table).await?.iter().map(column).collect())
}

/// Judges whether the consumers can use these tables.
///
/// # Errors
/// Definite, with every difference.
fn judge(schema: &str, wanted: &[Wanted], tables: &[Table], columns: &[Column], is_strict: bool) -> Result<Look> {
    let (mut look, mut faults, mut statements) = (Look::default(), Vec::new(), Vec::new());
    for table in tables.iter().filter(|table| wanted.iter().any(|w| w.table == table.name)) {
        let of_table: Vec<&Column> = columns.iter().filter(|c| c.table == table.name).collect();
        let place = format!("{schema}.{}", table.name);
        let (before, mut clauses) = (faults.len(), Vec::new());
        faults.extend(faults_of_table(table, wanted).into_iter().map(|fault| format!("{place} {fault}")));
        for wanted in wanted.iter().filter(|w| w.table == table.name) {
            match of_table.iter().find(|c| c.name == wanted.column) {
                None => faults.push(format!("{place} has no column {} ({})", wanted.column, wanted.kind.name())),
                Some(column) => match fault_of_column(wanted, column) {
                    Some(fault) if is_strict || matches!(wanted.kind, WantedType::Exactly(_)) => {
                        faults.push(format!("column {} of {place} {fault}", wanted.column));
                        let (name, kind) = (quoted(&column.name), wanted.kind.name());
                        let clause = || format!("ALTER COLUMN {name} TYPE {kind} USING {name}::{kind}");
                        clauses.extend((!column.generated).then(clause));
                    }
                    Some(fault) => look.limits.0.push((wanted.column.clone(), Limit::Unfit(fault))),
                    None => note_limit(wanted, column, &place, &mut look),
                },
            }
        }
        let of_parked = ["parked_at", "id", "key"];
        let ours = |c: &Column| {
            wanted.iter().any(|w| w.table == c.table && w.column == c.name) || of_parked.contains(&c.name.as_str())
        };
        for extra in of_table.iter().filter(|c| c.not_null && !c.has_default && !c.generated && !ours(c)) {
            let Column { name, type_name, .. } = extra;
            faults.push(format!("column {name} of {place} ({type_name}) must not be null and has no default"));
            clauses.push(format!("ALTER COLUMN {} DROP NOT NULL", quoted(name)));
        }
        statements.extend((!clauses.is_empty()).then(|| alter(schema, &table.name, &clauses)));
        if faults.len() == before {
            let list: Vec<String> = of_table.iter().map(|c| format!("{} {}", c.name, c.type_name)).collect();
            look.found.push(format!("{place}: {}", list.join(", ")));
        }
        look.warnings.extend(warnings_of(table, &place));
    }
    if faults.is_empty() {
        return Ok(look);
    }
    let statements = if statements.is_empty() { String::new() } else { format!(": {}", statements.join("; ")) };
    let text = format!("PostgreSQL's tables are not as the consumers need them: {}", faults.join("; "));
    Err(Error::new(Code::PostgresTables, text).with_remedy(format!(
        "change what is named (ALTER TABLE){statements}, or name another schema in postgres.schema, where the consumers \
         make their own tables"
    )))
}

/// The statement with these clauses.
pub(super) fn alter(schema: &str, table: &str, clauses: &[String]) -> String {
    format!("ALTER TABLE {}.{} {}", quoted(schema), quoted(table), clauses.join(", "))
}

fn faults_of_table(table: &Table, wanted: &[Wanted]) -> Vec<String> {
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
    let key = wanted.iter().filter(|w| w.table == table.name && w.key);
    let key: Vec<&str> = key.map(|w| w.column.as_str()).collect();
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

/// A column beside what it must hold.
fn fit_of(wanted: &Wanted, column: &Column) -> Fit {
    match wanted.kind {
        WantedType::Field(kind) => fit(&column.type_name, column.modifier, kind),
        WantedType::Exactly(name) if column.type_name == name => Fit::Keep,
        WantedType::Exactly(_) => Fit::Refuse(""),
    }
}

/// How a column would alter its values, if it would.
fn fault_of_column(wanted: &Wanted, column: &Column) -> Option<String> {
    let (found, name) = (column.type_name.as_str(), wanted.kind.name());
    if column.generated {
        return Some(format!("is generated ({found}), but the consumers write it ({name})"));
    }
    let loss = match fit_of(wanted, column) {
        Fit::Keep | Fit::Wider => return None,
        // It takes the values with fewer digits.
        Fit::Widen(_) if column.type_name.starts_with("numeric(") => return None,
        Fit::Widen(_) => "",
        Fit::Refuse(loss) => loss,
    };
    Some(format!("is {found}{loss}, and must be {name}"))
}

fn note_limit(wanted: &Wanted, column: &Column, place: &str, look: &mut Look) {
    const PARKED: &str = "a record with more is parked";
    let WantedType::Field(kind) = wanted.kind else { return };
    let Column { name, type_name, modifier, .. } = column;
    let is_bounded = type_name.starts_with("character varying(");
    if is_bounded {
        // The modifier includes the length word.
        look.limits.0.push((name.clone(), Limit::Characters(modifier - 4)));
    }
    let fit = fit(type_name, *modifier, kind);
    look.is_wider |= fit == Fit::Wider;
    let is_narrow = matches!(fit, Fit::Widen(_));
    if is_bounded || is_narrow {
        look.warnings.push(format!("column {name} of {place} is {type_name}: {PARKED}"));
    }
    if column.not_null && !wanted.key {
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
