//! Checks which records the topics keep, and for how long.
//!
//! Three readers depend on the topic of the changes. A consumer needs each change until it has read it: it stops when
//! retention has deleted an unread change, and does not notice one that compaction removed. A sink needs the tombstone
//! of each deleted product. A new epoch needs at least one record of each product that was ever published, to delete
//! the products that are gone.

use crate::{Bounds, Keeping, LEAST_KEEPING};
use model::position::CompleteSnapshot;
use runtime::config::KafkaSettings;
use runtime::doctor::Check;

/// The name of the check.
const NAME: &str = "topics";

/// What a topic is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// The last record of each key is the state of a program.
    State,
    /// Dead letters.
    Parked,
}

/// Checks the configuration of the existing topics; `expired` as from [`expired`].
pub async fn topics(settings: &KafkaSettings, expired: &[usize]) -> Vec<Check> {
    let topic = settings.topic.as_str();
    let others = [(".checkpoint", Role::State), (".slots", Role::State), (".dlq", Role::Parked)];
    let others = others.map(|(suffix, role)| (format!("{topic}{suffix}"), role));
    let names: Vec<&str> = others.iter().map(|(name, _)| name.as_str()).chain([topic]).collect();
    match crate::keeping(settings, &names).await {
        Ok(found) => {
            let changes = found.get(topic).map(|k| history(topic, Some(k), &settings.cleanup_policy, expired));
            let judged = |(name, role): &(String, Role)| Some(judge(name, *role, found.get(name)?));
            changes.into_iter().chain(others.iter().filter_map(judged)).collect()
        }
        Err(error) => {
            let remedy = error
                .remedy()
                .unwrap_or("allow the user of kafka.sasl_username to see their configuration: ACL DESCRIBE_CONFIGS");
            let unseen = Check::warning(NAME, error.to_string(), remedy);
            vec![unseen, history(topic, None, &settings.cleanup_policy, expired)]
        }
    }
}

/// The partitions in which retention has deleted records that a new epoch would need. After a `complete` snapshot each
/// product has a record at or behind the snapshot's beginning, so older records are not needed.
pub fn expired(bounds: &[Bounds], complete: Option<&CompleteSnapshot>) -> Vec<usize> {
    let known = |partition: usize| complete.and_then(|c| c.begin.get(partition)).copied().unwrap_or(0);
    bounds.iter().enumerate().filter(|(p, b)| b.begin > known(*p)).map(|(p, _)| p).collect()
}

