//! Records of another writer, which consumers take for dead letters: they neither hide a product that is gone nor stand for
//! one that is there.

use pipeline::kafka::partition_of;
use rdkafka::Message as _;

use super::*;

/// Writes records without the header `source`.
fn write(world: &World, records: &[(&str, Option<&[u8]>)]) {
    let settings = world.kafka();
    let producer = TransactionalProducer::new(&settings, "foreign").unwrap();
    producer.begin().unwrap();
    for (key, value) in records {
        let partition = partition_of(key.trim_start_matches('0').as_bytes(), settings.partitions);
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
    world.set("FAILPOINTS", "producer.sweep-collected=1*return(stop)");
    let mut producer = world.start_as("cdc-producer", "second", &[]);
    producer.wait_for("failpoint");
    write(&world, &[("8", Some(b"nonsense")), ("7", None), ("5", Some(b""))]);
    producer.signal("CONT");
    producer.wait_for_within("snapshot complete", PATIENCE);
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
    assert_eq!(deleted, ["5", "6", "7", "8"]);
    world.set("FAILPOINTS", "");
    let consumer = world.start("consumer", &[]);
    let report = world.verify();
    assert!(report.contains("OK: ") && report.contains("dead letters"), "{report}");
    stop(consumer);
    stop(producer);
}
