//! Counts the instructions that a row costs on each hot path with Valgrind's callgrind, and compares them with a stored
//! baseline.
//!
//! Times vary by a tenth and more on a machine with other work; the instructions of the same program on the same rows
//! vary by a few in a million. A path is run twice, N and 2N times over the rows, and the difference is divided by the
//! rows: start-up, preparation and buffers that grow once are in both runs, so they cancel exactly. This needs no mark
//! in the measured code, no library, and no runner program of the same version as the library, as gungraun does.
//!
//! Besides our code, the figure depends on the compiler, whose version is in the baseline, and on glibc's `memcpy` and
//! similar functions, of which glibc selects one by CPU. Valgrind presents the same CPU to every program (a Haswell,
//! where the host has AVX2), so the selection is the same everywhere.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use testbed::machine::output_of;

use crate::hot_paths::HotPath;
use crate::hot_paths::rows::ROWS;

/// A difference of more than so many percent, up or down, is reported.
pub const TOLERANCE: f64 = 3.0;

const BLESS: &str = "cargo xtask instructions --bless";

/// Passes of the shorter run.
const PASSES: usize = 5;

/// The instructions per row, with the versions that they were counted with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Version and target of the compiler.
    pub rustc: String,
    /// Version of Valgrind.
    pub valgrind: String,
    /// By the path's name.
    pub instructions_per_row: BTreeMap<String, f64>,
}

impl Counts {
    /// Counts all paths; `program` takes a path's name and a number of passes, and runs them.
    ///
    /// # Errors
    /// When Valgrind or the program fails.
    pub fn measure(program: &Path) -> Result<Self> {
        let version = output_of(Command::new("rustc").arg("-vV"))?;
        let field = |name: &str| version.lines().find_map(|l| l.strip_prefix(name)).unwrap_or("unknown").to_owned();
        let valgrind = output_of(Command::new("valgrind").arg("--version"))?.trim().replace("valgrind-", "");
        let per_row = |path: HotPath| {
            let (short, long) = (collected(program, path, PASSES)?, collected(program, path, 2 * PASSES)?);
            let per_row = long.saturating_sub(short) as f64 / (PASSES * ROWS) as f64;
            Ok((path.name().to_owned(), (per_row * 100.0).round() / 100.0))
        };
        Ok(Self {
            rustc: format!("{} {}", field("release: "), field("host: ")),
            valgrind,
            instructions_per_row: HotPath::ALL.into_iter().map(per_row).collect::<Result<_>>()?,
        })
    }

    /// Reads a baseline.
    ///
    /// # Errors
    /// When the file is missing or invalid; the message says how to create it.
    pub fn read(file: &Path) -> Result<Self> {
        let unreadable = |e: &dyn std::fmt::Display| {
            anyhow!("cannot read the baseline {}: {e}\n  what to do: {BLESS}", file.display())
        };
        let text = fs::read_to_string(file).map_err(|e| unreadable(&e))?;
        serde_json::from_str(&text).map_err(|e| unreadable(&e))
    }

