//! The results of a run: numbers for a program, tables for a person.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// The format of `--json` and of `reports/chaos-report.json`; its keys are stable.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The seed of each round.
    pub seeds: Vec<u64>,
    /// The number of runs of each fault.
    pub faults: BTreeMap<String, u64>,
    /// Committed changes that did not arrive.
    pub lost: u64,
    /// Changes that arrived more than once.
    pub doubled: u64,
    /// Changes that arrived after a later one of their key.
    pub out_of_order: u64,
    /// Lines of logs that were cut off, and changes with another position than others of their transaction.
    pub torn: u64,
    /// For each run, the milliseconds until a change committed after the fault was in a log: from the fault's
    /// beginning, and from its end.
    pub recovery_ms: BTreeMap<String, Vec<[u64; 2]>>,
    /// Changes that the load committed, in all tables.
    pub changes: u64,
    /// By table, the changes that the load committed.
    #[serde(default)]
    pub changes_by_table: BTreeMap<String, u64>,
    /// Transactions that it committed.
    pub transactions: u64,
    /// Records of the load's keys in the topics.
    pub records: u64,
    /// The duration.
    pub minutes: f64,
    /// The numbers of brokers.
    pub brokers: Vec<usize>,
    /// The versions of the servers.
    pub versions: BTreeMap<String, String>,
    /// The command of each run.
    #[serde(default)]
    pub runs: Vec<String>,
}

/// The results of one round.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// Its seed.
    pub seed: u64,
    /// As in [`Report`].
    pub recoveries: BTreeMap<String, Vec<[u64; 2]>>,
    /// By table, the changes that the load committed.
    pub changes: BTreeMap<String, u64>,
    /// As in [`Report`].
    pub transactions: u32,
    /// As in [`Report`].
    pub records: u64,
    /// As in [`Report`].
    pub lost: u64,
    /// As in [`Report`].
    pub doubled: u64,
    /// As in [`Report`].
    pub out_of_order: u64,
    /// As in [`Report`].
    pub torn: u64,
}

impl Report {
    pub(crate) fn begin(brokers: usize) -> Self {
        Self { brokers: vec![brokers], ..Self::default() }
    }

    /// The number of faults so far.
    pub fn faults_done(&self) -> usize {
        self.faults.values().sum::<u64>() as usize
    }

    pub(crate) fn add(&mut self, round: Round, minutes: f64) {
        self.seeds.push(round.seed);
        for (name, times) in round.recoveries {
            *self.faults.entry(name.clone()).or_default() += times.len() as u64;
            self.recovery_ms.entry(name).or_default().extend(times);
        }
        self.changes += round.changes.values().sum::<u64>();
        sum_up(&mut self.changes_by_table, round.changes);
        self.transactions += u64::from(round.transactions);
        self.records += round.records;
        self.lost += round.lost;
        self.doubled += round.doubled;
        self.out_of_order += round.out_of_order;
        self.torn += round.torn;
        self.minutes = (minutes * 10.0).round() / 10.0;
    }

    /// Merges several runs into one report.
    ///
    /// # Errors
    /// When one of the texts is not a report.
    pub fn merge(texts: &[String]) -> Result<Self> {
        let mut sum = Self::default();
        for text in texts {
            let one: Self = serde_json::from_str(text)?;
            sum.seeds.extend(one.seeds);
            sum_up(&mut sum.faults, one.faults);
            sum_up(&mut sum.changes_by_table, one.changes_by_table);
            for (name, times) in one.recovery_ms {
                sum.recovery_ms.entry(name).or_default().extend(times);
            }
            for (total, part) in [
                (&mut sum.lost, one.lost),
                (&mut sum.doubled, one.doubled),
                (&mut sum.out_of_order, one.out_of_order),
                (&mut sum.torn, one.torn),
                (&mut sum.changes, one.changes),
                (&mut sum.transactions, one.transactions),
                (&mut sum.records, one.records),
            ] {
                *total += part;
            }
            sum.minutes += one.minutes;
            sum.brokers.extend(one.brokers);
            sum.versions.extend(one.versions);
            sum.runs.extend(one.runs);
        }
        sum.brokers.sort_unstable();
        sum.brokers.dedup();
        sum.minutes = (sum.minutes * 10.0).round() / 10.0;
        Ok(sum)
    }

