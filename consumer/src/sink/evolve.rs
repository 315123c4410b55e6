//! Brings the table of the rows up to the schema of a record: adds the columns that it lacks, and widens a column that
//! is narrower than its field and keeps each value.
//!
//! A column that is wider than a field stays: records of an earlier schema may follow those of a later one, after a
//! restart or from a consumer that was stopped in between. The columns of a pinned schema stay as a person made them.

use model::error::{Code, Error, Result};
use rules::transform::Column as Field;
use sinks::postgres::{Target, failed};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::fit::{Fit, fit};
use super::layout::{Layout, ParkedKey, SOURCE, quoted};
use super::tables::{Column, LOCK, Look, PARK_TEXT_KEYS, alter, find_columns, look, make};

/// The planner's estimate of a table's rows; -1 when it has none.
const ESTIMATE: &str = "SELECT c.reltuples::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = $2";

/// A column that becomes wider.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Widening {
    column: String,
    from: String,
    to: String,
}

impl Widening {
    /// Whether PostgreSQL writes every row again, under a lock. A `numeric` with more digits has the same bytes.
    fn rewrites(&self) -> bool {
        !self.from.starts_with("numeric")
    }
}

/// What the tables lack for a layout.
#[derive(Debug, Default)]
struct Changes<'a> {
    add: Vec<&'a Field>,
    widen: Vec<Widening>,
    park_text_keys: bool,
}

impl<'a> Changes<'a> {
    fn of(layout: &'a Layout, pinned: Option<&Layout>, table: &str, there: &[Column]) -> Self {
        let column = |table: &str, name: &str| there.iter().find(|c| c.table == table && c.name == name);
        let mut changes = Self {
            park_text_keys: layout.parked_key() == ParkedKey::Text && column("product_parked", "key").is_none(),
            ..Self::default()
        };
        for field in &layout.columns {
            let is_pinned = || pinned.is_some_and(|pinned| pinned.columns.contains(field));
            match column(table, &field.name) {
                None => changes.add.push(field),
                Some(found) if found.generated || is_pinned() => {}
                Some(Column { name, type_name, modifier, .. }) => {
                    if let Fit::Widen(to) = fit(type_name, *modifier, field.kind) {
                        changes.widen.push(Widening { column: name.clone(), from: type_name.clone(), to });
                    }
                }
            }
        }
        changes
    }

    fn is_nothing(&self) -> bool {
        self.add.is_empty() && self.widen.is_empty() && !self.park_text_keys
    }
}

/// Creates the table of the rows, or adds and widens columns, and checks it, in the open transaction. Unless the layout
/// is that of the only schema, its records are parked if a column does not hold them.
///
/// # Errors
/// As [`super::tables::prepare`].
pub(super) async fn prepare_layout(
    client: &Client,
    target: &Target,
    table: &str,
    layout: &Layout,
    pinned: Option<&Layout>,
) -> Result<Look> {
    if let Some(column) = layout.columns.iter().find(|column| SOURCE.contains(&column.name.as_str())) {
        let what = format!("the table has a column {}, which the consumers add to PostgreSQL's table", column.name);
        return Err(Error::new(Code::PostgresTables, what)
            .with_remedy("rename the column, or turn PostgreSQL off (postgres.url)"));
    }
    make(client, target, table, Some(layout)).await?;
    let schema = target.schema();
    let there = find_columns(client, schema, table).await?;
    if !Changes::of(layout, pinned, table, &there).is_nothing() {
        let broken = |e| failed(&format!("cannot change the columns of {table}"), e);
        client.batch_execute(LOCK).await.map_err(broken)?;
        // Another consumer may have changed them before this one had the lock.
        let there = find_columns(client, schema, table).await?;
        change(client, schema, table, &Changes::of(layout, pinned, table, &there)).await?;
    }
    look(client, schema, table, Some(layout), pinned.is_none()).await
}

