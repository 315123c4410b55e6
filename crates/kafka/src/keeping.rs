//! The retention and compaction of a topic, from its configuration.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::admin::{AdminOptions, ConfigResource, OwnedResourceSpecifier, ResourceSpecifier};
use rdkafka::error::RDKafkaErrorCode;

use super::client::{Logging, REQUEST_TIMEOUT, administrator, unreachable};
use model::error::{Code, Error, Result};
use runtime::config::KafkaSettings;

/// Changes must be kept for consumers that are down for a long weekend.
pub const LEAST_KEEPING: Duration = Duration::from_secs(7 * 24 * 3600);

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
    let mut found = BTreeMap::new();
    for resource in answer.map_err(|e| unreachable(settings, what, &e, &logging))? {
        match resource {
            Ok(resource) => {
                if let OwnedResourceSpecifier::Topic(name) = &resource.specifier {
                    found.insert(name.clone(), read(&resource));
                }
            }
            Err(RDKafkaErrorCode::UnknownTopicOrPartition) => {}
            Err(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                return Err(Error::new(Code::RightMissing, format!("{what}: Kafka does not let this user see it"))
                    .with_remedy(
                        "allow the user of kafka.sasl_username to see it: ACL DESCRIBE_CONFIGS on the topics",
                    ));
            }
            Err(code) => return Err(Error::transient(format!("{what}: {code}"))),
        }
    }
    Ok(found)
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
