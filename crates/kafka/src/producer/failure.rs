//! Why a step of a transaction failed, and how to react.

use model::error::{Code, Error};

use crate::topics::OTHER_COUNT;

/// Why a step of a transaction failed, and how to react.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Another producer with the same transactional id has fenced this one, or the transaction exceeded its timeout:
    /// the error is the same. Drop this producer.
    #[error("fenced: {0}")]
    Fenced(String),
    /// Nothing was committed; abort and retry.
    #[error("the transaction must be aborted: {0}")]
    Abortable(String),
    /// The member that committed offsets has lost its partitions: abort, and poll for the new assignment.
    #[error("the group has rebalanced: {0}")]
    Rebalanced(String),
    /// The outcome is unknown or the producer is unusable: drop it; the initialisation of a new one completes or aborts
    /// the transaction in flight.
    #[error("the transactional producer is broken: {0}")]
    Broken(String),
    /// A request of the last transaction has no answer and may arrive late, and would take effect in the next
    /// transaction, or the kind of the cluster's transactions has changed. Drop this producer; the next one's epoch
    /// fences late requests.
    #[error("the producer can't begin another transaction: {0}")]
    Stale(&'static str),
    /// Somebody has changed the number of the topic's partitions.
    #[error("topic {topic} has {count} partitions, but {wanted} are wanted")]
    OtherCount {
        /// The topic.
        topic: String,
        /// Its partitions now.
        count: usize,
        /// `kafka.partitions`.
        wanted: i32,
    },
    /// Nothing was committed, and a retry fails the same way until a person acts.
    #[error("{reason}")]
    Refused {
        /// What it is about.
        code: Code,
        /// The reason.
        reason: String,
        /// The remedy.
        remedy: Box<str>,
    },
}

impl Failure {
    /// Whether the transaction can be aborted, after which the producer can begin another.
    pub fn is_abortable(&self) -> bool {
        matches!(self, Self::Abortable(_) | Self::Rebalanced(_) | Self::Refused { .. })
    }

    /// Converts it to an error of a program that could not do `what`: definite when a retry can't help, else with this as
    /// its source.
    pub fn into_error(self, what: &str) -> Error {
        match self {
            Self::Refused { code, reason, remedy } => Error::new(code, format!("{what}: {reason}")).with_remedy(remedy),
            Self::OtherCount { .. } => {
                Error::new(Code::PartitionCount, format!("{what}: {self}")).with_remedy(OTHER_COUNT)
            }
            _ => Error::transient(what).with_source(self),
        }
    }
}
