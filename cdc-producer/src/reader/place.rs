//! Moves the position between two transactions, and over transactions that were read before.

use model::error::{Code, Error, Result};
use model::gtid::GtidSet;
use model::position::{Anchor, BinlogOffset};
use mysql_async::binlog::EventType;

use super::{Group, Reader, State};
use crate::dump::{Event, HEARTBEAT_V2};
use crate::history;
use crate::probe;
use crate::transaction::GtidMark;

impl Reader {
    /// Whether the transaction that is being skipped has ended before this event.
    pub(super) fn pass_over(&mut self, state: &mut State, event: &Event) -> bool {
        use EventType as E;
        let header = event.header();
        let is_heartbeat =
            header.event_type_raw() == HEARTBEAT_V2 || header.event_type() == Ok(EventType::HEARTBEAT_EVENT);
        let ends = matches!(
            event.header().event_type(),
            Ok(E::GTID_EVENT
                | E::ANONYMOUS_GTID_EVENT
                | E::GTID_TAGGED_LOG_EVENT
                | E::ROTATE_EVENT
                | E::STOP_EVENT
                | E::FORMAT_DESCRIPTION_EVENT)
        );
        if !ends && !is_heartbeat {
            return false;
        }
        let position = &mut self.progress.position;
        let (file, end) = self.stream.place();
        if file == position.file {
            // The server sends a heartbeat at the end of the binlog, which is between two transactions.
            position.offset = if is_heartbeat { end } else { self.stream.begin() };
        }
        if let Some(anchor) = &mut position.anchor {
            anchor.last = state.passed.take();
        }
        state.passed = None;
        state.moved = true;
        true
    }

    /// Processes an event between two transactions, heartbeats included.
    pub(super) async fn between(&mut self, state: &mut State, event: &Event) -> Result<()> {
        let position = &mut self.progress.position;
        let (file, _) = self.stream.place();
        if let Some(created) = probe::created(event) {
            match &position.anchor {
                Some(anchor) if position.file == file && anchor.created != created => {
                    return Err(Error::transient(format!(
                        "the server created {file} at another time than the file of the position {position}"
                    )));
                }
                Some(_) if position.file == file => {}
                _ => state.head = Some(created),
            }
        }
        if let Some(previous) = probe::previous_gtids(event)? {
            self.enter(state, previous).await?;
        }
        // Only the head of a file distinguishes it from another one of the same name, so wait until it is read.
        if state.head.is_some() || self.progress.position.file != self.stream.place().0 {
            return Ok(());
        }
        self.place();
        if !state.moved && state.batch.is_empty() {
            let (file, offset) = self.stream.place();
            self.status.nothing_until(&state.flushed_to, BinlogOffset { file: file.to_owned(), offset });
        }
        Ok(())
    }

    /// The head of a file was read: the file begins after these GTIDs.
    async fn enter(&mut self, state: &mut State, previous: GtidSet) -> Result<()> {
        let position = &mut self.progress.position;
        let (file, _) = self.stream.place();
        if position.file != file {
            history::follows(&self.endpoint, position).await?;
        }
        self.continuity.file(previous, file, position)?;
        if let Some(created) = state.head.take() {
            position.anchor = Some(Anchor { created, last: None });
        }
        // A new file counts as progress; otherwise the old one would still seem to be needed after it was purged.
        state.moved = true;
        self.place();
        Ok(())
    }

    /// Copies the stream's file and offset into the progress.
    pub(super) fn place(&mut self) {
        let (file, offset) = self.stream.place();
        let position = &mut self.progress.position;
        if position.file != file {
            file.clone_into(&mut position.file);
        }
        position.offset = offset;
    }

    /// Begins a transaction, or skips it when it was read before.
    pub(super) fn begin(&mut self, state: &mut State, mark: GtidMark) -> Result<()> {
        if let Some(open) = &state.group {
            return Err(Error::new(Code::EventsLost, format!(
                "the binlog's transaction {} has no end before the next one begins at {}",
                open.pos, self.progress.position
            ))
            .with_remedy("its events may be lost or damaged: check the server's binlog with mysqlbinlog, then `cdc-producer checkpoint reset`"));
        }
        if state.head.is_some() {
            let file = self.stream.place().0;
            return Err(Error::new(
                Code::EventsLost,
                format!("{file} does not begin with the GTIDs of the files before it"),
            )
            .with_remedy("look at the file with mysqlbinlog, then `cdc-producer checkpoint reset`"));
        }
        let begin = self.stream.begin();
        let set = self.progress.position.gtid_set.as_ref();
        if let (Some(set), Some((source, number))) = (set, &mark.gtid)
            && set.contains(source, *number)
        {
            state.passed = Some(mark.at(begin));
            return Ok(());
        }
        // Without a GTID: the place behind its first event, so that it differs from the end of the previous
        // transaction, which can be a snapshot's position.
        let pos = mark.text().unwrap_or_else(|| {
            let (file, offset) = self.stream.place();
            format!("{file}:{offset}")
        });
        let batch_start = Some(state.batch.len());
        state.group = Some(Group { mark, begin, pos, rows_follow: false, xa: None, batch_start });
        state.ids.clear();
        state.rows.fill(0);
        self.settle();
        Ok(())
    }

    /// Ends the complete transaction.
    pub(super) async fn end(&mut self, state: &mut State) -> Result<()> {
        self.group(state)?;
        let Some(group) = state.group.take() else { return Ok(()) };
        self.place();
        let position = &mut self.progress.position;
        position.committed_at = position.committed_at.max(group.mark.committed_at);
        let gtid = group.mark.gtid.as_ref();
        self.continuity.transaction(position, gtid.map(|(source, number)| (source.as_str(), *number)));
        if let Some(anchor) = &mut position.anchor {
            anchor.last = Some(group.mark.at(group.begin));
        }
        state.moved = true;
        if group.batch_start.is_none() || state.batch.is_full() || state.overdue {
            self.flush(state, true).await?;
        }
        Ok(())
    }
}
