//! A compressed transaction that is larger than the data that may wait in memory.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::Rng;
use runtime::step::{DurableStep as _, ProducerStep};

use super::fault::Fault;
use crate::harness::{Harness, wait_for};

/// The faults of this family.
pub(super) const FAULTS: &[Fault] = &[Fault {
    name: "compressed-transaction",
    expects: "a compressed transaction of 100,000 rows under load, with SIGKILL in the middle: the next producer begins it \
              again, and takes no memory for it",
    weight: 1,
    quick: false,
    run: compressed_transaction,
}];

const ROWS: u32 = 100_000;
/// The ids are below this one. Other faults use some of the negative ids above it.
const FIRST: i64 = -1_000_000;
const MIB: u64 = 1 << 20;

fn compressed_transaction(harness: &mut Harness) -> Result<()> {
    let insert = format!(
        "INSERT INTO product SELECT {FIRST} - n, CONCAT(n, REPEAT('n', 290)), REPEAT('c', 500), n % 1000, NULL FROM \
         (WITH RECURSIVE numbers AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM numbers WHERE n < {ROWS}) \
         SELECT n FROM numbers) AS n"
    );
    let compress = "SET SESSION binlog_transaction_compression = ON, cte_max_recursion_depth = 1000000";
    let deletes = &format!("DELETE FROM product WHERE id < {FIRST}");
    harness.producer.take().context("the producer does not run")?.kill();
    harness.commit_direct(&[compress, &insert])?;
    // Each part of a transaction that is larger than a batch reaches this failpoint once.
    let passes = harness.rng.random_range(5..60);
    let failpoints = ProducerStep::Sending.failpoint(&format!("{passes}*off->1*return(kill)"));
    harness.start_producer_with(&[("FAILPOINTS", &failpoints)]);
    let mut first = harness.producer.take().context("it was started")?;
    wait_for("it is killed in the middle", Duration::from_secs(90), || (!first.is_running()).then_some(()))
        .with_context(|| first.log_end())?;
    harness.start_producer();
    harness.probe()?;
    harness.commit_direct(&[compress, deletes])?;
    harness.probe()?;
    check_memory(harness)
}

/// Fails when the running producer's peak memory exceeds the limit for a large transaction.
pub(super) fn check_memory(harness: &Harness) -> Result<()> {
    let producer = harness.producer.as_ref().context("the producer does not run")?;
    let peak = testbed::peak_memory(producer.pid()).context("no VmHWM")?;
    ensure!(peak < 170 * MIB, "the producer took {} MiB", peak / MIB);
    Ok(())
}
