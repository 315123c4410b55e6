//! A fixed set of a thousand rows of a table with 50 columns of ten types, and the binlog events that MySQL writes for
//! them: half insert, half update. Every tenth nullable value is NULL.

use anyhow::Result;
use cdc_producer::dump::Event;
use cdc_producer::plan::Encoder;
use mysql::column::ColumnType;
use mysql::table::{ColumnPlan, Contract, SourceTable};
use mysql_async::binlog::EventType;

use super::rows::{ROWS, SCHEMA_ID, event};

/// The number of columns; the first one is the key.
const COLUMNS: usize = 50;
/// MySQL closes an event at 8 KiB, which is about this number of rows.
const ROWS_IN_EVENT: usize = 10;
const TABLE_ID: [u8; 6] = [109, 1, 0, 0, 0, 0];

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
        let all = [0xff; COLUMNS.div_ceil(8)];
        let mut events = Vec::new();
        for (number, chunk) in (0..ROWS).collect::<Vec<_>>().chunks(ROWS_IN_EVENT).enumerate() {
            let update = number % 2 == 1;
            let mut body = [&TABLE_ID[..], &[1, 0, 2, 0, COLUMNS as u8], &all].concat();
            body.extend(update.then_some(all).into_iter().flatten());
            for row in chunk {
                if update {
                    image(&kinds, *row, 1, &mut body);
                }
                image(&kinds, *row, 0, &mut body);
            }
            let kind = if update { EventType::UPDATE_ROWS_EVENT } else { EventType::WRITE_ROWS_EVENT };
            events.push(event(kind, &body)?);
        }
        let (schema, table_map) = (schema(&kinds), event(EventType::TABLE_MAP_EVENT, &table_map(&kinds))?);
        Ok(Self { table_map, events, encoder: Encoder::new(table(&kinds, &schema)?, SCHEMA_ID), schema })
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

fn table(kinds: &[Kind], schema: &str) -> Result<SourceTable> {
    let contract = Contract::new(schema, false)?;
    let column = |place: usize| ColumnPlan {
        name: format!("column_{place}"),
        place,
        kind: kinds[place % kinds.len()].kind.clone(),
        full_type: String::new(),
        extra: String::new(),
    };
    Ok(SourceTable {
        database: "shop".to_owned(),
        table: "wide".to_owned(),
        schema: contract.schema.clone(),
        schema_text: contract.text.clone(),
        contract,
        is_derived: true,
        columns: (0..COLUMNS).map(column).collect(),
        longest_value: 1_000_000,
    })
}

/// In utf8mb4, with `binlog_row_metadata=FULL`.
fn table_map(kinds: &[Kind]) -> Vec<u8> {
    let of_columns = || (0..COLUMNS).map(|column| &kinds[column % kinds.len()]);
    let mut body = [&TABLE_ID[..], &[1, 0]].concat();
    body.extend(b"\x04shop\0\x04wide\0");
    body.push(COLUMNS as u8);
    body.extend(of_columns().map(|kind| kind.number));
    let metadata: Vec<u8> = of_columns().flat_map(|kind| kind.metadata).copied().collect();
    body.push(metadata.len() as u8);
    body.extend(metadata);
    // All but the key may be NULL.
    let mut nullable = [0xff; COLUMNS.div_ceil(8)];
    nullable[0] = 0xfe;
    body.extend(nullable);
    let mut names = Vec::new();
    for column in 0..COLUMNS {
        let name = format!("column_{column}");
        names.push(name.len() as u8);
        names.extend(name.as_bytes());
    }
    let numeric = of_columns().filter(|kind| [2, 3, 5, 8, 246].contains(&kind.number)).count();
    let signed = vec![0; numeric.div_ceil(8)];
    for (field, value) in [(1, &signed[..]), (2, &[252, 255, 0]), (4, &names), (8, &[0])] {
        body.push(field);
        // A length of up to 250 is one byte, a longer one has two bytes behind 252.
        match value.len() {
            length @ 0..=250 => body.push(length as u8),
            length => body.extend([252, length as u8, (length >> 8) as u8]),
        }
        body.extend(value);
    }
    body
}
