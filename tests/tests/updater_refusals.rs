//! product-updater: rows that the file format, the contract or the table refuses are put aside with file, line, column
//! and reason; nothing else is touched, and the rest is applied.

use std::fs;
use std::path::{Path, PathBuf};

use model::error::Code;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use testbed::{Ended, TestBed};

const HEADER: &str = "id,name,category,price,last_updated";
const AT: &str = "2027-01-01 00:00:00";

fn write(world: &TestBed, name: &str, text: &str) -> PathBuf {
    let data = world.folder.join("data");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join(name), format!("{HEADER}\n{text}")).unwrap();
    data
}

fn update(world: &TestBed, data: &Path, flags: &[&str]) -> Ended {
    let ended = world.run("product-updater", &[&["--no-pause", "--data", data.to_str().unwrap()], flags].concat());
    assert_eq!(ended.code, 0, "{}", ended.err);
    ended
}

/// Rows, inserted, updated, deleted, unchanged, skipped older, rejected of a file.
fn counts(ended: &Ended, name: &str) -> [u64; 7] {
    let line = ended.out.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("{name} in\n{}", ended.out));
    let numbers: Vec<u64> = line[name.len()..].split_whitespace().map(|n| n.parse().unwrap()).collect();
    numbers.try_into().unwrap()
}

fn rejects(world: &TestBed, stem: &str) -> String {
    fs::read_to_string(world.folder.join(format!("rejects/{stem}.rejects.csv"))).unwrap_or_default()
}

async fn names(conn: &mut Conn) -> Vec<(i64, String)> {
    conn.query("SELECT id, name FROM product ORDER BY id").await.unwrap()
}

fn named(rows: &[(i64, &str)]) -> Vec<(i64, String)> {
    rows.iter().map(|(id, name)| (*id, (*name).to_owned())).collect()
}

/// A world whose table has rows 1 to 9, each named `name ID`, and these further parts.
async fn world(test: &str, alter: &[&str]) -> (TestBed, Conn) {
    let world = TestBed::new(test);
    let mut conn = world.table().await;
    let rows = (1..=9).map(|n| format!("({n},'name {n}','C',{n},'2026-01-01')")).collect::<Vec<_>>().join(",");
    conn.query_drop(format!("INSERT INTO product VALUES {rows}")).await.unwrap();
    for statement in alter {
        conn.query_drop(*statement).await.unwrap_or_else(|e| panic!("{statement}: {e}"));
    }
    (world, conn)
}

