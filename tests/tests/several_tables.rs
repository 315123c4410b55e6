//! Several tables through one connection to the binlog, each into its own topic.

use std::collections::BTreeMap;
use std::time::Duration;

use model::change::Op;
use model::code::Code;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use testbed::{Running, TestBed, TopicRecord, eventually, execute, read_topic};

const PATIENCE: Duration = Duration::from_secs(60);

/// The keys that are alive in the table's topic.
fn alive(bed: &TestBed, table: &str) -> Vec<String> {
    let mut last = BTreeMap::new();
    for record in read_topic(&bed.kafka_of(table)) {
        last.insert(record.key, record.value.is_some());
    }
    last.into_iter().filter(|(_, is_alive)| *is_alive).map(|(key, _)| key).collect()
}

fn wait_for(bed: &TestBed, table: &str, keys: &[&str]) {
    eventually(&format!("the keys {keys:?} in the topic of {table}"), PATIENCE, || {
        let found = alive(bed, table);
        (found == keys).then_some(())
    });
}

/// The records that came from the binlog.
fn streamed(bed: &TestBed, table: &str) -> Vec<TopicRecord> {
    read_topic(&bed.kafka_of(table)).into_iter().filter(|record| record.source.op != Op::Snapshot).collect()
}

/// Each transaction's records in a topic are numbered from 0, and no number comes twice in an epoch.
fn assert_numbered(bed: &TestBed, table: &str) {
    let mut rows: BTreeMap<(u64, bool, String), Vec<u64>> = BTreeMap::new();
    for record in read_topic(&bed.kafka_of(table)) {
        let source = record.source;
        let pos = if source.op == Op::Snapshot { String::new() } else { source.pos.to_string() };
        rows.entry((source.epoch, source.op == Op::Snapshot, pos)).or_default().push(source.row);
    }
    for (transaction, mut rows) in rows {
        rows.sort_unstable();
        assert!((0..).zip(&rows).all(|(number, row)| number == *row), "{table} {transaction:?}: {rows:?}");
    }
}

async fn three_tables(bed: &TestBed) -> Conn {
    let mut conn = bed.table().await;
    execute(
        &mut conn,
        &[
            "CREATE TABLE line_item (sku VARCHAR(20), order_id INT, quantity DECIMAL(30,3), PRIMARY KEY (sku, order_id))",
            "CREATE TABLE line_tmp (nothing INT)",
            "INSERT INTO product VALUES (1, 'mug', 'CAT_1', 9.99, '2026-11-21 04:00:00')",
            "INSERT INTO line_item VALUES ('a', 1, 1), ('a b', 2, 2.5), ('Ö', 1, 3)",
            "INSERT INTO line_tmp VALUES (1)",
        ],
    )
    .await;
    conn
}

fn take(bed: &mut TestBed, patterns: &[&str]) {
    let patterns: Vec<String> = patterns.iter().map(|pattern| pattern.replace('@', &bed.name)).collect();
    bed.set("TABLES", format!("{patterns:?}"));
}

const ALL: [&str; 3] = ["@.product", "@.line_*", "!@.line_tmp"];

