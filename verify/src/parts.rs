//! The places to compare, from the settings.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use model::error::Result;
use model::table_name::TableName;
use runtime::config::{KafkaSettings, MySqlSettings, PINNED_SCHEMA, PostgresSettings, RegistrySettings, Settings};

use crate::contract;
use crate::line::{self, Form};
use crate::logs::Others;
use crate::rules::{self, Rules};

/// The places to compare.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) mysql: MySqlSettings,
    pub(crate) kafka: KafkaSettings,
    pub(crate) registry: RegistrySettings,
    pub(crate) postgres: Option<PostgresSettings>,
    pub(crate) rules: Rules,
    pub(crate) form: Form,
    /// Logs folders.
    pub(crate) logs: Vec<PathBuf>,
    /// The main table, `database.table`, after which the progress is named.
    pub(crate) source: String,
    /// The tables that are compared in other runs, if there are any.
    pub(crate) others: Option<Others>,
    /// Bytes that a pass may keep.
    pub(crate) memory: usize,
}

impl Parts {
    /// Reads them from the settings.
    ///
    /// # Errors
    /// Usage, with the name of the setting.
    pub(crate) fn from(settings: &Settings) -> Result<Self> {
        Ok(Self {
            mysql: MySqlSettings::from(settings)?,
            kafka: KafkaSettings::from(settings)?,
            registry: RegistrySettings::from(settings)?,
            postgres: PostgresSettings::from(settings)?,
            rules: rules::of(settings)?,
            form: line::form(settings),
            logs: folders(settings.text("consumer.logs")),
            source: settings.main_table().to_string(),
            others: None,
            memory: memory(settings)?,
        })
    }
}

impl Parts {
    /// The places of each of these tables; the first run reports the lines that belong to none.
    ///
    /// # Errors
    /// As [`Self::from`].
    pub(crate) fn of_tables(settings: &Settings, tables: &[TableName]) -> Result<Vec<Self>> {
        let mut parts = Vec::new();
        for name in tables {
            parts.push(Self::from(&settings.of_table(name))?);
        }
        if let [_] = tables {
            return Ok(parts);
        }
        let mut names: HashSet<String> = tables.iter().map(record_name).collect();
        names.insert(contract::parse(PINNED_SCHEMA)?.name);
        let has_flat = parts.iter().any(|parts| parts.form == Form::Flat);
        for (number, (parts, name)) in parts.iter_mut().zip(tables).enumerate() {
            let own = (parts.form == Form::Nested).then(|| record_name(name));
            parts.others = Some(Others { own, names: names.clone(), has_flat, reports_unknown: number == 0 });
        }
        Ok(parts)
    }
}

fn memory(settings: &Settings) -> Result<usize> {
    let memory = settings.bytes("verify.memory")?;
    if memory >= LEAST_MEMORY {
        return Ok(memory);
    }
    let reason = format!("is less than {} KiB", LEAST_MEMORY >> 10);
    Err(settings.wrong("verify.memory", &reason).with_remedy("set it to 64KiB or more; leave it out for 256 MiB"))
}

/// The full name of the records of a table whose schema is made from it.
fn record_name(table: &TableName) -> String {
    format!("{}.{}", avro::schema::adjusted(&table.database), avro::schema::adjusted(&table.table))
}

/// The logs folders of a setting: paths separated by commas, unless a folder has the whole text as its name.
fn folders(text: &str) -> Vec<PathBuf> {
    if Path::new(text).is_dir() { vec![text.into()] } else { text.split(',').map(|p| p.trim().into()).collect() }
}

/// Bytes that a pass may keep, at least.
const LEAST_MEMORY: usize = 64 << 10;
