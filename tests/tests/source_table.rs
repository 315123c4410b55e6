//! The source table on a real server: every kind of column is read exactly, or refused by name.

use std::sync::Arc;

use cdc_producer::dump::DumpConnection;
use cdc_producer::plan::Encoder;
use model::error::Class;
use model::position::{KeyBound, KeyPart};
use mysql::select;
use mysql::table::{self, Contract, SourceTable};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use runtime::config::{MySqlSettings, PINNED_SCHEMA, Secret, SslMode};
use testbed::servers::{MySql, MySqlOptions};
use testbed::{Product, TestBed};

async fn run(conn: &mut Conn, statement: &str) {
    conn.query_drop(statement).await.unwrap_or_else(|e| panic!("{statement}: {e}"));
}

fn contract() -> Arc<Contract> {
    Contract::new(PINNED_SCHEMA, false).unwrap()
}

/// All rows as records, a line each: id, name, category, price, last_updated.
async fn rows(
    conn: &mut Conn,
    source: &SourceTable,
    after: Option<i64>,
    limit: Option<usize>,
) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    let encoder = Encoder::new(source.clone(), 1);
    let after = after.map(|id| KeyBound::One(KeyPart::Signed(id)));
    let (mut key, mut value) = (Vec::new(), Vec::new());
    let each = select::each_row(conn, source, after.as_ref(), limit, |values, _| {
        encoder.value(values, &mut value)?.map_err(|row| row.error(source))?;
        encoder.key_of_row(values, &mut key)?;
        let p = Product::decode(&value).unwrap();
        assert_eq!(String::from_utf8_lossy(&key), p.id.to_string());
        let text = |t: Option<String>| t.unwrap_or_else(|| "null".to_owned());
        let price = text(p.price.map(|p| p.to_string()));
        let time = text(p.last_updated.map(|t| t.to_string()));
        lines.push(format!("{}|{}|{}|{price}|{time}", p.id, p.name.unwrap_or("null"), p.category.unwrap_or("null")));
        Ok(true)
    });
    let count = each.await.map_err(|e| format!("{e}; {}", e.remedy().unwrap_or_default()))?;
    assert_eq!(count, lines.len());
    Ok(lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_column_is_read_exactly() {
    let world = TestBed::new("table_kinds");
    let mut conn = world.mysql().await;
    for (i, (columns, values, want)) in [
        (
            "Id INT PRIMARY KEY, NAME VARCHAR(300), category VARCHAR(500), price DECIMAL(10,2), last_updated TIMESTAMP(6), x JSON",
            "(1, 'Tasse ☕', '', 12.3, '2026-11-21 04:00:00.5', '{}'), (-7, NULL, NULL, -0.05, NULL, NULL)",
            &["-7|null|null|-0.05|null", "1|Tasse ☕||12.30|2026-11-21T04:00:00.500000Z"][..],
        ),
        (
            "x BLOB, last_updated DATETIME, price FLOAT, category ENUM('a','ü') CHARACTER SET latin1, name TEXT CHARACTER SET utf16, \
             id BIGINT UNSIGNED PRIMARY KEY",
            "('', '2026-11-21 04:00:00', 12.3, 'ü', '☕', 1), ('', '1000-01-01 00:00:00', 16777216, 'a', '', 9223372036854775807)",
            &["1|☕|ü|12.30|2026-11-21T04:00:00.000000Z", "9223372036854775807||a|16777216.00|1000-01-01T00:00:00.000000Z"],
        ),
        (
            "id TINYINT PRIMARY KEY, name CHAR(5) CHARACTER SET latin1, category VARCHAR(9) CHARACTER SET ucs2, price DOUBLE, last_updated DATE",
            "(-128, 'a€ ', 'p,q', 99999999.99, '2026-11-21'), (2, 'x', '', 0.1, '9999-12-31')",
            &["-128|a€|p,q|99999999.99|2026-11-21T00:00:00.000000Z", "2|x||0.10|9999-12-31T00:00:00.000000Z"],
        ),
        (
            "id MEDIUMINT UNSIGNED PRIMARY KEY, name LONGTEXT, category TINYTEXT CHARACTER SET ascii, price INT UNSIGNED, \
             last_updated TIMESTAMP",
            "(1, 'a', 'b', 99999999, '1970-01-01 00:00:01')",
            &["1|a|b|99999999.00|1970-01-01T00:00:01.000000Z"],
        ),
        (
            "id SMALLINT PRIMARY KEY, name VARCHAR(9) CHARACTER SET utf32, category VARCHAR(9) CHARACTER SET utf16le, \
             price DECIMAL(9,1), last_updated DATETIME(3)",
            "(1, '💶', '💶', 12345678.9, '2026-11-21 04:00:00.123')",
            &["1|💶|💶|12345678.90|2026-11-21T04:00:00.123000Z"],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        run(&mut conn, &format!("CREATE TABLE t{i} ({columns})")).await;
        run(&mut conn, &format!("INSERT INTO t{i} VALUES {values}")).await;
        let source = SourceTable::inspect(&mut conn, &world.name, &format!("t{i}"), &contract()).await.unwrap();
        assert_eq!(rows(&mut conn, &source, None, None).await.unwrap(), want, "{columns}");
        let second = &want[want.len().min(1)..];
        let first: i64 = want[0].split('|').next().unwrap().parse().unwrap();
        assert_eq!(rows(&mut conn, &source, Some(first), None).await.unwrap(), second);
        assert_eq!(rows(&mut conn, &source, None, Some(1)).await.unwrap(), &want[..1]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_does_not_fit_is_refused_by_row_and_column() {
    let world = TestBed::new("table_values");
    let mut conn = world.mysql().await;
    run(&mut conn, "SET sql_mode = ''").await;
    for (i, (columns, values, want)) in [
        ("id BIGINT UNSIGNED PRIMARY KEY", "(9223372036854775808)", "column id: 9223372036854775808 is beyond"),
        ("id INT PRIMARY KEY, price FLOAT", "(5, 12.345)", "row 5, column price: 12.345 does not fit decimal(10,2)"),
        ("id INT PRIMARY KEY, price BIGINT", "(5, 100000000)", "row 5, column price: 100000000 does not fit"),
        (
            "id INT PRIMARY KEY, last_updated DATETIME",
            "(6, '0000-00-00')",
            "row 6, column last_updated: 0000-00-00 00:00:00 is no point in time; set producer.on_refused to dead_letter",
        ),
        ("id INT PRIMARY KEY, last_updated DATE", "(6, '2026-02-00')", "2026-02-00 00:00:00 is no point in time"),
        ("id INT PRIMARY KEY, last_updated TIMESTAMP", "(6, 0)", "0000-00-00 00:00:00 is no point in time"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut all = columns.to_owned();
        for (name, rest) in
            [("name", "VARCHAR(9)"), ("category", "VARCHAR(9)"), ("price", "INT"), ("last_updated", "DATETIME NULL")]
        {
            if !columns.contains(name) {
                all.push_str(&format!(", {name} {rest}"));
            }
        }
        let named: Vec<&str> = columns.split(", ").map(|c| c.split(' ').next().unwrap()).collect();
        run(&mut conn, &format!("CREATE TABLE v{i} ({all})")).await;
        run(&mut conn, &format!("INSERT INTO v{i} ({}) VALUES {values}", named.join(", "))).await;
        let source = SourceTable::inspect(&mut conn, &world.name, &format!("v{i}"), &contract()).await.unwrap();
        let error = rows(&mut conn, &source, None, None).await.expect_err(want);
        assert!(error.contains(want), "{want} in {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_cannot_be_carried_is_refused_with_a_remedy() {
    let world = TestBed::new("table_refused");
    let mut conn = world.mysql().await;
    let rest = "name TEXT, category TEXT, price INT, last_updated DATE";
    for (i, (create, want, remedy)) in [
        ("CREATE TABLE r0 (id INT PRIMARY KEY, name TEXT, price INT, last_updated DATE)", "has no column category", "add the column"),
        (
            "CREATE TABLE r1 (id INT PRIMARY KEY, name TEXT, category TEXT, price DECIMAL(12,2), last_updated DATE)",
            "r1.price is decimal(12,2): its values may not fit",
            "DECIMAL(10,2)",
        ),
        (
            "CREATE TABLE r2 (id INT PRIMARY KEY, name BLOB, category TEXT, price INT, last_updated DATE)",
            "r2.name is blob: it does not hold text",
            "VARCHAR",
        ),
        (
            "CREATE TABLE r3 (id INT PRIMARY KEY, name TEXT CHARACTER SET gbk, category TEXT, price INT, last_updated DATE)",
            "character set gbk is not converted",
            "utf8mb4",
        ),
        (&format!("CREATE TABLE r4 (id INT, {rest})"), "r4.id is int: it may be NULL", "NOT NULL"),
        (&format!("CREATE TABLE r5 (id INT UNIQUE NOT NULL, {rest})"), "r5 has no primary key; the schema's key is (id)", "ADD PRIMARY KEY"),
        (
            &format!("CREATE TABLE r6 (id INT, shop INT, {rest}, PRIMARY KEY (shop, id))"),
            "has the primary key (shop, id); the schema's key is (id)",
            "ADD PRIMARY KEY (id)",
        ),
        (
            &format!("CREATE TABLE r7 (id VARCHAR(9) PRIMARY KEY, {rest})"),
            "r7.id is varchar(9): it does not hold an integer",
            "integer type",
        ),
        (&format!("CREATE VIEW r8 AS SELECT 1 AS id FROM (SELECT 1 AS {}) AS t", "x"), "is a view, not a table", "db.table"),
        (
            "CREATE TABLE r9 (id INT PRIMARY KEY, name BIT(3), category TEXT, price INT, last_updated DATE)",
            "r9.name is bit(3): it does not hold text",
            "VARCHAR",
        ),
        ("DO 0", "there is no table", "product-updater"),
    ]
    .into_iter()
    .enumerate()
    {
        run(&mut conn, create).await;
        let error = SourceTable::inspect(&mut conn, &world.name, &format!("r{i}"), &contract()).await.expect_err(want);
        assert_eq!(error.class(), Class::Definite);
        assert!(error.to_string().contains(want), "{want} in {error}");
        assert!(error.remedy().is_some_and(|r| r.contains(remedy)), "{remedy} in {:?}", error.remedy());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_secure_as_asked_and_in_utc() {
    let world = TestBed::new("table_tls");
    let mut settings = MySqlSettings::from(&world.settings(runtime::config::Program::CdcProducer)).unwrap();
    for (mode, secure) in [(SslMode::Disabled, false), (SslMode::Preferred, true), (SslMode::Required, true)] {
        settings.ssl_mode = mode;
        let mut conn = table::connect(&settings).await.unwrap();
        let cipher: (String, String) = conn.query_first("SHOW STATUS LIKE 'Ssl_cipher'").await.unwrap().unwrap();
        assert_eq!(!cipher.1.is_empty(), secure, "{mode:?}");
        let session: (String, String) =
            conn.query_first("SELECT @@time_zone, @@character_set_results").await.unwrap().unwrap();
        assert_eq!(session, ("+00:00".to_owned(), "utf8mb4".to_owned()));
    }
    // The server made its certificate itself, for no host name and by a CA that nobody knows.
    for mode in [SslMode::VerifyCa, SslMode::VerifyIdentity] {
        settings.ssl_mode = mode;
        let error = table::connect(&settings).await.expect_err("an unknown CA");
        assert_eq!(error.class(), Class::Definite, "{error}");
        assert!(error.to_string().contains("certificate verify failed"), "{error}");
    }
    settings.ssl_mode = SslMode::Required;
    let right = settings.password.replace(Secret::new("not this one"));
    let error = table::connect(&settings).await.expect_err("a wrong password");
    assert_eq!((error.class(), error.to_string().contains("error 1045")), (Class::Definite, true), "{error}");
    settings.password = right;
    // The server hides which users it has behind any method of authentication.
    settings.user = "nobody_of_that_name".to_owned();
    let error = table::connect(&settings).await.expect_err("no such user");
    assert_eq!(error.class(), Class::Definite, "{error}");
    assert!(error.remedy().is_some_and(|r| r.contains("DB_USER")), "{error:?}");
    settings.port = 1;
    let error = table::connect(&settings).await.expect_err("no server");
    assert_eq!(error.class(), Class::Transient, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_kind() {
    let mut world = TestBed::new("table_server");
    let options = MySqlOptions {
        folder: world.folder.join("mysql"),
        port: None,
        flags: vec!["--innodb-native-foreign-keys=ON".to_owned(), "--tls-version=".to_owned()],
    };
    let mysql = MySql::start(&options, &|_| {}).expect("a MySQL server");
    world.set("DB_PORT", mysql.port.to_string());

    // It has no TLS: that is a reason to go on without, or to stop.
    let mut settings = MySqlSettings::from(&world.settings(runtime::config::Program::CdcProducer)).unwrap();
    assert_eq!(settings.ssl_mode, SslMode::Preferred);
    let mut conn = world.mysql().await;
    let cipher: (String, String) = conn.query_first("SHOW STATUS LIKE 'Ssl_cipher'").await.unwrap().unwrap();
    assert_eq!(cipher.1, "");
    settings.ssl_mode = SslMode::Required;
    let error = table::connect(&settings).await.expect_err("no TLS");
    assert_eq!(error.class(), Class::Definite);
    assert!(error.to_string().contains("the server offers no TLS"), "{error}");

    // The same server under an address that is not known to be this machine: the password does not go there without
    // TLS, over neither kind of connection, unless that is asked for.
    world.set("DB_HOST", "0.0.0.0");
    let refused = world.run("verify", &[]);
    assert!(refused.code == 1 && refused.err.contains("the server offers no TLS"), "{}", refused.err);
    settings.host = "0.0.0.0".to_owned();
    settings.ssl_mode = SslMode::Preferred;
    let error = DumpConnection::connect(&settings).await.err().expect("no TLS");
    assert!(error.to_string().contains("the server offers no TLS"), "{error}");
    world.set("DB_SSL_MODE", "disabled");
    settings.ssl_mode = SslMode::Disabled;
    drop(DumpConnection::connect(&settings).await.unwrap());
    let accepted = world.run("cdc-producer", &["doctor"]);
    assert!(
        accepted.code == 0 && accepted.err.contains("db.ssl_mode disabled checks no certificate"),
        "{}",
        accepted.err
    );

    // InnoDB itself executes cascades here, and they never reach the binlog.
    run(&mut conn, "CREATE TABLE shop (id INT PRIMARY KEY)").await;
    let columns = "id INT PRIMARY KEY, name TEXT, category TEXT, price INT, last_updated DATE, shop INT";
    for (table, rule, cascades) in
        [("f0", "ON DELETE CASCADE", true), ("f1", "ON UPDATE SET NULL", true), ("f2", "ON DELETE RESTRICT", false)]
    {
        let create = format!(
            "CREATE TABLE {table} ({columns}, CONSTRAINT k_{table} FOREIGN KEY (shop) REFERENCES shop (id) {rule})"
        );
        run(&mut conn, &create).await;
        let outcome = SourceTable::inspect(&mut conn, &world.name, table, &contract()).await;
        let refused = outcome.err().map(|e| format!("{e}; {}", e.remedy().unwrap_or_default()));
        assert_eq!(refused.is_some(), cascades, "{refused:?}");
        if let Some(text) = refused {
            for part in [format!("has the foreign key k_{table} "), "use RESTRICT or NO ACTION".to_owned()] {
                assert!(text.contains(&part), "{part} in {text}");
            }
        }
    }
}
