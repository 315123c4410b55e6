//! `stream status`: what runs, what has stopped, what is away.

use std::fs::{self, File};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use runtime::step::{DurableStep as _, ProducerStep};
use serde_json::Value;
use testbed::{Running, TestBed, eventually};

use super::{Pipeline, refused};

#[tokio::test(flavor = "multi_thread")]
async fn one_screen_shows_what_runs_and_what_has_stopped() {
    let mut pipeline = Pipeline::start(TestBed::new("stream_status").with_postgres(), 2).await;
    let name = pipeline.bed.name.clone();
    pipeline.bed.set("STREAM_METRICS", pipeline.addresses());
    // A partition without records has no offset of the group.
    let is_fine = |p: &serde_json::Value| {
        p["holder"].is_string() && p["waits"] == false && (p["committed"].is_i64() || p["end"] == 0)
    };
    let status = eventually("the group has given all partitions to members", Duration::from_secs(30), || {
        let status = pipeline.json(&["status"], 0);
        status["tables"][0]["partitions"].as_array().unwrap().iter().all(is_fine).then_some(status)
    });
    assert_eq!((&status["group"], &status["faults"]), (&name.clone().into(), &serde_json::json!([])));
    let text = |place: &str| status.pointer(place).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    assert!(text("/producer/holder").starts_with("process "), "{status}");
    assert_eq!(status["producer"]["metrics"]["is_ready"], true);
    assert_eq!((&status["reached"]["epoch"], &status["source"]["is_same_server"]), (&1.into(), &true.into()));
    let table = &status["tables"][0];
    assert_eq!((table["name"].as_str(), table["topic"].as_str()), (Some(&*format!("{name}.product")), Some(&*name)));
    let partitions = table["partitions"].as_array().unwrap();
    assert_eq!(partitions.len(), 10);
    assert_eq!((&table["parked_keys"], &table["postgres_behind"]), (&0.into(), &0.into()));
    let states: Vec<_> = status["consumers"].as_array().unwrap().iter().map(|c| c["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["runs", "runs"], "{status}");
    assert_eq!(status["free_slots"].as_array().map(Vec::len), Some(3));

    let shown = pipeline.run(&["status"]).out;
    for part in [
        "MySQL      ",
        "Kafka      has all up to ",
        "producer   runs: process ",
        "; 0 aborts; ready",
        "held by",
        "consumer_1",
    ] {
        assert!(shown.contains(part), "{part:?} in\n{shown}");
    }

    // Rows of a snapshot have no latency; three changes have one.
    assert!(status["latency"].is_null(), "{status}");
    pipeline.conn.query_drop("UPDATE product SET price = price + 1 WHERE id <= 3").await.unwrap();
    let latency = eventually("three changes are in the logs", Duration::from_secs(30), || {
        let latency = pipeline.json(&["status"], 0)["latency"].clone();
        (latency["changes"] == 3).then_some(latency)
    });
    let [half, most] = ["p50_seconds", "p99_seconds"].map(|part| latency[part].as_f64().unwrap());
    assert!(half > 0.0 && half <= most, "{latency}");
    let shown = pipeline.run(&["status"]).out;
    assert!(shown.contains(" (p99) from a commit to its line in a log; 3 changes since "), "{shown}");

    // The group names it for 45 s more; its lock is free at once.
    pipeline.consumers.pop().unwrap().kill();
    let has_state = |pipeline: &Pipeline, count: usize, state: &str| {
        eventually(&format!("{count} consumers: {state}"), Duration::from_secs(30), || {
            let status = pipeline.json(&["status"], 0);
            let found = status["consumers"].as_array().unwrap().iter().filter(|c| c["state"] == state).count();
            (found == count).then_some(status)
        })
    };
    let status = has_state(&pipeline, 1, "stopped");
    let waiting = status["tables"][0]["partitions"].as_array().unwrap().iter().filter(|p| p["waits"] == true).count();
    assert_eq!(waiting, 5, "{status}");
    let shown = pipeline.run(&["status"]).out;
    assert!(shown.contains("STOPPED: its lock is free; its partitions wait for it, 45 s at most"), "{shown}");
    pipeline.consumers.push(pipeline.bed.start_as("consumer", "consumer2", &[]));
    has_state(&pipeline, 2, "runs");

    assert_eq!(pipeline.producer.take().unwrap().stop().code, 0);
    let shown = pipeline.run(&["status"]).out;
    assert!(shown.contains("producer   STOPPED: nobody holds the lock of producer.time_track"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_away_is_named_and_the_rest_is_shown() {
    let mut bed = TestBed::new("stream_away").with_postgres();
    bed.table().await;
    // Nothing was ever started.
    let empty = bed.run("stream", &["status"]);
    assert_eq!(empty.code, 0, "{}\n{}", empty.out, empty.err);
    assert!(empty.out.contains("the topic is not there yet") && empty.out.contains(": no consumer"), "{}", empty.out);
    for (variable, value, part, other) in [
        ("DB_PORT", "1", "MySQL", "→"),
        ("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1", "Kafka", "its binlog ends at"),
        ("POSTGRES_URL", "postgres://u:p@127.0.0.1:1/x", "PostgreSQL", "its binlog ends at"),
        ("STREAM_METRICS", "127.0.0.1:1", "metrics", "its binlog ends at"),
    ] {
        let before = bed.get(variable).to_owned();
        bed.set(variable, value);
        let ended = bed.run("stream", &["status"]);
        assert_eq!(ended.code, 75, "{variable}: {}\n{}", ended.out, ended.err);
        assert!(ended.out.contains(&format!("\nAWAY       {part}: ")) && ended.out.contains(other), "{}", ended.out);
        assert!(ended.err.contains("error[") && !ended.err.contains("panicked"), "{}", ended.err);
        bed.set(variable, before);
    }
    // A login without the right to ask where the binlog ends.
    let mut server = bed.server().await;
    let user = format!("poor_{}", std::process::id());
    for statement in [
        format!("CREATE USER '{user}'@'%' IDENTIFIED BY 'poor-password'"),
        format!("GRANT SELECT ON *.* TO '{user}'@'%'"),
    ] {
        server.query_drop(statement).await.unwrap();
    }
    let poor = bed.run("stream", &["status", "--db-user", &user, "--db-password", "poor-password"]);
    server.query_drop(format!("DROP USER '{user}'@'%'")).await.unwrap();
    assert!(poor.code == 1 && poor.err.contains("error[right-missing]"), "{}\n{}", poor.out, poor.err);
    assert!(poor.out.contains("REFUSED    MySQL: ") && !poor.out.contains("poor-password"), "{}", poor.out);
    bed.set("STREAM_METRICS", "nowhere");
    let wrong = bed.run("stream", &["status"]);
    assert!(wrong.out.contains("AWAY       metrics: stream.metrics: \"nowhere\" is no address"), "{}", wrong.out);
    refused(&bed.run("stream", &["status", "--db-port", "x"]), 2, &["DB_PORT"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_elsewhere_that_stops_is_named_to_those_who_watch() {
    let mut pipeline = Pipeline::start(TestBed::new("stream_elsewhere"), 1).await;
    let logs = pipeline.bed.folder.join("logs_elsewhere");
    let mut elsewhere = pipeline.bed.start_as("consumer", "elsewhere", &["--logs", logs.to_str().unwrap()]);
    elsewhere.wait_for("partitions assigned");
    let addresses = format!("{},{}", pipeline.addresses(), elsewhere.metrics_address().expect("an address"));
    pipeline.bed.set("STREAM_METRICS", addresses);
    let [out, log] = ["watch.out", "watch.log"].map(|name| pipeline.bed.folder.join(name));
    let watch = pipeline.bed.command("stream", &["status", "--watch", "--json"]);
    let _watch = Running::start_into(watch, "status", log, File::create(&out).unwrap());
    let watched = |what: &str, is_so: &dyn Fn(&Value) -> bool| {
        eventually(&format!("{what}; see {}", out.display()), Duration::from_secs(30), || {
            let text = fs::read_to_string(&out).unwrap();
            let last = text
                .rsplit_once('\n')?
                .0
                .lines()
                .next_back()
                .map(|line| serde_json::from_str::<Value>(line).unwrap())?;
            let consumers = last["consumers"].as_array().unwrap();
            consumers.iter().find(|consumer| consumer["state"] == "elsewhere").is_some_and(is_so).then_some(())
        });
    };
    watched("it answers", &|consumer| consumer["metrics"].is_object() && consumer["is_silent"] == false);
    elsewhere.kill();
    watched("it gives no answer", &|consumer| consumer["is_silent"] == true);

    // One look does not know that it has answered.
    let shown = pipeline.run(&["status"]).out;
    assert!(shown.contains(" is not here, nor an answer of it at /metrics"), "{shown}");
    pipeline.conn.query_drop("UPDATE product SET price = price + 1").await.unwrap();
    eventually("a change waits for it", Duration::from_secs(30), || {
        let waits = |key: i32| {
            let standing = pipeline.json(&["trace", &key.to_string()], 0)["standing"].clone();
            let text = standing["text"].as_str().unwrap_or_default();
            standing["hop"] == "consumer" && text.contains("whether it runs is not known here")
        };
        (1..=20).any(waits).then_some(())
    });
}

/// The lines of the partitions: those that begin with a number.
fn partition_lines(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.split_once("  ").is_some_and(|(head, _)| head.parse::<u32>().is_ok())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_partitions_a_flag_shows_those_without_lag() {
    const MANY: usize = 30;
    let mut bed = TestBed::new("stream_many");
    bed.set("KAFKA_PARTITIONS", MANY.to_string());
    let mut pipeline = Pipeline::start(bed, 1).await;
    let summary = format!("\n{MANY} partitions without lag, each held by a consumer (--partitions shows them)\n");
    let shown = eventually("no partition has a lag", Duration::from_secs(30), || {
        let shown = pipeline.run(&["status"]).out;
        shown.contains(&summary).then_some(shown)
    });
    assert!(partition_lines(&shown).is_empty() && !shown.contains("held by\n"), "{shown}");
    let all = pipeline.run(&["status", "--partitions"]).out;
    let lines = partition_lines(&all);
    assert!(lines.len() == MANY && !all.contains("--partitions shows them"), "{all}");
    for (number, line) in lines.iter().enumerate() {
        assert!(line.starts_with(&format!("{number}  ")) && line.ends_with("  consumer_1"), "{line:?} in\n{all}");
    }
    // Those that wait need attention.
    pipeline.consumers.pop().unwrap().kill();
    let shown = pipeline.run(&["status"]).out;
    let lines = partition_lines(&shown);
    assert!(lines.len() == MANY && lines.iter().all(|line| line.ends_with("  consumer_1: STOPPED")), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_snapshot_has_its_progress_and_the_time_that_is_left() {
    const ROWS: u64 = 600;
    let mut bed = TestBed::new("stream_snapshot");
    let mut conn = bed.table().await;
    let rows: Vec<String> = (1..=ROWS).map(|id| format!("({id}, 'product {id}', 'cat_1', {id}, NULL)")).collect();
    // The server's estimate of the number of rows is as old as the last ANALYZE.
    for statement in [format!("INSERT INTO product VALUES {}", rows.join(", ")), "ANALYZE TABLE product".to_owned()] {
        conn.query_drop(statement).await.unwrap();
    }
    // 30 chunks, three in a second at most.
    bed.set("FAILPOINTS", ProducerStep::ChunkRead.failpoint("sleep(333)"));
    let mut producer = bed.start("cdc-producer", &["--snapshot-chunk", "20"]);
    bed.set("FAILPOINTS", "");
    let number = |snapshot: &Value, part: &str| snapshot[part].as_f64().unwrap_or(-1.0);
    let status = eventually("some chunks are in the topic", Duration::from_secs(30), || {
        let status: Value = serde_json::from_str(&bed.run("stream", &["status", "--json"]).out).unwrap();
        (number(&status["tables"][0]["snapshot"], "rows") >= 60.0).then_some(status)
    });
    let snapshot = &status["tables"][0]["snapshot"];
    let [rows, of, rate, left] = ["rows", "of", "rows_per_second", "seconds_left"].map(|part| number(snapshot, part));
    assert!(snapshot["step"] == "rows" && rows < of && (300.0..=1_200.0).contains(&of), "{snapshot}");
    // The first of k chunks counts no time: 20 rows k times, in k - 1 thirds of a second at least.
    assert!(rate > 0.0 && rate <= 60.0 * 1.5 && (left - (of - rows) / rate).abs() < 0.001, "{snapshot}");
    let shown = bed.run("stream", &["status"]).out;
    let line = shown.lines().find(|line| line.starts_with("snapshot ")).unwrap_or_else(|| panic!("{shown}"));
    let name = format!("snapshot   {}.product: ", bed.name);
    assert!(line.starts_with(&name) && line.contains(&format!(" of about {of} rows, ")), "{line}");
    assert!(line.contains(" a second, about ") && line.ends_with(" left"), "{line}");

    // Each look has the rows so far, and the time that the rest takes at its rate, until the snapshot has ended.
    let output = bed.folder.join("watch.out");
    let watch = bed.command("stream", &["status", "--watch", "--json"]);
    let watch = Running::start_into(watch, "status", bed.folder.join("watch.log"), File::create(&output).unwrap());
    let looks = eventually("the snapshot has ended", Duration::from_secs(60), || {
        let text = fs::read_to_string(&output).unwrap();
        let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let looks: Vec<Value> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
        (looks.last()?["tables"][0]["snapshot"].is_null()).then_some(looks)
    });
    let looks: Vec<&Value> =
        looks.iter().map(|look| &look["tables"][0]["snapshot"]).filter(|s| s["step"] == "rows").collect();
    assert!(looks.len() >= 2, "{looks:?}");
    for look in &looks {
        let [of, rows, rate, left] = ["of", "rows", "rows_per_second", "seconds_left"].map(|part| number(look, part));
        assert!(rate > 0.0 && (left - (of - rows).max(0.0) / rate).abs() < 0.001, "{look}");
    }
    let rows = |look: &&Value| number(look, "rows");
    assert!(looks.is_sorted_by_key(rows) && rows(&looks[0]) < rows(&looks[looks.len() - 1]), "{looks:?}");
    assert_eq!(watch.stop().code, 0);
    producer.wait_for("snapshot complete");
    assert!(!bed.run("stream", &["status"]).out.contains("\nsnapshot "));
    producer.stop();
}
