//! The JSON text of an Avro schema and the fields that it describes.
//!
//! A table's record is flat: each field has one of the types of [`FieldType`], alone or in a union with `null`. The
//! property `mysql.name` of a field has the column's name where Avro does not allow it as the field's, and the property
//! `mysql.key` of the record lists the primary key's fields; without it they are the fields that are never null.

use model::escape;
use model::schema::{Field, FieldType, RecordSchema};
use serde_json::{Map, Value, json};

/// Maximum characters of a declared type in an error.
const LONGEST_REASON: usize = 500;
/// Property of a field: the column's name.
const NAME: &str = "mysql.name";
/// Property of the record: the names of the key's fields.
const KEY: &str = "mysql.key";
/// Property of a field: the column's type.
const TYPE: &str = "mysql.type";
/// The type of a column of JSON.
const JSON: &str = "json";
/// Property of a `long` that is a length of time.
const UNIT: &str = "unit";
const MICROSECONDS: &str = "microseconds";

/// Reads the JSON text of a schema.
///
/// # Errors
/// Why the text is not the schema of a flat record, with the field's name, for a person.
pub fn parse(text: &str) -> Result<RecordSchema, String> {
    let json: Value = serde_json::from_str(text).map_err(|e| format!("it is not JSON: {e}"))?;
    record(&json)
}

/// The JSON text of a schema. `types` are the columns' types as MySQL writes them, in the order of the fields; of them
/// a reader needs only `json`. The text is the same for the same fields in each version of this program, so that an
/// upgrade registers nothing.
pub fn write(schema: &RecordSchema, types: &[String]) -> String {
    let (namespace, name) = schema.name.rsplit_once('.').unwrap_or(("", &schema.name));
    let fields = schema.fields.iter().enumerate().map(|(index, field)| {
        let mut json = Map::new();
        json.insert("name".to_owned(), Value::from(field.name.as_str()));
        json.insert("type".to_owned(), declared(field));
        if field.null == Some(0) {
            json.insert("default".to_owned(), Value::Null);
        }
        if field.column != field.name {
            json.insert(NAME.to_owned(), Value::from(field.column.as_str()));
        }
        if let Some(kind) = types.get(index) {
            json.insert(TYPE.to_owned(), Value::from(kind.as_str()));
        }
        Value::from(json)
    });
    let key: Vec<&str> = schema.key.iter().map(|index| schema.fields[*index].name.as_str()).collect();
    json!({
        "type": "record", "name": name, "namespace": namespace, KEY: key, "fields": fields.collect::<Vec<_>>(),
    })
    .to_string()
}

