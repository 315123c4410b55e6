//! A fixed set of a thousand rows of `product` like a shop's: names in several scripts and with quotes, categories with
//! and without a discount, a NULL in one row of ten; and the binlog events that MySQL writes for them.

use std::sync::Arc;

use anyhow::Result;
use cdc_producer::dump::Event;
use cdc_producer::plan::Encoder;
use model::time::Micros;
use mysql::column::ColumnType;
use mysql::table::{ColumnPlan, Contract, SourceTable};
use mysql_async::binlog::EventType;
use runtime::config::PINNED_SCHEMA;
use testbed::{Price, Product};

/// The number of rows.
pub const ROWS: usize = 1_000;

/// MySQL closes an event at 8 KiB (`binlog_row_event_max_size`), which is about this number of rows.
const ROWS_IN_EVENT: usize = 50;

/// The commit time of all rows: 2026-11-21T04:00:00.123456Z.
pub const COMMITTED_AT: Micros = Micros(1_795_233_600_123_456);

const NAMES: [&str; 16] = [
    "Espresso cup",
    "Teapot, 1.2 l",
    "Serving plate \"Lagoon\"",
    "Desk lamp",
    "Poster, \"Alles wird gut\", 50 × 70 cm",
    "抹茶茶碗",
    "Самовар",
    "قهوة عربية",
    "Straßenkarte",
    "blue folding chair 4711",
    "Children's book: \"Où est le chat ?\"",
    "wooden Schrank, 2 doors, oak veneer, self-assembly 2231",
    "café set 12",
    "USB-C cable 2 m",
    "Notebook A5 🐈",
    "Kitchen timer",
];

const CATEGORIES: [&str; 8] = ["CAT_1", "cat_2", "CAT_5", "cat_5", "CAT_12", "CAT_3", "cat_17", "Bücher"];

/// The rows as products and as events.
pub struct Rows {
    /// The rows.
    pub products: Vec<Product<'static>>,
    /// The table map.
    pub table_map: Event,
    /// The rows events in the order of the products; half of them insert, half update.
    pub events: Vec<Event>,
    /// The products as records: key and value.
    pub records: Vec<(Vec<u8>, Vec<u8>)>,
    /// Converts the table's rows.
    pub encoder: Encoder,
}

impl Rows {
    /// Creates them.
    ///
    /// # Errors
    /// When an event is not valid.
    pub fn make() -> Result<Self> {
        let products: Vec<_> = (0..ROWS).map(product).collect();
        let mut events = Vec::new();
        for (number, chunk) in products.chunks(ROWS_IN_EVENT).enumerate() {
            let update = number % 2 == 1;
            // Table number, flags (the statement ends), no extra data, columns, and one bit for each in each image.
            let mut body = [&TABLE_ID[..], &[1, 0, 2, 0, 5, ALL_COLUMNS]].concat();
            body.extend(update.then_some(ALL_COLUMNS));
            for product in chunk {
                if update {
                    let dearer = product.price.and_then(|p| Price::from_hundredths(p.hundredths() + 250));
                    image(&Product { price: dearer, ..*product }, &mut body);
                }
                image(product, &mut body);
            }
            let kind = if update { EventType::UPDATE_ROWS_EVENT } else { EventType::WRITE_ROWS_EVENT };
            events.push(event(kind, &body)?);
        }
        let record = |product: &Product<'_>| {
            let mut value = Vec::new();
            product.encode(SCHEMA_ID, &mut value);
            (product.id.to_string().into_bytes(), value)
        };
        let (records, table_map) =
            (products.iter().map(record).collect(), event(EventType::TABLE_MAP_EVENT, &table_map())?);
        Ok(Self { products, table_map, events, records, encoder: Encoder::new(table()?, SCHEMA_ID) })
    }
}

fn product(n: usize) -> Product<'static> {
    // One in ten rows has a NULL in one of the four nullable columns.
    let there = |column: usize| n % 40 != column * 10;
    let spread = n as i64 * 7_919;
    Product {
        id: 1_000_000 + n as i64 * 37,
        name: there(0).then(|| NAMES[n % NAMES.len()]),
        category: there(1).then(|| CATEGORIES[n / 3 % CATEGORIES.len()]),
        price: Price::from_hundredths(spread * spread % 2_000_000).filter(|_| there(2)),
        last_updated: there(3).then_some(Micros(COMMITTED_AT.0 - spread * 86_413_007)),
    }
}

