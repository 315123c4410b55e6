//! Configuration: defaults < `conf/config.yaml` < environment < flags.
//!
//! One [table] lists every setting. A setting `kafka.topic` has the same path in YAML, the environment name
//! `KAFKA_TOPIC` and the flag `--kafka-topic`. Each value keeps its [`Origin`], which errors and `--check-config`
//! print.
//!
//! Invariant: a [`Settings`] holds only values that have the form of their setting. The validated types
//! ([`KafkaSettings`] and others) check rules across several settings. Not here: whether a server answers.

mod client_options;
mod flags;
mod host;
mod load;
mod pattern;
mod postgres_url;
mod row_rules;
mod settings;
pub mod table;
mod tables;
mod transport;
mod typed;
mod value;
mod yaml;

pub use client_options::ClientOptions;
pub use flags::command;
pub use load::DEFAULT_FILE;
pub use pattern::Pattern;
pub use postgres_url::TlsParameters;
pub use row_rules::{line_form, rules};
pub use settings::{Environment, Origin, Settings};
pub use table::Program;
pub use tables::{PINNED_SCHEMA, Tables, require_own_topic};
pub use typed::{KafkaSettings, MySqlSettings, OnRefused, PostgresSettings, RegistrySettings, SslMode};
pub use value::{Pause, Secret, listen_addresses};

#[cfg(test)]
mod document;
#[cfg(test)]
mod tests;