#[tokio::test(flavor = "multi_thread")]
async fn one_transaction_of_two_tables_goes_to_two_topics() {
    let mut bed = TestBed::new("several");
    let mut conn = three_tables(&bed).await;
    take(&mut bed, &ALL);
    let producer = bed.start("cdc-producer", &[]);
    wait_for(&bed, "line_item", &[r#"["a b",2]"#, r#"["a",1]"#, r#"["Ö",1]"#]);
    wait_for(&bed, "product", &["1"]);

    execute(
        &mut conn,
        &[
            "BEGIN",
            "INSERT INTO product VALUES (2, 'cup', 'CAT_2', 1.00, '2026-11-21 04:00:00')",
            "INSERT INTO line_item VALUES ('b', 2, 1)",
            "UPDATE product SET price = 2.00 WHERE id = 2",
            "UPDATE line_item SET sku = 'A' WHERE sku = 'a' AND order_id = 1",
            "COMMIT",
        ],
    )
    .await;
    wait_for(&bed, "line_item", &[r#"["A",1]"#, r#"["a b",2]"#, r#"["b",2]"#, r#"["Ö",1]"#]);
    wait_for(&bed, "product", &["1", "2"]);
    let last =
        |table: &str| streamed(&bed, table).into_iter().map(|record| record.source).max_by_key(|s| s.row).unwrap();
    let (of_products, of_items) = (last("product"), last("line_item"));
    assert_eq!((of_products.row, of_items.row), (1, 2), "each table counts its own records of a transaction");
    assert_eq!(of_products.pos, of_items.pos);

    producer.kill();
    execute(&mut conn, &["DELETE FROM line_item WHERE order_id = 2", "DELETE FROM product WHERE id = 1"]).await;
    let producer = bed.start("cdc-producer", &[]);
    wait_for(&bed, "line_item", &[r#"["A",1]"#, r#"["Ö",1]"#]);
    wait_for(&bed, "product", &["2"]);
    for table in ["product", "line_item"] {
        assert_numbered(&bed, table);
    }
    assert_eq!(producer.stop().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_created_later_is_read_while_the_others_continue() {
    let mut bed = TestBed::new("several_new");
    let mut conn = three_tables(&bed).await;
    take(&mut bed, &ALL);
    let mut producer = bed.start("cdc-producer", &[]);
    wait_for(&bed, "product", &["1"]);
    execute(
        &mut conn,
        &[
            "CREATE TABLE line_note (id BIGINT UNSIGNED PRIMARY KEY, note TEXT)",
            "INSERT INTO line_note VALUES (18446744073709551615, 'x'), (7, NULL)",
            "INSERT INTO product VALUES (3, 'jug', 'CAT_1', 3.00, '2026-11-21 04:00:00')",
        ],
    )
    .await;
    producer.wait_for("line_note is new and matches tables");
    wait_for(&bed, "line_note", &["18446744073709551615", "7"]);
    wait_for(&bed, "product", &["1", "3"]);
    // By another name it matches as well.
    execute(&mut conn, &["CREATE TABLE other (id INT PRIMARY KEY)", "INSERT INTO other VALUES (1)"]).await;
    execute(&mut conn, &["RENAME TABLE other TO line_other"]).await;
    wait_for(&bed, "line_other", &["1"]);
    execute(&mut conn, &["INSERT INTO line_note VALUES (8, '')", "INSERT INTO line_other VALUES (2)"]).await;
    wait_for(&bed, "line_note", &["18446744073709551615", "7", "8"]);
    wait_for(&bed, "line_other", &["1", "2"]);
    assert_eq!(producer.stop().code, 0);
    assert_eq!(bed.progress().epoch, 1, "no other table was read again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_comes_back_is_read_again_and_its_gone_rows_are_deleted() {
    let mut bed = TestBed::new("several_back");
    let mut conn = three_tables(&bed).await;
    let run = |bed: &TestBed| -> Running { bed.start("cdc-producer", &[]) };
    // The main table alone, as before; then a second one is added.
    let producer = run(&bed);
    wait_for(&bed, "product", &["1"]);
    assert_eq!(producer.stop().code, 0);
    take(&mut bed, &ALL);
    let producer = run(&bed);
    wait_for(&bed, "line_item", &[r#"["a b",2]"#, r#"["a",1]"#, r#"["Ö",1]"#]);
    assert_eq!(producer.stop().code, 0);
    take(&mut bed, &["@.product"]);
    let producer = run(&bed);
    execute(
        &mut conn,
        &[
            "DELETE FROM line_item WHERE order_id = 1",
            "INSERT INTO line_item VALUES ('new', 9, 1)",
            "INSERT INTO product VALUES (4, 'pot', 'CAT_1', 3.00, '2026-11-21 04:00:00')",
        ],
    )
    .await;
    wait_for(&bed, "product", &["1", "4"]);
    assert_eq!(producer.stop().code, 0);
    assert_eq!(alive(&bed, "line_item").len(), 3, "it is not taken");
    take(&mut bed, &ALL);
    let mut producer = run(&bed);
    wait_for(&bed, "line_item", &[r#"["a b",2]"#, r#"["new",9]"#]);
    producer.wait_for("snapshot complete");
    let products = read_topic(&bed.kafka_of("product"));
    assert_eq!(products.len(), 2, "the products were read once");
    assert_eq!(producer.stop().code, 0);
    let count: Option<u64> = conn.query_first("SELECT COUNT(*) FROM line_item").await.unwrap();
    assert_eq!(count, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_table_is_read_again_alone() {
    let mut bed = TestBed::new("several_alone");
    let mut conn = three_tables(&bed).await;
    take(&mut bed, &ALL);
    let mut producer = bed.start("cdc-producer", &[]);
    wait_for(&bed, "line_item", &[r#"["a b",2]"#, r#"["a",1]"#, r#"["Ö",1]"#]);
    wait_for(&bed, "product", &["1"]);
    execute(
        &mut conn,
        &[
            "INSERT INTO line_item VALUES ('lost', 3, 1)",
            "TRUNCATE line_item",
            "INSERT INTO line_item VALUES ('kept', 4, 1)",
            "INSERT INTO product VALUES (5, 'pan', 'CAT_1', 3.00, '2026-11-21 04:00:00')",
        ],
    )
    .await;
    producer.wait_for(&format!("cdc-producer snapshot {}.line_item", bed.name));
    assert_eq!(producer.wait().code, 1);
    // What was written between the request and the snapshot is in it.
    let name = format!("{}.line_item", bed.name);
    let asked = bed.run("cdc-producer", &["snapshot", &name]);
    assert_eq!(asked.code, 0, "{}", asked.err);
    execute(&mut conn, &["INSERT INTO line_item VALUES ('later', 4, 1)"]).await;
    let producer = bed.start("cdc-producer", &[]);
    wait_for(&bed, "line_item", &[r#"["kept",4]"#, r#"["later",4]"#]);
    wait_for(&bed, "product", &["1", "5"]);
    // A running producer follows a request, and no other table is read again.
    let before = read_topic(&bed.kafka_of("line_item")).len();
    assert_eq!(bed.run("cdc-producer", &["snapshot", &name]).code, 0);
    eventually("both rows once more", PATIENCE, || {
        (read_topic(&bed.kafka_of("line_item")).len() == before + 2).then_some(())
    });
    execute(&mut conn, &["DELETE FROM line_item WHERE sku = 'kept'"]).await;
    wait_for(&bed, "line_item", &[r#"["later",4]"#]);
    assert_eq!(producer.stop().code, 0);
    assert_eq!((read_topic(&bed.kafka_of("product")).len(), bed.progress().epoch), (2, 1));
    for (table, want) in [("nodot", "is no name of a table"), ("x.y", "tables does not take x.y")] {
        let refused = bed.run("cdc-producer", &["snapshot", table]);
        assert!(refused.code == 2 && refused.err.contains(want), "{table}: {}", refused.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_of_nothing_that_is_carried_is_left_out_on_request() {
    let mut bed = TestBed::new("several_skip");
    let mut conn = three_tables(&bed).await;
    execute(&mut conn, &["ALTER TABLE product ADD COLUMN stock INT NOT NULL DEFAULT 0"]).await;
    let config = bed.folder.join("config.yaml");
    let text = format!("table: {{{0}.product: {{producer: {{skip_unchanged: yes}}}}}}\n", bed.name);
    std::fs::write(&config, text).unwrap();
    bed.set("CONFIG", config.to_str().unwrap());
    take(&mut bed, &["@.product", "@.line_item"]);
    let producer = bed.start("cdc-producer", &[]);
    wait_for(&bed, "line_item", &[r#"["a b",2]"#, r#"["a",1]"#, r#"["Ö",1]"#]);
    wait_for(&bed, "product", &["1"]);
    execute(
        &mut conn,
        &[
            // The topic of the products does not carry their stock.
            "UPDATE product SET stock = stock + 1",
            "UPDATE line_item SET quantity = quantity + 0.001 - 0.001 WHERE order_id = 2",
            "BEGIN",
            "UPDATE product SET stock = stock + 1",
            "UPDATE product SET name = 'Mug'",
            "COMMIT",
            "UPDATE product SET id = 9, stock = 7",
        ],
    )
    .await;
    wait_for(&bed, "product", &["9"]);
    let shown: Vec<String> = streamed(&bed, "product")
        .iter()
        .map(|r| format!("{} {} {}", r.key, r.source.op.letter(), r.source.row))
        .collect();
    let mut sorted = shown.clone();
    sorted.sort();
    assert_eq!(sorted, ["1 d 0", "1 u 0", "9 c 1"], "{shown:?}");
    assert_numbered(&bed, "product");
    assert_eq!(producer.stop().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_taken_is_refused_before_anything_is_written() {
    let mut bed = TestBed::new("several_bad");
    let conn = three_tables(&bed).await;
    for (patterns, code, want) in [
        (&["@.product", "@.line_*"][..], 1, "line_tmp has no primary key"),
        (&["@.absent_*"], 1, "no table of the server matches"),
        (&["@.product", "@.absent"], 1, "create it first"),
        (&["@.product", "nodot"], 2, "is no name of a table"),
    ] {
        take(&mut bed, patterns);
        let ended = bed.run("cdc-producer", &[]);
        assert_eq!(ended.code, code, "{patterns:?}: {}", ended.err);
        assert!(ended.err.contains(want), "{patterns:?}: {}", ended.err);
    }
    take(&mut bed, &["@.absent_*"]);
    let consumer: BaseConsumer = kafka::client_config(&bed.kafka()).create().unwrap();
    let metadata = consumer.fetch_metadata(None, PATIENCE).unwrap();
    let written: Vec<&str> =
        metadata.topics().iter().map(|topic| topic.name()).filter(|topic| topic.contains(&bed.name)).collect();
    assert!(written.is_empty(), "topics {written:?}");
    let subjects = reqwest::get(format!("{}/subjects", bed.get("SCHEMA_REGISTRY_URL"))).await.unwrap();
    let subjects: Vec<String> = subjects.json().await.unwrap();
    assert!(!subjects.iter().any(|subject| subject.contains(&bed.name)), "{subjects:?}");
    bed.run("cdc-producer", &["tables"]).assert_error(Code::TableMissing, &["no table of the server matches"]);
    let doctor = bed.run("cdc-producer", &["doctor"]);
    let is_named = doctor.out.contains("FAIL  tables ") && doctor.out.contains("no table of the server matches");
    assert!(doctor.code == 1 && is_named, "{}", doctor.out);
    take(&mut bed, &["@.product", "@.line_*"]);
    let listed = bed.run("cdc-producer", &["tables"]);
    assert_eq!(listed.code, 1, "{}", listed.err);
    for want in ["key (sku, order_id), 3 columns", "line_tmp has no primary key", "key (id), 5 columns"] {
        assert!(listed.out.contains(want), "{want}: {}", listed.out);
    }
    take(&mut bed, &ALL);
    let listed = bed.run("cdc-producer", &["tables"]);
    assert_eq!(listed.code, 0, "{}", listed.err);
    assert!(listed.out.contains("!") && listed.out.contains("not taken"), "{}", listed.out);
    let doctor = bed.run("cdc-producer", &["doctor"]);
    assert_eq!((doctor.code, doctor.out.matches("ok    table ").count()), (0, 2), "{}", doctor.out);
    assert!(bed.find_progress().unwrap_or_default().is_none());
    drop(conn);
}
