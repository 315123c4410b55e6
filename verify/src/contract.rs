//! The columns that are compared, and the keys: a table's columns that the latest schema of its records names.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use model::error::{Code, Error, Result};
use model::escape;
use model::schema::{FieldType, RecordSchema};

use crate::canonical;
use crate::line::Form;
use crate::rules::{self, Plan, Rules};
use crate::source::{Source, TableColumn};

/// A column that is compared.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// The name of the record's field.
    pub(crate) field: String,
    /// The type of the record's field.
    pub(crate) kind: FieldType,
    pub(crate) of_table: TableColumn,
}

/// The rows of a table as its records have them.
#[derive(Clone, Debug)]
pub(crate) struct Contract {
    /// The record's full name, which nested lines have.
    pub(crate) record: String,
    pub(crate) columns: Vec<Column>,
    /// Indexes of the key's columns, in the order of the key.
    pub(crate) key: Vec<usize>,
    pub(crate) rules: Rules,
    /// The rules for a row in PostgreSQL, and for the line of a delete.
    pub(crate) plan: Plan,
    pub(crate) form: Form,
    /// The JSON text of the schema.
    pub(crate) schema: String,
}

/// Reads the text of a schema.
///
/// # Errors
/// Definite when it is not that of a flat record.
pub(crate) fn parse(text: &str) -> Result<RecordSchema> {
    avro::schema::parse(text).map_err(|reason| {
        Error::definite(format!("the schema of the topic's records can't be read: {reason}"))
            .with_remedy("start the producer, which registers its schema, or correct schema_registry.subject")
    })
}

impl Contract {
    /// The columns of the table that this schema names. A field without a column is an error in a schema of the
    /// name `pinned`; elsewhere the column has been dropped.
    ///
    /// # Errors
    /// Definite when a column or a field of the key is missing.
    pub(crate) fn new(source: &Source, text: &str, pinned: &str, rules: Rules, form: Form) -> Result<Self> {
        let schema = parse(text)?;
        let strict = schema.name == pinned;
        let table = format!("{}.{}", source.database, source.table);
        let mut columns = Vec::new();
        for field in &schema.fields {
            match source.columns.iter().find(|column| column.name.eq_ignore_ascii_case(&field.column)) {
                Some(of_table) => {
                    let (name, of_table) = (field.column.clone(), of_table.clone());
                    columns.push(Column { name, field: field.name.clone(), kind: field.kind, of_table });
                }
                None if strict => {
                    let name = &field.column;
                    return Err(Error::new(Code::ColumnMissing, format!("{table} has no column {name}"))
                        .with_remedy(format!("add the column {name}, or name another table in db.table")));
                }
                None => {}
            }
        }
        let place = |name: &String| {
            columns.iter().position(|column| column.name.eq_ignore_ascii_case(name)).ok_or_else(|| {
                Error::new(
                    Code::KeyChanged,
                    format!("{table} has the primary key column {name}, and its records have no such field"),
                )
                .with_remedy("make the record's key the primary key, or start the producer, which registers the schema")
            })
        };
        let key = source.key.iter().map(place).collect::<Result<_>>()?;
        let after = columns.iter().map(|column| rules::Column { name: column.name.clone(), kind: column.kind });
        let plan = Plan::new(&rules, after.collect());
        Ok(Self { record: schema.name, columns, key, rules, plan, form, schema: text.to_owned() })
    }

    /// Names of the key's columns, in the order of the key.
    pub(crate) fn key_names(&self) -> impl Iterator<Item = &str> {
        self.key.iter().map(|i| self.columns[*i].name.as_str())
    }

    /// The key of a row, from the server's texts of the contract's columns.
    pub(crate) fn key(&self, texts: &[Option<Vec<u8>>]) -> String {
        let raw = |i: usize| texts[i].as_deref().map(String::from_utf8_lossy).unwrap_or_default().into_owned();
        let part = |i: &usize| {
            let text = self.cell(*i, texts).ok().flatten();
            (self.columns[*i].kind, text.unwrap_or_else(|| raw(*i)))
        };
        let key: Vec<(FieldType, String)> = self.key.iter().map(part).collect();
        let key: Vec<(FieldType, &str)> = key.iter().map(|(kind, text)| (*kind, text.as_str())).collect();
        key_text(&key)
    }

    /// The canonical texts of a row, from those of the server.
    ///
    /// # Errors
    /// The column that a record can't carry, and the reason.
    pub(crate) fn row(&self, texts: &[Option<Vec<u8>>]) -> std::result::Result<Vec<Option<String>>, (String, String)> {
        (0..texts.len()).map(|i| self.cell(i, texts)).collect()
    }

    fn cell(&self, i: usize, texts: &[Option<Vec<u8>>]) -> std::result::Result<Option<String>, (String, String)> {
        let column = &self.columns[i];
        let text = texts[i].as_ref().map(|text| canonical::of_mysql(column.kind, &column.of_table.stored, text));
        text.transpose().map_err(|reason| (column.name.clone(), reason))
    }