#[tokio::test(flavor = "multi_thread")]
async fn another_unique_key_decides_nothing() {
    let (world, mut conn) = world("unique", &["ALTER TABLE product ADD UNIQUE uk (name)"]).await;
    let before: Vec<(i64, String, String)> =
        conn.query("SELECT id, name, CAST(price AS CHAR) FROM product ORDER BY id").await.unwrap();
    // The first two rows are one statement that inserts and updates.
    let data = write(&world, "a.csv", &format!("5,name 5,C,5.00,{AT}\n100,name 9,C,1.00,{AT}\n"));
    for want_counts in [[2, 0, 1, 0, 0, 0, 1], [2, 0, 0, 0, 1, 0, 1]] {
        let ended = update(&world, &data, &[]);
        assert_eq!(counts(&ended, "a.csv"), want_counts);
        let text = "a.csv, line 3: the table refuses the row: Duplicate entry 'name 9' for key 'product.uk'";
        assert!(ended.err.contains(text), "{text} in\n{}", ended.err);
        assert!(rejects(&world, "a").contains(&format!("100,name 9,C,1.00,{AT}")), "{}", rejects(&world, "a"));
    }
    let after: Vec<(i64, String, String)> =
        conn.query("SELECT id, name, CAST(price AS CHAR) FROM product ORDER BY id").await.unwrap();
    assert_eq!(before, after, "no other row is overwritten");
    // A present product that would take another's name.
    write(&world, "b.csv", &format!("101,mine,C,1.00,{AT}\n3,name 4,C,1.00,{AT}\n5,renamed,C,1.00,2027-01-02\n"));
    let ended = update(&world, &data, &[]);
    assert_eq!(counts(&ended, "b.csv"), [3, 1, 1, 0, 0, 0, 1]);
    assert!(ended.err.contains("b.csv, line 3: the table refuses the row: Duplicate entry 'name 4'"), "{}", ended.err);
    let mut want: Vec<(i64, String)> = (1..=9).map(|n| (n, format!("name {n}"))).collect();
    want[4].1 = "renamed".to_owned();
    want.push((101, "mine".to_owned()));
    assert_eq!(names(&mut conn).await, want);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_the_data_decides_who_has_a_unique_name() {
    let key = "ALTER TABLE product ADD UNIQUE both_parts ((LEFT(category, 9)), (LEFT(UPPER(name), 50)))";
    let (world, mut conn) = world("swap", &[key]).await;
    // 1 frees its name, 2 and 20 take it in turn; 3 and 4 would swap theirs, which no order of two updates can do.
    let rows = format!(
        "1,free,C,1.00,{AT}\n2,NAME 1,C,1.00,{AT}\n20,name 2,C,1.00,{AT}\n21,Name 2,C,1.00,{AT}\n\
         3,name 4,C,1.00,{AT}\n4,name 3,C,1.00,{AT}\n"
    );
    let data = write(&world, "a.csv", &rows);
    for chunk in ["1", "3", "100"] {
        let ended = update(&world, &data, &["--chunk-size", chunk]);
        assert_eq!((counts(&ended, "a.csv")[0], counts(&ended, "a.csv")[6]), (6, 3), "{}", ended.err);
        let got = names(&mut conn).await;
        let want = [(1, "free"), (2, "NAME 1"), (3, "name 3"), (4, "name 4"), (20, "name 2")];
        assert!(named(&want).iter().all(|row| got.contains(row)) && got.len() == 10, "{got:?}");
        conn.query_drop("DELETE FROM product WHERE id >= 20; UPDATE product SET last_updated = '2026-01-01', name = CONCAT('name ', id) ORDER BY id DESC").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn times_are_compared_as_the_column_stores_them() {
    for (column, first, second, stored) in [
        ("TIMESTAMP", "2027-01-01 00:00:00.600000", "2027-01-01 00:00:00.900000", "2027-01-01 00:00:01"),
        ("DATETIME(3)", "2026-12-31 23:59:59.999600", "2026-12-31 23:59:59.999900", "2027-01-01 00:00:00.000"),
        ("DATE", "2026-12-31 23:59:59.700000", "2027-01-01 11:00:00.000000", "2027-01-01"),
        ("TIMESTAMP(6)", "2027-01-01 00:00:00.000001", "2027-01-01 00:00:00.000002", "2027-01-01 00:00:00.000002"),
    ] {
        let modify = format!("ALTER TABLE product MODIFY last_updated {column} NULL");
        let (world, mut conn) = world("precision", &[&modify]).await;
        let data = write(&world, "1.csv", &format!("7,first,c,1.00,{first}\n"));
        assert_eq!(counts(&update(&world, &data, &[]), "1.csv"), [1, 0, 1, 0, 0, 0, 0]);
        write(&world, "2.csv", &format!("7,second,c,1.00,{second}\n"));
        assert_eq!(
            counts(&update(&world, &data, &[]), "2.csv"),
            [1, 0, 1, 0, 0, 0, 0],
            "{column}: it is the later one"
        );
        assert_eq!(
            counts(&update(&world, &data, &[]), "total")[1..4],
            [0, 0, 0],
            "{column}: a third run changes nothing"
        );
        let row: Option<(String, String)> =
            conn.query_first("SELECT name, CAST(last_updated AS CHAR) FROM product WHERE id = 7").await.unwrap();
        assert_eq!(row, Some(("second".to_owned(), stored.to_owned())), "{column}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_quotes_are_a_fault_of_their_row() {
    let (world, mut conn) = world("quotes", &[]).await;
    let rows = format!(
        "5,\"24\" monitor\",C,1.00,{AT}\n6,\"24\\\" monitor\",C,1.00,{AT}\n7,24\" monitor,C,1.00,{AT}\n\
         8,\"24\"\" monitor\",C,1.00,{AT}\n9, \"quoted\",C,1.00,{AT}\n"
    );
    let open = format!("1,one,C,1.00,{AT}\n2,two,C,1.00,\"{AT}\n3,three,C,1.00,{AT}\n4,four,C,1.00,{AT}");
    let data = write(&world, "a.csv", &rows);
    write(&world, "b.csv", &open);
    write(&world, "c.csv", &format!("9,\"c\0\",C,1.00,{AT}\n4,\"tab\tand\nline\",C,1.00,{AT}"));
    let ended = update(&world, &data, &[]);
    assert_eq!(counts(&ended, "a.csv"), [5, 0, 1, 0, 0, 0, 4]);
    assert_eq!(counts(&ended, "b.csv"), [2, 0, 1, 0, 0, 0, 1]);
    assert_eq!(counts(&ended, "c.csv"), [2, 0, 1, 0, 0, 0, 1]);
    for text in [
        "a.csv, line 2, column name: after the closing quote comes ' ', not a comma or the end of the row: double a quote",
        "a.csv, line 3, column name: after the closing quote comes ' '",
        "a.csv, line 4, column name: a quote within a field that does not begin with one: put the field in quotes",
        "a.csv, line 6, column name: a quote within a field that does not begin with one",
        "b.csv, line 3, column last_updated: the quote that opens the field is never closed; the quote in line 3 makes lines 3 to \
         5 one row: is a quote missing?",
        "c.csv, line 2, column name: byte 2 of the field is the character NUL",
    ] {
        assert!(ended.err.contains(text), "{text} in\n{}", ended.err);
    }
    assert!(
        rejects(&world, "a").contains("5,\"\"24\"\" monitor\"\",C"),
        "the bytes as they were: {}",
        rejects(&world, "a")
    );
    assert!(rejects(&world, "b").contains("4,four,C"), "what the quote swallowed is there: {}", rejects(&world, "b"));
    let got = names(&mut conn).await;
    let want = [
        (1, "one"),
        (2, "name 2"),
        (3, "name 3"),
        (4, "tab\tand\nline"),
        (5, "name 5"),
        (6, "name 6"),
        (7, "name 7"),
        (8, "24\" monitor"),
        (9, "name 9"),
    ];
    assert_eq!(got, named(&want));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_beyond_the_limit_is_refused_without_being_held() {
    let mut world = TestBed::new("long_row");
    world.set("UPDATER_ROW_BYTES", "1000");
    drop(world.table().await);
    let data = write(
        &world,
        "a.csv",
        &format!("1,a,C,1.00,{AT}\n2,\"{}\n3,c,C,1.00,{AT}\n\",C,1.00,{AT}\n4,d,C,1.00,{AT}\n", "x".repeat(100_000)),
    );
    let ended = update(&world, &data, &[]);
    assert_eq!(counts(&ended, "a.csv"), [3, 2, 0, 0, 0, 0, 1]);
    assert!(ended.err.contains("a.csv, line 3: the row has more than 1000 bytes (updater.row_bytes); the quote in line 3 makes lines 3 to 5 one row"), "{}", ended.err);
    assert!(rejects(&world, "a").len() < 3000);
}

/// One row that the table refuses in the middle of a thousand, and a file behind it.
async fn refused_among_a_thousand(test: &str, alter: &[&str], bad: &str, message: &str) {
    let (world, mut conn) = world(test, alter).await;
    let mut rows: Vec<String> = (1000..2000).map(|n| format!("{n},n{n},C,1.00,{AT}")).collect();
    bad.clone_into(&mut rows[495]);
    let data = write(&world, "a.csv", &(rows.join("\n") + "\n"));
    write(&world, "b.csv", &format!("3000,last,C,1.00,{AT}\n"));
    let ended = update(&world, &data, &["--chunk-size", "300"]);
    assert_eq!(counts(&ended, "a.csv"), [1000, 999, 0, 0, 0, 0, 1], "{}", ended.err);
    assert_eq!(counts(&ended, "b.csv")[1], 1);
    assert!(ended.err.contains(&format!("a.csv, line 497{message}")), "{message} in\n{}", ended.err);
    assert!(rejects(&world, "a").contains("\n497,"), "{}", rejects(&world, "a"));
    let count: Option<u64> = conn.query_first("SELECT COUNT(*) FROM product WHERE id >= 1000").await.unwrap();
    assert_eq!(count, Some(1000));
    let again = update(&world, &data, &["--chunk-size", "7"]);
    assert_eq!(counts(&again, "a.csv"), [1000, 0, 0, 0, 999, 0, 1]);
    // Strict, the chunk with the row is undone and named.
    conn.query_drop("DELETE FROM product WHERE id >= 1000").await.unwrap();
    let flags = ["--no-pause", "--strict", "--chunk-size", "300", "--data", data.to_str().unwrap()];
    let strict = world.run("product-updater", &flags);
    strict.assert_error(Code::CsvRefused, &[&format!("a.csv, line 497{message}"), "or leave --strict out"]);
    let count: Option<u64> = conn.query_first("SELECT COUNT(*) FROM product WHERE id >= 1000").await.unwrap();
    assert_eq!(count, Some(300), "the chunk before it stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_table_refuses_is_named_and_the_rest_applied() {
    let at = AT;
    for (test, alter, bad, message) in [
        (
            "enumeration",
            &["ALTER TABLE product MODIFY category ENUM('C','D')"][..],
            format!("1495,n,E,1.00,{at}"),
            ", column category: the table refuses the row: Data truncated for column 'category' (MySQL error 1265)",
        ),
        (
            "checked",
            &["ALTER TABLE product ADD CONSTRAINT cheap CHECK (price < 50)"],
            format!("1495,n,C,51.00,{at}"),
            ": the table refuses the row: Check constraint 'cheap' is violated. (MySQL error 3819)",
        ),
        (
            "short_text",
            &["ALTER TABLE product MODIFY name VARCHAR(6)"],
            format!("1495,seventy,C,1.00,{at}"),
            ", column name: the table refuses the row: Data too long for column 'name' (MySQL error 1406)",
        ),
        (
            "latin",
            &["ALTER TABLE product MODIFY name VARCHAR(300) CHARACTER SET latin1"],
            format!("1495,☃,C,1.00,{at}"),
            ": the table refuses the row: Conversion from collation ",
        ),
        (
            "narrow",
            &["ALTER TABLE product MODIFY price DECIMAL(4,2)"],
            format!("1495,n,C,100.00,{at}"),
            ", column price: the table refuses the row: Out of range value for column 'price' (MySQL error 1264)",
        ),
        (
            "signal",
            &[
                "CREATE TRIGGER guard BEFORE INSERT ON product FOR EACH ROW BEGIN IF NEW.name = 'no' THEN SIGNAL SQLSTATE 'AB001' SET MESSAGE_TEXT = 'not this one'; END IF; END",
            ],
            format!("1495,no,C,1.00,{at}"),
            ": the table refuses the row: not this one (MySQL error 1644)",
        ),
        (
            "foreign",
            &[
                "CREATE TABLE kind (name VARCHAR(300) PRIMARY KEY) SELECT 'C' AS name",
                "ALTER TABLE product MODIFY category VARCHAR(300), ADD FOREIGN KEY (category) REFERENCES kind (name)",
            ],
            format!("1495,n,D,1.00,{at}"),
            ": the table refuses the row: Cannot add or update a child row: a foreign key constraint fails",
        ),
        (
            "partitioned",
            &["ALTER TABLE product PARTITION BY RANGE (id) (PARTITION p VALUES LESS THAN (5000))"],
            format!("5001,n,C,1.00,{at}"),
            ": the table refuses the row: Table has no partition for value 5001 (MySQL error 1526)",
        ),
    ] {
        refused_among_a_thousand(test, alter, &bad, message).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_change_leaves_the_ones_around_it_what_they_are() {
    let (world, mut conn) = world("around", &["ALTER TABLE product ADD CONSTRAINT cheap CHECK (price < 50)"]).await;
    let rows = "1,a,C,1.00,2027-01-01,upsert\n1,b,C,99.00,2027-01-02,upsert\n1,c,C,3.00,2027-01-03,upsert\n\
                30,a,C,99.00,2027-01-01,upsert\n30,b,C,3.00,2027-01-02,upsert\n31,a,C,99.00,2027-01-01,upsert\n\
                31,,,,2027-01-02,delete\n2,,,,2027-01-01,delete\n2,back,C,99.00,2027-01-02,upsert\n";
    let data = world.folder.join("data");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("a.csv"), format!("{HEADER},op\n{rows}")).unwrap();
    for chunk in ["100", "2"] {
        let ended = update(&world, &data, &["--chunk-size", chunk]);
        // Product 30 is inserted by its second row, 31 has nothing to delete, 2 stays deleted.
        assert_eq!(counts(&ended, "a.csv"), [9, 1, 2, 1, 1, 0, 4], "{}", ended.err);
        let got = names(&mut conn).await;
        assert_eq!(got[0], (1, "c".to_owned()));
        assert_eq!(got.last(), Some(&(30, "b".to_owned())));
        assert!(got.iter().all(|(id, _)| ![2, 31].contains(id)), "{got:?}");
        conn.query_drop("DELETE FROM product WHERE id IN (1, 30); DROP TABLE product_deleted; INSERT INTO product VALUES (1,'name 1','C',1,'2026-01-01'),(2,'name 2','C',1,'2026-01-01')").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_rows_fault_stops_it() {
    let (world, mut conn) = world("not_a_row", &[]).await;
    let data = write(&world, "a.csv", &format!("1,n,C,1.00,{AT}\n"));
    conn.query_drop("CREATE TABLE audit (id INT)").await.unwrap();
    conn.query_drop("CREATE TRIGGER note AFTER UPDATE ON product FOR EACH ROW INSERT INTO audit VALUES (NEW.id)")
        .await
        .unwrap();
    conn.query_drop("DROP TABLE audit").await.unwrap();
    let ended = world.run("product-updater", &["--no-pause", "--data", data.to_str().unwrap()]);
    ended.assert_error(Code::TableMissing, &["a.csv: cannot write to ", "audit' doesn't exist"]);
    assert_eq!(rejects(&world, "a"), "", "no row is to blame");
}

/// Whoever may put names into the data folder does not choose which of the machine's files is read, or keeps the
/// updater waiting.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_regular_file_is_rejected_unread() {
    let (world, mut conn) = world("links", &[]).await;
    let data = write(&world, "z.csv", &format!("9,new,C,1.00,{AT}\n"));
    let other = world.folder.join("other.csv");
    fs::write(&other, format!("{HEADER}\n8,hunter2,C,1.00,{AT}\n")).unwrap();
    for (name, target) in [("a.csv", Path::new("/proc/self/environ")), ("b.csv", &other), ("c.csv", Path::new("/gone"))]
    {
        std::os::unix::fs::symlink(target, data.join(name)).unwrap();
    }
    assert!(std::process::Command::new("mkfifo").arg(data.join("d.csv")).status().unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(data.join("e.csv")).unwrap();
    let ended = update(&world, &data, &[]);
    for (file, reason) in [
        ("a.csv", "symbolic link"),
        ("b.csv", "symbolic link"),
        ("c.csv", "symbolic link"),
        ("d.csv", "no regular file"),
        ("e.csv", "no regular file"),
    ] {
        let line = ended.err.lines().find(|line| line.contains(file)).unwrap_or_default();
        assert!(line.contains(reason), "{file}, {reason}:\n{}", ended.err);
    }
    for secret in ["hunter2", "DB_PASSWORD", "db_password"] {
        let shown = format!("{}{}{}{}", ended.err, ended.out, rejects(&world, "a"), rejects(&world, "b"));
        assert!(!shown.contains(secret), "{secret} in\n{shown}");
    }
    assert!(names(&mut conn).await.ends_with(&named(&[(8, "name 8"), (9, "new")])));
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(world.folder.join("rejects/a.rejects.csv")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o007, 0, "{mode:o}");
}
