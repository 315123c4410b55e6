//! Configuration: defaults < `conf/config.yaml` < environment < flags.
//!
//! One [table] knows every setting. A setting `kafka.topic` has the same path in YAML, the environment name
//! `KAFKA_TOPIC` and the flag `--kafka-topic`. Each value keeps its [`Origin`], so that an error and `--check-config` can
//! say where it came from.
//!
//! Invariant: a [`Settings`] holds only values that have the form of their setting. What concerns several settings at
//! once is checked by the validated types ([`KafkaSettings`] and its like). Not here: whether a server answers.

#[cfg(test)]
mod document;
mod flags;
mod settings;
pub mod table;
mod transport;
mod typed;
mod value;
mod yaml;

#[cfg(test)]
mod tests;

pub use flags::command;
pub use settings::{Environment, Origin, Settings};
pub use table::Program;
pub use typed::{
    ClientOptions, KafkaSettings, MySqlSettings, OnRefused, PostgresSettings, RegistrySettings, SslMode, rules,
};
pub use value::{Pause, Secret, listen_addresses};

/// Where the configuration file is when nothing else is said.
pub const DEFAULT_FILE: &str = "conf/config.yaml";
