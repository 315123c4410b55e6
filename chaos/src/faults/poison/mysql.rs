//! Users of MySQL with few rights.

use anyhow::{Context, Result, ensure};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use rand::Rng;
use rand::seq::SliceRandom;
use rdkafka::Message;

use super::super::compressed::check_memory;
use super::super::fault::Fault;
use super::letters::withstands;
use crate::harness::Harness;
use crate::load::connect_as;

pub(in crate::faults) const FAULTS: &[Fault] = &[
    Fault {
        name: "poison-statement",
        expects: "a user with rights on another database alone sends statements whose comments, texts and names read like a \
                  RENAME or DROP of the table under some sql_mode or character set: the producer passes over them",
        weight: 2,
        quick: false,
        run: poison_statement,
    },
    Fault {
        name: "poison-xa",
        expects: "XA transactions of another database, prepared before a start of the producer and ended after it, stop \
                  nothing; of those on the table, what is rolled back never arrives, and what is committed does once",
        weight: 2,
        quick: false,
        run: poison_xa,
    },
    Fault {
        name: "poison-row",
        expects: "a user who may write rows stores zero dates, beside good rows: each change is parked once and counted, verify \
                  calls these rows not carried, and everything else arrives; corrected, they arrive too",
        weight: 2,
        quick: false,
        run: poison_row,
    },
    Fault {
        name: "poison-compressed",
        expects: "a compressed transaction of 256 MB in another database takes no memory of the producer",
        weight: 1,
        quick: false,
        run: poison_compressed,
    },
];

/// Name and password of a user with all rights on a database beside ours, and no others.
const GUEST: (&str, &str) = ("guest", "guest-password");
/// Name and password of a user who may read and write the rows of our table.
const CLERK: (&str, &str) = ("clerk", "clerk-password");

/// The guest's database.
fn beside(harness: &Harness) -> String {
    format!("{}_guest", harness.bed.name)
}

/// A connection of the guest to the database beside ours, which has an empty table `t`.
fn guest(harness: &Harness) -> Result<Conn> {
    let database = beside(harness);
    let place = format!("`{}`.*", database.replace('_', r"\_"));
    let mut conn = login(harness, GUEST, &format!("ALL ON {place}"), &database)?;
    run(
        harness,
        &mut conn,
        &["DROP TABLE IF EXISTS t", "CREATE TABLE t (id INT PRIMARY KEY AUTO_INCREMENT, a LONGTEXT)"],
    )?;
    Ok(conn)
}

/// A connection of the clerk to our database.
fn clerk(harness: &Harness) -> Result<Conn> {
    let rights = format!("SELECT, INSERT, UPDATE, DELETE ON `{}`.product", harness.bed.name);
    login(harness, CLERK, &rights, &harness.bed.name)
}

/// Creates a user with only these rights, and connects as that user.
fn login(harness: &Harness, user: (&str, &str), rights: &str, database: &str) -> Result<Conn> {
    let (name, password) = user;
    harness.commit_direct(&[
        format!("CREATE DATABASE IF NOT EXISTS `{database}`"),
        format!("CREATE USER IF NOT EXISTS '{name}'@'%' IDENTIFIED BY '{password}'"),
        format!("GRANT {rights} TO '{name}'@'%'"),
    ])?;
    harness.block_on(connect_as(user, harness.servers.mysql.port, Some(database)))
}

/// Runs statements; each character stands for the byte of its number, from 0 to 255.
fn run<S: AsRef<str>>(harness: &Harness, conn: &mut Conn, statements: &[S]) -> Result<()> {
    for statement in statements.iter().map(AsRef::as_ref) {
        let bytes: Vec<u8> = statement.chars().map(|c| u8::try_from(c).unwrap_or(b'?')).collect();
        let done = harness.block_on(conn.query_drop(bytes));
        done.with_context(|| statement.chars().take(200).collect::<String>())?;
    }
    Ok(())
}

