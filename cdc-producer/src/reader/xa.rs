//! Two-phase commit (XA): a later transaction decides whether the rows are valid.
//!
//! The rows of a prepared transaction are kept until its outcome. If they are too large to keep, or were prepared
//! before this session, the progress has their place, and they are read from the binlog a second time. If the
//! transaction was prepared before the stream's first position, it is searched in the existing binlogs.
//!
//! Source: MySQL manual "XA Transactions", WL#6860 (`XA PREPARE` in the binlog).

use std::collections::{BTreeMap, HashSet};

use model::error::{Code, Error, Result};
use model::position::PreparedAt;
use model::time::Micros;
use mysql_async::binlog::EventType;
use mysql_async::binlog::events::QueryEvent;

use super::rows::captured;
use super::{CapturedTable, Reader, State};
use crate::binlog_error::damaged;
use crate::dump::{Event, HEAD};
use crate::plan::Plan;
use crate::server;
use crate::statement::{self, Xa};
use crate::stream::EventStream;
use crate::transaction::gtid_mark;

impl Reader {
    /// `XA PREPARE`, the first phase.
    pub(super) async fn xa_prepare(&mut self, state: &mut State) -> Result<()> {
        let group = self.group(state)?;
        let (begin, at) = (group.begin, group.mark.committed_at);
        if let Some((xa, kept)) = group.xa.take() {
            self.forget(state, &xa);
            if kept.has_rows() {
                self.progress.prepared_rows.insert(xa.clone(), self.prepared_at(begin, at));
                state.prepared.insert(xa, kept);
            } else {
                self.progress.prepared.insert(xa);
            }
        }
        self.end(state).await
    }

    /// Both phases in one: `XA COMMIT … ONE PHASE`; and the end of any other transaction.
    pub(super) async fn commit(&mut self, state: &mut State) -> Result<()> {
        let group = self.group(state)?;
        let (begin, at) = (group.begin, group.mark.committed_at);
        if let Some((xa, kept)) = group.xa.take() {
            self.forget(state, &xa);
            match kept.events() {
                Some(events) => self.apply(state, events).await?,
                None => self.read_again(state, &xa, &self.prepared_at(begin, at)).await?,
            }
        }
        self.end(state).await
    }

    /// `XA COMMIT`, the second phase: the rows are valid.
    pub(super) async fn xa_commit(&mut self, state: &mut State, xa: &str) -> Result<()> {
        self.group(state)?;
        if !self.progress.prepared.contains(xa) && !self.is_known_here(xa) {
            return self.look_back(state, xa).await;
        }
        self.progress.prepared.remove(xa);
        if let Some(place) = self.progress.prepared_rows.remove(xa) {
            match state.prepared.remove(xa) {
                Some(events) => self.apply(state, events).await?,
                None => self.read_again(state, xa, &place).await?,
            }
        }
        self.end(state).await
    }

    /// `XA ROLLBACK`, the second phase: the rows are void.
    pub(super) async fn xa_rollback(&mut self, state: &mut State, xa: &str) -> Result<()> {
        self.group(state)?;
        self.forget(state, xa);
        self.end(state).await
    }

    /// Forgets the identity: it may be used again, even if no outcome was seen.
    fn forget(&mut self, state: &mut State, xa: &str) {
        self.progress.prepared.remove(xa);
        self.progress.prepared_rows.remove(xa);
        state.prepared.remove(xa);
    }

    /// Whether the progress has its place on the server that is being read.
    fn is_known_here(&self, xa: &str) -> bool {
        let place = self.progress.prepared_rows.get(xa);
        place.is_some_and(|place| place.server_uuid == self.progress.position.server_uuid)
    }

    fn prepared_at(&self, begin: u64, at: Micros) -> PreparedAt {
        PreparedAt {
            server_uuid: self.progress.position.server_uuid.clone(),
            file: self.stream.place().0.to_owned(),
            offset: begin,
            at,
        }
    }

