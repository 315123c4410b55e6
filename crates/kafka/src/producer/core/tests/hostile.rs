//! Brokers that answer with anything.

use std::time::Duration;

use super::cluster::{Cluster, PARTITIONS, Reply};
use super::{V1, V2, member, offset};
use crate::producer::core::LinkId;
use crate::producer::link::{self, Subject};
use crate::wire::answers::{Authenticated, Mechanisms, Versions};
use crate::wire::bytes::{Reader, put_compact, put_count, put_no_tags};
use crate::wire::codes::KafkaCode as K;
use crate::wire::login::Login;
use crate::wire::requests::{Api, Coordinates};

/// Answers with edits: no bytes make a reader panic, or take more memory than a few times their own.
#[test]
fn answers_of_any_bytes() {
    let login = Login::Plain { user: String::new(), password: String::new() };
    let mut cluster = Cluster::with_login(2, V1, Some(login));
    cluster.core.initialise();
    cluster.run();
    cluster.moved.insert(1, 1);
    cluster.once(Api::Produce, Reply::Of(1, K::NOT_LEADER_OR_FOLLOWER));
    cluster.core.begin();
    (0..PARTITIONS).for_each(|partition| cluster.send("t", partition, "v"));
    cluster.core.send_offsets(member(), vec![offset(0, 7)]);
    cluster.core.commit().expect("batches");
    cluster.run();
    assert_eq!(cluster.outcome(), Ok(()));
    let of = [
        Subject::Metadata,
        Subject::Coordinator(Coordinates::Group),
        Subject::Initialise,
        Subject::AddPartitions(Vec::new()),
        Subject::AddOffsets,
        Subject::Produce(Vec::new()),
        Subject::Offsets,
        Subject::End { commit: true },
    ];
    fuzzing::check!(cluster.answered.clone(), 8_000, |input: &[u8]| {
        for subject in &of {
            for version in [3, 5, 12] {
                drop(link::read(subject, version, &mut Reader(input)));
            }
        }
        drop(Versions::read(&mut Reader(input)));
        drop(Mechanisms::read(&mut Reader(input)));
        drop(Authenticated::read(&mut Reader(input)));
    });
}

#[test]
fn garbage_breaks_a_connection_and_nothing_else() {
    let mut cluster = Cluster::ready(1, V2);
    let id = *cluster.core.links.keys().next().expect("a link");
    for garbage in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &[0, 0, 0, 0], &[0, 0, 0, 4, 9, 9, 9, 9]] {
        let id = cluster.core.links.keys().next().copied().unwrap_or(id);
        cluster.deliver(id, garbage);
        assert!(!cluster.core.links.contains_key(&id), "{garbage:?}");
        assert_eq!(cluster.commit(&[0]), Ok(()), "{garbage:?}");
    }
}

/// Frames with edits, as they come from a socket while a transaction waits for its answers.
#[test]
fn frames_of_any_bytes() {
    // As `begun` below: requests without an answer have the numbers that these frames name.
    let (cluster, _) = begun();
    let frames: Vec<Vec<u8>> = cluster
        .answered
        .iter()
        .enumerate()
        .map(|(number, body)| {
            let head = [((body.len() + 5) as i32).to_be_bytes(), (number as i32).to_be_bytes()].concat();
            [&head[..], &[0], body].concat()
        })
        .collect();
    let all = frames.concat();
    let seeds = frames.into_iter().chain([all, b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()]).collect();
    fuzzing::check!(seeds, 1_500, |input: &[u8]| {
        let (mut cluster, id) = begun();
        cluster.deliver(id, input);
        cluster.now += Duration::from_secs(1);
        cluster.step();
    });
}

/// A producer whose requests of a transaction have no answer.
fn begun() -> (Cluster, LinkId) {
    let mut cluster = Cluster::ready(1, V2);
    cluster.script(|seen| if seen.api == Api::AddPartitionsToTxn { Reply::Silence } else { Reply::Good });
    cluster.core.begin();
    (0..PARTITIONS).for_each(|partition| cluster.send("t", partition, "v"));
    cluster.core.send_offsets(member(), vec![offset(0, 7)]);
    cluster.core.commit().expect("batches");
    cluster.step();
    let id = *cluster.core.links.keys().next().expect("a link");
    (cluster, id)
}

/// A name is kept once for all partitions of its topic, and is no longer than Kafka's names.
#[test]
fn a_long_name_with_many_partitions_takes_no_more_than_the_answer() {
    for (length, partitions, is_read) in [(249, 9_000, true), (250, 1, false), (32 << 10, 4_500, false)] {
        let mut answer = 0_i32.to_be_bytes().to_vec();
        put_count(1, &mut answer);
        put_compact(&vec![b'a'; length], &mut answer);
        put_count(partitions, &mut answer);
        for partition in 0..partitions as i32 {
            answer.extend_from_slice(&partition.to_be_bytes());
            answer.extend_from_slice(&[0, 0]);
            put_no_tags(&mut answer);
        }
        (0..2).for_each(|_| put_no_tags(&mut answer));
        fuzzing::judge(&answer, |input| {
            let read = link::read(&Subject::AddPartitions(Vec::new()), 3, &mut Reader(input));
            assert_eq!(read.is_ok(), is_read, "{length} bytes, {partitions} partitions");
        });
    }
}
