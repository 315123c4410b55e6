//! Writes the rows of a batch, one statement per layout: deletes, copies, upserts.

use std::collections::HashSet;
use std::pin::{Pin, pin};

use tokio_postgres::Client;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{ToSql, Type};

use super::layout::Layout;
use super::rows::TableRows;
use super::session::{Keyed, Outcome, Prepared, States, Writer};
use super::statements::replace;
use super::store_error::StoreError;
use crate::sql_value::{Array, Raw, sent_as};

/// A statement that is sent when it is polled first, so that several may be sent before the first answer.
pub(super) type Statement<'s> = Pin<Box<dyn Future<Output = Outcome<()>> + Send + 's>>;

impl<'w> Writer<'w> {
    /// The states by layout; [`Session::prepare`](super::session::Session::prepare) has prepared each.
    pub(super) fn groups<'s, 'a>(
        &'s self,
        rows: &'s TableRows,
        states: &'s States<'a>,
    ) -> Vec<(&'s Prepared, Vec<Keyed<'a>>)> {
        let prepared = rows.layouts.iter().enumerate().filter_map(|(number, layout)| {
            let prepared = self.table.prepared.iter().find(|known| known.layout == *layout)?;
            let states: Vec<Keyed<'a>> = states.iter().filter(|state| state.last.layout == number).copied().collect();
            Some((prepared, states))
        });
        prepared.filter(|(_, states)| !states.is_empty()).collect()
    }

    /// Why the table can't hold a state, as far as it is known without asking.
    pub(super) fn limit(&self, rows: &TableRows, state: &Keyed<'_>) -> Option<StoreError> {
        let layout = rows.layouts.get(state.last.layout)?;
        let prepared = self.table.prepared.iter().find(|known| known.layout == *layout)?;
        let row = state.last.row.as_ref()?;
        prepared.limits.refusal(&prepared.layout, rows.fields(row))
    }

    /// Copies the rows that the table lacks into it; returns the other states.
    pub(super) async fn copy<'a>(&self, rows: &TableRows, states: &States<'a>) -> Outcome<Vec<Keyed<'a>>> {
        let mut others = Vec::new();
        for (prepared, mut states) in self.groups(rows, states) {
            if prepared.copies {
                let keys = KeyArrays::of(rows, &prepared.layout, states.iter());
                let present = self.client.query_typed(&prepared.statements.present, &keys.columns()).await?;
                let values = |row: &tokio_postgres::Row| {
                    (0..row.len()).map(|n| row.get::<_, Raw<'_>>(n).0.map(<[u8]>::to_vec)).collect()
                };
                let present: HashSet<Vec<Option<Vec<u8>>>> = present.iter().map(values).collect();
                copy_new(self.client, rows, prepared, &states, &present).await?;
                states.retain(|state| present.contains(&state.key_values(rows)));
            }
            others.extend(states);
        }
        Ok(others)
    }

    /// The upserts of these states. Each is sent when it is polled first.
    pub(super) fn upserts<'s>(&'s self, rows: &'s TableRows, states: &'s States<'_>) -> Vec<Statement<'s>> {
        let mut upserts: Vec<Statement<'s>> = Vec::new();
        for (prepared, states) in self.groups(rows, states) {
            let columns = &prepared.layout.columns;
            let mut arrays: Vec<Array> = columns.iter().map(|column| Array::new(sent_as(column.kind).0)).collect();
            let (mut partitions, mut offsets) = (Vec::new(), Vec::new());
            for state in &states {
                let Some(row) = &state.last.row else { continue };
                arrays.iter_mut().zip(rows.fields(row)).for_each(|(array, value)| array.push(value));
                partitions.push(state.last.partition);
                offsets.push(state.last.offset);
            }
            if partitions.is_empty() {
                continue;
            }
            upserts.push(Box::pin(async move {
                let sent = |(array, column): (_, &rules::transform::Column)| {
                    let array: &Array = array;
                    (array as &(dyn ToSql + Sync), sent_as(column.kind).1)
                };
                let mut parameters: Vec<_> = arrays.iter().zip(columns).map(sent).collect();
                parameters.push((&partitions, Type::INT4_ARRAY));
                parameters.push((&offsets, Type::INT8_ARRAY));
                self.execute(&prepared.statements.upsert, &parameters).await
            }));
        }
        upserts
    }

    /// The deletes of these states. Each is sent when it is polled first.
    pub(super) fn deletes<'s>(&'s self, rows: &'s TableRows, states: &'s States<'_>) -> Vec<Statement<'s>> {
        let mut deletes: Vec<Statement<'s>> = Vec::new();
        for (prepared, states) in self.groups(rows, states) {
            let gone = states.iter().filter(|state| state.last.row.is_none());
            let keys = KeyArrays::of(rows, &prepared.layout, gone);
            if !keys.partitions.is_empty() {
                deletes
                    .push(Box::pin(async move { self.execute(&prepared.statements.delete, &keys.parameters()).await }));
            }
        }
        deletes
    }

    pub(super) async fn replace(&self, rows: &TableRows, states: &States<'_>) -> Outcome<()> {
        for (prepared, states) in self.groups(rows, states) {
            let keys: Vec<String> = states.iter().map(Keyed::parked_key).collect();
            let partitions: Vec<i32> = states.iter().map(|state| state.last.partition).collect();
            let offsets: Vec<i64> = states.iter().map(|state| state.last.offset).collect();
            let parameters: [(&(dyn ToSql + Sync), Type); 4] = [
                (self.topic(), Type::TEXT),
                (&keys, Type::TEXT_ARRAY),
                (&partitions, Type::INT4_ARRAY),
                (&offsets, Type::INT8_ARRAY),
            ];
            self.execute(&replace(prepared.layout.parked_key()), &parameters).await?;
        }
        Ok(())
    }
}

