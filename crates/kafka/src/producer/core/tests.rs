//! Transactions with brokers of a script.

mod brokers;
mod cluster;
mod decisions;
mod errors;
mod greetings;
mod hostile;
mod requests;
mod simulation;

use self::cluster::{Cluster, ID, PARTITIONS, Reply};
use super::*;
use crate::producer::link::ANSWER_WITHIN;
use crate::wire::codes::KafkaCode as K;
use crate::wire::requests::Api;

const V1: i16 = 1;
const V2: i16 = 2;

#[test]
fn a_transaction_is_one_addition_one_request_a_broker_and_one_end() {
    let mut cluster = Cluster::ready(3, V2);
    cluster.core.begin();
    for (partition, value) in [(3, "a"), (0, "b"), (1, "c"), (0, "d"), (2, "e")] {
        cluster.send("t", partition, value);
    }
    cluster.send("progress", 0, "p");
    cluster.core.commit().expect("batches");
    cluster.run();
    assert_eq!(cluster.outcome(), Ok(()));
    assert_eq!(
        cluster.transactions(),
        [
            "AddPartitionsToTxn 3 t-0 t-1 t-2 t-3 progress-0 epoch 1 at 1",
            "Produce 12 t-0:2@0 epoch 1, t-3:1@0 epoch 1, progress-0:1@0 epoch 1 at 1",
            "Produce 12 t-1:1@0 epoch 1 at 2",
            "Produce 12 t-2:1@0 epoch 1 at 3",
            "EndTxn 5 commit epoch 1 at 1",
        ]
    );
    assert_eq!(cluster.core.buffered(), 0);
}

#[test]
fn on_v2_each_transaction_has_an_epoch_and_sequences_of_its_own() {
    let mut cluster = Cluster::ready(1, V2);
    for _ in 0..2 {
        assert_eq!(cluster.commit(&[0]), Ok(()));
    }
    let wanted = ["t-0:1@0 epoch 1", "t-0:1@0 epoch 2"];
    assert_eq!(cluster.asked(Api::Produce), wanted);
    assert_eq!(cluster.core.level(), Level::V2);
}

#[test]
fn the_coordinator_may_give_another_id_with_the_first_epoch() {
    let mut cluster = Cluster::ready(1, V2);
    cluster.once(Api::EndTxn, Reply::Id(ID + 1, 0));
    for _ in 0..2 {
        assert_eq!(cluster.commit(&[0]), Ok(()));
    }
    let other = format!("epoch 0 of {}", ID + 1);
    assert_eq!(cluster.asked(Api::AddPartitionsToTxn), ["t-0 epoch 1", &format!("t-0 {other}")]);
    assert_eq!(cluster.asked(Api::Produce), ["t-0:1@0 epoch 1", &format!("t-0:1@0 {other}")]);
    assert_eq!(cluster.asked(Api::EndTxn), ["commit epoch 1", &format!("commit {other}")]);
}

#[test]
fn on_v1_the_epoch_stays_and_sequences_go_on() {
    let mut cluster = Cluster::ready(1, V1);
    for _ in 0..2 {
        assert_eq!(cluster.commit(&[0, 1]), Ok(()));
    }
    assert_eq!(
        cluster.transactions(),
        [
            "AddPartitionsToTxn 3 t-0 t-1 epoch 1 at 1",
            "Produce 11 t-0:1@0 epoch 1, t-1:1@0 epoch 1 at 1",
            "EndTxn 3 commit epoch 1 at 1",
            "AddPartitionsToTxn 3 t-0 t-1 epoch 1 at 1",
            "Produce 11 t-0:1@1 epoch 1, t-1:1@1 epoch 1 at 1",
            "EndTxn 3 commit epoch 1 at 1",
        ]
    );
}

#[test]
fn v2_needs_the_feature_and_the_versions() {
    for (transaction_version, produce, level) in
        [(2, 12, Level::V2), (2, 11, Level::V1), (1, 13, Level::V1), (0, 13, Level::V1), (3, 13, Level::V2)]
    {
        let mut cluster = Cluster::new(1, transaction_version);
        cluster.newest.insert(0, produce);
        cluster.core.initialise();
        cluster.run();
        assert_eq!(cluster.core.level(), level, "transaction.version {transaction_version}, Produce {produce}");
    }
    // Kafka 2.8 speaks Produce 9.
    let mut cluster = Cluster::new(1, 0);
    cluster.newest.insert(0, 9);
    cluster.core.initialise();
    cluster.run();
    assert_eq!(cluster.commit(&[0]), Ok(()));
    assert!(cluster.transactions()[1].starts_with("Produce 9 "), "{:?}", cluster.transactions());
}

