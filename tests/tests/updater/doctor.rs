//! `product-updater doctor`: each check on the fault that it names, and its remedy followed until the check is green.

use model::error::Code;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use testbed::{Ended, TestBed, execute};

use super::{HEADER, update, write_data};

const RIGHTS: [&str; 4] = ["SELECT", "INSERT", "UPDATE", "DELETE"];

fn doctor(world: &TestBed, flags: &[&str]) -> Ended {
    world.run("product-updater", &[&["doctor"], flags].concat())
}

/// The lines of a check: its mark, its finding, and what to do.
fn check<'a>(ended: &'a Ended, mark: &str, name: &str) -> Vec<&'a str> {
    let mut lines = ended.out.lines().skip_while(|line| {
        let mut words = line.split_whitespace();
        words.next() != Some(mark) || words.next() != Some(name)
    });
    let first = lines.next().unwrap_or_else(|| panic!("no {mark} {name} in\n{}{}", ended.out, ended.err));
    std::iter::once(first).chain(lines.take_while(|line| line.starts_with("   "))).collect()
}

#[track_caller]
fn assert_green(ended: &Ended, checks: usize) {
    let green = ended.out.lines().all(|line| line.starts_with("ok "));
    assert!(ended.code == 0 && green && ended.out.lines().count() == checks, "{}{}", ended.out, ended.err);
}

/// A user with these rights on the test bed's database, whom the programs use from now on.
async fn use_poor_user(world: &mut TestBed, admin: &mut Conn, rights: &str) -> String {
    let user = format!("'clerk_{}'@'%'", std::process::id());
    let database = world.name.replace('_', r"\_");
    execute(
        admin,
        &[
            format!("DROP USER IF EXISTS {user}"),
            format!("CREATE USER {user} IDENTIFIED BY 'poor-password'"),
            format!("GRANT {rights} ON `{database}`.* TO {user}"),
        ],
    )
    .await;
    world.set("DB_USER", user.trim_end_matches("'@'%'").trim_start_matches('\''));
    world.set("DB_PASSWORD", "poor-password");
    user
}

#[tokio::test(flavor = "multi_thread")]
async fn each_missing_right_is_named_with_the_statement_that_grants_it() {
    let mut world = TestBed::new("updater_rights");
    // A table that is not there is no fault, and nothing is made.
    let ended = doctor(&world, &[]);
    assert!(ended.code == 0 && check(&ended, "note", "table")[0].contains("a start creates it"), "{}", ended.out);
    let mut admin = world.server().await;
    let found: Option<String> = admin.query_first(format!("SHOW DATABASES LIKE '{}'", world.name)).await.unwrap();
    assert_eq!(found, None);

    let mut conn = world.table().await;
    assert_green(&doctor(&world, &[]), 3);
    let user = use_poor_user(&mut world, &mut admin, &RIGHTS.join(", ")).await;
    assert_green(&doctor(&world, &[]), 3);
    let database = world.name.replace('_', r"\_");
    for right in RIGHTS {
        execute(&mut admin, &[format!("REVOKE {right} ON `{database}`.* FROM {user}")]).await;
        let ended = doctor(&world, &[]);
        ended.assert_error(Code::ChecksFailed, &["1 of 3 checks failed"]);
        let lines = check(&ended, "FAIL", "rights");
        assert!(lines[0].ends_with(&format!("{right} on {}.product is not granted", world.name)), "{lines:?}");
        let (_, remedy) = lines[1].split_once("what to do: ").unwrap();
        let remedy = remedy.replace("the user of DB_USER", &user);
        assert!(remedy.starts_with(&format!("GRANT {right} ON ")), "{remedy}");
        execute(&mut admin, &[remedy]).await;
        assert_green(&doctor(&world, &[]), 3);
    }
    // With what the checks asked for, files are applied; CREATE is needed for the first delete only.
    let rows = format!("{HEADER}\n1,Cup,cat_1,3.00,2026-01-01 00:00:00\n");
    let data = write_data(&world, &[("a.csv", rows.as_bytes())]);
    let ended = update(&world, &data, &[]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    let rows: Vec<(i32, String)> = conn.query("SELECT id, name FROM product").await.unwrap();
    assert_eq!(rows, [(1, "Cup".to_owned())]);
    // The table of the deleted products is looked at once it is there and the user may see it.
    execute(&mut conn, &["CREATE TABLE product_deleted (id INT PRIMARY KEY, last_updated TIMESTAMP(6) NOT NULL)"])
        .await;
    let see = format!("GRANT SELECT ON `{}`.product_deleted TO {user}", world.name);
    execute(&mut admin, &[see]).await;
    let ended = doctor(&world, &[]);
    let lines = check(&ended, "FAIL", "rights");
    let missing = format!("INSERT, UPDATE, DELETE on {}.product_deleted is not granted", world.name);
    assert!(lines[0].ends_with(&missing), "{lines:?}");
    execute(&mut admin, &[format!("DROP USER {user}")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_a_login_and_a_table_that_do_not_fit_are_named() {
    let mut world = TestBed::new("updater_doctor");
    let mut conn = world.table().await;
    for (variable, wrong) in [("DB_PORT", "1"), ("DB_PASSWORD", "wrong")] {
        let right = world.get(variable).to_owned();
        world.set(variable, wrong);
        let ended = doctor(&world, &[]);
        ended.assert_error(Code::ChecksFailed, &["1 of 1 checks failed"]);
        assert!(check(&ended, "FAIL", "MySQL")[1].contains("what to do: check "), "{}", ended.out);
        assert!(!ended.out.contains("wrong"), "{}", ended.out);
        world.set(variable, right);
        assert_green(&doctor(&world, &[]), 3);
    }
    execute(&mut conn, &["ALTER TABLE product RENAME COLUMN category TO kind"]).await;
    let ended = doctor(&world, &[]);
    ended.assert_error(Code::ChecksFailed, &["1 of 2 checks failed"]);
    assert!(check(&ended, "FAIL", "table").join(" ").contains("category"), "{}", ended.out);
    execute(&mut conn, &["ALTER TABLE product RENAME COLUMN kind TO category"]).await;
    assert_green(&doctor(&world, &[]), 3);

    // Any table with a primary key; its generated columns are not written.
    execute(&mut conn, &["CREATE TABLE line (no INT NOT NULL, twice INT AS (no * 2))"]).await;
    let ended = doctor(&world, &["--table", "line"]);
    let lines = check(&ended, "FAIL", "table");
    assert!(lines[1].contains("ADD PRIMARY KEY"), "{lines:?}");
    execute(&mut conn, &["ALTER TABLE line ADD PRIMARY KEY (no)"]).await;
    let ended = doctor(&world, &["--table", "line"]);
    assert_green(&ended, 3);
    assert!(check(&ended, "ok", "table")[0].ends_with(".line has no"), "{}", ended.out);
    let ended = doctor(&world, &["--table", "absent"]);
    assert!(check(&ended, "FAIL", "table")[1].contains("create it, correct updater.table"), "{}", ended.out);
}
