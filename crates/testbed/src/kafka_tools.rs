//! Runs Kafka's own command line tools on a running stack, under the names from its distribution.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::servers::Kafka;

/// Name and class, as in `bin/kafka-NAME.sh`.
const TOOLS: [(&str, &str); 5] = [
    ("topics", "org.apache.kafka.tools.TopicCommand"),
    ("consumer-groups", "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"),
    ("console-consumer", "org.apache.kafka.tools.consumer.ConsoleConsumer"),
    ("get-offsets", "org.apache.kafka.tools.GetOffsetShell"),
    ("configs", "kafka.admin.ConfigCommand"),
];

/// Runs a tool with `arguments` on the first of these stacks that is running, or on `KAFKA_BOOTSTRAP_SERVERS`.
///
/// # Errors
/// As [`command`]. A tool that fails prints its own error.
pub fn run(tool: &str, arguments: &[String], stacks: &[&Path]) -> Result<()> {
    let status = command(tool, arguments, stacks)?.status()?;
    if !status.success() {
        bail!("{tool} ended with {status}");
    }
    Ok(())
}

/// The command of a tool; see [`run`].
///
/// # Errors
/// When the tool is unknown or nothing is running.
pub fn command(tool: &str, arguments: &[String], stacks: &[&Path]) -> Result<Command> {
    let Some((_, class)) = TOOLS.iter().find(|(name, _)| *name == tool) else {
        let names: Vec<&str> = TOOLS.iter().map(|(name, _)| *name).collect();
        bail!("there is no tool {tool}\n  what to do: use one of {}", names.join(", "));
    };
    let servers =
        std::env::var("KAFKA_BOOTSTRAP_SERVERS").ok().or_else(|| stacks.iter().find_map(|dir| broker_of(dir)));
    let servers = servers.context("no stack runs\n  what to do: cargo xtask up, or set KAFKA_BOOTSTRAP_SERVERS")?;
    let call = Kafka::tool_call(class)?;
    let mut command = Command::new(&call[0]);
    command.args(&call[1..]).args(["--bootstrap-server", &servers]).args(arguments);
    Ok(command)
}

fn broker_of(dir: &Path) -> Option<String> {
    let env = fs::read_to_string(dir.join("env")).ok()?;
    env.lines().find_map(|line| line.strip_prefix("export KAFKA_BOOTSTRAP_SERVERS=")).map(str::to_owned)
}
