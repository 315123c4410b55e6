//! Destinations beside the logs.

pub mod postgres;