    /// A row as text for a person.
    pub(crate) fn describe(&self, row: &[Option<String>]) -> String {
        let cells = self.columns.iter().zip(row).map(|(column, text)| (column.name.as_str(), column.kind, text));
        describe(cells.filter(|(name, ..)| !self.is_key(name)))
    }

    /// A row after the rules as text for a person.
    pub(crate) fn describe_stored(&self, row: &[Option<String>]) -> String {
        let cells = self.plan.columns.iter().zip(row).map(|(column, text)| (column.name.as_str(), column.kind, text));
        describe(cells.filter(|(name, ..)| !self.is_key(name)))
    }

    fn is_key(&self, name: &str) -> bool {
        self.key_names().any(|key| key == name)
    }

    /// The key's values as JSON, one by one; the key is a record's.
    ///
    /// # Errors
    /// Why it is no key of this table, for a person.
    pub(crate) fn key_parts(&self, key: &str) -> std::result::Result<Vec<String>, String> {
        let shown = || escape::cut(key, 200);
        let kinds: Vec<FieldType> = self.key.iter().map(|i| self.columns[*i].kind).collect();
        let parts: Vec<String> = match kinds.as_slice() {
            [only] => vec![if canonical::is_number(*only) { key.to_owned() } else { canonical::quoted(key) }],
            _ => {
                let parts: Vec<&serde_json::value::RawValue> = serde_json::from_str(key)
                    .map_err(|_| format!("its key {:?} is no list of {} values", shown(), kinds.len()))?;
                parts.iter().map(|part| part.get().to_owned()).collect()
            }
        };
        let is_whole = |kind: &FieldType| matches!(kind, FieldType::Int | FieldType::Long);
        for (kind, part) in kinds.iter().zip(&parts) {
            match part.parse::<i64>() {
                Ok(number) if is_whole(kind) && number.to_string() != *part => {
                    return Err(format!("its key {:?} is not the plain form of {number}", shown()));
                }
                Err(_) if is_whole(kind) => return Err(format!("its key {:?} is not a whole number", shown())),
                _ => {}
            }
        }
        if parts.len() == kinds.len() {
            Ok(parts)
        } else {
            Err(format!("its key {:?} has {} values", shown(), parts.len()))
        }
    }

    /// The row of a delete's line: the key and nulls.
    pub(crate) fn deleted(&self, parts: &[String]) -> Vec<Option<String>> {
        let part = |(i, part): (&usize, &String)| {
            let text = serde_json::from_str::<String>(part).unwrap_or_else(|_| part.clone());
            (self.columns[*i].name.clone(), text)
        };
        let key: Vec<(String, String)> = self.key.iter().zip(parts).map(part).collect();
        let cell =
            |column: &rules::Column| key.iter().find(|(name, _)| *name == column.name).map(|(_, text)| text.clone());
        self.plan.columns.iter().map(cell).collect()
    }
}

/// The key of these values: the text of the only one, or a JSON array of them.
pub(crate) fn key_text(parts: &[(FieldType, &str)]) -> String {
    let text = |(kind, text): &(FieldType, &str)| match (kind, *text) {
        (FieldType::Boolean, "false") | (FieldType::Float | FieldType::Double, "-0") => "0".to_owned(),
        (FieldType::Boolean, "true") => "1".to_owned(),
        (_, text) => text.to_owned(),
    };
    match parts {
        [only] => text(only),
        _ => {
            let part = |part: &(FieldType, &str)| {
                if canonical::is_number(part.0) { text(part) } else { canonical::quoted(part.1) }
            };
            format!("[{}]", parts.iter().map(part).collect::<Vec<_>>().join(","))
        }
    }
}

/// The hash of a key, by which verify knows it: 128 bits, so that no two keys of a table have the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct KeyHash(u64, u64);

impl KeyHash {
    pub(crate) fn of(key: &str) -> Self {
        let half = |seed: u8| {
            let mut hasher = DefaultHasher::new();
            (seed, key).hash(&mut hasher);
            hasher.finish()
        };
        Self(half(0), half(1))
    }

    pub(crate) fn low(self) -> u64 {
        self.0
    }

    pub(crate) fn high(self) -> u64 {
        self.1
    }
}

/// The hash of a row's texts.
pub(crate) fn row_hash(row: &[Option<String>]) -> u64 {
    let mut hasher = DefaultHasher::new();
    row.hash(&mut hasher);
    hasher.finish()
}

