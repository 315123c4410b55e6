//! What becomes of a transaction after each error of each request.

use std::time::Duration;

use super::cluster::{Cluster, Reply};
use super::{V1, V2, member, offset};
use crate::producer::failure::Failure;
use crate::wire::codes::KafkaCode as K;
use crate::wire::requests::Api;

/// What becomes of a transaction in which the first answer of a kind has an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Committed,
    Aborted,
    Rebalanced,
    Fenced,
    Broken,
    Refused,
}

fn fate(version: i16, api: Api, code: K) -> Fate {
    let mut cluster = Cluster::new(2, version);
    cluster.once(api, Reply::Code(code));
    cluster.core.initialise();
    cluster.run();
    if cluster.core.failure().is_none() {
        cluster.core.begin();
        (0..3).for_each(|partition| cluster.send("t", partition, "v"));
        cluster.core.send_offsets(member(), vec![offset(0, 7)]);
        cluster.core.commit().expect("batches");
        cluster.run();
    }
    let outcome = cluster.outcome();
    let is_committed = cluster.asked(Api::EndTxn).last().is_some_and(|end| end.starts_with("commit"));
    match outcome {
        Ok(()) if is_committed => Fate::Committed,
        Ok(()) => panic!("nothing was committed"),
        Err(failure @ (Failure::Abortable(_) | Failure::Rebalanced(_))) => {
            let has_rebalanced = matches!(failure, Failure::Rebalanced(_));
            cluster.core.abort();
            cluster.run();
            assert_eq!(cluster.outcome(), Ok(()), "{api:?} {code}");
            assert!(cluster.asked(Api::EndTxn).last().is_some_and(|end| end.starts_with("abort")));
            if has_rebalanced { Fate::Rebalanced } else { Fate::Aborted }
        }
        Err(Failure::Fenced(_)) => Fate::Fenced,
        Err(Failure::Broken(_)) => Fate::Broken,
        Err(Failure::Refused { reason, remedy, .. }) => {
            assert!(reason.contains(&code.to_string()) && !remedy.is_empty(), "{reason}: {remedy}");
            if api == Api::AddPartitionsToTxn {
                // Nothing was added, so a coordinator of V1 would refuse to end it, which would hide the reason.
                cluster.core.abort();
                cluster.run();
                assert_eq!((cluster.outcome(), cluster.asked(Api::EndTxn).len()), (Ok(()), 0), "{code}");
            }
            Fate::Refused
        }
        Err(other) => panic!("{other}"),
    }
}

