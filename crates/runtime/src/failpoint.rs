//! The points between two durable [steps](crate::step), at which a test kills or stops the program.
//!
//! Failpoints exist only in builds with debug assertions and the feature `failpoints`, which only the package of the
//! tests turns on, so a release never has them. In other builds [`at`] is empty. The variable `FAILPOINTS` gives the
//! action of each point in the syntax of the crate `fail`: `producer.committed=7*off->1*return(kill)` kills the program
//! when it reaches that point for the eighth time. A name that is no step ends the program at its start.

use crate::step::DurableStep;
#[cfg(all(feature = "failpoints", debug_assertions))]
use crate::step::{ConsumerStep, ProducerStep};

/// Whether this build has the points.
pub const COMPILED: bool = cfg!(all(feature = "failpoints", debug_assertions));

/// Starts the failpoints from the environment; they work as long as the caller keeps the returned value.
///
/// # Errors
/// Usage when the environment names a point that no program has.
#[cfg(all(feature = "failpoints", debug_assertions))]
pub fn start() -> model::error::Result<impl Drop> {
    struct Scenario(#[allow(dead_code, reason = "held for its drop")] fail::FailScenario<'static>);
    impl Drop for Scenario {
        fn drop(&mut self) {}
    }
    let wanted = std::env::var("FAILPOINTS").unwrap_or_default();
    if let Some(name) = unknown(&wanted) {
        return Err(model::error::Error::usage(format!("FAILPOINTS names {name}, which is no step of a program"))
            .with_remedy("name a step of crates/runtime/src/step.rs"));
    }
    Ok(Scenario(fail::FailScenario::setup()))
}

/// The first name in the value of `FAILPOINTS` that is no step.
#[cfg(all(feature = "failpoints", debug_assertions))]
fn unknown(wanted: &str) -> Option<&str> {
    let names = wanted.split(';').filter_map(|point| point.split_once('=')).map(|(name, _)| name.trim());
    let is_step = |name: &str| {
        ProducerStep::ALL.iter().any(|step| step.name() == name)
            || ConsumerStep::ALL.iter().any(|step| step.name() == name)
    };
    names.into_iter().find(|name| !is_step(name))
}

/// The program has reached this point: `return(kill)` ends it with SIGKILL, `return(stop)` stops it with SIGSTOP; the
/// other actions of `fail` (`sleep(ms)`, `pause`) work as well.
#[cfg(all(feature = "failpoints", debug_assertions))]
pub fn at(step: impl DurableStep) {
    use nix::sys::signal::{Signal, raise};
    let name = step.name();
    fail::fail_point!(name, |what| {
        let signal = if what.as_deref() == Some("stop") { Signal::SIGSTOP } else { Signal::SIGKILL };
        tracing::warn!(point = name, %signal, "failpoint");
        if let Err(error) = raise(signal) {
            tracing::error!(point = name, %error, "failpoint");
        }
    });
}

/// Splits a write in two halves with a failpoint between them, so that a kill there leaves a torn line.
#[cfg(all(feature = "failpoints", debug_assertions))]
pub fn halves(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes.split_at(bytes.len() / 2)
}

/// The whole write; the second half is empty in this build.
#[cfg(not(all(feature = "failpoints", debug_assertions)))]
#[inline(always)]
pub fn halves(bytes: &[u8]) -> (&[u8], &[u8]) {
    (bytes, &[])
}

/// The program has reached this point; this build does nothing.
#[cfg(not(all(feature = "failpoints", debug_assertions)))]
#[inline(always)]
pub fn at(_step: impl DurableStep) {}

#[cfg(all(test, feature = "failpoints", debug_assertions))]
mod tests {
    #[test]
    fn a_name_that_is_no_step_is_found() {
        for (wanted, want) in [
            ("", None),
            ("producer.sent=1*off->return(kill);consumer.polled=return(stop)", None),
            ("producer.sent=return(kill); producer.send=return(kill)", Some("producer.send")),
        ] {
            assert_eq!(super::unknown(wanted), want, "{wanted}");
        }
    }
}
