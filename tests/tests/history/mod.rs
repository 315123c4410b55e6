//! The server's history is what the position says, or the producer stops: GTIDs switched off and on, used a second
//! time, turned on later; restored copies; an address with two servers; a replica that does not log what it receives.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka::{Record, TransactionalProducer};
use model::error::Code;
use model::position::Progress;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use testbed::servers::{MySql, MySqlOptions, follow};
use testbed::{Product, Running, TestBed, eventually, read_topic};

mod failover;
mod passed;
mod reset;
mod servers;
mod switched;

const PATIENCE: Duration = Duration::from_secs(60);
const OFF: [&str; 3] =
    ["SET GLOBAL gtid_mode = ON_PERMISSIVE", "SET GLOBAL gtid_mode = OFF_PERMISSIVE", "SET GLOBAL gtid_mode = OFF"];
const ON: [&str; 3] =
    ["SET GLOBAL gtid_mode = OFF_PERMISSIVE", "SET GLOBAL gtid_mode = ON_PERMISSIVE", "SET GLOBAL gtid_mode = ON"];
const WITHOUT_GTIDS: [&str; 2] = ["--gtid-mode=OFF", "--enforce-gtid-consistency=ON"];

async fn run(conn: &mut Conn, statements: &[&str]) {
    for statement in statements {
        conn.query_drop(*statement).await.unwrap_or_else(|e| panic!("{statement}: {e}"));
    }
}

fn mysql(world: &TestBed, name: &str, flags: &[&str]) -> MySql {
    let flags = flags.iter().map(|f| (*f).to_owned()).collect();
    let options = MySqlOptions { folder: world.folder.join(name), port: None, flags };
    MySql::start(&options, &|_| {}).expect("a MySQL server")
}

/// A world with a separate MySQL server, whose table has the products 1 to 20 with their ids as prices.
async fn scene(name: &str, flags: &[&str]) -> (TestBed, MySql, Conn) {
    let mut world = TestBed::new(name);
    let mysql = mysql(&world, "mysql", flags);
    world.set("DB_PORT", mysql.port.to_string());
    let mut conn = world.table().await;
    let rows: Vec<String> = (1..=20).map(|id| format!("({id},'p{id}','c',{id},'2026-01-01')")).collect();
    run(&mut conn, &[&format!("INSERT INTO product VALUES {}", rows.join(","))]).await;
    (world, mysql, conn)
}

/// A connection of the administrator to the server on this port, in the world's database.
async fn connect_to(world: &TestBed, port: u16) -> Conn {
    let mut conn = world.server_on(port).await;
    run(&mut conn, &[&format!("USE `{}`", world.name)]).await;
    conn
}

/// A server that follows the world's server from its first transaction on.
async fn replica(world: &TestBed, name: &str, source: u16, flags: &[&str]) -> MySql {
    let flags = [&["--server-id=2", "--relay-log=relay", "--skip-replica-start"], flags].concat();
    let mysql = mysql(world, name, &flags);
    let mut conn = world.server_on(mysql.port).await;
    let follow = follow(source);
    run(&mut conn, &[&follow, "START REPLICA"]).await;
    mysql
}

/// Waits until the server on the port `copy` has executed what the one of `conn` has.
async fn catch_up(world: &TestBed, conn: &mut Conn, copy: u16) {
    let set: Option<String> = conn.query_first("SELECT @@GLOBAL.gtid_executed").await.unwrap();
    let mut conn = world.server_on(copy).await;
    let query = format!("SELECT WAIT_FOR_EXECUTED_GTID_SET('{}', 60)", set.unwrap());
    assert_eq!(conn.query_first(query).await.unwrap(), Some(0), "the replica does not follow");
}

fn prices(world: &TestBed) -> BTreeMap<i64, String> {
    let mut prices = BTreeMap::new();
    for record in read_topic(&world.kafka()) {
        let id = record.key.parse().unwrap();
        match &record.value {
            None => drop(prices.remove(&id)),
            Some(value) => {
                let product = Product::decode(value).unwrap();
                prices.insert(id, product.price.unwrap().to_string());
            }
        }
    }
    prices
}

/// Waits until the topic has this price of this product.
fn wait_for_price(world: &TestBed, id: i64, price: &str) {
    eventually(&format!("product {id} costs {price}: {:?}", prices(world)), PATIENCE, || {
        (prices(world).get(&id).map(String::as_str) == Some(price)).then_some(())
    });
}

/// Starts a producer and waits until it reads.
fn start(world: &TestBed) -> Running {
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("reading ");
    producer
}

/// A producer that has published the table as it is, and was stopped.
fn publish(world: &TestBed) {
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    wait_for_price(world, 20, "20.00");
    assert_eq!(producer.stop().code, 0);
}

/// The producer does not start, `doctor` says the same, and the named remedy makes all whole.
fn assert_refused_until_reset(world: &TestBed, code: Code, wanted: &[&str]) {
    let records = read_topic(&world.kafka()).len();
    let doctor = world.run("cdc-producer", &["doctor"]);
    let ended = world.run("cdc-producer", &[]);
    let wanted = [wanted, &["checkpoint reset"]].concat();
    ended.assert_error(code, &wanted);
    assert_eq!(doctor.code, 1);
    assert!(wanted.iter().all(|w| doctor.out.contains(w)) && doctor.out.contains("FAIL  history "), "{}", doctor.out);
    assert_eq!(read_topic(&world.kafka()).len(), records, "something was published");
    assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
    let mut producer = world.start_as("cdc-producer", "after", &[]);
    producer.wait_for("snapshot complete");
    world.assert_whole(producer);
}

/// Makes the committed position one of version 0.1: without what recognises the place.
fn as_version_0_1(world: &TestBed) {
    let mut progress = world.progress();
    progress.position.anchor = None;
    assert!(!serde_json::to_string(&progress).unwrap().contains("anchor"));
    commit(world, &progress);
}

/// Commits this progress while no producer runs.
fn commit(world: &TestBed, progress: &Progress) {
    let value = serde_json::to_vec(progress).unwrap();
    let (topic, key) = (world.kafka().checkpoint_topic, format!("{}.product", world.name));
    let producer = TransactionalProducer::new(&world.kafka(), &format!("{topic}.test")).unwrap();
    producer.begin().unwrap();
    let record = Record { topic: &topic, partition: Some(0), key: key.as_bytes(), value: Some(&value), header: None };
    producer.send(&record).unwrap();
    producer.commit().unwrap();
}

/// The server does not send what follows in its `gtid_mode`; `doctor` says the same. The remedy loses nothing.
async fn assert_refused_until_permissive(world: &TestBed, conn: &mut Conn) -> Running {
    let (ended, doctor) = (world.run("cdc-producer", &[]), world.run("cdc-producer", &["doctor"]));
    let wanted =
        ["while gtid_mode is ON: Cannot replicate anonymous transaction", "SET GLOBAL gtid_mode = ON_PERMISSIVE"];
    ended.assert_error(Code::GtidModeSwitched, &wanted);
    assert_eq!(doctor.code, 1);
    assert!(wanted.iter().all(|w| doctor.out.contains(w)), "{}", doctor.out);
    run(conn, &["SET GLOBAL gtid_mode = ON_PERMISSIVE"]).await;
    let producer = start(world);
    world.wait_until_read();
    run(conn, &["SET GLOBAL gtid_mode = ON"]).await;
    producer
}
