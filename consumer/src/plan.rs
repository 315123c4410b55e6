//! What the consumers make of the records of one schema: how they are decoded, transformed and written.
//!
//! Pure. A schema that is no table's has no plan, and its records become dead letters. A table that the rules or the
//! line do not fit stops the consumers: without its rules, rows would leak.

use std::sync::{Arc, Mutex};

use avro::Decoder;
use model::error::{Code, Error};
use model::schema::RecordSchema;
use rules::line::{Line, LineForm};
use rules::transform::{Rules, Transform};

use crate::sink::Layout;

/// The plan of the last schema that was seen, for what runs beside the loop.
pub(crate) type Latest = Arc<Mutex<Option<Arc<Plan>>>>;

/// What makes the plans of a topic.
#[derive(Clone, Debug)]
pub(crate) struct Planner {
    pub(crate) rules: Rules,
    pub(crate) form: LineForm,
    /// The key's columns in the topic's pinned schema; none without one.
    pub(crate) key: Vec<String>,
}

/// The plan of one schema.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) decoder: Decoder,
    rows: Result<RowPlan, Misfit>,
}

/// What becomes of a decoded row.
#[derive(Debug)]
pub(crate) struct RowPlan {
    pub(crate) transform: Transform,
    pub(crate) line: Line,
    /// For PostgreSQL.
    pub(crate) layout: Arc<Layout>,
}

/// Why rows can't be processed, and what to do about it.
#[derive(Clone, Debug)]
struct Misfit {
    reason: String,
    remedy: String,
}

impl Planner {
    /// For a topic with this pinned schema, if it has one.
    pub(crate) fn new(rules: Rules, form: LineForm, pinned: Option<&str>) -> Self {
        let schema = pinned.and_then(|text| Decoder::new(text).ok()).map(|decoder| decoder.schema().clone());
        let columns = |schema: RecordSchema| {
            schema.key.iter().map(|place| schema.fields[*place].column.clone()).collect::<Vec<_>>()
        };
        Self { rules, form, key: schema.map(columns).unwrap_or_default() }
    }

    /// The plan of a schema (its JSON text).
    ///
    /// # Errors
    /// Why the schema is no table's, for a person.
    pub(crate) fn plan(&self, text: &str) -> Result<Arc<Plan>, String> {
        let mut decoder = Decoder::new(text)?;
        if !self.key.is_empty() && !avro::schema::names_key(text) {
            decoder.set_key(&self.key.iter().map(String::as_str).collect::<Vec<_>>());
        }
        let rows = self.rows(decoder.schema());
        Ok(Arc::new(Plan { decoder, rows }))
    }

    fn rows(&self, schema: &RecordSchema) -> Result<RowPlan, Misfit> {
        let transform = self.rules.compile(schema).map_err(|e| Misfit { reason: e.to_string(), remedy: e.remedy() })?;
        let line = Line::new(self.form, &schema.name, &transform).map_err(|e| Misfit {
            reason: format!("{}: {e}", schema.name),
            remedy: "set consumer.line to nested".to_owned(),
        })?;
        let layout = Layout::new(&transform);
        Ok(RowPlan { transform, line, layout })
    }
}

impl Plan {
    /// The columns for PostgreSQL, if the rules fit.
    pub(crate) fn layout(&self) -> Option<Arc<Layout>> {
        self.rows.as_ref().ok().map(|rows| Arc::clone(&rows.layout))
    }

    /// What becomes of a row.
    ///
    /// # Errors
    /// Definite when the rules or the line do not fit the table.
    pub(crate) fn rows(&self) -> Result<&RowPlan, Error> {
        self.rows.as_ref().map_err(|Misfit { reason, remedy }| {
            Error::new(Code::RuleRefused, reason.clone()).with_remedy(remedy.clone())
        })
    }
}
