//! What the fuzz targets share: seeds with edits as inputs, and a judge of memory and time.
//!
//! A target is a unit test beside the code that it feeds. `cargo test` runs each for a fixed number of inputs;
//! `tests/README.md` has the commands for long runs.
#![allow(clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod memory;

use std::path::Path;
use std::time::Duration;

pub use bolero;
use nix::time::{ClockId, clock_gettime};

/// Bytes of an input at most.
pub const LONGEST: usize = 64 << 10;
/// The processor's time that an input may take, also in a build without optimisation.
const MOST_TIME: Duration = Duration::from_secs(2);

/// A change of an input: where, which, and with what.
pub type Edit = (u16, u8, u8);

/// Runs a target: `check!(seeds, iterations, |input: &[u8]| ..)` with seeds from [`seeds`].
#[macro_export]
macro_rules! check {
    ($seeds:expr, $iterations:expr, $check:expr) => {{
        let seeds: Vec<Vec<u8>> = $seeds;
        $crate::bolero::check!().with_type::<(u16, Vec<$crate::Edit>)>().with_iterations($iterations).for_each(
            |(seed, edits)| $crate::judge(&$crate::edited(&seeds[usize::from(*seed) % seeds.len()], edits), $check),
        );
    }};
}

/// The files of `seeds/<target>`, in the order of their names.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} has no seeds", folder.display());
    files.iter().map(|file| std::fs::read(file).expect("a seed")).collect()
}

/// The seed after these edits, at most [`LONGEST`] bytes.
pub fn edited(seed: &[u8], edits: &[Edit]) -> Vec<u8> {
    const NUMBERS: [&[u8]; 6] =
        [&[0xff; 8], &[0; 8], &[0x80], &[0x7f, 0xff, 0xff, 0xff], &[0xfd, 0xff, 0xff], &[0xfe, 0xff]];
    let mut bytes = seed.to_vec();
    for (at, kind, with) in edits {
        let at = usize::from(*at) % (bytes.len() + 1);
        let count = usize::from(*with) % (bytes.len() - at + 1);
        match kind % 8 {
            0 | 1 if at < bytes.len() => bytes[at] = *with,
            2 if at < bytes.len() => bytes[at] ^= 1 << (with % 8),
            3 => bytes.insert(at, *with),
            4 => drop(bytes.drain(at..at + count)),
            5 => bytes.truncate(bytes.len() - count.min(16)),
            6 => {
                let part = bytes[at..at + count].repeat(usize::from(*with) % 16 + 1);
                bytes.splice(at..at, part);
            }
            7 => {
                let number = NUMBERS[usize::from(*with) % NUMBERS.len()];
                let end = (at + number.len()).min(bytes.len());
                bytes.splice(at..end, number.iter().copied());
            }
            _ => {}
        }
        bytes.truncate(LONGEST);
    }
    bytes
}

/// Hands the input over.
///
/// # Panics
/// When it takes more than 32 MiB of memory at once in this thread, or more than two seconds of the processor.
pub fn judge(input: &[u8], check: impl FnOnce(&[u8])) {
    const MOST_MEMORY: usize = 32 << 20;
    let begun = now();
    let peak = memory::peak_of(|| check(input));
    let taken = now().saturating_sub(begun);
    assert!(peak <= MOST_MEMORY, "{peak} bytes of memory for an input of {} bytes", input.len());
    assert!(taken <= MOST_TIME, "{taken:?} for an input of {} bytes", input.len());
}

fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("the clock of the thread").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_judge_sees_memory() {
        judge(b"", |_| drop(std::hint::black_box(vec![1_u8; 1 << 20])));
        let panicked = std::panic::catch_unwind(|| judge(b"", |_| drop(std::hint::black_box(vec![1_u8; 40 << 20]))));
        assert!(panicked.is_err());
    }

    #[test]
    fn edits_stay_within_the_limit() {
        let edits = [(0, 6, 255); 20];
        assert_eq!(edited(&[7; 1_000], &edits).len(), LONGEST);
        assert_eq!(edited(b"abc", &[(1, 0, b'x'), (4, 3, b'd')]), b"daxc");
    }
}
