//! Counts of all changes, and which of them are shown. Pure.

use model::change::Op;
use serde::Serialize;

/// Changes that are shown of each tick, of which four are in a second.
pub(super) const SHOWN: usize = 5;
/// Latencies of a second that are kept; beyond, percentiles are those of the first ones.
const LATENCIES: usize = 50_000;

/// Changes by operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Ops {
    c: u64,
    u: u64,
    d: u64,
    r: u64,
}

/// The percentiles of a second, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Percentiles {
    p50: f64,
    p99: f64,
}

/// What was counted in a tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Counted {
    /// All changes.
    pub(super) count: u64,
    /// By operation; those whose header can't be read are in none.
    ops: Ops,
}

/// Counts changes.
#[derive(Debug, Default)]
pub(super) struct Tally {
    tick: Counted,
    second: u64,
    /// Microseconds.
    latencies: Vec<u32>,
}

impl Tally {
    /// Takes a change. Returns the place among the shown ones that it takes, if it is one: each change of a tick has the
    /// same chance. `random` returns a number below its argument.
    pub(super) fn add(
        &mut self,
        op: Option<Op>,
        latency: Option<u32>,
        random: impl FnOnce(u64) -> u64,
    ) -> Option<usize> {
        let before = self.tick.count;
        self.tick.count += 1;
        self.second += 1;
        match op {
            Some(Op::Create) => self.tick.ops.c += 1,
            Some(Op::Update) => self.tick.ops.u += 1,
            Some(Op::Delete) => self.tick.ops.d += 1,
            Some(Op::Snapshot) => self.tick.ops.r += 1,
            None => {}
        }
        // A row of a snapshot was committed long before.
        if self.latencies.len() < LATENCIES && op != Some(Op::Snapshot) {
            self.latencies.extend(latency);
        }
        let place = if before < SHOWN as u64 { before } else { random(before + 1) };
        usize::try_from(place).ok().filter(|place| *place < SHOWN)
    }

    /// Ends a tick.
    pub(super) fn tick(&mut self) -> Counted {
        std::mem::take(&mut self.tick)
    }

    /// Ends a second: its changes, and their percentiles if there were any.
    pub(super) fn second(&mut self) -> (u64, Option<Percentiles>) {
        let found = percentiles(&mut self.latencies);
        self.latencies.clear();
        (std::mem::take(&mut self.second), found)
    }
}

fn percentiles(latencies: &mut [u32]) -> Option<Percentiles> {
    latencies.sort_unstable();
    let last = latencies.len().checked_sub(1)?;
    let at = |part: f64| f64::from(latencies[(last as f64 * part).round() as usize]) / 1_000.0;
    Some(Percentiles { p50: at(0.50), p99: at(0.99) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_exact_and_few_are_shown() {
        let mut tally = Tally::default();
        let mut chosen = Vec::new();
        for number in 0..10_000_u64 {
            let op = if number % 2 == 0 { Op::Create } else { Op::Delete };
            // A random number that is the largest one keeps the change out.
            let place = tally.add(Some(op), Some(number as u32), |below| if number == 7_000 { 3 } else { below - 1 });
            chosen.extend(place.map(|place| (number, place)));
        }
        assert_eq!(chosen, [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (7_000, 3)]);
        assert_eq!(tally.tick(), Counted { count: 10_000, ops: Ops { c: 5_000, d: 5_000, ..Ops::default() } });
        assert_eq!(tally.tick(), Counted::default());
        let (count, found) = tally.second();
        assert_eq!((count, found), (10_000, Some(Percentiles { p50: 5.0, p99: 9.899 })));
        assert_eq!(tally.second(), (0, None));
    }

    #[test]
    fn a_snapshot_has_no_latency() {
        let mut tally = Tally::default();
        tally.add(Some(Op::Snapshot), Some(1), |_| 0);
        assert_eq!(tally.second(), (1, None));
    }
}
