//! Columns that come, go or change while the programs run: each line of the table in docs/operations.md.

use std::time::Duration;

use crate::postgres_world::{connect, wait_for_count};
use model::error::Code;
use model::schema::RecordSchema;
use model::table_name::TableName;
use mysql_async::Conn;
use runtime::config::{KafkaSettings, Program, RegistrySettings};
use runtime::step::{DurableStep as _, ProducerStep};
use serde_json::json;
use testbed::{Running, TestBed, eventually, execute, read_topic};

const PATIENCE: Duration = Duration::from_secs(60);

/// Table, its columns besides `id`, its two rows, what alters it, what changes its first row, and the fields of its
/// records then.
type Case = (&'static str, &'static str, &'static str, &'static str, &'static str, &'static str);

const CONTINUES: [Case; 16] = [
    ("added", "a INT", "(1, 1), (2, 2)", "ADD COLUMN note TEXT", "note = 'n'", "id int, a int?, note string?"),
    (
        "instant",
        "a INT, b INT",
        "(1, 1, 1), (2, 2, 2)",
        "ADD COLUMN c INT AFTER a, DROP COLUMN b, ALGORITHM=INSTANT",
        "c = 5",
        "id int, a int?, c int?",
    ),
    ("dropped", "a INT, b TEXT", "(1, 1, 'x'), (2, 2, 'y')", "DROP COLUMN b", "a = 5", "id int, a int?"),
    ("moved", "a INT, b TEXT", "(1, 1, 'x'), (2, 2, 'y')", "MODIFY b TEXT FIRST", "a = 5", "b string?, id int, a int?"),
    ("spelled", "a INT", "(1, 1), (2, 2)", "CHANGE a A BIGINT", "A = 1099511627776", "id int, a long?"),
    ("renamed_case", "a INT", "(1, 1), (2, 2)", "RENAME COLUMN a TO A", "A = 5", "id int, a int?"),
    ("larger", "a INT", "(1, 1), (2, 2)", "MODIFY a BIGINT", "a = 1099511627776", "id int, a long?"),
    ("small", "a SMALLINT", "(1, 1), (2, 2)", "MODIFY a INT NOT NULL", "a = 70000", "id int, a int?"),
    ("floating", "a FLOAT", "(1, 0.1), (2, 1e30)", "MODIFY a DOUBLE", "a = 0.1", "id int, a double?"),
    (
        "digits",
        "a DECIMAL(10,2)",
        "(1, 1.25), (2, -2.5)",
        "MODIFY a DECIMAL(14,2)",
        "a = 123456789012.34",
        "id int, a decimal(14,2)?",
    ),
    (
        "longer",
        "a VARCHAR(2)",
        "(1, 'é'), (2, 'b')",
        "MODIFY a VARCHAR(500)",
        "a = REPEAT('x', 500)",
        "id int, a string?",
    ),
    ("texts", "a VARCHAR(9)", "(1, 'a'), (2, 'b')", "MODIFY a LONGTEXT", "a = 'long'", "id int, a string?"),
    ("labels", "a ENUM('s','m')", "(1, 's'), (2, 'm')", "MODIFY a ENUM('s','m','l')", "a = 'l'", "id int, a string?"),
    (
        "fraction",
        "a DATETIME, b TIME",
        "(1, '2026-11-21 04:00:00', '-10:00:00'), (2, NULL, NULL)",
        "MODIFY a DATETIME(6), MODIFY b TIME(3)",
        "a = '2026-11-21 04:00:00.123456', b = '00:00:00.123'",
        "id int, a local-timestamp-micros?, b microseconds?",
    ),
    ("required", "a INT", "(1, 1), (2, 2)", "MODIFY a INT NOT NULL", "a = 5", "id int, a int?"),
    ("optional", "a INT NOT NULL", "(1, 1), (2, 2)", "MODIFY a INT NULL", "a = NULL", "id int, a int?"),
];

fn world(name: &str) -> TestBed {
    let mut bed = TestBed::new(name).with_postgres();
    let patterns = [format!("{}.*", bed.name)];
    bed.set("TABLES", format!("{patterns:?}"));
    bed
}

