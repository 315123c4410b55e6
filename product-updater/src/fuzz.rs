//! A fuzz target for CSV files from outside.

use std::path::PathBuf;

use crate::csv_file::CsvFile;
use crate::precision::Precision;
use crate::product_format::ProductFormat;

/// Each row of a file is a change or refused, and there are at most as many rows as lines.
#[test]
fn csv() {
    let path = std::env::temp_dir().join(format!("product-updater-fuzz-{}.csv", std::process::id()));
    let file = Removed(path.clone());
    fuzzing::check!(fuzzing::seeds("csv"), 4_000, |input: &[u8]| {
        // Some file systems flush a file that is truncated and rewritten, but not a new one.
        drop(std::fs::remove_file(&path));
        std::fs::write(&path, input).expect("to write the file");
        let format = ProductFormat { row_bytes: 4_096, precision: Precision::Micros(1) };
        let Ok(mut csv) = CsvFile::open(&path, format).expect("to open the file") else { return };
        let (lines, mut rows) = (input.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count(), 0);
        loop {
            let chunk = csv.next_chunk(100).expect("to read the file");
            rows += chunk.changes.len() + chunk.bad.len();
            assert!(rows <= lines, "{rows} rows behind the header in {lines} lines");
            if chunk.at_end {
                break;
            }
        }
    });
    drop(file);
}

/// A file that is removed when dropped.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}
