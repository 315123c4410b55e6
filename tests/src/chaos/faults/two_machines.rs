//! Consumers of the group on a second machine, with a separate logs folder.

use std::fs;

use anyhow::{Context, Result, ensure};
use rand::Rng;

use super::Fault;
use crate::Running;
use crate::chaos::{Arena, CONSUMERS, wait_for};

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
fn start(arena: &mut Arena, number: usize) {
    let logs = arena.second_logs().display().to_string();
    arena.start_consumer_with(number, &[("CONSUMER_LOGS", &logs), ("CONSUMER_SLOTS", "1")]);
}

fn take(arena: &mut Arena, number: usize) -> Result<Running> {
    arena.consumers[number].take().context("a consumer does not run")
}

fn stop(arena: &mut Arena, number: usize) -> Result<()> {
    let ended = take(arena, number)?.stop();
    ensure!(ended.code == 0, "consumer {number} ended with {} after SIGTERM:\n{}", ended.code, ended.err);
    Ok(())
}

fn two_machines(arena: &mut Arena) -> Result<()> {
    let (first, second) = (0..CONSUMERS, CONSUMERS..CONSUMERS + SECOND);
    second.clone().for_each(|number| start(arena, number));
    arena.probe().context("with consumers on two machines")?;
    let of_second = arena.rng.random_bool(0.5);
    let dies = if of_second { second.clone() } else { first };
    for number in dies.clone() {
        take(arena, number)?.kill();
    }
    arena.probe().context("with one machine dead")?;
    for number in dies {
        if of_second { start(arena, number) } else { arena.start_consumer(number) }
    }
    arena.probe().context("with both machines again")?;
    // Each consumer has its slot.
    arena.all_ready()?;
    // The last slot of the first machine moves to the end of the second one's.
    for number in second.clone().chain([CONSUMERS - 1]) {
        stop(arena, number)?;
    }
    let held = |n: &usize| format!("slot claimed slot=consumer_{n}-");
    let said: String = arena.consumers[..CONSUMERS - 1].iter().flatten().map(Running::said).collect();
    let free = (1..=CONSUMERS).find(|n| !said.contains(&held(n))).context("no slot is free")?;
    let (from, to) = (arena.logs().swap_remove(0), arena.second_logs());
    let next = (1..).find(|n| !to.join(format!("consumer_{n}")).exists()).context("a number")?;
    fs::rename(from.join(format!("consumer_{free}")), to.join(format!("consumer_{next}")))?;
    // Start as many consumers as it takes to claim that slot.
    for number in 0..next {
        start(arena, CONSUMERS + number);
    }
    wait_for("the second machine takes the log over", std::time::Duration::from_secs(60), || {
        let taken = |c: &Running| c.said().contains("took the log over");
        arena.consumers[CONSUMERS..].iter().flatten().any(taken).then_some(())
    })?;
    arena.start_consumer(CONSUMERS - 1);
    arena.probe().context("with a log that moved")?;
    // Neighbours cut off the dead consumers' lines before the verdict.
    arena.all_ready()?;
    arena.scale_back().context("with one machine again")
}
