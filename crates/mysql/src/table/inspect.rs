//! Compares a table, as the server describes it, with the contract, and reports all differences at once.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use std::sync::Arc;

use super::{ColumnPlan, Contract, SourceTable, answered, failed, logs_cascades};
use crate::column::{ColumnType, Described};
use crate::conversion_error::ConversionError;
use model::error::{Code, Error, Result};
use model::schema::{Field, FieldType, RecordSchema};

/// The most tables among which a misspelt name is searched.
const MANY_TABLES: u32 = 10_000;

/// A row of `information_schema.columns`: name, place, type, full type, extra, nullable.
type ColumnRow = (String, u32, String, String, String, String);
/// Of the same row: precision, scale, precision of a time, length in bytes, character set.
type SizeRow = (Option<u32>, Option<u32>, Option<u32>, Option<u64>, Option<String>);

/// A column as the server describes it.
struct FoundColumn {
    plan: ColumnPlan,
    is_nullable: bool,
}

impl SourceTable {
    /// Whether such a table exists that this user may see.
    ///
    /// # Errors
    /// As [`failed`].
    pub async fn exists(conn: &mut Conn, database: &str, table: &str) -> Result<bool> {
        let query = "SELECT 1 FROM information_schema.tables WHERE table_schema = ? AND table_name = ?";
        let found: Option<u8> = answered(conn.exec_first(query, (database, table)))
            .await
            .map_err(|e| failed(&format!("look up the table {database}.{table}"), e))?;
        Ok(found.is_some())
    }

    /// The error that no such table exists, with the table that the name may mean.
    ///
    /// # Errors
    /// As [`failed`].
    pub async fn missing(conn: &mut Conn, database: &str, table: &str) -> Result<String> {
        let query = format!(
            "SELECT table_schema, table_name FROM information_schema.tables WHERE table_type = 'BASE TABLE' AND \
             table_schema NOT IN ('mysql', 'sys', 'performance_schema', 'information_schema') LIMIT {MANY_TABLES}"
        );
        let tables: Vec<(String, String)> =
            answered(conn.query(query)).await.map_err(|e| failed("look up the tables", e))?;
        let near = nearest(database, table, &tables)
            .map_or_else(String::new, |(database, table)| format!("; did you mean {database}.{table}?"));
        Ok(format!("there is no table {database}.{table}, or this user may not see it{near}"))
    }

    /// Looks the table up and matches its columns to the contract's fields by name, ignoring case.
    ///
    /// # Errors
    /// Definite when the table or a column is missing or can't be carried without loss, with all differences and
    /// remedies.
    pub async fn inspect(conn: &mut Conn, database: &str, table: &str, contract: &Arc<Contract>) -> Result<Self> {
        let asking = |e| failed(&format!("look up the table {database}.{table}"), e);
        let found: Option<(String, String, String)> = answered(conn.exec_first(
            "SELECT table_schema, table_name, table_type FROM information_schema.tables \
                 WHERE table_schema = ? AND table_name = ?",
            (database, table),
        ))
        .await
        .map_err(asking)?;
        let Some((database, table, kind)) = found else {
            return Err(Error::new(Code::TableMissing, Self::missing(conn, database, table).await?).with_remedy(
                "create it (product-updater creates `product`), correct `tables` or DB_NAME and db.table, or grant SELECT to the user of DB_USER",
            ));
        };
        if kind != "BASE TABLE" {
            return Err(Error::new(
                Code::TableMissing,
                format!("{database}.{table} is a {}, not a table", kind.to_lowercase()),
            )
            .with_remedy("name the table behind it in db.table: only tables are in the binlog"));
        }
        let found = columns(conn, &database, &table).await?;
        let mut faults = Vec::new();
        let name = format!("{database}.{table}");
        let (schema, schema_text, is_derived) = if contract.all {
            let key = primary_key(conn, &database, &table).await?;
            let derived = derive((&database, &table), &found, &key, &contract.schema)?;
            let types: Vec<String> = derived.fields.iter().map(|field| type_of(&found, field)).collect();
            (Arc::new(derived.clone()), avro::schema::write(&derived, &types).into(), true)
        } else {
            (Arc::clone(&contract.schema), Arc::clone(&contract.text), false)
        };
        let columns = schema.fields.iter().filter_map(|field| noted(plan_column(&name, &found, field), &mut faults));
        let columns: Vec<ColumnPlan> = columns.collect();
        let key: Vec<&str> = schema.key.iter().map(|index| schema.fields[*index].column.as_str()).collect();
        for checked in
            [check_key(conn, &database, &table, &key).await, check_foreign_keys(conn, &database, &table).await]
        {
            match checked {
                Err(error) if error.is_transient() => return Err(error),
                checked => _ = noted(checked, &mut faults),
            }
        }
        if !faults.is_empty() {
            return Err(together(&faults));
        }
        Ok(Self {
            database,
            table,
            schema,
            schema_text,
            contract: Arc::clone(contract),
            is_derived,
            columns,
            longest_value: usize::MAX,
        })
    }

