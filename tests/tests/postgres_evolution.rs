//! A table of PostgreSQL whose records have several schema versions: columns become wider, whatever the order.

use crate::consumer_world::{line_count, logs, long, register, start, wait_until_committed};
use crate::postgres_world::{connect, run};
use model::change::Op;
use model::code::Code;
use testbed::{Feed, TestBed, execute};
use tokio_postgres::Client;

/// A separate table, without the rules of the product.
const SETTINGS: [(&str, &str); 6] = [
    ("DB_COLUMNS", "all"),
    ("SCHEMA_REGISTRY_PINNED", "none"),
    ("CONSUMER_LINE", "nested"),
    ("POSTGRES_TABLE", "stock"),
    ("RULES_CAPITALISE", "[]"),
    ("RULES_DISCOUNT", "{}"),
];

fn world(name: &str) -> TestBed {
    let mut world = TestBed::new(name).with_postgres();
    SETTINGS.iter().for_each(|(name, value)| world.set(name, *value));
    world
}

/// Name and type of the columns before those of the source.
async fn columns(client: &Client) -> Vec<String> {
    let sql = "SELECT attname || ' ' || format_type(atttypid, atttypmod) FROM pg_attribute
        WHERE attrelid = 'stock'::regclass AND attnum > 0 AND NOT attisdropped AND attname NOT LIKE 'source%' ORDER BY attnum";
    client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

async fn count(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

fn schema(n: &str, digits: u32, ratio: &str) -> String {
    let amount = format!(r#"{{"type":"bytes","logicalType":"decimal","precision":{digits},"scale":2}}"#);
    format!(
        r#"{{"type":"record","name":"stock","namespace":"shop","mysql.key":["id"],"fields":[{{"name":"id","type":"int"}},
            {{"name":"n","type":["null",{n}]}},{{"name":"amount","type":["null",{amount}]}},
            {{"name":"ratio","type":["null","{ratio}"]}}]}}"#
    )
}

/// A row; `ratio` has the bytes of its type.
fn value(schema: u32, id: i64, n: i64, cents: i64, ratio: &[u8]) -> Vec<u8> {
    let mut out = [&[0][..], &schema.to_be_bytes()].concat();
    long(id, &mut out);
    out.push(2);
    long(n, &mut out);
    out.extend([2, 16]);
    out.extend(cents.to_be_bytes());
    out.push(2);
    out.extend(ratio);
    out
}