    /// The report as a page, with the commands that repeat it.
    pub fn page(&self) -> String {
        let list = |items: Vec<String>| items.join(", ");
        format!(
            "# Faults made on purpose, and what became of them\n\n[tests/README.md](../tests/README.md) describes the harness and each fault; \
             all figures are in [chaos-report.json](chaos-report.json). A round in \
             which a fault does not show what it must ends there, is not judged, and is in no figure here.\n\n{}\n\
             Brokers: {}. {}. Seeds of the rounds: {}.\n\nThe runs:\n\n```sh\n{}\n```\n",
            self.render(),
            list(self.brokers.iter().map(usize::to_string).collect()).replace(", ", " or "),
            list(self.versions.iter().map(|(name, version)| format!("{name} {version}")).collect()),
            list(self.seeds.iter().map(u64::to_string).collect()),
            self.runs.join("\n"),
        )
    }

    /// The changes of each table, as a part of a sentence; empty for a report that does not have them.
    fn tables(&self) -> String {
        let tables: Vec<String> = self.changes_by_table.iter().map(|(name, count)| format!("{name} {count}")).collect();
        if tables.is_empty() { String::new() } else { format!(" (by table: {})", tables.join(", ")) }
    }

    /// The table of faults, in Markdown, and the verdict.
    pub fn render(&self) -> String {
        let mut text = String::from(
            "| fault | times | in all, p50 | p99 | max | after its end, p50 | p99 | max |\n|---|---:|---:|---:|---:|---:|---:|---:|\n",
        );
        for (name, count) in &self.faults {
            text.push_str(&format!("| {name} | {count} |"));
            let times = self.recovery_ms.get(name).map_or(&[][..], Vec::as_slice);
            for column in [0, 1] {
                let mut times: Vec<u64> = times.iter().map(|pair| pair[column]).collect();
                times.sort_unstable();
                for percent in [50, 99, 100] {
                    let place = (times.len() * percent).div_ceil(100).saturating_sub(1);
                    let seconds = times.get(place).map(|ms| format!(" {:.1} s", *ms as f64 / 1000.0));
                    text.push_str(&seconds.unwrap_or_default());
                    text.push_str(" |");
                }
            }
            text.push('\n');
        }
        text.push_str(&format!(
            "\n{} faults of {} kinds in {:.1} minutes, {} changes in {} transactions{}: {} lost, {} doubled, {} out of order, {} torn\n",
            self.faults_done(),
            self.faults.len(),
            self.minutes,
            self.changes,
            self.transactions,
            self.tables(),
            self.lost,
            self.doubled,
            self.out_of_order,
            self.torn,
        ));
        text
    }
}

fn sum_up(sums: &mut BTreeMap<String, u64>, counts: BTreeMap<String, u64>) {
    for (name, count) in counts {
        *sums.entry(name).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_add_up_and_show_the_slowest() {
        let mut report = Report::begin(1);
        let recoveries = (1..=100).map(|n| [n * 1000, n * 100]).collect();
        let recoveries = BTreeMap::from([("kill-all".to_owned(), recoveries)]);
        let changes = |counts: [(&str, u64); 2]| counts.map(|(name, count)| (name.to_owned(), count)).into();
        let of_first = changes([("product", 30), ("line_item", 10)]);
        let round = Round { seed: 7, recoveries, changes: of_first, transactions: 9, records: 39, ..Round::default() };
        report.add(round, 1.26);
        let mut other = Report::begin(3);
        let recoveries = BTreeMap::from([("link-cut".to_owned(), vec![[2500, 600]])]);
        let of_second = changes([("product", 1), ("line_2", 1)]);
        let second = Round { seed: 8, recoveries, transactions: 1, records: 2, torn: 1, ..Round::default() };
        other.add(Round { changes: of_second, ..second }, 0.5);
        let texts = [&report, &other].map(|report| serde_json::to_string(report).unwrap());
        let sum = Report::merge(&texts).unwrap();
        assert_eq!(
            (sum.seeds.as_slice(), sum.brokers.as_slice(), sum.faults_done()),
            ([7, 8].as_slice(), [1, 3].as_slice(), 101)
        );
        let text = sum.render();
        for line in [
            "| kill-all | 100 | 50.0 s | 99.0 s | 100.0 s | 5.0 s | 9.9 s | 10.0 s |",
            "| link-cut | 1 | 2.5 s | 2.5 s | 2.5 s | 0.6 s | 0.6 s | 0.6 s |",
            "101 faults of 2 kinds in 1.8 minutes, 42 changes in 10 transactions (by table: line_2 1, line_item 10, product 31): 0 lost, 0 doubled, 0 out of order, 1 torn",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        assert!(Report::merge(&["{}".to_owned()]).is_err());
    }
}
