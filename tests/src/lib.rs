//! Golden files of the tests under `tests/`.
//!
//! A test needs the servers' environment (`cargo xtask test` sets it, or `. target/stack/env` after
//! `cargo xtask services --detach`); without it the test fails.

pub mod product_line;

use std::fs;
use std::path::Path;

use runtime::config::{Program, Settings};

/// Compares a text with the golden file of this name under `tests/golden`; `BLESS=1` writes the file instead.
pub fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    if std::env::var_os("BLESS").is_some() {
        fs::create_dir_all(path.parent().expect("a folder")).expect("the golden folder");
        fs::write(&path, text).expect("to write the golden file");
    }
    let want = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}; BLESS=1 writes it", path.display()));
    assert!(want == text, "{} differs; BLESS=1 accepts\n--- golden\n{want}\n--- now\n{text}", path.display());
}

/// The default rules, which are the product's.
pub fn product_rules() -> rules::transform::Rules {
    runtime::config::rules(&Settings::defaults(Program::Consumer)).expect("the default rules")
}
