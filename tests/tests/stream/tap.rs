//! `stream tap`: changes as lines, with filters; tables and partitions that appear; a reader that leaves; bad conditions.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use kafka::{Record, TransactionalProducer};
use model::change::SOURCE_HEADER;
use mysql_async::prelude::Queryable;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use serde_json::Value;
use testbed::{Running, TestBed, eventually, execute, read_topic};

use super::{Pipeline, refused};

const PATIENCE: Duration = Duration::from_secs(60);

/// The lines of a `stream tap` that stops at the end.
#[track_caller]
fn lines(pipeline: &Pipeline, arguments: &[&str]) -> Vec<String> {
    let ended = pipeline.run(&[&["tap", "--stop-at-end"], arguments].concat());
    assert_eq!(ended.code, 0, "{}\n{}", ended.out, ended.err);
    ended.out.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_lines_and_a_reader_may_leave() {
    let mut pipeline = Pipeline::start(TestBed::new("stream_tap"), 1).await;
    let all = lines(&pipeline, &["--from", "beginning"]);
    assert_eq!(all.len(), 20, "{all:?}");
    assert!(all[0].contains("  r  ") && !all[0].contains('\u{1b}'), "{}", all[0]);
    assert_eq!(lines(&pipeline, &["--last", "2"]).len(), 2);
    assert_eq!(lines(&pipeline, &["--from", "2099-01-01T00:00:00Z"]).len(), 0);
    assert_eq!(lines(&pipeline, &["--from", "2000-01-01T00:00:00Z", "--op", "r"]).len(), 20);
    assert_eq!(lines(&pipeline, &["--from", "beginning", "--op", "c,u,d"]).len(), 0);
    let one = lines(&pipeline, &["--from", "beginning", "--where", "name=product 9", "--key", "9"]);
    assert!(one.len() == 1 && one[0].contains("  9  id=9 name=\"product 9\" "), "{one:?}");

    let mut tap = pipeline.bed.command("stream", &["tap", "--last", "20"]);
    let mut tap = tap.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut reader = BufReader::new(tap.stdout.take().unwrap()).lines();
    let first = reader.by_ref().take(20).count();
    pipeline.conn.query_drop("UPDATE product SET price = 8.99 WHERE id = 9").await.unwrap();
    let line = reader.next().unwrap().unwrap();
    assert!(first == 20 && line.contains("  u  9  price 9.00 → 8.99  "), "{line}");
    pipeline.conn.query_drop("DELETE FROM product WHERE id = 9").await.unwrap();
    let line = reader.next().unwrap().unwrap();
    assert!(line.contains("  d  9  was id=9 name=\"product 9\" category=\"cat_1\" price=8.99 "), "{line}");
    // A delete counts by the row before it.
    let gone = lines(&pipeline, &["--last", "5", "--where", "price=8.99", "--op", "d"]);
    assert!(gone.len() == 1 && gone[0].contains("  d  9  was id=9 name=\"product 9\" "), "{gone:?}");
    assert_eq!(lines(&pipeline, &["--last", "5", "--where", "price=9.00", "--op", "d"]).len(), 0);
    // The reader leaves: the next line ends the command, quietly.
    drop(reader);
    pipeline.conn.query_drop("UPDATE product SET price = 7 WHERE id = 8").await.unwrap();
    assert_eq!(tap.wait().unwrap().code(), Some(0));

    let stream = pipeline.bed.command("stream", &[]).get_program().to_str().unwrap().to_owned();
    let script = format!("set -o pipefail; {stream} tap --from beginning --stop-at-end | head -1");
    let mut shell = Command::new("bash");
    let tap = pipeline.bed.command("stream", &[]);
    shell.args(["-c", &script]).current_dir(&pipeline.bed.folder).env_clear();
    shell.envs(tap.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("PATH", "/usr/bin:/bin");
    let ended = shell.output().unwrap();
    assert_eq!((ended.status.code(), ended.stdout.iter().filter(|b| **b == b'\n').count()), (Some(0), 1), "{ended:?}");

    for (arguments, parts) in [
        (&["--where", "price"][..], &["\"price\" is no condition", "category=CAT_5"][..]),
        (&["--where", "prise=1"], &["the records have no column prise", "id, name, category, price, last_updated"]),
        (&["--op", "x"], &["\"x\" is no operation"]),
        (&["--table", "a.b"], &["a.b is not taken"]),
    ] {
        refused(&pipeline.run(&[&["tap"], arguments].concat()), 2, parts);
    }
    let usage = pipeline.run(&["tap", "--from", "yesterday"]);
    assert!(usage.code == 2 && usage.err.contains("not beginning, end or a time"), "{}", usage.err);
    pipeline.bed.set("SCHEMA_REGISTRY_URL", "http://127.0.0.1:1");
    for arguments in [&["--from", "beginning"][..], &["--last", "2"], &["--last", "2", "--key", "8"]] {
        refused(&pipeline.run(&[&["tap", "--stop-at-end"], arguments].concat()), 75, &["http://127.0.0.1:1"]);
    }
    pipeline.bed.set("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1");
    refused(&pipeline.run(&["tap"]), 75, &["127.0.0.1:1"]);
}

/// A `stream tap` that runs on, with its output in a file.
struct Followed {
    tap: Running,
    out: PathBuf,
}

impl Followed {
    fn start(bed: &TestBed, arguments: &[&str]) -> Self {
        let [out, log] = ["tap.out", "tap.log"].map(|name| bed.folder.join(name));
        let tap = bed.command("stream", &[&["tap", "--json"], arguments].concat());
        Self { tap: Running::start_into(tap, "tap", log, File::create(&out).unwrap()), out }
    }

    /// Waits until it has shown these keys of a table, each once, and returns the last of these changes.
    fn shows(&self, table: &str, keys: impl IntoIterator<Item = i32>) -> Value {
        let mut wanted: Vec<String> = keys.into_iter().map(|key| key.to_string()).collect();
        wanted.sort();
        eventually(&format!("{} keys of {table}; see {}", wanted.len(), self.out.display()), PATIENCE, || {
            let out = fs::read_to_string(&self.out).unwrap();
            let whole = out.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            let mut shown: Vec<Value> = whole.map(|line| serde_json::from_str(line).unwrap()).collect();
            shown.retain(|change| change["table"] == table);
            let mut keys: Vec<&str> = shown.iter().map(|change| change["key"].as_str().unwrap()).collect();
            keys.sort();
            if keys == wanted { shown.pop() } else { None }
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_appears_meanwhile_is_followed_from_its_first_record() {
    let mut bed = TestBed::new("stream_tap_new");
    let mut conn = bed.table().await;
    bed.set("TABLES", format!("['{0}.product', '{0}.new_*']", bed.name));
    let producer = bed.start("cdc-producer", &[]);
    execute(&mut conn, &["INSERT INTO product VALUES (1, 'mug', 'CAT_1', 9.99, NULL)"]).await;
    let topic = |table: &str| format!("topic {}.{table}", bed.name);
    eventually("the first change is in its topic", PATIENCE, || {
        let ended = bed.run("stream", &["tap", "--from", "beginning", "--stop-at-end"]);
        ended.out.contains(".product 1  ").then_some(())
    });
    // Once it has shown the last change, it has read the ends.
    let tap = Followed::start(&bed, &["--last", "1"]);
    tap.shows(&format!("{}.product", bed.name), [1]);

    // A table whose rows are there before its topic is.
    execute(&mut conn, &["CREATE TABLE new_note (id INT PRIMARY KEY, note TEXT)"]).await;
    let rows = |ids: std::ops::Range<i32>| ids.map(|id| format!("({id}, 'x')")).collect::<Vec<_>>().join(", ");
    for ids in [0..1, 1..40, 40..100] {
        execute(&mut conn, &[format!("INSERT INTO new_note VALUES {}", rows(ids))]).await;
    }
    let table = format!("{}.new_note", bed.name);
    tap.shows(&table, 0..100);
    let said = format!("{table} has appeared: its {} is followed from the first record\n", topic("new_note"));
    assert_eq!(tap.tap.said(), said);
    execute(&mut conn, &["INSERT INTO new_note VALUES (100, 'x')"]).await;
    tap.shows(&table, 0..101);
    execute(&mut conn, &["INSERT INTO product VALUES (2, 'cup', 'CAT_1', 1.00, NULL)"]).await;
    tap.shows(&format!("{}.product", bed.name), [1, 2]);

    // Partitions that somebody adds; the producer would refuse them.
    assert_eq!(producer.stop().code, 0);
    let kafka = bed.kafka_of("new_note");
    let first = read_topic(&kafka).remove(0);
    let admin: AdminClient<_> = kafka::client_config(&kafka).create().unwrap();
    let raised = admin.create_partitions([&NewPartitions::new(&kafka.topic, 12)], &AdminOptions::new()).await.unwrap();
    assert!(raised.iter().all(Result::is_ok), "{raised:?}");
    let mut header = Vec::new();
    first.source.write(&mut header);
    let feed = TransactionalProducer::new(&kafka, &format!("{}.feed", bed.name)).unwrap();
    feed.begin().unwrap();
    let (header, value) = (Some((SOURCE_HEADER, header.as_slice())), first.value.as_deref());
    feed.send(&Record { topic: &kafka.topic, partition: Some(11), key: b"200", value, header }).unwrap();
    feed.commit().unwrap();
    let last = tap.shows(&table, (0..101).chain([200]));
    assert_eq!((&last["partition"], &last["offset"]), (&11.into(), &0.into()), "{last}");
    let more = format!("{} of {table} has 12 partitions now and had 10: the new ones are", topic("new_note"));
    assert_eq!(tap.tap.said(), format!("{said}{more} followed from the first record\n"));
}
