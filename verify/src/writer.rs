//! Decodes the values of one writer's schema by `apache-avro`'s generic reader.

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use model::escape;
use model::schema::{FieldType, RecordSchema};
use serde_json::json;

use crate::canonical;
use crate::contract::{Contract, key_text};
use crate::rules::{Column, Plan};

/// Bytes of a schema's text.
const SCHEMA_BYTES: usize = 256 << 10;
/// The most digits of a decimal; MySQL has 65.
const PRECISION: u32 = 100;

/// The values of one writer's schema.
#[derive(Debug)]
pub(crate) struct Writer {
    fields: RecordSchema,
    schema: Schema,
    /// Indexes of the key's fields, in the order of the key.
    key: Vec<usize>,
    /// For each column of the contract, the index of its field.
    places: Vec<Option<usize>>,
    /// The rules for a record's line.
    pub(crate) plan: Plan,
}

impl Writer {
    /// For values that were written with this schema (its JSON text) as rows of the contract's table.
    ///
    /// # Errors
    /// Why there are none, for a person.
    pub(crate) fn new(text: &str, contract: &Contract) -> Result<Self, String> {
        if text.len() > SCHEMA_BYTES {
            return Err(format!("its schema has {} bytes, and the fixed limit is {SCHEMA_BYTES}", text.len()));
        }
        let unreadable = |e: &dyn ToString| format!("its schema can't be read: {}", escape::cut(&e.to_string(), 500));
        let fields = avro::schema::parse(text).map_err(|e| unreadable(&e))?;
        let is_large = |kind| matches!(kind, FieldType::Decimal { precision, .. } if precision > PRECISION);
        if let Some(field) = fields.fields.iter().find(|field| is_large(field.kind)) {
            return Err(unreadable(&format!("field {} has more than {PRECISION} digits", field.name)));
        }
        // Defaults and other attributes do not change a value's bytes, and the library would process them.
        let schema = Schema::parse(&plain(&fields)).map_err(|e| unreadable(&e))?;
        let place = |name: &str| fields.fields.iter().position(|field| field.column.eq_ignore_ascii_case(name));
        let key = contract.key_names().map(|name| place(name).ok_or_else(|| format!("its schema has no field {name}")));
        let key = key.collect::<Result<_, _>>()?;
        let places = contract.columns.iter().map(|column| place(&column.name)).collect();
        let column = |field: &model::schema::Field| Column { name: field.column.clone(), kind: field.kind };
        let plan = Plan::new(&contract.rules, fields.fields.iter().map(column).collect());
        Ok(Self { fields, schema, key, places, plan })
    }

    /// Whether both have the same fields.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.fields.fields == other.fields.fields
    }

    /// Decodes an Avro value without its prefix: the canonical texts of all fields.
    ///
    /// # Errors
    /// Why the bytes are no value of the schema, for a person.
    pub(crate) fn decode(&self, bytes: &[u8]) -> Result<Vec<Option<String>>, String> {
        measure(&self.fields, bytes)?;
        let failed = |e: apache_avro::Error| escape::cut(&e.to_string(), 500).into_owned();
        let reader = GenericDatumReader::builder(&self.schema).build().map_err(failed)?;
        let Value::Record(values) = reader.read_value(&mut &*bytes).map_err(failed)? else {
            return Err("it is no record".to_owned());
        };
        let text = |(field, (_, value)): (&model::schema::Field, &(String, Value))| {
            canonical::of_avro(field.kind, value).map_err(|reason| format!("field {}: {reason}", field.name))
        };
        self.fields.fields.iter().zip(&values).map(text).collect()
    }

    /// The key of a row, as its record must have it; `None` if a part of it is null.
    pub(crate) fn key(&self, row: &[Option<String>]) -> Option<String> {
        let part = |i: &usize| Some((self.fields.fields[*i].kind, row[*i].as_deref()?));
        Some(key_text(&self.key.iter().map(part).collect::<Option<Vec<_>>>()?))
    }

    /// The row in the contract's columns.
    pub(crate) fn project(&self, contract: &Contract, row: &[Option<String>]) -> Vec<Option<String>> {
        let cell = |(place, column): (&Option<usize>, &crate::contract::Column)| {
            let i = (*place)?;
            Some(canonical::recast(self.fields.fields[i].kind, column.kind, row[i].clone()?))
        };
        self.places.iter().zip(&contract.columns).map(cell).collect()
    }
}