    /// Checks that the table still has the columns that it had when it was inspected, wherever they are. Says nothing
    /// about a table that is gone.
    ///
    /// # Errors
    /// As [`failed`]; transient when it has others.
    pub async fn require_unchanged(&self, conn: &mut Conn) -> Result<()> {
        let now = columns(conn, &self.database, &self.table).await?;
        let is_same = |column: &ColumnPlan| {
            let is_it = |FoundColumn { plan, .. }: &FoundColumn| {
                plan.name == column.name && plan.kind == column.kind && plan.definition() == column.definition()
            };
            now.iter().any(is_it)
        };
        let is_complete = !self.is_derived || now.len() == self.columns.len();
        if now.is_empty() || is_complete && self.columns.iter().all(is_same) {
            return Ok(());
        }
        Err(Error::transient(format!("the columns of {} have changed: they are looked up again", self.full_name())))
    }

    /// The columns that are not carried because the schema does not name them.
    ///
    /// # Errors
    /// As [`failed`].
    pub async fn left_out(&self, conn: &mut Conn) -> Result<Vec<String>> {
        let query = "SELECT column_name FROM information_schema.columns WHERE table_schema = ? AND table_name = ? \
                     ORDER BY ordinal_position";
        let mut names: Vec<String> = answered(conn.exec(query, (&self.database, &self.table)))
            .await
            .map_err(|e| failed(&format!("look up the columns of {}.{}", self.database, self.table), e))?;
        names.retain(|name| self.columns.iter().all(|column| column.name != *name));
        Ok(names)
    }
}

/// The result of a check; its error is added to `faults`.
fn noted<T>(checked: Result<T>, faults: &mut Vec<Error>) -> Option<T> {
    checked.map_err(|error| faults.push(error)).ok()
}

/// One error with all of them and the code of the first.
fn together(faults: &[Error]) -> Error {
    let texts: Vec<String> = faults.iter().map(ToString::to_string).collect();
    let mut remedies: Vec<&str> = faults.iter().filter_map(Error::remedy).collect();
    remedies.dedup();
    let code = faults.first().map_or(Code::Fault, Error::code);
    Error::new(code, texts.join("; ")).with_remedy(remedies.join("; "))
}

/// A table with a similar name: in the database with a name one or two letters off, or in another one with this name.
fn nearest<'a>(database: &str, table: &str, tables: &'a [(String, String)]) -> Option<&'a (String, String)> {
    let off = |a: &str, b: &str| strsim::damerau_levenshtein(&a.to_lowercase(), &b.to_lowercase());
    let near = tables.iter().filter_map(|found| match (off(&found.0, database), off(&found.1, table)) {
        (0, tables_off @ 0..=2) => Some((tables_off, 0, found)),
        (databases_off, 0) => Some((3, databases_off, found)),
        _ => None,
    });
    near.min().map(|(_, _, found)| found)
}

async fn columns(conn: &mut Conn, database: &str, table: &str) -> Result<Vec<FoundColumn>> {
    let asking = |e| failed(&format!("look up the columns of {database}.{table}"), e);
    let select = |columns: &str| {
        format!(
            "SELECT {columns} FROM information_schema.columns WHERE table_schema = ? AND table_name = ? ORDER BY ordinal_position"
        )
    };
    let named = select("column_name, ordinal_position, LOWER(data_type), column_type, extra, is_nullable");
    let named: Vec<ColumnRow> = answered(conn.exec(named, (database, table))).await.map_err(asking)?;
    let sized =
        select("numeric_precision, numeric_scale, datetime_precision, character_octet_length, character_set_name");
    let sized: Vec<SizeRow> = answered(conn.exec(sized, (database, table))).await.map_err(asking)?;
    let found = named.into_iter().zip(sized).map(|((name, place, data_type, full_type, extra, nullable), size)| {
        let (precision, scale, fraction, bytes, charset) = size;
        let kind = ColumnType::of(Described {
            data_type: &data_type,
            column_type: &full_type,
            precision: precision.unwrap_or(0),
            scale: scale.unwrap_or(0),
            fraction: fraction.unwrap_or(0),
            bytes: bytes.unwrap_or(0),
            charset: charset.as_deref(),
        });
        let place = usize::try_from(place).unwrap_or(usize::MAX).saturating_sub(1);
        FoundColumn { plan: ColumnPlan { name, place, kind, full_type, extra }, is_nullable: nullable != "NO" }
    });
    Ok(found.collect())
}

