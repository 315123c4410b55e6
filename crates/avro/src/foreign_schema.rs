//! Limits on schemas and values of other writers, checked before `apache-avro` reads them.
//!
//! The library recurses as deep as a schema goes, reserves the memory that a block announces before its items arrive,
//! and fills in defaults of defaults. So this module measures and strips a schema before parsing it, and walks a value
//! along its schema without allocating before decoding it. A value then takes at most [`VALUES`] values and its own
//! bytes of memory.

use std::collections::HashMap;

use apache_avro::Schema;
use apache_avro::schema::{InnerDecimalSchema, Name, UuidSchema};
use serde_json::Value;

use model::escape;

/// Bytes of a schema's text.
const SCHEMA_BYTES: usize = 256 << 10;
/// Objects, lists, names and other values in a schema's JSON text; a field has about four.
const SCHEMA_NODES: usize = 4_000;
/// Levels of a schema's JSON text.
const SCHEMA_DEPTH: usize = 64;
/// Levels of a value: each record, union, array, map and named type is one.
const VALUE_DEPTH: usize = 64;
/// Values within a value.
const VALUES: usize = 100_000;
/// Bytes of a decimal number: printing takes time quadratic in its length.
const DECIMAL_BYTES: usize = 1_024;

/// Reads a writer's schema and drops the parts that do not change the bytes of a value: documentation, and defaults,
/// which only readers use.
///
/// # Errors
/// The limit that it exceeds, or why it is not a schema, for a person.
pub(crate) fn parse(text: &str) -> Result<Schema, String> {
    if text.len() > SCHEMA_BYTES {
        return Err(format!("its schema has {} bytes, and the fixed limit is {SCHEMA_BYTES}", text.len()));
    }
    let unreadable = |e: &dyn ToString| format!("its schema can't be read: {}", escape::cut(&e.to_string(), 500));
    let mut json: Value = serde_json::from_str(text).map_err(|e| unreadable(&e))?;
    strip(&mut json, 0, &mut 0)?;
    Schema::parse(&json).map_err(|e| unreadable(&e))
}

fn strip(json: &mut Value, depth: usize, nodes: &mut usize) -> Result<(), String> {
    *nodes += 1;
    if *nodes > SCHEMA_NODES {
        return Err(format!("its schema has more than {SCHEMA_NODES} nodes, which is a fixed limit"));
    }
    if depth > SCHEMA_DEPTH {
        return Err(format!("its schema has more than {SCHEMA_DEPTH} levels, which is a fixed limit"));
    }
    match json {
        Value::Array(items) => items.iter_mut().try_for_each(|item| strip(item, depth + 1, nodes)),
        Value::Object(members) => {
            members.remove("default");
            members.remove("doc");
            members.values_mut().try_for_each(|member| strip(member, depth + 1, nodes))
        }
        _ => Ok(()),
    }
}

/// Walks the bytes of a value along its schema.
///
/// # Errors
/// The limit that it exceeds, or the place where the bytes are not a value of the schema, for a person.
pub(crate) fn measure(schema: &Schema, names: &HashMap<Name, &Schema>, bytes: &[u8]) -> Result<(), String> {
    Walk { names, rest: bytes, values: 0 }.value(schema, None, 0)
}

struct Walk<'a> {
    names: &'a HashMap<Name, &'a Schema>,
    rest: &'a [u8],
    /// Seen so far.
    values: u64,
}

impl<'a> Walk<'a> {
    fn value(&mut self, schema: &'a Schema, namespace: Option<&'a str>, depth: usize) -> Result<(), String> {
        self.require_room(1)?;
        self.values += 1;
        if depth > VALUE_DEPTH {
            return Err(format!("it has more than {VALUE_DEPTH} levels, which is a fixed limit"));
        }
        match schema {
            Schema::Null => Ok(()),
            Schema::Boolean => self.skip(1),
            Schema::Float => self.skip(4),
            Schema::Double => self.skip(8),
            Schema::Bytes | Schema::String | Schema::Uuid(UuidSchema::Bytes | UuidSchema::String) => {
                let length = self.length()?;
                self.skip(length)
            }
            Schema::BigDecimal => self.length().and_then(|length| self.decimal(length)),
            Schema::Decimal(decimal) => match &decimal.inner {
                InnerDecimalSchema::Bytes => self.length().and_then(|length| self.decimal(length)),
                InnerDecimalSchema::Fixed(fixed) => self.decimal(fixed.size as u64),
            },
            Schema::Fixed(fixed) | Schema::Duration(fixed) | Schema::Uuid(UuidSchema::Fixed(fixed)) => {
                self.skip(fixed.size as u64)
            }
            Schema::Array(array) => self.blocks(|walk| walk.value(&array.items, namespace, depth + 1)),
            Schema::Map(map) => self.blocks(|walk| {
                let length = walk.length()?;
                walk.skip(length)?;
                walk.value(&map.types, namespace, depth + 1)
            }),
            Schema::Union(union) => {
                let branch = self.long()?;
                let found = usize::try_from(branch).ok().and_then(|branch| union.variants().get(branch));
                let variant =
                    found.ok_or_else(|| format!("branch {branch} of a union of {}", union.variants().len()))?;
                self.value(variant, namespace, depth + 1)
            }
            Schema::Record(record) => {
                let namespace = record.name.namespace().or(namespace);
                record.fields.iter().try_for_each(|field| self.value(&field.schema, namespace, depth + 1))
            }
            Schema::Ref { name } => {
                let full = name.fully_qualified_name(namespace);
                let (name, schema) = self.names.get_key_value(&*full).ok_or_else(|| format!("no type {full}"))?;
                self.value(schema, name.namespace(), depth + 1)
            }
            // The rest are whole numbers.
            _ => self.long().map(drop),
        }
    }

