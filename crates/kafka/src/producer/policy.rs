//! How the producer reacts to each error of each request.
//!
//! Source: the error handlers of Kafka's Java client 4.1 (`TransactionManager`, `Sender`), KIP-890, KIP-1050.

use model::error::Code;

use super::pause::Length;
use crate::wire::codes::KafkaCode;
use crate::wire::requests::{Api, Level};

/// What follows from an answer. Where partitions of one answer differ, the failure that says more counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reaction {
    /// It succeeded.
    Done,
    /// Send the same again after a pause.
    Again(Length),
    /// Ask for the leaders, then send the same again.
    Leaders,
    /// Find the coordinator again, then send the same again.
    Coordinator,
    /// The batch is too large: send it in two.
    Halve,
    /// Nothing was committed: abort the transaction.
    Abort,
    /// As before; the member that commits offsets has lost its partitions.
    Rebalanced,
    /// Another producer has the transactional id, or the transaction has exceeded its timeout.
    Fenced,
    /// The outcome is unknown or the producer is unusable: drop it.
    Broken,
    /// It fails the same way until a person acts.
    Refused,
}

/// The reaction to `code` in the answer to a request.
pub(crate) fn reaction(api: Api, code: KafkaCode, level: Level) -> Reaction {
    use KafkaCode as K;
    use Reaction::{Abort, Again, Broken, Coordinator, Done, Fenced, Halve, Leaders, Rebalanced, Refused};
    let is_refused = matches!(
        code,
        K::INVALID_TOPIC_EXCEPTION
            | K::TOPIC_AUTHORIZATION_FAILED
            | K::TRANSACTIONAL_ID_AUTHORIZATION_FAILED
            | K::CLUSTER_AUTHORIZATION_FAILED
            | K::GROUP_AUTHORIZATION_FAILED
    );
    match code {
        K::NONE => return Done,
        _ if is_refused => return Refused,
        K::PRODUCER_FENCED | K::INVALID_PRODUCER_EPOCH => return Fenced,
        K::UNSUPPORTED_VERSION => return Broken,
        K::THROTTLING_QUOTA_EXCEEDED | K::COORDINATOR_LOAD_IN_PROGRESS => return Again(Length::Usual),
        K::CONCURRENT_TRANSACTIONS if api != Api::InitProducerId => return Again(Length::Short),
        K::COORDINATOR_NOT_AVAILABLE | K::NOT_COORDINATOR if api != Api::Produce => return Coordinator,
        _ => {}
    }
    match api {
        Api::InitProducerId => match code {
            K::CONCURRENT_TRANSACTIONS => Again(Length::Abort),
            K::REQUEST_TIMED_OUT => Again(Length::Usual),
            K::INVALID_PRODUCER_ID_MAPPING => Fenced,
            K::INVALID_TRANSACTION_TIMEOUT => Refused,
            _ => Broken,
        },
        Api::AddPartitionsToTxn | Api::AddOffsetsToTxn => match code {
            K::UNKNOWN_TOPIC_OR_PARTITION | K::REQUEST_TIMED_OUT | K::OPERATION_NOT_ATTEMPTED => Again(Length::Usual),
            _ if is_of_a_leader(code) => Again(Length::Usual),
            K::INVALID_TXN_STATE | K::INVALID_PRODUCER_ID_MAPPING | K::UNKNOWN_PRODUCER_ID => Broken,
            _ => Abort,
        },
        Api::Produce => match code {
            K::DUPLICATE_SEQUENCE_NUMBER => Done,
            K::UNKNOWN_TOPIC_OR_PARTITION => Leaders,
            _ if is_of_a_leader(code) => Leaders,
            K::CORRUPT_MESSAGE
            | K::REQUEST_TIMED_OUT
            | K::NOT_ENOUGH_REPLICAS
            | K::NOT_ENOUGH_REPLICAS_AFTER_APPEND => Again(Length::Usual),
            K::MESSAGE_TOO_LARGE | K::RECORD_LIST_TOO_LARGE => Halve,
            K::INVALID_TIMESTAMP | K::INVALID_RECORD | K::UNSUPPORTED_COMPRESSION_TYPE => Refused,
            K::INVALID_PRODUCER_ID_MAPPING | K::UNKNOWN_PRODUCER_ID => Broken,
            // Records before these are lost. The next epoch begins with sequence 0, and only V2 has one.
            K::OUT_OF_ORDER_SEQUENCE_NUMBER if level == Level::V1 => Broken,
            _ => Abort,
        },
        Api::TxnOffsetCommit => match code {
            K::UNKNOWN_TOPIC_OR_PARTITION | K::UNSTABLE_OFFSET_COMMIT => Again(Length::Usual),
            K::REQUEST_TIMED_OUT => Coordinator,
            K::ILLEGAL_GENERATION
            | K::UNKNOWN_MEMBER_ID
            | K::FENCED_MEMBER_EPOCH
            | K::STALE_MEMBER_EPOCH
            | K::REBALANCE_IN_PROGRESS => Rebalanced,
            K::FENCED_INSTANCE_ID | K::TRANSACTION_ABORTABLE => Abort,
            _ => Broken,
        },
        Api::EndTxn => match code {
            K::REQUEST_TIMED_OUT => Again(Length::Usual),
            K::TRANSACTION_ABORTABLE => Abort,
            _ => Broken,
        },
        // They change nothing, so they are asked again until the deadline of what needs them.
        Api::Metadata | Api::FindCoordinator => Again(Length::Usual),
        Api::ApiVersions | Api::SaslHandshake | Api::SaslAuthenticate => Broken,
    }
}

