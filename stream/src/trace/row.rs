//! The row in MySQL now, in the form that its record would have.

use avro::Decoder;
use cdc_producer::plan::Encoder;
use cdc_producer::server;
use cdc_producer::settings::ProducerSettings;
use consumer::tables::Taken;
use model::error::{Code, Error, Result};
use model::row_key::read_key;
use mysql::select;
use mysql::table::{self, SourceTable};
use tokio::time::{Duration, timeout};

use super::facts::SourceRow;
use crate::record::Row;

/// The time that the server has to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is no key of the table.
#[derive(Clone, Debug)]
pub(crate) struct NoKey(String, String);

impl NoKey {
    pub(crate) fn to_usage(&self) -> Error {
        Error::new(Code::CommandLine, self.0.clone()).with_remedy(self.1.clone())
    }
}

/// A key as records have it: an array of several columns without spaces.
pub(crate) fn normalised(key: &str) -> String {
    let array =
        key.trim().starts_with('[').then(|| serde_json::from_str::<Vec<&serde_json::value::RawValue>>(key).ok());
    match array.flatten() {
        Some(parts) => format!("[{}]", parts.iter().map(|part| part.get()).collect::<Vec<_>>().join(",")),
        None => key.to_owned(),
    }
}

/// Reads the row; the inner error is a text that is no key of the table.
///
/// # Errors
/// Transient when MySQL does not answer; definite when a right or the table is missing.
pub(crate) async fn read(table: &Taken, key: &str) -> Result<Result<SourceRow, NoKey>> {
    let silent = || Error::transient(format!("MySQL does not answer within {} s", PATIENCE.as_secs()));
    timeout(PATIENCE, find(table, key)).await.unwrap_or_else(|_| Err(silent()))
}

async fn find(taken: &Taken, key: &str) -> Result<Result<SourceRow, NoKey>> {
    let settings = ProducerSettings::from(&taken.settings)?;
    let mut conn = table::connect(&settings.mysql).await?;
    let (database, name) = (&settings.mysql.database, &settings.mysql.table);
    let mut source = SourceTable::inspect(&mut conn, database, name, &settings.contract).await?;
    source.longest_value = settings.kafka.longest_value();
    let schema = std::sync::Arc::clone(&source.schema);
    let values = match read_key(&schema, key.as_bytes()) {
        Ok(values) => values,
        Err(reason) => {
            let names: Vec<&str> = source.key_columns().map(|column| column.name.as_str()).collect();
            let form = if names.len() == 1 { "its value" } else { "a JSON array of the values, e.g. '[17,\"a\"]'" };
            let remedy = format!("the key of {} is {}: write {form}", taken.name, names.join(", "));
            return Ok(Err(NoKey(format!("{key:?} is no key of {}: {reason}", taken.name), remedy)));
        }
    };
    let read_at = server::now(&mut conn).await?.to_string();
    let absent = SourceRow { exists: false, row: None, refused: None, read_at };
    let Some(found) = select::row_with_key(&mut conn, &source, &values).await? else { return Ok(Ok(absent)) };
    let text = std::sync::Arc::clone(&source.schema_text);
    let encoder = Encoder::new(source, 0);
    let values = select::values(encoder.table(), &found)?;
    let mut own = Vec::new();
    encoder.key_of_row(&values, &mut own)?;
    if own != key.as_bytes() {
        // The collation takes another spelling for the same.
        return Ok(Ok(absent));
    }
    let mut value = Vec::new();
    let refused = encoder.value(&values, &mut value)?.err();
    if let Some(refused) = refused {
        let column = encoder.table().columns.get(refused.field).map_or("?", |column| column.name.as_str());
        let refused = Some(format!("column {column}: {}", refused.refusal.reason));
        return Ok(Ok(SourceRow { exists: true, refused, ..absent }));
    }
    let decoder = Decoder::new(&text).map_err(Error::definite)?;
    let mut decoded = Vec::new();
    let body = value.get(avro::PREFIX..).unwrap_or_default();
    decoder.decode(body, &mut decoded).map_err(|e| Error::definite(e.to_string()))?;
    let row = Row::new(decoder.schema().fields.iter().map(|field| field.column.as_str()), &decoded);
    Ok(Ok(SourceRow { exists: true, row: Some(row), ..absent }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_several_columns_may_have_spaces() {
        for (text, want) in [
            ("17", "17"),
            ("[17, \"a b\"]", "[17,\"a b\"]"),
            (" [1,2]", "[1,2]"),
            ("[not json", "[not json"),
            ("a [b]", "a [b]"),
        ] {
            assert_eq!(normalised(text), want);
        }
    }
}
