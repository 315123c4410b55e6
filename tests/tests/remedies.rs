//! Each remedy that a program prints, followed: a real fault, what the program says to do, and then `verify` agrees.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kafka::TransactionalProducer;
use kafka::slots::Folder;
use model::error::Code;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use testbed::servers::Postgres;
use testbed::{Running, TestBed, execute};

const PATIENCE: Duration = Duration::from_secs(60);
const INSERT_1: &str = "INSERT INTO product VALUES (1,'a','b',1,NULL)";
const UPDATE: &str = "UPDATE product SET price = price + 1";

/// `binlog_do_db`, `binlog_ignore_db` and a server without a binlog: what was written then is in no binlog. Without a
/// reset the producer would continue as if nothing was missing.
#[tokio::test(flavor = "multi_thread")]
async fn changes_that_are_in_no_binlog_are_taken_from_the_table() {
    let ignores = |world: &TestBed| format!("--binlog-ignore-db={}", world.name);
    let only_other = |_: &TestBed| "--binlog-do-db=elsewhere".to_owned();
    let no_binlog = |_: &TestBed| "--skip-log-bin".to_owned();
    for (flag, check, found) in [
        (&ignores as &dyn Fn(&TestBed) -> String, "binlog filters", "are left out of the binlog"),
        (&only_other, "binlog filters", "are left out of the binlog"),
        (&no_binlog, "log_bin", "\"OFF\" instead of \"ON\""),
    ] {
        let mut world = TestBed::new("no_binlog");
        let mut mysql = world.own_mysql(&[]);
        let mut conn = world.table().await;
        execute(&mut conn, &[INSERT_1]).await;
        let producer = world.start("cdc-producer", &[]);
        world.assert_whole(producer);
        mysql.server.stop().unwrap();
        let mut mysql = world.own_mysql(&[&flag(&world)]);
        let mut conn = world.mysql().await;
        execute(&mut conn, &[UPDATE]).await;
        world
            .run("cdc-producer", &[])
            .assert_error(Code::ServerSettings, &[check, found, "`cdc-producer checkpoint reset`"]);
        let doctor = world.run("cdc-producer", &["doctor"]);
        let line = doctor.out.lines().find(|line| line.starts_with("FAIL")).unwrap_or_default();
        assert!(line.contains(check) && line.contains(found), "{}", doctor.out);
        assert_eq!((doctor.code, doctor.out.matches("FAIL").count()), (1, 1), "{}", doctor.out);
        mysql.server.stop().unwrap();
        let _mysql = world.own_mysql(&[]);
        let doctor = world.run("cdc-producer", &["doctor"]);
        assert_eq!(doctor.code, 0, "{}", doctor.out);
        assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
        let producer = world.start_as("cdc-producer", "after", &[]);
        world.assert_whole(producer);
    }
}

/// Takes a transactional id until it is told to end, as another process with the same one does again and again: so often
/// that the program has no time for a commit between two fences, which would begin its count again.
fn fence(settings: runtime::config::KafkaSettings, id: String) -> impl FnOnce() {
    let over: &'static AtomicBool = Box::leak(Box::default());
    let other = std::thread::spawn(move || {
        while !over.load(Ordering::Relaxed) {
            drop(TransactionalProducer::new(&settings, &id));
        }
    });
    move || {
        over.store(true, Ordering::Relaxed);
        other.join().unwrap();
    }
}

