//! A table that is written to while verify runs: what agrees agrees each time, and each fault is found all the same.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kafka::TransactionalProducer;
use mysql_async::prelude::Queryable;
use testbed::servers::{MySql, MySqlOptions};
use testbed::{Ended, Running, TestBed, eventually};
use tokio::task::JoinHandle;

use super::scene::*;

const PATIENCE: Duration = Duration::from_secs(60);

/// A pipeline with a table of 20 products that is written to all the time.
struct Live {
    world: TestBed,
    _programs: Vec<Running>,
    stop: Arc<AtomicBool>,
    writer: Option<JoinHandle<u64>>,
    /// The setting `verify.memory`.
    memory: &'static str,
}

impl Live {
    async fn start(world: TestBed) -> Self {
        Self::start_with(world, 0, "256MiB").await
    }

    /// With so many rows besides, which are left alone.
    async fn start_with(world: TestBed, rows: i64, memory: &'static str) -> Self {
        let mut conn = world.table().await;
        let ids = (1..=20).chain(1001..=1000 + rows);
        let rows: Vec<String> = ids.map(|id| format!("({id},'n','cat_{}',{id},NULL)", id % 6)).collect();
        conn.query_drop(format!("INSERT INTO product VALUES {}", rows.join(","))).await.unwrap();
        let mut producer = world.start("cdc-producer", &[]);
        producer.wait_for("snapshot complete");
        let consumers = [1, 2].map(|n| world.start_as("consumer", &format!("consumer{n}"), &[]));
        let programs = [producer].into_iter().chain(consumers).collect();
        world.verify();
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::clone(&stop);
        // Ids 11 to 15 are left alone, 16 and above come and go.
        let writer = tokio::spawn(async move {
            let mut round = 0;
            while !done.load(Ordering::Relaxed) {
                round += 1;
                let id = round % 10 + 1;
                let other = 16 + round % 7;
                let statement = match round % 5 {
                    0 => format!("DELETE FROM product WHERE id = {other}"),
                    1 => format!("REPLACE INTO product VALUES ({other},'again {round}','cat_5',{round},NULL)"),
                    _ => format!("UPDATE product SET price = {round}, name = 'round {round}' WHERE id = {id}"),
                };
                conn.query_drop(statement).await.unwrap();
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
            round
        });
        Self { world, _programs: programs, stop, writer: Some(writer), memory }
    }

    fn verify(&self) -> Ended {
        let running = self.writer.as_ref().is_some_and(|writer| !writer.is_finished());
        assert!(running, "the writer has ended");
        self.world.run("verify", &["--wait", "20s", "--memory", self.memory])
    }

    fn agrees(&self, times: usize) {
        for run in 1..=times {
            let ended = self.verify();
            assert_eq!(ended.code, 0, "run {run} of {times}:\n{}\n{}", ended.out, ended.err);
            assert!(ended.out.contains("\nOK: "), "{}", ended.out);
        }
    }

    fn differs(&self, texts: &[&str]) {
        let ended = self.verify();
        assert_eq!(ended.code, 1, "{texts:?}:\n{}\n{}", ended.out, ended.err);
        texts.iter().for_each(|text| assert!(ended.out.contains(text), "{text:?} in\n{}", ended.out));
    }

    /// The log that has most lines.
    fn log(&self) -> PathBuf {
        let logs = [1, 2].map(|n| self.world.folder.join(format!("consumer_logs/consumer_{n}/consumer_log.json")));
        let length = |path: &PathBuf| fs::metadata(path).map_or(0, |m| m.len());
        logs.into_iter().max_by_key(length).unwrap()
    }

    async fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let rounds = self.writer.take().unwrap().await.unwrap();
        assert!(rounds > 100, "only {rounds} writes");
        self.world.verify();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_written_to_agrees_each_time() {
    let live = Live::start(TestBed::new("verify_writes").with_postgres()).await;
    live.agrees(20);
    // Without `--wait` what is on its way is waited for, too.
    let ended = live.world.run("verify", &["--json"]);
    let report: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!((&report["verdict"], &report["agree"]), (&"agree".into(), &true.into()), "{report}");
    assert!(report["position"].as_str().unwrap().contains(':'), "{report}");
    live.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_a_table_that_is_written_to_are_found() {
    faults_are_found(Live::start(TestBed::new("verify_faults").with_postgres()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_passes_over_a_table_that_is_written_to_find_the_same() {
    let world = TestBed::new("verify_writes_passes").with_postgres();
    let live = Live::start_with(world, 2000, "64KiB").await;
    let ended = live.verify();
    assert!(ended.code == 0 && ended.err.contains("comparing a share of the keys"), "{}\n{}", ended.out, ended.err);
    live.agrees(3);
    faults_are_found(live).await;
}

async fn faults_are_found(live: Live) {
    let mut hidden = live.world.mysql().await;
    hidden.query_drop("SET sql_log_bin = 0").await.unwrap();

    // A row that the binlog says nothing of: one that is left alone, then one that the writer creates and deletes.
    hidden.query_drop("UPDATE product SET price = 77.77 WHERE id = 12").await.unwrap();
    live.differs(&["key 12, partition ", ": the row differs from its last record\n", "price 77.77", "topic differ: 1"]);
    hidden.query_drop("UPDATE product SET price = 12 WHERE id = 12").await.unwrap();
    hidden.query_drop("DELETE FROM product WHERE id = 13").await.unwrap();
    live.differs(&["key 13, partition ", ": the table has no such row, but its last record is no delete\n"]);
    hidden.query_drop("INSERT INTO product VALUES (13,'n','cat_1',13,NULL), (99,'n','c',1,NULL)").await.unwrap();
    live.differs(&[
        "key 99: the row is in the table, but no record of it is in the topic\n",
        "key 99: PostgreSQL lacks",
    ]);
    hidden.query_drop("DELETE FROM product WHERE id = 99").await.unwrap();
    live.agrees(1);

    // PostgreSQL: a row that is left alone, and the row of one key after another that is written to all the time.
    let url = live.world.get("POSTGRES_URL").to_owned();
    postgres(&url, "UPDATE product SET price = 1 WHERE id = 12").await;
    live.differs(&["key 12: PostgreSQL's row differs from the table's after the rules\n"]);
    postgres(&url, "UPDATE product SET price = 12 WHERE id = 12; DELETE FROM product WHERE id = 13").await;
    live.differs(&["PostgreSQL lacks the row\n", "DIFFERENT: PostgreSQL and table differ: 1\n"]);
    postgres(
        &url,
        "INSERT INTO product SELECT 13, 'n', 'CAT_1', 13, NULL, NULL, source_partition, source_offset \
        FROM product WHERE id = 14; INSERT INTO product VALUES (98, 'x', NULL, NULL, NULL, NULL, 0, 0)",
    )
    .await;
    live.differs(&["key 98: PostgreSQL has a row that it should not have\n"]);
    postgres(&url, "DELETE FROM product WHERE id = 98").await;
    live.agrees(1);

    // A row that is written to all the time, and comes out otherwise than its record says.
    postgres(
        &url,
        "CREATE FUNCTION falsify() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.price := NEW.price + 1; RETURN NEW; END'; \
         CREATE TRIGGER falsify BEFORE INSERT OR UPDATE ON product FOR EACH ROW WHEN (NEW.id = 5) EXECUTE FUNCTION falsify()",
    )
    .await;
    eventually("the row of key 5 has been written", PATIENCE, || {
        let ended = live.verify();
        ended.out.contains("PostgreSQL's row differs from").then_some(()).filter(|()| ended.out.contains("key 5"))
    });
    postgres(&url, "DROP TRIGGER falsify ON product").await;
    eventually("it has been written once more", PATIENCE, || (live.verify().code == 0).then_some(()));
    live.end().await;
}

/// Done in place, as the consumers notice a log whose file or length is another.
#[tokio::test(flavor = "multi_thread")]
async fn faults_of_logs_that_are_written_to_are_found() {
    let live = Live::start(TestBed::new("verify_live_logs")).await;
    live.agrees(1);
    let path = live.log();
    let text = fs::read(&path).unwrap();
    let lines = text.iter().filter(|b| **b == b'\n').count();
    let ranges: Vec<_> = (0..lines).map(|n| line(&text, n)).collect();
    let same = |a: &std::ops::Range<usize>| ranges.iter().find(|b| b.start > a.start && b.len() == a.len());
    let (first, second) = ranges.iter().find_map(|a| Some((a.clone(), same(a)?.clone()))).expect("two lines as long");
    let log = OpenOptions::new().write(true).open(&path).unwrap();
    let put = |place: &std::ops::Range<usize>, bytes: &[u8]| log.write_all_at(bytes, place.start as u64).unwrap();

    // One is dropped, another is there twice.
    put(&second, &text[first.clone()]);
    live.differs(&["records in no log: 1\n", "records more than once in the logs: 1\n"]);
    put(&second, &text[second.clone()]);
    // A value is another.
    let before = b",\"op\":\"";
    let op = text[first.clone()].windows(before.len()).position(|w| w == before).unwrap() + before.len();
    put(&(first.start + op..first.end), b"x");
    live.differs(&["differs from what its record gives\n", "DIFFERENT: lines that differ from their record: 1\n"]);
    put(&first, &text[first.clone()]);
    // A line of a record that will come one day is none of a record that has come.
    let far = String::from_utf8(text[first.clone()].to_vec()).unwrap();
    let (start, end) = far.split_once("\"offset\":").unwrap();
    let (_, end) = end.split_once(',').unwrap();
    let other = live.world.folder.join("consumer_logs/consumer_9");
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("consumer_log.json"), format!("{start}\"offset\":99999,{end}")).unwrap();
    live.differs(&["consumer_9 line 1 is of an offset where the topic has no record", "lines of no record: 1\n"]);
    fs::remove_dir_all(&other).unwrap();
    live.agrees(1);
    live.end().await;
}

/// Files and offsets instead of GTIDs, and a server whose sessions would see each statement a newer table.
#[tokio::test(flavor = "multi_thread")]
async fn without_gtids_and_with_another_isolation_level_too() {
    let mut world = TestBed::new("verify_no_gtids").with_postgres();
    let flags = ["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF", "--transaction-isolation=READ-COMMITTED"];
    let flags = flags.iter().map(|f| (*f).to_owned()).collect();
    let options = MySqlOptions { folder: world.folder.join("mysql"), port: None, flags };
    let mysql = MySql::start(&options, &|_| {}).unwrap();
    world.set("DB_PORT", mysql.port.to_string());
    let live = Live::start(world).await;
    live.agrees(10);
    let mut hidden = live.world.mysql().await;
    hidden.query_drop("SET sql_log_bin = 0").await.unwrap();
    hidden.query_drop("UPDATE product SET price = 77.77 WHERE id = 12").await.unwrap();
    live.differs(&["key 12, partition ", ": the row differs from its last record\n"]);
    hidden.query_drop("UPDATE product SET price = 12 WHERE id = 12").await.unwrap();
    live.end().await;
}

/// A record of a transaction that the server has not executed is no later change of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_no_transaction_of_the_server_is_found() {
    let scene = Scene::with_topic_and_logs("verify_phantom").await;
    let mut conn = scene.world.mysql().await;
    let uuid: Option<String> = conn.query_first("SELECT @@server_uuid").await.unwrap();
    let mut phantom = scene.sent[10].clone();
    phantom.value = scene.sent[3].value.clone();
    phantom.source.pos = format!("{}:999999999", uuid.unwrap()).into();
    send(&scene.world.kafka(), &[phantom]);
    scene.write_logs(|_| {});
    scene.differs(&["key 4, partition ", ": the row differs from its last record\n"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_being_appended_is_not_torn() {
    let scene = Scene::with_topic_and_logs("verify_appending").await;
    let path = scene.world.folder.join("consumer_logs/consumer_1/consumer_log.json");
    let whole = fs::read(&path).unwrap();
    let torn = whole.len() - 20;
    fs::write(&path, &whole[..torn]).unwrap();
    scene.differs(&["has no end (", "records in no log: 1"]);
    // The end comes while verify looks at it again: at each length of time after its start.
    let append = {
        let (path, rest) = (path.clone(), whole[torn..].to_vec());
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(1_500));
            std::io::Write::write_all(&mut OpenOptions::new().append(true).open(path).unwrap(), &rest).unwrap();
        })
    };
    scene.agrees();
    append.join().unwrap();
    scene.agrees();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_behind_is_not_lost() {
    let world = TestBed::new("verify_behind");
    let mut conn = world.table().await;
    conn.query_drop("INSERT INTO product VALUES (1,'a','b',1,NULL)").await.unwrap();
    let producer = world.start("cdc-producer", &[]);
    let consumer = world.start("consumer", &[]);
    world.verify();
    consumer.kill();
    for price in 2..5 {
        conn.query_drop(format!("UPDATE product SET price = {price}")).await.unwrap();
    }
    let behind = format!("BEHIND: the group {} has 3 records to read; partitions: ", world.name);
    for arguments in [&["--wait", "1s"][..], &[]] {
        let ended = eventually("the producer has published them", PATIENCE, || {
            let ended = world.run("verify", arguments);
            ended.out.contains("3 records").then_some(ended)
        });
        assert_eq!(ended.code, 1, "{}", ended.out);
        assert!(ended.out.contains(&behind) && !ended.out.contains("in no log:"), "{}", ended.out);
    }
    // A record that the group has read, and that is in no log, is lost all the same.
    let log = world.folder.join("consumer_logs/consumer_1/consumer_log.json");
    let text = fs::read(&log).unwrap();
    fs::write(&log, b"").unwrap();
    // Other tests write to the server as well, and the producer passes over that. It waits for the missing line to the
    // end.
    let ended = world.run("verify", &["--wait", "15s"]);
    assert!(ended.code == 1 && ended.out.contains("records in no log: 1\n"), "{}", ended.out);
    fs::write(&log, text).unwrap();
    let _consumer = world.start("consumer", &[]);
    world.verify();
    producer.kill();
    conn.query_drop("UPDATE product SET price = 5").await.unwrap();
    let ended = world.run("verify", &["--wait", "1s"]);
    assert!(ended.code == 1 && ended.out.contains("\nBEHIND: the producer is "), "{}", ended.out);
    // Rows that are changed, new and gone: they may be on their way, with and without `--wait`.
    for statement in ["INSERT INTO product VALUES (2,'a','b',1,NULL)", "DELETE FROM product WHERE id = 1"] {
        conn.query_drop(statement).await.unwrap();
        let ended = world.run("verify", &[]);
        assert!(ended.code == 1 && ended.out.contains("\nBEHIND: the producer is "), "{}", ended.out);
        assert!(ended.out.contains("not compared: rows that differ from the topic so far: "), "{}", ended.out);
    }
    // What differs in a log is a difference all the same.
    let text = fs::read_to_string(&log).unwrap();
    fs::write(&log, text.replace("\"B\"", "\"X\"")).unwrap();
    let ended = world.run("verify", &[]);
    assert!(ended.code == 1 && ended.out.contains("\nDIFFERENT: "), "{}", ended.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_is_not_passed_over() {
    let scene = Scene::with_topic_and_logs("verify_open").await;
    let settings = scene.world.kafka();
    let producer = TransactionalProducer::new(&settings, &format!("{}.other", settings.topic)).unwrap();
    producer.begin().unwrap();
    let record =
        kafka::Record { topic: &settings.topic, partition: Some(3), key: b"1", value: Some(b"x"), header: None };
    producer.send(&record).unwrap();
    producer.flush().unwrap();
    // Behind it in the partition, so that nobody sees it.
    let hidden = Sent { partition: Some(3), ..scene.sent[10].clone() };
    send(&settings, &[hidden]);
    let ended = scene.world.run("verify", &[]);
    assert_eq!(ended.code, 1, "{}", ended.out);
    let text = format!("a transaction is open in topic {}; partitions: 3\n", settings.topic);
    assert!(ended.out.contains(&format!("\nBEHIND: {text}")), "{}", ended.out);
    drop(producer);
}
