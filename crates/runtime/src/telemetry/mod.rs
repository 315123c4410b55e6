//! The telemetry of a running program: its log on stderr, its metrics and its health over HTTP.
//!
//! Invariant: health follows real progress. A program that runs but has made no progress within its deadline answers
//! 503, so that a dead connection can't look healthy. Not here: tracing across programs.

mod health;
mod log_writer;
mod metrics;
mod server;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

pub use health::{Health, Watchdog};
pub use metrics::{Counter, Gauge, Histogram, LATENCY_BOUNDS, Metrics};
pub use server::serve;

use log_writer::LogWriter;

use crate::config::{Environment, Origin, Settings};
use model::error::Result;

/// Starts the log on stderr: text (with colours on a terminal only) or JSON, by `log.level` and `log.format`.
/// `RUST_LOG` applies unless a flag sets the level.
///
/// # Errors
/// Usage when the filter can't be read.
pub fn start_log(settings: &Settings, environment: &Environment) -> Result<()> {
    let by_flag = matches!(settings.origin("log.level"), Some(Origin::Flag(_)));
    let text = environment.get("RUST_LOG").filter(|_| !by_flag).unwrap_or_else(|| settings.text("log.level"));
    let filter = EnvFilter::try_new(text).map_err(|e| {
        settings
            .wrong("log.level", "is not a log filter")
            .with_source(e)
            .with_remedy("use error, warn, info, debug or trace, or a filter such as info,rdkafka=debug")
    })?;
    let colours = settings.text("log.format") != "json" && std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(move || LogWriter::new(colours));
    let started = if settings.text("log.format") == "json" {
        log.json().flatten_event(true).try_init()
    } else {
        log.with_ansi(colours).with_target(false).try_init()
    };
    if let Err(error) = started {
        // Only a second start in one process gets here; the first log stays in use.
        tracing::debug!(error, "the log is started already");
    }
    Ok(())
}
