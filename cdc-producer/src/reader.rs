//! Reads the binlog, takes the rows of the captured tables from it, interleaves the snapshot's chunks, and fills batches for the publisher.
//!
//! Invariants: a batch carries progress only when it ends between two transactions of the source; chunks are read and
//! emitted only there. The reader never decides that something is durable: it only adds to each batch the progress that
//! it reaches.

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use model::error::{Code, Error, Result};
use model::position::{BinlogOffset, LastTransaction, Progress, TableProgress};
use mysql::refused_row::Letters;
use mysql_async::Conn;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::batch::Batch;
use crate::dump::Event;
use crate::endpoint::Endpoint;
use crate::history::Continuity;
use crate::known::{self, Known};
use crate::plan::{Encoder, Plan};
use crate::settings::ProducerSettings;
use crate::snapshot::Chunk;
use crate::status::Status;
use crate::stream::EventStream;
use crate::sweep::Sweep;
use crate::taken;
use crate::transaction::{EventKind, GtidMark, TableEffect, body_counts, classify};

mod chunks;
mod kept;
mod place;
mod rows;
mod xa;

use kept::{Kept, Prepared};

/// Number of events.
const LOOK_EVERY: u32 = 1_024;

/// A table whose rows are read.
pub struct CapturedTable {
    /// `database.table`, as the settings spell it: the name under which the progress has it.
    pub name: String,
    /// Converts its rows.
    pub encoder: Encoder,
    /// Makes dead letters of rows that can't be carried; `None` stops the stream at such a row.
    pub letters: Option<Letters>,
    /// Deletes keys in the topic that are gone from the table, at the end of a snapshot.
    pub sweep: Sweep,
    /// Facts about the table besides its rows.
    pub known: Known,
}

/// The reader of one run.
pub struct Reader {
    /// The tables, by their numbers.
    pub tables: Vec<CapturedTable>,
    /// The main table, `database.table`, after which the progress is named.
    pub source: String,
    /// Settings with patterns that a new table may match; `None` when each table is named in full.
    pub discovers: Option<ProducerSettings>,
    /// The facts about a table that the progress does not have.
    pub unknown: TableProgress,
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
    /// The chunk that is read, and the number of its table.
    chunk: Option<(usize, Chunk)>,
    /// Maximum rows of the next chunk.
    chunk_limit: usize,
    /// By the number of the table: the id of its last table map, the event, and how to read the rows.
    plans: Vec<Option<(u64, Vec<u8>, Plan)>>,
    /// The table ids of the open transaction with the numbers of the tables; `None` is a table that is not captured.
    ids: HashMap<u64, Option<usize>>,
    /// Records of the open transaction, by the number of the table.
    rows: Vec<u64>,
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
    /// Its first record in the batch; `None` when part of it was handed over.
    batch_start: Option<usize>,
}

/// Whether the snapshot of the table reads it behind the event that ends at the stream's place, so that its changes up to
/// here are left out. The last event may end exactly where the snapshot begins.
fn is_read_behind(progress: &TableProgress, stream: &EventStream) -> bool {
    progress.from.as_ref().is_some_and(|from| !stream.has_reached(&from.file, from.offset + 1))
}

/// Returns when the sweep has a next step; see [`crate::sweep::Sweep::ready`].
async fn sweep_ready(tables: &[CapturedTable]) {
    match tables.iter().find(|table| table.sweep.is_running()) {
        Some(table) => table.sweep.ready().await,
        None => pending().await,
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
            plans: self.tables.iter().map(|_| None).collect(),
            ids: HashMap::new(),
            rows: vec![0; self.tables.len()],
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
                () = sweep_ready(&self.tables), if state.group.is_none() => self.snapshot(state, shutdown).await?,
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
        let subjects = self.tables.iter().map(|table| {
            let progress = self.progress.table(&self.source, &table.name).unwrap_or(&self.unknown);
            let is_read_behind = is_read_behind(progress, &self.stream);
            table.known.subject(table.encoder.table(), &progress.state, is_read_behind)
        });
        let kind = match classify(&event, subjects) {
            Ok(kind) => kind,
            Err(error) => return Err(error.at(&self.place_of(state, &event))),
        };
        match kind {
            // Heartbeats are among these.
            EventKind::Nothing => {
                if state.group.is_none() {
                    self.settle();
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
            EventKind::Statement { effects, may_create } => {
                for (number, effect) in effects {
                    if let Err(error) = self.affect(number, effect).await {
                        return Err(error.at(&self.place_of(state, &event)));
                    }
                }
                self.statement(state).await?;
                if may_create && state.group.is_none() {
                    self.require_no_new_table().await?;
                }
            }
            EventKind::Rollback => {
                let group = self.group(state)?;
                // The publisher may have part of the rows, and they may have superseded rows of a chunk.
                let pos = group.pos.clone();
                let rows: u64 = state.rows.iter().sum();
                if rows > 0 {
                    return Err(Error::new(
                        Code::EventsLost,
                        format!("transaction {pos} is rolled back in the binlog after {rows} rows"),
                    )
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

    /// A statement has this effect on the table with this number.
    async fn affect(&mut self, number: usize, effect: TableEffect) -> Result<()> {
        let table = &mut self.tables[number];
        let known = &mut self.progress.table_mut(&self.source, &table.name).state;
        match effect {
            TableEffect::Created => {
                known.columns.clear();
                table.known.created(&mut self.conn, table.encoder.table()).await
            }
            TableEffect::Redefined(after) => {
                known.columns = after.columns;
                known.gone.extend(after.gone);
                Ok(())
            }
            TableEffect::Writes { database, table: name, statement } => {
                let other = known::Other { database: &database, table: &name, statement: &statement };
                known::require_alone(&mut self.conn, known, &other, table.encoder.table()).await
            }
        }
    }

    /// A statement may have created a table, or may have given it its name.
    ///
    /// # Errors
    /// Transient when the patterns take a table that the session does not read: the next one reads it from its beginning.
    async fn require_no_new_table(&mut self) -> Result<()> {
        let Some(settings) = &self.discovers else { return Ok(()) };
        let names = taken::matching(settings, &mut self.conn).await?;
        let is_new = |name: &String| !self.tables.iter().any(|table| table.name == *name);
        match names.into_iter().map(|name| name.to_string()).find(is_new) {
            None => Ok(()),
            Some(name) => Err(Error::transient(format!("the table {name} is new and matches tables: it is read next"))),
        }
    }

    /// The tables' facts that are valid from here on; see [`Known::settle`].
    fn settle(&mut self) {
        for table in &mut self.tables {
            let progress = self.progress.table_mut(&self.source, &table.name);
            table.known.settle(&mut progress.state, &self.stream);
            if progress.from.is_some() && !is_read_behind(progress, &self.stream) {
                progress.from = None;
            }
        }
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
            Error::new(
                Code::EventUnreadable,
                format!("the binlog has an event outside of a transaction at {}:{}", place.0, place.1),
            )
            .with_remedy("report it with the server's version; to continue after it: `cdc-producer checkpoint reset`")
        })
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
