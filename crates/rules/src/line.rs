//! The JSON line that a consumer writes for each record: JSON Lines, one object per record, numbers exact.
//!
//! | form | line |
//! |---|---|
//! | flat | the columns in their order, then `op`, `partition`, `offset`, `source_ts`; a delete has its key and nulls |
//! | nested | `{"table":"shop.orders","key":[17,"a"],"op":"u","partition":3,"offset":17,"source_ts":"…","row":{…}}`; a delete has `"row":null` |
//!
//! Decimals are numbers with all their places, times ISO 8601 with six digits after the second, bytes base64, geometries
//! extended well-known binary in lower-case hexadecimal digits, vectors arrays of numbers.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::change::Op;
use model::row::{
    Datum, vector_values, write_date, write_decimal, write_double, write_duration, write_ewkb, write_float, write_hex,
    write_large_decimal, write_local_timestamp,
};
use model::row_key::write_string;
use model::time::Micros;
use serde::Deserialize;

use crate::transform::{Column, Transform};

/// The form of a log's lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineForm {
    /// The columns beside the origin.
    Flat,
    /// The columns in an object of their own.
    Nested,
}

/// The source of a line's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// What happened to the row.
    pub op: Op,
    /// Partition of the topic.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// Commit time on the source.
    pub source_ts: Micros,
}

/// The record of a line that was written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Written<'a> {
    /// The table, of a nested line; an odd name is escaped, as the name of a record never is.
    #[serde(borrow)]
    pub table: Option<Cow<'a, str>>,
    /// Partition of the topic.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
}

impl<'a> Written<'a> {
    /// Reads a line; `None` for one that no consumer has written.
    pub fn read(line: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }
}

/// A column with the name of a part of a flat line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the table has a column {0}, and a flat line has a field of this name")]
pub struct NameTaken(pub String);

/// The lines of one schema's rows.
#[derive(Clone, Debug)]
pub struct Line {
    form: LineForm,
    /// The text before each column's value.
    heads: Vec<Head>,
    /// The places of the key's columns.
    key: Vec<usize>,
    /// The beginning of a nested line, up to its key.
    opening: Box<[u8]>,
}

/// The text before a column's value. Copying a fixed number of bytes and cutting them takes a third of the
/// instructions of copying as many as there are.
#[derive(Clone, Debug)]
enum Head {
    Short { text: [u8; SHORT], length: usize },
    Long(Box<[u8]>),
}

/// Bytes of most heads.
const SHORT: usize = 32;

impl Head {
    fn new(text: &[u8]) -> Self {
        match text.len() {
            length @ ..=SHORT => {
                let mut short = [0; SHORT];
                short[..length].copy_from_slice(text);
                Self::Short { text: short, length }
            }
            _ => Self::Long(text.into()),
        }
    }

    #[inline]
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Short { text, length } => {
                let end = out.len() + length;
                out.extend_from_slice(text);
                out.truncate(end);
            }
            Self::Long(text) => out.extend_from_slice(text),
        }
    }
}

/// The fields of a flat line beside its columns.
const TAIL: [&str; 4] = ["op", "partition", "offset", "source_ts"];

impl Line {
    /// For transformed rows of the table with this name, `database.table`.
    ///
    /// # Errors
    /// When a flat line would have two fields of one name.
    pub fn new(form: LineForm, table: &str, transform: &Transform) -> Result<Self, NameTaken> {
        let columns = transform.columns();
        let taken = columns.iter().find(|column| form == LineForm::Flat && TAIL.contains(&column.name.as_str()));
        if let Some(Column { name, .. }) = taken {
            return Err(NameTaken(name.clone()));
        }
        let head = |(place, column): (usize, &Column)| {
            let mut head = vec![if place == 0 { b'{' } else { b',' }];
            write_string(&column.name, &mut head);
            head.push(b':');
            Head::new(&head)
        };
        let mut opening = b"{\"table\":".to_vec();
        write_string(table, &mut opening);
        opening.extend_from_slice(b",\"key\":[");
        let heads = columns.iter().enumerate().map(head).collect();
        Ok(Self { form, heads, key: transform.key().to_vec(), opening: opening.into() })
    }

