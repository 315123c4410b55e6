//! The captured tables of the load: the product table, and tables with a composite text key.
//!
//! All columns of a row but its key follow from a token, so a reader of the row can tell which change made it and whether
//! every column is right. The description serves for the statements of the load and for the records that the judge wants.

use std::sync::Arc;

use model::time::Micros;

use super::token::{Draws, Token};

/// Partitions of the product table's topic.
const PRODUCT_PARTITIONS: i32 = 10;
/// Partitions of each other topic.
pub(crate) const LINE_PARTITIONS: i32 = 3;
/// The pattern that takes every table beside the product table: those that exist, and those that faults create.
pub(crate) const LINES: &str = "line_*";

const NAMES: [&str; 6] =
    ["", " mug", " großer Schrank 'nº 1'", " 日本語 🚀", " \"quoted\", back\\slash", " tab\tand line\nbreak"];
const CATEGORIES: [Option<&str>; 7] =
    [None, Some("CAT_5"), Some("CAT_1"), Some(""), Some("straße"), Some("ǆ ﬁ ß"), Some("cat_5")];
/// The second part of a line's key: different texts only to a binary collation.
const SKUS: [&str; 4] = ["mug", "Mug", "mug ", "müg \"\\ 🚀"];
/// As the server normalises them.
const DETAILS: [Option<&str>; 4] =
    [None, Some("[]"), Some(r#"{"a": [1, 2.5, null], "b": "é \"\\ 🚀"}"#), Some(r#"{"gift": true}"#)];

/// What a table's rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// The product table with its pinned schema.
    Product,
    /// Lines of orders, with a key of two texts in different collations.
    Lines,
}

/// A captured table.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) name: String,
    /// Partitions of its topic.
    pub(crate) partitions: i32,
    /// The columns that faults have added.
    pub(crate) extras: u8,
    shape: Shape,
}

/// A column's value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    Null,
    Int(i64),
    Text(String),
    Bytes(Vec<u8>),
    Decimal { unscaled: i128, scale: u32 },
    Time(Micros),
}

/// The tables of a round, the product table first.
pub(crate) type Tables = Vec<Arc<Table>>;

/// The tables with which a round begins.
pub(crate) fn at_first() -> Tables {
    let product =
        Table { name: "product".to_owned(), partitions: PRODUCT_PARTITIONS, extras: 0, shape: Shape::Product };
    vec![Arc::new(product), Arc::new(Table::lines("line_item"))]
}

impl Table {
    /// A table of lines.
    pub(crate) fn lines(name: &str) -> Self {
        Self { name: name.to_owned(), partitions: LINE_PARTITIONS, extras: 0, shape: Shape::Lines }
    }

    /// The statement that creates a table of lines; the test bed creates the product table.
    pub(crate) fn create(&self) -> Option<String> {
        (self.shape == Shape::Lines).then(|| {
            format!(
                "CREATE TABLE {} (order_no VARCHAR(40) COLLATE utf8mb4_0900_ai_ci, sku VARCHAR(40) COLLATE \
                 utf8mb4_0900_bin, note VARCHAR(300), quantity DECIMAL(30,3), shipped DATETIME(6), details JSON, \
                 seal VARBINARY(40), PRIMARY KEY (order_no, sku))",
                self.name
            )
        })
    }

    /// The statement that adds the next column.
    pub(crate) fn add_column(&self) -> String {
        let kind = ["VARCHAR(30)", "INT", "DECIMAL(12,2)"][usize::from(self.extras) % 3];
        format!("ALTER TABLE {} ADD COLUMN {} {kind}", self.name, extra(self.extras))
    }

    /// With one column more.
    pub(crate) fn with_column(&self) -> Self {
        Self { extras: self.extras + 1, ..self.clone() }
    }

