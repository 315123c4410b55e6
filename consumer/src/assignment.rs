//! The log lines about changes of a member's assignment.

use kafka::Partition;

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

    #[test]
    fn the_reason_depends_on_what_was_owned_before() {
        let [one, two] = [1, 2].map(Partition::main);
        assert_eq!(reason(&[], &[one]), None);
        assert_eq!(reason(&[one, two], &[one, two]), Some("this consumer has joined the group"));
        assert!(reason(&[two], &[one, two]).is_some_and(|reason| reason.starts_with("another consumer has left")));
    }
}
