//! The recording of a terminal in the README: `cargo xtask screenshots`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use serde_json::Value;
use testbed::{TestBed, eventually};

use super::Pipeline;
use super::terminal::Terminal;

const CONSUMERS: usize = 5;
const ROWS: u16 = 31;
const COLUMNS: u16 = 100;
const GLANCE: Duration = Duration::from_millis(1_200);
const READ: Duration = Duration::from_secs(5);

/// Kills the consumer that has written a log, with the shell, as `kill -9` of its process.
fn kill_holder(pipeline: &mut Pipeline, terminal: &mut Terminal, log: &Value) {
    let slot = log["slot"].as_str().unwrap();
    let lock = fs::read_to_string(pipeline.bed.folder.join("consumer_logs").join(slot).join(".lock")).unwrap();
    let holder = pipeline.consumers.iter().position(|consumer| lock.contains(&format!("process {} ", consumer.pid())));
    let holder = pipeline.consumers.remove(holder.unwrap_or_else(|| panic!("{slot}: {lock}")));
    terminal.start_command(&format!("kill -9 {}  # {slot}, which reads the changes of product 42", holder.pid()));
    terminal.prompts();
    assert_eq!(holder.wait().code, -1, "a signal ends it");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes docs/screenshots: cargo xtask screenshots"]
async fn recording() {
    // The names and the paths of a shop, not of a test.
    let mut bed = TestBed::new("store");
    bed.name = "store".to_owned();
    for (variable, value) in [
        ("DB_NAME", "store"),
        ("KAFKA_TOPIC", "products"),
        ("KAFKA_GROUP_ID", "store"),
        ("CONSUMER_LOGS", "consumer_logs"),
        ("PRODUCER_TIME_TRACK", "time_track"),
    ] {
        bed.set(variable, value);
    }
    let mut pipeline = Pipeline::start(bed.with_postgres(), CONSUMERS).await;
    pipeline.bed.set("STREAM_METRICS", pipeline.addresses());
    eventually("each consumer has two partitions", Duration::from_secs(60), || {
        let status = pipeline.json(&["status"], 0);
        let consumers = status["consumers"].as_array().unwrap().iter();
        let settled = consumers.filter(|c| c["state"] == "runs" && c["partitions"].as_array().map(Vec::len) == Some(2));
        (settled.count() == CONSUMERS).then_some(())
    });
    for product in ["(41, 'Desk lamp', 'Home', 59, NOW(6))", "(42, 'Notebook A5', 'CAT_5', 11.99, NOW(6))"] {
        pipeline.conn.query_drop(format!("INSERT INTO product VALUES {product}")).await.unwrap();
    }
    pipeline.bed.verify();

    let mut terminal = Terminal::start(&pipeline.bed, ROWS.try_into().unwrap(), COLUMNS.try_into().unwrap());
    terminal.hold(GLANCE);
    terminal.start_command("stream tap --last 2");
    terminal.shows(|text| text.contains("Notebook A5"));
    terminal.hold(GLANCE);
    for (statement, shown) in [
        ("UPDATE product SET price = 54 WHERE id = 41", "price 59.00 → 54.00"),
        ("UPDATE product SET price = 9.99 WHERE id = 42", "price 11.99 → 9.99"),
        (
            "UPDATE product SET name = 'Desk lamp, oak', category = 'Garden' WHERE id = 41",
            "category \"Home\" → \"Garden\"",
        ),
        ("DELETE FROM product WHERE id = 41", "  d  41  was id=41"),
    ] {
        pipeline.conn.query_drop(statement).await.unwrap();
        terminal.shows(|text| text.contains(shown));
        terminal.hold(GLANCE);
    }
    terminal.hold(GLANCE);
    terminal.press('\u{3}');
    terminal.prompts();
    terminal.clear();

    let trace = pipeline.eventually(&["trace", "42"], "/standing/hop", "arrived");
    let log = &trace["changes"].as_array().unwrap().last().unwrap()["log"];
    kill_holder(&mut pipeline, &mut terminal, log);
    pipeline.conn.query_drop("UPDATE product SET price = 8.49 WHERE id = 42").await.unwrap();
    pipeline.eventually(&["trace", "42"], "/standing/hop", "consumer");
    terminal.start_command("stream status");
    terminal.prompts();
    terminal.hold(READ);
    terminal.clear();
    terminal.start_command("stream trace 42  # where is the last change?");
    terminal.prompts();
    terminal.hold(READ);
    terminal.clear();

    let consumer = pipeline.bed.start_as("consumer", "consumer_again", &[]);
    pipeline.consumers.push(consumer);
    pipeline.eventually(&["trace", "42"], "/standing/hop", "arrived");
    terminal.start_command("stream trace 42  # the consumer was started again");
    terminal.prompts();
    terminal.hold(READ);

    let svg = terminal.svg("stream tap, status and trace in a terminal, while a consumer is killed and started again");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/screenshots/terminal.svg");
    fs::write(file, svg).unwrap();
}