/// The schema with nothing but what decides a value's bytes.
fn plain(record: &RecordSchema) -> serde_json::Value {
    let fields = record.fields.iter().enumerate().map(|(i, field)| {
        let kind = match field.kind {
            FieldType::Boolean => json!("boolean"),
            FieldType::Int => json!("int"),
            FieldType::Long | FieldType::Duration => json!("long"),
            FieldType::Float => json!("float"),
            FieldType::Double => json!("double"),
            FieldType::Decimal { precision, scale } => {
                json!({"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale})
            }
            FieldType::Text | FieldType::Json => json!("string"),
            FieldType::Bytes => json!("bytes"),
            FieldType::Uuid => json!({"type": "string", "logicalType": "uuid"}),
            FieldType::Date => json!({"type": "int", "logicalType": "date"}),
            FieldType::LocalTimestamp => json!({"type": "long", "logicalType": "local-timestamp-micros"}),
            FieldType::Timestamp => json!({"type": "long", "logicalType": "timestamp-micros"}),
            FieldType::TimeOfDay => json!({"type": "long", "logicalType": "time-micros"}),
            FieldType::Geometry => {
                let fields = json!([{"name": "wkb", "type": "bytes"}, {"name": "srid", "type": ["null", "int"]}]);
                json!({"type": "record", "name": format!("geometry{i}"), "fields": fields})
            }
            FieldType::Vector => json!({"type": "array", "items": "float"}),
        };
        let kind = match field.null {
            None => kind,
            Some(0) => json!(["null", kind]),
            Some(_) => json!([kind, "null"]),
        };
        json!({"name": field.name, "type": kind})
    });
    json!({"type": "record", "name": "row", "fields": fields.collect::<Vec<_>>()})
}

/// Walks the bytes of a value, as the library reserves memory for lengths that a value only announces.
fn measure(record: &RecordSchema, bytes: &[u8]) -> Result<(), String> {
    let mut walk = Walk(bytes);
    for field in &record.fields {
        let branch =
            field.null.map(|null| walk.long().map(|branch| (branch, branch == i64::from(null)))).transpose()?;
        match branch {
            Some((branch, _)) if !(0..2).contains(&branch) => return Err(format!("branch {branch} of a union of two")),
            Some((_, true)) => {}
            _ => walk.value(field.kind)?,
        }
    }
    if walk.0.is_empty() { Ok(()) } else { Err(format!("{} bytes are left over", walk.0.len())) }
}

struct Walk<'a>(&'a [u8]);

impl Walk<'_> {
    fn value(&mut self, kind: FieldType) -> Result<(), String> {
        match kind {
            FieldType::Boolean => self.skip(1),
            FieldType::Float => self.skip(4),
            FieldType::Double => self.skip(8),
            FieldType::Text | FieldType::Json | FieldType::Bytes | FieldType::Uuid | FieldType::Decimal { .. } => {
                let length = self.long()?;
                self.skip(length)
            }
            FieldType::Geometry => {
                let length = self.long()?;
                self.skip(length)?;
                if self.long()? == 1 { self.long().map(drop) } else { Ok(()) }
            }
            FieldType::Vector => loop {
                let count = self.long()?;
                if count == 0 {
                    return Ok(());
                }
                if count < 0 {
                    self.long()?;
                }
                self.skip(count.saturating_abs().saturating_mul(4))?;
            },
            _ => self.long().map(drop),
        }
    }

    fn skip(&mut self, bytes: i64) -> Result<(), String> {
        let left = self.0.len();
        let rest = usize::try_from(bytes).ok().and_then(|bytes| self.0.get(bytes..));
        self.0 = rest.ok_or_else(|| format!("a field of {bytes} bytes, but {left} are left"))?;
        Ok(())
    }

    /// Zigzag, seven bits a byte, lowest first.
    fn long(&mut self) -> Result<i64, String> {
        let mut z: u64 = 0;
        for (i, byte) in self.0.iter().enumerate().take(10) {
            z |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                self.0 = &self.0[i + 1..];
                return Ok((z >> 1) as i64 ^ -((z & 1) as i64));
            }
        }
        Err("an integer ends too early or is too long".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use apache_avro::writer::datum::GenericDatumWriter;

    use super::*;
    use crate::contract::tests::contract;

    const COLUMNS: [(&str, &str); 3] = [("id", "int"), ("name", "varchar"), ("size", "double")];
    const LATEST: &str = r#"{"type":"record","name":"things","fields":[{"name":"id","type":"long"},
        {"name":"name","type":["null","string"]},{"name":"size","type":["null","double"]}]}"#;

    fn writer(schema: &str) -> Result<(Writer, Contract), String> {
        let contract = contract(&COLUMNS, &["id"], LATEST).map_err(|e| e.to_string())?;
        Writer::new(schema, &contract).map(|writer| (writer, contract))
    }

    #[test]
    fn a_record_of_an_older_schema_is_a_row_of_the_latest() {
        let older = r#"{"type":"record","name":"older","doc":"x","fields":[{"name":"size","type":["float","null"],"default":1},
            {"name":"other","type":["null",{"type":"bytes","logicalType":"decimal","precision":9,"scale":1}],"default":null},
            {"name":"id","type":"int"}]}"#;
        let (writer, contract) = writer(older).expect("a writer");
        let schema = Schema::parse_str(older).expect("a schema");
        let value = Value::Record(vec![
            ("size".to_owned(), Value::Union(0, Box::new(Value::Float(0.1)))),
            ("other".to_owned(), Value::Union(1, Box::new(Value::Decimal(vec![0xf1].into())))),
            ("id".to_owned(), Value::Int(7)),
        ]);
        let bytes = GenericDatumWriter::builder(&schema).build().expect("a writer").write_value_to_vec(value);
        let row = writer.decode(&bytes.expect("a value")).expect("a row");
        assert_eq!(row, [Some("0.1".to_owned()), Some("-1.5".to_owned()), Some("7".to_owned())]);
        assert_eq!(writer.key(&row).as_deref(), Some("7"));
        let double = Some("0.10000000149011612".to_owned());
        assert_eq!(writer.project(&contract, &row), [Some("7".to_owned()), None, double]);
        let names: Vec<&str> = writer.plan.columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(names, ["size", "other", "id"]);
    }

    #[test]
    fn a_length_beyond_the_value_is_not_reserved() {
        let fields = |kind: &str| {
            format!(
                r#"{{"type":"record","name":"r","fields":[{{"name":"id","type":"int"}},{{"name":"x","type":{kind}}}]}}"#
            )
        };
        for (kind, bytes, reason) in [
            (r#""string""#, &[2, 0xfe, 0xff, 0xff, 0xff, 0x0f][..], "but 0 are left"),
            (r#""bytes""#, &[2, 1], "a field of -1 bytes"),
            (r#"{"type":"array","items":"float"}"#, &[2, 0xfe, 0xff, 0xff, 0xff, 0x0f], "but 0 are left"),
            (r#"{"type":"array","items":"float"}"#, &[2, 3, 0, 0], "a field of 8 bytes, but 1 are left"),
            (r#"["null","string"]"#, &[2, 14], "branch 7 of a union of two"),
            (r#"["null","string"]"#, &[2], "an integer ends too early"),
            (r#""double""#, &[2, 0, 0], "a field of 8 bytes, but 2 are left"),
            (r#""int""#, &[2, 2, 9], "1 bytes are left over"),
        ] {
            let (writer, _) = writer(&fields(kind)).expect("a writer");
            let error = writer.decode(bytes).expect_err(kind);
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_schema_of_other_records_has_no_reader() {
        for (schema, reason) in [
            (LATEST.replace("\"id\"", "\"key\""), "its schema has no field id"),
            (LATEST.replace("\"double\"", "{\"type\":\"map\",\"values\":\"int\"}"), "field size"),
            (format!("{LATEST}{}", " ".repeat(SCHEMA_BYTES)), "and the fixed limit is 262144"),
            ("{}".to_owned(), "its schema can't be read"),
            (
                LATEST.replace("\"double\"", r#"{"type":"bytes","logicalType":"decimal","precision":999999}"#),
                "has more than 100 digits",
            ),
        ] {
            let error = writer(&schema).err().unwrap_or_default();
            assert!(error.contains(reason), "{error}");
        }
    }
}