/// Records of both schemas, in both orders, in one batch and in several, from consumers that knew the earlier one only.
#[tokio::test(flavor = "multi_thread")]
async fn old_and_new_records_are_stored_in_any_order() {
    let world = world("any_order");
    let mut feed = Feed::new(&world).await;
    let old = register(&world, &schema(r#""int""#, 10, "float")).await;
    let new = register(&world, &schema(r#""long""#, 12, "double")).await;
    let old_row = |id: i64, n: i64| value(old, id, n, 125, &1.5_f32.to_le_bytes());
    let new_row = |id: i64| value(new, id, 3_000_000_000 + id, 123_456_789_012, &0.1_f64.to_le_bytes());
    let write = |feed: &mut Feed, id: i64, value: Vec<u8>| {
        feed.raw(id.to_string().as_bytes(), Some(&value), Some(Op::Update));
    };
    let old_types = ["id integer", "n integer", "amount numeric(10,2)", "ratio real"];
    let new_types = ["id integer", "n bigint", "amount numeric(12,2)", "ratio double precision"];
    (1..=40).for_each(|id| write(&mut feed, id, old_row(id, 1)));
    let consumer = start(&world, 1);
    wait_until_committed(&world);
    let client = connect(&world).await;
    assert_eq!(columns(&client).await, old_types);
    // Another consumer has widened the table, which this one knows with the earlier types only: it copies rows.
    run(&client, "ALTER TABLE stock ALTER n TYPE bigint, ALTER amount TYPE numeric(12,2), ALTER ratio TYPE float8")
        .await;
    (101..=160).for_each(|id| write(&mut feed, id, old_row(id, 2)));
    wait_until_committed(&world);
    assert_eq!(count(&client, "SELECT count(*) FROM stock WHERE n = 2 AND amount = 1.25 AND ratio = 1.5").await, 60);
    assert_eq!(consumer.stop().code, 0);

    // One batch with both, the earlier one last for some keys; then a table that begins with the narrow types again.
    run(&client, "DROP TABLE stock; DELETE FROM product_offsets").await;
    (1..=10).for_each(|id| write(&mut feed, id, new_row(id)));
    (1..=5).for_each(|id| write(&mut feed, id, old_row(id, 7)));
    feed.raw(b"6", None, Some(Op::Delete));
    (201..=240).for_each(|id| write(&mut feed, id, old_row(id, 3)));
    let mut consumer = start(&world, 1);
    wait_until_committed(&world);
    consumer.wait_for(
        "PostgreSQL rewrites its table under a lock, to widen column n of public.stock from integer to bigint",
    );
    assert_eq!(columns(&client).await, new_types);
    let rows = "SELECT count(*) FROM stock WHERE CASE WHEN id <= 5 THEN n = 7 AND amount = 1.25 AND ratio = 1.5
        WHEN id <= 10 THEN n = 3000000000 + id AND amount = 1234567890.12 AND ratio = 0.1 AND id <> 6
        WHEN id <= 40 THEN n = 1 WHEN id <= 160 THEN n = 2 ELSE n = 3 END";
    let all = 9 + 30 + 60 + 40;
    assert_eq!((count(&client, rows).await, count(&client, "SELECT count(*) FROM stock").await), (all, all));
    assert!(!consumer.log().contains("WARN"), "{}", consumer.log());

    // From the beginning, with the wide types already.
    assert_eq!(consumer.stop().code, 0);
    run(&client, "TRUNCATE stock; DELETE FROM product_offsets").await;
    let consumer = start(&world, 1);
    crate::postgres_world::wait_for_count(world.get("POSTGRES_URL"), rows, all);
    assert_eq!(columns(&client).await, new_types);
    assert_eq!(consumer.stop().code, 0);
}

/// Every other difference stops the consumers before anything is written, and the remedy leads on.
#[tokio::test(flavor = "multi_thread")]
async fn another_type_is_refused_with_the_statement_that_changes_it() {
    let world = world("another_type");
    let mut feed = Feed::new(&world).await;
    let old = register(&world, &schema(r#""int""#, 10, "float")).await;
    let wide = register(&world, &schema(r#""long""#, 10, "float")).await;
    let text = register(&world, &schema(r#""string""#, 10, "float")).await;
    feed.raw(b"1", Some(&value(old, 1, 5, 125, &1.5_f32.to_le_bytes())), Some(Op::Create));
    let consumer = start(&world, 1);
    wait_until_committed(&world);
    let client = connect(&world).await;
    // A view depends on the type.
    run(&client, "CREATE VIEW seen AS SELECT n FROM stock").await;
    feed.raw(b"2", Some(&value(wide, 2, 1 << 40, 125, &1.5_f32.to_le_bytes())), Some(Op::Create));
    let sql = r#"ALTER TABLE "public"."stock" ALTER COLUMN "n" TYPE bigint"#;
    for ended in [consumer.wait(), world.run("consumer", &[])] {
        let cannot = "cannot widen column n of public.stock from integer to bigint";
        ended.assert_error(Code::PostgresTables, &[cannot, "after dropping what depends on its type", sql]);
    }
    run(&client, &format!("DROP VIEW seen; {sql}")).await;
    let consumer = start(&world, 1);
    wait_until_committed(&world);

    // The text "é" has a length of two bytes.
    let mut row = [&[0][..], &text.to_be_bytes(), &[6, 2, 4], "é".as_bytes(), &[2, 2, 5, 2]].concat();
    row.extend(1.5_f32.to_le_bytes());
    feed.raw(b"3", Some(&row), Some(Op::Create));
    let ended = consumer.wait();
    let want = "column n of public.stock is bigint, and must be text";
    let sql = r#"ALTER TABLE "public"."stock" ALTER COLUMN "n" TYPE text USING "n"::text"#;
    ended.assert_error(Code::PostgresTables, &[want, sql]);
    assert_eq!(line_count(&world), 2, "nothing is written");
    assert_eq!(count(&client, "SELECT count(*) FROM stock").await, 2);
    run(&client, sql).await;
    let consumer = start(&world, 1);
    wait_until_committed(&world);
    assert_eq!(count(&client, "SELECT count(*) FROM stock WHERE n IN ('5', '1099511627776', 'é')").await, 3);
    assert_eq!(logs(&world).into_values().flatten().count(), 3);
    assert_eq!(consumer.stop().code, 0);
}

/// The whole pipeline: the source's columns become wider while two consumers run.
#[tokio::test(flavor = "multi_thread")]
async fn columns_of_the_source_become_wider_while_consumers_run() {
    let world = world("wider_source");
    let mut conn = world.mysql().await;
    execute(
        &mut conn,
        &[
            "CREATE TABLE product (id INT PRIMARY KEY, n INT, amount DECIMAL(10,2), ratio FLOAT)",
            "INSERT INTO product WITH RECURSIVE t (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM t WHERE i < 200) \
             SELECT i, i, i / 4, 0.1 FROM t",
        ],
    )
    .await;
    let producer = world.start("cdc-producer", &[]);
    let consumers = [start(&world, 1), start(&world, 2)];
    assert!(world.verify().contains("logs and PostgreSQL agree"));
    execute(
        &mut conn,
        &[
            "ALTER TABLE product MODIFY n BIGINT, MODIFY amount DECIMAL(12,2)",
            "UPDATE product SET n = 3000000000 + id, amount = 1234567890.12, ratio = 0.1 WHERE id % 2 = 0",
            "INSERT INTO product SELECT id + 1000, n, amount, ratio FROM product",
            "DELETE FROM product WHERE id BETWEEN 50 AND 60",
        ],
    )
    .await;
    assert!(world.verify().contains("logs and PostgreSQL agree"));
    let client = connect(&world).await;
    assert_eq!(columns(&client).await, ["id integer", "n bigint", "amount numeric(12,2)", "ratio real"]);
    for program in consumers.into_iter().chain([producer]) {
        let ended = program.stop();
        assert_eq!(ended.code, 0, "{}", ended.err);
    }
}
