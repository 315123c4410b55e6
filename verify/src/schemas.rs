//! Looks up the schemas that values were written with by their ids, and decides what a value is whose id the registry
//! does not have: a registry may have lost its schemas.
//!
//! The producer's progress lists the ids of its schema and the offsets from which that list is complete. An id that
//! neither the registry nor the list has proves that the producer did not write the record, where the list is complete;
//! elsewhere the value is read by the contract's schema, and has to fit exactly.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use avro::registry::Registry;
use kafka::committed_progress;
use model::error::Result;
use model::schema::{Field, RecordSchema};
use runtime::config::{KafkaSettings, PINNED_SCHEMA, RegistrySettings};
use tokio::runtime::Handle;

use crate::contract::{self, Contract};
use crate::line::Form;
use crate::rules::Rules;
use crate::source::Source;
use crate::writer::Writer;

/// Maximum number of ids that are kept; any writer to the topic can invent ids.
const MOST_IDS: usize = 1_000;

/// How a value is to be read.
pub(crate) enum Reading {
    By(Arc<Writer>),
    /// By the contract's schema if the value fits exactly; otherwise the reason is why it can't be read.
    Perhaps(Arc<Writer>, String),
    Never(String),
}

/// Use it on a thread that may block.
pub(crate) struct Schemas {
    registry: Registry,
    kafka: KafkaSettings,
    runtime: Handle,
    contract: Arc<Contract>,
    /// The reader of the contract's values.
    ours: Result<Arc<Writer>, String>,
    by_id: HashMap<u32, Result<Arc<Writer>, String>>,
    noted: Noted,
}

/// The ids in the producer's progress.
#[derive(Default)]
struct Noted {
    ids: BTreeSet<u32>,
    /// By partition, the offset from which the list is complete; `None` if it never is.
    from: Option<Vec<i64>>,
    /// By partition, the end of the records that this progress covers.
    ends: Vec<i64>,
}

impl Noted {
    fn covers(&self, partition: i32, offset: i64) -> bool {
        at(&self.ends, partition).is_some_and(|end| offset < end)
    }

    fn is_complete_at(&self, partition: i32, offset: i64) -> bool {
        self.from.as_ref().is_some_and(|from| offset >= at(from, partition).unwrap_or(0))
    }
}

fn at(offsets: &[i64], partition: i32) -> Option<i64> {
    offsets.get(usize::try_from(partition).ok()?).copied()
}

/// The contract of the topic's records: the subject's latest schema when it is the producer's, else the pinned one.
///
/// # Errors
/// As [`Registry::latest`] and [`Contract::new`].
pub(crate) async fn contract(
    registry: &RegistrySettings,
    pinned: &RecordSchema,
    source: &Source,
    rules: Rules,
    form: Form,
) -> Result<Contract> {
    let latest = Registry::new(registry.clone())?.latest().await?;
    let is_ours = |text: &String| contract::parse(text).is_ok_and(|latest| is_producers(&latest, pinned, source));
    let text = latest.filter(is_ours).unwrap_or_else(|| PINNED_SCHEMA.to_owned());
    Contract::new(source, &text, &pinned.name, rules, form)
}

/// Whether the producer may have registered this schema. One of the pinned name has all pinned fields, and others only
/// for columns of the table; a person may have registered any that is compatible.
fn is_producers(latest: &RecordSchema, pinned: &RecordSchema, source: &Source) -> bool {
    let has = |field: &Field| latest.fields.iter().any(|f| (&f.column, f.kind) == (&field.column, field.kind));
    let is_column = |field: &Field| source.columns.iter().any(|c| c.name.eq_ignore_ascii_case(&field.column));
    latest.name != pinned.name || (pinned.fields.iter().all(has) && latest.fields.iter().all(is_column))
}

impl Schemas {
    /// For the records of `kafka.topic`. Call it within a runtime.
    ///
    /// # Errors
    /// As [`Registry::new`].
    pub(crate) fn new(registry: RegistrySettings, kafka: KafkaSettings, contract: Arc<Contract>) -> Result<Self> {
        let registry = Registry::new(registry)?;
        let ours = Writer::new(&contract.schema, &contract).map(Arc::new);
        let runtime = Handle::current();
        let (by_id, noted) = (HashMap::new(), Noted { from: Some(Vec::new()), ..Noted::default() });
        Ok(Self { registry, kafka, runtime, contract, ours, by_id, noted })
    }

