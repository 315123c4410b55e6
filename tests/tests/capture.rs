//! Tests of the way from CSV files and MySQL to Kafka. One program of many files links once, and runs them side by side.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod any_table;
mod checkpoint_file;
mod checkpoint_mount;
mod columns;
mod compressed;
mod consumer_world;
mod decoder_oracle;
mod feature_levels;
mod history;
mod late_requests;
mod long_lookups;
mod places;
mod postgres_world;
mod producer;
mod producer_edges;
mod producer_faults;
mod producer_stops;
mod quiet_readers;
mod refused_rows;
mod registry_rights;
mod remedies;
mod several_tables;
mod source_table;
mod statements;
mod transactions;
mod updater;
mod updater_refusals;
mod xa;
