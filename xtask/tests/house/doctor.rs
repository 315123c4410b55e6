//! `docs/doctor.md` has each check that the programs print, and each of its tests exists and sees the check.

use std::collections::BTreeSet;

use crate::checkout::{File, files};
use crate::rust_source::without_tests;

/// A check, and the tests that show it.
struct Row {
    check: String,
    tests: Vec<String>,
}

/// The parts in backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The rows of the page's tables: the first cell names the check, the last one its tests.
fn rows(page: &str) -> Vec<Row> {
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(str::to_owned).collect::<Vec<_>>();
    let row = |line: &str| {
        let cells = cells(line);
        let check = quoted(cells.first()?).next()?.to_owned();
        let tests = quoted(cells.get(3)?).map(str::to_owned).collect();
        Some(Row { check, tests })
    };
    page.lines().filter(|line| line.starts_with("| `")).filter_map(row).collect()
}

/// The names of the checks that the code makes, as far as they are literals or constants of the file.
fn made(text: &str) -> BTreeSet<String> {
    let text = without_tests(text);
    let literal = |text: &str| text.strip_prefix('"').and_then(|rest| Some(rest.split_once('"')?.0.to_owned()));
    let constant = |name: &str| {
        let (_, value) = text.split_once(&format!("const {name}: &str = "))?;
        literal(value)
    };
    let name = |at: usize| {
        let argument = text[at..].trim_start();
        literal(argument).or_else(|| constant(argument.split(',').next()?))
    };
    let makers = ["good", "note", "warning", "bad", "failed"].map(|maker| format!("Check::{maker}("));
    makers.iter().flat_map(|maker| text.match_indices(maker)).filter_map(|(at, found)| name(at + found.len())).collect()
}

fn page() -> Vec<Row> {
    rows(&files("md").into_iter().find(|file| file.path == "docs/doctor.md").unwrap().text)
}

#[test]
fn the_page_has_the_checks_of_the_programs() {
    let is_program = |file: &File| !["tests/", "verify/", "xtask/"].iter().any(|folder| file.path.starts_with(folder));
    let programs: Vec<File> = files("rs").into_iter().filter(is_program).collect();
    let made: BTreeSet<String> = programs.iter().flat_map(|file| made(&file.text)).collect();
    assert!(made.len() > 20, "only {made:?}");
    let page = page();
    for check in made {
        assert!(page.iter().any(|row| row.check == check), "docs/doctor.md lacks the check {check:?}");
    }
    for Row { check, .. } in page {
        let literal = format!("\"{check}\"");
        assert!(programs.iter().any(|file| file.text.contains(&literal)), "no program has the check {check:?}");
    }
}

#[test]
fn every_test_of_the_page_sees_its_check() {
    let sources = files("rs");
    for Row { check, tests } in page() {
        for test in tests {
            let (module, function) = test.rsplit_once("::").unwrap_or_else(|| panic!("{test} names no test"));
            let path = format!("tests/tests/{}", module.replace("::", "/"));
            let mut own =
                sources.iter().filter(|f| f.path == format!("{path}.rs") || f.path == format!("{path}/mod.rs"));
            assert!(
                own.any(|file| file.text.contains(&format!("fn {function}("))),
                "docs/doctor.md names the test {test}, which does not exist"
            );
            // A helper of the test may be in a file beside it.
            let folder = module.split("::").next().unwrap();
            let beside = [format!("tests/tests/{folder}.rs"), format!("tests/tests/{folder}/")];
            let sees =
                |file: &File| beside.iter().any(|path| file.path.starts_with(path)) && file.text.contains(&check);
            assert!(sources.iter().any(sees), "{test} does not look at the check {check:?}");
        }
    }
}

#[test]
fn checks_are_found_as_literals_and_constants() {
    let text =
        "const NAME: &str = \"a b\";\nf(Check::good(\n    \"c\", x), Check::bad(NAME, y), Check::note(name, z));";
    assert_eq!(made(text).into_iter().collect::<Vec<_>>(), ["a b", "c"]);
    let rows = rows("| check | x |\n|---|---|\n| `a b` | looks | a fault | `m::t`, `n::u` |\n");
    assert_eq!((rows.len(), rows[0].check.as_str(), rows[0].tests.len()), (1, "a b", 2));
}