/// Copies the rows whose keys are not present into the table. Its statement has a name, which must be closed before the
/// transaction ends: with a pooler, the next transaction uses another connection.
async fn copy_new(
    client: &Client,
    rows: &TableRows,
    prepared: &Prepared,
    states: &[Keyed<'_>],
    present: &HashSet<Vec<Option<Vec<u8>>>>,
) -> Result<(), tokio_postgres::Error> {
    let new = states.iter().filter(|state| !present.contains(&state.key_values(rows)));
    let mut new = new.filter_map(|state| Some((state, state.last.row.as_ref()?))).peekable();
    if new.peek().is_none() {
        return Ok(());
    }
    let types = prepared.layout.copied_types();
    let statement = client.prepare(&prepared.statements.copy).await?;
    let mut writer = pin!(BinaryCopyInWriter::new(client.copy_in(&statement).await?, &types));
    for (state, row) in new {
        let (partition, offset) = (state.last.partition.to_be_bytes(), state.last.offset.to_be_bytes());
        let mut values = Vec::with_capacity(types.len());
        values.extend(rows.fields(row).map(Raw));
        values.extend([Raw(Some(&partition)), Raw(Some(&offset))]);
        writer.as_mut().write_raw(values).await?;
    }
    writer.finish().await.map(drop)
}

/// The keys and offsets of states, as arrays.
struct KeyArrays {
    keys: Vec<(Array, Type)>,
    partitions: Vec<i32>,
    offsets: Vec<i64>,
}

impl KeyArrays {
    fn of<'a>(rows: &TableRows, layout: &Layout, states: impl Iterator<Item = &'a Keyed<'a>>) -> Self {
        let types = layout.key_columns().map(|column| sent_as(column.kind));
        let keys = types.map(|(element, array)| (Array::new(element), array)).collect();
        let mut arrays = Self { keys, partitions: Vec::new(), offsets: Vec::new() };
        for state in states {
            arrays.keys.iter_mut().zip(rows.fields(&state.last.key)).for_each(|((array, _), value)| array.push(value));
            arrays.partitions.push(state.last.partition);
            arrays.offsets.push(state.last.offset);
        }
        arrays
    }

    fn columns(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        self.keys.iter().map(|(array, kind)| (array as &(dyn ToSql + Sync), kind.clone())).collect()
    }

    fn parameters(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        let mut parameters = self.columns();
        parameters.push((&self.partitions, Type::INT4_ARRAY));
        parameters.push((&self.offsets, Type::INT8_ARRAY));
        parameters
    }
}
