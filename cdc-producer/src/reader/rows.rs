//! Table maps and rows: finds the captured table of each, and appends the rows' records to the batch.

use model::change::{Op, Source};
use model::error::{Code, Error, Result};
use mysql::table::SourceTable;

use super::{CapturedTable, Reader, State, is_read_behind};
use crate::batch::Change;
use crate::dump::Event;
use crate::parked_rows::warn_of_first;
use crate::plan::{Plan, RowChange};

/// The table id of a table map, and the number of the captured table that it names, if it is one.
pub(super) fn captured(event: &Event, tables: &[CapturedTable]) -> Result<(u64, Option<usize>)> {
    let (id, database, name) = Plan::table_of(event)?;
    let is_it = |table: &CapturedTable| {
        let table = table.encoder.table();
        table.table == name && table.database == database
    };
    Ok((id, tables.iter().position(is_it)))
}

/// The number of a table as a batch has it; [`crate::taken`] allows no more tables.
pub(super) fn table_number(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

impl Reader {
    pub(super) async fn table_map(&mut self, state: &mut State, event: &Event) -> Result<()> {
        let group = self.group(state)?;
        let (id, number) = captured(event, &self.tables)?;
        let Some(number) = number else {
            state.ids.insert(id, None);
            return Ok(());
        };
        if let Some((_, kept)) = &mut group.xa {
            kept.push(event);
            return Ok(());
        }
        let progress = self.progress.table(&self.source, &self.tables[number].name);
        if progress.is_some_and(|progress| is_read_behind(progress, &self.stream)) {
            state.ids.insert(id, None);
            return Ok(());
        }
        state.ids.insert(id, Some(number));
        if !state.plans[number].as_ref().is_some_and(|(i, bytes, _)| *i == id && bytes == event.data()) {
            if self.tables[number].encoder.table().is_derived {
                self.require_same_columns(number).await?;
            }
            let plan = Plan::new(event, self.tables[number].encoder.clone())?;
            state.plans[number] = Some((id, event.data().to_vec(), plan));
        }
        Ok(())
    }

    /// A table map came that may describe other columns than the schema was made from.
    ///
    /// # Errors
    /// Transient when the table has other columns now too: the next session makes its schema from them. If it has not,
    /// the columns of these rows are gone from the table.
    async fn require_same_columns(&mut self, number: usize) -> Result<()> {
        let table = self.tables[number].encoder.table();
        let mut now = SourceTable::inspect(&mut self.conn, &table.database, &table.table, &table.contract).await?;
        now.keep_spelling([&*table.schema].into_iter());
        if now.schema == table.schema {
            return Ok(());
        }
        Err(Error::transient(format!("{} has other columns now: their schema is registered next", table.full_name())))
    }

    pub(super) async fn rows(&mut self, state: &mut State, event: Event) -> Result<()> {
        let id = Plan::table_id(&event)?;
        let number = state.ids.get(&id).copied();
        if number == Some(None) {
            return Ok(());
        }
        if let Some((_, kept)) = &mut self.group(state)?.xa {
            kept.push(&event);
            return Ok(());
        }
        let Some(number) = number.flatten() else { return Err(self.unmapped(id)) };
        let CapturedTable { encoder, letters, sweep, .. } = &self.tables[number];
        let table = encoder.table();
        let event = self.stream.complete(event).await.map_err(|e| e.at(&format!("rows of {}", table.full_name())))?;
        let State { batch, group: Some(group), plans, chunk, rows, .. } = state else {
            return Err(self.unmapped(id));
        };
        let Some((planned, _, plan)) = &mut plans[number] else { return Err(self.unmapped(id)) };
        if *planned != id {
            return Err(self.unmapped(id));
        }
        let mut source = Source {
            op: Op::Create,
            ts_us: group.mark.committed_at.0,
            pos: group.pos.as_str().into(),
            row: rows[number],
            epoch: self.progress.epoch,
        };
        let letters = letters.as_ref();
        let mut chunk = chunk.as_mut().filter(|(of, _)| *of == number).map(|(_, chunk)| chunk);
        {
            let mut candidates = sweep.candidates();
            let mut put = |op: Op, change: Change<'_>, key: &[u8]| {
                source.op = op;
                batch.push(table_number(number), change, &source);
                source.row += 1;
                if let Some(chunk) = &mut chunk {
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
        rows[number] = source.row;
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
        Error::new(
            Code::EventUnreadable,
            format!("the binlog has rows of table number {id} without its table map, before {file}:{offset}"),
        )
        .with_remedy("report it with the server's version; to continue after it: `cdc-producer checkpoint reset`")
    }
}
