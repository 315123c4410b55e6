//! The initial snapshot: chunks by primary key that meet the stream exactly, without a lock.
//!
//! Between two transactions the reader stops at position S. All up to S is made visible ([`server::make_visible`]), then a
//! chunk is read in one statement, then the end of the binlog, H. What the chunk shows is the state at S plus some of the
//! transactions between S and H; so while the stream goes from S to H, each row that it touches is taken out of the chunk:
//! the stream has the newer state. At H the rest goes out. It is exact at S, and at every position up to H.
//!
//! A later epoch finds rows in the topic that are gone from the table, deleted while nobody read. The ids that the topic
//! holds alive from earlier epochs are collected at the start; those in a chunk's key range that are neither in the chunk
//! nor touched by the stream are deleted in the topic too.

use std::collections::BTreeSet;
use std::ops::Bound;

use mysql_async::Conn;
use pipeline::avro;
use pipeline::config::KafkaSettings;
use pipeline::error::Result;
use pipeline::kafka;
use pipeline::position::{Position, SnapshotProgress};
use pipeline::record::{Micros, Op, SOURCE_HEADER, Source};
use pipeline::table::{self, SourceTable};
use rdkafka::Message;

use crate::batch::{Batch, Change};
use crate::server;

/// The rows of one key range on their way out.
#[derive(Debug)]
pub struct Chunk {
    /// Rows in key order.
    rows: Vec<Row>,
    /// Rows that have gone out.
    out: usize,
    /// Their values in wire format.
    data: Vec<u8>,
    /// The key range that has not gone out begins after this key.
    after: Option<i64>,
    /// It ends with this key; `None` at the end of the table.
    last: Option<i64>,
    /// The binlog's end after the read: the stream must get here first.
    high: (String, u64),
    /// The position S, as the records say it.
    pos: String,
    read_at: Micros,
}

#[derive(Debug)]
struct Row {
    id: i64,
    end: usize,
    /// The stream has brought a newer state.
    superseded: bool,
}

/// What has been emitted.
#[derive(Debug)]
pub struct Emitted {
    /// Nothing of the chunk is left.
    pub is_out: bool,
    /// Where the snapshot goes on; `None` when it is complete.
    pub progress: Option<SnapshotProgress>,
    /// Records of the snapshot so far.
    pub rows: u64,
}

/// Ids that the topic holds alive from earlier epochs; about 20 bytes each.
#[derive(Debug, Default)]
pub struct Alive(BTreeSet<i64>);

impl Alive {
    /// Reads the topic: the ids whose last record is a value from an epoch before `epoch`. Blocks.
    ///
    /// # Errors
    /// Transient when Kafka can't be reached.
    pub fn from_topic(settings: &KafkaSettings, epoch: u64) -> Result<Self> {
        let mut alive = BTreeSet::new();
        kafka::scan(settings, &settings.topic, &mut |message| {
            let id = message.key().and_then(|k| std::str::from_utf8(k).ok()).and_then(|k| k.parse::<i64>().ok());
            let source = kafka::header(message, SOURCE_HEADER).and_then(|h| Source::parse(h).ok());
            if let (Some(id), Some(source)) = (id, source) {
                if message.payload().is_some() && source.epoch < epoch {
                    alive.insert(id);
                } else {
                    alive.remove(&id);
                }
            }
            Ok(())
        })?;
        Ok(Self(alive))
    }

    /// The first of them after `after` and up to `last`.
    fn first_within(&self, after: Option<i64>, last: Option<i64>) -> Option<i64> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        if matches!((after, last), (Some(after), Some(last)) if after >= last) {
            return None;
        }
        self.0.range((from, last.map_or(Bound::Unbounded, Bound::Included))).next().copied()
    }

    /// The stream has said what became of this row.
    pub fn touch(&mut self, id: i64) {
        self.0.remove(&id);
    }
}

impl Chunk {
    /// Reads the rows after `after`, at most `limit`; the stream stands at `position`, between two transactions.
    ///
    /// # Errors
    /// As the queries; definite for a value that can't be carried.
    pub async fn read(
        conn: &mut Conn,
        table: &SourceTable,
        position: &Position,
        after: Option<i64>,
        limit: usize,
        schema_id: u32,
    ) -> Result<Self> {
        server::make_visible(conn, position, &table.database, &table.table).await?;
        let read_at = server::now(conn).await?;
        let (mut rows, mut data) = (Vec::new(), Vec::new());
        table::each_row(conn, table, after, Some(limit), |product| {
            avro::encode(schema_id, product, &mut data);
            rows.push(Row { id: product.id, end: data.len(), superseded: false });
            Ok(())
        })
        .await?;
        let high = server::binlog_end(conn).await?;
        let last = if rows.len() < limit { None } else { rows.last().map(|r| r.id) };
        let pos = match &position.gtid_set {
            Some(set) => set.to_string(),
            None => format!("{}:{}", position.file, position.offset),
        };
        Ok(Self { rows, out: 0, data, after, last, high, pos, read_at })
    }

    /// Where the stream must get before the chunk goes out.
    pub fn high(&self) -> (&str, u64) {
        (&self.high.0, self.high.1)
    }

