//! The topics that the group reads, each with the settings of its table.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use kafka::{LastRecords, Partition, Topic, TopicSpec};
use model::error::Result;
use runtime::config::KafkaSettings;

use crate::tables::Taken;

/// The topics; a copy sees those that are added later.
#[derive(Clone, Debug, Default)]
pub(crate) struct Topics(Arc<RwLock<BTreeMap<Topic, Known>>>);

#[derive(Clone, Debug)]
struct Known {
    settings: KafkaSettings,
    /// The name of the table's records in nested lines.
    record: String,
}

impl Topics {
    /// Those of these tables.
    pub(crate) fn new(tables: &[Taken]) -> Self {
        let topics = Self::default();
        tables.iter().for_each(|table| topics.add(table));
        topics
    }

    /// Adds the topic of a table.
    pub(crate) fn add(&self, table: &Taken) {
        let [database, name] = [&table.name.database, &table.name.table].map(|name| avro::schema::adjusted(name));
        let known = Known { settings: table.kafka.clone(), record: format!("{database}.{name}") };
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(table.topic, known);
    }

    fn known(&self) -> BTreeMap<Topic, Known> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The settings of each topic's table.
    pub(crate) fn all(&self) -> BTreeMap<Topic, KafkaSettings> {
        self.known().into_iter().map(|(topic, known)| (topic, known.settings)).collect()
    }

    /// The topic of a line, which names its table if it is nested.
    pub(crate) fn of_line(&self, table: Option<&str>) -> Topic {
        let known = self.known();
        let found = known.iter().find(|(_, known)| Some(known.record.as_str()) == table);
        found.map_or(Topic::MAIN, |(topic, _)| *topic)
    }

    /// The topics of the tables.
    pub(crate) fn of_tables(&self) -> Vec<TopicSpec> {
        self.all().values().map(TopicSpec::products).collect()
    }

    /// The topics of the dead letters.
    pub(crate) fn of_letters(&self) -> Vec<TopicSpec> {
        self.all().values().map(TopicSpec::dead_letters).collect()
    }

    /// The present id of each topic that is there; `settings` are those of the pipeline. Blocks.
    ///
    /// # Errors
    /// Transient when Kafka can't be reached.
    pub(crate) fn ids(&self, settings: &KafkaSettings) -> Result<BTreeMap<Topic, String>> {
        let (mut ids, records) = (BTreeMap::new(), LastRecords::new(settings)?);
        for (topic, KafkaSettings { topic: name, .. }) in self.all() {
            ids.extend(records.topic_id(&name)?.map(|id| (topic, id)));
        }
        records.close();
        Ok(ids)
    }

    /// Every partition of every topic.
    pub(crate) fn partitions(&self) -> Vec<Partition> {
        let of = |(topic, settings): (Topic, KafkaSettings)| {
            (0..settings.partitions).map(move |number| Partition { topic, number })
        };
        self.all().into_iter().flat_map(of).collect()
    }
}
