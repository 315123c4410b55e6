//! What the topics keep, and for how long: the part of `doctor` that looks at their configuration.

use std::time::Duration;

use pipeline::config::KafkaSettings;
use pipeline::kafka::{self, Keeping};

use crate::preflight::Check;

/// The name of the check.
const NAME: &str = "topics";
/// Consumers that are down for a long weekend must not lose changes.
const LEAST: Duration = Duration::from_secs(7 * 24 * 3600);

/// Looks at the topics that are there.
pub(crate) async fn checks(settings: &KafkaSettings) -> Vec<Check> {
    let of = |suffix: &str| format!("{}{suffix}", settings.topic);
    let topics = [
        (of(""), Role::Changes),
        (of(".checkpoint"), Role::State),
        (of(".slots"), Role::State),
        (of(".dlq"), Role::Parked),
    ];
    let names: Vec<&str> = topics.iter().map(|(name, _)| name.as_str()).collect();
    match kafka::keeping(settings, &names).await {
        Ok(found) => topics.iter().filter_map(|(name, role)| Some(judge(name, *role, found.get(name)?))).collect(),
        Err(error) => vec![Check::warning(
            NAME,
            error.to_string(),
            error
                .remedy()
                .unwrap_or("allow the user of kafka.sasl_username to see their configuration: ACL DESCRIBE_CONFIGS"),
        )],
    }
}

/// What a topic is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// The changes, which the consumers read.
    Changes,
    /// The last record of each key is the state of a program.
    State,
    /// Dead letters.
    Parked,
}

fn judge(topic: &str, role: Role, keeping: &Keeping) -> Check {
    let set =
        |what: &str| format!("kafka-configs --alter --entity-type topics --entity-name {topic} --add-config {what}");
    let Keeping { compacts, deletes, retention, bytes } = *keeping;
    match role {
        Role::State if deletes => Check::bad(
            NAME,
            format!("{topic} has a cleanup policy that deletes: the state of the programs would be gone after a while"),
            set("cleanup.policy=compact"),
        ),
        Role::Parked if deletes && (retention.is_some() || bytes.is_some()) => Check::warning(
            NAME,
            format!("{topic} deletes dead letters: {}", limits(retention, bytes)),
            set("retention.ms=-1,retention.bytes=-1"),
        ),
        Role::Changes if compacts => Check::warning(
            NAME,
            format!(
                "{topic} is compacted: consumers that are behind miss changes that later ones of the same key replaced"
            ),
            set("cleanup.policy=delete,retention.ms=-1"),
        ),
        Role::Changes if bytes.is_some() || retention.is_some_and(|r| r < LEAST) => Check::warning(
            NAME,
            format!(
                "{topic} deletes changes: {}; consumers that are down for longer stop and miss them",
                limits(retention, bytes)
            ),
            set("retention.ms=604800000,retention.bytes=-1"),
        ),
        _ => Check::good(NAME, format!("{topic} keeps what it must")),
    }
}

fn limits(retention: Option<Duration>, bytes: Option<u64>) -> String {
    let time = retention.map(|r| format!("retention.ms={}", r.as_millis()));
    let size = bytes.map(|b| format!("retention.bytes={b}"));
    time.into_iter().chain(size).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::Outcome;

    #[test]
    fn each_topic_must_keep_something_else() {
        let days = |d: u64| Some(Duration::from_secs(d * 24 * 3600));
        let delete = |retention, bytes| Keeping { compacts: false, deletes: true, retention, bytes };
        let compact = Keeping { compacts: true, deletes: false, retention: days(7), bytes: None };
        let both = Keeping { deletes: true, ..compact };
        for (role, keeping, want) in [
            (Role::Changes, delete(days(7), None), Outcome::Good),
            (Role::Changes, delete(None, None), Outcome::Good),
            (Role::Changes, delete(days(6), None), Outcome::Warning),
            (Role::Changes, delete(days(30), Some(1 << 30)), Outcome::Warning),
            (Role::Changes, compact, Outcome::Warning),
            (Role::Changes, both, Outcome::Warning),
            (Role::State, compact, Outcome::Good),
            (Role::State, both, Outcome::Bad),
            (Role::State, delete(None, None), Outcome::Bad),
            (Role::Parked, delete(None, None), Outcome::Good),
            (Role::Parked, delete(days(7), None), Outcome::Warning),
        ] {
            assert_eq!(judge("t", role, &keeping).outcome, want, "{role:?} {keeping:?}");
        }
    }
}