async fn create(conn: &mut Conn, (table, columns, rows, ..): &Case) {
    let key = if columns.contains("PRIMARY") { "" } else { " PRIMARY KEY" };
    let create = format!("CREATE TABLE {table} (id INT{key}, {columns})");
    execute(conn, &[create, format!("INSERT INTO {table} VALUES {rows}")]).await;
}

fn registry(bed: &TestBed, table: &str) -> RegistrySettings {
    let view = bed.settings(Program::CdcProducer).of_table(&TableName::new(&bed.name, table));
    RegistrySettings::from(&view).unwrap()
}

/// The latest schema of the table.
async fn schema(bed: &TestBed, table: &str) -> RecordSchema {
    let registry = avro::registry::Registry::new(registry(bed, table)).unwrap();
    avro::schema::parse(&registry.latest().await.unwrap().expect("a schema")).unwrap()
}

fn shown(schema: &RecordSchema) -> String {
    let field = |f: &model::schema::Field| format!("{} {}{}", f.name, f.kind, if f.is_nullable() { "?" } else { "" });
    schema.fields.iter().map(field).collect::<Vec<_>>().join(", ")
}

/// How many records the topic of the table has.
fn records(bed: &TestBed, table: &str) -> usize {
    let view = bed.settings(Program::CdcProducer).of_table(&TableName::new(&bed.name, table));
    read_topic(&KafkaSettings::from(&view).unwrap()).len()
}

fn wait_for_records(bed: &TestBed, table: &str, count: usize) {
    eventually(&format!("{count} records of {table}"), PATIENCE, || (records(bed, table) >= count).then_some(()));
}

/// Gives the table's subject this rule of the registry.
async fn set_rule(bed: &TestBed, table: &str, rule: &str) {
    let RegistrySettings { url, subject, .. } = registry(bed, table);
    let body = json!({ "compatibility": rule }).to_string();
    let request = reqwest::Client::new().put(format!("{url}/config/{subject}")).body(body);
    let answer = request.header("content-type", "application/vnd.schemaregistry.v1+json").send().await.unwrap();
    assert!(answer.status().is_success(), "{answer:?}");
}

