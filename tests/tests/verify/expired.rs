//! Records that have expired: what can't be compared is counted and named, and agreement is not claimed.

use integration_tests::product_line;
use mysql_async::prelude::Queryable;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{Offset, TopicPartitionList};
use runtime::config::KafkaSettings;
use testbed::{Product, TestBed, eventually, read_topic};

use super::scene::postgres;

/// Takes the records of these partitions, as retention does; all but the last one of the topic with `keep`.
async fn expire(settings: &KafkaSettings, keep: Option<&str>) {
    let admin: AdminClient<DefaultClientContext> = kafka::client_config(settings).create().unwrap();
    let mut until = TopicPartitionList::new();
    for partition in 0..settings.partitions {
        let kept = read_topic(settings).into_iter().rfind(|r| r.partition == partition && Some(r.key.as_str()) == keep);
        let offset = kept.map_or(Offset::End, |record| Offset::Offset(record.offset));
        until.add_partition_offset(&settings.topic, partition, offset).unwrap();
    }
    admin.delete_records(&until, &AdminOptions::new()).await.unwrap();
}

/// Twelve products that are everywhere.
async fn twelve(world: &TestBed) -> (testbed::Running, testbed::Running) {
    let mut conn = world.table().await;
    let rows: Vec<String> = (1..=12).map(|id| format!("({id},'n','cat_5',{id},NULL)")).collect();
    conn.query_drop(format!("INSERT INTO product VALUES {}", rows.join(","))).await.unwrap();
    let programs = (world.start("cdc-producer", &[]), world.start("consumer", &[]));
    assert!(world.verify().contains("\nOK: 12 changes"));
    programs
}

fn report(world: &TestBed, arguments: &[&str]) -> (i32, serde_json::Value) {
    let ended = world.run("verify", &[&["--json"], arguments].concat());
    (ended.code, serde_json::from_str(&ended.out).unwrap_or_else(|e| panic!("{e}: {}{}", ended.out, ended.err)))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_twelve_products_alive_is_no_agreement() {
    let world = TestBed::new("verify_one_alive");
    let _programs = twelve(&world).await;
    expire(&world.kafka(), Some("9")).await;
    let ended = world.run("verify", &["--wait", "60s"]);
    assert_eq!(ended.code, 0, "{}", ended.out);
    let partitions = 10;
    for text in [
        "lines of expired records                       11   not checked\n",
        "not compared: rows of the table whose last record has expired: 11 (the topic tells nothing of them)\n",
        "not compared: lines of expired records: 11 (the topic tells nothing of them)\n",
        "\nAS FAR AS COMPARED: 1 changes, each in exactly one log; table, topic and logs agree; not compared: partitions that ",
    ] {
        let squeezed = |text: &str| text.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
        assert!(squeezed(&ended.out).contains(&squeezed(text)), "{text:?} in\n{}", ended.out);
    }
    assert!(!ended.out.contains("OK:"), "{}", ended.out);
    let (code, report) = report(&world, &["--complete"]);
    assert_eq!((code, &report["agree"], &report["verdict"]), (1, &false.into(), &"agree_as_far_as_compared".into()));
    let counts = report["not_compared"].as_array().unwrap().iter().map(|gap| gap["count"].as_u64().unwrap());
    let counts: Vec<u64> = counts.collect();
    assert!(counts[0] <= partitions && counts[1..] == [11, 11], "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_can_be_compared_is_no_success() {
    let world = TestBed::new("verify_none_alive");
    let _programs = twelve(&world).await;
    expire(&world.kafka(), None).await;
    let (code, found) = report(&world, &["--wait", "60s"]);
    assert_eq!((code, &found["verdict"]), (1, &"nothing_compared".into()), "{found}");
    // What is written to from now on is compared, also a row whose state before has expired.
    let mut conn = world.mysql().await;
    conn.query_drop("UPDATE product SET price = 100 WHERE id = 3").await.unwrap();
    let (code, found) = report(&world, &["--wait", "60s"]);
    assert_eq!((code, &found["verdict"], &found["records"]), (0, &"agree_as_far_as_compared".into(), &1.into()));
    conn.query_drop("SET sql_log_bin = 0").await.unwrap();
    conn.query_drop("UPDATE product SET price = 101 WHERE id = 3").await.unwrap();
    let (code, found) = report(&world, &["--wait", "60s"]);
    assert_eq!((code, &found["verdict"], &found["counts"]), (1, &"different".into(), &serde_json::json!({"table": 1})));
}

/// With PostgreSQL each row is compared with something, and a row of an expired record is found wrong there.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_postgres_are_compared_with_the_tables_when_records_have_expired() {
    let world = TestBed::new("verify_expired_rows").with_postgres();
    let _programs = twelve(&world).await;
    expire(&world.kafka(), None).await;
    let (code, found) = report(&world, &["--wait", "60s"]);
    assert_eq!((code, &found["verdict"]), (0, &"agree_as_far_as_compared".into()), "{found}");
    postgres(world.get("POSTGRES_URL"), "UPDATE product SET price = 1 WHERE id = 5").await;
    let (code, found) = report(&world, &["--wait", "60s"]);
    assert_eq!((code, &found["counts"]), (1, &serde_json::json!({"postgres": 1})), "{found}");
}

/// The logs of a group that began when the topic no longer began at 0 have less than the table, and verify says so.
#[tokio::test(flavor = "multi_thread")]
async fn logs_that_begin_in_the_middle_of_the_topic() {
    let world = TestBed::new("verify_late_group");
    let mut conn = world.table().await;
    let rows: Vec<String> = (1..=12).map(|id| format!("({id},'n','cat_5',{id},NULL)")).collect();
    conn.query_drop(format!("INSERT INTO product VALUES {}", rows.join(","))).await.unwrap();
    let _producer = world.start("cdc-producer", &[]);
    let settings = world.kafka();
    eventually("the snapshot is in the topic", std::time::Duration::from_secs(60), || {
        let topic = std::panic::catch_unwind(|| read_topic(&settings)).ok()?;
        (topic.len() == 12).then_some(())
    });
    expire(&settings, Some("9")).await;
    // Written as the consumers would write it: how they begin there is their own matter.
    let record = read_topic(&settings).remove(0);
    let origin = rules::line::Origin {
        op: record.source.op,
        partition: record.partition,
        offset: record.offset,
        source_ts: model::time::Micros(record.source.ts_us),
    };
    let value = record.value.as_deref().unwrap();
    let product = Product::decode(value).unwrap();
    let product = product_line::transform(&integration_tests::product_rules(), &product).unwrap();
    let line = product_line::line(&product, origin);
    let folder = world.folder.join("consumer_logs/consumer_1");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("consumer_log.json"), line).unwrap();
    let (code, found) = report(&world, &[]);
    assert_eq!(
        (code, &found["verdict"], &found["lines"]),
        (0, &"agree_as_far_as_compared".into(), &1.into()),
        "{found}"
    );
    let what = found["not_compared"][0]["what"].as_str().unwrap();
    assert_eq!(what, "partitions that no longer begin at offset 0");
    assert!(
        found["not_compared"][0]["why"].as_str().unwrap().contains("nothing tells whether each of these is in a log")
    );
}