fn offset(partition: i32, next: i64) -> GroupOffset {
    GroupOffset { topic: "t".to_owned(), partition, next, note: format!("up to {next}") }
}

fn member() -> GroupMember {
    let text = |text: &str| text.to_owned();
    GroupMember { group: text("g"), generation: 5, member: text("m-1"), instance: Some(text("slot-1")) }
}

#[test]
fn a_batch_that_is_refused_for_now_is_sent_again_unchanged_and_alone() {
    for code in [K::NOT_ENOUGH_REPLICAS, K::NOT_LEADER_OR_FOLLOWER, K::CONCURRENT_TRANSACTIONS] {
        let mut cluster = Cluster::ready(1, V2);
        cluster.once(Api::Produce, Reply::Of(1, code));
        assert_eq!(cluster.commit(&[0, 1, 2]), Ok(()));
        let wanted = ["t-0:1@0 epoch 1, t-1:1@0 epoch 1, t-2:1@0 epoch 1", "t-1:1@0 epoch 1"];
        assert_eq!(cluster.asked(Api::Produce), wanted, "{code}");
    }
}

#[test]
fn the_leader_that_a_broker_names_is_asked_at_once() {
    let mut cluster = Cluster::ready(3, V2);
    assert_eq!(cluster.commit(&[0, 1]), Ok(()));
    cluster.seen.clear();
    let begun = cluster.now;
    cluster.moved.insert(1, 3);
    cluster.newest.insert(0, 12);
    cluster.script(|seen| {
        let is_old = seen.api == Api::Produce && seen.node == 2;
        if is_old { Reply::Code(K::NOT_LEADER_OR_FOLLOWER) } else { Reply::Good }
    });
    assert_eq!(cluster.commit(&[1]), Ok(()));
    let asked: Vec<i32> = cluster.seen.iter().filter(|seen| seen.api == Api::Produce).map(|seen| seen.node).collect();
    assert_eq!((asked, cluster.asked(Api::Metadata).len()), (vec![2, 3], 0));
    assert!(cluster.now - begun < Duration::from_millis(1));
}

#[test]
fn a_batch_that_is_too_large_goes_in_two_until_it_is_one_record() {
    for version in [V1, V2] {
        let mut cluster = Cluster::ready(1, version);
        cluster.script(|seen| {
            let is_large =
                seen.api == Api::Produce && [":3@", ":5@", ":6@", ":11@"].iter().any(|n| seen.text.contains(n));
            if is_large { Reply::Code(K::MESSAGE_TOO_LARGE) } else { Reply::Good }
        });
        cluster.core.begin();
        (0..11).for_each(|number| cluster.send("t", 0, &format!("value {number}")));
        cluster.core.commit().expect("batches");
        cluster.run();
        assert_eq!(cluster.outcome(), Ok(()));
        let counts: Vec<&str> = cluster.asked(Api::Produce);
        let wanted = ["11@0", "5@0", "2@0", "3@2", "1@2", "2@3", "6@5", "3@5", "1@5", "2@6", "3@8", "1@8", "2@9"];
        let wanted: Vec<String> = wanted.iter().map(|part| format!("t-0:{part} epoch 1")).collect();
        assert_eq!(counts, wanted);
        assert_eq!(cluster.core.buffered(), 0);
    }
    let mut cluster = Cluster::ready(1, V2);
    cluster.script(|seen| if seen.api == Api::Produce { Reply::Code(K::MESSAGE_TOO_LARGE) } else { Reply::Good });
    assert!(matches!(cluster.commit(&[0]), Err(Failure::Refused { code: model::error::Code::RecordRefused, .. })));
}

#[test]
fn no_batch_goes_to_a_partition_before_its_addition_is_answered() {
    let mut cluster = Cluster::ready(1, V1);
    let mut tries = 0;
    cluster.script(move |seen| {
        tries += i32::from(seen.api == Api::AddPartitionsToTxn);
        let is_early = seen.api == Api::AddPartitionsToTxn && tries < 4;
        if is_early { Reply::Of(1, K::CONCURRENT_TRANSACTIONS) } else { Reply::Good }
    });
    assert_eq!(cluster.commit(&[0, 1]), Ok(()));
    let kinds: Vec<Api> = cluster.seen.iter().map(|seen| seen.api).filter(|api| *api != Api::Metadata).collect();
    let add = Api::AddPartitionsToTxn;
    assert_eq!(kinds, [add, add, add, add, Api::Produce, Api::EndTxn]);
}

