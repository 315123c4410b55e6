//! The examples, run as their pages say.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

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
    for statement in &after {
        conn.query_drop(statement).await.unwrap();
    }
    let verify = |wanted: &str| {
        let report = bed.run("verify", &[&flags[..], &["--wait", "60s"]].concat());
        assert_eq!(report.code, 0, "{}{}", report.out, report.err);
        assert!(report.out.contains(wanted), "{}", report.out);
    };
    verify("OK: 6 changes, each in exactly one log; table, topic, logs and PostgreSQL agree");
    let lines = std::fs::read_to_string(bed.folder.join("consumer_logs/consumer_1/consumer_log.json")).unwrap();
    let key = r#""key":["CMT","2026-01-01T00:03:20.000000",138],"op":"u""#;
    let row = r#""fare":19.00,"tip":2.50,"paid_by":"card","note":"{\"stops\": [1, 2]}"}}"#;
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
