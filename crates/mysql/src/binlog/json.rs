//! MySQL's binary JSON (`sql-common/json_binary.h`), printed as MySQL prints it.

use std::fmt::{self, Write};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

use super::{
    cursor::Cursor,
    decimal::{self, Decimal},
    error::Fault,
    number::write_double,
    temporal::{DateTime, Time},
};

/// MySQL does not store deeper documents.
const MAX_DEPTH: u32 = 100;
/// MySQL breaks base64 into lines of this length, also within JSON, where the line end is then escaped.
const BASE64_LINE: usize = 76;

mod tag {
    pub(super) const SMALL_OBJECT: u8 = 0;
    pub(super) const LARGE_OBJECT: u8 = 1;
    pub(super) const SMALL_ARRAY: u8 = 2;
    pub(super) const LARGE_ARRAY: u8 = 3;
    pub(super) const LITERAL: u8 = 4;
    pub(super) const INT16: u8 = 5;
    pub(super) const UINT16: u8 = 6;
    pub(super) const INT32: u8 = 7;
    pub(super) const UINT32: u8 = 8;
    pub(super) const INT64: u8 = 9;
    pub(super) const UINT64: u8 = 10;
    pub(super) const DOUBLE: u8 = 11;
    pub(super) const STRING: u8 = 12;
    pub(super) const OPAQUE: u8 = 15;
}

/// Types of a column whose opaque values print as text.
mod opaque {
    pub(super) const TIMESTAMP: u8 = 7;
    pub(super) const DATE: u8 = 10;
    pub(super) const TIME: u8 = 11;
    pub(super) const DATETIME: u8 = 12;
    pub(super) const NEWDECIMAL: u8 = 246;
}

/// The text of a JSON column's bytes.
pub(super) fn to_text(document: &[u8]) -> Result<String, Fault> {
    let mut printer = Printer { out: String::with_capacity(document.len()), unread: document.len() };
    match document.split_first() {
        // An empty value, which INSERT IGNORE stores in a NOT NULL column, reads as null.
        None => printer.out.push_str("null"),
        Some((tag, bytes)) => printer.value(*tag, bytes, 0)?,
    }
    Ok(printer.out)
}

struct Printer {
    out: String,
    /// Bytes of the document that no value has used yet. Values of a sound document don't overlap; this limits the
    /// output of a damaged one, in which many entries point at the same bytes.
    unread: usize,
}

impl Printer {
    fn value(&mut self, tag: u8, bytes: &[u8], depth: u32) -> Result<(), Fault> {
        let mut bytes = Cursor::new(bytes);
        match tag {
            tag::SMALL_OBJECT => self.container(bytes, Shape { large: false, object: true }, depth),
            tag::LARGE_OBJECT => self.container(bytes, Shape { large: true, object: true }, depth),
            tag::SMALL_ARRAY => self.container(bytes, Shape { large: false, object: false }, depth),
            tag::LARGE_ARRAY => self.container(bytes, Shape { large: true, object: false }, depth),
            tag::LITERAL => self.literal(bytes.u8()?),
            tag::INT16 => print(&mut self.out, bytes.i16()?),
            tag::UINT16 => print(&mut self.out, bytes.u16()?),
            tag::INT32 => print(&mut self.out, bytes.i32()?),
            tag::UINT32 => print(&mut self.out, bytes.u32()?),
            tag::INT64 => print(&mut self.out, bytes.i64()?),
            tag::UINT64 => print(&mut self.out, bytes.u64()?),
            tag::DOUBLE => self.double(bytes.f64()?),
            tag::STRING => {
                let len = variable_len(&mut bytes)?;
                self.string(bytes.take(len)?)
            }
            tag::OPAQUE => {
                let column_type = bytes.u8()?;
                let len = variable_len(&mut bytes)?;
                self.opaque(column_type, bytes.take(len)?)
            }
            _ => Err(Fault("a JSON value of unknown type")),
        }
    }