async fn change(client: &Client, schema: &str, table: &str, changes: &Changes<'_>) -> Result<()> {
    let broken = |e| failed(&format!("cannot add columns to {table}"), e);
    for column in &changes.add {
        tracing::info!(table, column = column.name, "a column is added to PostgreSQL's table");
        client.batch_execute(&Layout::add(table, column)).await.map_err(broken)?;
    }
    if changes.park_text_keys {
        client.batch_execute(PARK_TEXT_KEYS).await.map_err(broken)?;
    }
    if changes.widen.is_empty() { Ok(()) } else { widen(client, schema, table, &changes.widen).await }
}

/// Widens columns in one statement, so that PostgreSQL rewrites the table once at most; without a time limit, as that
/// takes as long as the table is large.
async fn widen(client: &Client, schema: &str, table: &str, columns: &[Widening]) -> Result<()> {
    let what: Vec<String> = columns
        .iter()
        .map(|Widening { column, from, to }| format!("column {column} of {schema}.{table} from {from} to {to}"))
        .collect();
    let what = what.join(", ");
    let broken = |e| failed(&format!("cannot widen {what}"), e);
    if columns.iter().any(Widening::rewrites) {
        let estimate = client.query_typed(ESTIMATE, &[(&schema, Type::TEXT), (&table, Type::TEXT)]).await;
        let rows = estimate.map_err(broken)?.first().map_or(-1, |row| row.get::<_, i64>(0));
        let rows = if rows < 0 { "unknown".to_owned() } else { rows.to_string() };
        tracing::info!(table, rows, "PostgreSQL rewrites its table under a lock, to widen {what}");
    } else {
        tracing::info!(table, "PostgreSQL widens {what}");
    }
    let clause = |Widening { column, to, .. }: &Widening| format!("ALTER COLUMN {} TYPE {to}", quoted(column));
    let sql = alter(schema, table, &columns.iter().map(clause).collect::<Vec<_>>());
    client.batch_execute(&format!("SET LOCAL statement_timeout = 0; {sql}")).await.map_err(|e| {
        let error = broken(e);
        if error.is_transient() {
            return error;
        }
        let code = if error.code() == Code::Fault { Code::PostgresTables } else { error.code() };
        let remedy = format!("run as the owner of the table, after dropping what depends on its type: {sql}");
        error.with_code(code).with_remedy(remedy)
    })
}

#[cfg(test)]
mod tests {
    use model::schema::FieldType;

    use super::*;

    fn field(name: &str, kind: FieldType) -> Field {
        Field { name: name.to_owned(), kind }
    }

    fn found(name: &str, type_name: &str) -> Column {
        let (table, name, type_name) = ("t".to_owned(), name.to_owned(), type_name.to_owned());
        Column { table, name, type_name, modifier: -1, ..Column::default() }
    }

    #[test]
    fn what_a_table_lacks_is_added_and_what_is_narrow_is_widened() {
        let columns = vec![
            field("id", FieldType::Long),
            field("n", FieldType::Long),
            field("f", FieldType::Double),
            field("wide", FieldType::Int),
            field("new", FieldType::Text),
        ];
        let layout = Layout::for_test(columns, &[0]);
        let mut there =
            [found("id", "integer"), found("n", "smallint"), found("f", "text"), found("wide", "bigint")].to_vec();
        let widened = |changes: &Changes<'_>| -> Vec<String> {
            changes.widen.iter().map(|w| format!("{} {} {}", w.column, w.from, w.to)).collect()
        };
        let changes = Changes::of(&layout, None, "t", &there);
        assert_eq!(widened(&changes), ["id integer bigint", "n smallint bigint"]);
        assert_eq!((changes.add.len(), changes.park_text_keys), (1, false));
        // A person's columns for the pinned schema.
        let pinned = Layout::for_test(vec![field("id", FieldType::Long)], &[0]);
        assert_eq!(widened(&Changes::of(&layout, Some(&pinned), "t", &there)), ["n smallint bigint"]);
        there[1].generated = true;
        assert_eq!(widened(&Changes::of(&layout, None, "t", &there)), ["id integer bigint"]);
        assert!(Changes::of(&pinned, None, "t", &[found("id", "bigint")]).is_nothing());
    }
}
