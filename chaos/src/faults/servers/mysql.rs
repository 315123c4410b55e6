//! MySQL is killed, stopped, restarted, loses its history, or is replaced by its replica.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mysql_async::Row;
use mysql_async::prelude::Queryable;
use nix::sys::signal::Signal;
use rand::Rng;

use super::super::fault::Fault;
use super::effects::{SEEN, reset_checkpoint, wait_all_ready, wait_stopped, wait_unready};
use crate::harness::{Harness, wait_for};
use crate::replica::Replica;

pub(in crate::faults) const FAULTS: &[Fault] = &[
    Fault {
        name: "mysql-kill",
        expects: "MySQL is killed under load and started again: the producer says that it waits, and continues",
        weight: 4,
        quick: true,
        run: |harness| {
            harness.servers.mysql.server.kill()?;
            let seen = producer_waits(harness);
            harness.servers.mysql.start_again()?;
            seen?;
            wait_all_ready(harness)
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
        run: |harness| {
            let pause = Duration::from_millis(harness.rng.random_range(1_000..3_000));
            let failures = failures(harness)?;
            harness.servers.mysql.server.signal(Signal::SIGSTOP)?;
            std::thread::sleep(pause);
            harness.servers.mysql.server.signal(Signal::SIGCONT)?;
            harness.check_running()?;
            let after = self::failures(harness)?;
            ensure!((after - failures).abs() < 0.5, "the producer restarted its session {} times", after - failures);
            Ok(())
        },
    },
    Fault {
        name: "mysql-stop-long",
        expects: "MySQL is stopped until its heartbeats are missed: the producer says so, and continues afterwards",
        weight: 0,
        quick: false,
        run: |harness| {
            harness.servers.mysql.server.signal(Signal::SIGSTOP)?;
            // Three heartbeats of five seconds, and five more seconds.
            let seen = wait_unready(harness.the_producer()?, &["silent"], Duration::from_secs(40));
            harness.servers.mysql.server.signal(Signal::SIGCONT)?;
            seen?;
            wait_all_ready(harness)
        },
    },
    Fault {
        name: "mysql-reset",
        expects: "RESET BINARY LOGS AND GTIDS: the producer stops and names `checkpoint reset`, which makes it whole",
        weight: 1,
        quick: false,
        run: |harness| {
            harness.settle()?;
            harness.collapse_from_here()?;
            harness.commit_direct(&["RESET BINARY LOGS AND GTIDS"])?;
            harness.resume_load();
            wait_stopped(harness, Duration::from_secs(60), &["reset", "checkpoint reset"])?;
            reset_checkpoint(harness)?;
            harness.collapse_until_here()
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

fn producer_waits(harness: &Harness) -> Result<()> {
    wait_unready(harness.the_producer()?, &["MySQL", "binlog", "connect"], SEEN).map(drop)
}

/// The number of the producer's sessions that ended with an error.
fn failures(harness: &Harness) -> Result<f64> {
    let series = "producer_session_failures_total{class=\"transient\"}";
    let shown = wait_for("the producer's numbers", SEEN, || harness.the_producer().ok()?.metric(series));
    shown.context("the producer shows no failures")
}

/// The binlog file that MySQL writes to.
fn binlog(harness: &Harness) -> Result<String> {
    let mut conn = harness.mysql()?;
    let row: Option<Row> = harness.block_on(conn.query_first("SHOW BINARY LOG STATUS"))?;
    row.and_then(|row| row.get(0)).context("MySQL has no binlog")
}

fn restart(harness: &mut Harness) -> Result<()> {
    let before = binlog(harness)?;
    harness.servers.mysql.server.stop()?;
    let seen = producer_waits(harness);
    harness.servers.mysql.start_again()?;
    seen?;
    let after = binlog(harness)?;
    ensure!(before != after, "a restart began no new binlog: {before}");
    wait_all_ready(harness)
}

fn purge(harness: &mut Harness) -> Result<()> {
    harness.settle()?;
    let producer = harness.producer.take().context("the producer does not run")?.stop();
    ensure!(producer.code == 0, "the producer stops with {}: {}", producer.code, producer.err);
    harness.collapse_from_here()?;
    let before = harness.load.ledger().transactions();
    harness.resume_load();
    wait_for("the load has committed", SEEN, || (harness.load.ledger().transactions() > before).then_some(()))?;
    harness.pause_load()?;
    harness.commit_direct(&["FLUSH BINARY LOGS"])?;
    let last = binlog(harness)?;
    harness.commit_direct(&[format!("PURGE BINARY LOGS TO '{last}'")])?;
    harness.start_producer();
    wait_stopped(
        harness,
        Duration::from_secs(30),
        &["is no longer on the server", "checkpoint reset", "binlog_expire_logs_seconds"],
    )?;
    reset_checkpoint(harness)?;
    harness.resume_load();
    harness.collapse_until_here()
}

fn failover(harness: &mut Harness) -> Result<()> {
    let epoch = harness.epoch()?;
    let replica = Replica::start(harness)?;
    // In half of the cases the producer is behind when the primary fails.
    let behind = harness.rng.random_bool(0.5);
    if behind {
        harness.the_producer()?.signal("STOP");
        std::thread::sleep(Duration::from_secs(1));
    }
    // Commits that have not reached the replica are lost with any primary, so the writers wait for it.
    harness.pause_load()?;
    replica.catch_up(harness)?;
    harness.servers.mysql.server.kill()?;
    if behind {
        harness.the_producer()?.signal("CONT");
    }
    let seen = producer_waits(harness);
    replica.take_over(harness)?;
    seen?;
    harness.resume_load();
    wait_all_ready(harness)?;
    harness.probe()?;
    let producer = harness.the_producer()?;
    ensure!(producer.log().contains("reading from another server"), "it does not say so:\n{}", producer.log_end());
    let now = harness.epoch()?;
    ensure!(now == epoch, "it began epoch {now} after epoch {epoch}");
    Ok(())
}
