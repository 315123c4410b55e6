//! Named points between two durable steps, at which a test kills or stops the program.
//!
//! They exist only in builds with the feature `failpoints`, which nothing but the tests' package turns on, and with debug
//! assertions: a release never has them, whatever is built along with it. Elsewhere [`at`] is empty. The variable `FAILPOINTS` says what happens where, in the language of the crate `fail`:
//! `producer.committed=7*off->1*return(kill)` kills the program the eighth time it comes to that point.

/// Whether this build has the points.
pub const COMPILED: bool = cfg!(all(feature = "failpoints", debug_assertions));

/// Starts them as the environment says; the answer must be kept for as long as they are to work.
#[cfg(all(feature = "failpoints", debug_assertions))]
#[must_use]
pub fn start() -> impl Drop {
    struct Scenario(#[allow(dead_code, reason = "held for its drop")] fail::FailScenario<'static>);
    impl Drop for Scenario {
        fn drop(&mut self) {}
    }
    Scenario(fail::FailScenario::setup())
}

/// The program is at this point: `return(kill)` ends it with SIGKILL, `return(stop)` stops it with SIGSTOP; what else
/// `fail` knows (`sleep(ms)`, `pause`) works as well.
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

/// What is written in one go elsewhere, in two halves with a point between them, so that a kill there leaves a torn line.
#[cfg(all(feature = "failpoints", debug_assertions))]
pub fn halves(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes.split_at(bytes.len() / 2)
}

/// What is written in one go; the second half is empty in this build.
#[cfg(not(all(feature = "failpoints", debug_assertions)))]
#[inline(always)]
pub fn halves(bytes: &[u8]) -> (&[u8], &[u8]) {
    (bytes, &[])
}

/// The program is at this point; nothing happens in this build.
#[cfg(not(all(feature = "failpoints", debug_assertions)))]
#[inline(always)]
pub fn at(_name: &str) {}