#[test]
fn no_commit_is_sent_before_every_batch_and_offset_is_acknowledged() {
    for (api, code) in [(Api::Produce, K::NOT_ENOUGH_REPLICAS), (Api::TxnOffsetCommit, K::COORDINATOR_LOAD_IN_PROGRESS)]
    {
        let mut cluster = Cluster::ready(2, V2);
        cluster.script(move |seen| if seen.api == api { Reply::Code(code) } else { Reply::Good });
        cluster.core.begin();
        (0..PARTITIONS).for_each(|partition| cluster.send("t", partition, "v"));
        cluster.core.send_offsets(member(), vec![offset(0, 7)]);
        cluster.core.commit().expect("batches");
        cluster.run();
        assert_eq!((cluster.core.stage(), cluster.asked(Api::EndTxn).len()), (Stage::Committing, 0));
        assert!(cluster.asked(api).len() > 10, "it is tried again");
    }
}

#[test]
fn offsets_go_with_the_members_generation() {
    for (version, wanted) in [
        (
            V1,
            &[
                "AddOffsetsToTxn 3 g epoch 1 at 1",
                "TxnOffsetCommit 3 g 5 m-1 slot-1 t-0=7 (up to 7) t-3=9 (up to 9) epoch 1 at 1",
            ][..],
        ),
        (V2, &["TxnOffsetCommit 5 g 5 m-1 slot-1 t-0=7 (up to 7) t-3=9 (up to 9) epoch 1 at 1"][..]),
    ] {
        let mut cluster = Cluster::ready(1, version);
        cluster.core.begin();
        cluster.core.send_offsets(member(), vec![offset(0, 7), offset(3, 9)]);
        cluster.core.commit().expect("batches");
        cluster.run();
        assert_eq!(cluster.outcome(), Ok(()));
        let mut requests = cluster.transactions();
        assert!(requests.pop().is_some_and(|end| end.starts_with("EndTxn")));
        assert_eq!(requests, wanted);
    }
}

#[test]
fn an_empty_transaction_asks_nothing() {
    for version in [V1, V2] {
        let mut cluster = Cluster::ready(1, version);
        assert_eq!(cluster.commit(&[]), Ok(()));
        cluster.core.begin();
        cluster.core.abort();
        cluster.run();
        assert_eq!(cluster.outcome(), Ok(()));
        assert_eq!(cluster.transactions(), [""; 0]);
    }
}

#[test]
fn a_lost_answer_is_asked_for_again_and_makes_v1_stale() {
    for api in [Api::AddPartitionsToTxn, Api::Produce, Api::TxnOffsetCommit, Api::EndTxn] {
        for reply in [Reply::Break, Reply::Silence] {
            for version in [V1, V2] {
                let mut cluster = Cluster::ready(2, version);
                cluster.once(api, reply.clone());
                cluster.core.begin();
                (0..PARTITIONS).for_each(|partition| cluster.send("t", partition, "v"));
                cluster.core.send_offsets(member(), vec![offset(0, 7)]);
                let begun = cluster.now;
                cluster.core.commit().expect("batches");
                cluster.run();
                assert_eq!(cluster.outcome(), Ok(()), "{api:?} {reply:?} V{version}");
                let asked = cluster.asked(api);
                assert_eq!(asked.iter().filter(|text| **text == asked[0]).count(), 2, "{api:?}: {asked:?}");
                assert_eq!(cluster.core.stale().is_some(), version == V1, "{api:?} {reply:?} V{version}");
                let waited = cluster.now - begun;
                assert_eq!(waited >= ANSWER_WITHIN, reply == Reply::Silence, "{waited:?}");
            }
        }
    }
}

#[test]
fn a_connection_that_breaks_without_a_question_makes_nothing_stale() {
    let mut cluster = Cluster::ready(1, V1);
    let links: Vec<LinkId> = cluster.core.links.keys().copied().collect();
    for id in links {
        cluster.core.closed(id, &Closed::Lost("idle".to_owned()), cluster.now);
    }
    assert_eq!(cluster.commit(&[0]), Ok(()));
    assert_eq!(cluster.core.stale(), None);
}

