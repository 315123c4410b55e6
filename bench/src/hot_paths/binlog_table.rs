//! A made table, and the events of a binlog that describe it.

use anyhow::Result;
use cdc_producer::dump::Event;
use model::time::Micros;
use mysql::column::ColumnType;
use mysql::table::{ColumnPlan, Contract, SourceTable};
use mysql_async::binlog::EventType;

/// The commit time of all rows: 2026-11-21T04:00:00.123456Z.
pub const COMMITTED_AT: Micros = Micros(1_795_233_600_123_456);

/// A column.
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: ColumnType,
    /// The number of its type in a table map, and its metadata.
    pub(super) number: u8,
    pub(super) metadata: Vec<u8>,
}

/// A table of the database `shop` in utf8mb4. The key is its first column; the others may be NULL.
pub(super) struct Table {
    pub(super) name: &'static str,
    /// Its id in the binlog.
    pub(super) id: u8,
    pub(super) columns: Vec<Column>,
}

impl Table {
    /// The table as the producer knows it, with the schema of its values.
    pub(super) fn source(&self, schema: &str, is_derived: bool) -> Result<SourceTable> {
        let contract = Contract::new(schema, false)?;
        let column = |(place, column): (usize, &Column)| ColumnPlan {
            name: column.name.clone(),
            place,
            kind: column.kind.clone(),
            full_type: String::new(),
            extra: String::new(),
        };
        Ok(SourceTable {
            database: "shop".to_owned(),
            table: self.name.to_owned(),
            schema: contract.schema.clone(),
            schema_text: contract.text.clone(),
            contract,
            is_derived,
            columns: self.columns.iter().enumerate().map(column).collect(),
            longest_value: 1_000_000,
        })
    }

    /// Its table map, with `binlog_row_metadata=FULL`.
    pub(super) fn map(&self) -> Result<Event> {
        let mut body = [&self.id()[..], &[1, 0], b"\x04shop\0"].concat();
        text(self.name, &mut body);
        body.push(0);
        body.push(self.columns.len() as u8);
        body.extend(self.columns.iter().map(|column| column.number));
        let metadata: Vec<u8> = self.columns.iter().flat_map(|column| column.metadata.clone()).collect();
        body.push(metadata.len() as u8);
        body.extend(metadata);
        let mut nullable = self.all();
        nullable[0] &= !1;
        body.extend(nullable);
        let mut names = Vec::new();
        self.columns.iter().for_each(|column| text(&column.name, &mut names));
        // One bit for each number: none is unsigned. Collation 255 everywhere; names; the key is the first column.
        let numbers = self.columns.iter().filter(|column| [2, 3, 5, 8, 246].contains(&column.number)).count();
        let signed = vec![0; numbers.div_ceil(8)];
        for (field, value) in [(1, &signed[..]), (2, &[252, 255, 0]), (4, &names), (8, &[0])] {
            body.push(field);
            // A length of up to 250 is one byte, a longer one has two bytes behind 252.
            match value.len() {
                length @ 0..=250 => body.push(length as u8),
                length => body.extend([252, length as u8, (length >> 8) as u8]),
            }
            body.extend(value);
        }
        event(EventType::TABLE_MAP_EVENT, &body)
    }

    /// Events of so many rows each, inserts and updates in turn. `image` appends the state of a row that a change leaves
    /// or, if the flag is set, that an update finds.
    pub(super) fn events<R>(
        &self,
        rows: &[R],
        in_event: usize,
        image: impl Fn(&R, bool, &mut Vec<u8>),
    ) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        for (number, chunk) in rows.chunks(in_event).enumerate() {
            let is_update = number % 2 == 1;
            // The statement ends, no extra data, columns, and one bit for each of them in each image.
            let mut body = [&self.id()[..], &[1, 0, 2, 0, self.columns.len() as u8], &self.all()].concat();
            if is_update {
                body.extend(self.all());
            }
            for row in chunk {
                if is_update {
                    image(row, true, &mut body);
                }
                image(row, false, &mut body);
            }
            let kind = if is_update { EventType::UPDATE_ROWS_EVENT } else { EventType::WRITE_ROWS_EVENT };
            events.push(event(kind, &body)?);
        }
        Ok(events)
    }

    fn id(&self) -> [u8; 6] {
        [self.id, 1, 0, 0, 0, 0]
    }

    /// One bit for each column.
    fn all(&self) -> Vec<u8> {
        let bits = |byte: usize| (0..(self.columns.len() - byte * 8).min(8)).fold(0, |bits, bit| bits | 1 << bit);
        (0..self.columns.len().div_ceil(8)).map(bits).collect()
    }
}

/// A short text behind its length.
fn text(text: &str, out: &mut Vec<u8>) {
    out.push(text.len() as u8);
    out.extend(text.as_bytes());
}

fn event(kind: EventType, body: &[u8]) -> Result<Event> {
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
