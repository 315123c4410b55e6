//! Tests of all programs together. One program of many files links once, and runs them side by side.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod chaos;
mod console;
mod consumer_world;
mod doctor;
mod examples;
mod golden;
mod health;
mod kills;
mod links;
mod monitoring;
mod postgres_world;
mod security;
mod sessions;
mod stream;
mod tutorial;
mod verify;
