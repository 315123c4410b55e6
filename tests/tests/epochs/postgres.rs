//! A new epoch in PostgreSQL: rows of products that are gone are deleted, also where the topic's records have expired.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use model::error::Code;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use testbed::servers::MySql;
use testbed::{Running, TestBed, eventually, execute, expire};

use super::{PATIENCE, insert, refuses, reset, start, stop, topic_has};

/// The products that PostgreSQL has; an error while it has no such table or database.
async fn ids_of_postgres(world: &TestBed) -> Result<BTreeSet<i64>, tokio_postgres::Error> {
    let client = testbed::postgres(world.get("POSTGRES_URL")).await?;
    Ok(client.query("SELECT id FROM product", &[]).await?.iter().map(|row| row.get(0)).collect())
}

async fn postgres_has(world: &TestBed, want: &BTreeSet<i64>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let has = ids_of_postgres(world).await;
        if has.as_ref().is_ok_and(|has| has == want) {
            return;
        }
        assert!(Instant::now() < deadline, "PostgreSQL has {has:?} instead of {want:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A world whose producer and consumer have brought the products 1 to 20 into PostgreSQL, on a separate MySQL server.
async fn in_postgres(test: &str) -> (TestBed, MySql, Conn, Running, Running) {
    let mut world = TestBed::new(test).with_postgres();
    let mysql = world.own_mysql(&[]);
    let mut conn = world.table().await;
    execute(&mut conn, &[&insert(1..=20)]).await;
    let producer = start(&world, "first", &[]);
    let consumer = world.start("consumer", &[]);
    postgres_has(&world, &(1..=20).collect()).await;
    (world, mysql, conn, producer, consumer)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_topics_records_have_expired() {
    let (world, _mysql, mut conn, producer, consumer) = in_postgres("expired").await;
    let doctor = world.run("cdc-producer", &["doctor"]);
    assert!(!doctor.out.contains("warn  topics"), "{}", doctor.out);
    stop(producer);
    expire(&world.kafka()).await;
    // In most partitions nothing is written any more.
    execute(&mut conn, &["DELETE FROM product WHERE id > 2", "FLUSH BINARY LOGS"]).await;
    let last: Row = conn.query_first("SHOW BINARY LOG STATUS").await.unwrap().unwrap();
    execute(&mut conn, &[&format!("PURGE BINARY LOGS TO '{}'", last.get::<String, _>(0).unwrap())]).await;
    let doctor = world.run("cdc-producer", &["doctor"]);
    assert!(doctor.out.contains("warn  topics") && doctor.out.contains("have expired"), "{}", doctor.out);
    refuses(&world.run("cdc-producer", &[]), Code::PositionPurged, &["is no longer on the server", "checkpoint reset"]);
    reset(&world);
    let producer = start(&world, "second", &["--metrics-listen", "127.0.0.1:0"]);
    assert!(producer.said().contains("a new epoch cannot delete in the topic a product"), "{}", producer.said());
    assert!(producer.metric("producer_topic_cut_partitions").unwrap() >= 9.0);
    topic_has(&world, &BTreeSet::from([1, 2]));
    postgres_has(&world, &BTreeSet::from([1, 2])).await;
    // What comes afterwards stays.
    execute(&mut conn, &[&insert([9, 30])]).await;
    postgres_has(&world, &BTreeSet::from([1, 2, 9, 30])).await;
    stop(producer);
    stop(consumer);
}

/// PostgreSQL is behind when the epoch's snapshot is complete: nothing is deleted before it has come to its end.
#[tokio::test(flavor = "multi_thread")]
async fn the_topics_records_have_expired_and_postgresql_is_behind() {
    let (world, _mysql, mut conn, producer, consumer) = in_postgres("behind").await;
    stop(producer);
    // The consumer waits for this transaction before it writes a batch; meanwhile it knows of the snapshot.
    let slow = testbed::postgres(world.get("POSTGRES_URL")).await.unwrap();
    slow.batch_execute("BEGIN; SELECT FROM product_offsets FOR UPDATE").await.unwrap();
    expire(&world.kafka()).await;
    execute(&mut conn, &["DELETE FROM product WHERE id > 2", &insert(100..200)]).await;
    reset(&world);
    let producer = start(&world, "second", &[]);
    // From a time: what the snapshot has found is known in the next epoch too.
    let now: Option<String> = conn.query_first("SELECT DATE_FORMAT(SYSDATE(6), '%Y-%m-%d %H:%i:%s.%f')").await.unwrap();
    execute(&mut conn, &[&insert([300])]).await;
    assert_eq!(world.run("cdc-producer", &["checkpoint", "set", &now.unwrap()]).code, 0);
    eventually("the third epoch", PATIENCE, || (world.progress().epoch == 3).then_some(()));
    let end = Instant::now() + Duration::from_secs(12);
    while Instant::now() < end {
        assert_eq!(ids_of_postgres(&world).await.unwrap(), (1..=20).collect(), "PostgreSQL has not read the snapshot");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    slow.batch_execute("COMMIT").await.unwrap();
    let want: BTreeSet<i64> = (1..=2).chain(100..200).chain([300]).collect();
    postgres_has(&world, &want).await;
    stop(producer);
    stop(consumer);
}

/// The table is dropped, and its name is given to one with other products.
#[tokio::test(flavor = "multi_thread")]
async fn the_table_is_dropped_and_postgresql_follows() {
    let (world, _mysql, mut conn, producer, consumer) = in_postgres("dropped_pg").await;
    execute(&mut conn, &["DROP TABLE product"]).await;
    refuses(&producer.wait(), Code::StatementChangesRows, &["DROP TABLE", "checkpoint reset"]);
    reset(&world);
    let producer = start(&world, "second", &[]);
    postgres_has(&world, &BTreeSet::new()).await;
    let mut conn2 = world.table().await;
    execute(&mut conn2, &[&insert([7, 30, 31])]).await;
    postgres_has(&world, &BTreeSet::from([7, 30, 31])).await;
    world.verify();
    stop(producer);
    stop(consumer);
}