    /// Adds kept rows to the open transaction.
    async fn apply(&mut self, state: &mut State, events: Vec<Event>) -> Result<()> {
        for event in events {
            self.apply_one(state, event).await?;
        }
        Ok(())
    }

    async fn apply_one(&mut self, state: &mut State, event: Event) -> Result<()> {
        if event.header().event_type_raw() == EventType::TABLE_MAP_EVENT as u8 {
            self.table_map(state, &event).await
        } else {
            self.rows(state, event).await
        }
    }

    /// Adds the rows of a prepared transaction to the open transaction, reading them from the binlog.
    async fn read_again(&mut self, state: &mut State, xa: &str, place: &PreparedAt) -> Result<()> {
        let PreparedAt { file, offset, .. } = place;
        let what = format!("the XA transaction {xa}, prepared at {file}:{offset}");
        let mut events =
            EventStream::scan(&self.endpoint, "reading the rows of an XA transaction", file, *offset, None)
                .await
                .map_err(|e| rows_purged(e).at(&what))?;
        events.set_max_event(self.stream.options().max_event);
        let mut is_found = false;
        while let Some(event) = events.next_or_end().await.map_err(|e| rows_purged(e).at(&what))? {
            if events.place().0 != file {
                break;
            }
            let kind = event.header().event_type_raw();
            match xa_of(&event)? {
                Some(Xa::Start(found)) => is_found = found == xa,
                _ if !is_found && gtid_mark(&event)?.is_some() && events.begin() > *offset => break,
                _ if !is_found => {}
                _ if kind == EventType::XA_PREPARE_LOG_EVENT as u8 => return Ok(()),
                _ if is_table_map(kind)
                    || (is_rows(kind) && state.ids.get(&Plan::table_id(&event)?) != Some(&None)) =>
                {
                    let whole = events.complete(event).await.map_err(|e| e.at(&what))?;
                    self.apply_one(state, whole).await?;
                }
                _ => {}
            }
        }
        Err(Error::new(Code::XaRowsPurged, format!("the binlog no longer has {what}, which is committed now"))
            .with_remedy("to continue behind it with the table as it is now: `cdc-producer checkpoint reset`"))
    }

    /// Searches for a transaction that was prepared before the stream's first position, newest file first, and notes
    /// every transaction with an unknown outcome on the way. Then the stream reads the commit again.
    ///
    /// # Errors
    /// Definite when the existing binlogs do not have it.
    async fn look_back(&mut self, state: &mut State, xa: &str) -> Result<()> {
        let position = self.progress.position.clone();
        tracing::info!(xa, "looking for an XA transaction that was prepared before the stream began");
        let files = server::binlog_files(&mut self.endpoint.connect().await?).await?;
        let until = files.iter().position(|f| f.name == position.file).map_or(0, |i| i + 1);
        let mut outcomes = HashSet::new();
        for file in files[..until].iter().rev() {
            let end = if file.name == position.file { position.offset } else { u64::MAX };
            let found = self.open_in(&file.name, end, &mut outcomes).await?;
            let is_there = found.contains_key(xa);
            for (xa, rows_at) in found {
                // A prepared transaction that the stream has read is newer.
                if self.progress.prepared.contains(&xa) || self.is_known_here(&xa) {
                    continue;
                }
                self.forget(state, &xa);
                match rows_at {
                    Some(place) => drop(self.progress.prepared_rows.insert(xa, place)),
                    None => drop(self.progress.prepared.insert(xa)),
                }
            }
            if is_there {
                let options = self.stream.options();
                self.stream = EventStream::open(&self.endpoint, &self.progress.position, options).await?;
                (state.group, state.head) = (None, None);
                return Ok(());
            }
        }
        Err(Error::new(Code::XaRowsPurged, format!(
            "transaction {} commits the XA transaction {xa}, which was prepared before the binlogs that the server still has: it may \
             have changed rows of {}, and the binlog does not say which",
            self.group(state)?.pos,
            self.tables.iter().map(|table| table.name.as_str()).collect::<Vec<_>>().join(" or ")
        ))
        .with_remedy("to continue behind it with the table as it is now: `cdc-producer checkpoint reset`"))
    }

