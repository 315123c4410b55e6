//! The columns of a table in PostgreSQL, and the statements that write them. Pure.

use std::sync::Arc;

use model::row::Datum;
use model::row_key::KeyValue;
use model::schema::FieldType;
use rules::transform::{Column, Transform};
use tokio_postgres::types::Type;

use crate::sql_value::{put, sent_as, type_name};

/// The columns of transformed rows, without those of the row's source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) columns: Vec<Column>,
    /// The places of the key's columns, in the order of the key.
    pub(crate) key: Vec<usize>,
    /// The same in a row before the rules.
    key_before: Vec<usize>,
}

/// A table of PostgreSQL and the topic of its records.
#[derive(Clone, Debug)]
pub(crate) struct SinkTable {
    pub(crate) topic: String,
    pub(crate) table: String,
    /// The layout of the topic's pinned schema, if it has one.
    pub(crate) pinned: Option<Arc<Layout>>,
}

/// The columns with a row's source.
pub(crate) const SOURCE: [&str; 2] = ["source_partition", "source_offset"];

/// The column of `product_parked` with the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ParkedKey {
    /// `id`, a number.
    Id,
    /// `key`, the text of any key.
    Text,
}

impl ParkedKey {
    /// The column's name.
    pub(crate) fn column(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Text => "key",
        }
    }

    /// The type of an array of keys.
    pub(crate) fn array(self) -> &'static str {
        match self {
            Self::Id => "bigint[]",
            Self::Text => "text[]",
        }
    }
}

impl Layout {
    /// Of rows that this transformation gives.
    pub(crate) fn new(transform: &Transform) -> Arc<Self> {
        Arc::new(Self {
            columns: transform.columns().to_vec(),
            key: transform.key().to_vec(),
            key_before: transform.key_before().to_vec(),
        })
    }

    /// For tests: of these columns.
    #[cfg(test)]
    pub(super) fn for_test(columns: Vec<Column>, key: &[usize]) -> Self {
        Self { columns, key: key.to_vec(), key_before: key.to_vec() }
    }

