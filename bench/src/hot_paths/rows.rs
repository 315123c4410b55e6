//! A fixed set of a thousand rows of `product` like a shop's: names in several scripts and with quotes, categories with
//! and without a discount, a NULL in one row of ten; and the binlog events that MySQL writes for them.

use anyhow::Result;
use cdc_producer::dump::Event;
use cdc_producer::plan::Encoder;
use model::time::Micros;
use mysql::column::ColumnType;
use runtime::config::PINNED_SCHEMA;
use testbed::{Price, Product};

pub use super::binlog_table::COMMITTED_AT;
use super::binlog_table::{Column, Table};

/// The number of rows.
pub const ROWS: usize = 1_000;

/// MySQL closes an event at 8 KiB (`binlog_row_event_max_size`), which is about this number of rows.
const ROWS_IN_EVENT: usize = 50;

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
        let table = table();
        let events = table.events(&products, ROWS_IN_EVENT, |product, is_before, out| {
            let dearer = product.price.and_then(|p| Price::from_hundredths(p.hundredths() + 250));
            image(&Product { price: if is_before { dearer } else { product.price }, ..*product }, out);
        })?;
        let record = |product: &Product<'_>| {
            let mut value = Vec::new();
            product.encode(SCHEMA_ID, &mut value);
            (product.id.to_string().into_bytes(), value)
        };
        let (records, table_map) = (products.iter().map(record).collect(), table.map()?);
        let encoder = Encoder::new(table.source(PINNED_SCHEMA, false)?, SCHEMA_ID);
        Ok(Self { products, table_map, events, records, encoder })
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

/// `id INT PRIMARY KEY, name VARCHAR(300), category VARCHAR(500), price DECIMAL(10,2), last_updated TIMESTAMP(6)`.
fn table() -> Table {
    let column = |name: &str, kind, number, metadata: &[u8]| Column {
        name: name.to_owned(),
        kind,
        number,
        metadata: metadata.to_vec(),
    };
    let columns = vec![
        column("id", ColumnType::Int { bytes: 4, unsigned: false }, 3, &[]),
        column("name", ColumnType::Text, 15, &1200_u16.to_le_bytes()),
        column("category", ColumnType::Text, 15, &2000_u16.to_le_bytes()),
        column("price", ColumnType::Decimal { precision: 10, scale: 2 }, 246, &[10, 2]),
        column("last_updated", ColumnType::Timestamp { fsp: 6 }, 17, &[6]),
    ];
    Table { name: "product", id: 108, columns }
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
