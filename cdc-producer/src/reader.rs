//! Reads the binlog of one table, interleaves the snapshot's chunks, and fills batches for the publisher.
//!
//! Invariants: a batch carries progress only when it ends between two transactions of the source; chunks are read and
//! emitted only there. The reader never decides that something is durable: it only adds to each batch the progress that
//! it reaches.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use model::change::{Op, Source};
use model::error::{Error, Result};
use model::position::{BinlogOffset, LastTransaction, Progress};
use model::time::Micros;
use mysql::refused_row::{Letters, RefusedRow};
use mysql::table::SourceTable;
use mysql_async::Conn;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::batch::{Batch, Change};
use crate::dump::Event;
use crate::endpoint::Endpoint;
use crate::history::Continuity;
use crate::known::{self, Known};
use crate::plan::{Encoder, Plan, RowChange};
use crate::snapshot::Chunk;
use crate::status::Status;
use crate::stream::EventStream;
use crate::sweep::Sweep;
use crate::transaction::{EventKind, GtidMark, body_counts, classify};

mod chunks;
mod place;
mod xa;

use xa::{Kept, Prepared};

/// Number of events.
const LOOK_EVERY: u32 = 1_024;

/// The reader of one run.
pub struct Reader {
    /// Converts the table's rows.
    pub encoder: Encoder,
    /// Progress after the last complete transaction that was read.
    pub progress: Progress,
    /// The binlog.
    pub stream: EventStream,
    /// Keeps the GTID set of the progress correct.
    pub continuity: Continuity,
    /// The endpoint of the stream's server.
    pub endpoint: Arc<Endpoint>,
    /// Connection for the snapshot's queries.
    pub conn: Conn,
    /// Rows in a chunk of the snapshot.
    pub chunk_rows: usize,
    /// Bytes after which a chunk takes no more rows.
    pub chunk_bytes: usize,
    /// Makes dead letters of rows that can't be carried; `None` stops the stream at such a row.
    pub letters: Option<Letters>,
    /// Deletes keys in the topic that are gone from the table, at the end of a snapshot.
    pub sweep: Sweep,
    /// Facts about the table besides its rows.
    pub known: Known,
    /// To the publisher.
    pub batches: mpsc::Sender<Batch>,
    /// Empty batches from the publisher.
    pub recycled: mpsc::UnboundedReceiver<Batch>,
    /// How often progress without records is committed.
    pub position_every: Duration,
    /// Where it reports.
    pub status: Status,
}

/// The reader's state besides [`Reader::progress`].
struct State {
    batch: Batch,
    group: Option<Group>,
    /// Creation time of the file whose head is being read, in seconds since 1970.
    head: Option<u32>,
    /// The transaction that is being skipped: it was read before.
    passed: Option<LastTransaction>,
    chunk: Option<Chunk>,
    /// Maximum rows of the next chunk.
    chunk_limit: usize,
    plan: Option<(u64, Vec<u8>, Plan)>,
    /// Tables of the open transaction other than ours.
    others: HashSet<u64>,
    /// XA transactions whose outcome is unknown.
    prepared: Prepared,
    /// Progress has moved since the last hand-over.
    moved: bool,
    /// The place of the last hand-over.
    flushed_to: BinlogOffset,
    /// Events until the next check of the clock and of the shutdown: such a check costs more than a short event.
    until_look: u32,
    flushed: Instant,
    /// The progress must be handed over at the next end of a transaction, even if the batch is not full.
    overdue: bool,
}

/// A transaction that is being read.
struct Group {
    mark: GtidMark,
    /// Offset of its first event.
    begin: u64,
    pos: String,
    /// It began with BEGIN, so a separate event ends it.
    rows_follow: bool,
    /// The identity of an XA transaction, and its rows of the table.
    xa: Option<(String, Kept)>,
    /// Records so far.
    row: u64,
    /// Its first record in the batch; `None` when part of it was handed over.
    batch_start: Option<usize>,
}