    fn container(&mut self, bytes: Cursor<'_>, shape: Shape, depth: u32) -> Result<(), Fault> {
        if depth >= MAX_DEPTH {
            return Err(Fault("JSON deeper than 100 levels"));
        }
        let mut header = bytes;
        let count = header.uint_le(shape.offset_len())? as usize;
        let size = header.uint_le(shape.offset_len())? as usize;
        let all = bytes.clone().take(size)?;
        let entries = count.checked_mul(shape.entry_len()).ok_or(Fault::TRUNCATED)?;
        if 2 * shape.offset_len() + entries > size {
            return Err(Fault("a JSON container smaller than its entries"));
        }
        self.read(entries)?;
        let mut keys = header;
        let mut values = header;
        if shape.object {
            values.take(count * shape.key_entry_len())?;
        }
        self.out.push(if shape.object { '{' } else { '[' });
        for index in 0..count {
            if index > 0 {
                self.out.push_str(", ");
            }
            if shape.object {
                let at = keys.uint_le(shape.offset_len())? as usize;
                let len = usize::from(keys.u16()?);
                let key = all.get(at..).and_then(|bytes| bytes.get(..len)).ok_or(Fault::TRUNCATED)?;
                self.string(key)?;
                self.out.push_str(": ");
            }
            let tag = values.u8()?;
            let inline = values.take(shape.offset_len())?;
            if shape.inlines(tag) {
                self.value(tag, inline, depth + 1)?;
            } else {
                let at = Cursor::new(inline).uint_le(inline.len())? as usize;
                self.value(tag, all.get(at..).ok_or(Fault::TRUNCATED)?, depth + 1)?;
            }
        }
        self.out.push(if shape.object { '}' } else { ']' });
        Ok(())
    }

    fn literal(&mut self, code: u8) -> Result<(), Fault> {
        self.out.push_str(match code {
            0 => "null",
            1 => "true",
            2 => "false",
            _ => return Err(Fault("a JSON literal that is none")),
        });
        Ok(())
    }

    fn double(&mut self, number: f64) -> Result<(), Fault> {
        if !number.is_finite() {
            return Err(Fault("a JSON number that is not finite"));
        }
        let start = self.out.len();
        written(write_double(&mut self.out, number))?;
        if !self.out[start..].contains(['.', 'e']) {
            self.out.push_str(".0");
        }
        Ok(())
    }

    fn string(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.read(bytes.len())?;
        let text = std::str::from_utf8(bytes).map_err(|_| Fault("a JSON string that is not UTF-8"))?;
        self.out.push('"');
        let mut rest = text;
        while let Some(at) = rest.find(|c: char| c < ' ' || c == '"' || c == '\\') {
            let (plain, special) = rest.split_at(at);
            self.out.push_str(plain);
            let byte = special.as_bytes()[0];
            let escape = match byte {
                0x08 => 'b',
                b'\t' => 't',
                b'\n' => 'n',
                0x0c => 'f',
                b'\r' => 'r',
                b'"' => '"',
                b'\\' => '\\',
                _ => 'u',
            };
            self.out.extend(['\\', escape]);
            if escape == 'u' {
                written(write!(self.out, "{byte:04x}"))?;
            }
            rest = &special[1..];
        }
        self.out.push_str(rest);
        self.out.push('"');
        Ok(())
    }

    fn opaque(&mut self, column_type: u8, bytes: &[u8]) -> Result<(), Fault> {
        self.read(bytes.len())?;
        let packed = || Cursor::new(bytes).i64();
        match column_type {
            opaque::NEWDECIMAL => {
                let &[precision, scale, ref digits @ ..] = bytes else {
                    return Err(Fault::TRUNCATED);
                };
                if !decimal::valid(precision, scale) || digits.len() != decimal::storage_len(precision, scale) {
                    return Err(Fault("a JSON decimal of impossible size"));
                }
                print(&mut self.out, Decimal::decode(digits, precision, scale)?)
            }
            opaque::DATE => {
                let date = DateTime::from_json(packed()?)?.date;
                written(write!(self.out, "\"{date}\""))
            }
            opaque::DATETIME | opaque::TIMESTAMP => {
                let datetime = DateTime::from_json(packed()?)?;
                written(write!(self.out, "\"{datetime}\""))
            }
            opaque::TIME => {
                let time = Time::from_json(packed()?)?;
                written(write!(self.out, "\"{time}\""))
            }
            _ => {
                written(write!(self.out, "\"base64:type{column_type}:"))?;
                let encoded = BASE64.encode(bytes);
                let mut rest = encoded.as_str();
                while rest.len() > BASE64_LINE {
                    let (line, after) = rest.split_at(BASE64_LINE);
                    self.out.push_str(line);
                    self.out.push_str("\\n");
                    rest = after;
                }
                self.out.push_str(rest);
                self.out.push('"');
                Ok(())
            }
        }
    }

