//! Copies of data folders.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::machine;

/// Copies a folder with owners and rights, completely or not at all.
///
/// # Errors
/// When it cannot be read or written.
pub fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    let part = to.with_extension("part");
    if part.exists() {
        fs::remove_dir_all(&part)?;
    }
    machine::run(Command::new("cp").args(["-a", "--reflink=auto", "--sparse=always"]).arg(from).arg(&part))?;
    fs::rename(&part, to).with_context(|| format!("cannot create {}", to.display()))
}
