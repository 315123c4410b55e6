//! Alert rules and dashboard (`conf/monitoring/`): `promtool` checks the rules, and a real Prometheus, which scrapes real
//! programs, answers every query of the dashboard.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use nix::sys::signal::Signal;
use serde_json::Value;
use testbed::servers::server::{Launch, Server, free_port};
use testbed::{Running, TestBed, downloads};

const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);
/// The queries whose answers are empty while all is well.
const EMPTY: [&str; 2] = ["ALERTS{alertstate=\"firing\"}", "consumer_parked_records_total["];

fn monitoring() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/monitoring").canonicalize().unwrap()
}

fn read(name: &str) -> String {
    fs::read_to_string(monitoring().join(name)).unwrap()
}

fn promtool(arguments: &[&str]) {
    let program = downloads::prometheus(&|_| {}).unwrap().join("promtool");
    let output = Command::new(program).args(arguments).current_dir(monitoring()).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "promtool {arguments:?}: {}", String::from_utf8_lossy(&text));
}

#[test]
fn each_alert_fires_when_it_must_and_not_otherwise() {
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["test", "rules", "rules_test.yml"]);
    let (rules, cases) = (read("rules.yml"), read("rules_test.yml"));
    let names = |text: &str, mark: &str| -> BTreeSet<String> {
        text.lines().filter_map(|line| Some(line.trim().strip_prefix(mark)?.to_owned())).collect()
    };
    assert_eq!(names(&rules, "- alert: "), names(&cases, "- name: "), "rules_test.yml has a case for each alert");
}

/// The queries of the dashboard.
fn queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read("grafana/product-stream.json")).unwrap();
    let targets = dashboard["panels"].as_array().unwrap().iter().filter_map(|panel| panel["targets"].as_array());
    let queries: Vec<String> = targets.flatten().map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
    assert!(queries.len() > 40, "only {queries:?}");
    queries
}

/// Prometheus with our rules and the shipped configuration, but for the targets and a shorter interval.
fn start(bed: &TestBed, targets: &[(&str, Vec<&Running>)]) -> (Server, u16) {
    let shipped = read("prometheus.yml");
    let (head, jobs) = shipped.split_once("scrape_configs:").unwrap();
    let rules = monitoring().join("rules.yml").display().to_string();
    let mut text = head.replace("5s", "1s").replace("rules.yml", &rules) + "scrape_configs:\n";
    for (job, programs) in targets {
        assert!(jobs.contains(&format!("job_name: {job}\n")), "{job} is not among {jobs}");
        let addresses: Vec<String> =
            programs.iter().map(|program| program.metrics_address().unwrap().to_string()).collect();
        writeln!(text, "  - job_name: {job}\n    static_configs: [{{ targets: {addresses:?} }}]").unwrap();
    }
    let folder = bed.folder.join("prometheus");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("prometheus.yml"), text).unwrap();
    let port = free_port().unwrap();
    let program = downloads::prometheus(&|_| {}).unwrap().join("prometheus");
    let command = vec![
        program.display().to_string(),
        "--config.file=prometheus.yml".to_owned(),
        "--storage.tsdb.path=data".to_owned(),
        format!("--web.listen-address=127.0.0.1:{port}"),
    ];
    let log = folder.join("log");
    let launch = Launch { command, env: vec![], output: None, folder, log, user: None, stop_signal: Signal::SIGTERM };
    (Server::start("prometheus", launch).unwrap(), port)
}

/// What Prometheus' API answers; `None` while it does not listen yet. An error of the query fails the test.
async fn ask(port: u16, path: &str, query: &str) -> Option<Value> {
    let address = format!("http://127.0.0.1:{port}/api/v1/{path}");
    let url = reqwest::Url::parse_with_params(&address, [("query", query)]).unwrap();
    let text = reqwest::get(url).await.ok()?.text().await.ok()?;
    let answer: Value = serde_json::from_str(&text).ok()?;
    assert_eq!(answer["status"], "success", "{query}: {text}");
    Some(answer["data"].clone())
}

/// Whether the query's answer has data.
async fn has_data(port: u16, query: &str) -> bool {
    let data = ask(port, "query", &query.replace("$__rate_interval", "15s")).await;
    data.is_some_and(|data| data["result"].as_array().is_some_and(|result| !result.is_empty()))
}

/// Waits until the queries without data are those that are empty while all is well.
async fn all_show_data(port: u16) {
    let begun = Instant::now();
    loop {
        let mut empty = Vec::new();
        for query in queries() {
            if !has_data(port, &query).await {
                empty.push(query);
            }
        }
        let expected = |query: &String| EMPTY.iter().any(|part| query.contains(part));
        if empty.len() == EMPTY.len() && empty.iter().all(expected) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "no data: {empty:#?}");
        tokio::time::sleep(PAUSE).await;
    }
}

async fn wait_for_data(port: u16, query: &str) {
    let begun = Instant::now();
    while !has_data(port, query).await {
        assert!(begun.elapsed() < PATIENCE, "{query} has no answer");
        tokio::time::sleep(PAUSE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_answers_every_query_of_the_dashboard() {
    let mut bed = TestBed::new("monitoring");
    bed.set("METRICS_LISTEN", "127.0.0.1:0");
    let data = bed.folder.join("data");
    fs::create_dir_all(&data).unwrap();
    let rows: String = (1..=50).map(|id| format!("{id},name {id},cat_5,{id}.50,2026-01-01 00:00:00\n")).collect();
    fs::write(data.join("01.csv"), format!("id,name,category,price,last_updated\n{rows}")).unwrap();
    let updater = bed.start("product-updater", &["--data", "data", "--no-pause", "--watch"]);
    let mut producer = bed.start("cdc-producer", &[]);
    producer.wait_for("reading");
    let mut consumers = [1, 2].map(|n| bed.start_as("consumer", &format!("consumer-{n}"), &[]));
    consumers.iter_mut().for_each(|consumer| consumer.wait_for("partitions assigned"));
    let targets = [
        ("cdc-producer", vec![&producer]),
        ("consumer", consumers.iter().collect()),
        ("product-updater", vec![&updater]),
    ];
    let (server, port) = start(&bed, &targets);
    wait_for_data(port, "count(up == 1) == 4").await;
    // Each consumer has committed something that the queries can show.
    let mut conn = bed.mysql().await;
    conn.query_drop("UPDATE product SET price = price + 1").await.unwrap();
    all_show_data(port).await;
    let rules = ask(port, "rules", "").await.unwrap();
    let groups = rules["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
    let unwell: Vec<&Value> = groups.filter(|rule| rule["health"] != "ok").collect();
    assert!(unwell.is_empty(), "{unwell:#?}");

    let [gone, other] = consumers;
    let (_, ready) = other.http("/ready").unwrap();
    assert!(ready.contains(r#""slot":"consumer_"#), "{ready}");
    for text in [" INFO consumer{slot=consumer_", "reason=\"this consumer has joined the group\""] {
        assert!(other.said().contains(text), "{text} is not in {}", other.said());
    }
    gone.kill();
    for alert in ["ConsumerGone", "TargetDown"] {
        wait_for_data(port, &format!("ALERTS{{alertname=\"{alert}\"}}")).await;
    }
    drop(server);
    for program in [updater, producer, other] {
        assert_eq!(program.stop().code, 0);
    }
}