fn is_of_a_leader(code: KafkaCode) -> bool {
    use KafkaCode as K;
    matches!(
        code,
        K::LEADER_NOT_AVAILABLE
            | K::NOT_LEADER_OR_FOLLOWER
            | K::REPLICA_NOT_AVAILABLE
            | K::NETWORK_EXCEPTION
            | K::KAFKA_STORAGE_ERROR
            | K::LISTENER_NOT_FOUND
            | K::FENCED_LEADER_EPOCH
            | K::UNKNOWN_TOPIC_ID
    )
}

/// The code and the remedy for an error that a retry can't heal.
pub(crate) fn refusal(code: KafkaCode) -> Option<(Code, &'static str)> {
    use KafkaCode as K;
    Some(match code {
        K::MESSAGE_TOO_LARGE | K::RECORD_LIST_TOO_LARGE => (
            Code::RecordRefused,
            "allow larger records: max.message.bytes of the topic and message.max.bytes in kafka.librdkafka",
        ),
        K::TOPIC_AUTHORIZATION_FAILED => {
            (Code::RightMissing, "allow the user of kafka.sasl_username to write to its topics: ACL WRITE")
        }
        K::GROUP_AUTHORIZATION_FAILED => (
            Code::RightMissing,
            "allow the user of kafka.sasl_username to use its consumer group: ACL READ on the group",
        ),
        K::TRANSACTIONAL_ID_AUTHORIZATION_FAILED => (
            Code::RightMissing,
            "allow the user of kafka.sasl_username to use its transactional id: ACL WRITE on the transactional id",
        ),
        K::CLUSTER_AUTHORIZATION_FAILED => {
            (Code::RightMissing, "allow the user of kafka.sasl_username this on the cluster (ACL)")
        }
        K::INVALID_TOPIC_EXCEPTION => (
            Code::Setting,
            "give the topic a name that Kafka allows: at most 249 letters, digits, dots, underscores and hyphens",
        ),
        K::INVALID_TIMESTAMP => (
            Code::RecordRefused,
            "this machine's clock is wrong: set it, or let the broker stamp the records (topic configuration \
             message.timestamp.type=LogAppendTime, as in the topics that these programs create)",
        ),
        K::INVALID_TRANSACTION_TIMEOUT => (
            Code::TransactionTimeout,
            "lower kafka.transaction_timeout, or raise the broker's transaction.max.timeout.ms",
        ),
        K::UNSUPPORTED_COMPRESSION_TYPE => {
            (Code::RecordRefused, "set kafka.compression to a codec that the topic's brokers know, e.g. lz4")
        }
        _ => return None,
    })
}