#[test]
fn another_level_of_the_feature_ends_with_the_transaction() {
    for (before, after) in [(V1, V2), (V2, V1)] {
        let mut cluster = Cluster::ready(2, before);
        cluster.transaction_version = after;
        // The second broker is met within the transaction.
        assert_eq!(cluster.commit(&[0, 1]), Ok(()));
        let versions: Vec<i16> =
            cluster.seen.iter().filter(|seen| seen.api == Api::Produce).map(|seen| seen.version).collect();
        assert_eq!(versions, if before == V1 { [11, 11] } else { [12, 12] });
        assert_eq!(cluster.core.stale(), Some("the cluster has finalised another transaction.version"));
    }
}

#[test]
fn a_coordinator_that_has_moved_is_found() {
    let mut cluster = Cluster::ready(2, V2);
    cluster.coordinator = 2;
    cluster.script(|seen| {
        let is_old = seen.api == Api::EndTxn && seen.node == 1;
        if is_old { Reply::Code(K::NOT_COORDINATOR) } else { Reply::Good }
    });
    assert_eq!(cluster.commit(&[0]), Ok(()));
    let ends: Vec<i32> = cluster.seen.iter().filter(|seen| seen.api == Api::EndTxn).map(|seen| seen.node).collect();
    assert_eq!(ends, [1, 2]);
    assert_eq!(cluster.asked(Api::FindCoordinator), ["1 tx"]);
}

#[test]
fn a_broker_that_is_gone_is_not_waited_for() {
    // It led a partition; it coordinated the transactions.
    for gone in [2, 1] {
        let mut cluster = Cluster::ready(3, V2);
        assert_eq!(cluster.commit(&[0, 1, 2]), Ok(()));
        let links: Vec<(LinkId, Option<i32>)> = cluster.core.links.iter().map(|(id, link)| (*id, link.node)).collect();
        for (id, _) in links.into_iter().filter(|(_, node)| *node == Some(gone)) {
            cluster.core.closed(id, &Closed::Lost("gone".to_owned()), cluster.now);
        }
        cluster.gone = Some(gone);
        cluster.moved.extend((0..PARTITIONS).map(|partition| (partition, 3)));
        cluster.coordinator = 3;
        let begun = cluster.now;
        assert_eq!(cluster.commit(&[0, 1, 2]), Ok(()), "without broker {gone}");
        assert!(cluster.now - begun < Duration::from_secs(1), "{:?}", cluster.now - begun);
    }
}

#[test]
fn an_address_that_does_not_answer_is_not_the_only_one_that_is_tried() {
    let mut cluster = Cluster::new(2, V2);
    cluster.core.options.bootstrap = vec![cluster::address(9), cluster::address(1)];
    cluster.hangs = Some(9);
    cluster.core.initialise();
    let begun = cluster.now;
    cluster.run();
    assert_eq!(cluster.outcome(), Ok(()));
    assert!(cluster.now - begun < Duration::from_secs(2), "{:?}", cluster.now - begun);
}

#[test]
fn a_connection_that_does_not_become_ready_is_made_again() {
    let mut cluster = Cluster::ready(2, V2);
    cluster.hangs = Some(2);
    let begun = cluster.now;
    cluster.core.begin();
    cluster.send("t", 1, "v");
    cluster.core.commit().expect("a batch");
    cluster.run_with(|cluster| cluster.hangs = cluster.hangs.filter(|_| cluster.now < begun + Duration::from_secs(9)));
    assert_eq!(cluster.outcome(), Ok(()));
    assert!(cluster.now - begun < Duration::from_secs(31), "{:?}", cluster.now - begun);
}

#[test]
fn an_abort_forgets_what_was_not_sent_and_waits_for_what_was() {
    let mut cluster = Cluster::ready(2, V2);
    cluster.script(|seen| if seen.api == Api::Produce { Reply::Silence } else { Reply::Good });
    cluster.core.begin();
    (0..PARTITIONS).for_each(|partition| cluster.send("t", partition, "v"));
    cluster.core.slots.seal(Compression::None).expect("batches");
    for _ in 0..4 {
        cluster.step();
    }
    assert_eq!(cluster.asked(Api::Produce).len(), 2);
    cluster.core.abort();
    cluster.step();
    assert!(!cluster.core.step.is_asked, "batches are on their way");
    cluster.script(|_| Reply::Good);
    // After 20 s without an answer the connections break.
    cluster.run();
    assert_eq!(cluster.outcome(), Ok(()));
    assert_eq!(cluster.asked(Api::Produce).len(), 2, "nothing is sent again");
    assert_eq!(cluster.asked(Api::EndTxn), ["abort epoch 1"]);
    assert_eq!((cluster.core.buffered(), cluster.commit(&[0])), (0, Ok(())));
}

