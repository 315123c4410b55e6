//! Where the faults of a history come from.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::brokers::Fault;

/// Faults at random, or every one of them.
pub(super) enum Decisions {
    /// Of a hundred requests so many meet a fault.
    Random(Box<StdRng>, u32),
    Every(Search),
}

/// All histories with a number of faults, one after the other: each is a list of decisions, and the next list has
/// another last decision.
pub(super) struct Search {
    /// The decisions of this history: the option that is taken, of how many.
    path: Vec<(u32, u32)>,
    /// So many of them are taken already.
    taken: usize,
    /// The faults of a history, and those that are left of this one.
    faults: u32,
    left: u32,
    /// What happened apart from connections that broke.
    is_disturbed: bool,
}

impl Search {
    pub(super) fn new(faults: u32) -> Self {
        Self { path: Vec::new(), taken: 0, faults, left: faults, is_disturbed: false }
    }

    /// Takes one of several options; the first one unless a history before had it already.
    fn take(&mut self, options: u32) -> u32 {
        if options == 1 {
            return 0;
        }
        if self.taken == self.path.len() {
            self.path.push((0, options));
        }
        let (option, known) = self.path[self.taken];
        assert_eq!(options, known, "a history is the same up to another decision");
        self.taken += 1;
        option
    }

    /// Whether nothing happened but connections that broke.
    pub(super) fn is_undisturbed(&self) -> bool {
        !self.is_disturbed
    }

    /// Prepares the next history; returns whether there is one.
    pub(super) fn next(&mut self) -> bool {
        (self.taken, self.left, self.is_disturbed) = (0, self.faults, false);
        while let Some((option, options)) = self.path.pop() {
            if option + 1 < options {
                self.path.push((option + 1, options));
                return true;
            }
        }
        false
    }
}

impl Decisions {
    pub(super) fn random(seed: u64, breaks: u32) -> Self {
        Self::Random(Box::new(StdRng::seed_from_u64(seed)), breaks)
    }

    /// What happens to a request; it is one of a transaction, and whether one is open.
    pub(super) fn fault(&mut self, is_of_transaction: bool, is_open: bool) -> Fault {
        match self {
            Self::Random(random, breaks) => {
                let all = [Fault::Lost, Fault::Unanswered, Fault::Late, Fault::Fenced, Fault::TimedOut];
                let options = if is_of_transaction { 4 + usize::from(is_open) } else { 2 };
                let is_fault = random.random_range(0..100) < *breaks;
                if is_fault { all[random.random_range(0..options)] } else { Fault::None }
            }
            Self::Every(search) if search.left == 0 || !is_of_transaction => Fault::None,
            Self::Every(search) => {
                // A late request that arrives next has lost its answer only; one that arrives in the end is lost.
                let all = [Fault::None, Fault::Late, Fault::Fenced, Fault::TimedOut];
                let fault = all[search.take(3 + u32::from(is_open)) as usize];
                search.left -= u32::from(fault != Fault::None);
                search.is_disturbed |= matches!(fault, Fault::Fenced | Fault::TimedOut);
                fault
            }
        }
    }

    /// Which of the late requests arrives now.
    pub(super) fn arrival(&mut self, late: usize) -> Option<usize> {
        match self {
            _ if late == 0 => None,
            Self::Random(random, _) => random.random_ratio(1, 4).then(|| random.random_range(0..late)),
            Self::Every(search) => (search.take(late as u32 + 1) as usize).checked_sub(1),
        }
    }

    /// Whether the caller stops waiting now.
    pub(super) fn deadline_passes(&mut self) -> bool {
        match self {
            Self::Random(random, breaks) => random.random_range(0..500) < *breaks,
            Self::Every(search) if search.left == 0 => false,
            Self::Every(search) => {
                let passes = search.take(2) == 1;
                search.left -= u32::from(passes);
                search.is_disturbed |= passes;
                passes
            }
        }
    }

    /// How many requests a marker takes.
    pub(super) fn delay(&mut self) -> u32 {
        match self {
            Self::Random(random, _) => random.random_range(1..=4),
            // The next transaction's addition is refused once or twice.
            Self::Every(_) => 3,
        }
    }
}
