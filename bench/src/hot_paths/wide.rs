//! A fixed set of a thousand rows of a table with 50 columns of ten types, and the binlog events that MySQL writes for
//! them: half insert, half update. Every tenth nullable value is NULL.

use anyhow::Result;
use cdc_producer::dump::Event;
use cdc_producer::plan::Encoder;
use mysql::column::ColumnType;

use super::binlog_table::{Column, Table};
use super::rows::{ROWS, SCHEMA_ID};

/// The number of columns; the first one is the key.
const COLUMNS: usize = 50;
/// MySQL closes an event at 8 KiB, which is about this number of rows.
const ROWS_IN_EVENT: usize = 10;

/// A type of columns.
struct Kind {
    kind: ColumnType,
    /// Its number in a table map, and its metadata.
    number: u8,
    metadata: &'static [u8],
    avro: &'static str,
    /// Appends the value of this row and column as the binlog has it.
    write: fn(usize, &mut Vec<u8>),
}

/// `(column, row)` as one number, spread over the values.
fn kinds() -> [Kind; 10] {
    [
        Kind {
            kind: ColumnType::Int { bytes: 8, unsigned: false },
            number: 8,
            metadata: &[],
            avro: r#""long""#,
            write: |n, out| out.extend((n as i64 * 7_919_000_003).to_le_bytes()),
        },
        Kind {
            kind: ColumnType::Int { bytes: 4, unsigned: false },
            number: 3,
            metadata: &[],
            avro: r#""int""#,
            write: |n, out| out.extend((n as i32 - 500).to_le_bytes()),
        },
        Kind {
            kind: ColumnType::Text,
            number: 15,
            metadata: &[200, 0],
            avro: r#""string""#,
            write: |n, out| text(1, n, out),
        },
        Kind {
            kind: ColumnType::Decimal { precision: 12, scale: 4 },
            number: 246,
            metadata: &[12, 4],
            avro: r#"{"type":"bytes","logicalType":"decimal","precision":12,"scale":4}"#,
            // Eight digits in four bytes, four in two; the highest bit of a non-negative number is set.
            write: |n, out| {
                out.extend(((n as u32 * 911 % 100_000_000) | (1 << 31)).to_be_bytes());
                out.extend((n as u16 % 10_000).to_be_bytes());
            },
        },
        Kind {
            kind: ColumnType::DateTime { fsp: 6 },
            number: 18,
            metadata: &[6],
            avro: r#"{"type":"long","logicalType":"local-timestamp-micros"}"#,
            // Year and month, day, hour, minute and second in five bytes, microseconds in three.
            write: |n, out| {
                let (date, time) =
                    ((2026 * 13 + 1 + n % 12) << 5 | (1 + n % 28), (n % 24) << 12 | (n % 60) << 6 | (n % 60));
                out.extend(&((date << 17 | time) as u64 | 1 << 39).to_be_bytes()[3..]);
                out.extend(&(n as u32 * 977 % 1_000_000).to_be_bytes()[1..]);
            },
        },
        Kind {
            kind: ColumnType::Date,
            number: 10,
            metadata: &[],
            avro: r#"{"type":"int","logicalType":"date"}"#,
            write: |n, out| out.extend(&((2026 << 9 | (1 + n % 12) << 5 | (1 + n % 28)) as u32).to_le_bytes()[..3]),
        },
        Kind {
            kind: ColumnType::Double,
            number: 5,
            metadata: &[8],
            avro: r#""double""#,
            write: |n, out| out.extend((n as f64 * 1.618).to_le_bytes()),
        },
        Kind {
            kind: ColumnType::Text,
            number: 252,
            metadata: &[2],
            avro: r#""string""#,
            write: |n, out| text(2, n + 3, out),
        },
        Kind {
            kind: ColumnType::Timestamp { fsp: 3 },
            number: 17,
            metadata: &[3],
            avro: r#"{"type":"long","logicalType":"timestamp-micros"}"#,
            write: |n, out| {
                out.extend((1_790_000_000 + n as u32).to_be_bytes());
                out.extend((n as u16 % 1_000 * 10).to_be_bytes());
            },
        },
        Kind {
            kind: ColumnType::Int { bytes: 2, unsigned: false },
            number: 2,
            metadata: &[],
            avro: r#""int""#,
            write: |n, out| out.extend((n as i16).to_le_bytes()),
        },
    ]
}

const TEXTS: [&str; 5] =
    ["Straßenkarte", "Teapot, 1.2 l", "抹茶茶碗", "a \"quoted\" word", "plain text of some length"];

fn text(bytes_of_length: usize, n: usize, out: &mut Vec<u8>) {
    let text = TEXTS[n % TEXTS.len()];
    out.extend(&text.len().to_le_bytes()[..bytes_of_length]);
    out.extend(text.as_bytes());
}

/// The rows as events.
pub struct Rows {
    /// The table map.
    pub table_map: Event,
    /// The rows events.
    pub events: Vec<Event>,
    /// Converts the table's rows.
    pub encoder: Encoder,
    /// The schema of their values.
    pub schema: String,
}

impl Rows {
    /// Creates them.
    ///
    /// # Errors
    /// When an event is not valid.
    pub fn make() -> Result<Self> {
        let kinds = kinds();
        let (table, schema) = (table(&kinds), schema(&kinds));
        let rows: Vec<usize> = (0..ROWS).collect();
        let events = table.events(&rows, ROWS_IN_EVENT, |row, is_before, out| {
            image(&kinds, *row, usize::from(is_before), out);
        })?;
        let encoder = Encoder::new(table.source(&schema, true)?, SCHEMA_ID);
        Ok(Self { table_map: table.map()?, events, encoder, schema })
    }
}

/// A row in the binlog's format; `change` is added to the values, except that of the key.
fn image(kinds: &[Kind], row: usize, change: usize, out: &mut Vec<u8>) {
    let is_null = |column: usize| column > 0 && (row + column).is_multiple_of(10);
    let mut nulls = [0; COLUMNS.div_ceil(8)];
    for column in (0..COLUMNS).filter(|column| is_null(*column)) {
        nulls[column / 8] |= 1 << (column % 8);
    }
    out.extend(nulls);
    for column in (0..COLUMNS).filter(|column| !is_null(*column)) {
        let seed = if column == 0 { row } else { row * 31 + column + change };
        (kinds[column % kinds.len()].write)(seed, out);
    }
}

fn schema(kinds: &[Kind]) -> String {
    let field = |column: usize| {
        let avro = kinds[column % kinds.len()].avro;
        let kind = if column == 0 { avro.to_owned() } else { format!(r#"["null",{avro}],"default":null"#) };
        format!(r#"{{"name":"column_{column}","type":{kind}}}"#)
    };
    let fields: Vec<String> = (0..COLUMNS).map(field).collect();
    format!(r#"{{"type":"record","name":"shop.wide","mysql.key":["column_0"],"fields":[{}]}}"#, fields.join(","))
}

fn table(kinds: &[Kind]) -> Table {
    let column = |number: usize| {
        let kind = &kinds[number % kinds.len()];
        Column {
            name: format!("column_{number}"),
            kind: kind.kind.clone(),
            number: kind.number,
            metadata: kind.metadata.to_vec(),
        }
    };
    Table { name: "wide", id: 109, columns: (0..COLUMNS).map(column).collect() }
}