/// Whether the topic of the changes keeps the records that its readers need, judged by its configuration if known, by
/// the setting `kafka.cleanup_policy`, and by the partitions that have lost records (see [`expired`]).
pub fn history(topic: &str, keeping: Option<&Keeping>, configured: &str, expired: &[usize]) -> Check {
    let (mut found, mut set, mut remedies) = (Vec::new(), Vec::new(), Vec::new());
    let compacts = keeping.is_some_and(|k| k.compacts);
    let deletes = keeping.is_none_or(|k| k.deletes);
    if let Some(k) = keeping.filter(|k| k.compacts) {
        if k.compaction_lag < LEAST_KEEPING {
            found.push(format!(
                "compaction takes a change {} ms after it was written (min.compaction.lag.ms), when a later one of its product \
                 is there: consumers that are behind for longer miss it, and do not notice",
                k.compaction_lag.as_millis()
            ));
            set.push(format!("min.compaction.lag.ms={}", LEAST_KEEPING.as_millis()));
        }
        if k.tombstones < LEAST_KEEPING {
            found.push(format!(
                "compaction takes the tombstone of a product after {} ms (delete.retention.ms): PostgreSQL keeps the row when \
                 it is behind for longer",
                k.tombstones.as_millis()
            ));
            set.push(format!("delete.retention.ms={}", LEAST_KEEPING.as_millis()));
        }
    }
    let limits = keeping.filter(|k| k.deletes).map(limits).unwrap_or_default();
    if keeping.is_some_and(is_short) {
        found.push(format!("it deletes changes ({limits}): consumers that are down for longer stop, and miss them"));
    }
    if !expired.is_empty() {
        let partitions = expired.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        found.push(format!(
            "the first records of partitions {partitions} have expired: a new epoch cannot delete in the topic a product whose \
             only records they were (PostgreSQL deletes its row, other readers have to compare)"
        ));
    }
    match (deletes, expired.is_empty()) {
        (true, false) if compacts => set.push("cleanup.policy=compact".to_owned()),
        (true, false) => set.push("retention.ms=-1,retention.bytes=-1".to_owned()),
        _ if keeping.is_some_and(is_short) => {
            set.push(format!("retention.ms={},retention.bytes=-1", LEAST_KEEPING.as_millis()));
        }
        _ => {}
    }
    if !set.is_empty() {
        remedies.push(alter(topic, &set.join(",")));
    }
    if !expired.is_empty() {
        remedies
            .push("`cdc-producer checkpoint reset`: its snapshot gives each product a record that stays".to_owned());
    }
    if keeping.is_some() && compacts != configured.contains("compact") {
        let policy = if compacts { "compact" } else { "delete" };
        found.push(format!(
            "kafka.cleanup_policy says {configured}, and `verify` goes by it, but the topic's is {policy}"
        ));
        remedies.push(format!("set kafka.cleanup_policy to {policy}"));
    }
    if !found.is_empty() {
        return Check::warning(NAME, format!("{topic}: {}", found.join("; ")), remedies.join("; then "));
    }
    Check::good(NAME, format!("{topic} keeps {}", kept(keeping, &limits)))
}

/// Describes the retention of a topic of changes that is good.
fn kept(keeping: Option<&Keeping>, limits: &str) -> String {
    match keeping {
        None => "what a new epoch needs".to_owned(),
        Some(k) if k.compacts => format!(
            "the last record of each product, and every change for {} ms: consumers must not be behind for longer",
            k.compaction_lag.as_millis()
        ),
        Some(_) if limits.is_empty() => "every change".to_owned(),
        Some(_) => format!("every change for a time ({limits}): consumers that are down for longer stop"),
    }
}

fn judge(topic: &str, role: Role, keeping: &Keeping) -> Check {
    match role {
        Role::State if keeping.deletes => Check::bad(
            NAME,
            format!("{topic} has a cleanup policy that deletes: the state of the programs would be gone after a while"),
            alter(topic, "cleanup.policy=compact"),
        ),
        Role::Parked if keeping.compacts => Check::bad(
            NAME,
            format!("{topic} is compacted: a dead letter is lost when a later one of the same product is there"),
            alter(topic, "cleanup.policy=delete,retention.ms=-1,retention.bytes=-1"),
        ),
        Role::Parked if !limits(keeping).is_empty() => Check::warning(
            NAME,
            format!("{topic} deletes dead letters: {}", limits(keeping)),
            alter(topic, "retention.ms=-1,retention.bytes=-1"),
        ),
        _ => Check::good(NAME, format!("{topic} keeps what it must")),
    }
}

fn alter(topic: &str, set: &str) -> String {
    format!("kafka-configs --alter --entity-type topics --entity-name {topic} --add-config {set}")
}

/// Whether retention deletes changes before a consumer reads them that was down for a long weekend.
fn is_short(keeping: &Keeping) -> bool {
    keeping.deletes && (keeping.bytes.is_some() || keeping.retention.is_some_and(|r| r < LEAST_KEEPING))
}

