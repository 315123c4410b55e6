//! Counters, gauges and histograms, shown in Prometheus' text format (version 0.0.4).
//!
//! Names and labels are constants of the programs; creating the same metric again returns the same value.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// A number that only grows.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Adds to it.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Its present value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicI64>);

impl Gauge {
    /// Sets it.
    pub fn set(&self, n: i64) {
        self.0.store(n, Relaxed);
    }

    /// Its present value.
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// The upper bounds of a histogram's buckets, in seconds. The last bucket has no bound.
pub const LATENCY_BOUNDS: [f64; 24] = [
    0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0,
    120.0, 300.0, 900.0, 3600.0,
];

/// Times by buckets.
#[derive(Clone, Debug, Default)]
pub struct Histogram(Arc<Buckets>);

#[derive(Debug, Default)]
struct Buckets {
    /// By bucket, how many times were in it and in none before.
    counts: [AtomicU64; LATENCY_BOUNDS.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    /// Adds times, in microseconds.
    pub fn add(&self, times_us: impl Iterator<Item = u64>) {
        let mut counts = [0_u64; LATENCY_BOUNDS.len() + 1];
        let mut sum = 0_u64;
        for time in times_us {
            let bucket = LATENCY_BOUNDS.partition_point(|bound| time as f64 > bound * 1e6);
            counts[bucket] += 1;
            sum = sum.saturating_add(time);
        }
        for (bucket, count) in self.0.counts.iter().zip(counts).filter(|(_, count)| *count > 0) {
            bucket.fetch_add(count, Relaxed);
        }
        self.0.sum_us.fetch_add(sum, Relaxed);
    }

    /// The series of a histogram: cumulative buckets, sum in seconds, and count.
    fn render(&self, name: &str, out: &mut String) {
        let mut total = 0;
        let bounds = LATENCY_BOUNDS.map(|bound| bound.to_string());
        for (bucket, bound) in self.0.counts.iter().zip(bounds.iter().map(String::as_str).chain(["+Inf"])) {
            total += bucket.load(Relaxed);
            // Writing to a String can't fail.
            let _ok = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {total}");
        }
        let sum = self.0.sum_us.load(Relaxed) as f64 / 1e6;
        let _ok = writeln!(out, "{name}_sum {}\n{name}_count {total}", number(sum));
    }
}

/// Computes a number on request; `None` while there is none.
struct Computed(Box<dyn Fn() -> Option<f64> + Send + Sync>);

impl std::fmt::Debug for Computed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Computed")
    }
}

#[derive(Debug)]
enum Family {
    Counters(BTreeMap<String, Counter>),
    Gauges(BTreeMap<String, Gauge>),
    Computed(Computed),
    Histogram(Histogram),
}

/// All metrics of a program.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Mutex<BTreeMap<&'static str, (&'static str, Family)>>>);

impl Metrics {
    /// The counter with this name and these labels; its name ends in `_total`.
    pub fn counter(&self, name: &'static str, help: &'static str, labels: &[(&str, &str)]) -> Counter {
        let mut families = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, family) = families.entry(name).or_insert_with(|| (help, Family::Counters(BTreeMap::new())));
        match family {
            Family::Counters(counters) => counters.entry(series(labels)).or_default().clone(),
            // A program used a constant twice; the number is counted but not shown.
            _ => Counter::default(),
        }
    }

    /// Shows name, type and help of a counter whose labels are unknown until there is something to count.
    pub fn announce_counter(&self, name: &'static str, help: &'static str) {
        let mut families = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        families.entry(name).or_insert_with(|| (help, Family::Counters(BTreeMap::new())));
    }

    /// The gauge with this name and these labels; its name ends in its unit.
    pub fn gauge(&self, name: &'static str, help: &'static str, labels: &[(&str, &str)]) -> Gauge {
        let mut families = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, family) = families.entry(name).or_insert_with(|| (help, Family::Gauges(BTreeMap::new())));
        match family {
            Family::Gauges(gauges) => gauges.entry(series(labels)).or_default().clone(),
            _ => Gauge::default(),
        }
    }

    /// A gauge that is computed on each request, so that it moves while the program is blocked; `None` omits it. Its
    /// name ends in its unit.
    pub fn computed(
        &self,
        name: &'static str,
        help: &'static str,
        value: impl Fn() -> Option<f64> + Send + Sync + 'static,
    ) {
        let mut families = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        families.insert(name, (help, Family::Computed(Computed(Box::new(value)))));
    }

    /// A gauge that is omitted until it is known, for values that 0 does not represent: a time, a count from 1.
    pub fn once_known(&self, name: &'static str, help: &'static str) -> Gauge {
        let gauge = Gauge::default();
        let shown = gauge.clone();
        self.computed(name, help, move || Some(shown.get()).filter(|n| *n != 0).map(|n| n as f64));
        gauge
    }

    /// The histogram with this name, which ends in `_seconds`.
    pub fn histogram(&self, name: &'static str, help: &'static str) -> Histogram {
        let mut families = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, family) = families.entry(name).or_insert_with(|| (help, Family::Histogram(Histogram::default())));
        match family {
            Family::Histogram(histogram) => histogram.clone(),
            _ => Histogram::default(),
        }
    }

    /// All metrics as text.
    pub fn render(&self) -> String {
        let families = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut out, no_labels) = (String::new(), String::new());
        for (name, (help, family)) in families.iter() {
            let (kind, values): (_, Vec<(&String, String)>) = match family {
                Family::Counters(all) => ("counter", all.iter().map(|(l, c)| (l, c.get().to_string())).collect()),
                Family::Gauges(all) => ("gauge", all.iter().map(|(l, g)| (l, g.get().to_string())).collect()),
                Family::Computed(Computed(value)) => {
                    ("gauge", value().map(|v| (&no_labels, number(v))).into_iter().collect())
                }
                Family::Histogram(_) => ("histogram", Vec::new()),
            };
            // Writing to a String can't fail.
            let _ok = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in values {
                let _ok = writeln!(out, "{name}{labels} {value}");
            }
            if let Family::Histogram(histogram) = family {
                histogram.render(name, &mut out);
            }
        }
        out
    }
}