    /// Appends the line of a transformed row, with its newline.
    pub fn write(&self, row: &[Datum<'_>], origin: Origin, out: &mut Vec<u8>) {
        if self.form == LineForm::Nested {
            self.open(self.key.iter().map(|place| row[*place]), origin, out);
            out.extend_from_slice(b",\"row\":");
        }
        for (head, datum) in self.heads.iter().zip(row) {
            head.write(out);
            write_json(*datum, out);
        }
        self.close(origin, out);
    }

    /// Appends the line of a deleted row, with its newline; `key` has the values of the key's columns.
    pub fn write_delete(&self, key: &[Datum<'_>], origin: Origin, out: &mut Vec<u8>) {
        if self.form == LineForm::Nested {
            self.open(key.iter().copied(), origin, out);
            return out.extend_from_slice(b",\"row\":null}\n");
        }
        for (place, head) in self.heads.iter().enumerate() {
            head.write(out);
            let value = self.key.iter().position(|of_key| *of_key == place).and_then(|number| key.get(number));
            write_json(value.copied().unwrap_or(Datum::Null), out);
        }
        self.close(origin, out);
    }

    fn open<'a>(&self, key: impl Iterator<Item = Datum<'a>>, origin: Origin, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.opening);
        for (number, datum) in key.enumerate() {
            if number > 0 {
                out.push(b',');
            }
            write_json(datum, out);
        }
        out.push(b']');
        tail(out, origin);
    }

    #[inline]
    fn close(&self, origin: Origin, out: &mut Vec<u8>) {
        match self.form {
            LineForm::Flat => tail(out, origin),
            LineForm::Nested => out.push(b'}'),
        }
        out.extend_from_slice(b"}\n");
    }
}

#[inline]
fn tail(out: &mut Vec<u8>, origin: Origin) {
    out.extend_from_slice(match origin.op {
        Op::Snapshot => b",\"op\":\"r\",\"partition\":",
        Op::Create => b",\"op\":\"c\",\"partition\":",
        Op::Update => b",\"op\":\"u\",\"partition\":",
        Op::Delete => b",\"op\":\"d\",\"partition\":",
    });
    number(out, i64::from(origin.partition));
    out.extend_from_slice(b",\"offset\":");
    number(out, origin.offset);
    out.extend_from_slice(b",\"source_ts\":\"");
    origin.source_ts.write(out);
    out.push(b'"');
}

#[inline]
fn number(out: &mut Vec<u8>, number: i64) {
    if let 0..=9 = number {
        return out.push(b'0' + number as u8);
    }
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends a value as JSON, exact: a decimal is a number with all its places.
#[inline]
pub fn write_json(datum: Datum<'_>, out: &mut Vec<u8>) {
    match datum {
        Datum::Null => out.extend_from_slice(b"null"),
        Datum::Int(value) => number(out, value),
        Datum::Text(text) => write_string(text, out),
        Datum::Decimal { unscaled, scale } => write_decimal(unscaled, scale, out),
        Datum::Timestamp(time) => quoted(out, |out| time.write(out)),
        _ => write_rarer(datum, out),
    }
}

fn write_rarer(datum: Datum<'_>, out: &mut Vec<u8>) {
    match datum {
        Datum::Boolean(is_true) => out.extend_from_slice(if is_true { b"true" } else { b"false" }),
        Datum::Float(value) => write_float(value, out),
        Datum::Double(value) => write_double(value, out),
        Datum::LargeDecimal { unscaled, scale } => write_large_decimal(unscaled, scale, out),
        Datum::Json(text) => out.extend_from_slice(text.as_bytes()),
        Datum::Bytes(bytes) => quoted(out, |out| write_base64(bytes, out)),
        Datum::Date(days) => quoted(out, |out| write_date(days, out)),
        Datum::LocalTimestamp(micros) => quoted(out, |out| write_local_timestamp(micros, out)),
        Datum::TimeOfDay(micros) | Datum::Duration(micros) => quoted(out, |out| write_duration(micros, out)),
        Datum::Geometry { wkb, srid } => quoted(out, |out| {
            let mut ewkb = Vec::with_capacity(wkb.len() + 4);
            write_ewkb(wkb, srid, &mut ewkb);
            write_hex(&ewkb, out);
        }),
        Datum::Vector(vector) => {
            out.push(b'[');
            for (place, value) in vector_values(vector).enumerate() {
                if place > 0 {
                    out.push(b',');
                }
                write_float(value, out);
            }
            out.push(b']');
        }
        Datum::Null | Datum::Int(_) | Datum::Text(_) | Datum::Decimal { .. } | Datum::Timestamp(_) => {
            write_json(datum, out);
        }
    }
}

#[inline]
fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}

fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    // The space fits: four digits for three bytes.
    let written = STANDARD.encode_slice(bytes, &mut out[start..]).unwrap_or(0);
    out.truncate(start + written);
}

#[cfg(test)]
mod tests;
