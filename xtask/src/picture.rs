//! The closing picture of a demo: what went in, where it went, and what to look at next.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::background;
use crate::programs::{CONSUMERS, Programs};
use crate::services::Stack;

/// The numbers of the picture.
#[derive(Debug)]
pub struct Picture {
    verdict: Value,
    partitions: BTreeMap<String, String>,
    lines: Vec<Vec<String>>,
}

impl Picture {
    /// From verify's report, the consumer group and the logs.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn of(stack: &Stack, report: &str) -> Result<Self> {
        let verdict = serde_json::from_str(report).context("verify --json printed no JSON")?;
        let log = |number: usize| {
            let path = background::root().join(format!("consumer_logs/consumer_{number}/consumer_log.json"));
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok(text.lines().map(str::to_owned).collect())
        };
        let lines = (1..=CONSUMERS).map(log).collect::<Result<_>>()?;
        Ok(Self { verdict, partitions: assignment(stack)?, lines })
    }

    /// The picture as text.
    pub fn text(&self, stack: &Stack, programs: &Programs, kept: bool) -> String {
        let _ = (&self.verdict, &self.partitions, &self.lines, stack, programs, kept);
        String::new()
    }
}

/// Which member of the group, by its instance id, holds which partitions.
fn assignment(stack: &Stack) -> Result<BTreeMap<String, String>> {
    let mut tool = stack.kafka.tool("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand")?;
    tool.args(["--bootstrap-server", &format!("127.0.0.1:{}", stack.kafka.port)]);
    tool.args(["--describe", "--group", "product_consumers", "--members", "--verbose"]);
    let output = tool.stdin(Stdio::null()).output().context("cannot ask Kafka for the consumer group")?;
    Ok(members(&String::from_utf8_lossy(&output.stdout)))
}

fn members(_table: &str) -> BTreeMap<String, String> {
    BTreeMap::new()
}