    /// The stream has brought a newer state of this row.
    pub fn touch(&mut self, id: i64) {
        if let Ok(i) = self.rows.binary_search_by_key(&id, |r| r.id) {
            self.rows[i].superseded = true;
        }
    }

    /// Appends what is left of the chunk to `batch`, in key order, until the batch is full: rows, and the deletes that `alive`
    /// shows to be missing. Numbers the records from `number`. What is behind goes out with the next call, or is read again
    /// after a kill.
    pub fn emit(&mut self, alive: &mut Alive, epoch: u64, mut number: u64, batch: &mut Batch) -> Emitted {
        let mut source =
            Source { op: Op::Snapshot, ts_us: self.read_at.0, pos: self.pos.as_str().into(), row: number, epoch };
        let mut put = |op: Op, change: Change<'_>| {
            (source.op, source.row) = (op, number);
            number += 1;
            batch.push(change, &source);
            batch.is_full()
        };
        let is_out = loop {
            let row = self.rows.get(self.out);
            let gone = alive.first_within(self.after, row.map(|r| r.id).or(self.last));
            let is_full = match (row, gone) {
                (Some(row), _) if gone.is_none_or(|id| id == row.id) => {
                    let start = self.out.checked_sub(1).map_or(0, |before| self.rows[before].end);
                    self.out += 1;
                    self.after = Some(row.id);
                    alive.touch(row.id);
                    !row.superseded && put(Op::Snapshot, Change::Encoded(row.id, &self.data[start..row.end]))
                }
                (_, Some(id)) => {
                    self.after = gone;
                    alive.touch(id);
                    put(Op::Delete, Change::Gone(id))
                }
                (_, None) => break true,
            };
            if is_full {
                break false;
            }
        };
        let after = if is_out { self.last } else { self.after };
        let progress = after.map(|_| SnapshotProgress { after, rows: number });
        Emitted { is_out, progress, rows: number }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(ids: &[i64], after: Option<i64>, last: Option<i64>) -> Chunk {
        let rows = ids.iter().enumerate().map(|(i, id)| Row { id: *id, end: i + 1, superseded: false }).collect();
        Chunk {
            rows,
            out: 0,
            data: vec![b'v'; ids.len()],
            after,
            last,
            high: ("binlog.000001".to_owned(), 4),
            pos: "set".to_owned(),
            read_at: Micros(1),
        }
    }

    fn emitted(mut chunk: Chunk, alive: &mut Alive) -> Vec<String> {
        let mut batch = Batch::default();
        let emitted = chunk.emit(alive, 2, 10, &mut batch);
        assert!(emitted.is_out && emitted.rows == 10 + batch.len() as u64);
        assert_eq!(emitted.progress.and_then(|p| p.after), chunk.last);
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        let entries = batch.iter().map(|e| {
            let op = if e.value.is_some() { "r" } else { "d" };
            assert!(text(e.header).contains(&format!("\"op\":\"{op}\"")));
            format!("{op}{} #{}", text(e.key), text(e.header).split("\"row\":").nth(1).map_or("", |t| &t[..2]))
        });
        entries.collect()
    }

    #[test]
    fn what_the_stream_touched_stays_out() {
        let mut chunk = chunk(&[1, 2, 5], None, Some(5));
        chunk.touch(2);
        chunk.touch(3);
        assert_eq!(emitted(chunk, &mut Alive::default()), ["r1 #10", "r5 #11"]);
    }

    #[test]
    fn what_the_topic_has_and_the_table_has_not_is_deleted() {
        let mut alive = Alive(BTreeSet::from([-3, 1, 4, 5, 6, 7, 9]));
        alive.touch(6);
        assert_eq!(emitted(chunk(&[1, 5], Some(0), Some(7)), &mut alive), ["r1 #10", "d4 #11", "r5 #12", "d7 #13"]);
        assert_eq!(emitted(chunk(&[], Some(7), None), &mut alive), ["d9 #10"]);
        assert_eq!(alive.0, BTreeSet::from([-3]));
    }

    #[test]
    fn a_chunk_larger_than_a_batch_goes_out_in_parts() {
        let ids: Vec<i64> = (0..2_500).map(|i| i * 2).collect();
        let mut chunk = chunk(&ids, None, None);
        let mut alive = Alive((1_001..6_001).step_by(1_000).collect());
        let (mut number, mut keys, mut parts) = (0, Vec::new(), 0);
        loop {
            let mut batch = Batch::default();
            let emitted = chunk.emit(&mut alive, 2, number, &mut batch);
            keys.extend(batch.iter().map(|e| String::from_utf8_lossy(e.key).parse::<i64>().expect("an id")));
            (number, parts) = (emitted.rows, parts + 1);
            assert_eq!(number, keys.len() as u64);
            if emitted.is_out {
                assert!(emitted.progress.is_none());
                break;
            }
            // A kill here reads the rest again, and nothing of what is out.
            assert_eq!(emitted.progress.map(|p| (p.after, p.rows)), Some((keys.last().copied(), number)));
            assert_eq!(batch.len(), 1_000);
        }
        let mut all = [ids, (1_001..6_001).step_by(1_000).collect()].concat();
        all.sort_unstable();
        assert_eq!((keys, parts), (all, 3));
    }
}