    fn require_room(&self, more: u64) -> Result<(), String> {
        if self.values.saturating_add(more) > VALUES as u64 {
            return Err(format!("it has more than {VALUES} values, which is a fixed limit"));
        }
        Ok(())
    }

    /// The blocks of an array or a map; a negative count is followed by the block's size.
    fn blocks(&mut self, mut item: impl FnMut(&mut Self) -> Result<(), String>) -> Result<(), String> {
        loop {
            let count = self.long()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                self.long()?;
            }
            // Checked before the library reserves memory for them.
            self.require_room(count.unsigned_abs())?;
            for _ in 0..count.unsigned_abs() {
                item(self)?;
            }
        }
    }

    fn decimal(&mut self, length: u64) -> Result<(), String> {
        if length > DECIMAL_BYTES as u64 {
            return Err(format!("it has a decimal number of {length} bytes, and the fixed limit is {DECIMAL_BYTES}"));
        }
        self.skip(length)
    }

    fn length(&mut self) -> Result<u64, String> {
        let length = self.long()?;
        u64::try_from(length).map_err(|_| format!("a field of {length} bytes"))
    }

    fn skip(&mut self, bytes: u64) -> Result<(), String> {
        let left = self.rest.len();
        let rest = usize::try_from(bytes).ok().and_then(|bytes| self.rest.get(bytes..));
        self.rest = rest.ok_or_else(|| format!("a field of {bytes} bytes, but {left} are left"))?;
        Ok(())
    }

    fn long(&mut self) -> Result<i64, String> {
        let mut z: u64 = 0;
        for (i, byte) in self.rest.iter().enumerate().take(10) {
            z |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[i + 1..];
                return Ok((z >> 1) as i64 ^ -((z & 1) as i64));
            }
        }
        Err("an integer ends too early or is too long".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Decoder, Scratch};

    /// A writer's schema with a field of this type beside `id`.
    fn with(kind: &str) -> String {
        format!(
            r#"{{"type":"record","name":"Product","namespace":"shop","fields":[{{"name":"id","type":"long"}},{{"name":"x","type":{kind}}}]}}"#
        )
    }

    /// Zigzag, seven bits a byte.
    fn long(n: i64) -> Vec<u8> {
        let mut z = ((n << 1) ^ (n >> 63)) as u64;
        let mut out = Vec::new();
        while z >= 0x80 {
            out.push(z as u8 | 0x80);
            z >>= 7;
        }
        out.push(z as u8);
        out
    }

    /// The result of decoding a product with id 1 and these bytes in `x`.
    fn message(schema: &str, x: &[u8]) -> String {
        let decoder = match Decoder::new(schema) {
            Ok(decoder) => decoder,
            Err(error) => return error.to_string(),
        };
        let mut scratch = Scratch::default();
        match decoder.decode(&[&long(1)[..], x].concat(), &mut scratch) {
            Ok(product) => format!("id {}", product.id),
            Err(error) => error.to_string(),
        }
    }

    fn check(schema: &str, x: &[u8], says: &str) {
        let text = message(schema, x);
        assert!(text.contains(says), "{says:?} in {text:?}");
    }

    const LEVELS: &str = "it has more than 64 levels, which is a fixed limit";
    const MANY: &str = "it has more than 100000 values, which is a fixed limit";

    #[test]
    fn a_recursive_value_is_measured_before_it_is_followed() {
        let list = with(r#"{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]}]}"#);
        check(&list, &[vec![2; 2_000], vec![0]].concat(), LEVELS);
        check(&list, &[2, 2, 2, 0], "id 1");
        let array =
            with(r#"{"type":"record","name":"A","fields":[{"name":"of","type":{"type":"array","items":"A"}}]}"#);
        check(&array, &vec![2; 1_000_000], LEVELS);
        check(&array, &[2, 0, 0], "id 1");
        let map = with(r#"{"type":"record","name":"M","fields":[{"name":"of","type":{"type":"map","values":"M"}}]}"#);
        check(&map, &[2, 0].repeat(1_000), LEVELS);
        let endless = with(r#"{"type":"record","name":"E","fields":[{"name":"of","type":"E"}]}"#);
        check(&endless, &[], LEVELS);
    }

    #[test]
    fn what_a_block_announces_is_not_reserved() {
        let nothing = with(r#"{"type":"array","items":"null"}"#);
        check(&nothing, &[long(9_000_000), long(0)].concat(), MANY);
        check(&nothing, &[long(-i64::MAX), long(0)].concat(), MANY);
        check(&nothing, &[long(i64::MIN), long(0)].concat(), MANY);
        check(&nothing, &[long(60_000), long(60_000), long(0)].concat(), MANY);
        check(&nothing, &[long(90_000), long(0)].concat(), "id 1");
        check(&with(r#"{"type":"array","items":{"type":"array","items":"null"}}"#), &long(99_999).repeat(9), MANY);
        check(&with(r#"{"type":"map","values":"null"}"#), &long(1 << 40), MANY);
        check(&with(r#"{"type":"array","items":{"type":"fixed","name":"F","size":0}}"#), &long(1 << 40), MANY);
        check(&with(r#""string""#), &long(500_000_000), "a field of 500000000 bytes, but 0 are left");
        check(&with(r#""bytes""#), &long(-1), "a field of -1 bytes");
        check(
            &with(r#"{"type":"fixed","name":"F","size":9000000000000000000}"#),
            &[0; 9],
            "a field of 9000000000000000000",
        );
        check(&with(r#"["null","string"]"#), &long(7), "branch 7 of a union of 2");
        check(&with(r#"["null","string"]"#), &[], "an integer ends too early");
    }

    /// Each type contains the previous one twice, so a value of no bytes has 2^60 parts, and a default 2^60 defaults.
    #[test]
    fn types_that_double_are_neither_followed_nor_filled_in() {
        let mut kind = r#"{"type":"record","name":"T0","fields":[]}"#.to_owned();
        for n in 1..=20 {
            let (before, default) = (n - 1, "{}");
            kind = format!(
                r#"{{"type":"record","name":"T{n}","fields":[{{"name":"a","type":{kind},"default":{default}}},{{"name":"b","type":"T{before}","default":{default}}}]}}"#
            );
        }
        check(&with(&kind), &[], MANY);
        // The same types, side by side.
        let mut fields = r#"{"name":"f0","type":{"type":"record","name":"T0","fields":[]}}"#.to_owned();
        for n in 1..=60 {
            let of = format!(
                r#"[{{"name":"a","type":"T{0}","default":{{}}}},{{"name":"b","type":"T{0}","default":{{}}}}]"#,
                n - 1
            );
            fields.push_str(&format!(r#",{{"name":"f{n}","type":{{"type":"record","name":"T{n}","fields":{of}}}}}"#));
        }
        let schema = format!(r#"{{"type":"record","name":"P","fields":[{{"name":"id","type":"long"}},{fields}]}}"#);
        check(&schema, &[], MANY);
    }

    #[test]
    fn a_schema_is_measured_before_it_is_parsed() {
        let nested = |n: usize| format!("{}\"int\"{}", r#"{"type":"array","items":"#.repeat(n), "}".repeat(n));
        check(&with(&nested(50)), &[0], "id 1");
        check(&with(&nested(62)), &[], "its schema has more than 64 levels");
        check(&with(&nested(10_000)), &[], "recursion limit");
        let symbols = (0..5_000).map(|n| format!("\"s{n}\"")).collect::<Vec<_>>().join(",");
        check(&with(&format!(r#"{{"type":"enum","name":"E","symbols":[{symbols}]}}"#)), &[], "more than 4000 nodes");
        let long_name = "n".repeat(SCHEMA_BYTES);
        check(&with(&format!("\"{long_name}\"")), &[], "and the fixed limit is 262144");
        check("syntax = \"proto3\";", &[], "its schema can't be read");
        let text = message(&with(&format!("\"{}\"", "n".repeat(9_000))), &[]);
        assert!(text.len() < 1_000, "{}", text.len());
    }

    /// The library's error prints the value, which takes minutes for a decimal number of a megabyte.
    #[test]
    fn numbers_that_take_long_to_print_are_refused() {
        let x = [long(900_000), vec![0x77; 900_000]].concat();
        for kind in [
            r#"{"type":"bytes","logicalType":"decimal","precision":2000000,"scale":2}"#,
            r#"{"type":"bytes","logicalType":"big-decimal"}"#,
        ] {
            check(&with(kind), &x, "it has a decimal number of 900000 bytes, and the fixed limit is 1024");
        }
        let price = with(r#"{"type":"bytes","logicalType":"big-decimal"}"#).replace("\"x\"", "\"price\"");
        for scale in [i64::MAX, i64::MIN, 1 << 40] {
            let number = [long(1), vec![1], long(scale)].concat();
            let text = message(&price, &[long(number.len() as i64), number].concat());
            assert!(text.starts_with("the value is not a product") && text.len() < 1_000, "{text}");
        }
    }

    /// Attributes that do not change the bytes leave the schema equal to ours.
    #[test]
    fn defaults_and_documentation_do_not_count() {
        let documented = model::product::SCHEMA.replacen('{', r#"{"doc":"another text","#, 1);
        assert!(format!("{:?}", Decoder::new(&documented).expect("a schema")).contains("None"));
    }
}
