//! Records that the reader passes to the publisher.

use model::change::{Op, Source};
use model::position::Progress;
use mysql::refused_row::{Letters, RefusedRow};

/// A batch is handed over when it has this many records or bytes, or when there is nothing more to read.
const FULL_ROWS: usize = 1_000;
const FULL_BYTES: usize = 256 * 1024;
/// Bytes of most headers.
const HEADER_BYTES: usize = 128;

/// Records in one buffer, which is reused, so nothing is allocated per record.
#[derive(Debug, Default)]
pub struct Batch {
    data: Vec<u8>,
    spans: Vec<Span>,
    /// Dead letters among the records.
    parked: usize,
    /// The progress after the last record; `None` when it ends within a transaction of the source.
    pub end: Option<Progress>,
}

/// Ends of the parts of a record; each part begins at the end of the previous one.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: usize,
    key: usize,
    value: usize,
    header: usize,
    kind: Kind,
    /// The number of the table.
    table: u16,
}

/// The kind of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    State,
    Tombstone,
    Parked,
}

/// One record of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The primary key as text.
    pub key: &'a [u8],
    /// Confluent's wire format; `None` for a delete.
    pub value: Option<&'a [u8]>,
    /// The header `source`; of a dead letter, `origin`.
    pub header: &'a [u8],
    /// Whether it is a dead letter.
    pub is_parked: bool,
    /// The number of the table.
    pub table: usize,
}

/// The change that a record carries.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// The row with this key has this value, in wire format.
    State(&'a [u8], &'a [u8]),
    /// The row with this key is deleted.
    Gone(&'a [u8]),
    /// The row's new state can't be carried: a dead letter.
    Refused(&'a Letters, &'a RefusedRow),
}

impl Batch {
    /// Number of records.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether it holds no record.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Number of dead letters among them.
    pub fn parked(&self) -> usize {
        self.parked
    }

    /// Bytes of all records.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// Whether it is large enough to hand over.
    pub fn is_full(&self) -> bool {
        self.len() >= FULL_ROWS || self.bytes() >= FULL_BYTES
    }

    /// Appends a record of the table with this number.
    pub fn push(&mut self, table: u16, change: Change<'_>, source: &Source<'_>) {
        let start = self.data.len();
        let (key, value) = match change {
            Change::State(key, value) => (key, value),
            Change::Gone(key) => (key, &[][..]),
            Change::Refused(letters, row) => return self.park(table, letters, row, source),
        };
        self.data.reserve(key.len() + value.len() + HEADER_BYTES);
        self.data.extend_from_slice(key);
        let key = self.data.len();
        self.data.extend_from_slice(value);
        let value = self.data.len();
        source.write(&mut self.data);
        let kind = if source.op == Op::Delete { Kind::Tombstone } else { Kind::State };
        self.spans.push(Span { start, key, value, header: self.data.len(), kind, table });
    }

    fn park(&mut self, table: u16, letters: &Letters, row: &RefusedRow, source: &Source<'_>) {
        let start = self.data.len();
        self.data.extend_from_slice(&row.key);
        let key = self.data.len();
        letters.write_value(row, &mut self.data);
        let value = self.data.len();
        letters.write_origin(row, source, &mut self.data);
        self.spans.push(Span { start, key, value, header: self.data.len(), kind: Kind::Parked, table });
        self.parked += 1;
    }

    fn count_parked(&mut self) {
        self.parked = self.spans.iter().filter(|span| span.kind == Kind::Parked).count();
    }

    /// Drops the records from number `len` on.
    pub fn truncate(&mut self, len: usize) {
        if let Some(first) = self.spans.get(len) {
            self.data.truncate(first.start);
            self.spans.truncate(len);
            self.count_parked();
        }
    }

    /// Moves the records from number `at` on into a new batch.
    pub fn split_off(&mut self, at: usize) -> Self {
        let start = self.spans.get(at).map_or(self.data.len(), |s| s.start);
        let mut spans = self.spans.split_off(at.min(self.spans.len()));
        for span in &mut spans {
            for end in [&mut span.start, &mut span.key, &mut span.value, &mut span.header] {
                *end -= start;
            }
        }
        let mut tail = Self { data: self.data.split_off(start), spans, parked: 0, end: None };
        self.count_parked();
        tail.count_parked();
        tail
    }

    /// Empties it and keeps its memory, unless a very large record has enlarged it too much.
    pub fn clear(&mut self) {
        const KEPT: usize = 1024 * 1024;
        self.data.clear();
        self.data.shrink_to(KEPT);
        self.spans.clear();
        self.parked = 0;
        self.end = None;
    }

    /// The records in order.
    pub fn iter(&self) -> impl Iterator<Item = Entry<'_>> {
        self.spans.iter().map(|s| Entry {
            key: &self.data[s.start..s.key],
            value: (s.kind != Kind::Tombstone).then(|| &self.data[s.key..s.value]),
            header: &self.data[s.value..s.header],
            is_parked: s.kind == Kind::Parked,
            table: usize::from(s.table),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(op: Op, row: u64) -> Source<'static> {
        Source { op, ts_us: 1, pos: "p".into(), row, epoch: 1 }
    }

    #[test]
    fn records_come_out_as_they_went_in() {
        let mut batch = Batch::default();
        batch.push(0, Change::State(b"-4", b"mug"), &source(Op::Create, 0));
        batch.push(0, Change::Gone(b"5"), &source(Op::Delete, 1));
        batch.push(0, Change::State(b"6", b"xyz"), &source(Op::Snapshot, 2));
        batch.truncate(3);
        let got: Vec<_> = batch.iter().map(|e| (e.key.to_vec(), e.value.map(<[u8]>::to_vec))).collect();
        let state = |key: &[u8], value: &[u8]| (key.to_vec(), Some(value.to_vec()));
        assert_eq!(got, [state(b"-4", b"mug"), (b"5".to_vec(), None), state(b"6", b"xyz")]);
        let tail = batch.split_off(1);
        let got: Vec<_> = tail.iter().map(|e| (e.key.to_vec(), e.value.map(<[u8]>::to_vec))).collect();
        assert_eq!(got, [(b"5".to_vec(), None), (b"6".to_vec(), Some(b"xyz".to_vec()))]);
        assert_eq!((batch.len(), batch.iter().count()), (1, 1));
        let header = batch.iter().next().map(|e| e.header.to_vec());
        assert_eq!(header.as_deref(), Some(&br#"{"op":"c","ts_us":1,"pos":"p","row":0,"epoch":1}"#[..]));
        batch.clear();
        assert!(batch.is_empty() && batch.bytes() == 0);
    }
}