/// The limits after which records are deleted; empty without any.
fn limits(keeping: &Keeping) -> String {
    let time = keeping.retention.map(|r| format!("retention.ms={}", r.as_millis()));
    let size = keeping.bytes.map(|b| format!("retention.bytes={b}"));
    time.into_iter().chain(size).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::doctor::Outcome;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn deleting(retention: Option<Duration>, bytes: Option<u64>) -> Keeping {
        let (compaction_lag, tombstones) = (Duration::ZERO, DAY);
        Keeping { compacts: false, deletes: true, retention, bytes, compaction_lag, tombstones }
    }

    fn compacting(compaction_lag: Duration, tombstones: Duration) -> Keeping {
        Keeping { compacts: true, deletes: false, compaction_lag, tombstones, ..deleting(Some(7 * DAY), None) }
    }

    #[test]
    fn the_topic_of_changes_has_one_answer() {
        let long = compacting(7 * DAY, 7 * DAY);
        for (keeping, configured, expired, want) in [
            (deleting(Some(7 * DAY), None), "delete", &[][..], ""),
            (deleting(None, None), "delete", &[], ""),
            (deleting(Some(6 * DAY), None), "delete", &[], "retention.ms=604800000,retention.bytes=-1"),
            (deleting(None, Some(1 << 30)), "delete", &[], "retention.ms=604800000,retention.bytes=-1"),
            (deleting(Some(6 * DAY), None), "delete", &[1], "retention.ms=-1,retention.bytes=-1; then `cdc-producer"),
            (deleting(Some(7 * DAY), None), "delete", &[1], "retention.ms=-1,retention.bytes=-1; then `cdc-producer"),
            (long, "compact", &[], ""),
            (long, "delete", &[], "set kafka.cleanup_policy to compact"),
            (deleting(None, None), "compact", &[], "set kafka.cleanup_policy to delete"),
            (compacting(Duration::ZERO, 7 * DAY), "compact", &[], "--add-config min.compaction.lag.ms=604800000"),
            (compacting(7 * DAY, DAY), "compact", &[], "--add-config delete.retention.ms=604800000"),
            (Keeping { deletes: true, ..long }, "compact,delete", &[], ""),
            (Keeping { deletes: true, ..long }, "compact", &[3], "cleanup.policy=compact; then `cdc-producer"),
            (
                Keeping { deletes: true, retention: Some(DAY), ..long },
                "compact",
                &[],
                "--add-config retention.ms=604800000,retention.bytes=-1",
            ),
        ] {
            let check = history("t", Some(&keeping), configured, expired);
            assert_eq!(check.outcome == Outcome::Good, want.is_empty(), "{keeping:?} {check:?}");
            assert!(check.remedy.contains(want), "{keeping:?} {check:?}");
        }
        let unseen = history("t", None, "delete", &[2]);
        assert!(unseen.outcome == Outcome::Warning && unseen.found.contains("of partitions 2 have"), "{unseen:?}");
    }

    #[test]
    fn state_is_compacted_and_dead_letters_stay() {
        let compact = compacting(Duration::ZERO, DAY);
        for (role, keeping, want) in [
            (Role::State, compact, Outcome::Good),
            (Role::State, Keeping { deletes: true, ..compact }, Outcome::Bad),
            (Role::State, deleting(None, None), Outcome::Bad),
            (Role::Parked, deleting(None, None), Outcome::Good),
            (Role::Parked, deleting(Some(7 * DAY), None), Outcome::Warning),
            (Role::Parked, compact, Outcome::Bad),
        ] {
            assert_eq!(judge("t", role, &keeping).outcome, want, "{role:?} {keeping:?}");
        }
    }

    #[test]
    fn what_expired_before_a_complete_snapshot_is_not_needed() {
        let bounds = [(0, 5), (2, 5), (9, 9)].map(|(begin, end)| Bounds { begin, end });
        assert_eq!(expired(&bounds, None), [1, 2]);
        let complete = CompleteSnapshot { epoch: 2, begin: vec![0, 3, 8], end: vec![5, 5, 9] };
        assert_eq!(expired(&bounds, Some(&complete)), [2]);
    }
}
