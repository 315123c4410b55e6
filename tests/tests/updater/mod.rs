//! product-updater on a real server: the shipped data, each fault of a CSV file by its text, running again, random
//! changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::error::Code;
use mysql_async::prelude::Queryable;
use testbed::{Ended, TestBed};

mod any_table;
mod at_work;
mod doctor;

const HEADER: &str = "id,name,category,price,last_updated";

type Product = (i64, String, String, String, String);

fn write_data(world: &TestBed, files: &[(&str, &[u8])]) -> PathBuf {
    let data = world.folder.join("data");
    fs::create_dir_all(&data).unwrap();
    files.iter().for_each(|(name, bytes)| fs::write(data.join(name), bytes).unwrap());
    data
}

fn update(world: &TestBed, data: &Path, flags: &[&str]) -> Ended {
    world.run("product-updater", &[&["--no-pause", "--data", data.to_str().unwrap()], flags].concat())
}

/// The counts behind a name in the closing table: rows, inserted, updated, deleted, unchanged, skipped older, rejected.
fn counts(ended: &Ended, name: &str) -> [u64; 7] {
    let line = ended
        .out
        .lines()
        .find(|l| l.starts_with(name))
        .unwrap_or_else(|| panic!("{name} in\n{}\n{}", ended.out, ended.err));
    let numbers: Vec<u64> = line[name.len()..].split_whitespace().map(|n| n.parse().unwrap()).collect();
    numbers.try_into().unwrap()
}

async fn products(world: &TestBed) -> Vec<Product> {
    let query = "SELECT id, name, category, CAST(price AS CHAR), CAST(last_updated AS CHAR) FROM product ORDER BY id";
    world.mysql().await.query(query).await.unwrap()
}