fn stop(programs: [Running; 2]) {
    for program in programs {
        let ended = program.stop();
        assert_eq!(ended.code, 0, "{}", ended.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_columns_that_changes_no_value_continues() {
    let bed = world("columns");
    let mut conn = bed.mysql().await;
    for case in &CONTINUES {
        create(&mut conn, case).await;
    }
    let mut producer = bed.start("cdc-producer", &[]);
    let consumer = bed.start("consumer", &[]);
    for (table, ..) in CONTINUES {
        wait_for_records(&bed, table, 2);
    }
    for (table, _, _, clauses, change, _) in CONTINUES {
        execute(
            &mut conn,
            &[format!("ALTER TABLE {table} {clauses}"), format!("UPDATE {table} SET {change} WHERE id = 1")],
        )
        .await;
    }
    execute(&mut conn, &["INSERT INTO dropped VALUES (3, 3)"]).await;
    let report = bed.verify();
    assert!(report.contains("logs and PostgreSQL agree"), "{report}");
    for (table, .., want) in CONTINUES {
        assert_eq!(shown(&schema(&bed, table).await), want, "{table}");
    }
    assert!(producer.is_running());
    let client = connect(&bed).await;
    let sql = "SELECT string_agg(column_name || ' ' || data_type, ', ' ORDER BY ordinal_position)
        FROM information_schema.columns WHERE table_name = $1 AND column_name NOT LIKE 'source_%'";
    for (table, want) in [
        ("added", "id integer, a integer, note text"),
        ("dropped", "id integer, a integer, b text"),
        ("spelled", "id integer, a bigint"),
        ("floating", "id integer, a double precision"),
        ("digits", "id integer, a numeric"),
    ] {
        let found: String = client.query_one(sql, &[&table]).await.unwrap().get(0);
        assert_eq!(found, want, "{table}");
    }
    // A row that is written without the column has no value of it.
    let rows = client.query("SELECT id, b FROM dropped ORDER BY id", &[]).await.unwrap();
    let rows: Vec<(i32, Option<String>)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(rows, [(1, Some("x".to_owned())), (2, Some("y".to_owned())), (3, None)]);
    stop([producer, consumer]);
}

/// Stops at the change with a statement that changes rows; follows the remedy.
async fn follow_snapshot(bed: &TestBed, producer: Running, table: &str, want: &str) -> Running {
    let remedy = format!("cdc-producer snapshot {}.{table}", bed.name);
    producer.wait().assert_error(Code::StatementChangesRows, &[want, &remedy]);
    assert_eq!(bed.run("cdc-producer", &["snapshot", &format!("{}.{table}", bed.name)]).code, 0);
    bed.start_as("cdc-producer", &format!("after-{table}"), &[])
}

const FILLED: [(Case, &str); 6] = [
    (
        (
            "defaulted",
            "a INT",
            "(1, 1), (2, 2)",
            "ADD COLUMN b INT NOT NULL DEFAULT 7",
            "a = 5",
            "id int, a int?, b int?",
        ),
        "adds the column b and gives existing rows a value",
    ),
    (
        ("computed", "a INT", "(1, 1), (2, 2)", "ADD COLUMN b INT AS (a * 2)", "a = 5", "id int, a int?, b int?"),
        "adds the column b and gives existing rows a value",
    ),
    (("renamed", "a INT", "(1, 1), (2, 2)", "RENAME COLUMN a TO b", "b = 5", "id int, b int?"), "renames the column a"),
    (
        ("again", "a INT", "(1, 1), (2, 2)", "DROP COLUMN a, ADD COLUMN a INT", "a = 5", "id int, a int?"),
        "adds the column a, of which earlier records have other values",
    ),
    (
        (
            "charset",
            "a VARCHAR(9)",
            "(1, 'é'), (2, 'b')",
            "CONVERT TO CHARACTER SET latin1",
            "a = 'c'",
            "id int, a string?",
        ),
        "CONVERT TO CHARACTER SET",
    ),
    (
        (
            "reordered",
            "a ENUM('s','m')",
            "(1, 's'), (2, 'm')",
            "MODIFY a ENUM('m','s')",
            "a = 'm'",
            "id int, a string?",
        ),
        "redefines the column a",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_columns_that_may_change_values_stops_until_a_snapshot_of_the_table() {
    let mut bed = world("columns_stop");
    // Nothing follows a statement in the binlog, so the snapshot begins exactly behind it.
    let _mysql = bed.own_mysql(&[]);
    let mut conn = bed.mysql().await;
    for (case, _) in &FILLED {
        create(&mut conn, case).await;
    }
    let late: Case = ("late", "a INT, b INT", "(1, 1, 1), (2, 2, 2)", "DROP COLUMN b", "a = 5", "id int, a int?");
    create(&mut conn, &late).await;
    let mut producer = bed.start("cdc-producer", &[]);
    let consumer = bed.start("consumer", &[]);
    for table in FILLED.iter().map(|(case, _)| case.0).chain([late.0]) {
        wait_for_records(&bed, table, 2);
    }
    for ((table, _, _, clauses, change, fields), want) in FILLED {
        execute(&mut conn, &[format!("ALTER TABLE {table} {clauses}")]).await;
        producer = follow_snapshot(&bed, producer, table, want).await;
        // Both rows are read again.
        wait_for_records(&bed, table, 4);
        execute(&mut conn, &[format!("UPDATE {table} SET {change} WHERE id = 1")]).await;
        wait_for_records(&bed, table, 5);
        assert_eq!(shown(&schema(&bed, table).await), fields, "{table}");
    }
    // A name that comes back after the table went on without it, while nobody read.
    execute(&mut conn, &["ALTER TABLE late DROP COLUMN b", "UPDATE late SET a = 5 WHERE id = 1"]).await;
    wait_for_records(&bed, "late", 3);
    assert_eq!(producer.stop().code, 0);
    execute(&mut conn, &["ALTER TABLE late ADD COLUMN b INT", "UPDATE late SET b = 6 WHERE id = 1"]).await;
    let producer = bed.start_as("cdc-producer", "late", &[]);
    let want = "adds the column b, of which earlier records have other values";
    let producer = follow_snapshot(&bed, producer, "late", want).await;
    assert!(bed.verify().contains("logs and PostgreSQL agree"));
    stop([producer, consumer]);
}

/// The registry takes any schema here: our own comparison decides.
#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_readers_would_misread_is_refused_whatever_the_registry_takes() {
    let bed = world("columns_types");
    let mut conn = bed.mysql().await;
    let cases = [
        ("scale", "a DECIMAL(10,2)", "DECIMAL(12,4)", "wrong by a factor of 1e2", false),
        ("kind", "a INT", "DECIMAL(20,0)", "could not read both", false),
        ("narrow", "a BIGINT", "INT", "earlier values may not fit", false),
        ("instant", "a DATETIME", "TIMESTAMP NULL", "would read other times", true),
    ];
    for (table, columns, ..) in cases {
        create(&mut conn, &(table, columns, "(1, NULL), (2, NULL)", "", "", "")).await;
    }
    let mut producer = bed.start("cdc-producer", &[]);
    let consumer = bed.start("consumer", &[]);
    for (table, columns, to, want, converts) in cases {
        wait_for_records(&bed, table, 2);
        set_rule(&bed, table, "NONE").await;
        execute(
            &mut conn,
            &[format!("ALTER TABLE {table} MODIFY a {to}"), format!("INSERT INTO {table} (id) VALUES (3)")],
        )
        .await;
        if converts {
            producer.wait().assert_error(Code::StatementChangesRows, &["redefines the column a"]);
            assert_eq!(bed.run("cdc-producer", &["snapshot", &format!("{}.{table}", bed.name)]).code, 0);
            producer = bed.start_as("cdc-producer", &format!("refused-{table}"), &[]);
        }
        let remedy = "give the column its former type again (ALTER TABLE)";
        producer.wait().assert_error(Code::SchemaRefused, &["column a is ", want, remedy]);
        execute(&mut conn, &[format!("ALTER TABLE {table} MODIFY {columns}")]).await;
        assert_eq!(bed.run("cdc-producer", &["snapshot", &format!("{}.{table}", bed.name)]).code, 0);
        producer = bed.start_as("cdc-producer", &format!("after-{table}"), &[]);
        execute(&mut conn, &[format!("INSERT INTO {table} (id) VALUES (4)")]).await;
        // Two rows, and then four, from the snapshot or the stream.
        wait_for_records(&bed, table, 6);
    }
    assert!(bed.verify().contains("logs and PostgreSQL agree"));
    stop([producer, consumer]);
}

/// The statement falls between the inspection of the table and the place where its epoch begins: the stream never has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_comes_while_the_producer_starts_is_not_missed() {
    let mut bed = world("columns_start");
    let mut conn = bed.mysql().await;
    create(&mut conn, &("early", "a INT, b INT", "(1, 1, 1), (2, 2, 2)", "", "", "")).await;
    bed.set("FAILPOINTS", ProducerStep::Initialised.failpoint("1*return(stop)"));
    let mut producer = bed.start("cdc-producer", &[]);
    producer.wait_for("failpoint");
    execute(&mut conn, &["ALTER TABLE early ADD COLUMN c INT NOT NULL DEFAULT 7, DROP COLUMN b"]).await;
    producer.signal("CONT");
    bed.set("FAILPOINTS", "");
    let consumer = bed.start("consumer", &[]);
    wait_for_records(&bed, "early", 2);
    assert!(bed.verify().contains("logs and PostgreSQL agree"));
    assert_eq!(shown(&schema(&bed, "early").await), "id int, a int?, c int?");
    assert!(producer.is_running());
    stop([producer, consumer]);
}

/// A table with one column that PostgreSQL and a rule require.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_the_consumers_need_stops_them_when_it_goes() {
    let mut bed = TestBed::new("columns_need").with_postgres();
    for (name, value) in [
        ("DB_COLUMNS", "all"),
        ("SCHEMA_REGISTRY_PINNED", "none"),
        ("CONSUMER_LINE", "nested"),
        ("RULES_CAPITALISE", "[note]"),
        ("RULES_DISCOUNT", "{}"),
    ] {
        bed.set(name, value);
    }
    let mut conn = bed.mysql().await;
    create(&mut conn, &("product", "a INT, b INT, note TEXT", "(1, 1, 1, 'x'), (2, 2, 2, 'y')", "", "", "")).await;
    let producer = bed.start("cdc-producer", &[]);
    let consumer = bed.start("consumer", &[]);
    bed.verify();
    let client = connect(&bed).await;
    client.batch_execute("ALTER TABLE product ALTER b SET NOT NULL").await.unwrap();
    execute(&mut conn, &["ALTER TABLE product DROP COLUMN b", "UPDATE product SET a = 5"]).await;
    let sql = r#"ALTER TABLE "public"."product" ALTER COLUMN "b" DROP NOT NULL"#;
    consumer.wait().assert_error(Code::PostgresTables, &["column b of public.product (integer) must not be null", sql]);
    client.batch_execute(sql).await.unwrap();
    let consumer = bed.start_as("consumer", "nullable", &[]);
    bed.verify();
    execute(&mut conn, &["ALTER TABLE product DROP COLUMN note", "UPDATE product SET a = 6"]).await;
    consumer.wait().assert_error(Code::RuleRefused, &["note"]);
    bed.set("RULES_CAPITALISE", "[]");
    let consumer = bed.start_as("consumer", "without-rule", &[]);
    wait_for_count(bed.get("POSTGRES_URL"), "SELECT count(*) FROM product WHERE a = 6 AND note = upper(note)", 2);
    stop([producer, consumer]);
}

/// A column of the given schema, and one of a key.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_the_records_need_stops_the_producer_until_it_is_back() {
    let bed = world("columns_given");
    let mut conn = bed.table().await;
    let create = "CREATE TABLE pairs (a INT, b INT, n INT, PRIMARY KEY (a, b))";
    let rows = ["INSERT INTO product VALUES (1, 'a', 'b', 1, NULL)", "INSERT INTO pairs VALUES (1, 1, 1), (2, 2, 2)"];
    execute(&mut conn, &[create, rows[0], rows[1]]).await;
    let mut producer = bed.start("cdc-producer", &[]);
    let consumer = bed.start("consumer", &[]);
    wait_for_records(&bed, "product", 1);
    wait_for_records(&bed, "pairs", 2);
    for (table, column, code, want, again) in [
        ("product", "category", Code::ColumnMissing, "has no column category", "ADD COLUMN category VARCHAR(500)"),
        (
            "pairs",
            "b",
            Code::KeyChanged,
            "the key is (a, b) in version 1, and would be (a)",
            "ADD COLUMN b INT NOT NULL DEFAULT 7, DROP PRIMARY KEY, ADD PRIMARY KEY (a, b)",
        ),
    ] {
        execute(&mut conn, &[format!("ALTER TABLE {table} DROP COLUMN {column}")]).await;
        let drops = format!("drops the column {column}");
        producer.wait().assert_error(Code::StatementChangesRows, &[&drops, "add the column again"]);
        bed.run("cdc-producer", &[]).assert_error(code, &[want, "what to do: "]);
        execute(&mut conn, &[format!("ALTER TABLE {table} {again}")]).await;
        assert_eq!(bed.run("cdc-producer", &["snapshot", &format!("{}.{table}", bed.name)]).code, 0);
        producer = bed.start_as("cdc-producer", &format!("after-{table}"), &[]);
        wait_for_records(&bed, table, 2);
    }
    wait_for_records(&bed, "pairs", 4);
    assert!(bed.verify().contains("logs and PostgreSQL agree"));
    stop([producer, consumer]);
}
