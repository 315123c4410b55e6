//! `stream`, the operator's binary, on a running pipeline.

mod commands;
mod dlq;
mod hops;
mod pictures;
mod recording;
mod status;
mod tap;
mod terminal;
mod trace;
mod watch;

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use serde_json::Value;
use testbed::{Ended, Running, TestBed, eventually};

/// A table with twenty products, and the programs that carry them.
pub(crate) struct Pipeline {
    pub(crate) bed: TestBed,
    pub(crate) conn: Conn,
    pub(crate) producer: Option<Running>,
    pub(crate) consumers: Vec<Running>,
}

impl Pipeline {
    /// Starts the programs, and waits until everything has arrived.
    pub(crate) async fn start(bed: TestBed, consumers: usize) -> Self {
        let mut bed = bed;
        bed.set("METRICS_LISTEN", "127.0.0.1:0");
        let mut conn = bed.table().await;
        conn.query_drop(
            "INSERT INTO product SELECT n, CONCAT('product ', n), 'cat_1', n, '2026-01-01' FROM \
             (WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 20) SELECT n FROM c) AS numbers",
        )
        .await
        .unwrap();
        let producer = Some(bed.start("cdc-producer", &[]));
        let mut consumers: Vec<Running> =
            (1..=consumers).map(|n| bed.start_as("consumer", &format!("consumer{n}"), &[])).collect();
        // A single one could carry everything before the others have joined.
        consumers.iter_mut().for_each(|consumer| consumer.wait_for("partitions assigned"));
        let pipeline = Self { bed, conn, producer, consumers };
        pipeline.bed.verify();
        pipeline
    }

    /// The addresses at which the programs answer.
    pub(crate) fn addresses(&self) -> String {
        let programs = self.producer.iter().chain(&self.consumers);
        let addresses: Vec<String> = programs.map(|p| p.metrics_address().expect("an address").to_string()).collect();
        addresses.join(",")
    }

    /// Runs `stream`.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        self.bed.run("stream", arguments)
    }

    /// The JSON that a command prints, which must end with this code.
    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str], code: i32) -> Value {
        let ended = self.run(&[arguments, &["--json"]].concat());
        assert_eq!(ended.code, code, "{}\n{}", ended.out, ended.err);
        serde_json::from_str(&ended.out).unwrap_or_else(|e| panic!("{e}: {}\n{}", ended.out, ended.err))
    }

    /// Waits until a command's JSON has this value at a place.
    pub(crate) fn eventually(&self, arguments: &[&str], place: &str, want: &str) -> Value {
        let what = format!("{arguments:?} {place} {want}");
        eventually(&what, Duration::from_secs(30), || {
            let ended = self.run(&[arguments, &["--json"]].concat());
            let json: Value = serde_json::from_str(&ended.out).ok()?;
            (json.pointer(place).and_then(Value::as_str) == Some(want)).then_some(json)
        })
    }
}

/// A refusal: one error with its code and its parts, no stack trace, and nothing on the standard output.
#[track_caller]
pub(crate) fn refused(ended: &Ended, code: i32, parts: &[&str]) {
    assert_eq!(ended.code, code, "{}\n{}", ended.out, ended.err);
    for part in parts.iter().chain(&["error["]) {
        assert!(ended.err.contains(part), "{part:?} in\n{}", ended.err);
    }
    assert!(!ended.err.contains("panicked") && ended.out.is_empty(), "{}\n{}", ended.out, ended.err);
}
