//! The dashboard and the alert rules use metrics that `docs/metrics.md` lists, and each metric is in one of them.

use std::collections::BTreeSet;
use std::fs;

use crate::checkout::root;

/// How the names of our metrics begin.
const PREFIXES: [&str; 4] = ["pipeline_", "producer_", "consumer_", "product_updater_"];
/// Its limit is the size of the disk, which none of our metrics has.
const WITHOUT_ALERT: &str = "consumer_log_bytes";

/// The words of the text that begin like a metric.
fn metrics(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| PREFIXES.iter().any(|prefix| word.starts_with(prefix)));
    // The buckets of a histogram have the name of the histogram and this.
    ours.map(|word| word.strip_suffix("_bucket").unwrap_or(word)).collect()
}

#[test]
fn dashboard_and_rules_use_the_documented_metrics() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let (page, rules) = (read("docs/metrics.md"), read("conf/monitoring/rules.yml"));
    let dashboard = read("conf/monitoring/grafana/product-stream.json");
    let (_, numbers) = page.split_once("## Numbers").unwrap();
    let rows = numbers.lines().filter_map(|line| {
        let name = line.strip_prefix("| `")?.split(['`', '{']).next()?;
        let hint = line.trim_end_matches(" |").rsplit("| ").next()?;
        Some((name, hint))
    });
    let documented: BTreeSet<&str> = rows.clone().map(|(name, _)| name).collect();
    assert!(documented.len() > 30, "only {documented:?}");
    let used = [metrics(&rules), metrics(&dashboard)];
    for name in used.iter().flatten() {
        assert!(documented.contains(name), "{name} is not in docs/metrics.md");
    }
    for (name, hint) in rows {
        assert!(used.iter().any(|names| names.contains(name)), "neither dashboard nor rules use {name}");
        let has_alert = hint == "–" || name == WITHOUT_ALERT || used[0].contains(name);
        assert!(has_alert, "rules.yml has no alert for {name}: {hint}");
    }
}
