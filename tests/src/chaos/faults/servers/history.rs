//! A MySQL whose history does not match a position: GTIDs switched off and on, and two servers at one address.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mysql_async::prelude::Queryable;
use rand::Rng;

use super::super::Fault;
use super::{wait_all_ready, wait_stopped};
use crate::chaos::replica::Replica;
use crate::chaos::{Arena, wait_for};

pub(in crate::chaos::faults) const FAULTS: &[Fault] = &[
    Fault {
        name: "mysql-gtids-switched",
        expects: "gtid_mode goes to OFF and to ON again under load: the producer reads on; when it was behind, it names ON_PERMISSIVE",
        weight: 1,
        quick: false,
        run: switch,
    },
    Fault {
        name: "mysql-balanced",
        expects: "new connections reach MySQL and its replica in turn: the producer stops and names both; with one server it continues",
        weight: 1,
        quick: false,
        run: balance,
    },
];

/// The time limit for a change of the mode, and for the producer to continue reading.
const PATIENCE: Duration = Duration::from_secs(60);

fn switch(arena: &mut Arena) -> Result<()> {
    let behind = arena.rng.random_bool(0.5);
    if behind {
        let producer = arena.producer.take().context("the producer does not run")?.stop();
        ensure!(producer.code == 0, "the producer stops with {}: {}", producer.code, producer.err);
    }
    for mode in ["ON_PERMISSIVE", "OFF_PERMISSIVE"] {
        set_mode(arena, mode)?;
    }
    wait_for_commit(arena)?;
    if !behind {
        // With OFF the server does not send transactions that have a GTID.
        read_on(arena)?;
        set_mode(arena, "OFF")?;
        std::thread::sleep(Duration::from_millis(arena.rng.random_range(0..1_000)));
        set_mode(arena, "OFF_PERMISSIVE")?;
    }
    std::thread::sleep(Duration::from_millis(arena.rng.random_range(0..1_000)));
    set_mode(arena, "ON_PERMISSIVE")?;
    if behind {
        set_mode(arena, "ON")?;
        arena.start_producer();
        wait_stopped(arena, PATIENCE, &["Cannot replicate anonymous transaction", "gtid_mode = ON_PERMISSIVE"])?;
        set_mode(arena, "ON_PERMISSIVE")?;
        arena.start_producer();
    }
    read_on(arena)?;
    set_mode(arena, "ON")?;
    wait_all_ready(arena)
}

/// Waits until the load has committed a transaction that begins after this call.
fn wait_for_commit(arena: &Arena) -> Result<()> {
    // Each writer may have one transaction open.
    let enough = arena.load.ledger().transactions() + 10;
    wait_for("the load has committed", PATIENCE, || (arena.load.ledger().transactions() >= enough).then_some(()))
}

/// Sets `gtid_mode` as soon as no transaction of the other kind is active.
fn set_mode(arena: &Arena, mode: &str) -> Result<()> {
    let mut conn = arena.mysql()?;
    let statement = format!("SET GLOBAL gtid_mode = {mode}");
    let mut last = None;
    wait_for(&statement, PATIENCE, || match arena.block_on(conn.query_drop(&statement)) {
        Ok(()) => Some(()),
        Err(e) => {
            last = Some(e.to_string());
            None
        }
    })
    .with_context(|| format!("it says {last:?}"))
}

/// Waits until the producer has reached the file that MySQL begins now.
fn read_on(arena: &Arena) -> Result<()> {
    arena.commit_direct(&["FLUSH BINARY LOGS"])?;
    let mut conn = arena.mysql()?;
    let row: Option<mysql_async::Row> = arena.block_on(conn.query_first("SHOW BINARY LOG STATUS"))?;
    let file: String = row.and_then(|row| row.get(0)).context("MySQL has no binlog")?;
    wait_for(&format!("the producer reads {file}"), PATIENCE, || {
        let position = arena.progress().ok()??.position;
        model::position::compare_files(&position.file, &file).is_ge().then_some(())
    })
}

fn balance(arena: &mut Arena) -> Result<()> {
    let replica = Replica::start(arena)?;
    let epoch = arena.epoch()?;
    arena.servers.to_mysql.balance(&[arena.servers.mysql.port, replica.port()]);
    let stopped = wait_stopped(arena, PATIENCE, &["DB_HOST leads to more than one server", "address of one server"]);
    arena.servers.to_mysql.redirect(arena.servers.mysql.port);
    stopped?;
    replica.remove()?;
    arena.start_producer();
    wait_all_ready(arena)?;
    let now = arena.epoch()?;
    ensure!(now == epoch, "it began epoch {now} after epoch {epoch}");
    Ok(())
}