/// A row as text for a person, without the columns of the key.
fn describe<'a>(cells: impl Iterator<Item = (&'a str, FieldType, &'a Option<String>)>) -> String {
    let cell = |(name, kind, text): (&str, FieldType, &Option<String>)| match text {
        None => format!("{name} null"),
        Some(text) if kind == FieldType::Text => format!("{name} {text:?}"),
        Some(text) => format!("{name} {text}"),
    };
    cells.map(cell).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A contract of a table with these columns (name and MySQL's type), this key and this schema.
    pub(crate) fn contract(columns: &[(&str, &str)], key: &[&str], schema: &str) -> Result<Contract> {
        let column =
            |(name, stored): &(&str, &str)| TableColumn { name: (*name).to_owned(), stored: (*stored).to_owned() };
        let source = Source {
            database: "shop".to_owned(),
            table: "things".to_owned(),
            columns: columns.iter().map(column).collect(),
            key: key.iter().map(|name| (*name).to_owned()).collect(),
        };
        Contract::new(&source, schema, "pinned", Rules::default(), Form::Nested)
    }

    const COLUMNS: [(&str, &str); 4] = [("extra", "int"), ("Code", "varchar"), ("id", "bigint"), ("seen", "datetime")];
    const SCHEMA: &str = r#"{"type":"record","name":"things","mysql.key":["id","code_"],"fields":[{"name":"id","type":"long"},
        {"name":"code_","mysql.name":"code","type":"string"},{"name":"gone","type":["null","int"]},
        {"name":"seen","type":["null",{"type":"long","logicalType":"local-timestamp-micros"}]}]}"#;

    #[test]
    fn the_columns_are_those_that_table_and_schema_have() {
        let contract = contract(&COLUMNS, &["id", "Code"], SCHEMA).expect("a contract");
        let names: Vec<&str> = contract.columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(names, ["id", "code", "seen"]);
        let text = |text: &str| Some(text.as_bytes().to_vec());
        let texts = [text("7"), text("a\"ü"), None];
        assert_eq!(contract.key(&texts), r#"[7,"a\"ü"]"#);
        let row = contract.row(&texts);
        assert_eq!(row, Ok(vec![Some("7".to_owned()), Some("a\"ü".to_owned()), None]));
        assert_eq!(contract.describe(&row.unwrap_or_default()), "seen null");
        // A row that no record can carry has its key all the same.
        let texts = [text("9223372036854775808"), text("x"), text("0000-00-00 00:00:00")];
        assert_eq!(contract.key(&texts), r#"[9223372036854775808,"x"]"#);
        let reason = "9223372036854775808 is beyond 9223372036854775807";
        assert_eq!(contract.row(&texts), Err(("id".to_owned(), reason.to_owned())));
    }

    #[test]
    fn a_key_without_a_field_is_an_error() {
        let error = contract(&COLUMNS, &["extra"], SCHEMA).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.starts_with("shop.things has the primary key column extra, and its records"), "{error}");
    }

    #[test]
    fn keys_are_texts() {
        let decimal = FieldType::Decimal { precision: 5, scale: 2 };
        for (parts, want) in [
            (&[(FieldType::Long, "-7")][..], "-7"),
            (&[(FieldType::Text, "a\"b")], "a\"b"),
            (&[(FieldType::Text, "")], ""),
            (&[(FieldType::Double, "-0")], "0"),
            (&[(FieldType::Boolean, "true")], "1"),
            (&[(FieldType::Bytes, "00ff")], "00ff"),
            (&[(decimal, "1.50"), (FieldType::Date, "2026-11-21")], r#"[1.50,"2026-11-21"]"#),
            (&[(FieldType::Boolean, "false"), (FieldType::Text, "a\n\u{1}")], r#"[0,"a\n\u0001"]"#),
        ] {
            assert_eq!(key_text(parts), want);
        }
        assert_ne!(KeyHash::of("1"), KeyHash::of("2"));
        assert_eq!(KeyHash::of("1"), KeyHash::of("1"));
    }

    #[test]
    fn a_key_of_another_form_is_none_of_the_table() {
        let composite = contract(&COLUMNS, &["id", "Code"], SCHEMA).expect("a contract");
        assert_eq!(composite.key_parts(r#"[7,"x"]"#), Ok(vec!["7".to_owned(), r#""x""#.to_owned()]));
        let deleted = composite.deleted(&["7".to_owned(), r#""a\"""#.to_owned()]);
        assert_eq!(deleted, [Some("7".to_owned()), Some("a\"".to_owned()), None]);
        for (key, reason) in [
            ("7", "is no list of 2 values"),
            ("[7]", "has 1 values"),
            (r#"["7","x"]"#, "is not a whole number"),
            (r#"[07,"x"]"#, "is no list of 2 values"),
        ] {
            let error = composite.key_parts(key).expect_err(key);
            assert!(error.contains(reason), "{error}");
        }
        let single = contract(&COLUMNS, &["id"], SCHEMA).expect("a contract");
        assert_eq!(single.key_parts("7"), Ok(vec!["7".to_owned()]));
        for (key, reason) in
            [("07", "is not the plain form of 7"), ("x", "is not a whole number"), ("", "is not a whole")]
        {
            let error = single.key_parts(key).expect_err(key);
            assert!(error.contains(reason), "{error}");
        }
    }
}
