//! What can be seen of the programs from outside while a server does not answer: `/ready`, `/health` and the metrics.

use std::collections::BTreeSet;
use std::time::Duration;

use chaos::{Harness, Servers, wait_for};
use testbed::{Link, Running};

/// A server that is silent must be missed within this time, and found again.
const NOTICED: Duration = Duration::from_secs(30);

/// Waits until `path` answers with this status and names each of `words`.
fn says(program: &Running, path: &str, status: u16, words: &[&str], patience: Duration) {
    let mut last = None;
    let said = wait_for(&format!("{path} of {} says {status} and {words:?}", program.name()), patience, || {
        last = program.http(path);
        let (code, body) = last.as_ref()?;
        (*code == status && words.iter().all(|word| body.contains(word))).then_some(())
    });
    said.unwrap_or_else(|e| panic!("{e}: {last:?}\n{}", program.log_end()));
}

fn metric(program: &Running, series: &str) -> f64 {
    program
        .metric(series)
        .unwrap_or_else(|| panic!("{} shows no {series}: {:?}", program.name(), program.http("/metrics")))
}

/// Waits until the metric is as it should be.
fn shows(program: &Running, series: &str, wanted: impl Fn(f64) -> bool) {
    let mut last = None;
    let shown = wait_for(&format!("{series} of {}", program.name()), NOTICED * 2, || {
        last = program.metric(series);
        last.filter(|value| wanted(*value))
    });
    shown.unwrap_or_else(|e| panic!("{e}: {last:?}\n{}", program.log_end()));
}

/// The metrics that the programs show are those of `docs/metrics.md`, and each has a help text.
fn are_documented(programs: &[&Running]) {
    let mut shown = BTreeSet::new();
    for program in programs {
        let (_, text) = program.http("/metrics").expect("metrics");
        shown.extend(
            text.lines().filter_map(|l| l.strip_prefix("# HELP ")).map(|l| l.split(' ').next().unwrap().to_owned()),
        );
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let docs = std::fs::read_to_string(path).expect("docs/metrics.md");
    let name = |line: &str| Some(line.strip_prefix("| `")?.split(['`', '{']).next()?.to_owned());
    let (_, numbers) = docs.split_once("## Numbers").expect("its chapter of numbers");
    let documented: BTreeSet<String> =
        numbers.lines().filter_map(name).filter(|n| !n.starts_with("product_updater_")).collect();
    assert_eq!(shown, documented);
}

#[test]
fn a_silent_server_is_named_and_the_lag_grows() {
    let folder = testbed::scratch::folder("health");
    let servers = Servers::start(&folder, 1).unwrap();
    let mut harness = Harness::new(servers, "health", 1).unwrap();
    harness.begin().unwrap();
    harness.all_ready().unwrap();
    let producer = harness.producer.as_ref().unwrap();
    let consumers: Vec<&Running> = harness.consumers.iter().flatten().collect();

    let in_time = |seconds: f64| seconds < 5.0;
    shows(producer, "producer_lag_seconds", in_time);
    consumers.iter().for_each(|consumer| shows(consumer, "consumer_lag_seconds", in_time));
    consumers.iter().for_each(|consumer| shows(consumer, "consumer_latency_seconds_count", |changes| changes > 0.0));
    let kept_for = metric(producer, "producer_binlog_purge_seconds");
    assert!(kept_for > 86_400.0, "binlogs are kept for {kept_for} s");

    // MySQL is silent: nothing ends, and nothing comes.
    harness.servers.to_mysql.set(Link::Stalled);
    says(producer, "/ready", 503, &["MySQL"], NOTICED);
    let (lag, event) = ("producer_lag_seconds", "producer_last_event_timestamp_seconds");
    let before = (metric(producer, lag), metric(producer, event));
    assert!(before.0 > 5.0, "{lag} {}", before.0);
    shows(producer, lag, |now| now > before.0 + 3.0);
    assert!((metric(producer, event) - before.1).abs() < 1.0, "an event came over a stalled link");
    assert!(metric(producer, "producer_binlog_purge_seconds") < kept_for - 3.0, "the time to the purge does not run");
    says(producer, "/health", 503, &["no progress for"], Duration::from_secs(90));
    assert_eq!(metric(producer, "pipeline_ready"), 0.0);
    consumers.iter().for_each(|consumer| says(consumer, "/ready", 200, &[], NOTICED));
    harness.servers.to_mysql.set(Link::Open);
    says(producer, "/ready", 200, &[], NOTICED);
    says(producer, "/health", 200, &[], NOTICED);
    shows(producer, lag, in_time);

    // Kafka is silent, under load: the binlog that is not in Kafka grows.
    let of_producer = ["producer_kafka_aborts_total", "producer_session_failures_total{class=\"transient\"}"];
    let producer_before = of_producer.map(|name| metric(producer, name));
    let aborts = || -> f64 { consumers.iter().map(|consumer| metric(consumer, "consumer_kafka_aborts_total")).sum() };
    let aborts_before = aborts();
    harness.servers.to_kafka[0].set(Link::Stalled);
    says(producer, "/ready", 503, &["Kafka"], NOTICED);
    consumers.iter().for_each(|consumer| says(consumer, "/ready", 503, &["Kafka"], NOTICED));
    let bytes = metric(producer, "producer_lag_bytes");
    shows(producer, "producer_lag_bytes", |now| now > bytes + 10_000.0);
    shows(consumers[0], "consumer_lag_seconds", |now| now > 10.0);
    for (name, before) in of_producer.into_iter().zip(producer_before) {
        shows(producer, name, |now| now > before);
    }
    harness.servers.to_kafka[0].set(Link::Open);
    says(producer, "/ready", 200, &[], NOTICED * 2);
    consumers.iter().for_each(|consumer| says(consumer, "/ready", 200, &[], NOTICED * 2));
    assert!(aborts() > aborts_before, "no consumer counts what it gave up");
    shows(producer, "producer_lag_bytes", |now| now < 1_000_000.0);

    // PostgreSQL is silent, and there is nothing to write to it.
    harness.settle().unwrap();
    let consumers: Vec<&Running> = harness.consumers.iter().flatten().collect();
    harness.servers.to_postgres.set(Link::Stalled);
    consumers.iter().for_each(|consumer| says(consumer, "/ready", 503, &["PostgreSQL"], NOTICED));
    says(harness.producer.as_ref().unwrap(), "/ready", 200, &[], NOTICED);
    harness.servers.to_postgres.set(Link::Open);
    consumers.iter().for_each(|consumer| says(consumer, "/ready", 200, &[], NOTICED));
    // Nothing has come for a while, and that is no lag.
    shows(harness.producer.as_ref().unwrap(), lag, in_time);
    shows(harness.producer.as_ref().unwrap(), "producer_lag_bytes", |bytes| bytes == 0.0);
    consumers.iter().for_each(|consumer| shows(consumer, "consumer_lag_seconds", in_time));
    are_documented(&[harness.producer.as_ref().unwrap(), consumers[0]]);

    harness.bed.verify();
    drop(harness);
    std::fs::remove_dir_all(&folder).unwrap();
}
