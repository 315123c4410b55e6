//! Named points between two durable steps, at which a test kills or stops the program.
//!
//! Failpoints exist only in builds with debug assertions and the feature `failpoints`, which only the package of the
//! tests turns on, so a release never has them. In other builds [`at`] is empty. The variable `FAILPOINTS` gives the
//! action of each point in the syntax of the crate `fail`: `producer.committed=7*off->1*return(kill)` kills the program
//! when it reaches that point for the eighth time.

/// Whether this build has the points.
pub const COMPILED: bool = cfg!(all(feature = "failpoints", debug_assertions));

/// Starts the failpoints from the environment; they work as long as the caller keeps the returned value.
#[cfg(all(feature = "failpoints", debug_assertions))]
#[must_use]
pub fn start() -> impl Drop {
    struct Scenario(#[allow(dead_code, reason = "held for its drop")] fail::FailScenario<'static>);
    impl Drop for Scenario {
        fn drop(&mut self) {}
    }
    Scenario(fail::FailScenario::setup())
}

/// The program has reached this point: `return(kill)` ends it with SIGKILL, `return(stop)` stops it with SIGSTOP; the
/// other actions of `fail` (`sleep(ms)`, `pause`) work as well.
#[cfg(all(feature = "failpoints", debug_assertions))]
pub fn at(name: &str) {
    use nix::sys::signal::{Signal, raise};
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
pub fn at(_name: &str) {}