/// Logs a parked row, at most once a second: the metric counts them all.
pub(crate) fn warn_of_first(batch: &Batch, letters: &Letters, row: &RefusedRow) {
    static LAST: AtomicI64 = AtomicI64::new(0);
    let now = Micros::now().0 / 1_000_000;
    if batch.parked() == 1 && LAST.swap(now, Ordering::Relaxed) != now {
        tracing::warn!(
            row = %row.key(),
            column = letters.field(row.field),
            reason = row.refusal.reason,
            what_to_do = &*row.refusal.remedy,
            "a row can't be carried: it is parked in the dead letters"
        );
    }
}

impl Reader {
    /// Reads until it is cancelled, then hands over the complete transactions.
    ///
    /// # Errors
    /// Transient when the link breaks, definite when an event can't be carried; batches already handed over stay valid.
    pub async fn run(mut self, shutdown: &CancellationToken) -> Result<()> {
        let mut state = State {
            batch: Batch::default(),
            group: None,
            head: None,
            passed: None,
            chunk: None,
            chunk_limit: self.chunk_rows,
            plan: None,
            others: HashSet::new(),
            prepared: Prepared::default(),
            moved: false,
            until_look: LOOK_EVERY,
            flushed_to: self.progress.position.binlog_offset(),
            flushed: Instant::now(),
            overdue: false,
        };
        let ended = self.read(&mut state, shutdown).await;
        // Complete transactions are published, whatever stopped the stream after them.
        match state.group.take().map(|g| g.batch_start) {
            None => {}
            Some(Some(start)) => state.batch.truncate(start),
            // The publisher has part of a transaction, which it drops.
            Some(None) => return ended,
        }
        let flushed = self.flush(&mut state, true).await;
        ended.and(flushed)
    }

    async fn read(&mut self, state: &mut State, shutdown: &CancellationToken) -> Result<()> {
        loop {
            if state.group.is_none() && state.passed.is_none() {
                self.snapshot(state, shutdown).await?;
            }
            let Some(event) = self.next(state, shutdown).await? else { return Ok(()) };
            // There may be many events of other tables.
            state.until_look = state.until_look.saturating_sub(1);
            if state.until_look == 0 {
                state.until_look = LOOK_EVERY;
                if shutdown.is_cancelled() {
                    return Ok(());
                }
                state.overdue = state.flushed.elapsed() > self.position_every;
            }
            if let Err(error) = self.take(state, event).await {
                return Err(self.stream.blame(error).await);
            }
        }
    }

