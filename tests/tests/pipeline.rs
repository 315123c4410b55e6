//! Tests of all programs together. One program of many files links once, and runs them side by side.

mod chaos;
mod consumer_world;
mod doctor;
mod examples;
mod golden;
mod health;
mod kills;
mod links;
mod postgres_world;
mod security;
mod sessions;
mod tutorial;
mod verify;