    /// Appends a transformed row.
    pub(crate) fn put_row(&self, row: &[Datum<'_>], out: &mut Vec<u8>) {
        for (column, datum) in self.columns.iter().zip(row) {
            put(*datum, column.kind, out);
        }
    }

    /// Appends the key of a transformed row.
    pub(crate) fn put_key_of(&self, row: &[Datum<'_>], out: &mut Vec<u8>) {
        for place in &self.key {
            put(row[*place], self.columns[*place].kind, out);
        }
    }

    /// Appends the key of a row before the rules.
    pub(crate) fn put_key_before(&self, row: &[Datum<'_>], out: &mut Vec<u8>) {
        for (place, before) in self.key.iter().zip(&self.key_before) {
            put(row[*before], self.columns[*place].kind, out);
        }
    }

    /// Appends a key.
    pub(crate) fn put_key(&self, key: &[KeyValue<'_>], out: &mut Vec<u8>) {
        for (place, value) in self.key.iter().zip(key) {
            put(value.datum(), self.columns[*place].kind, out);
        }
    }

    /// The columns of the key.
    pub(crate) fn key_columns(&self) -> impl Iterator<Item = &Column> {
        self.key.iter().map(|place| &self.columns[*place])
    }

    /// Where keys are parked.
    pub(crate) fn parked_key(&self) -> ParkedKey {
        let is_number = |column: &Column| matches!(column.kind, FieldType::Int | FieldType::Long);
        if self.key.len() == 1 && self.key_columns().all(is_number) { ParkedKey::Id } else { ParkedKey::Text }
    }

    /// Whether COPY can write the rows: a vector is sent as text, which needs a cast.
    pub(crate) fn can_copy(&self) -> bool {
        self.columns.iter().all(|column| column.kind != FieldType::Vector)
    }

    /// The types of the values of a row and of its source, as COPY sends them.
    pub(crate) fn copied_types(&self) -> Vec<Type> {
        self.columns.iter().map(|column| sent_as(column.kind).0).chain([Type::INT4, Type::INT8]).collect()
    }

    /// The statement that creates the table.
    pub(crate) fn create(&self, table: &str) -> String {
        let mut columns = String::new();
        for (place, column) in self.columns.iter().enumerate() {
            let (name, kind) = (quoted(&column.name), new_column(column.kind));
            // The bytes of a key's text are its identity, which also is the fastest comparison.
            let collation = if self.key.contains(&place) && kind == "text" { " COLLATE \"C\"" } else { "" };
            columns.push_str(&format!("{name} {kind}{collation}, "));
        }
        let key = list(self.key_columns(), |column| quoted(&column.name));
        format!(
            "CREATE TABLE IF NOT EXISTS {} ({columns}source_partition int NOT NULL, source_offset bigint NOT NULL, \
             PRIMARY KEY ({key}))",
            quoted(table)
        )
    }

    /// The statement that adds a column.
    pub(crate) fn add(table: &str, column: &Column) -> String {
        format!(
            "ALTER TABLE {} ADD COLUMN IF NOT EXISTS {} {}",
            quoted(table),
            quoted(&column.name),
            new_column(column.kind)
        )
    }

    /// The statements that write rows.
    pub(crate) fn statements(&self, table: &str) -> Statements {
        let table = quoted(table);
        let names = list(self.columns.iter(), |column| quoted(&column.name));
        let keys = list(self.key_columns(), |column| quoted(&column.name));
        let arrays = |columns: &[&Column]| {
            let parameter = |(place, column): (usize, &&Column)| format!("${}::{}[]", place + 1, array_of(column.kind));
            columns.iter().enumerate().map(parameter).collect::<Vec<_>>().join(", ")
        };
        let all: Vec<&Column> = self.columns.iter().collect();
        let of_key: Vec<&Column> = self.key_columns().collect();
        let (many, few) = (all.len(), of_key.len());
        let sent: Vec<String> = (1..=many).map(|place| format!("c{place}")).collect();
        let value = |(name, column): (&String, &&Column)| match column.kind {
            FieldType::Vector => format!("{name}::real[]"),
            _ => name.clone(),
        };
        let values = sent.iter().zip(&all).map(value).collect::<Vec<_>>().join(", ");
        let set = (0..many).filter(|place| !self.key.contains(place)).map(|place| quoted(&self.columns[place].name));
        let set = set.chain(SOURCE.map(str::to_owned)).map(|name| format!("{name} = EXCLUDED.{name}"));
        let set = set.collect::<Vec<_>>().join(", ");
        let upsert = format!(
            "INSERT INTO {table} AS t ({names}, source_partition, source_offset) SELECT {values}, p, o \
             FROM UNNEST({}, ${}::int[], ${}::bigint[]) AS u ({}, p, o) ON CONFLICT ({keys}) DO UPDATE SET {set} \
             WHERE t.source_partition <> EXCLUDED.source_partition OR t.source_offset < EXCLUDED.source_offset",
            arrays(&all),
            many + 1,
            many + 2,
            sent.join(", "),
        );
        let given: Vec<String> = (1..=few).map(|place| format!("k{place}")).collect();
        let same = of_key.iter().zip(&given).map(|(column, name)| format!("t.{} = g.{name}", quoted(&column.name)));
        let same = same.collect::<Vec<_>>().join(" AND ");
        let delete = format!(
            "DELETE FROM {table} t USING UNNEST({}, ${}::int[], ${}::bigint[]) AS g ({}, p, o) \
             WHERE {same} AND (t.source_partition <> g.p OR t.source_offset < g.o)",
            arrays(&of_key),
            few + 1,
            few + 2,
            given.join(", "),
        );
        let present = match of_key[..] {
            [only] => format!("SELECT {keys} FROM {table} WHERE {keys} = ANY($1::{}[])", array_of(only.kind)),
            _ => format!("SELECT {keys} FROM {table} WHERE ({keys}) IN (SELECT * FROM UNNEST({}))", arrays(&of_key)),
        };
        let copy = format!("COPY {table} ({names}, source_partition, source_offset) FROM STDIN (FORMAT binary)");
        Statements { upsert, delete, present, copy }
    }
}

/// The statements that write the rows of one layout.
#[derive(Clone, Debug)]
pub(crate) struct Statements {
    /// Parameters: an array per column, the partitions, the offsets.
    pub(crate) upsert: String,
    /// Parameters: an array per column of the key, the partitions, the offsets.
    pub(crate) delete: String,
    /// Parameters: an array per column of the key; returns those keys that the table has.
    pub(crate) present: String,
    pub(crate) copy: String,
}

/// The type of a new column.
fn new_column(kind: FieldType) -> String {
    match kind {
        FieldType::LocalTimestamp => "timestamp(6)".to_owned(),
        FieldType::Timestamp => "timestamptz(6)".to_owned(),
        FieldType::TimeOfDay => "time(6)".to_owned(),
        kind => type_name(kind),
    }
}

/// The type of the values of an array parameter.
pub(crate) fn array_of(kind: FieldType) -> String {
    match kind {
        FieldType::Decimal { .. } => "numeric".to_owned(),
        FieldType::Vector => "text".to_owned(),
        kind => type_name(kind),
    }
}

fn list<'a>(columns: impl Iterator<Item = &'a Column>, text: impl Fn(&Column) -> String) -> String {
    columns.map(text).collect::<Vec<_>>().join(", ")
}

/// A name as SQL takes it literally.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, kind: FieldType) -> Column {
        Column { name: name.to_owned(), kind }
    }

    #[test]
    fn statements_name_every_column() {
        let columns = vec![
            column("a\"b", FieldType::Text),
            column("v", FieldType::Vector),
            column("id", FieldType::Int),
            column("at", FieldType::Timestamp),
        ];
        let layout = Layout::for_test(columns, &[2, 0]);
        assert_eq!(
            layout.create("t"),
            "CREATE TABLE IF NOT EXISTS \"t\" (\"a\"\"b\" text COLLATE \"C\", \"v\" real[], \"id\" integer, \
             \"at\" timestamptz(6), source_partition int NOT NULL, source_offset bigint NOT NULL, \
             PRIMARY KEY (\"id\", \"a\"\"b\"))"
        );
        let Statements { upsert, delete, present, copy } = layout.statements("t");
        assert_eq!(
            upsert,
            "INSERT INTO \"t\" AS t (\"a\"\"b\", \"v\", \"id\", \"at\", source_partition, source_offset) \
             SELECT c1, c2::real[], c3, c4, p, o FROM UNNEST($1::text[], $2::text[], $3::integer[], \
             $4::timestamp with time zone[], $5::int[], $6::bigint[]) AS u (c1, c2, c3, c4, p, o) \
             ON CONFLICT (\"id\", \"a\"\"b\") DO UPDATE SET \"v\" = EXCLUDED.\"v\", \"at\" = EXCLUDED.\"at\", \
             source_partition = EXCLUDED.source_partition, source_offset = EXCLUDED.source_offset \
             WHERE t.source_partition <> EXCLUDED.source_partition OR t.source_offset < EXCLUDED.source_offset"
        );
        assert_eq!(
            delete,
            "DELETE FROM \"t\" t USING UNNEST($1::integer[], $2::text[], $3::int[], $4::bigint[]) AS g (k1, k2, p, o) \
             WHERE t.\"id\" = g.k1 AND t.\"a\"\"b\" = g.k2 AND (t.source_partition <> g.p OR t.source_offset < g.o)"
        );
        assert_eq!(
            present,
            "SELECT \"id\", \"a\"\"b\" FROM \"t\" WHERE (\"id\", \"a\"\"b\") IN \
             (SELECT * FROM UNNEST($1::integer[], $2::text[]))"
        );
        assert_eq!(
            copy,
            "COPY \"t\" (\"a\"\"b\", \"v\", \"id\", \"at\", source_partition, source_offset) FROM STDIN (FORMAT binary)"
        );
        assert_eq!((layout.parked_key(), layout.can_copy()), (ParkedKey::Text, false));
        let one = Layout::for_test(vec![column("id", FieldType::Long)], &[0]);
        assert_eq!((one.parked_key(), one.can_copy()), (ParkedKey::Id, true));
        assert_eq!(one.statements("p").present, "SELECT \"id\" FROM \"p\" WHERE \"id\" = ANY($1::bigint[])");
    }
}
