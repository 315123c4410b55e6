//! The lists of what a rule does not cover yet.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::checkout::root;

/// How often each thing was found; the name of a thing says where.
pub(crate) type Found = BTreeMap<String, usize>;

/// Compares what was found with the list `known/<list>.txt`, whose lines are a count and a name. `remedy` says what to
/// do about a new find.
pub(crate) fn compare(list: &str, found: &Found, remedy: &str) {
    let path = root().join("xtask/tests/house/known").join(format!("{list}.txt"));
    let known = parse(&fs::read_to_string(&path).unwrap_or_default());
    let (more, fewer) = (differences(found, &known), differences(&known, found));
    // What was moved is new under another name.
    let grows = found.values().sum::<usize>() > known.values().sum();
    if std::env::var_os("BLESS").is_some() && !grows {
        write(&path, found);
        return;
    }
    assert!(more.is_empty(), "{remedy}\nnew, beyond {}:\n{more}", path.display());
    assert!(fewer.is_empty(), "{} lists what is gone: BLESS=1 removes it\n{fewer}", path.display());
}

fn write(path: &Path, found: &Found) {
    if found.is_empty() {
        fs::remove_file(path).unwrap_or_default();
        return;
    }
    let mut text = String::new();
    found.iter().for_each(|(name, count)| writeln!(text, "{count} {name}").unwrap());
    fs::write(path, text).unwrap();
}

/// The things of which `a` has more than `b`, one a line.
fn differences(a: &Found, b: &Found) -> String {
    let mut text = String::new();
    for (name, count) in a {
        let other = b.get(name).copied().unwrap_or(0);
        if *count > other {
            writeln!(text, "  {name}: {count}, not {other}").unwrap();
        }
    }
    text
}

fn parse(text: &str) -> Found {
    let line = |line: &str| {
        let (count, name) = line.split_once(' ').unwrap_or_else(|| panic!("no list entry: {line:?}"));
        (name.to_owned(), count.parse().unwrap())
    };
    text.lines().map(line).collect()
}

#[test]
fn only_a_higher_count_is_new() {
    let known = parse("2 a.rs: old\n1 b.rs: new word\n");
    let found = parse("3 a.rs: old\n1 c.rs: new word\n");
    assert_eq!(differences(&found, &known), "  a.rs: old: 3, not 2\n  c.rs: new word: 1, not 0\n");
    assert_eq!(differences(&known, &found), "  b.rs: new word: 1, not 0\n");
    assert_eq!(differences(&known, &known), "");
}
