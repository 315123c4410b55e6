//! The summary at the end of a demo: the input, where it went, and what to look at next.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use serde_json::Value;

use testbed::cargo;
use testbed::servers::{Kafka, Stack};

const TOPIC: &str = "product_updates";
const GROUP: &str = "product_consumers";
const PARTITIONS: usize = 10;

/// The numbers of the summary.
#[derive(Debug, Default)]
pub(crate) struct Picture {
    /// Records per partition, according to the logs.
    records: Vec<usize>,
    /// Lines of each consumer's log.
    logs: BTreeMap<String, usize>,
    /// Partitions held by each consumer.
    held: BTreeMap<String, Vec<usize>>,
    /// Rows of the table in MySQL and of the one in PostgreSQL.
    rows: [Option<u64>; 2],
    /// Example lines, with their file.
    samples: Vec<(String, String)>,
}

impl Picture {
    /// Collects them from verify's report, the consumer group and the logs, which verify has found equal to the topic.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub(crate) fn of(stack: &Stack, report: &str) -> Result<Self> {
        let report: Value = serde_json::from_str(report).context("verify --json printed no JSON")?;
        let mut picture = Self { records: vec![0; PARTITIONS], held: assignment(stack)?, ..Self::default() };
        picture.rows = ["table_rows", "postgres_rows"].map(|count| report[count].as_u64());
        picture.read_logs(&cargo::root().join("consumer_logs"))?;
        Ok(picture)
    }

    fn read_logs(&mut self, folder: &Path) -> Result<()> {
        let (mut discounted, mut deleted) = (None, None);
        for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let consumer = entry?.file_name().to_string_lossy().into_owned();
            let path = folder.join(&consumer).join("consumer_log.json");
            let Ok(text) = fs::read_to_string(&path) else { continue };
            self.logs.insert(consumer.clone(), text.lines().count());
            for line in text.lines() {
                let record: Value =
                    serde_json::from_str(line).with_context(|| format!("{} holds a broken line", path.display()))?;
                let partition = record["partition"].as_u64().and_then(|number| usize::try_from(number).ok());
                if let Some(count) = partition.and_then(|partition| self.records.get_mut(partition)) {
                    *count += 1;
                }
                if discounted.is_none() && !record["discount_price"].is_null() {
                    discounted = Some((consumer.clone(), line.to_owned()));
                }
                if deleted.is_none() && record["op"] == "d" {
                    deleted = Some((consumer.clone(), line.to_owned()));
                }
            }
        }
        self.samples = discounted.into_iter().chain(deleted).collect();
        Ok(())
    }

    /// The changes in the topic.
    pub(crate) fn changes(&self) -> usize {
        self.records.iter().sum()
    }

    /// The summary as text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        _ = writeln!(text, "  changes in the topic {TOPIC}: {}", self.changes());
        _ = write!(text, "    partition");
        (0..PARTITIONS).for_each(|partition| _ = write!(text, "{partition:>7}"));
        _ = write!(text, "\n    records  ");
        self.records.iter().for_each(|count| _ = write!(text, "{count:>7}"));
        _ = writeln!(text, "\n\n    consumer      partitions      lines   log");
        for (consumer, lines) in &self.logs {
            let held =
                self.held.get(consumer).map(|held| held.iter().map(usize::to_string).collect::<Vec<_>>().join(", "));
            let held = held.unwrap_or_else(|| "none".to_owned());
            _ = writeln!(
                text,
                "    {consumer:<12}  {held:<12}  {lines:>7}   consumer_logs/{consumer}/consumer_log.json"
            );
        }
        if let [Some(table), Some(postgres)] = self.rows {
            _ = writeln!(text, "\n  rows of the table: {table} in MySQL, {postgres} in PostgreSQL");
        }
        for (consumer, line) in &self.samples {
            _ = writeln!(text, "\n  a line of {consumer}:\n    {line}");
        }
        text
    }
}

/// Whether `consumers` members own all partitions.
///
/// # Errors
/// When Kafka's tool cannot be run.
pub(crate) fn settled(stack: &Stack, consumers: usize) -> Result<bool> {
    let held = assignment(stack)?;
    Ok(held.len() == consumers && held.values().map(Vec::len).sum::<usize>() == PARTITIONS)
}

/// The partitions of each member of the group.
fn assignment(stack: &Stack) -> Result<BTreeMap<String, Vec<usize>>> {
    let mut tool = Kafka::tool("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand")?;
    tool.args(["--bootstrap-server", &format!("127.0.0.1:{}", stack.kafka.port)]);
    tool.args(["--describe", "--group", GROUP, "--members", "--verbose"]);
    let output = tool.stdin(Stdio::null()).output().context("cannot ask Kafka for the consumer group")?;
    Ok(members(&String::from_utf8_lossy(&output.stdout)))
}

/// Parses the table that Kafka's tool prints: a member's instance id, its slot and the identity of the logs folder, is
/// the third column; its partitions follow the topic.
fn members(table: &str) -> BTreeMap<String, Vec<usize>> {
    let member = |line: &str| {
        let mut words = line.split_whitespace();
        let consumer = words.nth(2)?.split('-').next()?.to_owned();
        let partitions = words.find_map(|word| word.strip_prefix(TOPIC)?.strip_prefix(':'))?;
        Some((consumer, partitions.split(',').filter_map(|number| number.parse().ok()).collect()))
    };
    table.lines().filter(|line| line.starts_with(GROUP)).filter_map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_as_kafka_prints_them() {
        let table = "\n\
            GROUP             CONSUMER-ID     GROUP-INSTANCE-ID HOST       CLIENT-ID #PARTITIONS CURRENT-EPOCH CURRENT-ASSIGNMENT\n\
            product_consumers consumer_1-b58f consumer_1-k7x2m9qa /127.0.0.1 one       2           -             product_updates:0,5 -  -\n\
            product_consumers consumer_2-237f consumer_2        /127.0.0.1 two       0           -             -                   -  -\n";
        assert_eq!(members(table), BTreeMap::from([("consumer_1".to_owned(), vec![0, 5])]));
    }

    #[test]
    fn the_picture_counts_what_the_logs_hold() {
        let folder = std::env::temp_dir().join(format!("xtask-picture-{}", std::process::id()));
        let log = folder.join("consumer_1");
        fs::create_dir_all(&log).unwrap();
        let lines = r#"{"id":1,"discount_price":null,"op":"c","partition":3}
{"id":2,"discount_price":8.00,"op":"u","partition":3}
{"id":1,"discount_price":null,"op":"d","partition":9}
"#;
        fs::write(log.join("consumer_log.json"), lines).unwrap();
        let mut picture = Picture { records: vec![0; PARTITIONS], rows: [Some(1), Some(1)], ..Picture::default() };
        picture.held.insert("consumer_1".to_owned(), vec![3, 9]);
        picture.read_logs(&folder).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        let text = picture.text();
        for part in [
            "product_updates: 3\n",
            "records        0      0      0      2      0      0      0      0      0      1\n",
            "consumer_1    3, 9                3   consumer_logs/consumer_1/",
            "1 in MySQL, 1 in PostgreSQL",
            r#"{"id":2,"discount_price":8.00"#,
            r#"{"id":1,"discount_price":null,"op":"d""#,
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
    }
}
