//! Tests of the way from Kafka to the logs and PostgreSQL. One program of many files links once, and runs them side by side.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod any_record;
mod consumer;
mod consumer_outages;
mod consumer_postgres;
mod consumer_world;
mod epochs;
mod hostile;
mod offsets;
mod postgres_evolution;
mod postgres_policy;
mod postgres_sessions;
mod postgres_world;
mod several_topics;
mod two_machines;
