//! What the worker keeps for each table whose topic it reads, and how it takes a table that appears while it runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::error::{Error, Result};
use runtime::config::PostgresSettings;

use super::table::Table;
use super::{Session, Worker};
use crate::batch::Scratch;
use crate::batch_error::BatchError;
use crate::dead_letter::Room;
use crate::plan::Latest;
use crate::sink::SinkTable;
use crate::tables::Taken;
use crate::topics::Topics;
use crate::{schemas, stale_rows};

impl Worker {
    /// Takes a table from now on.
    ///
    /// # Errors
    /// Usage when a setting can't be used.
    pub(super) fn take(&mut self, table: &Taken) -> Result<()> {
        let Taken { topic, settings, kafka, .. } = table;
        let schemas = schemas::open(settings, kafka)?;
        let pinned = schemas.decoders().ours().cloned();
        let (latest, name) = (Latest::default(), settings.text("postgres.table").to_owned());
        if let (Some(sink), Some(postgres)) = (&mut self.sink, PostgresSettings::from(settings)?) {
            let other = self.tables.values().find(|other| other.name == name);
            if let Some(other) = other {
                return Err(one_table(&name, &other.kafka.topic, &kafka.topic));
            }
            if postgres.schema != sink.schema() {
                return Err(Error::usage(format!("postgres.schema of table {} is not that of the others", table.name))
                    .with_remedy("set postgres.schema for all tables, as they are written in one transaction"));
            }
            let layout = pinned.as_ref().and_then(|plan| plan.layout());
            sink.add(*topic, SinkTable { topic: kafka.topic.clone(), table: name.clone(), pinned: layout });
            stale_rows::start(kafka.clone(), postgres, Arc::clone(&latest), self.shutdown.clone());
        }
        let (kafka, room) = (kafka.clone(), Room::of(kafka));
        self.topics.add(table);
        self.tables.insert(*topic, Table { kafka, name, schemas, scratch: Scratch::new(pinned, latest), room });
        Ok(())
    }

    /// Takes the tables that are known when the clients are created.
    pub(super) fn take_known(&mut self) -> Result<(), BatchError> {
        let known = crate::tables::known(&self.settings, &self.kafka, &|| self.shutdown.is_cancelled());
        for table in self.new_tables(known.map_err(BatchError::at_start)?) {
            self.take(&table)?;
        }
        if self.tables.is_empty() {
            let error = Error::transient("the producer's progress has no table that `tables` takes");
            return Err(BatchError::at_start(error.with_remedy("start the producer, or correct tables")));
        }
        Ok(())
    }

    /// Subscribes to the topics of tables that have appeared.
    pub(super) fn take_appeared(&mut self, session: &mut Session) -> Result<(), BatchError> {
        let Ok(found) = self.appeared.try_recv() else { return Ok(()) };
        let new = self.new_tables(found);
        if new.is_empty() {
            return Ok(());
        }
        let topics = Topics::new(&new);
        self.runtime
            .block_on(kafka::ensure_topics(&self.kafka, &[topics.of_tables(), topics.of_letters()].concat()))?;
        let ids: BTreeMap<_, _> = topics.ids(&self.kafka)?;
        for table in &new {
            tracing::info!(table = %table.name, topic = table.kafka.topic, "a table has appeared");
            self.take(table)?;
            ids.get(&table.topic).into_iter().for_each(|id| session.checkpoint.note_topic(&table.kafka.topic, id));
        }
        session.group.subscribe_again();
        Ok(())
    }

    fn new_tables(&self, found: Vec<Taken>) -> Vec<Taken> {
        found.into_iter().filter(|table| !self.tables.contains_key(&table.topic)).collect()
    }
}

fn one_table(name: &str, one: &str, other: &str) -> Error {
    Error::usage(format!("the topics {one} and {other} have one table in PostgreSQL, {name}"))
        .with_remedy("give one of them another: table: {database.table: {postgres: {table: …}}}")
}
