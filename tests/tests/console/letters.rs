//! Dead letters: each kind in the list and in full, with keys and reasons that mean harm.

use std::time::Duration;

use kafka::{Record, TransactionalProducer};
use serde_json::{Value, json};
use testbed::eventually;

use super::browser::{ENTER, ESCAPE, Screen};
use super::stage::Stage;
use crate::postgres_world::{connect, run};

const ATTACK: &str = "<img src=x onerror='document.title=`hacked`'>";

/// The line of a letter by what is parked.
fn line(kind: &str) -> String {
    let lines = "[...document.querySelectorAll('tr.opens')]";
    format!("{lines}.find((line) => line.querySelector('.chip').textContent === '{kind}')")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_dead_letter_is_shown_as_text_with_its_way_back() {
    let mut stage = Stage::new("console_letters", &[]).await;
    stage.execute(&["INSERT INTO product VALUES (3, 'Cup', 'CAT_1', 3, NULL), (4, 'Pot', 'CAT_1', 4, NULL)"]).await;
    tokio::task::block_in_place(|| stage.bed.verify());
    // PostgreSQL's reason has the name of the constraint.
    let postgres = connect(&stage.bed).await;
    run(&postgres, &format!("ALTER TABLE product ADD CONSTRAINT \"{ATTACK}\" CHECK (name <> 'Lid')")).await;
    stage
        .execute(&[
            "SET SESSION sql_mode = ''",
            "UPDATE product SET last_updated = '0000-00-00' WHERE id = 3",
            "UPDATE product SET name = 'Lid' WHERE id = 4",
        ])
        .await;
    let settings = stage.bed.kafka();
    let writer = TransactionalProducer::new(&settings, &format!("{}.foreign", settings.topic)).unwrap();
    writer.begin().unwrap();
    let (key, value) = (ATTACK.as_bytes(), Some(&b"no Avro"[..]));
    writer.send(&Record { topic: &settings.topic, partition: None, key, value, header: None }).unwrap();
    writer.commit().unwrap();
    let letters = eventually("three letters", Duration::from_secs(30), || {
        let list: Value = serde_json::from_str(&stage.bed.run("stream", &["dlq", "list", "--json"]).out).ok()?;
        list["letters"].as_array().filter(|letters| letters.len() == 3).cloned()
    });
    let offset = |kind: &str| letters.iter().find(|letter| letter["kind"] == kind).unwrap()["offset"].to_string();

    let browser = stage.browser(Screen::Desk, "letters").await;
    browser.shows("document.querySelectorAll('tr.opens').length === 3").await;
    browser.shows("document.getElementById('letters-count').textContent === '3'").await;
    browser.has(&format!("violates check constraint \"{ATTACK}\"")).await;
    browser.has("last_updated: ").await;
    for (kind, name, parts) in [
        ("a row", "row", &["A row of MySQL that no record can carry.", "none: it was never one", "0000-00-00"][..]),
        ("for PostgreSQL", "postgres", &["A record that PostgreSQL refuses", "23514", ATTACK]),
        ("a record", "record", &["A record that the consumers can't read.", "6e 6f 20 41 76 72 6f", ATTACK]),
    ] {
        // By keyboard.
        browser.shows(format!("{}.focus() ?? true", line(kind))).await;
        browser.press(ENTER).await;
        browser.shows("document.querySelector('dialog .facts')").await;
        let replay = if name == "record" { format!(", and stream dlq replay {}", offset(name)) } else { String::new() };
        let command = format!("On a terminal: stream dlq show {}{replay}", offset(name));
        for part in parts.iter().copied().chain([command.as_str()]) {
            browser.shows(format!("document.querySelector('dialog').innerText.includes({})", json!(part))).await;
        }
        if name != "record" {
            browser.press(ESCAPE).await;
            browser.shows("document.querySelector('dialog') === null").await;
        }
    }
    // From the record to its neighbours in the topic.
    let way =
        "[...document.querySelectorAll('dialog .ways a')].find((a) => a.textContent === 'Its place in the topic')";
    browser.value(&format!("{way}.click()")).await;
    browser.shows("document.querySelector('dialog') === null && document.querySelector('tr.opens .unreadable')").await;
    assert_eq!(browser.value("document.querySelectorAll('img, dialog script, main script').length").await, json!(0));
    assert!(!browser.value("document.title").await.as_str().unwrap().contains("hacked"));
    assert_eq!(browser.errors().await, Vec::<String>::new());
}
