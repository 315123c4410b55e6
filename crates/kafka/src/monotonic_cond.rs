//! Makes librdkafka's waits use the monotonic clock, which nobody sets.
//!
//! librdkafka waits on C11's conditions, whose time limits are wall-clock times: when a machine's clock is set back by
//! an hour, waits of that moment may last an hour longer, including those of heartbeats and retries (librdkafka #2145,
//! open). So this module replaces the one C function that librdkafka waits with.

#![allow(unsafe_code, reason = "a function of the C library takes pointers")]

use std::ffi::c_int;

use libc::{CLOCK_MONOTONIC, CLOCK_REALTIME, ETIMEDOUT, clockid_t, pthread_cond_t, pthread_mutex_t, timespec};

/// `thrd_success`, `thrd_error` and `thrd_timedout` of glibc's <threads.h>.
const SUCCESS: c_int = 0;
const ERROR: c_int = 2;
const TIMED_OUT: c_int = 4;
/// The longest wait in nanoseconds. librdkafka checks the monotonic clock after each wait and waits again; if the clock
/// is set between its computing of a limit and this call, the delay is at most this long.
const LONGEST: i128 = 1_000_000_000;

unsafe extern "C" {
    /// Since glibc 2.30.
    fn pthread_cond_clockwait(
        condition: *mut pthread_cond_t,
        mutex: *mut pthread_mutex_t,
        clock: clockid_t,
        until: *const timespec,
    ) -> c_int;
}

/// The time of this clock, in nanoseconds.
fn now(clock: clockid_t) -> i128 {
    let mut now = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid pointer to write to.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    nanoseconds(&now)
}

fn nanoseconds(time: &timespec) -> i128 {
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

/// Waits until `condition` is signalled or until the wall-clock time `until`, but at most a second. Replaces the
/// function of this name in C11 (7.26.3.5), whose types are glibc's pthread ones.
///
/// # Safety
/// As in C: all pointers are valid, and the calling thread has locked `mutex`.
#[unsafe(no_mangle)]
unsafe extern "C" fn cnd_timedwait(
    condition: *mut pthread_cond_t,
    mutex: *mut pthread_mutex_t,
    until: *const timespec,
) -> c_int {
    // SAFETY: the caller passes a valid time.
    let left = nanoseconds(unsafe { &*until }) - now(CLOCK_REALTIME);
    let end = now(CLOCK_MONOTONIC) + left.clamp(0, LONGEST);
    let end = timespec {
        tv_sec: (end / 1_000_000_000).try_into().unwrap_or(0),
        tv_nsec: (end % 1_000_000_000).try_into().unwrap_or(0),
    };
    // SAFETY: the caller's pointers are valid, and `end` is ours.
    match unsafe { pthread_cond_clockwait(condition, mutex, CLOCK_MONOTONIC, &raw const end) } {
        0 => SUCCESS,
        ETIMEDOUT => TIMED_OUT,
        _ => ERROR,
    }
}
