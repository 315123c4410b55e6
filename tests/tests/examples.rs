//! The examples, run as their pages say.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use testbed::{TestBed, eventually, postgres};

const PATIENCE: Duration = Duration::from_secs(60);

/// The statements of an example before and after the programs start, without those that choose the database.
fn statements(sql: &str) -> (Vec<String>, Vec<String>) {
    let (before, after) = sql.split_once("-- While the programs run:").unwrap();
    let of = |part: &str| -> Vec<String> {
        let statements = part.split(';').map(|statement| statement.trim().to_owned());
        statements.filter(|s| !s.is_empty() && !s.starts_with("CREATE DATABASE") && !s.starts_with("USE ")).collect()
    };
    (of(before), of(after))
}

#[tokio::test(flavor = "multi_thread")]
async fn taxi_rides_by_configuration_alone() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/rides");
    let (config, sql) = (folder.join("config.yaml"), std::fs::read_to_string(folder.join("rides.sql")).unwrap());
    let flags = ["--config", config.to_str().unwrap()];
    let bed = TestBed::new("rides").with_postgres();
    let mut conn = bed.mysql().await;
    let (before, after) = statements(&sql);
    assert!(before.len() == 1 && after.len() == 4, "{before:?} {after:?}");
    for statement in &before {
        conn.query_drop(statement).await.unwrap();
    }
    let data = folder.join("data");
    let loaded = bed.run("product-updater", &[&flags[..], &["--data", data.to_str().unwrap()]].concat());
    assert!(loaded.code == 0 && loaded.err.contains("rides.csv: 3 rows, 3 changes"), "{}", loaded.err);
    let mut producer = bed.start("cdc-producer", &flags);
    producer.wait_for("snapshot complete");
    let consumer = bed.start("consumer", &flags);
    for statement in &after[..2] {
        conn.query_drop(statement).await.unwrap();
    }
    // Behind ALTER TABLE, a producer that has not read them yet would give their records the new column.
    let log = bed.folder.join("consumer_logs/consumer_1/consumer_log.json");
    let lines = || std::fs::read_to_string(&log).map_or(0, |text| text.lines().count());
    eventually("the lines of both changes", PATIENCE, || (lines() == 5).then_some(()));
    for statement in &after[2..] {
        conn.query_drop(statement).await.unwrap();
    }
    let verify = |wanted: &str| {
        let report = bed.run("verify", &[&flags[..], &["--wait", "60s"]].concat());
        assert_eq!(report.code, 0, "{}{}", report.out, report.err);
        assert!(report.out.contains(wanted), "{}", report.out);
    };
    verify("OK: 6 changes, each in exactly one log; table, topic, logs and PostgreSQL agree");
    let lines = std::fs::read_to_string(&log).unwrap();
    let key = r#""key":["CMT","2026-01-01T00:03:20.000000",138],"op":"u""#;
    let row = r#""fare":19.00,"tip":2.50,"paid_by":"card","note":{"stops": [1, 2]}}}"#;
    assert!(lines.lines().any(|line| line.contains(key) && line.ends_with(row)), "{lines}");
    assert!(lines.contains(r#""key":["Zoé \"x\"","2026-01-01T00:05:00.000000",7],"op":"d""#), "{lines}");
    let client = postgres(bed.get("POSTGRES_URL")).await.unwrap();
    let tolls = client.query_one("SELECT tolls::text FROM rides WHERE location = 1", &[]).await.unwrap();
    assert_eq!(tolls.get::<_, &str>(0), "1.50");
    // A change that verify must find.
    client.execute("UPDATE rides SET tip = tip + 0.01 WHERE location = 138", &[]).await.unwrap();
    let found = eventually("the difference", PATIENCE, || {
        let report = bed.run("verify", &flags);
        (report.code == 1).then_some(report.out)
    });
    assert!(found.contains("DIFFERENT: PostgreSQL and table differ: 1"), "{found}");
    for program in [producer, consumer] {
        assert_eq!(program.stop().code, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trades_of_all_tables_of_a_database() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/trades");
    let mut bed = TestBed::new("trades").with_postgres();
    // The database has the name of the test bed, and so have the patterns.
    let config = std::fs::read_to_string(folder.join("config.yaml")).unwrap().replace("trades_db", &bed.name);
    let path = bed.folder.join("config.yaml");
    std::fs::write(&path, config).unwrap();
    bed.set("CONFIG", path.to_str().unwrap());
    let mut conn = bed.mysql().await;
    let (before, after) = statements(&std::fs::read_to_string(folder.join("trades.sql")).unwrap());
    for statement in &before {
        conn.query_drop(statement).await.unwrap();
    }
    for table in ["instrument", "trade"] {
        let (name, data) = (format!("{}.{table}", bed.name), folder.join("data").join(table));
        let loaded = bed.run("product-updater", &["--table", &name, "--data", data.to_str().unwrap()]);
        assert_eq!(loaded.code, 0, "{}", loaded.err);
    }
    let listed = bed.run("cdc-producer", &["tables"]);
    assert!(listed.code == 0 && listed.out.contains("key (id), 6 columns"), "{}{}", listed.out, listed.err);
    let producer = bed.start("cdc-producer", &[]);
    let consumers = [bed.start("consumer", &[]), bed.start("consumer", &[])];
    // verify waits until the producer has taken the tables, also one that was created just before.
    let agree = |count: usize| {
        let ended = bed.run("verify", &["--wait", "90s"]);
        let want = format!("OK: {count} tables agree");
        assert!(ended.code == 0 && ended.out.contains(&want), "{}{}", ended.out, ended.err);
        ended.out
    };
    agree(2);
    for statement in &after {
        conn.query_drop(statement).await.unwrap();
    }
    let report = agree(3);
    let trades = report.split("== ").find(|part| part.starts_with(&format!("{}.trade", bed.name))).unwrap();
    assert!(
        trades.contains("OK: 5 changes, each in exactly one log; table, topic, logs and PostgreSQL agree"),
        "{report}"
    );
    let logs: String = (1..=2)
        .map(|n| {
            std::fs::read_to_string(bed.folder.join(format!("consumer_logs/consumer_{n}/consumer_log.json")))
                .unwrap_or_default()
        })
        .collect();
    let trade = logs.lines().find(|line| line.contains(r#""key":[18446744073709551615],"op":"u""#)).unwrap();
    assert!(trade.contains(r#""side":"BUY","price":0.000001,"quantity":150"#), "{trade}");
    assert!(logs.contains(r#""key":["XLON"],"op":""#), "{logs}");
    // Changes that verify must find, in the table that has them.
    let client = postgres(bed.get("POSTGRES_URL")).await.unwrap();
    client.execute("DELETE FROM instrument WHERE symbol = 'ACME'", &[]).await.unwrap();
    let name = format!("{}.instrument", bed.name);
    let found = bed.run("verify", &[]);
    assert!(found.code == 1 && found.out.contains(&format!("DIFFERENT: {name}; 2 of 3 tables agree")), "{}", found.out);
    assert_eq!(bed.run("verify", &["--table", &name]).code, 1);
    assert_eq!(bed.run("verify", &["--table", &format!("{}.trade", bed.name)]).code, 0);
    let refused = bed.run("verify", &["--table", "x.y"]);
    assert!(refused.code == 2 && refused.err.contains("x.y is not taken"), "{}", refused.err);
    for program in consumers.into_iter().chain([producer]) {
        assert_eq!(program.stop().code, 0);
    }
    // A line of a table that nobody takes is reported once; a running consumer would cut it off.
    let log = bed.folder.join("consumer_logs/consumer_1/consumer_log.json");
    let line =
        "{\"table\":\"x.y\",\"key\":[1],\"op\":\"c\",\"partition\":0,\"offset\":0,\"source_ts\":\"\",\"row\":{}}\n";
    std::fs::OpenOptions::new().append(true).open(&log).unwrap().write_all(line.as_bytes()).unwrap();
    let found = bed.run("verify", &[]);
    assert_eq!(found.out.matches("is of a table that tables does not take").count(), 1, "{}", found.out);
}