    /// How the value of the record at this place is to be read. Blocks.
    ///
    /// # Errors
    /// As [`Registry::find_schema`] and [`committed_progress::with_ends`]; transient when the registry does not have the
    /// subject.
    pub(crate) fn reading(&mut self, id: u32, partition: i32, offset: i64) -> Result<Reading> {
        let is_known = match self.by_id.get(&id) {
            Some(Ok(_)) => true,
            // A registry that has lost its schemas may assign an unknown id to later records.
            Some(Err(_)) => self.noted.covers(partition, offset),
            None => false,
        };
        if !is_known {
            let found = self.find(id, partition, offset)?;
            if self.by_id.len() >= MOST_IDS {
                self.by_id.clear();
            }
            self.by_id.insert(id, found);
        }
        Ok(match (self.by_id.get(&id), &self.ours) {
            (Some(Ok(writer)), _) => Reading::By(Arc::clone(writer)),
            (Some(Err(reason)), Ok(ours)) if !self.noted.is_complete_at(partition, offset) => {
                Reading::Perhaps(Arc::clone(ours), reason.clone())
            }
            (Some(Err(reason)), _) => Reading::Never(reason.clone()),
            (None, _) => Reading::Never(format!("schema {id} was not looked up")),
        })
    }

    /// The reader of the values with this id, or the reason for a person why there is none.
    fn find(&mut self, id: u32, partition: i32, offset: i64) -> Result<Result<Arc<Writer>, String>> {
        let text = self.runtime.block_on(self.registry.find_schema(id))?;
        let writer =
            |text: String| Writer::new(&text, &self.contract).map(Arc::new).map_err(|e| format!("schema {id}: {e}"));
        let found = text.map(|text| text.and_then(writer));
        if let (Some(Ok(writer)), Ok(ours)) = (&found, &self.ours)
            && writer.is_same(ours)
        {
            return Ok(Ok(Arc::clone(writer)));
        }
        if !self.runtime.block_on(self.registry.has_subject())? {
            return Err(self.registry.has_lost(id));
        }
        if !self.noted.covers(partition, offset) {
            let (ends, progress) = committed_progress::with_ends(&self.kafka, &|| false)?;
            let (ids, from) = progress.map_or((None, None), |p| (p.main.schema_ids, p.main.schema_ids_from));
            self.noted = Noted { ids: ids.unwrap_or_default(), from, ends };
            self.by_id.retain(|_, found| found.is_ok());
        }
        // A noted id may be another schema's now, if the registry has lost its own since.
        match found {
            Some(Ok(found)) if self.runtime.block_on(self.registry.subject_has(id))? => Ok(Ok(found)),
            _ if self.noted.ids.contains(&id) => Ok(self.ours.clone()),
            Some(Err(reason)) if self.runtime.block_on(self.registry.subject_has(id))? => Ok(Err(reason)),
            Some(_) => Ok(Err(format!("schema {id} is one of another subject"))),
            None => Ok(Err(format!("the registry has no schema {id}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::TableColumn;

    #[test]
    fn a_schema_with_a_field_that_is_no_column_is_not_the_producers() {
        let schema = |name: &str, columns: &[&str]| {
            let fields: Vec<String> = columns.iter().map(|c| format!(r#"{{"name":"{c}","type":"long"}}"#)).collect();
            contract::parse(&format!(r#"{{"type":"record","name":"{name}","fields":[{}]}}"#, fields.join(",")))
                .expect("a schema")
        };
        let column = |name: &str| TableColumn { name: name.to_owned(), stored: "bigint".to_owned() };
        let columns = ["id", "Stock", "price"].map(column).into();
        let source = Source { database: "shop".to_owned(), table: "product".to_owned(), columns, key: Vec::new() };
        let pinned = schema("Product", &["id", "price"]);
        for (name, columns, want) in [
            ("Product", &["id", "price"][..], true),
            ("Product", &["id", "price", "stock"], true),
            ("Product", &["x1", "id", "price"], false),
            ("Product", &["id", "stock"], false),
            ("other", &["gone", "id"], true),
        ] {
            assert_eq!(is_producers(&schema(name, columns), &pinned, &source), want, "{name} {columns:?}");
        }
    }
}
