//! Consumers of the group on a second machine, with a separate logs folder.

use std::fs;

use anyhow::{Context, Result, ensure};
use rand::Rng;

use super::fault::Fault;
use crate::harness::{Harness, wait_for};
use testbed::Running;
use testbed::programs::CONSUMERS;

/// The faults of this family.
pub(super) const FAULTS: &[Fault] = &[Fault {
    name: "two-machines",
    expects: "three consumers on a second machine: one machine dies and is back, a log moves to the other, all works on",
    weight: 2,
    quick: false,
    run: two_machines,
}];

/// The number of consumers on the second machine.
const SECOND: usize = 3;

/// Starts consumer `number` on the second machine.
fn start(harness: &mut Harness, number: usize) {
    let logs = harness.second_logs().display().to_string();
    harness.start_consumer_with(number, &[("CONSUMER_LOGS", &logs), ("CONSUMER_SLOTS", "1")]);
}

fn take(harness: &mut Harness, number: usize) -> Result<Running> {
    harness.consumers[number].take().context("a consumer does not run")
}

fn stop(harness: &mut Harness, number: usize) -> Result<()> {
    let ended = take(harness, number)?.stop();
    ensure!(ended.code == 0, "consumer {number} ended with {} after SIGTERM:\n{}", ended.code, ended.err);
    Ok(())
}

fn two_machines(harness: &mut Harness) -> Result<()> {
    let (first, second) = (0..CONSUMERS, CONSUMERS..CONSUMERS + SECOND);
    second.clone().for_each(|number| start(harness, number));
    harness.probe().context("with consumers on two machines")?;
    let of_second = harness.rng.random_bool(0.5);
    let dies = if of_second { second.clone() } else { first };
    for number in dies.clone() {
        take(harness, number)?.kill();
    }
    harness.probe().context("with one machine dead")?;
    for number in dies {
        if of_second { start(harness, number) } else { harness.start_consumer(number) }
    }
    harness.probe().context("with both machines again")?;
    // Each consumer has its slot.
    harness.all_ready()?;
    // The last slot of the first machine moves to the end of the second one's.
    for number in second.clone().chain([CONSUMERS - 1]) {
        stop(harness, number)?;
    }
    let held = |n: &usize| format!("slot claimed slot=consumer_{n}-");
    let said: String = harness.consumers[..CONSUMERS - 1].iter().flatten().map(Running::said).collect();
    let free = (1..=CONSUMERS).find(|n| !said.contains(&held(n))).context("no slot is free")?;
    let (from, to) = (harness.logs().swap_remove(0), harness.second_logs());
    let next = (1..).find(|n| !to.join(format!("consumer_{n}")).exists()).context("a number")?;
    fs::rename(from.join(format!("consumer_{free}")), to.join(format!("consumer_{next}")))?;
    // Start as many consumers as it takes to claim that slot.
    for number in 0..next {
        start(harness, CONSUMERS + number);
    }
    wait_for("the second machine takes the log over", std::time::Duration::from_secs(60), || {
        let taken = |c: &Running| c.said().contains("took the log over");
        harness.consumers[CONSUMERS..].iter().flatten().any(taken).then_some(())
    })?;
    harness.start_consumer(CONSUMERS - 1);
    harness.probe().context("with a log that moved")?;
    // Neighbours cut off the dead consumers' lines before the verdict.
    harness.all_ready()?;
    harness.scale_back().context("with one machine again")
}
