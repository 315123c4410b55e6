//! The retention and compaction of a topic, from its configuration.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::admin::{AdminOptions, ConfigResource, OwnedResourceSpecifier, ResourceSpecifier};

use super::client::{Logging, REQUEST_TIMEOUT, administrator, unreachable};
use super::read_back::LastRecords;
use model::error::{Code, Error, Result};
use runtime::config::KafkaSettings;

/// How a topic deletes records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keeping {
    /// Only the last record of each key is kept.
    pub compacts: bool,
    /// Old records are deleted.
    pub deletes: bool,
    /// `retention.ms`; `None` is no limit.
    pub retention: Option<Duration>,
    /// `retention.bytes` of a partition; `None` is no limit.
    pub bytes: Option<u64>,
    /// `min.compaction.lag.ms`: compaction keeps a record for at least this time.
    pub compaction_lag: Duration,
    /// `delete.retention.ms`: how long compaction keeps a tombstone after the older records of its key are removed.
    pub tombstones: Duration,
}

/// The configuration of those of these topics that exist.
///
/// # Errors
/// Transient when Kafka can't be reached; definite when a right is missing.
pub async fn keeping(settings: &KafkaSettings, topics: &[&str]) -> Result<BTreeMap<String, Keeping>> {
    let logging = Logging::default();
    let admin = administrator(settings, &logging)?;
    let wanted: Vec<ResourceSpecifier<'_>> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
    let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
    let answer = admin.describe_configs(&wanted, &options).await;
    // The thread of the client checks every 100 ms whether it must end; the caller need not wait for that.
    drop(tokio::task::spawn_blocking(move || drop(admin)));
    let what = "cannot look up the configuration of the topics";
    let (mut found, mut unseen) = (BTreeMap::new(), Vec::new());
    for resource in answer.map_err(|e| unreachable(settings, what, &e, &logging))? {
        let resource = resource.map_err(|code| Error::transient(format!("{what}: {code}")))?;
        let OwnedResourceSpecifier::Topic(name) = &resource.specifier else { continue };
        // The crate rdkafka (0.39) drops the error of a topic: such a topic has no entries.
        if resource.entries.is_empty() {
            unseen.push(name.clone());
        } else {
            found.insert(name.clone(), read(&resource));
        }
    }
    let settings = settings.clone();
    let looked = tokio::task::spawn_blocking(move || require_missing(&settings, &unseen, what));
    looked.await.map_err(|e| Error::definite(format!("{what}: {e}")))??;
    Ok(found)
}

/// Fails when one of these topics, which have no configuration, exists: then a right is missing. Blocks.
fn require_missing(settings: &KafkaSettings, topics: &[String], what: &str) -> Result<()> {
    if topics.is_empty() {
        return Ok(());
    }
    let records = LastRecords::new(settings)?;
    let refused = || {
        Error::new(Code::RightMissing, format!("{what}: Kafka does not let this user see it"))
            .with_remedy("allow the user of kafka.sasl_username to see it: ACL DESCRIBE_CONFIGS on the topics")
    };
    let seen = topics.iter().try_for_each(|topic| match records.partition_count(topic) {
        Ok(None) => Ok(()),
        Err(error) if error.code() != Code::RightMissing => Err(error),
        Ok(Some(_)) | Err(_) => Err(refused()),
    });
    records.close();
    seen
}

fn read(resource: &ConfigResource) -> Keeping {
    let value = |name: &'static str| resource.get(name).and_then(|entry| entry.value.as_deref()).unwrap_or_default();
    let number = |name: &'static str| value(name).parse::<u64>().ok();
    let millis = |name: &'static str| Duration::from_millis(number(name).unwrap_or(0));
    let policy = value("cleanup.policy");
    Keeping {
        compacts: policy.contains("compact"),
        deletes: policy.contains("delete"),
        retention: number("retention.ms").map(Duration::from_millis),
        bytes: number("retention.bytes"),
        compaction_lag: millis("min.compaction.lag.ms"),
        tombstones: millis("delete.retention.ms"),
    }
}