    /// The columns of the key.
    pub(crate) fn key_columns(&self) -> &'static [&'static str] {
        match self.shape {
            Shape::Product => &["id"],
            Shape::Lines => &["order_no", "sku"],
        }
    }

    /// The other columns.
    pub(crate) fn columns(&self) -> Vec<String> {
        let own: &[&str] = match self.shape {
            Shape::Product => &["name", "category", "price", "last_updated"],
            Shape::Lines => &["note", "quantity", "shipped", "details", "seal"],
        };
        own.iter().map(|name| (*name).to_owned()).chain((0..self.extras).map(extra)).collect()
    }

    /// The key of the row with this id.
    pub(crate) fn key(&self, id: i64) -> Vec<Cell> {
        match self.shape {
            Shape::Product => vec![Cell::Int(id)],
            Shape::Lines => {
                let (order, sku) = (id / SKUS.len() as i64, SKUS[id as usize % SKUS.len()]);
                // One order is `Nº 7` and another `nº 70`: the server's order of them is not that of their bytes.
                let letter = if order % 3 == 0 { 'n' } else { 'N' };
                vec![Cell::Text(format!("{letter}º {order}")), Cell::Text(sku.to_owned())]
            }
        }
    }

    /// The key as the records of the topic have it.
    pub(crate) fn key_text(&self, id: i64) -> String {
        match self.key(id).as_slice() {
            [Cell::Int(id)] => id.to_string(),
            cells => {
                let texts = cells.iter().filter_map(|cell| if let Cell::Text(text) = cell { Some(text) } else { None });
                serde_json::Value::from_iter(texts.map(String::as_str)).to_string()
            }
        }
    }

    /// The partition of the row with this id.
    pub(crate) fn partition(&self, id: i64) -> i32 {
        kafka::partition_of(self.key_text(id).as_bytes(), self.partitions)
    }

    /// Whether a record's key may be that of a row which faults write: a product's id below zero, or no id.
    pub(crate) fn is_of_faults(&self, key: &[u8]) -> bool {
        let id = std::str::from_utf8(key).ok().and_then(|key| key.parse::<i64>().ok());
        self.shape == Shape::Product && id.is_none_or(|id| id < 0)
    }

    /// The columns beside the key that this change leaves, with as many added columns.
    pub(crate) fn cells(&self, token: Token, extras: u8) -> Vec<Cell> {
        let mut draw = token.draws();
        let text = |text: &str| Cell::Text(text.to_owned());
        let name = format!("{}{}", token.text(), NAMES[draw.below(NAMES.len() as u64) as usize]);
        let mut cells = vec![Cell::Text(name)];
        match self.shape {
            Shape::Product => {
                cells.push(CATEGORIES[draw.below(CATEGORIES.len() as u64) as usize].map_or(Cell::Null, text));
                let price = |unscaled| Cell::Decimal { unscaled, scale: 2 };
                cells.push(match draw.below(8) {
                    0 => Cell::Null,
                    1 => price(9_999_999_999),
                    2 => price(-i128::from(draw.below(100_000))),
                    _ => price(i128::from(draw.below(1_000_000))),
                });
                cells.push(time(&mut draw));
            }
            Shape::Lines => {
                let quantity = |unscaled| Cell::Decimal { unscaled, scale: 3 };
                cells.push(match draw.below(8) {
                    0 => Cell::Null,
                    1 => quantity(10_i128.pow(30) - 1),
                    2 => quantity(-(i128::from(draw.below(u64::MAX)) << 20)),
                    _ => quantity(i128::from(draw.below(1_000_000))),
                });
                cells.push(time(&mut draw));
                cells.push(DETAILS[draw.below(DETAILS.len() as u64) as usize].map_or(Cell::Null, text));
                let seal = |length| (0..length).map(|n| (n * 37 + length) as u8).collect();
                cells.push(if draw.below(8) == 0 { Cell::Null } else { Cell::Bytes(seal(draw.below(40))) });
            }
        }
        for number in 0..extras {
            let value = draw.below(1_000_000);
            cells.push(match number % 3 {
                _ if value.is_multiple_of(5) => Cell::Null,
                0 => Cell::Text(format!("é {value}")),
                1 => Cell::Int(value as i64 - 500_000),
                _ => Cell::Decimal { unscaled: i128::from(value), scale: 2 },
            });
        }
        cells
    }

    /// The Avro value of a row without its prefix; `extras` is the number of added columns that the change wrote.
    pub(crate) fn avro(&self, id: i64, token: Token, extras: u8) -> Vec<u8> {
        let mut out = Vec::new();
        self.key(id).iter().for_each(|cell| cell.write(&mut out));
        for cell in self.cells(token, extras) {
            // The branch of the union with null.
            out.push(if cell == Cell::Null { 0 } else { 2 });
            cell.write(&mut out);
        }
        out
    }

    /// Whether a record's value, without its prefix, is the row that this change left. Columns that were added after the
    /// change are NULL, or the record's schema does not have them.
    pub(crate) fn is(&self, value: &[u8], id: i64, token: Token, extras: u8) -> bool {
        let later = usize::from(self.extras - extras);
        let rest = value.strip_prefix(self.avro(id, token, extras).as_slice());
        rest.is_some_and(|rest| rest.len() <= later && rest.iter().all(|byte| *byte == 0))
    }
}

