//! Every error code is in use, and programs decide by codes, never by the text of an error.

use model::code::Code;

use crate::checkout::{File, files};
use crate::known::{Found, compare};
use crate::rust_source::{parts, without_tests, words};

/// The files that classify the errors of servers and clients: some differ in their text only.
const CLASSIFY: [&str; 5] = [
    "cdc-producer/src/binlog_error.rs",
    "crates/kafka/src/client.rs",
    "crates/model/src/error.rs",
    "crates/sinks/src/postgres.rs",
    "product-updater/src/row_error.rs",
];
/// What an error or its text is called.
const ERRORS: [&str; 6] = ["error", "err", "e", "message", "reason", "cause"];

/// The code of the programs and libraries, without tests.
fn engine() -> impl Iterator<Item = (String, String)> {
    let is_engine = |file: &File| {
        let (folder, below) = file.path.split_once("/src/").unwrap_or_default();
        let is_test = below.split('/').any(|part| part.trim_end_matches(".rs").ends_with("tests"));
        !is_test && !["", "bench", "chaos", "crates/testbed", "fuzzing", "tests", "xtask"].contains(&folder)
    };
    let code = |file: File| (parts(&without_tests(&file.text)).code, file.path);
    files("rs").into_iter().filter(is_engine).map(code).map(|(code, path)| (path, code))
}

/// How often the code looks into the text of an error.
fn looks_into_text(code: &str) -> usize {
    let is_of_error = |before: &str| {
        let before = before.strip_suffix(".to_string()").unwrap_or(before);
        let name = before.rsplit(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
        ERRORS.contains(&name)
    };
    let looks = [".contains(", ".starts_with(", ".ends_with("];
    looks.iter().flat_map(|look| code.match_indices(look)).filter(|(at, _)| is_of_error(&code[..*at])).count()
}

#[test]
fn every_error_code_is_used() {
    let mut used = Vec::new();
    for (_, code) in engine().filter(|(path, _)| path != "crates/model/src/code.rs") {
        let found = code.match_indices("Code::").filter_map(|(at, found)| words(&code[at + found.len()..]).next());
        used.extend(found.map(str::to_owned));
    }
    for code in Code::ALL.iter().flat_map(|(_, codes)| *codes) {
        assert!(used.contains(&format!("{code:?}")), "no error has the code {code:?}: remove it");
    }
}

#[test]
fn programs_decide_by_codes() {
    let found = engine().filter(|(path, _)| !CLASSIFY.contains(&path.as_str()));
    let found: Found =
        found.map(|(path, code)| (path, looks_into_text(&code))).filter(|(_, times)| *times > 0).collect();
    compare("error_text", &found, "compare Error::code, not its text");
}

#[test]
fn a_look_into_the_text_of_an_error_is_found() {
    assert_eq!(
        looks_into_text("if error.to_string().contains(x) || names.contains(e) || self.reason.ends_with(y) {}"),
        2
    );
}
