//! Log lines as JSON: the line that a record must have, and the form in which lines are compared.
//!
//! Two lines are equal if they have the same members in the same order with the same values: numbers digit by digit,
//! except floats, which are compared by value, and texts character by character.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::hash::{DefaultHasher, Hasher as _};

use model::change::Source;
use runtime::config::Settings;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::canonical::{self, quoted};
use crate::rules::Column;

/// How a line is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The row's members, then those of the record.
    Flat,
    /// The members of the record, then the row as an object.
    Nested,
}

/// The form of the lines, by the settings.
pub(crate) fn form(settings: &Settings) -> Form {
    if settings.text("consumer.line") == "nested" { Form::Nested } else { Form::Flat }
}

/// The parts of a line beside the row.
pub(crate) struct Head<'a> {
    /// The record's full name.
    pub(crate) table: &'a str,
    /// The key's values as JSON, separated by commas.
    pub(crate) key: &'a str,
    pub(crate) source: &'a Source<'a>,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// The commit time, as canonical text.
    pub(crate) time: &'a str,
}

/// The line of a record without its newline.
pub(crate) fn write(form: Form, head: &Head<'_>, columns: &[Column], row: &[Option<String>]) -> String {
    let (row, record) = (members(columns, row), head.members());
    match form {
        Form::Flat => format!("{{{row},{record}}}"),
        Form::Nested => format!(r#"{{"table":{},"key":[{}],{record},"row":{{{row}}}}}"#, quoted(head.table), head.key),
    }
}

/// The line of a delete without its newline; `row` has the key's values and nulls.
pub(crate) fn write_delete(form: Form, head: &Head<'_>, columns: &[Column], row: &[Option<String>]) -> String {
    match form {
        Form::Flat => write(form, head, columns, row),
        Form::Nested => {
            format!(r#"{{"table":{},"key":[{}],{},"row":null}}"#, quoted(head.table), head.key, head.members())
        }
    }
}

impl Head<'_> {
    fn members(&self) -> String {
        let Self { source, partition, offset, time, .. } = self;
        let (op, time) = (source.op.letter(), quoted(time));
        format!(r#""op":"{op}","partition":{partition},"offset":{offset},"source_ts":{time}"#)
    }
}

fn members(columns: &[Column], row: &[Option<String>]) -> String {
    let member = |(column, text): (&Column, &Option<String>)| {
        let value = text.as_ref().map_or_else(|| "null".to_owned(), |text| canonical::json(column.kind, text));
        format!("{}:{value}", quoted(&column.name))
    };
    columns.iter().zip(row).map(member).collect::<Vec<_>>().join(",")
}

/// A line that was read.
#[derive(Debug)]
pub(crate) struct Parsed {
    /// The table of a nested line: the full name of its record.
    pub(crate) table: Option<String>,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// Equal lines have equal hashes.
    pub(crate) hash: u64,
}

/// Reads a line; `None` if it is no JSON object that names its partition and offset. `floats` are the columns whose
/// numbers are compared by value.
pub(crate) fn parse(line: &[u8], floats: &HashSet<String>) -> Option<Parsed> {
    let Members(members) = serde_json::from_slice(line).ok()?;
    let number = |name: &str| {
        let value = members.iter().rfind(|(found, _)| found == name);
        value.and_then(|(_, value)| value.get().parse::<i64>().ok()).filter(|number| *number >= 0)
    };
    let table = match members.as_slice() {
        [(first, table), (second, key), ..] if first == "table" && second == "key" && key.get().starts_with('[') => {
            serde_json::from_str(table.get()).ok()
        }
        _ => None,
    };
    let (partition, offset) = (number("partition")?.try_into().ok()?, number("offset")?);
    let mut hasher = DefaultHasher::new();
    hash(&members, floats, true, &mut hasher)?;
    Some(Parsed { table, partition, offset, hash: hasher.finish() })
}

fn hash(
    members: &[(Cow<'_, str>, &RawValue)],
    floats: &HashSet<String>,
    is_outermost: bool,
    hasher: &mut DefaultHasher,
) -> Option<()> {
    for (name, value) in members {
        let raw = value.get();
        write_text(b'm', name, hasher);
        match raw.as_bytes().first()? {
            b'"' => write_text(b's', &serde_json::from_str::<Cow<'_, str>>(raw).ok()?, hasher),
            b'{' if name == "row" && is_outermost => {
                let Members(inner) = serde_json::from_str(raw).ok()?;
                hash(&inner, floats, false, hasher)?;
            }
            b'-' | b'0'..=b'9' if floats.contains(&**name) => {
                write_text(b'f', &raw.parse::<f64>().ok()?.to_string(), hasher);
            }
            b'[' if floats.contains(&**name) => {
                let items: Vec<f64> = serde_json::from_str(raw).ok()?;
                items.iter().for_each(|item| write_text(b'f', &item.to_string(), hasher));
            }
            _ => write_text(b'r', raw, hasher),
        }
    }
    hasher.write_u8(b'e');
    Some(())
}

fn write_text(tag: u8, text: &str, hasher: &mut DefaultHasher) {
    hasher.write_u8(tag);
    hasher.write_usize(text.len());
    hasher.write(text.as_bytes());
}

/// The members of an object in their order.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut members = Vec::new();
                while let Some((Name(name), value)) = map.next_entry()? {
                    members.push((name, value));
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Object).map(Members)
    }
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use model::change::Op;

    use super::*;
    use model::schema::FieldType;

    fn place(line: &str) -> Option<(i32, i64)> {
        parse(line.as_bytes(), &HashSet::new()).map(|line| (line.partition, line.offset))
    }

    #[test]
    fn a_line_tells_its_record() {
        for (line, want) in [
            (r#"{"id":7,"op":"c","partition":3,"offset":17,"source_ts":"x"}"#, Some((3, 17))),
            (r#"{"id":7,"name":",\"partition\":1,\"offset\":2,","partition":3,"offset":17}"#, Some((3, 17))),
            (r#"{"table":"a.b","key":[7],"op":"c","partition":3,"offset":17,"row":{"partition":4}}"#, Some((3, 17))),
            (r#"{"id":7,"partition":3}"#, None),
            (r#"{"id":7,"partition":,"offset":1}"#, None),
            (r#"{"id":7,"partition":3,"offset":99999999999999999999}"#, None),
            (r#"{"id":7,"partition":-3,"offset":9}"#, None),
            (r#"{"id":7,"partition":3,"offset":9}x"#, None),
            ("", None),
        ] {
            assert_eq!(place(line), want, "{line}");
        }
    }

    #[test]
    fn lines_differ_by_members_order_digits_and_texts() {
        let floats = HashSet::from(["f".to_owned(), "v".to_owned()]);
        let hash = |members: &str| {
            let line = format!(r#"{{{members},"partition":3,"offset":17}}"#);
            parse(line.as_bytes(), &floats).expect("a line").hash
        };
        for (a, b) in [
            (r#""a":12.30"#, r#""a":12.3"#),
            (r#""a":12.30"#, r#""a":"12.30""#),
            (r#""a":9007199254740993"#, r#""a":9007199254740992"#),
            (r#""a":null"#, r#""a":"null""#),
            (r#""a":1,"b":2"#, r#""b":2,"a":1"#),
            (r#""a":1"#, r#""a":1,"a":1"#),
            (r#""a":{"x":1}"#, r#""a":{"x":1.0}"#),
            (r#""row":{"a":1}"#, r#""row":{"a":2}"#),
            (r#""row":{"a":1},"b":2"#, r#""row":{"a":1,"b":2}"#),
            (r#""f":1.5"#, r#""f":1.25"#),
            (r#""v":[1,2]"#, r#""v":[1,3]"#),
        ] {
            assert_ne!(hash(a), hash(b), "{a} {b}");
        }
        for (a, b) in [
            (r#""f":1e3"#, r#""f":1000.0"#),
            (r#""v":[1.0,2]"#, r#""v":[1,2.0]"#),
            ("\"a\":\"ü\\n\"", r#""a":"\u00fc\u000a""#),
        ] {
            assert_eq!(hash(a), hash(b), "{a} {b}");
        }
    }

    #[test]
    fn both_forms() {
        let source = Source { op: Op::Update, ts_us: 0, pos: "x:1".into(), row: 0, epoch: 1 };
        let head = Head { table: "a.b", key: "7", source: &source, partition: 3, offset: 17, time: "t" };
        let column = |name: &str, kind| Column { name: name.to_owned(), kind };
        let columns = [column("id", FieldType::Long), column("n\"", FieldType::Text), column("b", FieldType::Bytes)];
        let row = ["7", "ü\n", "00ff10"].map(|text| Some(text.to_owned()));
        assert_eq!(
            write(Form::Flat, &head, &columns, &row),
            r#"{"id":7,"n\"":"ü\n","b":"AP8Q","op":"u","partition":3,"offset":17,"source_ts":"t"}"#
        );
        assert_eq!(
            write(Form::Nested, &head, &columns, &row),
            r#"{"table":"a.b","key":[7],"op":"u","partition":3,"offset":17,"source_ts":"t","row":{"id":7,"n\"":"ü\n","b":"AP8Q"}}"#
        );
        assert!(write_delete(Form::Nested, &head, &columns, &[]).ends_with(r#""source_ts":"t","row":null}"#));
    }
}