    /// Writes these figures as the baseline.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// A table of these figures beside the baseline, and the errors: one line for each path, with the remedy at the
    /// end.
    pub fn against(&self, baseline: &Self) -> (String, Vec<String>) {
        let mut table = format!("{:12}{:>12}{:>12}{:>14}\n", "path", "baseline", "now", "difference");
        let mut wrong = Vec::new();
        for (path, now) in &self.instructions_per_row {
            let Some(before) = baseline.instructions_per_row.get(path) else {
                table += &format!("{path:12}{:>12}{now:>12.1}{:>14}\n", "-", "-");
                wrong.push(format!("{path} is not in the baseline"));
                continue;
            };
            let percent = (now / before - 1.0) * 100.0;
            table += &format!("{path:12}{before:>12.1}{now:>12.1}{:>14}\n", format!("{percent:+.2} %"));
            if percent.abs() > TOLERANCE {
                let way = if percent < 0.0 { "fewer" } else { "more" };
                wrong.push(format!("{path} takes {:.1} % {way} instructions a row than the baseline", percent.abs()));
            }
        }
        let gone = baseline.instructions_per_row.keys().filter(|path| !self.instructions_per_row.contains_key(*path));
        wrong.extend(gone.map(|path| format!("the baseline has {path}, which is no path any more")));
        if !wrong.is_empty() {
            for (what, before, now) in
                [("rustc", &baseline.rustc, &self.rustc), ("Valgrind", &baseline.valgrind, &self.valgrind)]
            {
                if before != now {
                    wrong.push(format!("the baseline was made with {what} {before}, this is {now}, which may be why"));
                }
            }
            wrong.push(format!("what to do: find the change that did it; if it is meant, {BLESS} and commit the file"));
        }
        (table, wrong)
    }
}

/// Instructions of a whole run.
fn collected(program: &Path, path: HotPath, passes: usize) -> Result<u64> {
    let mut command = Command::new("valgrind");
    // callgrind prints the count at the end of its log; the profile is not needed.
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--log-fd=1"]).arg(program);
    let log = output_of(command.args([path.name(), &passes.to_string()]))?;
    let count = log.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    count.with_context(|| format!("Valgrind does not say what it counted on {}: {log}", path.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(paths: &[(&str, f64)]) -> Counts {
        let instructions_per_row = paths.iter().map(|(path, n)| ((*path).to_owned(), *n)).collect();
        Counts { rustc: "1.0.0 a".to_owned(), valgrind: "3.0.0".to_owned(), instructions_per_row }
    }

    #[test]
    fn three_percent_either_way_is_the_limit() {
        let baseline = counts(&[("decode", 200.0)]);
        for (now, want) in [(200.0, None), (205.9, None), (194.1, None), (206.1, Some("more")), (193.9, Some("fewer"))]
        {
            let (table, wrong) = counts(&[("decode", now)]).against(&baseline);
            assert!(table.contains("decode") && table.contains("200.0"), "{table}");
            let named =
                want.map(|way| wrong[0].contains("decode") && wrong[0].contains(way) && wrong[1].contains(BLESS));
            assert_eq!(
                (named, wrong.len()),
                (want.map(|_| true), if want.is_some() { 2 } else { 0 }),
                "{now} {wrong:?}"
            );
        }
    }

    #[test]
    fn a_path_that_one_side_lacks_is_wrong() {
        let (_, wrong) = counts(&[("decode", 200.0)]).against(&counts(&[("line", 100.0)]));
        assert!(wrong[0].starts_with("decode is not in the baseline") && wrong[1].contains("line"), "{wrong:?}");
    }

    #[test]
    fn another_compiler_is_told_of_only_when_something_differs() {
        let baseline = Counts { rustc: "0.9.0 a".to_owned(), ..counts(&[("decode", 200.0)]) };
        assert_eq!(counts(&[("decode", 200.0)]).against(&baseline).1, Vec::<String>::new());
        let (_, wrong) = counts(&[("decode", 300.0)]).against(&baseline);
        assert!(wrong[1].contains("rustc 0.9.0 a, this is 1.0.0 a"), "{wrong:?}");
    }

    #[test]
    fn a_baseline_that_is_not_there_says_how_to_make_it() {
        let file = std::env::temp_dir().join(format!("instructions-{}.json", std::process::id()));
        let missing = Counts::read(&file).unwrap_err();
        assert!(format!("{missing:#}").contains(BLESS), "{missing:#}");
        let counts = counts(&[("decode", 200.5)]);
        counts.write(&file).unwrap();
        assert_eq!(Counts::read(&file).unwrap(), counts);
        fs::write(&file, "{}").unwrap();
        assert!(Counts::read(&file).is_err());
        fs::remove_file(&file).unwrap();
    }
}
