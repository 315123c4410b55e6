//! Checks downloads from Maven: each file must have the SHA-256 sum in `downloads.sha256`, which was recorded when the
//! version was chosen. Debian's packages need none, as apt checks their signatures.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// Lines in the format of `sha256sum`; the files are named `DOWNLOAD/FOLDER/FILE`.
const SUMS: &str = include_str!("../downloads.sha256");

/// Checks all files of `folder/part`, which were fetched as the download `name`.
///
/// # Errors
/// When a file has another sum, is not listed, or is missing: then the download must not be used.
pub(crate) fn check(name: &str, folder: &Path, part: &str) -> Result<()> {
    let prefix = format!("{name}/{part}/");
    let mut found = BTreeMap::new();
    let fetched = folder.join(part);
    for entry in fs::read_dir(&fetched).with_context(|| format!("cannot read {}", fetched.display()))? {
        let path = entry?.path();
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        found.insert(format!("{prefix}{file}"), sum(&path)?);
    }
    let wrong = differences(&expected(&prefix), &found);
    if wrong.is_empty() {
        return Ok(());
    }
    bail!(
        "what was fetched is not what crates/testbed/downloads.sha256 lists:\n{wrong}  what to do: fetch it again, and find out who \
         changed it if it stays so; after a change of the version in crates/testbed/src/downloads.rs check the new files and list them"
    )
}

/// The listed sums of the files with this prefix.
fn expected(prefix: &str) -> BTreeMap<String, String> {
    let lines = SUMS.lines().filter_map(|line| line.split_once("  "));
    lines.filter(|(_, file)| file.starts_with(prefix)).map(|(sum, file)| (file.to_owned(), sum.to_owned())).collect()
}

fn differences(expected: &BTreeMap<String, String>, found: &BTreeMap<String, String>) -> String {
    let mut wrong = String::new();
    for (file, sum) in found {
        match expected.get(file) {
            Some(listed) if listed == sum => {}
            Some(listed) => _ = writeln!(wrong, "{file} has the sum {sum}, listed is {listed}"),
            None => _ = writeln!(wrong, "not listed: {sum}  {file}"),
        }
    }
    for file in expected.keys().filter(|file| !found.contains_key(*file)) {
        _ = writeln!(wrong, "missing: {file}");
    }
    wrong
}

fn sum(path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(path)?, &mut hasher).with_context(|| format!("cannot read {}", path.display()))?;
    let mut text = String::new();
    for byte in hasher.finalize() {
        _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(files: &[(&str, &str)]) -> BTreeMap<String, String> {
        files.iter().map(|&(file, sum)| (file.to_owned(), sum.to_owned())).collect()
    }

    #[test]
    fn a_file_that_is_another_or_is_unlisted_or_missing_is_named() {
        let listed = sums(&[("k/libs/a.jar", "1"), ("k/libs/b.jar", "2")]);
        assert_eq!(differences(&listed, &listed), "");
        assert_eq!(
            differences(&listed, &sums(&[("k/libs/a.jar", "9"), ("k/libs/c.jar", "3")])),
            "k/libs/a.jar has the sum 9, listed is 1\nnot listed: 3  k/libs/c.jar\nmissing: k/libs/b.jar\n"
        );
    }

    #[test]
    fn a_changed_file_is_refused() {
        let folder = std::env::temp_dir().join(format!("checksums-{}", std::process::id()));
        fs::create_dir_all(folder.join("libs")).unwrap();
        fs::write(folder.join("libs/kafka_2.13-4.1.1.jar"), "another").unwrap();
        let refused = check("kafka-4.1.1", &folder, "libs").unwrap_err().to_string();
        fs::remove_dir_all(&folder).unwrap();
        assert!(refused.contains("kafka-4.1.1/libs/kafka_2.13-4.1.1.jar has the sum "), "{refused}");
        assert!(refused.contains("missing: kafka-4.1.1/libs/kafka-clients-4.1.1.jar"), "{refused}");
    }
}