/// Rounded to three places, i.e. milliseconds.
fn number(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() };
    }
    format!("{:.3}", value).trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn series(labels: &[(&str, &str)]) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let escape = |v: &str| v.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<_> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escape(v))).collect();
    format!("{{{}}}", pairs.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_renders_prometheus_text() {
        let metrics = Metrics::default();
        metrics.counter("rows_total", "Rows.", &[("op", "c")]).add(2);
        metrics.counter("rows_total", "Rows.", &[("op", "c")]).add(1);
        metrics.counter("rows_total", "Rows.", &[("op", "a\"b")]).add(1);
        metrics.gauge("lag_seconds", "Lag.", &[]).set(-4);
        for name in ["none_total", "rows_total"] {
            metrics.announce_counter(name, "Rows.");
        }
        let want = "# HELP lag_seconds Lag.\n# TYPE lag_seconds gauge\nlag_seconds -4\n\
                    # HELP none_total Rows.\n# TYPE none_total counter\n\
                    # HELP rows_total Rows.\n# TYPE rows_total counter\nrows_total{op=\"a\\\"b\"} 1\nrows_total{op=\"c\"} 3\n";
        assert_eq!(metrics.render(), want);
    }

    #[test]
    fn a_histogram_has_cumulative_buckets() {
        let metrics = Metrics::default();
        let times = metrics.histogram("wait_seconds", "Waits.");
        times.add([0, 2_000, 2_001, 40_000, u64::MAX / 2].into_iter());
        metrics.histogram("wait_seconds", "Waits.").add([40_000].into_iter());
        let text = metrics.render();
        assert!(text.starts_with("# HELP wait_seconds Waits.\n# TYPE wait_seconds histogram\n"), "{text}");
        for line in [
            "wait_seconds_bucket{le=\"0.002\"} 2",
            "wait_seconds_bucket{le=\"0.005\"} 3",
            "wait_seconds_bucket{le=\"0.03\"} 3",
            "wait_seconds_bucket{le=\"0.05\"} 5",
            "wait_seconds_bucket{le=\"3600\"} 5",
            "wait_seconds_bucket{le=\"+Inf\"} 6",
            "wait_seconds_count 6",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert_eq!(text.lines().count(), 2 + LATENCY_BOUNDS.len() + 1 + 2);
    }

    #[test]
    fn what_is_computed_is_as_it_is_when_somebody_looks() {
        let metrics = Metrics::default();
        let count = Counter::default();
        let seen = count.clone();
        metrics.computed("age_seconds", "Age.", move || (seen.get() > 0).then(|| seen.get() as f64 / 4.0));
        let head = "# HELP age_seconds Age.\n# TYPE age_seconds gauge\n";
        assert_eq!(metrics.render(), head);
        count.add(5);
        assert_eq!(metrics.render(), format!("{head}age_seconds 1.25\n"));
        assert_eq!([0.0, 10.0, f64::INFINITY, 1.0004].map(number), ["0", "10", "+Inf", "1"]);
    }
}
