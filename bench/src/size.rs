//! The amount of work in each case.

use anyhow::Result;

use crate::report::Figure;

/// The amount of work.
#[derive(Clone, Debug)]
pub struct Size {
    /// Row changes or rows.
    pub changes: u64,
    /// Row changes in a transaction.
    pub per_transaction: Vec<u64>,
    /// Runs of each program.
    pub runs: u32,
    /// Row changes or rows of the larger size, which is run once.
    pub large: u64,
    /// Leave Debezium, and the replica of the latency, out.
    pub alone: bool,
}

impl Size {
    /// The larger size, for cases that also run with it; `None` if it is not larger.
    pub fn larger(&self) -> Option<Self> {
        (self.large > self.changes).then(|| Self { changes: self.large, runs: 1, ..self.clone() })
    }

    /// Runs a case in this size and, if there is one, in the larger size.
    pub(crate) fn each(&self, run: impl FnMut(&Self) -> Result<Vec<Figure>>) -> Result<Vec<Figure>> {
        let sizes = [Some(self.clone()), self.larger()];
        Ok(sizes.iter().flatten().map(run).collect::<Result<Vec<_>>>()?.concat())
    }
}