/// Changes the table until the program has ended.
async fn change_until_ended(world: &TestBed, mut program: Running) -> testbed::Ended {
    let mut conn = world.mysql().await;
    let deadline = std::time::Instant::now() + 2 * PATIENCE;
    while program.is_running() {
        assert!(std::time::Instant::now() < deadline, "it does not end: {}", program.log_end());
        execute(&mut conn, &[UPDATE]).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    program.wait()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_another_one_fences_continues_without_it() {
    let world = TestBed::new("fenced_producer");
    execute(&mut world.table().await, &[INSERT_1]).await;
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    let settings = world.kafka();
    let id = settings.transactional_id.clone();
    let end = fence(settings, id.clone());
    let ended = change_until_ended(&world, producer).await;
    let named = format!("another producer with the transactional id {id} is at work");
    ended.assert_error(Code::AnotherProducer, &[named.as_str(), "run one producer"]);
    end();
    let producer = world.start_as("cdc-producer", "after", &[]);
    world.assert_whole(producer);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_another_process_fences_continues_without_it() {
    let world = TestBed::new("fenced_consumer");
    execute(&mut world.table().await, &[INSERT_1]).await;
    let producer = world.start("cdc-producer", &[]);
    let consumer = world.start_as("consumer", "fenced", &[]);
    world.verify();
    let folder = Folder::read(world.get("CONSUMER_LOGS").as_ref()).unwrap().unwrap().id;
    let settings = world.kafka();
    let id = format!("{}.consumer_1-{folder}.{}", settings.topic, settings.group_id);
    let end = fence(settings, id);
    let ended = change_until_ended(&world, consumer).await;
    ended.assert_error(Code::AnotherConsumer, &["consumer_1 was fenced 5 times", "and stop it"]);
    end();
    world.assert_whole(producer);
}

/// The topic's limit and the client's, both raised as the message says.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_kafka_finds_too_large_arrives_with_higher_limits() {
    let mut world = TestBed::new("large");
    world.set("PRODUCER_ON_REFUSED", "stop");
    let mut conn = world.mysql().await;
    let table =
        "CREATE TABLE product (id INT PRIMARY KEY, name MEDIUMTEXT, category TEXT, price INT, last_updated DATE)";
    execute(&mut conn, &[table, INSERT_1]).await;
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    // The broker counts what is left after compression.
    let mut bits = 1_u64;
    let mut letter = || {
        bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'0' + (bits >> 58) as u8)
    };
    let text: String = (0..2_400_000).map(|_| letter()).collect::<String>().replace('\\', "~");
    execute(&mut conn, &[&format!("INSERT INTO product VALUES (2, '{text}', 'b', 1, NULL)"), UPDATE]).await;
    let says = ["max.message.bytes of the topic", "message.max.bytes in kafka.librdkafka"];
    producer.wait().assert_error(Code::RowRefused, &says);
    // One of them alone does not do.
    world.set("KAFKA_LIBRDKAFKA", "message.max.bytes=4000000");
    world.run("cdc-producer", &[]).assert_error(Code::RecordRefused, &says);
    let settings = world.kafka();
    let admin: AdminClient<DefaultClientContext> = kafka::client_config(&settings).create().unwrap();
    let resource = ResourceSpecifier::Topic(&settings.topic);
    let raised = AlterConfig::new(resource).set("max.message.bytes", "4000000");
    admin.alter_configs(&[raised], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    let producer = world.start_as("cdc-producer", "after", &[]);
    world.assert_whole(producer);
}

/// A server in recovery. Its promotion, or the address of all hosts, ends the wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_postgresql_that_is_read_only_gets_every_row_when_it_takes_writes() {
    let mut world = TestBed::new("read_only");
    let mut primary = Postgres::start_with(&world.folder.join("primary"), None, &[], &|_| {}).unwrap();
    let login = primary.url().rsplit_once('@').unwrap().0.to_owned();
    let name = world.name.clone();
    let url = |ports: &[u16]| {
        let hosts: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        format!("{login}@{}/{name}", hosts.join(","))
    };
    let mut conn = world.table().await;
    execute(&mut conn, &[INSERT_1]).await;
    world.set("POSTGRES_URL", url(&[primary.port]));
    let producer = world.start("cdc-producer", &[]);
    let consumer = world.start("consumer", &[]);
    world.verify();
    assert_eq!(consumer.stop().code, 0);
    // A copy that stays in recovery is what a replica is to its clients.
    primary.server.stop().unwrap();
    let (from, to) = (world.folder.join("primary"), world.folder.join("standby"));
    let copied = std::process::Command::new("cp").arg("-a").args([&from, &to]).status().unwrap();
    assert!(copied.success());
    fs::write(to.join("data/standby.signal"), "").unwrap();
    primary.start_again().unwrap();
    let standby = Postgres::start_with(&to, None, &["hot_standby=on".to_owned()], &|_| {}).unwrap();

    world.set("POSTGRES_URL", url(&[standby.port]));
    execute(&mut conn, &[UPDATE]).await;
    let mut consumer = world.start_as("consumer", "standby", &[]);
    consumer.wait_for("target_session_attrs=read-write");
    assert!(consumer.said().contains("wait for the failover to end"), "{}", consumer.said());
    drop(consumer);
    let both = url(&[standby.port, primary.port]);
    world.set("POSTGRES_URL", format!("{both}?target_session_attrs=read-write"));
    let consumer = world.start_as("consumer", "both", &[]);
    world.verify();
    assert_eq!(consumer.stop().code, 0);
    // The failover ends while a consumer waits; what only the other server has is written again.
    world.set("POSTGRES_URL", url(&[standby.port]));
    let mut consumer = world.start_as("consumer", "promoted", &[]);
    consumer.wait_for("wait for the failover to end");
    let server =
        format!("postgres://{}:{}@127.0.0.1:{}/postgres", Postgres::SUPERUSER.0, Postgres::SUPERUSER.1, standby.port);
    let superuser = testbed::postgres(&server).await.unwrap();
    superuser.batch_execute("SELECT pg_promote()").await.unwrap();
    execute(&mut conn, &[UPDATE]).await;
    world.verify();
    assert_eq!((consumer.stop().code, producer.stop().code), (0, 0));
}
