//! librdkafka's waits, by a clock that nobody sets.
//!
//! librdkafka waits on C11's conditions, whose time limits are times of the day: when a machine's clock is set back by an
//! hour, whatever waits at that moment may wait for an hour more, heartbeats and retries among it (librdkafka #2145, open).
//! So the programs bring the one call that it waits with.

#![allow(unsafe_code, reason = "a function of the C library takes pointers")]

use std::ffi::c_int;

use libc::{CLOCK_MONOTONIC, CLOCK_REALTIME, ETIMEDOUT, clockid_t, pthread_cond_t, pthread_mutex_t, timespec};

/// `thrd_success`, `thrd_error` and `thrd_timedout` of glibc's <threads.h>.
const SUCCESS: c_int = 0;
const ERROR: c_int = 2;
const TIMED_OUT: c_int = 4;
/// The longest wait in nanoseconds. librdkafka looks at the monotonic clock after each and goes on; a clock that is set
/// between its making of a limit and this call costs no more than this.
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

/// What the clock shows, in nanoseconds.
fn now(clock: clockid_t) -> i128 {
    let mut now = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid place for the answer.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    nanoseconds(&now)
}

fn nanoseconds(time: &timespec) -> i128 {
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

/// Waits until `condition` is signalled or the time of the day is `until`, at the longest for a second; stands in for the
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
    // SAFETY: the caller gives a valid time.
    let left = nanoseconds(unsafe { &*until }) - now(CLOCK_REALTIME);
    let end = now(CLOCK_MONOTONIC) + left.clamp(0, LONGEST);
    let end = timespec {
        tv_sec: (end / 1_000_000_000).try_into().unwrap_or(0),
        tv_nsec: (end % 1_000_000_000).try_into().unwrap_or(0),
    };
    // SAFETY: the caller's pointers, and a time of our own.
    match unsafe { pthread_cond_clockwait(condition, mutex, CLOCK_MONOTONIC, &raw const end) } {
        0 => SUCCESS,
        ETIMEDOUT => TIMED_OUT,
        _ => ERROR,
    }
}