fn declared(field: &Field) -> Value {
    let logical = |of: &str, logical: &str| json!({ "type": of, "logicalType": logical });
    let kind = match field.kind {
        FieldType::Boolean => json!("boolean"),
        FieldType::Int => json!("int"),
        FieldType::Long => json!("long"),
        FieldType::Float => json!("float"),
        FieldType::Double => json!("double"),
        FieldType::Text | FieldType::Json => json!("string"),
        FieldType::Bytes => json!("bytes"),
        FieldType::Decimal { precision, scale } => {
            json!({ "type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale })
        }
        FieldType::Uuid => logical("string", "uuid"),
        FieldType::Date => logical("int", "date"),
        FieldType::LocalTimestamp => logical("long", "local-timestamp-micros"),
        FieldType::Timestamp => logical("long", "timestamp-micros"),
        FieldType::TimeOfDay => logical("long", "time-micros"),
        FieldType::Duration => json!({ "type": "long", UNIT: MICROSECONDS }),
        FieldType::Vector => json!({ "type": "array", "items": "float" }),
        // Each record of a schema has another name.
        FieldType::Geometry => json!({ "type": "record", "name": format!("{}_geometry", field.name), "fields": [
            { "name": "wkb", "type": "bytes" }, { "name": "srid", "type": ["null", "int"], "default": null },
        ] }),
    };
    match field.null {
        None => kind,
        Some(0) => json!(["null", kind]),
        Some(_) => json!([kind, "null"]),
    }
}

/// A name that Avro allows (specification 1.12, "Names"): each other character becomes `_uXXXX`, a leading digit gets
/// `_` before it.
pub fn adjusted(name: &str) -> String {
    let mut adjusted = String::new();
    for (place, c) in name.chars().enumerate() {
        match c {
            'a'..='z' | 'A'..='Z' | '_' => adjusted.push(c),
            '0'..='9' if place > 0 => adjusted.push(c),
            '0'..='9' => adjusted.extend(['_', c]),
            other => {
                other.encode_utf16(&mut [0; 2]).iter().for_each(|unit| adjusted.push_str(&format!("_u{unit:04X}")))
            }
        }
    }
    adjusted
}

/// CRC-32 of what decides how values are read: names, types and nulls of the fields, in their order.
pub fn fingerprint(schema: &RecordSchema) -> u32 {
    let mut text = String::new();
    for Field { name, kind, null, .. } in &schema.fields {
        let kind = if *kind == FieldType::Json { FieldType::Text } else { *kind };
        text.push_str(&format!("{name} {kind} {null:?}\n"));
    }
    crc32fast::hash(text.as_bytes())
}

/// Whether a schema says which of its fields are the key; otherwise they are those that are never null.
pub fn names_key(text: &str) -> bool {
    serde_json::from_str::<Value>(text).is_ok_and(|json| json.get(KEY).is_some())
}

fn record(json: &Value) -> Result<RecordSchema, String> {
    let record = json.as_object().filter(|record| kind(record) == Some("record")).ok_or("it is not a record")?;
    let name = text(record, "name").ok_or("the record has no name")?;
    let name = match text(record, "namespace") {
        Some(namespace) if !namespace.is_empty() && !name.contains('.') => format!("{namespace}.{name}"),
        _ => name.to_owned(),
    };
    let list = record.get("fields").and_then(Value::as_array).ok_or("the record has no fields")?;
    let fields: Vec<Field> = list.iter().map(field).collect::<Result<_, _>>()?;
    let key = match record.get(KEY) {
        None => (0..fields.len()).filter(|index| !fields[*index].is_nullable()).collect(),
        Some(names) => key(names, &fields)?,
    };
    if key.is_empty() {
        return Err(format!("it has no key: neither the property {KEY} nor a field that is never null"));
    }
    Ok(RecordSchema { name, fields, key })
}

fn key(names: &Value, fields: &[Field]) -> Result<Vec<usize>, String> {
    let names = names.as_array().ok_or_else(|| format!("its property {KEY} is not a list of fields"))?;
    let place = |name: &Value| {
        let place = fields.iter().position(|field| Some(field.name.as_str()) == name.as_str());
        place.ok_or_else(|| format!("its property {KEY} names {name}, which is not a field"))
    };
    names.iter().map(place).collect()
}

fn field(json: &Value) -> Result<Field, String> {
    let field = json.as_object().ok_or("a field is not an object")?;
    let name = text(field, "name").ok_or("a field has no name")?.to_owned();
    let declared = field.get("type").ok_or_else(|| format!("field {name} has no type"))?;
    let (declared, null) = match declared {
        Value::Array(branches) => nullable(branches).map_err(|reason| format!("field {name} {reason}"))?,
        other => (other, None),
    };
    let kind = type_of(declared, field).ok_or_else(|| {
        let declared = declared.to_string();
        format!("field {name} has the type {}, which no column has", escape::cut(&declared, LONGEST_REASON))
    })?;
    let column = text(field, NAME).unwrap_or(&name).to_owned();
    Ok(Field { name, column, kind, null })
}

/// The type beside `null` in a union of two, and the index of `null`.
fn nullable(branches: &[Value]) -> Result<(&Value, Option<u8>), String> {
    let is_null = |branch: &Value| branch.as_str() == Some("null");
    match branches {
        [null, other] if is_null(null) && !is_null(other) => Ok((other, Some(0))),
        [other, null] if is_null(null) && !is_null(other) => Ok((other, Some(1))),
        _ => Err("is a union of other types than null and one more".to_owned()),
    }
}

fn type_of(declared: &Value, field: &Map<String, Value>) -> Option<FieldType> {
    let (name, attributes) = match declared {
        Value::String(name) => (name.as_str(), None),
        Value::Object(attributes) => (kind(attributes)?, Some(attributes)),
        _ => return None,
    };
    let logical = attributes.and_then(|attributes| text(attributes, "logicalType"));
    Some(match (name, logical) {
        ("boolean", _) => FieldType::Boolean,
        ("int", Some("date")) => FieldType::Date,
        // A time of day in milliseconds, of an instant too, would be read as a plain number.
        ("int", Some("time-millis")) | ("long", Some("timestamp-millis" | "local-timestamp-millis")) => return None,
        ("int", _) => FieldType::Int,
        ("long", Some("timestamp-micros")) => FieldType::Timestamp,
        ("long", Some("local-timestamp-micros")) => FieldType::LocalTimestamp,
        ("long", Some("time-micros")) => FieldType::TimeOfDay,
        ("long", _) if is_duration(attributes) || is_duration(Some(field)) => FieldType::Duration,
        ("long", _) => FieldType::Long,
        ("float", _) => FieldType::Float,
        ("double", _) => FieldType::Double,
        ("bytes", Some("decimal")) => return decimal(attributes?),
        ("bytes", _) => FieldType::Bytes,
        ("string", Some("uuid")) => FieldType::Uuid,
        ("string", _) if text(field, TYPE) == Some(JSON) => FieldType::Json,
        ("string", _) => FieldType::Text,
        ("array", _) if attributes?.get("items")?.as_str() == Some("float") => FieldType::Vector,
        ("record", _) if is_geometry(attributes?) => FieldType::Geometry,
        _ => return None,
    })
}

fn is_duration(attributes: Option<&Map<String, Value>>) -> bool {
    attributes.and_then(|attributes| text(attributes, UNIT)) == Some(MICROSECONDS)
}

fn decimal(attributes: &Map<String, Value>) -> Option<FieldType> {
    let number = |name, otherwise| match attributes.get(name) {
        None => otherwise,
        Some(number) => number.as_u64().and_then(|number| u32::try_from(number).ok()),
    };
    let (precision, scale) = (number("precision", None)?, number("scale", Some(0))?);
    (precision > 0 && scale <= precision).then_some(FieldType::Decimal { precision, scale })
}

/// Whether a nested record has the fields `wkb`, bytes, and `srid`, an optional int.
fn is_geometry(record: &Map<String, Value>) -> bool {
    let Some([wkb, srid]) = record.get("fields").and_then(Value::as_array).map(Vec::as_slice) else { return false };
    wkb["name"] == "wkb"
        && wkb["type"] == "bytes"
        && srid["name"] == "srid"
        && srid["type"] == Value::from(vec!["null", "int"])
}

fn kind(attributes: &Map<String, Value>) -> Option<&str> {
    text(attributes, "type")
}

fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    object.get(name).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(schema: &RecordSchema) -> String {
        let field =
            |field: &Field| format!("{} {}{}", field.column, field.kind, if field.is_nullable() { "?" } else { "" });
        let fields: Vec<String> = schema.fields.iter().map(field).collect();
        format!("{} {:?}: {}", schema.name, schema.key, fields.join(", "))
    }

    fn with(kind: &str) -> String {
        format!(
            r#"{{"type":"record","name":"T","fields":[{{"name":"k","type":"int"}},{{"name":"x","mysql.name":"x y","type":{kind}}}]}}"#
        )
    }

    #[test]
    fn the_products_schema() {
        let schema = parse(runtime::config::PINNED_SCHEMA).expect("our schema");
        assert_eq!(
            described(&schema),
            "shop.Product [0]: id long, name string?, category string?, price decimal(10,2)?, last_updated timestamp-micros?"
        );
    }

    #[test]
    fn each_type_of_a_field() {
        for (kind, want) in [
            (r#""boolean""#, "boolean"),
            (r#"["null","float"]"#, "float?"),
            (r#"["double","null"]"#, "double?"),
            (r#"{"type":"bytes","logicalType":"decimal","precision":20}"#, "decimal(20,0)"),
            (r#"{"type":"string","logicalType":"uuid"}"#, "uuid"),
            (r#"["null","string"],"mysql.type":"json""#, "json?"),
            (r#""string","mysql.type":"varchar(9)""#, "string"),
            (r#"{"type":"int","logicalType":"date"}"#, "date"),
            (r#"{"type":"long","logicalType":"local-timestamp-micros"}"#, "local-timestamp-micros"),
            (r#"{"type":"long","logicalType":"time-micros"}"#, "time-micros"),
            (r#"["null",{"type":"long","unit":"microseconds"}]"#, "microseconds?"),
            (r#"{"type":"array","items":"float"}"#, "array of float"),
            (
                r#"{"type":"record","name":"G","fields":[{"name":"wkb","type":"bytes"},{"name":"srid","type":["null","int"]}]}"#,
                "geometry",
            ),
        ] {
            let schema = parse(&with(kind)).expect(kind);
            assert!(described(&schema).ends_with(&format!("k int, x y {want}")), "{}", described(&schema));
        }
        let composite = r#"{"type":"record","name":"shop.T","namespace":"x","mysql.key":["b","a"],
            "fields":[{"name":"a","type":"int"},{"name":"b","type":"string"},{"name":"c","type":"long"}]}"#;
        assert_eq!(described(&parse(composite).expect("a schema")), "shop.T [1, 0]: a int, b string, c long");
    }

    #[test]
    fn a_schema_is_read_as_it_was_written() {
        let types = [
            FieldType::Boolean,
            FieldType::Int,
            FieldType::Long,
            FieldType::Float,
            FieldType::Double,
            FieldType::Decimal { precision: 65, scale: 30 },
            FieldType::Text,
            FieldType::Bytes,
            FieldType::Uuid,
            FieldType::Date,
            FieldType::LocalTimestamp,
            FieldType::Timestamp,
            FieldType::TimeOfDay,
            FieldType::Duration,
            FieldType::Geometry,
            FieldType::Vector,
        ];
        let field = |(index, kind): (usize, FieldType)| Field {
            name: format!("f{index}"),
            column: format!("f{index}{}", if index == 3 { " x" } else { "" }),
            kind,
            null: [None, Some(0), Some(1)][index % 3],
        };
        let fields = types.into_iter().enumerate().map(field).collect();
        let schema = RecordSchema { name: "shop.T".to_owned(), fields, key: vec![3, 0] };
        let text = write(&schema, &["bit(1)".to_owned()]);
        assert_eq!(parse(&text), Ok(schema));
        assert!(names_key(&text) && !names_key(runtime::config::PINNED_SCHEMA));
        apache_avro::Schema::parse_str(&text).expect("another implementation reads it");
        assert!(text.contains(r#"{"mysql.type":"bit(1)","name":"f0","type":"boolean"}"#), "{text}");
    }

    #[test]
    fn fingerprints_differ_when_values_are_read_in_another_way() {
        let of = |fields: &str| {
            let text = format!(r#"{{"type":"record","name":"T","fields":[{{"name":"k","type":"int"}},{fields}]}}"#);
            fingerprint(&parse(&text).expect("a schema"))
        };
        let text = of(r#"{"name":"a","type":["null","string"]}"#);
        assert_eq!(text, 0x33c9_88ba, "it is in the progress of running producers");
        assert_eq!(of(r#"{"name":"a","type":["null","string"],"default":null,"mysql.type":"json"}"#), text);
        for other in [
            r#"{"name":"b","type":["null","string"]}"#,
            r#"{"name":"a","type":["string","null"]}"#,
            r#"{"name":"a","type":"string"}"#,
            r#"{"name":"a","type":["null","bytes"]}"#,
            r#"{"name":"a","type":["null","string"]},{"name":"b","type":["null","string"]}"#,
        ] {
            assert_ne!(of(other), text, "{other}");
        }
    }

    #[test]
    fn names_that_avro_does_not_allow_are_adjusted() {
        for (name, want) in
            [("price", "price"), ("a b", "a_u0020b"), ("2nd", "_2nd"), ("ü", "_u00FC"), ("x-1", "x_u002D1")]
        {
            assert_eq!(adjusted(name), want);
        }
    }

    #[test]
    fn what_is_not_a_flat_record_is_refused_by_field() {
        for (text, want) in [
            ("{", "it is not JSON"),
            (r#""string""#, "it is not a record"),
            (&with(r#"["null","int","string"]"#), "field x is a union of other types"),
            (&with(r#"["null"]"#), "field x is a union of other types"),
            (&with(r#"{"type":"map","values":"int"}"#), "field x has the type"),
            (&with(r#"{"type":"long","logicalType":"timestamp-millis"}"#), "field x has the type"),
            (&with(r#"{"type":"bytes","logicalType":"decimal","precision":2,"scale":3}"#), "field x has the type"),
            (r#"{"type":"record","name":"T","fields":[{"name":"a","type":["null","int"]}]}"#, "it has no key"),
            (r#"{"type":"record","name":"T","mysql.key":["z"],"fields":[{"name":"a","type":"int"}]}"#, "names \"z\""),
        ] {
            let reason = parse(text).expect_err(text);
            assert!(reason.contains(want), "{want:?} in {reason:?}");
        }
    }
}