#[test]
fn a_commit_of_unknown_outcome_is_never_aborted() {
    let mut cluster = Cluster::ready(1, V2);
    cluster.script(|seen| if seen.api == Api::EndTxn { Reply::Code(K::CONCURRENT_TRANSACTIONS) } else { Reply::Good });
    cluster.core.begin();
    cluster.send("t", 0, "v");
    cluster.core.commit().expect("batches");
    cluster.run();
    assert!(cluster.core.is_ending());
    cluster.core.abort();
    cluster.run();
    assert!(matches!(cluster.outcome(), Err(Failure::Broken(_))));
    assert!(cluster.asked(Api::EndTxn).iter().all(|end| *end == "commit epoch 1"));
}

#[test]
fn a_throttled_broker_is_left_alone_for_so_long() {
    let mut cluster = Cluster::ready(1, V2);
    cluster.throttle_ms = 700;
    let begun = cluster.now;
    assert_eq!(cluster.commit(&[0]), Ok(()));
    let waited = cluster.now - begun;
    // The answers to the search for leaders and the addition, which are asked together, and that to Produce.
    assert_eq!(waited, Duration::from_millis(1_400));
}

#[test]
fn a_throttle_that_is_longer_than_the_wait_for_an_answer_breaks_no_connection() {
    let mut cluster = Cluster::ready(1, V1);
    cluster.core.begin();
    [0, 1].iter().for_each(|partition| cluster.send("t", *partition, "a"));
    cluster.core.flush().expect("batches");
    cluster.run();
    // Two requests are on their way. The broker answers the first one, and reads nothing for twice the wait.
    let throttle = 2 * ANSWER_WITHIN;
    cluster.throttle_ms = throttle.as_millis() as i32;
    let mut produces = 0;
    cluster.script(move |seen| {
        produces += i32::from(seen.api == Api::Produce);
        if produces == 2 { Reply::Silence } else { Reply::Good }
    });
    for partition in [0, 1] {
        cluster.send("t", partition, "b");
        cluster.core.flush().expect("a batch");
        assert!(cluster.core.advance(cluster.now).is_empty());
    }
    cluster.step();
    assert_eq!(cluster.asked(Api::Produce).len(), 3);
    let second = Duration::from_secs(1);
    for (after, closed) in [(ANSWER_WITHIN + second, 0), (throttle + second, 0), (throttle + ANSWER_WITHIN, 1)] {
        assert_eq!(cluster.core.advance(cluster.now + after).len(), closed, "after {after:?}");
    }
}

#[test]
fn the_error_of_many_partitions_makes_one_pause() {
    for api in [Api::AddPartitionsToTxn, Api::TxnOffsetCommit] {
        let mut cluster = Cluster::ready(1, V2);
        assert_eq!(cluster.commit(&[0]), Ok(()));
        let begun = cluster.now;
        cluster.once(api, Reply::Code(K::NOT_COORDINATOR));
        cluster.core.begin();
        (0..PARTITIONS).for_each(|partition| cluster.send("t", partition, "v"));
        cluster.core.send_offsets(member(), (0..PARTITIONS).map(|partition| offset(partition, 7)).collect());
        cluster.core.commit().expect("batches");
        cluster.run();
        assert_eq!((cluster.outcome(), cluster.now - begun), (Ok(()), Duration::from_millis(10)), "{api:?}");
    }
}

#[test]
fn nobody_answers_and_the_reason_is_known() {
    let mut cluster = Cluster::new(0, V2);
    cluster.core.initialise();
    let begun = cluster.now;
    cluster.run();
    assert_eq!(cluster.core.stage(), Stage::Initialising);
    assert_eq!(cluster.core.trouble(), Some("broker:1: Connection refused"));
    assert!(cluster.now - begun >= Duration::from_secs(300), "it tries until somebody stops it");
}
