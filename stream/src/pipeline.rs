//! The places of the pipeline and its tables, as the settings name them.

use consumer::tables::{self, Taken};
use kafka::{LastRecords, committed_progress};
use model::error::{Code, Error, Result};
use model::position::Progress;
use runtime::config::{KafkaSettings, MySqlSettings, Pattern, PostgresSettings, Settings};

/// The places of the pipeline.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// All settings.
    pub settings: Settings,
    /// The main table's.
    pub kafka: KafkaSettings,
    /// The source.
    pub mysql: MySqlSettings,
    /// `None` when it is off.
    pub postgres: Option<PostgresSettings>,
}

impl Pipeline {
    /// Reads them from the settings.
    ///
    /// # Errors
    /// Usage, naming the setting.
    pub fn new(settings: &Settings) -> Result<Self> {
        Ok(Self {
            kafka: KafkaSettings::from(settings)?,
            mysql: MySqlSettings::from(settings)?,
            postgres: PostgresSettings::from(settings)?,
            settings: settings.clone(),
        })
    }

    /// The tables that are taken; the main table is first.
    ///
    /// # Errors
    /// Usage when two tables have one topic.
    pub fn tables(&self, progress: Option<&Progress>) -> Result<Vec<Taken>> {
        let mut tables = tables::with_progress(&self.settings, progress)?;
        let main = self.settings.main_table();
        tables.sort_by_key(|table| table.name != main);
        Ok(tables)
    }

    /// The tables that are taken, after a look at the progress where patterns take them. Blocks.
    ///
    /// # Errors
    /// As [`Pipeline::tables`] and [`committed_progress::now`].
    pub fn known_tables(&self, records: &LastRecords) -> Result<Vec<Taken>> {
        let has_patterns = self.settings.tables()?.has_patterns();
        let progress = if has_patterns { committed_progress::now(records, &self.kafka)? } else { None };
        self.tables(progress.as_ref())
    }
}

/// The tables of `--table`, or all of them.
///
/// # Errors
/// Usage when the table is not taken, with those that are.
pub(crate) fn select(tables: Vec<Taken>, only: Option<&str>) -> Result<Vec<Taken>> {
    let Some(only) = only else { return Ok(tables) };
    let name = Pattern::parse(only).ok().and_then(|pattern| pattern.exact());
    let names: Vec<String> = tables.iter().map(|table| table.name.to_string()).collect();
    let found: Vec<Taken> = tables.into_iter().filter(|table| Some(&table.name) == name.as_ref()).collect();
    if found.is_empty() {
        return Err(Error::new(Code::CommandLine, format!("{only} is not taken"))
            .with_remedy(format!("name one of {}; `stream tables` lists all", names.join(", "))));
    }
    Ok(found)
}

/// The only table, or that of `--table`.
///
/// # Errors
/// Usage when there are several and none is named; as [`select`].
pub(crate) fn one(tables: Vec<Taken>, only: Option<&str>) -> Result<Taken> {
    let mut found = select(tables, only)?;
    match (found.len(), found.pop()) {
        (1, Some(table)) => Ok(table),
        (0, _) | (_, None) => Err(Error::new(Code::TableMissing, "the producer has taken no table yet")
            .with_remedy("start it; `stream tables` lists what it will take")),
        (_, Some(_)) => Err(Error::new(Code::CommandLine, "several tables are taken")
            .with_remedy("name one with --table DB.TABLE; `stream tables` lists them")),
    }
}