/// What becomes of an abort whose first answer has an error.
fn fate_of_an_abort(version: i16, code: K) -> Fate {
    let mut cluster = Cluster::ready(1, version);
    cluster.core.begin();
    cluster.send("t", 0, "v");
    cluster.core.flush().expect("a batch");
    cluster.run();
    cluster.once(Api::EndTxn, Reply::Code(code));
    cluster.core.abort();
    cluster.run();
    assert!(cluster.asked(Api::EndTxn).iter().all(|end| end.starts_with("abort")));
    match cluster.outcome() {
        Ok(()) => Fate::Aborted,
        Err(Failure::Fenced(_)) => Fate::Fenced,
        Err(Failure::Broken(_)) => Fate::Broken,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn each_error_of_an_abort_has_its_fate() {
    use Fate::{Aborted, Broken, Fenced};
    let table: &[(&[K], Fate)] = &[
        (&[K::REQUEST_TIMED_OUT, K::CONCURRENT_TRANSACTIONS, K::COORDINATOR_LOAD_IN_PROGRESS], Aborted),
        (&[K::NOT_COORDINATOR, K::COORDINATOR_NOT_AVAILABLE, K::THROTTLING_QUOTA_EXCEEDED], Aborted),
        (&[K::PRODUCER_FENCED, K::INVALID_PRODUCER_EPOCH], Fenced),
        (&[K::INVALID_TXN_STATE, K::INVALID_PRODUCER_ID_MAPPING, K::UNKNOWN_PRODUCER_ID], Broken),
        (&[K::TRANSACTION_ABORTABLE, K::UNKNOWN_SERVER_ERROR, K::UNSUPPORTED_VERSION], Broken),
        (&[K::TRANSACTIONAL_ID_AUTHORIZATION_FAILED], Broken),
    ];
    for (codes, wanted) in table {
        for (code, version) in codes.iter().flat_map(|code| [(*code, V1), (*code, V2)]) {
            assert_eq!(fate_of_an_abort(version, code), *wanted, "{code} on V{version}");
        }
    }
}

/// A transaction that is committed although the first answer of a kind has this code.
fn committed_after(version: i16, api: Api, code: K) -> Cluster {
    let mut cluster = Cluster::new(2, version);
    cluster.once(api, Reply::Code(code));
    cluster.core.initialise();
    cluster.run();
    cluster.core.begin();
    (0..3).for_each(|partition| cluster.send("t", partition, "v"));
    cluster.core.send_offsets(member(), vec![offset(0, 7)]);
    cluster.core.commit().expect("batches");
    cluster.run();
    assert_eq!(cluster.outcome(), Ok(()), "{api:?} {code}");
    cluster
}

#[test]
fn each_error_has_its_pause() {
    use Api::{AddPartitionsToTxn, EndTxn, InitProducerId, Produce, TxnOffsetCommit};
    const SHORT: Duration = Duration::from_micros(250);
    const USUAL: Duration = Duration::from_millis(10);
    for version in [V1, V2] {
        let taken = |api: Api, code: K| {
            let cluster = committed_after(version, api, code);
            cluster.now - cluster.begun
        };
        assert_eq!(taken(EndTxn, K::NONE), Duration::ZERO);
        for (api, code, pause) in [
            (InitProducerId, K::CONCURRENT_TRANSACTIONS, Duration::from_millis(5)),
            (AddPartitionsToTxn, K::CONCURRENT_TRANSACTIONS, SHORT),
            (Produce, K::CONCURRENT_TRANSACTIONS, SHORT),
            (TxnOffsetCommit, K::CONCURRENT_TRANSACTIONS, SHORT),
            (EndTxn, K::CONCURRENT_TRANSACTIONS, SHORT),
            (InitProducerId, K::COORDINATOR_LOAD_IN_PROGRESS, USUAL),
            (AddPartitionsToTxn, K::COORDINATOR_LOAD_IN_PROGRESS, USUAL),
            (AddPartitionsToTxn, K::NOT_COORDINATOR, USUAL),
            (Produce, K::NOT_ENOUGH_REPLICAS, USUAL),
            (TxnOffsetCommit, K::UNSTABLE_OFFSET_COMMIT, USUAL),
            (EndTxn, K::REQUEST_TIMED_OUT, USUAL),
        ] {
            assert_eq!(taken(api, code), pause, "{api:?} {code} on V{version}");
        }
    }
}

/// What is asked besides after an error: the coordinator, or the leaders.
#[test]
fn who_has_moved_is_looked_for() {
    use Api::{
        AddOffsetsToTxn, AddPartitionsToTxn, EndTxn, FindCoordinator, InitProducerId, Metadata, Produce,
        TxnOffsetCommit,
    };
    let asked =
        |version: i16, api: Api, code: K, question: Api| committed_after(version, api, code).asked(question).len();
    for version in [V1, V2] {
        let usual = |question: Api| asked(version, EndTxn, K::NONE, question);
        let (coordinators, leaders) = (usual(FindCoordinator), usual(Metadata));
        for api in [InitProducerId, AddPartitionsToTxn, AddOffsetsToTxn, TxnOffsetCommit, EndTxn] {
            if (api, version) == (AddOffsetsToTxn, V2) {
                continue;
            }
            for code in [K::NOT_COORDINATOR, K::COORDINATOR_NOT_AVAILABLE] {
                assert_eq!(
                    asked(version, api, code, FindCoordinator),
                    coordinators + 1,
                    "{api:?} {code} on V{version}"
                );
            }
            let still = asked(version, api, K::COORDINATOR_LOAD_IN_PROGRESS, FindCoordinator);
            assert_eq!(still, coordinators, "{api:?} on V{version}");
        }
        assert_eq!(asked(version, TxnOffsetCommit, K::REQUEST_TIMED_OUT, FindCoordinator), coordinators + 1);
        for code in [K::NOT_LEADER_OR_FOLLOWER, K::FENCED_LEADER_EPOCH, K::UNKNOWN_TOPIC_OR_PARTITION] {
            assert_eq!(asked(version, Produce, code, Metadata), leaders + 1, "{code} on V{version}");
        }
        for code in [K::NOT_ENOUGH_REPLICAS, K::REQUEST_TIMED_OUT] {
            assert_eq!(asked(version, Produce, code, Metadata), leaders, "{code} on V{version}");
        }
    }
}

#[test]
fn what_an_answer_leaves_out_is_asked_for_again_after_a_pause() {
    const TIMES: usize = 20;
    for version in [V1, V2] {
        for api in [Api::AddPartitionsToTxn, Api::Produce, Api::TxnOffsetCommit] {
            let mut cluster = Cluster::ready(1, version);
            let mut left = TIMES;
            cluster.script(move |seen| match seen.api == api && left > 0 {
                true => {
                    left -= 1;
                    Reply::Without(1)
                }
                false => Reply::Good,
            });
            let begun = cluster.now;
            cluster.core.begin();
            (0..2).for_each(|partition| cluster.send("t", partition, "v"));
            cluster.core.send_offsets(member(), vec![offset(0, 7), offset(1, 7)]);
            cluster.core.commit().expect("batches");
            cluster.run();
            assert_eq!(cluster.outcome(), Ok(()), "{api:?} on V{version}");
            assert_eq!(cluster.asked(api).len(), TIMES + 1, "{api:?} on V{version}");
            assert!(cluster.now - begun > Duration::from_secs(5), "{api:?} on V{version}: {:?}", cluster.now - begun);
        }
    }
}

#[test]
fn a_coordinator_without_an_address_is_looked_for_again() {
    let mut cluster = Cluster::ready(2, V2);
    let node = cluster.core.transactions_at.node.expect("a coordinator");
    // Another broker's answer does not name it.
    cluster.core.links.retain(|_, link| link.node != Some(node));
    cluster.core.nodes.remove(&node);
    assert_eq!(cluster.commit(&[0, 1]), Ok(()));
    assert_eq!(cluster.asked(Api::FindCoordinator).len(), 1);
}

#[test]
fn a_batch_that_stays_corrupt_is_given_up() {
    for version in [V1, V2] {
        let mut cluster = Cluster::ready(1, version);
        cluster.script(|seen| if seen.api == Api::Produce { Reply::Code(K::CORRUPT_MESSAGE) } else { Reply::Good });
        assert!(matches!(cluster.commit(&[0]), Err(Failure::Abortable(_))));
        assert_eq!(cluster.asked(Api::Produce).len(), 6);
        cluster.core.abort();
        cluster.run();
        assert_eq!(cluster.outcome(), Ok(()));
    }
}

/// Every row of the table of errors.
#[test]
fn each_error_of_each_request_has_its_fate() {
    use Api::{AddOffsetsToTxn, AddPartitionsToTxn, EndTxn, FindCoordinator, InitProducerId, Produce, TxnOffsetCommit};
    use Fate::{Aborted, Broken, Committed, Fenced, Rebalanced, Refused};
    let leaders = [
        K::LEADER_NOT_AVAILABLE,
        K::NOT_LEADER_OR_FOLLOWER,
        K::REPLICA_NOT_AVAILABLE,
        K::NETWORK_EXCEPTION,
        K::KAFKA_STORAGE_ERROR,
        K::LISTENER_NOT_FOUND,
        K::FENCED_LEADER_EPOCH,
        K::UNKNOWN_TOPIC_ID,
    ];
    let rights = [
        K::INVALID_TOPIC_EXCEPTION,
        K::TOPIC_AUTHORIZATION_FAILED,
        K::TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        K::CLUSTER_AUTHORIZATION_FAILED,
        K::GROUP_AUTHORIZATION_FAILED,
    ];
    let coordinators = [K::COORDINATOR_NOT_AVAILABLE, K::NOT_COORDINATOR, K::COORDINATOR_LOAD_IN_PROGRESS];
    let all = [InitProducerId, AddPartitionsToTxn, AddOffsetsToTxn, Produce, TxnOffsetCommit, EndTxn];
    let mut table: Vec<(Api, &[K], Fate)> = vec![
        (InitProducerId, &[K::REQUEST_TIMED_OUT, K::CONCURRENT_TRANSACTIONS], Committed),
        (InitProducerId, &[K::INVALID_PRODUCER_ID_MAPPING], Fenced),
        (InitProducerId, &[K::INVALID_TRANSACTION_TIMEOUT], Refused),
        (InitProducerId, &[K::UNKNOWN_PRODUCER_ID, K::TRANSACTION_ABORTABLE, K::UNKNOWN_SERVER_ERROR], Broken),
        (AddPartitionsToTxn, &[K::UNKNOWN_TOPIC_OR_PARTITION, K::REQUEST_TIMED_OUT], Committed),
        (AddPartitionsToTxn, &[K::CONCURRENT_TRANSACTIONS], Committed),
        (AddPartitionsToTxn, &leaders, Committed),
        (AddPartitionsToTxn, &[K::INVALID_TXN_STATE, K::INVALID_PRODUCER_ID_MAPPING, K::UNKNOWN_PRODUCER_ID], Broken),
        (AddPartitionsToTxn, &[K::TRANSACTION_ABORTABLE, K::UNKNOWN_SERVER_ERROR], Aborted),
        (AddOffsetsToTxn, &[K::CONCURRENT_TRANSACTIONS], Committed),
        (AddOffsetsToTxn, &[K::REQUEST_TIMED_OUT], Committed),
        (AddOffsetsToTxn, &[K::INVALID_TXN_STATE, K::INVALID_PRODUCER_ID_MAPPING, K::UNKNOWN_PRODUCER_ID], Broken),
        (AddOffsetsToTxn, &[K::TRANSACTION_ABORTABLE, K::UNKNOWN_SERVER_ERROR], Aborted),
        (Produce, &leaders, Committed),
        (Produce, &[K::CORRUPT_MESSAGE, K::UNKNOWN_TOPIC_OR_PARTITION, K::REQUEST_TIMED_OUT], Committed),
        (Produce, &[K::NOT_ENOUGH_REPLICAS, K::NOT_ENOUGH_REPLICAS_AFTER_APPEND], Committed),
        (Produce, &[K::CONCURRENT_TRANSACTIONS, K::DUPLICATE_SEQUENCE_NUMBER], Committed),
        (Produce, &[K::MESSAGE_TOO_LARGE, K::RECORD_LIST_TOO_LARGE, K::INVALID_TIMESTAMP, K::INVALID_RECORD], Refused),
        (Produce, &[K::UNSUPPORTED_COMPRESSION_TYPE], Refused),
        (Produce, &[K::INVALID_TXN_STATE, K::TRANSACTION_ABORTABLE, K::UNKNOWN_SERVER_ERROR], Aborted),
        (Produce, &[K::INVALID_PRODUCER_ID_MAPPING, K::UNKNOWN_PRODUCER_ID], Broken),
        (TxnOffsetCommit, &[K::UNKNOWN_TOPIC_OR_PARTITION, K::REQUEST_TIMED_OUT, K::UNSTABLE_OFFSET_COMMIT], Committed),
        (TxnOffsetCommit, &[K::CONCURRENT_TRANSACTIONS], Committed),
        (TxnOffsetCommit, &[K::ILLEGAL_GENERATION, K::UNKNOWN_MEMBER_ID, K::REBALANCE_IN_PROGRESS], Rebalanced),
        (TxnOffsetCommit, &[K::FENCED_MEMBER_EPOCH, K::STALE_MEMBER_EPOCH], Rebalanced),
        (TxnOffsetCommit, &[K::TRANSACTION_ABORTABLE, K::FENCED_INSTANCE_ID], Aborted),
        (TxnOffsetCommit, &[K::INVALID_TXN_STATE, K::INVALID_PRODUCER_ID_MAPPING, K::UNKNOWN_SERVER_ERROR], Broken),
        (EndTxn, &[K::REQUEST_TIMED_OUT, K::CONCURRENT_TRANSACTIONS], Committed),
        (EndTxn, &[K::INVALID_TXN_STATE, K::INVALID_PRODUCER_ID_MAPPING, K::UNKNOWN_SERVER_ERROR], Broken),
        (EndTxn, &[K::UNKNOWN_PRODUCER_ID], Broken),
        (EndTxn, &[K::TRANSACTION_ABORTABLE], Aborted),
        (FindCoordinator, &[K::COORDINATOR_NOT_AVAILABLE, K::COORDINATOR_LOAD_IN_PROGRESS], Committed),
        (FindCoordinator, &rights, Refused),
    ];
    for api in all {
        table.push((api, &rights, Refused));
        table.push((api, &[K::PRODUCER_FENCED, K::INVALID_PRODUCER_EPOCH], Fenced));
        table.push((api, &[K::UNSUPPORTED_VERSION], Broken));
        table.push((api, &[K::THROTTLING_QUOTA_EXCEEDED], Committed));
        if api != Produce {
            table.push((api, &coordinators, Committed));
        }
    }
    for (api, codes, wanted) in table {
        for version in [V1, V2] {
            // Only V1 adds offsets.
            if (api, version) == (AddOffsetsToTxn, V2) {
                continue;
            }
            for code in codes {
                assert_eq!(fate(version, api, *code), wanted, "{api:?} {code} on V{version}");
            }
        }
    }
    // Lost records: only V2 has another epoch to continue with.
    assert_eq!(fate(V1, Produce, K::OUT_OF_ORDER_SEQUENCE_NUMBER), Broken);
    assert_eq!(fate(V2, Produce, K::OUT_OF_ORDER_SEQUENCE_NUMBER), Aborted);
}