fn product(id: i64, name: &str, category: &str, price: &str, at: &str) -> Product {
    (id, name.to_owned(), category.to_owned(), price.to_owned(), at.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_data_is_fifty_changes_and_a_second_run_is_none() {
    let world = TestBed::new("shipped");
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data");
    let first = update(&world, &data, &[]);
    assert_eq!(first.code, 0, "{}", first.err);
    assert_eq!(counts(&first, "total"), [50, 31, 17, 2, 0, 0, 0]);
    let table = products(&world).await;
    assert_eq!(table.len(), 29);
    for want in [
        product(3, "Serving plate \"Lagoon\"", "cat_1", "18.25", "2026-11-02 08:00:02.000000"),
        product(8, "Wool blanket", "Uncategorized", "84.90", "2026-11-20 16:45:09.500000"),
        product(9, "Notebook A5", "cat_5", "11.99", "2026-11-16 05:00:00.000000"),
        product(21, "Rubber duck 🦆", "cat_7", "5.49", "2026-11-16 05:00:10.000000"),
        product(22, "Two-line label\nfor the shelf", "cat_5", "1.11", "2026-11-09 07:30:00.000006"),
        product(23, "Voucher", "cat_6", "10.00", "2026-11-20 16:45:06.500000"),
        product(24, "Deposit returned", "cat_5", "-0.25", "2026-11-09 07:30:00.000008"),
    ] {
        assert!(table.contains(&want), "{want:?} in {table:#?}");
    }
    assert!(table.iter().all(|p| p.0 != 14), "14 is deleted");

    let second = update(&world, &data, &[]);
    assert_eq!(counts(&second, "total"), [50, 0, 0, 0, 30, 20, 0]);
    assert_eq!(products(&world).await, table);
    // Another chunk size meets rows of one product in one chunk, and must not matter.
    for chunk in ["1", "1000"] {
        let mut other = TestBed::new("shipped");
        other.set("UPDATER_CHUNK_SIZE", chunk);
        assert_eq!(counts(&update(&other, &data, &[]), "total"), [50, 31, 17, 2, 0, 0, 0]);
        assert_eq!(products(&other).await, table);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_row_is_reported_and_put_aside_and_the_rest_goes_on() {
    let world = TestBed::new("bad_rows");
    let long_name = "ä".repeat(301);
    let long_category = "x".repeat(501);
    let at = "2026-01-01T00:00:00Z";
    let rows: &[(Vec<u8>, &str)] = &[
        (format!("1,{},c,1.00,{at}", "ä".repeat(300)).into(), ""),
        (format!("2,n,{},1.00,{at}", "x".repeat(500)).into(), ""),
        (
            format!("one,n,c,1.00,{at}").into(),
            "column id: \"one\" is not a whole number from -2147483648 to 2147483647",
        ),
        (format!("2147483648,n,c,1.00,{at}").into(), "column id: \"2147483648\" is not a whole number"),
        (format!(",n,c,1.00,{at}").into(), "column id: \"\" is not a whole number"),
        (format!("3,{long_name},c,1.00,{at}").into(), "column name: 301 characters; at most 300 fit"),
        (format!("3,n,{long_category},1.00,{at}").into(), "column category: 501 characters; at most 500 fit"),
        (format!("3,n,c,cheap,{at}").into(), "column price: \"cheap\" is not a decimal number such as 12.30"),
        (format!("3,n,c,,{at}").into(), "column price: \"\" is not a decimal number such as 12.30"),
        (format!("3,n,c,1e3,{at}").into(), "column price: \"1e3\" is not a decimal number such as 12.30"),
        (
            format!("3,n,c,1.005,{at}").into(),
            "column price: 1.005 has 3 decimals; DECIMAL(10,2) holds 2, and nothing is rounded",
        ),
        (
            format!("3,n,c,100000000,{at}").into(),
            "column price: 100000000 is out of range: DECIMAL(10,2) ends at 99999999.99",
        ),
        (b"3,n,c,1.00,yesterday".into(), "column last_updated: \"yesterday\" is not a time such as"),
        (
            b"3,n,c,1.00,2026-02-30T00:00:00Z".into(),
            "column last_updated: \"2026-02-30T00:00:00Z\" is not a time such as",
        ),
        (
            b"3,n,c,1.00,2026-01-01T00:00:00.1234567Z".into(),
            "column last_updated: \"2026-01-01T00:00:00.1234567Z\" is not a time such as",
        ),
        (
            b"3,n,c,1.00,2040-01-01T00:00:00Z".into(),
            "column last_updated: 2040-01-01T00:00:00.000000Z is out of range: TIMESTAMP holds 1970-01-01T00:00:01.000000Z to 2038-01-19T03:14:07.499999Z",
        ),
        (b"3,n,c,1.00,1970-01-01T00:00:00Z".into(), "column last_updated: 1970-01-01T00:00:00.000000Z is out of range"),
        (format!("3,n,c,1.00,{at},merge").into(), "the row has 6 columns, the header has 5"),
        (b"3,n,c".into(), "the row has 3 columns, the header has 5"),
        ([b"3,caf\xe9,c,1.00,", at.as_bytes()].concat(), "column name: byte 4 of the field is not UTF-8"),
        (format!(" 4 ,n,, 1.50 , {at} ").into(), ""),
        (format!("5,\"a\nb\",c,1.500,{at}").into(), ""),
        (format!("3,n,c,x,{at}").into(), "column price: \"x\" is not"),
        (b"6,n,c,99999999.99,2038-01-19 03:14:07.499999".into(), ""),
        (
            b"3,\"open,c,1.00,2026\n1,2\n".into(),
            "column name: the quote that opens the field is never closed; the quote in line 28 makes lines 28 to 30 one row: is a quote missing?",
        ),
    ];
    let mut file = format!("\n{HEADER}\n").into_bytes();
    let mut want = Vec::new();
    for (row, reason) in rows {
        let line = file.iter().filter(|b| **b == b'\n').count() + 1;
        file.extend_from_slice(row);
        file.push(b'\n');
        if !reason.is_empty() {
            let column = if reason.starts_with("column") { ", " } else { ": " };
            want.push((line, format!("shop.csv, line {line}{column}{reason}"), row));
        }
    }
    let data = write_data(&world, &[("shop.csv", &file)]);
    let ended = update(&world, &data, &[]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(counts(&ended, "shop.csv"), [25, 5, 0, 0, 0, 0, 20]);
    let rejects = fs::read(world.folder.join("rejects/shop.rejects.csv")).unwrap();
    let text = String::from_utf8_lossy(&rejects);
    assert!(text.starts_with("line,column,reason,row\n"), "{text}");
    for (line, message, row) in &want {
        assert!(ended.err.contains(message), "{message} in\n{}", ended.err);
        assert!(text.contains(&format!("\n{line},")), "{line} in\n{text}");
        let bytes = row.split(|b| b"\"\n".contains(b)).next().unwrap();
        assert!(rejects.windows(bytes.len()).any(|w| w == bytes), "the row itself, byte by byte");
    }
    let table = products(&world).await;
    assert_eq!(table.iter().map(|p| p.0).collect::<Vec<_>>(), [1, 2, 4, 5, 6]);
    assert_eq!(table[2], product(4, "n", "Uncategorized", "1.50", "2026-01-01 00:00:00.000000"));

    // Corrected, its rejects are gone.
    write_data(&world, &[("shop.csv", format!("{HEADER}\n3,n,c,1.00,{at}\n").as_bytes())]);
    assert_eq!(counts(&update(&world, &data, &[]), "shop.csv"), [1, 1, 0, 0, 0, 0, 0]);
    assert!(!world.folder.join("rejects/shop.rejects.csv").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_cant_be_used_is_named_and_other_files_go_on() {
    let world = TestBed::new("headers");
    let good = format!("{HEADER}\n7,n,c,1.00,2026-01-01T00:00:00Z\n");
    let cases: &[(&[u8], &str)] = &[
        (b"", "line 1: the file is empty; its first line must be id,name,category,price,last_updated"),
        (b"\r\n\r\n", "line 1: the file is empty"),
        (
            b"id,name,category,last_updated\n",
            "line 1, column price: the column is missing; the header must be id,name,category,price,last_updated",
        ),
        (b"id,name,category,price,price,last_updated\n", "line 1, column price: the column stands twice in the header"),
        (
            b"id,name,category,price,last_updated,colour\n",
            "line 1: \"colour\" is no known column; known are id, name, category, price, last_updated, op",
        ),
        (
            b"id;name;category;price;last_updated\n1;a;b;1;2026-01-01\n",
            "line 1: columns are separated by ';'; use commas",
        ),
        (b"\xff\xfei\0d\0", "line 1: the file is UTF-16; save it as UTF-8"),
        (b"1,n,c,1.00,2026-01-01T00:00:00Z\n", "line 1: \"1\" is no known column"),
    ];
    for (header, reason) in cases {
        let data = write_data(&world, &[("a.csv", header), ("b.csv", good.as_bytes())]);
        let ended = update(&world, &data, &[]);
        assert_eq!(ended.code, 0, "{}", ended.err);
        assert!(ended.err.contains(&format!("data/a.csv, {reason}")), "{reason} in\n{}", ended.err);
        assert_eq!(counts(&ended, "a.csv"), [1, 0, 0, 0, 0, 0, 1]);
        assert_eq!(counts(&ended, "b.csv")[0], 1);
        let strict = update(&world, &data, &["--strict"]);
        strict.assert_error(Code::CsvRefused, &["what to do: correct it and run again, or leave --strict out"]);
    }
    // A header alone is fine: there is nothing to do.
    let data = write_data(
        &world,
        &[
            ("a.csv", format!("{HEADER}\n").as_bytes()),
            ("b.csv", b"\xef\xbb\xbfID, Name ,CATEGORY,price,last_updated\r\n8,n,c,1.00,2026-01-01\r\n"),
        ],
    );
    let ended = update(&world, &data, &["--strict"]);
    assert_eq!((ended.code, counts(&ended, "a.csv"), counts(&ended, "b.csv")), (0, [0; 7], [1, 1, 0, 0, 0, 0, 0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_stops_at_the_first_bad_row() {
    let world = TestBed::new("strict");
    let text = format!("{HEADER}\n1,n,c,1.00,2026-01-01\n2,n,c,x,2026-01-01\n3,n,c,1.00,2026-01-01\n");
    let data = write_data(&world, &[("a.csv", text.as_bytes())]);
    let ended = update(&world, &data, &["--strict", "--chunk-size", "1"]);
    assert_eq!(ended.code, 1);
    let want = "a.csv, line 3, column price: \"x\" is not a decimal number such as 12.30\n  what to do: correct it and run again, \
                or leave --strict out to put such rows aside";
    assert!(ended.err.contains(want), "{}", ended.err);
    assert_eq!(products(&world).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_products_stay_deleted() {
    let world = TestBed::new("deleted");
    let first = b"op,id,name,category,price,last_updated\n\
        upsert,1,a,c,1.00,2026-01-01\nUPSERT,2,a,c,1.00,2026-01-01\n,3,a,c,1.00,2026-01-01\n\
        delete,1,,,,2026-01-02\nDelete,2,,,,2026-01-02\nupsert,2,b,c,2.00,2026-01-03\ndelete,9,,,,2026-01-02\n\
        remove,3,,,,2026-01-02\n";
    let data = write_data(&world, &[("a.csv", first)]);
    let ended = update(&world, &data, &[]);
    assert_eq!(counts(&ended, "a.csv"), [8, 4, 0, 2, 1, 0, 1]);
    assert!(ended.err.contains("a.csv, line 9, column op: \"remove\" is neither upsert nor delete"), "{}", ended.err);
    let want = [
        product(2, "b", "c", "2.00", "2026-01-03 00:00:00.000000"),
        product(3, "a", "c", "1.00", "2026-01-01 00:00:00.000000"),
    ];
    assert_eq!(products(&world).await, want);
    for chunk in ["1", "3", "100"] {
        let again = update(&world, &data, &["--chunk-size", chunk]);
        assert_eq!(counts(&again, "a.csv")[1..4], [0, 0, 0], "{}", again.out);
        assert_eq!(products(&world).await, want);
    }
    // Older than its deletion, in a later file: it stays away. Newer: it is back.
    let later = format!(
        "{HEADER}\n1,late,c,1.00,2026-01-01 23:00:00\n9,late,c,1.00,2026-01-01 23:00:00\n1,new,c,1.00,2026-01-02 00:00:00.000001\n"
    );
    write_data(&world, &[("b.csv", later.as_bytes())]);
    assert_eq!(counts(&update(&world, &data, &[]), "b.csv"), [3, 1, 0, 0, 0, 2, 0]);
    assert_eq!(products(&world).await[0], product(1, "new", "c", "1.00", "2026-01-02 00:00:00.000001"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_the_same_time_the_last_one_wins_each_time() {
    let world = TestBed::new("ties");
    let rows = "1,a,c,1.00,2026-01-01\n1,b,c,1.00,2026-01-01\n1,c,c,1.00,2026-01-01\n";
    let data = write_data(
        &world,
        &[
            ("a.csv", format!("{HEADER}\n{rows}").as_bytes()),
            ("b.csv", format!("{HEADER}\n1,d,c,1.00,2026-01-01\n").as_bytes()),
        ],
    );
    assert_eq!(counts(&update(&world, &data, &[]), "total"), [4, 1, 3, 0, 0, 0, 0]);
    assert_eq!(counts(&update(&world, &data, &["--chunk-size", "1"]), "total"), [4, 0, 0, 0, 1, 3, 0]);
    assert_eq!(products(&world).await[0].1, "d");
}

#[tokio::test(flavor = "multi_thread")]
async fn random_changes_are_real_ones_and_can_be_repeated() {
    let mut names = Vec::new();
    for _ in 0..2 {
        let world = TestBed::new("generate");
        let ended = world.run("product-updater", &["--generate", "20000", "--seed", "7", "--deletes", "20"]);
        assert_eq!(ended.code, 0, "{}", ended.err);
        let [rows, inserted, updated, deleted, unchanged, older, _] = counts(&ended, "random changes");
        assert_eq!((rows, inserted + updated + deleted, unchanged + older), (20_000, 20_000, 0));
        assert!((3700..4300).contains(&deleted) && (9700..10_300).contains(&updated), "{}", ended.out);
        let table = products(&world).await;
        assert_eq!(table.len() as u64, inserted - deleted);
        names.push(table.into_iter().map(|p| (p.0, p.1, p.3)).collect::<Vec<_>>());
        // It continues with the present files.
        let more = world.run("product-updater", &["--generate", "1000", "--seed", "7"]);
        assert_eq!(counts(&more, "random changes")[4..], [0, 0, 0], "{}", more.out);
    }
    assert_eq!(names[0], names[1]);
    let world = TestBed::new("generate");
    let wrong = world.run("product-updater", &["--generate", "1", "--updates", "60", "--deletes", "60"]);
    assert_eq!(wrong.code, 2);
    assert!(
        wrong.err.contains("error[command-line]: --updates 60 and --deletes 60 are more than 100 percent"),
        "{}",
        wrong.err
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rate_is_kept() {
    let world = TestBed::new("rate");
    let started = std::time::Instant::now();
    let ended = world.run("product-updater", &["--generate", "300", "--rate", "200"]);
    assert_eq!(counts(&ended, "random changes")[0], 300, "{}", ended.err);
    assert!(started.elapsed() >= Duration::from_millis(1500), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_the_users_own_is_kept_as_it_is() {
    let world = TestBed::new("own_table");
    let mut conn = world.mysql().await;
    conn.query_drop("CREATE TABLE product (note TEXT, Last_Updated DATETIME(6) NULL, price DECIMAL(8,2), category TEXT, name TEXT, ID BIGINT PRIMARY KEY)").await.unwrap();
    conn.query_drop("INSERT INTO product (ID, note) VALUES (1, 'mine'), (5000000000, 'far')").await.unwrap();
    let data = write_data(
        &world,
        &[("a.csv", format!("{HEADER}\n1,n,c,1.00,2026-01-01\n2,n,c,1.00,2026-01-01\n").as_bytes())],
    );
    assert_eq!(counts(&update(&world, &data, &[]), "a.csv"), [2, 1, 1, 0, 0, 0, 0]);
    let notes: Vec<(i64, Option<String>, Option<String>)> =
        conn.query("SELECT ID, note, name FROM product ORDER BY ID").await.unwrap();
    let text = |t: &str| Some(t.to_owned());
    assert_eq!(notes, [(1, text("mine"), text("n")), (2, None, text("n")), (5_000_000_000, text("far"), None)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stops_it_is_named_with_a_way_out() {
    let world = TestBed::new("stops");
    let data = write_data(&world, &[("a.csv", format!("{HEADER}\n1,n,c,x,2026-01-01\n").as_bytes())]);
    let data = data.to_str().unwrap();
    fs::write(world.folder.join("file"), "").unwrap();
    let cases: [(&[&str], i32, &str); 6] = [
        (&["--db-name", "not_ours"], 1, "  what to do: grant CREATE to the user of DB_USER, or create it yourself"),
        (
            &["--data", "/nowhere"],
            1,
            "error[file-access]: cannot read the data folder /nowhere: No such file or directory (os error 2)\n  what to do: name the folder of the CSV files with --data (updater.data)",
        ),
        (
            &["--data", data, "--rejects", "file/x"],
            1,
            "error[file-access]: cannot write the rejected rows to file/x/a.rejects.csv: Not a directory (os error 20)\n  what to do: name a folder that this user may write to with --rejects (updater.rejects)",
        ),
        (
            &["--db-password", "wrong"],
            1,
            "  what to do: check DB_USER and DB_PASSWORD, and that the user may connect from this host",
        ),
        (&["--db-port", "1"], 75, "error[server-unreachable]: cannot connect to MySQL at 127.0.0.1:1 as "),
        (
            &["--chunk-size", "0"],
            2,
            "error[setting]: updater.chunk_size: \"0\" is not a whole number from 1 to 100000 (flag --chunk-size)",
        ),
    ];
    for (flags, code, text) in cases {
        let ended = world.run("product-updater", &[&["--no-pause"], flags].concat());
        assert_eq!(ended.code, code, "{flags:?}: {}", ended.err);
        assert!(ended.err.contains(text), "{flags:?}: {text} in\n{}", ended.err);
        assert!(!ended.err.contains("updater-password"), "{}", ended.err);
    }
    let shown = world.run("product-updater", &["--check-config"]);
    let line = |key: &str| {
        shown.out.lines().find(|l| l.starts_with(key)).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!((shown.code, line("DB_PASSWORD")), (0, "DB_PASSWORD *** environment DB_PASSWORD".to_owned()));
    assert_eq!(line("updater.pause"), "updater.pause 1s..10s default");
}