/// The schema id of all values.
pub const SCHEMA_ID: u32 = 1;

const TABLE_ID: [u8; 6] = [108, 1, 0, 0, 0, 0];
const ALL_COLUMNS: u8 = 0b1_1111;

const NAMES_OF_COLUMNS: [&str; 5] = ["id", "name", "category", "price", "last_updated"];

fn table() -> Result<SourceTable> {
    let kinds = [
        ColumnType::Int { bytes: 4, unsigned: false },
        ColumnType::Text,
        ColumnType::Text,
        ColumnType::Decimal { precision: 10, scale: 2 },
        ColumnType::Timestamp { fsp: 6 },
    ];
    let columns = NAMES_OF_COLUMNS.iter().zip(kinds).enumerate().map(|(place, (name, kind))| ColumnPlan {
        name: (*name).to_owned(),
        place,
        kind,
        full_type: String::new(),
        extra: String::new(),
    });
    let contract = Contract::new(PINNED_SCHEMA, false)?;
    Ok(SourceTable {
        database: "shop".to_owned(),
        table: "product".to_owned(),
        schema: Arc::clone(&contract.schema),
        schema_text: Arc::clone(&contract.text),
        contract,
        is_derived: false,
        columns: columns.collect(),
        longest_value: 1_000_000,
    })
}

/// `id INT PRIMARY KEY, name VARCHAR(300), category VARCHAR(500), price DECIMAL(10,2), last_updated TIMESTAMP(6)` in
/// utf8mb4, with `binlog_row_metadata=FULL`.
fn table_map() -> Vec<u8> {
    let mut body = [&TABLE_ID[..], &[1, 0]].concat();
    body.extend(b"\x04shop\0\x07product\0");
    body.extend([5, 3, 15, 15, 246, 17]);
    body.extend([&[7][..], &1200_u16.to_le_bytes(), &2000_u16.to_le_bytes(), &[10, 2, 6]].concat());
    body.push(0b1_1110);
    let names: Vec<u8> =
        NAMES_OF_COLUMNS.iter().flat_map(|name| [&[name.len() as u8], name.as_bytes()].concat()).collect();
    // Nothing is unsigned; collation 255 everywhere; names; the key is the first column.
    for (field, value) in [(1, &[0][..]), (2, &[252, 255, 0]), (4, &names), (8, &[0])] {
        body.extend([field, value.len() as u8]);
        body.extend(value);
    }
    body
}

/// A row in the binlog's format: one bit for each NULL, then the other values.
fn image(product: &Product<'_>, out: &mut Vec<u8>) {
    let Product { id, name, category, price, last_updated } = *product;
    let nulls = [false, name.is_none(), category.is_none(), price.is_none(), last_updated.is_none()];
    out.push(nulls.iter().rev().fold(0, |bits, null| bits << 1 | u8::from(*null)));
    out.extend((id as i32).to_le_bytes());
    for text in [name, category].into_iter().flatten() {
        out.extend((text.len() as u16).to_le_bytes());
        out.extend(text.as_bytes());
    }
    if let Some(price) = price {
        // No price is negative; the highest bit of a non-negative number is set.
        let (whole, cents) = (price.hundredths() / 100, price.hundredths() % 100);
        out.extend((whole as u32 | 1 << 31).to_be_bytes());
        out.push(cents as u8);
    }
    if let Some(Micros(micros)) = last_updated {
        out.extend(((micros / 1_000_000) as u32).to_be_bytes());
        out.extend(&((micros % 1_000_000) as u32).to_be_bytes()[1..]);
    }
}

pub(super) fn event(kind: EventType, body: &[u8]) -> Result<Event> {
    const HEADER: usize = 19;
    let seconds = (COMMITTED_AT.0 / 1_000_000) as u32;
    let mut bytes = seconds.to_le_bytes().to_vec();
    bytes.push(kind as u8);
    // Server, size, position, flags.
    for number in [1, (HEADER + body.len()) as u32, 4] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend([0, 0]);
    bytes.extend(body);
    Ok(Event::parse(bytes.into())?)
}
