//! The initial snapshot: chunks by primary key, which join the stream exactly, without a lock.
//!
//! Between two transactions the reader stops at position S, the low watermark. First, all transactions up to S become
//! visible ([`server::make_visible`]); then one statement reads a chunk; then the end of the binlog is read, the high
//! watermark H. The chunk shows the state at S plus some of the transactions between S and H. So while the stream goes
//! from S to H, each row that it touches is removed from the chunk: the stream has the newer state. At H the remaining
//! rows are emitted. They are exact at S and at every position up to H.
//!
//! Keys that are gone from the table are deleted in the topic afterwards: [`crate::sweep`].

use model::change::{Op, Source};
use model::error::Result;
use model::position::{KeyBound, Position};
use model::time::Micros;
use mysql::refused_row::{Letters, RefusedRow};
use mysql::select;
use mysql_async::Conn;

use crate::batch::{Batch, Change};
use crate::parked_rows::warn_of_first;
use crate::plan::Encoder;
use crate::server;

/// The rows of one key range, until they are emitted.
#[derive(Debug)]
pub struct Chunk {
    /// Rows in key order.
    rows: Vec<Row>,
    /// Number of rows that were processed.
    out: usize,
    /// Numbers of the rows in the order of their keys' bytes.
    by_key: Vec<u32>,
    /// The rows' keys and values, as the records have them.
    data: Vec<u8>,
    /// The remaining key range begins after this key.
    after: Option<KeyBound>,
    /// The key range ends with this key; `None` at the end of the table.
    last: Option<KeyBound>,
    /// The binlog's end after the read, H: the stream must reach it before the chunk is emitted.
    high: (String, u64),
    /// The position S, in the form of the records.
    pos: String,
    read_at: Micros,
    /// The chunk has fewer rows than the statement returned.
    is_cut: bool,
}

/// How a chunk is read.
#[derive(Clone, Copy, Debug)]
pub struct ChunkForm {
    /// Rows, at most.
    pub limit: usize,
    /// Bytes after which no more rows are taken.
    pub bytes: usize,
    /// Whether a row that can't be carried becomes a dead letter instead of an error.
    pub parks: bool,
}

#[derive(Debug)]
struct Row {
    /// Its key as the server sent it.
    bound: KeyBound,
    /// Its key in the data.
    start: usize,
    key: usize,
    /// The end of its value.
    end: usize,
    /// The stream has a newer state of the row.
    superseded: bool,
    /// Set when the row can't be carried.
    refused: Option<Box<RefusedRow>>,
}

/// The result of emitting.
#[derive(Debug)]
pub struct Emitted {
    /// Whether the whole chunk is processed.
    pub is_out: bool,
    /// The remaining key range begins after this key; `None` before the first key, or when the last chunk is processed.
    pub after: Option<KeyBound>,
    /// Records of the snapshot so far.
    pub rows: u64,
}

impl Chunk {
    /// Reads the rows after `after`; the stream is at `position`, between two transactions.
    ///
    /// # Errors
    /// Errors of the queries; definite for a value that can't be carried, unless it is to be parked.
    pub async fn read(
        conn: &mut Conn,
        encoder: &Encoder,
        position: &Position,
        after: Option<KeyBound>,
        form: ChunkForm,
    ) -> Result<Self> {
        let table = encoder.table();
        server::make_visible(conn, position, &table.database, &table.table).await?;
        let read_at = server::now(conn).await?;
        let (mut rows, mut data, mut refused_bytes) = (Vec::new(), Vec::new(), 0);
        let (mut key, mut value) = (Vec::new(), Vec::new());
        let read = select::each_row(conn, table, after.as_ref(), Some(form.limit), |values, row| {
            if data.len() + refused_bytes >= form.bytes {
                return Ok(false);
            }
            encoder.key_of_row(values, &mut key)?;
            let refused = match encoder.value(values, &mut value)? {
                Ok(()) => None,
                Err(row) if form.parks => Some(row),
                Err(row) => return Err(row.error(table)),
            };
            let start = data.len();
            data.extend_from_slice(&key);
            if refused.is_none() {
                data.extend_from_slice(&value);
            }
            refused_bytes += refused.as_ref().map_or(0, |row| row.bytes());
            let bound = select::key_of(table, row);
            rows.push(Row { bound, start, key: start + key.len(), end: data.len(), superseded: false, refused });
            Ok(true)
        })
        .await;
        // Rows of other columns would be read in a wrong way, or without a new column's values.
        table.require_unchanged(conn).await?;
        let read = read?;
        let high = server::binlog_end(conn).await?;
        let is_cut = read > rows.len();
        let is_last = !is_cut && read < form.limit;
        let last = if is_last { None } else { rows.last().map(|row| row.bound.clone()) };
        let by_key = by_key(&rows, &data);
        Ok(Self { rows, out: 0, by_key, data, after, last, high, pos: pos_of(position), read_at, is_cut })
    }

    /// The number of its rows, if the limit of bytes cut it.
    pub fn cut_at(&self) -> Option<usize> {
        self.is_cut.then_some(self.rows.len())
    }

    /// The place that the stream must reach before the chunk is emitted.
    pub fn high(&self) -> (&str, u64) {
        (&self.high.0, self.high.1)
    }

