//! Faults of the topic and its dead letters.

use kafka::{Record, TopicSpec, TransactionalProducer};
use testbed::read_topic;

use super::scene::*;

/// Changes what is sent, sends it, writes the logs that belong to it, and checks.
async fn topic_fault(name: &str, fault: impl FnOnce(&mut Vec<Sent>), texts: &[&str]) {
    let mut scene = Scene::new(name).await;
    fault(&mut scene.sent);
    scene.send();
    scene.write_logs(|_| {});
    scene.differs(texts);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_twice_in_the_topic() {
    let again = format!("the change {UUID}:2 row 0 of epoch 1 is in the topic again; first at partition ");
    let verdict = "DIFFERENT: changes more than once in the topic: 1\n";
    topic_fault("verify_twice", |sent| sent.push(sent[10].clone()), &[&again, "key 4, partition ", verdict]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_out_of_order() {
    let found = format!("its position {UUID}:1 is before {UUID}:2 of the record before it (partition ");
    let fault = |sent: &mut Vec<Sent>| {
        sent.swap(3, 10);
        sent[10].value = sent[3].value.clone();
    };
    topic_fault(
        "verify_order",
        fault,
        &[&found, "key 4, partition ", "DIFFERENT: records out of the source's order: 1\n"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_that_goes_back() {
    let fault = |sent: &mut Vec<Sent>| sent[3].source.epoch = 2;
    let found = "its epoch 1 is before epoch 2 of the record before it";
    topic_fault("verify_epoch", fault, &[found, " in 2 epochs\n", "DIFFERENT: records out of the source's order: 1\n"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_in_a_wrong_partition() {
    // "7" belongs into partition 9 of 10, says the Java client.
    let fault = |sent: &mut Vec<Sent>| sent[6].partition = Some(0);
    let found = "  key 7, partition 0, offset ";
    topic_fault(
        "verify_partition",
        fault,
        &[
            found,
            "the record belongs into partition 9, but it is in 0\n",
            "DIFFERENT: records in a wrong partition: 1\n",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_missing_from_the_topic() {
    let fault = |sent: &mut Vec<Sent>| {
        // The delete of 9, the update of 4, and all of 2.
        sent.truncate(10);
        sent.remove(1);
    };
    let texts = [
        "key 2: the row is in the table, but no record of it is in the topic\n      expected name \"Tasse",
        ": the row differs from its last record\n      expected name \"Tasse \\\"grün\\\", 3 l\", category \"cat_5\", price 5.55,",
        "price 10.04, last_updated",
        ": the table has no such row, but its last record is no delete\n      expected nothing\n      found    name",
        "DIFFERENT: table and topic differ: 3\n",
    ];
    topic_fault("verify_missing", fault, &texts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_read_must_be_a_dead_letter() {
    let scene = Scene::with_topic_and_logs("verify_poison").await;
    let settings = scene.world.kafka();
    let poison = Sent { key: "77".to_owned(), value: Some(b"poison".to_vec()), ..scene.sent[0].clone() };
    let before: Vec<(i32, i64)> = read_topic(&settings).iter().map(|r| (r.partition, r.offset)).collect();
    send(&settings, &[poison]);
    let place = read_topic(&settings).iter().map(|r| (r.partition, r.offset)).find(|p| !before.contains(p)).unwrap();
    let reason = "begins with byte 0x70 instead of 0x00";
    scene.differs(&[
        &format!("partition {}, offset {}: the record can't be read and is no dead letter", place.0, place.1),
        reason,
        "DIFFERENT: records that can't be read and are no dead letters: 1\n",
    ]);

    kafka::ensure_topics(&settings, &[TopicSpec::dead_letters(&settings)]).await.unwrap();
    let origin =
        serde_json::json!({"topic": settings.topic, "partition": place.0, "offset": place.1, "reason": reason});
    let dlq = format!("{}.dlq", settings.topic);
    let park = || {
        let producer = TransactionalProducer::new(&settings, &format!("{dlq}.test")).unwrap();
        producer.begin().unwrap();
        let header = origin.to_string();
        let header = Some(("origin", header.as_bytes()));
        let record = Record { topic: &dlq, partition: Some(0), key: b"77", value: Some(b"poison"), header };
        producer.send(&record).unwrap();
        producer.commit().unwrap();
    };
    park();
    assert!(scene.agrees().contains("OK: 13 changes, each in exactly one log or parked (1 dead letters);"));
    park();
    scene.differs(&["the record is a dead letter twice"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_can_be_read_must_be_no_dead_letter() {
    let scene = Scene::with_topic_and_logs("verify_parked").await;
    let settings = scene.world.kafka();
    let parked = read_topic(&settings).into_iter().find(|r| r.key == "1").unwrap();
    let place = format!("\"partition\":{},\"offset\":{},", parked.partition, parked.offset);
    scene.write_logs(|logs| {
        for log in logs {
            let lines = log.split_inclusive(|b| *b == b'\n').map(String::from_utf8_lossy);
            *log = lines.filter(|l| !l.contains(&place)).collect::<String>().into_bytes();
        }
    });
    scene.differs(&["DIFFERENT: records in no log: 1\n"]);

    kafka::ensure_topics(&settings, &[TopicSpec::dead_letters(&settings)]).await.unwrap();
    let origin = serde_json::json!({"topic": settings.topic, "partition": parked.partition, "offset": parked.offset,
        "reason": "the registry has no schema 1"});
    let dlq = format!("{}.dlq", settings.topic);
    let producer = TransactionalProducer::new(&settings, &format!("{dlq}.test")).unwrap();
    producer.begin().unwrap();
    let header = origin.to_string();
    let header = Some(("origin", header.as_bytes()));
    let value = parked.value.as_deref();
    producer.send(&Record { topic: &dlq, partition: Some(0), key: b"1", value, header }).unwrap();
    producer.commit().unwrap();
    scene.differs(&[
        &format!(
            "  key 1, partition {}, offset {}: it can be read, but it is a dead letter: the registry has no schema 1\n      \
             expected {{\"id\":1,",
            parked.partition, parked.offset
        ),
        "\nDIFFERENT: dead letters that can be read: 1\n",
    ]);
}

/// `stream dlq replay` sends a record again that the consumers could not read when it came.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_was_sent_again_is_one_change() {
    let mut scene = Scene::new("verify_sent_again").await;
    scene.sent.push(scene.sent[10].clone());
    scene.send();
    let settings = scene.world.kafka();
    let first = read_topic(&settings).into_iter().filter(|record| record.key == "4").nth(1).unwrap();
    let place = format!("\"partition\":{},\"offset\":{},", first.partition, first.offset);
    scene.write_logs(|logs| {
        for log in logs {
            let text = String::from_utf8(std::mem::take(log)).unwrap();
            log.extend(text.split_inclusive('\n').filter(|line| !line.contains(&place)).flat_map(str::bytes));
        }
    });
    scene.differs(&["is in the topic again"]);
    let dlq = TopicSpec::dead_letters(&settings);
    kafka::ensure_topics(&settings, std::slice::from_ref(&dlq)).await.unwrap();
    let producer = TransactionalProducer::new(&settings, &format!("{}.test", settings.topic)).unwrap();
    producer.begin().unwrap();
    for sent_again in [false, true] {
        let origin = serde_json::json!({"topic": settings.topic, "partition": first.partition, "offset": first.offset,
            "reason": "r", "sent_again": sent_again})
        .to_string();
        let header = Some(("origin", origin.as_bytes()));
        producer.send(&Record { topic: &dlq.name, partition: Some(0), key: b"4", value: None, header }).unwrap();
    }
    producer.commit().unwrap();
    let text = scene.agrees();
    assert!(text.contains("OK: 13 changes, each in exactly one log or parked (1 dead letters)"), "{text}");
}
