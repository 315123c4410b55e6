//! The pictures of the documents: `cargo xtask screenshots`.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use testbed::TestBed;

use super::browser::{Browser, Screen};
use super::stage::Stage;

const NAMES: [&str; 8] = [
    "Espresso cup, white",
    "Drip kettle 0.9 l",
    "Wool blanket",
    "Desk lamp",
    "Trail shoes 42",
    "Notebook A5, dotted",
    "Garden hose 20 m",
    "Board game “Harbour”",
];
/// A port for each program.
const METRICS: &str = "127.0.0.1:9200-9209";
const CATEGORIES: [&str; 5] = ["Kitchen", "Home", "CAT_5", "Garden", "Toys"];

/// Changes prices for some seconds, a few in each transaction.
async fn change(stage: &mut Stage, rounds: u32) {
    for round in 0..rounds {
        let mut statements = vec!["START TRANSACTION".to_owned()];
        for step in 0..4 {
            let id = (round * 7 + step * 11) % 40 + 1;
            let cents = 400 + id * 90 + (round * 37 + step * 53 + id * id) % 160;
            statements.push(format!(
                "UPDATE product SET price = {}.{:02}, last_updated = NOW(6) WHERE id = {id}",
                cents / 100,
                cents % 100
            ));
        }
        statements.push("COMMIT".to_owned());
        stage.execute(&statements.iter().map(String::as_str).collect::<Vec<_>>()).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes docs/screenshots: cargo xtask screenshots"]
async fn screenshots() {
    // The names of a shop, not of a test.
    let mut bed = TestBed::new("shop");
    bed.name = "shop".to_owned();
    for (variable, value) in [
        ("DB_NAME", "shop"),
        ("KAFKA_TOPIC", "product_updates"),
        ("KAFKA_GROUP_ID", "shop"),
        ("CONSUMER_LOGS", "consumer_logs"),
        ("PRODUCER_TIME_TRACK", "time_track"),
        ("METRICS_LISTEN", METRICS),
        ("STREAM_METRICS", METRICS),
    ] {
        bed.set(variable, value);
    }
    let mut stage = Stage::on(bed.with_postgres(), &[]).await;
    let further: Vec<_> = (0..4).map(|_| stage.bed.start("consumer", &[])).collect();
    let rows: Vec<String> = (1..=40_usize)
        .map(|id| {
            let (name, category) = (NAMES[id % NAMES.len()], CATEGORIES[id * id % CATEGORIES.len()]);
            format!("({id}, '{name}', '{category}', {}.50, NOW(6))", 4 + id)
        })
        .collect();
    stage.execute(&[&format!("INSERT INTO product VALUES {}", rows.join(","))]).await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/screenshots");
    let browser = stage.browser(Screen::Desk, "pipeline").await;
    browser.shows("document.querySelectorAll('.readers li').length === 5").await;
    browser.has("everything works").await;
    change(&mut stage, 150).await;
    take(&browser, &folder, "pipeline", &["light", "dark"]).await;
    browser.press("2").await;
    change(&mut stage, 10).await;
    browser.shows("document.querySelectorAll('tr.opens').length > 20").await;
    take(&browser, &folder, "changes", &["light"]).await;
    let row = json!({ "table": stage.table(), "key": "7" });
    browser.value(&format!("location.hash = '#/rows?' + new URLSearchParams({row})")).await;
    browser.has("It is everywhere where it belongs").await;
    browser.shows("document.querySelector('.u-over') !== null").await;
    take(&browser, &folder, "row", &["light"]).await;
    let phone = stage.browser(Screen::Phone, "pipeline").await;
    phone.has("everything works").await;
    change(&mut stage, 20).await;
    take(&phone, &folder, "phone", &["dark"]).await;
    drop(further);
}

/// The page in these colours.
async fn take(browser: &Browser, folder: &Path, name: &str, colours: &[&str]) {
    for colours in colours {
        let scheme = json!({ "features": [{ "name": "prefers-color-scheme", "value": colours }] });
        browser.chrome("Emulation.setEmulatedMedia", scheme).await;
        browser.screenshot(&folder.join(format!("{name}-{colours}.png"))).await;
    }
}