/// Statements of a user without rights on the table `DB.product`, each list in a session with defaults. If the producer
/// misread them, one of each list would rename, change or drop the table.
const STATEMENTS: [&[&str]; 18] = [
    &[
        "SET sql_mode = 'NO_BACKSLASH_ESCAPES'",
        r"ALTER TABLE t COMMENT '\', COMMENT ', RENAME TO DB.product, COMMENT '",
    ],
    &[
        "SET sql_mode = 'NO_BACKSLASH_ESCAPES'",
        r"CREATE TABLE n (a INT COMMENT '\', b INT COMMENT '); DROP TABLE DB.product; ')",
        "DROP TABLE n",
    ],
    &[
        "SET sql_mode = 'ANSI_QUOTES'",
        r#"ALTER TABLE t ADD COLUMN "\" INT, ADD COLUMN ", RENAME TO DB.product, x" INT"#,
        r#"ALTER TABLE t DROP COLUMN "\", DROP COLUMN ", RENAME TO DB.product, x""#,
    ],
    &["SET sql_mode = 'ANSI_QUOTES'", r#"ALTER TABLE t COMMENT 'a"', COMMENT ', RENAME TO DB.product, COMMENT "b'"#],
    &[r"ALTER TABLE t COMMENT 'it\'s, RENAME TO DB.product, COMMENT \''"],
    &["ALTER TABLE t COMMENT 'it''s', COMMENT \"\"\", RENAME TO DB.product, COMMENT \"\"\""],
    &["ALTER TABLE t /* ', RENAME TO DB.product, ' */ COMMENT 'a' -- ', RENAME TO DB.product"],
    &["ALTER TABLE t COMMENT 'a' # ', RENAME TO DB.product\n, COMMENT 'b'"],
    &["ALTER TABLE t COMMENT 'a' /*!99999 , RENAME TO DB.product */"],
    // The second byte of a character is a backslash.
    &["SET NAMES gbk", "ALTER TABLE t COMMENT '\u{bf}\\', COMMENT ', RENAME TO DB.product, COMMENT '"],
    &["SET NAMES sjis", "ALTER TABLE t COMMENT '\u{95}\\', COMMENT ', RENAME TO DB.product, COMMENT '"],
    &["SET NAMES big5", "ALTER TABLE t COMMENT '\u{a5}\\', COMMENT ', RENAME TO DB.product, COMMENT '"],
    &["RENAME TABLE t TO `DB.product`", "TRUNCATE `DB.product`", "RENAME TABLE `DB.product` TO t"],
    &[
        "CREATE TABLE product (id INT PRIMARY KEY, price INT)",
        "TRUNCATE product",
        "ALTER TABLE product DROP COLUMN price",
        "RENAME TABLE product TO product_2",
        "DROP TABLE product_2",
    ],
    &["CREATE PROCEDURE p() BEGIN TRUNCATE DB.product; DROP TABLE DB.product; END", "DROP PROCEDURE p"],
    &["CREATE EVENT e ON SCHEDULE AT '2037-01-01 00:00:00' DO RENAME TABLE DB.product TO DB.gone", "DROP EVENT e"],
    &[
        "CREATE VIEW v AS SELECT 'DROP TABLE DB.product' AS `TRUNCATE DB.product`",
        "PREPARE s FROM 'ALTER TABLE t COMMENT ''RENAME TO DB.product'''",
        "EXECUTE s",
        "DROP VIEW v /* , DB.product */",
    ],
    &[
        "BEGIN",
        "INSERT INTO t VALUES (1, 'DROP TABLE DB.product')",
        "SAVEPOINT `DROP TABLE DB.product`",
        "DELETE FROM t",
        "ROLLBACK TO SAVEPOINT `DROP TABLE DB.product`",
        "COMMIT",
        "DELETE FROM t",
    ],
];

fn poison_statement(harness: &mut Harness) -> Result<()> {
    withstands(harness, |harness| {
        let mut conn = guest(harness)?;
        let mut lists = STATEMENTS.to_vec();
        lists.shuffle(&mut harness.rng);
        lists.truncate(harness.rng.random_range(6..=lists.len()));
        // The running producer reads them, or the next one starts with them.
        let waits = harness.rng.random_bool(0.5);
        if waits {
            harness.producer.take().context("the producer does not run")?.kill();
        }
        for list in lists {
            run(harness, &mut conn, &["SET NAMES utf8mb4, sql_mode = DEFAULT"])?;
            let statements: Vec<String> = list.iter().map(|s| s.replace("DB", &harness.bed.name)).collect();
            run(harness, &mut conn, &statements)?;
        }
        if waits {
            harness.start_producer();
        }
        Ok(Vec::new())
    })?;
    Ok(())
}

fn poison_xa(harness: &mut Harness) -> Result<()> {
    let number = harness.load.ledger().transactions();
    let [kept, undone] = ["kept", "undone"].map(|what| format!("xa {what} {number}."));
    withstands(harness, |harness| {
        let (mut guest, mut clerk) = (guest(harness)?, clerk(harness)?);
        harness.commit_direct(&[
            "DELETE FROM product WHERE id BETWEEN -3004 AND -3001",
            "INSERT INTO product (id, name) VALUES (-3001, 'before')",
        ])?;
        let insert = |id: i64, name: &str| format!("INSERT INTO product (id, name) VALUES ({id}, '{name}')");
        let update = format!("UPDATE product SET name = '{undone}' WHERE id = -3001");
        prepare(harness, &mut clerk, "undone", &[insert(-3_002, &undone), update])?;
        let names: Vec<String> = (0..harness.rng.random_range(4..10)).map(|n| format!("guest {n}")).collect();
        let (early, late) = names.split_at(names.len() / 2);
        prepare_beside(harness, &mut guest, early)?;
        if harness.rng.random_bool(0.5) {
            harness.commit_direct(&["FLUSH BINARY LOGS"])?;
        }
        // The producer has read these, and the next one starts behind them.
        harness.probe()?;
        harness.producer.take().context("the producer does not run")?.kill();
        prepare_beside(harness, &mut guest, late)?;
        prepare(harness, &mut clerk, "kept", &[insert(-3_003, &kept), insert(-3_004, &kept)])?;
        harness.start_producer();
        harness.probe()?;
        for xa in &names {
            let end = if harness.rng.random_bool(0.5) { "COMMIT" } else { "ROLLBACK" };
            run(harness, &mut guest, &[format!("XA {end} '{xa}'")])?;
        }
        run(harness, &mut clerk, &["XA ROLLBACK 'undone'", "XA COMMIT 'kept'"])?;
        Ok(Vec::new())
    })?;
    let (settings, mut seen) = (harness.bed.kafka(), [0; 2]);
    kafka::scan(&settings, &settings.topic, &mut |message| {
        let value = message.payload().unwrap_or_default();
        for (name, seen) in [&kept, &undone].into_iter().zip(&mut seen) {
            *seen += usize::from(value.windows(name.len()).any(|part| part == name.as_bytes()));
        }
        Ok(())
    })?;
    ensure!(seen == [2, 0], "of the two rows each that were committed, and rolled back, {seen:?} are in the topic");
    Ok(())
}

/// Writes in an XA transaction and prepares it. Afterwards the connection is free for the next one.
fn prepare<S: AsRef<str>>(harness: &Harness, conn: &mut Conn, xa: &str, statements: &[S]) -> Result<()> {
    run(harness, conn, &[format!("XA START '{xa}'")])?;
    run(harness, conn, statements)?;
    run(harness, conn, &[format!("XA END '{xa}'"), format!("XA PREPARE '{xa}'")])
}

/// Prepares transactions with these names, each with a row of the guest's table.
fn prepare_beside(harness: &Harness, guest: &mut Conn, names: &[String]) -> Result<()> {
    let insert = |name: &String| format!("INSERT INTO t (a) VALUES ('{name}')");
    names.iter().try_for_each(|name| prepare(harness, guest, name, &[insert(name)]))
}

fn poison_row(harness: &mut Harness) -> Result<()> {
    withstands(harness, |harness| {
        harness.commit_direct(&["DELETE FROM product WHERE id BETWEEN -5100 AND -5001"])?;
        let mut clerk = clerk(harness)?;
        let many = harness.rng.random_range(4..40);
        // The running producer reads them, or the next one starts with them.
        let waits = harness.rng.random_bool(0.5);
        let mut before = parked_rows(harness)?;
        if waits {
            harness.producer.take().context("the producer does not run")?.kill();
            before = 0;
        }
        run(harness, &mut clerk, &zero_dates(many))?;
        if waits {
            harness.start_producer();
        }
        // Each row once, two of them twice, and at last the good row.
        let parked = many as usize + 3;
        harness.settle()?;
        let not_carried = format!("rows of the table that a record can't carry: {} (", many + 1);
        let verified = harness.verify(&[]);
        ensure!(verified.code == 0 && verified.out.contains(&not_carried), "no {not_carried:?} in\n{}", verified.out);
        harness.resume_load();
        let now = parked_rows(harness)?;
        ensure!(now == before + parked, "{parked} were written, and the producer counts {before}, then {now}");
        // The remedy: delete some rows and correct others.
        let some = format!("DELETE FROM product WHERE id BETWEEN -5099 AND {}", -5_000 - many / 2);
        let others = "UPDATE product SET last_updated = '2026-01-01' WHERE id BETWEEN -5100 AND -5001";
        run(harness, &mut clerk, &[some.as_str(), others])?;
        Ok(vec!["is no point in time".to_owned(); parked])
    })?;
    Ok(())
}

/// The number of changes that the running producer has parked.
fn parked_rows(harness: &Harness) -> Result<usize> {
    let producer = harness.producer.as_ref().context("the producer does not run")?;
    let count = producer.metric("producer_parked_rows_total").context("it does not count what it parks")?;
    Ok(count as usize)
}

/// Statements that store so many rows with a zero date, two of them twice, and one in place of a good row.
fn zero_dates(many: i64) -> Vec<String> {
    let (first, last) = (-5_001, -5_000 - many);
    let rows: Vec<String> = (last..=first).map(|id| format!("({id}, 'zero', 0)")).collect();
    vec![
        "SET sql_mode = ''".to_owned(),
        "BEGIN".to_owned(),
        "INSERT INTO product (id, name) VALUES (-5100, 'good')".to_owned(),
        format!("INSERT INTO product (id, name, last_updated) VALUES {}", rows.join(", ")),
        "UPDATE product SET name = 'better' WHERE id = -5100".to_owned(),
        "COMMIT".to_owned(),
        format!("UPDATE product SET name = 'zero again' WHERE id IN ({first}, {last})"),
        "UPDATE product SET last_updated = 0 WHERE id = -5100".to_owned(),
    ]
}

fn poison_compressed(harness: &mut Harness) -> Result<()> {
    withstands(harness, |harness| {
        // To set it for one session needs more rights; here it is the server's default when the guest connects.
        harness.commit_direct(&["SET GLOBAL binlog_transaction_compression = ON"])?;
        let conn = guest(harness);
        harness.commit_direct(&["SET GLOBAL binlog_transaction_compression = OFF"])?;
        let mut conn = conn?;
        let insert = "INSERT INTO t SELECT n, REPEAT(CHAR(97 + n % 26), 1000000) FROM \
                      (WITH RECURSIVE n AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM n WHERE n < 256) SELECT n FROM n) AS n";
        run(harness, &mut conn, &[insert])?;
        harness.probe()?;
        run(harness, &mut conn, &["DROP TABLE t"])?;
        Ok(Vec::new())
    })?;
    check_memory(harness)
}
