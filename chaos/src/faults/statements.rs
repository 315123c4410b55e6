//! Settings that change under the running programs, and changes of the table that no row event shows.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::fault::Fault;
use super::people::stopping;
use crate::harness::{Harness, wait_for};

const SOON: Duration = Duration::from_secs(60);

/// The faults of this family.
pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "settings-changed",
        expects: "server-wide defaults of new sessions change under load and all sessions of the programs end: each comes \
                  back with its own settings, and nothing is lost",
        weight: 2,
        quick: true,
        run: settings_changed,
    },
    Fault {
        name: "text-beside",
        expects: "a heartbeat on another table of the database is logged as text: it is passed over",
        weight: 2,
        quick: true,
        run: text_beside,
    },
    Fault {
        name: "text-on-table",
        expects: "a statement on the table is logged as text: the producer stops with the statement; reset, it continues",
        weight: 1,
        quick: false,
        run: text_on_table,
    },
    Fault {
        name: "ddl-swap-columns",
        expects: "two columns swap their names: the producer stops definitely; swapped back and reset, it continues",
        weight: 1,
        quick: false,
        run: swap_columns,
    },
];

/// InnoDB logs text only at this isolation level and above.
const AS_TEXT: [&str; 2] =
    ["SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SET SESSION binlog_format = STATEMENT"];

/// The new defaults of sessions, and the former ones.
const DEFAULTS: [(&str, &str); 6] = [
    ("autocommit = OFF", "autocommit = ON"),
    ("transaction_isolation = 'READ-UNCOMMITTED'", "transaction_isolation = 'REPEATABLE-READ'"),
    ("sql_select_limit = 3", "sql_select_limit = 18446744073709551615"),
    ("max_execution_time = 1", "max_execution_time = 0"),
    ("time_zone = '+05:00'", "time_zone = 'SYSTEM'"),
    ("wait_timeout = 1", "wait_timeout = 28800"),
];

fn settings_changed(harness: &mut Harness) -> Result<()> {
    harness.resume_load();
    // A session with the old defaults; other new sessions that are not our programs' get the new ones.
    let mut conn = harness.mysql()?;
    for (hostile, _) in DEFAULTS {
        harness.block_on(conn.query_drop(format!("SET GLOBAL {hostile}")))?;
    }
    let before = sessions(harness, &mut conn)?;
    ensure!(!before.is_empty(), "the producer has no session");
    for id in &before {
        // The session may have ended already.
        let _gone = harness.block_on(conn.query_drop(format!("KILL {id}")));
    }
    let again = wait_for("the producer has connected again", SOON, || {
        sessions(harness, &mut conn).is_ok_and(|now| now.iter().any(|id| !before.contains(id))).then_some(())
    });
    for (_, usual) in DEFAULTS {
        harness.block_on(conn.query_drop(format!("SET GLOBAL {usual}")))?;
    }
    again.context("it should connect")?;
    harness.probe()?;
    Ok(())
}

/// The sessions of the programs that read from MySQL.
fn sessions(harness: &Harness, conn: &mut Conn) -> Result<Vec<u64>> {
    Ok(harness.block_on(conn.query("SELECT id FROM performance_schema.processlist WHERE user = 'cdc'"))?)
}

fn text_beside(harness: &mut Harness) -> Result<()> {
    harness.resume_load();
    let mut admin = harness.block_on(harness.bed.server());
    harness.block_on(harness.bed.grant_trigger(&mut admin));
    harness.commit_direct(&[
        "CREATE TABLE IF NOT EXISTS heartbeat (id INT PRIMARY KEY, at TIMESTAMP(6))",
        AS_TEXT[0],
        AS_TEXT[1],
        "REPLACE INTO heartbeat VALUES (1, NOW(6))",
        "UPDATE heartbeat SET at = UTC_TIMESTAMP(6) WHERE id = 1",
        "DELETE FROM heartbeat WHERE id = 1",
    ])
}

fn text_on_table(harness: &mut Harness) -> Result<()> {
    let statements = [
        "DELETE FROM product WHERE id = -1",
        AS_TEXT[0],
        AS_TEXT[1],
        "INSERT INTO product (id, name, price) VALUES (-1, 'as text', 1)",
    ];
    stopping(harness, &statements, "INSERT INTO product", &["DELETE FROM product WHERE id = -1"])
}

fn swap_columns(harness: &mut Harness) -> Result<()> {
    let statements = [
        "ALTER TABLE product ADD COLUMN price_new DECIMAL(10,2)",
        "ALTER TABLE product RENAME COLUMN price TO price_old, RENAME COLUMN price_new TO price",
    ];
    let remedy = [
        "ALTER TABLE product RENAME COLUMN price TO price_new, RENAME COLUMN price_old TO price",
        "ALTER TABLE product DROP COLUMN price_new",
    ];
    stopping(harness, &statements, "renames the column price", &remedy)
}
