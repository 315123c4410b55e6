//! `--table`: files of any table, by its columns and its primary key.

use std::fs;

use model::error::Code;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use testbed::{Ended, TestBed};

use super::{counts, update, write_data};

/// A world with this table, and the rows of a file after applying it.
async fn world(test: &str, table: &str) -> (TestBed, Conn) {
    let world = TestBed::new(test);
    let mut conn = world.mysql().await;
    conn.query_drop(format!("CREATE TABLE {table}")).await.unwrap();
    (world, conn)
}

fn apply(world: &TestBed, text: &str, flags: &[&str]) -> Ended {
    let data = write_data(world, &[("a.csv", text.as_bytes())]);
    update(world, &data, flags)
}

fn rejects(world: &TestBed) -> String {
    fs::read_to_string(world.folder.join("rejects/a.rejects.csv")).unwrap_or_default()
}

async fn rows(conn: &mut Conn, query: &str) -> Vec<String> {
    conn.query(query).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_by_the_header_and_rows_by_the_key() {
    let table = "rides (vendor VARCHAR(9) COLLATE utf8mb4_0900_ai_ci, at TIMESTAMP(3), no BIGINT UNSIGNED, \
                 fare DECIMAL(8,2) NOT NULL, note JSON, raw VARBINARY(9), flags BIT(4), big VARCHAR(9) NOT NULL, \
                 twice DECIMAL(9,2) AS (fare * 2), PRIMARY KEY (no, vendor, at))";
    let (world, mut conn) = world("any_rides", table).await;
    let name = format!("{}.rides", world.get("DB_NAME"));
    let first = "at,vendor,no,FARE,note,raw,flags,big\n\
                 2026-01-01T00:00:00.123Z,Zoé,18446744073709551615,1.20,\"{\"\"a\"\": 1}\",/+8=,5,\n\
                 2026-01-01 00:00:00+01:00,b,18446744073709551614,-3,,,,x\n";
    let ended = apply(&world, first, &["--table", &name]);
    assert_eq!(counts(&ended, "a.csv"), [2, 2, 0, 0, 0, 0, 0], "{}", ended.err);
    let query = "SELECT CONCAT_WS('|', vendor, CONVERT_TZ(at, @@session.time_zone, '+00:00'), no, fare, \
                 IFNULL(note, 'NULL'), IFNULL(HEX(raw), 'NULL'), flags + 0, CONCAT(big, ';'), twice) FROM rides ORDER BY no";
    assert_eq!(
        rows(&mut conn, query).await,
        [
            "b|2025-12-31 23:00:00.000|18446744073709551614|-3.00|NULL|NULL|x;|-6.00",
            "Zoé|2026-01-01 00:00:00.123|18446744073709551615|1.20|{\"a\": 1}|FFEF|5|;|2.40",
        ]
    );
    let again = apply(&world, first, &["--table", "rides"]);
    assert_eq!(counts(&again, "a.csv"), [2, 0, 0, 0, 2, 0, 0], "{}", again.err);
    // The key by its values: other spellings of a number and a text, an offset. Columns that are not there stay.
    let second = "no,vendor,at,fare,op\n\
                  018446744073709551615,ZOE,2026-01-01 00:00:00.123000,7.00,\n\
                  18446744073709551613,c,2026-01-01,1,upsert\n\
                  18446744073709551614,b,2025-12-31 23:00:00,,delete\n\
                  18446744073709551614,b,2025-12-31 23:00:00,,delete\n";
    let ended = apply(&world, second, &["--table", "rides", "--chunk-size", "3"]);
    assert_eq!(counts(&ended, "a.csv"), [4, 0, 1, 1, 1, 0, 1], "{}", ended.err);
    let refusal = "line 3, column big: the table refuses the row: Field 'big' doesn't have a default value";
    assert!(ended.err.contains(refusal), "{}", ended.err);
    let want = "Zoé|2026-01-01 00:00:00.123|18446744073709551615|7.00|{\"a\": 1}|FFEF|5|;|14.00";
    assert_eq!(rows(&mut conn, query).await, [want]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_does_not_fit_writes_nothing() {
    let table = "t (a INT, b INT, c INT, d INT AS (c + 1) STORED, g POINT, PRIMARY KEY (a, b))";
    let (world, mut conn) = world("any_header", table).await;
    for (header, text) in [
        ("a,b,x", "line 1: \"x\" is no known column; known are a, b, c, d, g, op"),
        ("a,c", "line 1, column b: the column is missing; the header must have the primary key of any_header.t: a,b"),
        ("a,b,d", "line 1, column d: the table computes this column; leave it out"),
        ("a,b,g", "line 1, column g: a file can't hold a point; leave it out"),
        ("a,b,B", "line 1, column b: the column stands twice in the header"),
        ("a;b", "line 1: columns are separated by ';'; use commas"),
        ("", "line 1: the file is empty; its first line must have the primary key of any_header.t: a,b"),
    ] {
        let text = text.replace("any_header", world.get("DB_NAME"));
        let ended = apply(&world, &format!("{header}\n1,2,3\n"), &["--table", "t"]);
        let ended = if header.is_empty() { apply(&world, "", &["--table", "t"]) } else { ended };
        assert!(ended.code == 0 && ended.err.contains(&format!("a.csv, {text}")), "{text} in\n{}", ended.err);
        assert_eq!(counts(&ended, "a.csv"), [1, 0, 0, 0, 0, 0, 1]);
    }
    assert_eq!(rows(&mut conn, "SELECT COUNT(*) FROM t").await, ["0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_table_would_change_or_refuse_is_put_aside() {
    let table = "t (id INT PRIMARY KEY, name VARCHAR(5), price DECIMAL(6,2), day DATE, at DATETIME, kind ENUM('a','b'), \
                 n TINYINT UNSIGNED NOT NULL DEFAULT 7, code VARCHAR(5) CHARACTER SET latin1, UNIQUE uk (name))";
    let (world, mut conn) = world("any_refused", table).await;
    conn.query_drop("INSERT INTO t (id, name) VALUES (0, 'zero'), (1, 'one'), (2, 'two')").await.unwrap();
    let before = rows(&mut conn, "SELECT CONCAT_WS('|', id, name, n) FROM t ORDER BY id").await;
    let bad = [
        ("x,,,,,,1,,", "line 2, column id: \"x\" is not a whole number of int"),
        ("3,sixsix,,,,,1,,", "line 3, column name: the table refuses the row: Data too long for column 'name'"),
        ("3,,1.005,,,,1,,", "line 4, column price: 1.005 has 3 decimals; decimal(6,2) holds 2"),
        ("3,,,2026-02-30,,,1,,", "line 5, column day: the table refuses the row: Incorrect date value"),
        (
            "3,,,,2026-01-01 00:00:00.5,,1,,",
            "line 6, column at: 2026-01-01 00:00:00.5 has 1 decimals; datetime holds 0",
        ),
        ("3,,,,,1,1,,", "line 7, column kind: \"1\" is no label of enum('a','b')"),
        ("3,,,,,,,,", "line 8, column n: the field is empty, and the column tinyint unsigned is NOT NULL"),
        ("3,,,,,,256,,", "line 9, column n: the table refuses the row: Out of range value for column 'n'"),
        ("3,,,,,,1,☃,", "line 10: the table refuses the row: Conversion from collation"),
        ("3,one,,,,,1,,", "line 11: the table refuses the row: Duplicate entry 'one' for key 't.uk'"),
        ("2,one,,,,,1,,", "line 12: the table refuses the row: Duplicate entry 'one' for key 't.uk'"),
        ("x,,,,,,1,,delete", "line 13, column id: \"x\" is not a whole number of int"),
        ("1.5,,,,,,1,,delete", "line 14, column id: \"1.5\" is not a whole number of int"),
        ("3,,,,,,1,,merge", "line 15, column op: \"merge\" is neither upsert nor delete"),
        ("3,,,2026-01-01 10:00:00,,,1,,", "line 16, column day: the table refuses the row: Incorrect date value"),
    ];
    let text: String = bad.iter().map(|(row, _)| format!("{row}\n")).collect();
    let text = format!("id,name,price,day,at,kind,n,code,op\n{text}5,five,1.00,2026-01-01,,b,1,é,\n");
    for chunk in ["1", "100"] {
        let ended = apply(&world, &text, &["--table", "t", "--chunk-size", chunk]);
        for (row, reason) in bad {
            assert!(ended.err.contains(&format!("a.csv, {reason}")), "{reason} in\n{}", ended.err);
            assert!(rejects(&world).contains(row), "{row} in\n{}", rejects(&world));
        }
        assert_eq!(counts(&ended, "a.csv"), [16, 1, 0, 0, 0, 0, 15]);
        let after = rows(&mut conn, "SELECT CONCAT_WS('|', id, name, n) FROM t ORDER BY id").await;
        assert_eq!(after, [&before[..], &["5|five|1".to_owned()]].concat());
        conn.query_drop("DELETE FROM t WHERE id = 5").await.unwrap();
    }
    // The row before the bad one is in its chunk.
    let ended = apply(&world, "id,n\n9,1\nx,1\n", &["--table", "t", "--strict"]);
    ended.assert_error(Code::CsvRefused, &["line 3, column id"]);
    assert_eq!(rows(&mut conn, "SELECT COUNT(*) FROM t").await, ["3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_has_no_rows_to_name_is_refused() {
    let (world, mut conn) = world("any_table", "bare (a INT)").await;
    let database = world.get("DB_NAME").to_owned();
    for (flags, code, text) in [
        (&["--table", "bare"][..], 1, format!("{database}.bare has no primary key, so a row of a file has no row")),
        (
            &["--table", "bar"],
            1,
            format!("there is no table {database}.bar, or this user may not see it; did you mean"),
        ),
        (&["--table", "a.b.c"], 2, "updater.table: \"a.b.c\" is no name of a table".to_owned()),
        (&["--table", "bare", "--generate", "5"], 2, "--generate makes products: leave updater.table out".to_owned()),
    ] {
        let ended = apply(&world, "a\n1\n", flags);
        assert!(ended.code == code && ended.err.contains(&text), "{text} in {}\n{}", ended.code, ended.err);
    }
    conn.query_drop("ALTER TABLE bare ADD PRIMARY KEY (a), ADD COLUMN op INT").await.unwrap();
    // The remedy; and a column of the name `op` is the table's.
    let ended = apply(&world, "op,a\n4,1\n", &["--table", "bare"]);
    assert_eq!(counts(&ended, "a.csv"), [1, 1, 0, 0, 0, 0, 0], "{}", ended.err);
    assert_eq!(rows(&mut conn, "SELECT op FROM bare").await, ["4"]);
}
