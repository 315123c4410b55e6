//! Texts from outside in what a program prints and logs.

use model::change::Op;
use testbed::{Feed, TestBed, eventually};

use super::PATIENCE;
use super::fakes::{FakeRegistry, Mode, NASTY, assert_harmless, mysql, postgres};
use crate::consumer_world::{dead_letters, start, wait_until_committed};

/// A MySQL server before login, a PostgreSQL server, and a registry.
#[test]
fn what_a_server_says_reaches_no_terminal_raw() {
    let mut world = TestBed::new("texts");
    let registry = FakeRegistry::of(world.get("SCHEMA_REGISTRY_URL"));
    let body = serde_json::json!({"error_code": 42201, "message": NASTY}).to_string();
    registry.set(Mode::Once(format!("HTTP/1.1 422 Odd\r\nContent-Length: {}\r\n\r\n{body}", body.len())));
    world.set("DB_PORT", mysql(NASTY).port().to_string());
    world.set("SCHEMA_REGISTRY_URL", format!("http://{}", registry.address));
    world.set("POSTGRES_URL", format!("postgres://u:p@{}/db", postgres(NASTY)));
    for (program, arguments) in [
        ("cdc-producer", &["doctor"][..]),
        ("cdc-producer", &["doctor", "--log-format", "json"]),
        ("consumer", &["doctor"]),
        ("verify", &[]),
        ("product-updater", &["--data", "/nonexistent"]),
    ] {
        let ended = world.run(program, arguments);
        let text = format!("{}{}", ended.out, ended.err);
        assert_ne!(ended.code, 0, "{program} {text}");
        assert_harmless(&text);
        let by_server = ["\\u001b]0;owned", "\\\\u001b]0;owned"].iter().any(|t| text.contains(t));
        assert!(by_server || program == "product-updater", "{program} {arguments:?}\n{text}");
    }
}

/// A record with a hostile key and header: in the consumer's log, the dead letter's reason and what `verify` prints.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_reaches_no_terminal_raw() {
    for format in ["text", "json"] {
        let mut world = TestBed::new("texts_record");
        world.set("LOG_FORMAT", format);
        world.set("LOG_LEVEL", "debug");
        drop(world.table().await);
        let mut feed = Feed::new(&world).await;
        feed.update(1..=3, 0);
        feed.raw(NASTY.as_bytes(), Some(NASTY.as_bytes()), Some(Op::Create));
        feed.products([(9, NASTY.to_owned(), NASTY.to_owned(), 1)]);
        let consumer = start(&world, 1);
        wait_until_committed(&world);
        eventually("it is a dead letter", PATIENCE, || (dead_letters(&world).len() == 1).then_some(()));
        let ended = consumer.stop();
        assert_eq!(ended.code, 0);
        assert_harmless(&ended.err);
        for line in ended.err.lines().filter(|_| format == "json") {
            serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        }
        for arguments in [&[][..], &["--json"]] {
            let ended = world.run("verify", arguments);
            assert_harmless(&format!("{}{}", ended.out, ended.err));
            assert!(
                arguments.is_empty() || serde_json::from_str::<serde_json::Value>(&ended.out).is_ok(),
                "{}",
                ended.out
            );
        }
    }
}

/// A CSV file with a hostile name and hostile values.
#[tokio::test(flavor = "multi_thread")]
async fn a_csv_file_reaches_no_terminal_raw() {
    let world = TestBed::new("texts_csv");
    let data = world.folder.join("data");
    std::fs::create_dir_all(&data).unwrap();
    let name = format!("{}.csv", NASTY.replace('\u{2028}', ""));
    std::fs::write(data.join(name), format!("id,name,category,price,last_updated\n1,\"{NASTY}\",a,{NASTY},x\n"))
        .unwrap();
    let ended = world.run("product-updater", &["--data", data.to_str().unwrap()]);
    assert_harmless(&ended.err);
    assert_harmless(&ended.out);
    assert!(ended.err.contains("\\u001b") || ended.err.contains("\\u{1b}"), "{}", ended.err);
}