    /// The transactions that are prepared in a file before `end` and whose outcome is neither there nor in `outcomes`,
    /// those of later files. A transaction with rows of the table has its place.
    async fn open_in(
        &mut self,
        file: &str,
        end: u64,
        outcomes: &mut HashSet<String>,
    ) -> Result<BTreeMap<String, Option<PreparedAt>>> {
        let mut search = Search::default();
        let mut events = EventStream::scan(&self.endpoint, "looking for an XA transaction", file, HEAD, None).await?;
        while let Some(event) = events.next_or_end().await? {
            if events.place().0 != file || events.place().1 > end {
                break;
            }
            search.take(&event, events.begin(), &self.tables)?;
        }
        search.open.retain(|xa, _| !outcomes.contains(xa));
        outcomes.extend(search.outcomes);
        let place = |(offset, at)| {
            let server_uuid = self.progress.position.server_uuid.clone();
            PreparedAt { server_uuid, file: file.to_owned(), offset, at }
        };
        Ok(search.open.into_iter().map(|(xa, begin)| (xa, begin.map(place))).collect())
    }
}

/// Collects the XA transactions of one file.
#[derive(Debug, Default)]
struct Search {
    /// The begin of the current transaction, and its commit or prepare time.
    begin: (u64, Micros),
    current: Option<String>,
    has_rows: bool,
    /// Prepared without an outcome so far; the begin and time of each with rows of the table.
    open: BTreeMap<String, Option<(u64, Micros)>>,
    /// Outcomes of transactions that were prepared in an earlier file.
    outcomes: HashSet<String>,
}

impl Search {
    fn take(&mut self, event: &Event, begin: u64, tables: &[CapturedTable]) -> Result<()> {
        let kind = event.header().event_type_raw();
        if let Some(mark) = gtid_mark(event)? {
            (self.begin, self.current, self.has_rows) = ((begin, mark.committed_at), None, false);
        } else if is_table_map(kind) && self.current.is_some() {
            self.has_rows |= captured(event, tables)?.1.is_some();
        } else if kind == EventType::XA_PREPARE_LOG_EVENT as u8 {
            // The event of `XA COMMIT … ONE PHASE` includes the outcome.
            let is_open = event.data().first() != Some(&1);
            if let Some(xa) = self.current.take().filter(|_| is_open) {
                self.open.insert(xa, self.has_rows.then_some(self.begin));
            }
        } else {
            match xa_of(event)? {
                Some(Xa::Start(xa)) => self.current = Some(xa),
                Some(Xa::Commit(xa) | Xa::Rollback(xa)) if self.open.remove(&xa).is_none() => {
                    self.outcomes.insert(xa);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn xa_of(event: &Event) -> Result<Option<Xa>> {
    if event.header().event_type_raw() != EventType::QUERY_EVENT as u8 || !event.is_whole() {
        return Ok(None);
    }
    let query: QueryEvent<'_> = event.read_event().map_err(|e| damaged("QUERY", &e))?;
    Ok(statement::xa(query.query_raw()))
}

fn is_table_map(kind: u8) -> bool {
    kind == EventType::TABLE_MAP_EVENT as u8
}

fn is_rows(kind: u8) -> bool {
    [
        EventType::WRITE_ROWS_EVENT,
        EventType::UPDATE_ROWS_EVENT,
        EventType::DELETE_ROWS_EVENT,
        EventType::WRITE_ROWS_EVENT_V1,
        EventType::UPDATE_ROWS_EVENT_V1,
        EventType::DELETE_ROWS_EVENT_V1,
        EventType::PARTIAL_UPDATE_ROWS_EVENT,
    ]
    .into_iter()
    .any(|rows| rows as u8 == kind)
}

/// The error of a place that the server has purged, with the code of an XA transaction's rows.
fn rows_purged(error: Error) -> Error {
    if error.code() == Code::PositionPurged { error.with_code(Code::XaRowsPurged) } else { error }
}
