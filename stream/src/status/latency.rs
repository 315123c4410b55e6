//! How long changes took from their commit in MySQL to the logs, by the histograms of the consumers. Pure.

use serde::Serialize;

const NAME: &str = "consumer_latency_seconds_bucket{le=\"";

/// How long changes took from their commit in MySQL until their line was committed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// The time that half of them took at most, in seconds.
    pub p50_seconds: f64,
    /// The time that 99 of a hundred took at most.
    pub p99_seconds: f64,
    /// How many there were.
    pub changes: u64,
}

/// A histogram: by upper bound in seconds, how many times were at most that.
#[derive(Clone, Debug, Default, PartialEq)]
struct Times(Vec<(f64, f64)>);

impl Times {
    fn of(metrics: &str) -> Self {
        let bucket = |line: &str| {
            let (bound, count) = line.strip_prefix(NAME)?.split_once("\"} ")?;
            Some((bound.parse().ok()?, count.parse().ok()?))
        };
        Self(metrics.lines().filter_map(bucket).collect())
    }

    fn count(&self) -> f64 {
        self.0.last().map_or(0.0, |(_, count)| *count)
    }

    /// Without those of an earlier look, if both are of one process.
    fn since(mut self, earlier: &Self) -> Self {
        if earlier.count() <= self.count() {
            self.0.iter_mut().zip(&earlier.0).for_each(|((_, count), (_, before))| *count -= before);
        }
        self
    }

    fn add(&mut self, other: &Self) {
        if self.0.is_empty() {
            self.0.clone_from(&other.0);
        } else {
            self.0.iter_mut().zip(&other.0).for_each(|((_, count), (_, more))| *count += more);
        }
    }

    /// The time that this part of all took at most, as if those of a bucket were spread evenly; the last bound for those
    /// beyond it.
    fn quantile(&self, part: f64) -> f64 {
        let rank = self.count() * part;
        let place = self.0.partition_point(|(_, count)| *count < rank);
        let (low, before) = place.checked_sub(1).map_or((0.0, 0.0), |before| self.0[before]);
        match self.0.get(place) {
            Some((high, count)) if high.is_finite() => low + (high - low) * (rank - before) / (count - before).max(1.0),
            _ => low,
        }
    }
}

/// The address of a program, and its metrics in Prometheus' text format.
pub(super) type Shown<'a> = (&'a str, &'a str);

/// The latency of what became durable between two looks, of programs that answered at both; or, without an earlier look,
/// since their start. `None` when there was nothing, or no program answers.
pub(super) fn between<'a>(now: impl Iterator<Item = Shown<'a>>, before: Option<&[Shown<'_>]>) -> Option<Latency> {
    let mut all = Times::default();
    for (address, metrics) in now {
        let times = Times::of(metrics);
        match before.map(|before| before.iter().find(|(earlier, _)| *earlier == address)) {
            None => all.add(&times),
            Some(Some((_, earlier))) => all.add(&times.since(&Times::of(earlier))),
            Some(None) => {}
        }
    }
    let changes = all.count();
    (changes > 0.0).then(|| Latency {
        p50_seconds: all.quantile(0.5),
        p99_seconds: all.quantile(0.99),
        changes: changes as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(buckets: [u64; 4]) -> String {
        let bounds = ["0.01", "0.02", "0.1", "+Inf"];
        let line = |(bound, count)| format!("{NAME}{bound}\"}} {count}\n");
        format!("other 1\n{}", bounds.into_iter().zip(buckets).map(line).collect::<String>())
    }

    #[test]
    fn the_times_of_all_consumers_count_since_the_look_before() {
        let [a, b] = [[10, 110, 120, 120], [0, 100, 190, 200]].map(metrics);
        let now = [("a", a.as_str()), ("b", b.as_str())];
        let since_start = between(now.into_iter(), None).expect("changes");
        assert_eq!((since_start.changes, since_start.p99_seconds), (320, 0.1));
        assert!((since_start.p50_seconds - 0.0175).abs() < 1e-9, "{since_start:?}");
        let earlier = metrics([10, 10, 20, 20]);
        let latency = between(now.into_iter(), Some(&[("a", &earlier), ("b", &b)])).expect("changes");
        assert_eq!(latency.changes, 100);
        assert!(
            (latency.p50_seconds - 0.015).abs() < 1e-9 && (latency.p99_seconds - 0.0199).abs() < 1e-9,
            "{latency:?}"
        );
        assert_eq!(between(now.into_iter(), Some(&now)), None, "nothing happened");
        assert_eq!(between(now.into_iter(), Some(&[("a", &a)])), None, "no earlier look at the other");
    }

    #[test]
    fn a_process_that_began_anew_counts_from_its_start() {
        let [now, earlier] = [[5; 4], [10, 110, 120, 120]].map(metrics);
        let latency = between([("a", now.as_str())].into_iter(), Some(&[("a", &earlier)])).expect("changes");
        assert_eq!((latency.changes, latency.p50_seconds), (5, 0.005));
        assert_eq!(between([].into_iter(), None), None);
        assert_eq!(between([("a", metrics([0; 4]).as_str())].into_iter(), None), None);
    }

    #[test]
    fn what_took_longer_than_all_bounds_took_the_last_one_at_least() {
        let latency = between([("a", metrics([0, 0, 0, 7]).as_str())].into_iter(), None).expect("changes");
        assert_eq!((latency.p50_seconds, latency.p99_seconds), (0.1, 0.1));
    }
}