fn plan_column(table: &str, found: &[FoundColumn], field: &Field) -> Result<ColumnPlan> {
    let wanted = &field.column;
    let Some(FoundColumn { plan, is_nullable }) =
        found.iter().find(|found| found.plan.name.to_lowercase() == wanted.to_lowercase())
    else {
        return Err(Error::new(Code::ColumnMissing, format!("{table} has no column {wanted}"))
            .with_remedy(format!("add the column {wanted}, or name another table in db.table")));
    };
    let refused = |refusal: ConversionError| {
        Error::new(Code::ColumnRefused, format!("{table}.{} is {}: {}", plan.name, plan.full_type, refusal.reason))
            .with_remedy(refusal.remedy)
    };
    plan.kind.check(field.kind).map_err(refused)?;
    if !field.is_nullable() && *is_nullable {
        return Err(refused(ConversionError::new(
            "it may be NULL, and its field may not",
            "make the column NOT NULL, or its field nullable",
        )));
    }
    Ok(plan.clone())
}

/// The columns of the primary key, in its order, with the length of a prefix in characters.
type Key = Vec<(String, Option<u32>)>;

async fn primary_key(conn: &mut Conn, database: &str, table: &str) -> Result<Key> {
    answered(conn.exec(
        "SELECT column_name, sub_part FROM information_schema.statistics \
             WHERE table_schema = ? AND table_name = ? AND index_name = 'PRIMARY' ORDER BY seq_in_index",
        (database, table),
    ))
    .await
    .map_err(|e| failed(&format!("look up the primary key of {database}.{table}"), e))
}

/// The schema of all columns: those of the contract as it has them, if the table has them all and its key, and the
/// others by their types.
fn derive(
    (database, table): (&str, &str),
    found: &[FoundColumn],
    key: &Key,
    contract: &RecordSchema,
) -> Result<RecordSchema> {
    let name = format!("{database}.{table}");
    let same = |a: &str, b: &str| a.to_lowercase() == b.to_lowercase();
    check_parts(&name, found, key)?;
    let contract_key = contract.key.iter().map(|index| &contract.fields[*index].column);
    let is_extended = contract.fields.iter().all(|field| found.iter().any(|c| same(&c.plan.name, &field.column)))
        && key.len() == contract.key.len()
        && key.iter().zip(contract_key).all(|((column, _), wanted)| same(column, wanted));
    let (record, mut fields) = if is_extended {
        (contract.name.clone(), contract.fields.clone())
    } else {
        (format!("{}.{}", avro::schema::adjusted(database), avro::schema::adjusted(table)), Vec::new())
    };
    for FoundColumn { plan, .. } in found {
        if fields.iter().any(|field| same(&field.column, &plan.name)) {
            continue;
        }
        let Some(kind) = plan.kind.field() else {
            let refusal = plan.kind.check(FieldType::Text).err().unwrap_or_else(|| ConversionError::new("", ""));
            return Err(Error::new(
                Code::ColumnRefused,
                format!("{name}.{} is {}: {}", plan.name, plan.full_type, refusal.reason),
            )
            .with_remedy(refusal.remedy));
        };
        let null = if key.iter().any(|(column, _)| same(column, &plan.name)) { None } else { Some(0) };
        let field = Field { name: avro::schema::adjusted(&plan.name), column: plan.name.clone(), kind, null };
        if let Some(other) = fields.iter().find(|other| other.name == field.name) {
            return Err(Error::new(
                Code::ColumnRefused,
                format!(
                    "{name}: the columns {} and {} have one name in Avro, {}",
                    other.column, field.column, field.name
                ),
            )
            .with_remedy("rename one of them"));
        }
        fields.push(field);
    }
    let place = |(column, _): &(String, Option<u32>)| fields.iter().position(|field| same(&field.column, column));
    let key = key.iter().filter_map(place).collect();
    Ok(RecordSchema { name: record, fields, key })
}

