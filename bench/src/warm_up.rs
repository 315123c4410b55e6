//! Uses the broker before anything is measured.

use anyhow::{Result, ensure};
use kafka::{Record, TopicSpec, TransactionalProducer};
use model::change::SOURCE_HEADER;

use crate::topic;

/// After so many rounds of writing and reading the rate stays the same; at the first one it is half of that, as Java has
/// not compiled the broker yet.
const ROUNDS: usize = 10;
const TRANSACTIONS: usize = 10;
const RECORDS: usize = 100_000;
/// Small transactions after the large ones: of these a broker has to process many before Java compiles it.
const SMALL: usize = 200;

/// Writes ten topics and reads them, a million records each, most in large transactions. The first one also makes Kafka
/// create its internal topic.
///
/// # Errors
/// Kafka's.
pub(crate) fn broker(kafka: &str, runtime: &tokio::runtime::Runtime) -> Result<()> {
    for round in 0..ROUNDS {
        let name = format!("warm_up_{round}");
        let settings = topic::settings(kafka, &name)?;
        runtime.block_on(kafka::ensure_topics(&settings, &[TopicSpec::products(&settings)]))?;
        let producer = TransactionalProducer::new(&settings, &name)?;
        let sizes = [[RECORDS].repeat(TRANSACTIONS), [10].repeat(SMALL)].concat();
        let mut written = 0;
        for records in sizes {
            producer.begin()?;
            for number in written..written + records {
                let key = number.to_string();
                let value = format!("{key}, a product of the category CAT_{}, for {}.99", number % 10, number % 1_000);
                producer.send(&Record {
                    topic: &name,
                    partition: None,
                    key: key.as_bytes(),
                    value: Some(value.as_bytes()),
                    header: Some((SOURCE_HEADER, b"0.0.0.0.0.0.0.0")),
                })?;
            }
            producer.commit()?;
            written += records;
        }
        let read = topic::wait_for(&settings, written as u64, || Ok(()))?.records;
        ensure!(read == written as u64, "{read} records were read in {name}");
    }
    Ok(())
}
