//! Records of another writer, which consumers take for dead letters: they neither hide a product that is gone nor stand
//! for one that is there.

use kafka::partition_of;
use rdkafka::Message as _;
use runtime::step::{DurableStep as _, ProducerStep};

use super::*;

/// Writes records without the header `source`.
fn write(world: &TestBed, records: &[(&str, Option<&[u8]>)]) {
    write_to(world, records, |key, partitions| partition_of(key.trim_start_matches('0').as_bytes(), partitions));
}

/// The same, into the partition that `place` says.
fn write_to(world: &TestBed, records: &[(&str, Option<&[u8]>)], place: impl Fn(&str, i32) -> i32) {
    let settings = world.kafka();
    let producer = TransactionalProducer::new(&settings, &format!("{}.foreign", world.name)).unwrap();
    producer.begin().unwrap();
    for (key, value) in records {
        let partition = place(key, settings.partitions);
        let topic = &settings.topic;
        let record = Record { topic, partition: Some(partition), key: key.as_bytes(), value: *value, header: None };
        producer.send(&record).unwrap();
    }
    producer.commit().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn they_hide_nothing_from_a_new_epoch() {
    let (mut world, mut conn) = published("foreign_records").await;
    let gone = "DELETE FROM product WHERE id IN (5, 6, 7, 8)";
    // Behind the producer's back, so that only the new epoch can tell.
    execute(&mut conn, &["SET sql_log_bin = 0", gone, "SET sql_log_bin = 1"]).await;
    write(&world, &[("5", None), ("06", None), ("9", None), ("7", Some(b"nonsense"))]);
    reset(&world);
    world.set("FAILPOINTS", ProducerStep::SweepCollected.failpoint("1*return(stop)"));
    let mut producer = world.start_as("cdc-producer", "second", &[]);
    producer.wait_for("failpoint");
    write(&world, &[("8", Some(b"nonsense")), ("7", None), ("5", Some(b""))]);
    producer.signal("CONT");
    producer.wait_for_within("snapshot complete", PATIENCE);
    // A reader sees a partition's part of a transaction when the broker has written its marker, which a commit does not
    // wait for.
    let deleted = eventually("all of them are deleted", PATIENCE, || {
        let mut deleted = Vec::new();
        kafka::scan(&world.kafka(), &world.name, &mut |message| {
            let header = kafka::header(message, "source").map(|header| String::from_utf8_lossy(header).into_owned());
            if header.is_some_and(|header| header.starts_with(r#"{"op":"d""#)) {
                deleted.push(String::from_utf8_lossy(message.key().unwrap()).into_owned());
            }
            Ok(())
        })
        .unwrap();
        deleted.sort();
        (deleted.len() >= 4).then_some(deleted)
    });
    assert_eq!(deleted, ["5", "6", "7", "8"]);
    world.set("FAILPOINTS", "");
    let consumer = world.start("consumer", &[]);
    let report = world.verify();
    assert!(report.contains("OK: ") && report.contains("dead letters"), "{report}");
    stop(consumer);
    stop(producer);
}

/// One of another partitioner, as kcat's, whose key belongs elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn they_delete_nothing_that_is_there() {
    let (mut world, mut conn) = published("foreign_partition").await;
    let all: Vec<String> = (1..=20).map(|id: i64| id.to_string()).collect();
    let records: Vec<(&str, Option<&[u8]>)> = all.iter().map(|key| (key.as_str(), Some(&b"nonsense"[..]))).collect();
    for shift in 1..10 {
        write_to(&world, &records, |key, partitions| (partition_of(key.as_bytes(), partitions) + shift) % partitions);
    }
    // Two keys in a pass, so that a pass sees a part of the partitions.
    world.set("PRODUCER_MEMORY", "256");
    reset(&world);
    let producer = start(&world, "second", &[]);
    let mut deleted = 0;
    kafka::scan(&world.kafka(), &world.name, &mut |message| {
        deleted += usize::from(message.payload().is_none());
        Ok(())
    })
    .unwrap();
    assert_eq!(deleted, 0);
    execute(&mut conn, &["DELETE FROM product WHERE id = 5"]).await;
    let consumer = world.start("consumer", &[]);
    let ended = world.run("verify", &["--wait", "60s"]);
    // Foreign records are dead letters, and nothing else is wrong.
    assert!(ended.code == 0 && ended.out.contains("180 dead letters"), "{}", ended.out);
    stop(consumer);
    stop(producer);
}