/// A time, or none.
fn time(draw: &mut Draws) -> Cell {
    if draw.below(8) == 0 {
        return Cell::Null;
    }
    Cell::Time(Micros(1_600_000_000_000_000 + draw.below(400_000_000_000_000) as i64))
}

/// The first token in an Avro value.
pub(crate) fn token_of(value: &[u8]) -> Option<Token> {
    // A length may have the byte of the first character too.
    let begins = value.iter().enumerate().filter(|(_, byte)| **byte == b'<').map(|(begin, _)| begin);
    begins.into_iter().find_map(|begin| {
        let end = begin + value[begin..].iter().position(|byte| *byte == b'>')?;
        Token::of_name(std::str::from_utf8(&value[begin..=end]).ok()?)
    })
}

/// The name of the added column with this number, from 0.
fn extra(number: u8) -> String {
    format!("extra_{}", number + 1)
}

impl Cell {
    /// As an SQL literal.
    pub(crate) fn literal(&self) -> String {
        let text = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"));
        match self {
            Self::Null => "NULL".to_owned(),
            Self::Int(number) => number.to_string(),
            Self::Text(content) => text(content),
            Self::Bytes(bytes) => format!("x'{}'", bytes.iter().map(|b| format!("{b:02x}")).collect::<String>()),
            Self::Decimal { unscaled, scale } => {
                let (sign, digits) = (if *unscaled < 0 { "-" } else { "" }, unscaled.unsigned_abs());
                let one = 10_u128.pow(*scale);
                format!("{sign}{}.{:0width$}", digits / one, digits % one, width = *scale as usize)
            }
            Self::Time(time) => text(time.to_string().replace('T', " ").trim_end_matches('Z')),
        }
    }

    /// As an Avro value; NULL has no bytes.
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => {}
            Self::Int(number) => avro::encode::long(*number, out),
            Self::Text(text) => avro::encode::bytes(text.as_bytes(), out),
            Self::Bytes(bytes) => avro::encode::bytes(bytes, out),
            Self::Decimal { unscaled, .. } => {
                let bytes = unscaled.to_be_bytes();
                let sign = if *unscaled < 0 { 0xff } else { 0 };
                let repeats = |pair: &[u8]| pair[0] == sign && (pair[1] ^ sign) & 0x80 == 0;
                let shortest = &bytes[bytes.windows(2).take_while(|pair| repeats(pair)).count()..];
                avro::encode::bytes(shortest, out);
            }
            Self::Time(time) => avro::encode::long(time.0, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_row_is_known_by_its_token_and_every_column_counts() {
        for table in at_first() {
            let keys: HashSet<String> = (0..2_000).map(|id| table.key_text(id)).collect();
            assert_eq!(keys.len(), 2_000, "{}", table.name);
            let wide = table.with_column().with_column();
            for transaction in 0..200 {
                let (id, token) = (i64::from(transaction), Token::new(2, transaction, 7));
                let value = table.avro(id, token, 0);
                assert_eq!(token_of(&value), Some(token));
                assert!(table.is(&value, id, token, 0) && !table.is(&value, id + 1, token, 0));
                // Two columns more: not in the record's schema, or NULL, or what the change wrote.
                for more in [&[][..], &[0], &[0, 0]] {
                    assert!(wide.is(&[value.as_slice(), more].concat(), id, token, 0));
                }
                assert!(!table.is(&[value.as_slice(), &[0]].concat(), id, token, 0));
                assert!(!wide.is(&[value.as_slice(), &[2, 4, b'x', b'y']].concat(), id, token, 0));
                let written = wide.avro(id, token, 2);
                assert!(wide.is(&written, id, token, 2));
                assert!(!wide.is(&value, id, token, 2), "the added columns are missing");
                for place in 0..value.len() {
                    let mut other = value.clone();
                    other[place] ^= 1;
                    assert!(!table.is(&other, id, token, 0), "{} {token:?} {place}", table.name);
                }
            }
        }
    }

    #[test]
    fn keys_and_literals_are_as_the_server_takes_them() {
        let tables = at_first();
        assert_eq!(tables[0].key_text(17), "17");
        assert_eq!(tables[1].key_text(7), r#"["Nº 1","müg \"\\ 🚀"]"#);
        let decimal = |unscaled, scale| Cell::Decimal { unscaled, scale }.literal();
        assert_eq!([decimal(-5, 3), decimal(1234, 2)], ["-0.005", "12.34"]);
        assert_eq!(Cell::Bytes(vec![0, 255]).literal(), "x'00ff'");
        assert!(tables[0].is_of_faults(b"-1") && !tables[0].is_of_faults(b"1") && !tables[1].is_of_faults(b"-1"));
    }
}
