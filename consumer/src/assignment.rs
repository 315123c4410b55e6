//! The assignment of a member as the group's coordinator stores it, and the log lines about its changes.

use kafka::{Partition, Topic};

/// Decodes a member's assignment as the coordinator stores it: ConsumerProtocolAssignment, version 0 and later, big
/// endian: version i16, array of (topic: i16 length and UTF-8; array of partitions i32), user data. `main` is the name
/// of the main topic. `None` for other bytes.
pub(crate) fn assigned(mut bytes: &[u8], main: &str) -> Option<Vec<Partition>> {
    // Some brokers store nothing for a member without partitions.
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let version = i16::from_be_bytes(take(&mut bytes)?);
    let topics = i32::from_be_bytes(take(&mut bytes)?);
    let mut partitions = Vec::new();
    for _ in 0..topics {
        let length = usize::try_from(i16::from_be_bytes(take(&mut bytes)?)).ok()?;
        let (name, rest) = bytes.split_at_checked(length)?;
        bytes = rest;
        let topic = Topic::of(std::str::from_utf8(name).ok()?, main);
        for _ in 0..i32::from_be_bytes(take(&mut bytes)?) {
            partitions.push(Partition { topic, number: i32::from_be_bytes(take(&mut bytes)?) });
        }
    }
    (version >= 0).then_some(partitions)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

/// Logs that the group has assigned the partitions `new` to this consumer, which now owns `owned`.
pub(crate) fn log_assigned(new: &[Partition], owned: &[Partition]) {
    match reason(new, owned) {
        Some(reason) => tracing::info!(partitions = ?new, ?owned, reason, "partitions assigned"),
        None => tracing::info!(?owned, "no partition is new after a rebalance"),
    }
}

/// Why a member gets partitions, as far as it can know: the group does not say. `None` without new ones.
fn reason(new: &[Partition], owned: &[Partition]) -> Option<&'static str> {
    match (new.len(), owned.len()) {
        (0, _) => None,
        (new, owned) if new == owned => Some("this consumer has joined the group"),
        _ => Some("another consumer has left the group, or a topic has more partitions"),
    }
}

/// Logs that the group has revoked the partitions `gone`, after which this consumer owns `owned`.
pub(crate) fn log_revoked(gone: &[Partition], owned: &[Partition], lost: bool) {
    let reason = if lost {
        "this consumer did not answer for kafka.session_timeout, or another one has its identity"
    } else {
        "they go to another consumer, or this one joins again"
    };
    tracing::info!(partitions = ?gone, ?owned, reason, "partitions revoked");
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASSIGNMENT: &[u8] = &[
        0, 1, // version
        0, 0, 0, 2, // topics
        0, 1, b'a', 0, 0, 0, 1, 0, 0, 0, 7, // a: 7
        0, 2, b'a', b'b', 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1, 2, // ab: 0, 258
        0xff, 0xff, 0xff, 0xff, // no user data
    ];

    #[test]
    fn partitions_of_every_topic() {
        let shown = |main: &str| format!("{:?}", assigned(ASSIGNMENT, main));
        assert_eq!(shown("ab"), "Some([a/7, 0, 258])");
        assert_eq!(shown("a"), "Some([7, ab/0, ab/258])");
    }

    #[test]
    fn the_reason_depends_on_what_was_owned_before() {
        let [one, two] = [1, 2].map(Partition::main);
        assert_eq!(reason(&[], &[one]), None);
        assert_eq!(reason(&[one, two], &[one, two]), Some("this consumer has joined the group"));
        assert!(reason(&[two], &[one, two]).is_some_and(|reason| reason.starts_with("another consumer has left")));
    }

    #[test]
    fn bytes_that_are_no_assignment() {
        assert_eq!(assigned(&[], "ab"), Some(vec![]));
        for length in 1..ASSIGNMENT.len() - 4 {
            assert_eq!(assigned(&ASSIGNMENT[..length], "ab"), None, "{length} bytes");
        }
        assert_eq!(assigned(&[0xff, 0xff, 0, 0, 0, 0], "a"), None);
    }
}
