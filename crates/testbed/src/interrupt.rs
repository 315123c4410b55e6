//! Catches Ctrl-C, SIGTERM and SIGHUP as a flag that every wait checks, so that servers are stopped in order; SIGUSR1
//! is a second flag, by which the user allows ended programs to start again.
//!
//! A second signal ends the process at once; the servers then die with it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};

static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
static START_AGAIN: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Starts to catch the signals. Without this call they have their usual effect.
///
/// # Errors
/// When the system refuses a handler.
pub fn catch() -> Result<()> {
    let flag = FLAG.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(flag))?;
        signal_hook::flag::register(signal, Arc::clone(flag))?;
    }
    Ok(())
}

/// Starts to catch SIGUSR1, which would end the process otherwise.
///
/// # Errors
/// When the system refuses a handler.
pub fn catch_start_again() -> Result<()> {
    let flag = START_AGAIN.get_or_init(Arc::default);
    signal_hook::flag::register(SIGUSR1, Arc::clone(flag))?;
    Ok(())
}

/// Whether SIGUSR1 has arrived since the last call.
pub fn asked_to_start_again() -> bool {
    START_AGAIN.get().is_some_and(|flag| flag.swap(false, Ordering::SeqCst))
}

/// Whether a signal has arrived.
pub fn asked() -> bool {
    FLAG.get().is_some_and(|flag| flag.load(Ordering::SeqCst))
}

/// Returns an error when a signal has arrived, for use inside waits.
///
/// # Errors
/// [`Interrupted`], which is not a failure.
pub fn check() -> Result<()> {
    if asked() {
        bail!(Interrupted);
    }
    Ok(())
}

/// Sleeps until a signal arrives or `still` returns false.
pub fn wait_while(mut still: impl FnMut() -> bool) {
    while !asked() && still() {
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The user asked to stop.
#[derive(Debug)]
pub struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}
