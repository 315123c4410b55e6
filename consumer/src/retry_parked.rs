//! `consumer retry-parked` and `stream dlq retry-parked`: what is parked for PostgreSQL is written to it again.

use std::fmt;

use model::error::{Error, Result};
use runtime::config::{KafkaSettings, PostgresSettings, Settings};
use serde::Serialize;

use crate::sink::{Sink, SinkTable};
use crate::tables::{self, Taken};

/// What the consumers write again.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Retried {
    /// Keys whose last state is parked.
    pub keys: i64,
    /// Partitions that are written again from the first record of these keys on.
    pub partitions: u64,
}

impl fmt::Display for Retried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { keys, partitions } = self;
        write!(
            f,
            "{keys} keys are parked for PostgreSQL; the consumers write {partitions} partitions to it again from their \
             records on"
        )
    }
}

/// Makes the consumers, which may run, read the records that are parked for PostgreSQL from the topic once more.
///
/// # Errors
/// Usage when PostgreSQL is off; transient when it can't be reached, definite when it refuses.
pub async fn retry_parked(settings: &Settings) -> Result<Retried> {
    let postgres = PostgresSettings::from(settings)?.ok_or_else(|| {
        Error::usage("postgres.url is not set, so nothing is parked").with_remedy("set it as for the consumers")
    })?;
    let kafka = KafkaSettings::from(settings)?;
    let tables = tokio::task::block_in_place(|| tables::known(settings, &kafka, &|| false))?;
    let mut sink = Sink::new(&postgres)?;
    for Taken { topic, settings, kafka, .. } in tables {
        let table = settings.text("postgres.table").to_owned();
        sink.add(topic, SinkTable { topic: kafka.topic, table, pinned: None });
    }
    let (keys, partitions) = sink.retry_parked().await?;
    Ok(Retried { keys, partitions })
}