    fn read(&mut self, len: usize) -> Result<(), Fault> {
        self.unread = self.unread.checked_sub(len).ok_or(Fault("JSON values that overlap"))?;
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Shape {
    large: bool,
    object: bool,
}

impl Shape {
    fn offset_len(self) -> usize {
        if self.large { 4 } else { 2 }
    }

    fn key_entry_len(self) -> usize {
        self.offset_len() + 2
    }

    fn entry_len(self) -> usize {
        1 + self.offset_len() + if self.object { self.key_entry_len() } else { 0 }
    }

    /// Whether a value is stored in its entry instead of at an offset.
    fn inlines(self, tag: u8) -> bool {
        match tag {
            tag::LITERAL | tag::INT16 | tag::UINT16 => true,
            tag::INT32 | tag::UINT32 => self.large,
            _ => false,
        }
    }
}

/// A length in groups of 7 bits, lowest first; the highest bit of a byte marks that another follows.
fn variable_len(bytes: &mut Cursor<'_>) -> Result<usize, Fault> {
    let mut len = 0_u64;
    for shift in (0..5).map(|group| 7 * group) {
        let byte = bytes.u8()?;
        len |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return usize::try_from(len).map_err(|_| Fault::TRUNCATED);
        }
    }
    Err(Fault("a JSON length that is too long"))
}

fn print(out: &mut String, value: impl fmt::Display) -> Result<(), Fault> {
    written(write!(out, "{value}"))
}

fn written(result: fmt::Result) -> Result<(), Fault> {
    result.map_err(|_| Fault("a JSON value that can't be printed"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prints() {
        let cases: [(&[u8], &str); 14] = [
            (&[], "null"),
            (&[4, 0], "null"),
            (&[4, 1], "true"),
            (&[4, 2], "false"),
            (&[5, 0xff, 0xff], "-1"),
            (&[6, 0xff, 0xff], "65535"),
            (&[9, 0, 0, 0, 0, 0, 0, 0, 0x80], "-9223372036854775808"),
            (&[10, 255, 255, 255, 255, 255, 255, 255, 255], "18446744073709551615"),
            (&[11, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f], "1.0"),
            (&[12, 5, b'"', b'\\', b'\n', 1, 0x7f], "\"\\\"\\\\\\n\\u0001\u{7f}\""),
            (&[15, 246, 4, 3, 2, 0x81, 0x32], "1.50"),
            (&[15, 252, 2, 0xab, 0xcd], "\"base64:type252:q80=\""),
            // {"a": 1, "b": [null]}
            (
                &[0, 2, 0, 27, 0, 18, 0, 1, 0, 19, 0, 1, 0, 5, 1, 0, 2, 20, 0, b'a', b'b', 1, 0, 7, 0, 4, 0, 0],
                "{\"a\": 1, \"b\": [null]}",
            ),
            (&[2, 0, 0, 4, 0], "[]"),
        ];
        for (bytes, want) in cases {
            assert_eq!(to_text(bytes).as_deref(), Ok(want), "{bytes:?}");
        }
    }

    #[test]
    fn long_base64_has_escaped_line_ends() {
        let document = [&[15, 252, 58][..], &[0; 58]].concat();
        let want = format!("\"base64:type252:{}\\nAA==\"", "A".repeat(76));
        assert_eq!(to_text(&document), Ok(want));
    }

    #[test]
    fn every_truncation_is_a_fault() {
        let document = [0, 2, 0, 27, 0, 18, 0, 1, 0, 19, 0, 1, 0, 5, 1, 0, 2, 20, 0, b'a', b'b', 1, 0, 7, 0, 4, 0, 0];
        assert!(to_text(&document).is_ok());
        for len in 1..document.len() {
            assert!(to_text(&document[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn an_array_that_holds_itself_ends() {
        assert!(to_text(&[2, 1, 0, 7, 0, 2, 0, 0]).is_err());
    }

    #[test]
    fn many_entries_at_one_string_end() {
        let mut document = vec![2, 200, 0, 0xff, 0xff];
        for _ in 0..200 {
            document.extend([12, 0x5c, 0x02]);
        }
        document.extend([0x80, 0x40]);
        document.resize(65_536, b'x');
        assert_eq!(to_text(&document), Err(Fault("JSON values that overlap")));
    }

    proptest! {
        #[test]
        fn never_panics(document in proptest::collection::vec(0..=20_u8, 0..200)) {
            let _text = to_text(&document);
        }
    }
}
