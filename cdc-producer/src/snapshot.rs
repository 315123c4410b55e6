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
use model::position::Position;
use model::time::Micros;
use mysql::refused_row::{Letters, RefusedRow};
use mysql::table::{self, SourceTable};
use mysql_async::Conn;

use crate::batch::{Batch, Change};
use crate::reader::warn_of_first;
use crate::server;

/// The rows of one key range, until they are emitted.
#[derive(Debug)]
pub struct Chunk {
    /// Rows in key order.
    rows: Vec<Row>,
    /// Number of rows that were processed.
    out: usize,
    /// The rows' values in wire format.
    data: Vec<u8>,
    /// The remaining key range begins after this key.
    after: Option<i128>,
    /// The key range ends with this key; `None` at the end of the table.
    last: Option<i128>,
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
    /// Schema id of the values.
    pub schema_id: u32,
    /// Whether a row that can't be carried becomes a dead letter instead of an error.
    pub parks: bool,
}

#[derive(Debug)]
struct Row {
    id: i128,
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
    pub after: Option<i128>,
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
        table: &SourceTable,
        position: &Position,
        after: Option<i128>,
        form: ChunkForm,
    ) -> Result<Self> {
        server::make_visible(conn, position, &table.database, &table.table).await?;
        let read_at = server::now(conn).await?;
        let (mut rows, mut data, mut refused_bytes) = (Vec::new(), Vec::new(), 0);
        let mut held = 0;
        let read = table::each_row(conn, table, after, Some(form.limit), |row| {
            if held >= form.bytes {
                return Ok(false);
            }
            let (id, refused) = match row {
                Ok(product) => {
                    avro::encode(form.schema_id, &product, &mut data);
                    (product.id.into(), None)
                }
                Err(row) if form.parks => {
                    refused_bytes += row.bytes();
                    (row.id, Some(row))
                }
                Err(row) => return Err(row.error(table)),
            };
            held = data.len() + refused_bytes;
            rows.push(Row { id, end: data.len(), superseded: false, refused });
            Ok(true)
        })
        .await?;
        let high = server::binlog_end(conn).await?;
        let is_cut = read > rows.len();
        let is_last = !is_cut && read < form.limit;
        let last = if is_last { None } else { rows.last().map(|r| r.id) };
        Ok(Self { rows, out: 0, data, after, last, high, pos: pos_of(position), read_at, is_cut })
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
    pub fn touch(&mut self, id: i128) {
        if let Ok(i) = self.rows.binary_search_by_key(&id, |r| r.id) {
            self.rows[i].superseded = true;
        }
    }

    /// Appends the remaining rows of the chunk to `batch`, in key order, until the batch is full. Numbers the records
    /// from `number`. The next call emits the rest, or it is read again after a kill. `letters` is needed if rows are
    /// parked.
    pub fn emit(&mut self, epoch: u64, number: u64, letters: Option<&Letters>, batch: &mut Batch) -> Emitted {
        let (op, pos) = (Op::Snapshot, self.pos.as_str().into());
        let mut source = Source { op, ts_us: self.read_at.0, pos, row: number, epoch };
        while let Some(row) = self.rows.get(self.out) {
            if batch.is_full() {
                break;
            }
            let start = self.out.checked_sub(1).map_or(0, |before| self.rows[before].end);
            self.out += 1;
            self.after = Some(row.id);
            let change = match (&row.refused, letters, i64::try_from(row.id)) {
                _ if row.superseded => continue,
                (Some(refused), Some(letters), _) => Change::Refused(letters, refused),
                (None, _, Ok(id)) => Change::Encoded(id, &self.data[start..row.end]),
                // `read` returns neither an unparked refused row nor a product with an id beyond `i64`.
                _ => continue,
            };
            batch.push(change, &source);
            source.row += 1;
            if let Some(refused) = &row.refused {
                warn_of_first(batch, refused);
            }
        }
        let is_out = self.out == self.rows.len();
        Emitted { is_out, after: if is_out { self.last } else { self.after }, rows: source.row }
    }
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
    use super::*;

    fn chunk(ids: &[i128], after: Option<i128>, last: Option<i128>) -> Chunk {
        let rows = ids
            .iter()
            .enumerate()
            .map(|(i, id)| Row { id: *id, end: i + 1, superseded: false, refused: None })
            .collect();
        Chunk {
            rows,
            out: 0,
            data: vec![b'v'; ids.len()],
            after,
            last,
            high: ("binlog.000001".to_owned(), 4),
            pos: "set".to_owned(),
            read_at: Micros(1),
            is_cut: false,
        }
    }

    #[test]
    fn what_the_stream_touched_stays_out() {
        let mut chunk = chunk(&[1, 2, 5], None, Some(5));
        chunk.touch(2);
        chunk.touch(3);
        let mut batch = Batch::default();
        let emitted = chunk.emit(2, 10, None, &mut batch);
        assert_eq!((emitted.is_out, emitted.after, emitted.rows), (true, Some(5), 12));
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        let entries: Vec<String> = batch.iter().map(|e| text(e.key) + " " + &text(e.header)).collect();
        let header = |row| format!(r#"{{"op":"r","ts_us":1,"pos":"set","row":{row},"epoch":2}}"#);
        assert_eq!(entries, [format!("1 {}", header(10)), format!("5 {}", header(11))]);
    }

    #[test]
    fn a_chunk_larger_than_a_batch_goes_out_in_parts() {
        let ids: Vec<i128> = (0..2_500).map(|i| i * 2).collect();
        let mut chunk = chunk(&ids, None, None);
        let (mut number, mut keys, mut parts) = (0, Vec::new(), 0);
        loop {
            let mut batch = Batch::default();
            let emitted = chunk.emit(2, number, None, &mut batch);
            keys.extend(batch.iter().map(|e| String::from_utf8_lossy(e.key).parse::<i128>().expect("an id")));
            (number, parts) = (emitted.rows, parts + 1);
            assert_eq!(number, keys.len() as u64);
            if emitted.is_out {
                assert_eq!(emitted.after, None);
                break;
            }
            // A kill here makes the next start read the rest again, but none of the emitted rows.
            assert_eq!(emitted.after, keys.last().copied());
            assert_eq!(batch.len(), 1_000);
        }
        assert_eq!((keys, parts), (ids, 3));
    }
}