/// Whether the columns of the primary key can be the key of a record.
fn check_parts(table: &str, found: &[FoundColumn], key: &Key) -> Result<()> {
    if key.is_empty() {
        return Err(Error::new(
            Code::TableWithoutKey,
            format!("{table} has no primary key: its rows have no identity"),
        )
        .with_remedy(format!(
            "ALTER TABLE {table} ADD my_row_id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT INVISIBLE PRIMARY KEY"
        )));
    }
    for (column, prefix) in key {
        if let Some(characters) = prefix {
            return Err(Error::new(
                Code::KeyRefused,
                format!("{table} has the primary key {column}({characters}): two rows may have one key"),
            )
            .with_remedy("make a primary key of whole columns"));
        }
        let kind = found.iter().find(|c| c.plan.name.to_lowercase() == column.to_lowercase()).map(|c| &c.plan.kind);
        if let Some(kind @ (ColumnType::Enum | ColumnType::Set | ColumnType::Bit { .. })) = kind {
            return Err(Error::new(Code::KeyRefused, format!(
                "{table}.{column} is in the primary key, and the values of {kind} have another order than their text"
            ))
            .with_remedy("use VARCHAR or an integer for this column"));
        }
        if let Some(kind @ (ColumnType::Float | ColumnType::Double)) = kind {
            return Err(Error::new(
                Code::KeyRefused,
                format!("{table}.{column} is in the primary key, and a {kind} has more than one text"),
            )
            .with_remedy("use DECIMAL or an integer for this column"));
        }
    }
    Ok(())
}

/// The type of a field's column, as MySQL writes it.
fn type_of(found: &[FoundColumn], field: &Field) -> String {
    let column = found.iter().find(|c| c.plan.name.to_lowercase() == field.column.to_lowercase());
    column.map_or_else(String::new, |column| column.plan.kind.to_string())
}

async fn check_key(conn: &mut Conn, database: &str, table: &str, wanted: &[&str]) -> Result<()> {
    let key = primary_key(conn, database, table).await?;
    let is_wanted = |((name, prefix), wanted): (&(String, Option<u32>), &&str)| {
        prefix.is_none() && name.to_lowercase() == wanted.to_lowercase()
    };
    if key.len() == wanted.len() && key.iter().zip(wanted).all(is_wanted) {
        return Ok(());
    }
    let part = |(name, prefix): &(String, Option<u32>)| match prefix {
        None => name.clone(),
        Some(characters) => format!("{name}({characters})"),
    };
    let found = match key.iter().map(part).collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => "has no primary key".to_owned(),
        columns => format!("has the primary key ({columns})"),
    };
    let code = if key.is_empty() { Code::TableWithoutKey } else { Code::KeyChanged };
    let wanted = wanted.join(", ");
    Err(Error::new(code, format!("{database}.{table} {found}; the schema's key is ({wanted})"))
        .with_remedy(format!("ALTER TABLE {table} DROP PRIMARY KEY (if there is one), ADD PRIMARY KEY ({wanted})")))
}

async fn check_foreign_keys(conn: &mut Conn, database: &str, table: &str) -> Result<()> {
    let asking = |e| failed(&format!("look up the foreign keys of {database}.{table}"), e);
    if logs_cascades(conn).await? {
        return Ok(());
    }
    let cascading: Option<(String, String, String)> = answered(conn.exec_first(
        "SELECT constraint_name, update_rule, delete_rule FROM information_schema.referential_constraints \
             WHERE constraint_schema = ? AND table_name = ? \
             AND (update_rule IN ('CASCADE', 'SET NULL') OR delete_rule IN ('CASCADE', 'SET NULL'))",
        (database, table),
    ))
    .await
    .map_err(asking)?;
    match cascading {
        None => Ok(()),
        Some((name, update, delete)) => Err(Error::new(
            Code::ForeignKey,
            format!(
                "{database}.{table} has the foreign key {name} ON UPDATE {update} ON DELETE {delete}: \
             this server changes such rows without an event in the binlog"
            ),
        )
        .with_remedy(
            "use RESTRICT or NO ACTION, or MySQL 9.6 or later without innodb_native_foreign_keys; rows may have gone \
             already, so then `cdc-producer checkpoint reset`",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_that_may_be_meant() {
        let tables = ["shop.product", "shop.products", "shop.prices", "buy_online_db.product", "old.stock"]
            .map(|name| name.split_once('.').map(|(d, t)| (d.to_owned(), t.to_owned())).unwrap());
        let near = |database, table| nearest(database, table, &tables).map(|(d, t)| format!("{d}.{t}"));
        assert_eq!(near("shop", "prodcut").as_deref(), Some("shop.product"));
        assert_eq!(near("shop", "Product").as_deref(), Some("shop.product"));
        assert_eq!(near("buy_online", "product").as_deref(), Some("buy_online_db.product"));
        assert_eq!(near("buy_online", "stock").as_deref(), Some("old.stock"));
        assert_eq!(near("shop", "orders"), None);
    }

    #[test]
    fn all_faults_are_one_error() {
        let faults = [("a is wrong", "mend it"), ("b is wrong", "mend it"), ("c is wrong", "drop c")]
            .map(|(text, remedy)| Error::definite(text).with_remedy(remedy));
        let error = together(&faults);
        assert_eq!(error.to_string(), "a is wrong; b is wrong; c is wrong");
        assert_eq!(error.remedy(), Some("mend it; drop c"));
    }
}