    /// Marks that the stream has a newer state of this row.
    pub fn touch(&mut self, key: &[u8]) {
        let Self { rows, by_key, data, .. } = self;
        let key_of = |number: &u32| rows[*number as usize].key(data);
        if let Ok(found) = by_key.binary_search_by(|number| key_of(number).cmp(key)) {
            rows[by_key[found] as usize].superseded = true;
        }
    }

    /// Appends the remaining rows of the chunk to `batch` as records of this table, in key order, until the batch is
    /// full. Numbers the records from `number`. The next call emits the rest, or it is read again after a kill.
    /// `letters` is needed if rows are parked.
    pub fn emit(
        &mut self,
        (epoch, number): (u64, u64),
        table: u16,
        letters: Option<&Letters>,
        batch: &mut Batch,
    ) -> Emitted {
        let (op, pos) = (Op::Snapshot, self.pos.as_str().into());
        let mut source = Source { op, ts_us: self.read_at.0, pos, row: number, epoch };
        while let Some(row) = self.rows.get(self.out) {
            if batch.is_full() {
                break;
            }
            self.out += 1;
            let change = match (&row.refused, letters) {
                _ if row.superseded => continue,
                (Some(refused), Some(letters)) => Change::Refused(letters, refused),
                (None, _) => Change::State(row.key(&self.data), &self.data[row.key..row.end]),
                // `read` returns no refused row that is not parked.
                _ => continue,
            };
            batch.push(table, change, &source);
            source.row += 1;
            if let Change::Refused(letters, refused) = change {
                warn_of_first(batch, letters, refused);
            }
        }
        let is_out = self.out == self.rows.len();
        if let Some(last) = self.out.checked_sub(1) {
            self.after = Some(self.rows[last].bound.clone());
        }
        Emitted { is_out, after: if is_out { self.last.clone() } else { self.after.clone() }, rows: source.row }
    }
}

impl Row {
    fn key<'a>(&self, data: &'a [u8]) -> &'a [u8] {
        &data[self.start..self.key]
    }
}

fn by_key(rows: &[Row], data: &[u8]) -> Vec<u32> {
    let mut numbers: Vec<u32> = (0..rows.len() as u32).collect();
    numbers.sort_unstable_by_key(|number| rows[*number as usize].key(data));
    numbers
}

/// The position at which a snapshot record is exact, in the form of its header.
pub fn pos_of(position: &Position) -> String {
    match &position.gtid_set {
        Some(set) => set.to_string(),
        None => format!("{}:{}", position.file, position.offset),
    }
}

#[cfg(test)]
mod tests {
    use model::position::KeyPart;

    use super::*;

    fn bound(id: i64) -> KeyBound {
        KeyBound::One(KeyPart::Signed(id))
    }

    fn chunk(ids: &[i64], after: Option<i64>, last: Option<i64>) -> Chunk {
        let (mut data, mut rows) = (Vec::new(), Vec::new());
        for id in ids {
            let start = data.len();
            data.extend_from_slice(id.to_string().as_bytes());
            let key = data.len();
            data.push(b'v');
            rows.push(Row { bound: bound(*id), start, key, end: data.len(), superseded: false, refused: None });
        }
        Chunk {
            by_key: by_key(&rows, &data),
            rows,
            out: 0,
            data,
            after: after.map(bound),
            last: last.map(bound),
            high: ("binlog.000001".to_owned(), 4),
            pos: "set".to_owned(),
            read_at: Micros(1),
            is_cut: false,
        }
    }

    #[test]
    fn what_the_stream_touched_stays_out() {
        let mut chunk = chunk(&[1, 2, 5, 10], None, Some(10));
        chunk.touch(b"10");
        chunk.touch(b"2");
        chunk.touch(b"3");
        let mut batch = Batch::default();
        let emitted = chunk.emit((2, 10), 0, None, &mut batch);
        assert_eq!((emitted.is_out, emitted.after, emitted.rows), (true, Some(bound(10)), 12));
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        let entries: Vec<String> = batch.iter().map(|e| text(e.key) + " " + &text(e.header)).collect();
        let header = |row| format!(r#"{{"op":"r","ts_us":1,"pos":"set","row":{row},"epoch":2}}"#);
        assert_eq!(entries, [format!("1 {}", header(10)), format!("5 {}", header(11))]);
    }

    #[test]
    fn a_chunk_larger_than_a_batch_goes_out_in_parts() {
        let ids: Vec<i64> = (0..2_500).map(|i| i * 2).collect();
        let mut chunk = chunk(&ids, None, None);
        let (mut number, mut keys, mut parts) = (0, Vec::new(), 0);
        loop {
            let mut batch = Batch::default();
            let emitted = chunk.emit((2, number), 0, None, &mut batch);
            keys.extend(batch.iter().map(|e| String::from_utf8_lossy(e.key).parse::<i64>().expect("an id")));
            (number, parts) = (emitted.rows, parts + 1);
            assert_eq!(number, keys.len() as u64);
            if emitted.is_out {
                assert_eq!(emitted.after, None);
                break;
            }
            // A kill here makes the next start read the rest again, but none of the emitted rows.
            assert_eq!(emitted.after, keys.last().copied().map(bound));
            assert_eq!(batch.len(), 1_000);
        }
        assert_eq!((keys, parts), (ids, 3));
    }
}
