//! Pauses before something is tried again: they grow with each attempt.

use std::time::{Duration, Instant};

/// How long the pauses are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// The broker is writing the end of the transaction before: 250 µs, 500 µs, 1, 2 … 20 ms.
    Short,
    /// The coordinator aborts a predecessor's transaction: 5, 10 … 100 ms.
    Abort,
    /// A broker is not ready: 10, 20 … 500 ms.
    Usual,
    /// A connection can't be made: 50, 100 … 2,000 ms.
    Connect,
}

impl Length {
    fn bounds(self) -> (Duration, Duration) {
        let (first, most) = match self {
            Self::Short => (250, 20_000),
            Self::Abort => (5_000, 100_000),
            Self::Usual => (10_000, 500_000),
            Self::Connect => (50_000, 2_000_000),
        };
        (Duration::from_micros(first), Duration::from_micros(most))
    }
}

/// The attempts of one thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pause {
    until: Option<Instant>,
    attempts: u32,
}

impl Pause {
    /// An attempt has failed: pauses.
    pub(crate) fn again(&mut self, length: Length, now: Instant) {
        let (first, most) = length.bounds();
        let pause = first.saturating_mul(1 << self.attempts.min(16)).min(most);
        self.attempts += 1;
        self.until = Some(now + pause);
    }

    /// Whether the next attempt may be made.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| until <= now)
    }

    /// The end of the pause, when it is not over.
    pub(crate) fn until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }

    /// The attempts that failed since the last success.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound() {
        let now = Instant::now();
        let mut pause = Pause::default();
        assert!(pause.is_over(now));
        let mut lengths = Vec::new();
        for _ in 0..9 {
            pause.again(Length::Short, now);
            lengths.push(pause.until(now).expect("a pause").duration_since(now).as_micros());
        }
        assert_eq!(lengths, [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 20_000, 20_000]);
        assert!(!pause.is_over(now) && pause.is_over(now + Duration::from_millis(20)));
    }
}
