//! A wall clock for one program, which a test sets while the program runs.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/clock.c");

/// The clock; it shows the machine's time until it is set.
pub struct Clock {
    library: PathBuf,
    shift: PathBuf,
}

impl Clock {
    /// Builds the library for the clock in `folder`.
    ///
    /// # Errors
    /// When there is no C compiler.
    pub fn new(folder: &Path) -> anyhow::Result<Self> {
        let (library, shift) = (folder.join("clock.so"), folder.join("clock.shift"));
        let mut compiler = Command::new("gcc");
        compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&library).arg(SOURCE);
        crate::machine::run(&mut compiler)?;
        let clock = Self { library, shift };
        fs::write(&clock.shift, 0_i64.to_ne_bytes())?;
        Ok(clock)
    }

    /// The variables that make a program use the clock.
    ///
    /// # Panics
    /// When the folder's path is not UTF-8.
    pub fn variables(&self) -> [(&str, &str); 2] {
        [
            ("LD_PRELOAD", self.library.to_str().expect("a plain path")),
            ("CLOCK_SHIFT", self.shift.to_str().expect("a plain path")),
        ]
    }

    /// Sets the clock back by this much.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn set_back(&self, by: Duration) -> std::io::Result<()> {
        self.set(-i64::try_from(by.as_micros()).unwrap_or(i64::MAX))
    }

    /// Sets the clock forward by this much; zero sets it right.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn set_forward(&self, by: Duration) -> std::io::Result<()> {
        self.set(i64::try_from(by.as_micros()).unwrap_or(i64::MAX))
    }

    /// Writes the file in place, as the programs have it mapped.
    fn set(&self, micros: i64) -> std::io::Result<()> {
        File::options().write(true).open(&self.shift)?.write_all_at(&micros.to_ne_bytes(), 0)
    }
}
