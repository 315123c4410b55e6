//! MySQL is killed, stopped, restarted, loses its history, or is replaced by its replica.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mysql_async::Row;
use mysql_async::prelude::Queryable;
use nix::sys::signal::Signal;
use rand::Rng;

use super::super::Fault;
use super::{SEEN, reset_checkpoint, wait_all_ready, wait_stopped, wait_unready};
use crate::chaos::replica::Replica;
use crate::chaos::{Arena, wait_for};

pub(in crate::chaos::faults) const FAULTS: &[Fault] = &[
    Fault {
        name: "mysql-kill",
        expects: "MySQL is killed under load and started again: the producer says that it waits, and continues",
        weight: 4,
        quick: true,
        run: |arena| {
            arena.servers.mysql.server.kill()?;
            let seen = producer_waits(arena);
            arena.servers.mysql.start_again()?;
            seen?;
            wait_all_ready(arena)
        },
    },
    Fault {
        name: "mysql-restart",
        expects: "MySQL is stopped in order and started again, its binlog begins a new file: the same",
        weight: 2,
        quick: true,
        run: restart,
    },
    Fault {
        name: "mysql-stop",
        expects: "MySQL is stopped for one to three seconds: nothing is seen of it but the delay",
        weight: 3,
        quick: true,
        run: |arena| {
            let pause = Duration::from_millis(arena.rng.random_range(1_000..3_000));
            let failures = failures(arena)?;
            arena.servers.mysql.server.signal(Signal::SIGSTOP)?;
            std::thread::sleep(pause);
            arena.servers.mysql.server.signal(Signal::SIGCONT)?;
            arena.check_running()?;
            let after = self::failures(arena)?;
            ensure!((after - failures).abs() < 0.5, "the producer restarted its session {} times", after - failures);
            Ok(())
        },
    },
    Fault {
        name: "mysql-stop-long",
        expects: "MySQL is stopped until its heartbeats are missed: the producer says so, and continues afterwards",
        weight: 0,
        quick: false,
        run: |arena| {
            arena.servers.mysql.server.signal(Signal::SIGSTOP)?;
            // Three heartbeats of five seconds, and five more seconds.
            let seen = wait_unready(arena.the_producer()?, &["silent"], Duration::from_secs(40));
            arena.servers.mysql.server.signal(Signal::SIGCONT)?;
            seen?;
            wait_all_ready(arena)
        },
    },
    Fault {
        name: "mysql-reset",
        expects: "RESET BINARY LOGS AND GTIDS: the producer stops and names `checkpoint reset`, which makes it whole",
        weight: 1,
        quick: false,
        run: |arena| {
            arena.settle()?;
            arena.collapse_from_here()?;
            arena.commit_direct(&["RESET BINARY LOGS AND GTIDS"])?;
            arena.resume_load();
            wait_stopped(arena, Duration::from_secs(60), &["reset", "checkpoint reset"])?;
            reset_checkpoint(arena)?;
            arena.collapse_until_here()
        },
    },
    Fault {
        name: "mysql-purge",
        expects: "binlogs are purged that the stopped producer has not read: it names `checkpoint reset`, which makes it whole",
        weight: 1,
        quick: false,
        run: purge,
    },
    Fault {
        name: "mysql-failover",
        expects: "the primary is killed and its GTID replica takes over: the producer continues there, in the same epoch",
        weight: 1,
        quick: false,
        run: failover,
    },
];

fn producer_waits(arena: &Arena) -> Result<()> {
    wait_unready(arena.the_producer()?, &["MySQL", "binlog", "connect"], SEEN).map(drop)
}

/// The number of the producer's sessions that ended with an error.
fn failures(arena: &Arena) -> Result<f64> {
    let series = "producer_session_failures_total{class=\"transient\"}";
    let shown = wait_for("the producer's numbers", SEEN, || arena.the_producer().ok()?.metric(series));
    shown.context("the producer shows no failures")
}

/// The binlog file that MySQL writes to.
fn binlog(arena: &Arena) -> Result<String> {
    let mut conn = arena.mysql()?;
    let row: Option<Row> = arena.block_on(conn.query_first("SHOW BINARY LOG STATUS"))?;
    row.and_then(|row| row.get(0)).context("MySQL has no binlog")
}

fn restart(arena: &mut Arena) -> Result<()> {
    let before = binlog(arena)?;
    arena.servers.mysql.server.stop()?;
    let seen = producer_waits(arena);
    arena.servers.mysql.start_again()?;
    seen?;
    let after = binlog(arena)?;
    ensure!(before != after, "a restart began no new binlog: {before}");
    wait_all_ready(arena)
}

fn purge(arena: &mut Arena) -> Result<()> {
    arena.settle()?;
    let producer = arena.producer.take().context("the producer does not run")?.stop();
    ensure!(producer.code == 0, "the producer stops with {}: {}", producer.code, producer.err);
    arena.collapse_from_here()?;
    let before = arena.load.ledger().transactions();
    arena.resume_load();
    wait_for("the load has committed", SEEN, || (arena.load.ledger().transactions() > before).then_some(()))?;
    arena.pause_load()?;
    arena.commit_direct(&["FLUSH BINARY LOGS"])?;
    let last = binlog(arena)?;
    arena.commit_direct(&[format!("PURGE BINARY LOGS TO '{last}'")])?;
    arena.start_producer();
    wait_stopped(
        arena,
        Duration::from_secs(30),
        &["is no longer on the server", "checkpoint reset", "binlog_expire_logs_seconds"],
    )?;
    reset_checkpoint(arena)?;
    arena.resume_load();
    arena.collapse_until_here()
}

fn failover(arena: &mut Arena) -> Result<()> {
    let epoch = arena.epoch()?;
    let replica = Replica::start(arena)?;
    // In half of the cases the producer is behind when the primary fails.
    let behind = arena.rng.random_bool(0.5);
    if behind {
        arena.the_producer()?.signal("STOP");
        std::thread::sleep(Duration::from_secs(1));
    }
    // Commits that have not reached the replica are lost with any primary, so the writers wait for it.
    arena.pause_load()?;
    replica.catch_up(arena)?;
    arena.servers.mysql.server.kill()?;
    if behind {
        arena.the_producer()?.signal("CONT");
    }
    let seen = producer_waits(arena);
    replica.take_over(arena)?;
    seen?;
    arena.resume_load();
    wait_all_ready(arena)?;
    arena.probe()?;
    let producer = arena.the_producer()?;
    ensure!(producer.log().contains("reading from another server"), "it does not say so:\n{}", producer.log_end());
    let now = arena.epoch()?;
    ensure!(now == epoch, "it began epoch {now} after epoch {epoch}");
    Ok(())
}