    /// The next event; hands over the batch before it waits. `None` when it is cancelled meanwhile.
    async fn next(&mut self, state: &mut State, shutdown: &CancellationToken) -> Result<Option<Event>> {
        if let Some(event) = self.stream.next().now_or_never() {
            return event.map(Some);
        }
        if state.group.is_none() && !state.batch.is_empty() {
            self.flush(state, true).await?;
        }
        loop {
            let due = state.flushed + self.position_every;
            let wait_for_due = state.moved && state.group.is_none();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(None),
                // The records in flight must be sent again, even if no further event arrives from the source.
                () = self.batches.closed() => return Err(Error::transient("the publisher has stopped")),
                event = self.stream.next() => return event.map(Some),
                () = tokio::time::sleep_until(due), if wait_for_due => self.flush(state, true).await?,
                () = self.sweep.ready(), if state.group.is_none() => self.snapshot(state, shutdown).await?,
            }
        }
    }

    async fn take(&mut self, state: &mut State, mut event: Event) -> Result<()> {
        if state.passed.is_some() && !self.pass_over(state, &event) {
            return Ok(());
        }
        if !event.is_whole() && body_counts(&event) {
            event = self.stream.complete(event).await?;
        }
        let subject = self.known.subject(self.encoder.table(), &self.progress.main.state);
        let kind = match classify(&event, &subject) {
            Ok(kind) => kind,
            Err(error) => return Err(error.at(&self.place_of(state, &event))),
        };
        match kind {
            // Heartbeats are among these.
            EventKind::Nothing => {
                if state.group.is_none() {
                    self.known.settle(&mut self.progress.main.state, &self.stream);
                    self.between(state, &event).await?;
                }
            }
            EventKind::Start(mark) => self.begin(state, mark)?,
            EventKind::Begin(xa) => {
                let group = self.group(state)?;
                (group.rows_follow, group.xa) = (true, xa.map(|xa| (xa, Kept::default())));
            }
            EventKind::TableMap => self.table_map(state, &event).await?,
            EventKind::Rows => self.rows(state, event).await?,
            EventKind::Commit => self.commit(state).await?,
            EventKind::Statement => self.statement(state).await?,
            EventKind::Created => {
                self.progress.main.state.columns.clear();
                self.known.created(&mut self.conn, self.encoder.table()).await?;
                self.statement(state).await?;
            }
            EventKind::Redefined(columns) => {
                self.progress.main.state.columns = columns;
                self.statement(state).await?;
            }
            EventKind::Writes { database, table, statement } => {
                let other = known::Other { database: &database, table: &table, statement: &statement };
                let (conn, known) = (&mut self.conn, &mut self.progress.main.state);
                if let Err(error) = known::require_alone(conn, known, &other, self.encoder.table()).await {
                    return Err(error.at(&self.place_of(state, &event)));
                }
                self.statement(state).await?;
            }
            EventKind::Rollback => {
                let group = self.group(state)?;
                // The publisher may have part of the rows, and they may have superseded rows of a chunk.
                if group.row > 0 {
                    return Err(Error::definite(format!(
                        "transaction {} is rolled back in the binlog after {} rows",
                        group.pos, group.row
                    ))
                    .with_remedy("ask for a new snapshot: `cdc-producer checkpoint reset`"));
                }
                self.end(state).await?;
            }
            EventKind::XaPrepare => self.xa_prepare(state).await?,
            EventKind::XaCommit(xa) => self.xa_commit(state, &xa).await?,
            EventKind::XaRollback(xa) => self.xa_rollback(state, &xa).await?,
        }
        Ok(())
    }

    /// A statement without an effect: outside of BEGIN it is the whole transaction.
    async fn statement(&mut self, state: &mut State) -> Result<()> {
        if self.group(state)?.rows_follow { Ok(()) } else { self.end(state).await }
    }

    /// The place of an event, for a message.
    fn place_of(&self, state: &State, event: &Event) -> String {
        let (file, end) = self.stream.place();
        let header = event.header();
        // An event within a compressed transaction has no offset.
        let length = if header.log_pos() == 0 { 0 } else { u64::from(header.event_size()) };
        let transaction = state.group.as_ref().map_or_else(String::new, |g| format!("transaction {}, ", g.pos));
        format!("{transaction}{file}:{}", end.saturating_sub(length))
    }

    fn group<'a>(&self, state: &'a mut State) -> Result<&'a mut Group> {
        let place = self.stream.place();
        state.group.as_mut().ok_or_else(|| {
            Error::definite(format!("the binlog has an event outside of a transaction at {}:{}", place.0, place.1))
                .with_remedy(
                    "report it with the server's version; to continue after it: `cdc-producer checkpoint reset`",
                )
        })
    }

    async fn table_map(&mut self, state: &mut State, event: &Event) -> Result<()> {
        let group = self.group(state)?;
        let (id, ours) = Plan::table_of(event, self.encoder.table())?;
        if !ours {
            state.others.insert(id);
        } else if let Some((_, kept)) = &mut group.xa {
            kept.push(event);
        } else if !state.plan.as_ref().is_some_and(|(i, bytes, _)| *i == id && bytes == event.data()) {
            if self.encoder.table().is_derived {
                self.require_same_columns().await?;
            }
            state.plan = Some((id, event.data().to_vec(), Plan::new(event, self.encoder.clone())?));
        }
        Ok(())
    }

    /// A table map came that may describe other columns than the schema was made from.
    ///
    /// # Errors
    /// Transient when the table has other columns now too: the next session makes its schema from them. If it has not,
    /// the columns of these rows are gone from the table.
    async fn require_same_columns(&mut self) -> Result<()> {
        let table = self.encoder.table();
        let now = SourceTable::inspect(&mut self.conn, &table.database, &table.table, &table.contract).await?;
        if now.schema == table.schema {
            return Ok(());
        }
        Err(Error::transient(format!("{} has other columns now: their schema is registered next", table.full_name())))
    }

    async fn rows(&mut self, state: &mut State, event: Event) -> Result<()> {
        let id = Plan::table_id(&event)?;
        if state.others.contains(&id) {
            return Ok(());
        }
        if let Some((_, kept)) = &mut self.group(state)?.xa {
            kept.push(&event);
            return Ok(());
        }
        let table = || format!("rows of {}", self.encoder.table().full_name());
        let event = self.stream.complete(event).await.map_err(|e| e.at(&table()))?;
        let State { batch, group: Some(group), plan: Some((planned, _, plan)), chunk, .. } = state else {
            return Err(self.unmapped(id));
        };
        if *planned != id {
            return Err(self.unmapped(id));
        }
        let mut source = Source {
            op: Op::Create,
            ts_us: group.mark.committed_at.0,
            pos: group.pos.as_str().into(),
            row: group.row,
            epoch: self.progress.epoch,
        };
        let (table, letters) = (self.encoder.table(), self.letters.as_ref());
        {
            let mut candidates = self.sweep.candidates();
            let mut put = |op: Op, change: Change<'_>, key: &[u8]| {
                source.op = op;
                batch.push(change, &source);
                source.row += 1;
                if let Some(chunk) = chunk {
                    chunk.touch(key);
                }
                match (change, &mut candidates) {
                    // The topic gets no record of it in this epoch, so the sweep deletes the record of the last epoch.
                    (Change::Refused(letters, row), _) => warn_of_first(batch, letters, row),
                    (_, Some(candidates)) => drop(candidates.remove(key)),
                    _ => {}
                }
            };
            plan.each_row(&event, |change| {
                match change {
                    RowChange::Created(key, value) => put(Op::Create, Change::State(key, value), key),
                    RowChange::Updated(before, key, value) if before == key => {
                        put(Op::Update, Change::State(key, value), key);
                    }
                    // A changed key is the delete of one row and the insert of another.
                    RowChange::Updated(before, key, value) => {
                        put(Op::Delete, Change::Gone(before), before);
                        put(Op::Create, Change::State(key, value), key);
                    }
                    RowChange::Deleted(key) => put(Op::Delete, Change::Gone(key), key),
                    RowChange::Refused(op, row) => {
                        let letters = letters.ok_or_else(|| row.error(table))?;
                        put(op, Change::Refused(letters, row), &row.key);
                    }
                }
                Ok(())
            })
            .map_err(|e: Error| e.at(&format!("transaction {}", group.pos)))?;
        }
        group.row = source.row;
        if !batch.is_full() {
            return Ok(());
        }
        // Earlier complete transactions do not wait for the end of this one.
        if let Some(start) = group.batch_start.filter(|start| *start > 0) {
            group.batch_start = Some(0);
            let tail = batch.split_off(start);
            self.flush(state, true).await?;
            state.batch = tail;
        }
        // A transaction that is longer than a batch is handed over in parts, which needs a separate Kafka transaction.
        if state.batch.is_full() {
            if let Some(group) = &mut state.group {
                group.batch_start = None;
            }
            self.flush(state, false).await?;
        }
        Ok(())
    }

    fn unmapped(&self, id: u64) -> Error {
        let (file, offset) = self.stream.place();
        Error::definite(format!(
            "the binlog has rows of table number {id} without its table map, before {file}:{offset}"
        ))
        .with_remedy("report it with the server's version; to continue after it: `cdc-producer checkpoint reset`")
    }

    /// Hands the batch to the publisher, and waits while the publisher is busy. `complete`: the batch ends between
    /// transactions.
    async fn flush(&mut self, state: &mut State, complete: bool) -> Result<()> {
        if state.batch.is_empty() && !(complete && state.moved) {
            return Ok(());
        }
        self.status.received();
        // A hand-over may take as long as Kafka does, so check the shutdown next.
        state.until_look = 0;
        let mut batch = std::mem::replace(&mut state.batch, self.recycled.try_recv().unwrap_or_default());
        if complete {
            batch.end = Some(self.progress.clone());
            state.moved = false;
            state.flushed_to = self.progress.position.binlog_offset();
            state.flushed = Instant::now();
            state.overdue = false;
        }
        self.batches.send(batch).await.map_err(|_| Error::transient("the publisher has stopped"))
    }
}
