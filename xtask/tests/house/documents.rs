//! Links of documents lead to files, files that the architecture names exist, and its crash tables have every durable step.

use std::collections::BTreeSet;

use crate::checkout::{files, root};

/// The targets of the links in a document: `[text](target)`.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0))
}

/// The parts in backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn relative_links_lead_to_files() {
    let mut broken = Vec::new();
    for file in files("md") {
        let folder = root().join(&file.path).parent().unwrap().to_owned();
        for link in links(&file.text).filter(|link| !link.contains("://") && !link.starts_with('#')) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let found = std::fs::read_to_string(folder.join(path));
            let has_anchor = anchor.is_empty() || found.is_ok_and(|text| has_anchor(&text, anchor));
            if !folder.join(path).exists() || !has_anchor {
                broken.push(format!("{}: {link}", file.path));
            }
        }
    }
    assert!(broken.is_empty(), "these links lead nowhere:\n{}", broken.join("\n"));
}

/// Whether the document has a heading or an `id` with this name.
fn has_anchor(text: &str, anchor: &str) -> bool {
    let name = |heading: &str| -> String {
        let kept = heading.trim_start_matches('#').trim().to_lowercase();
        kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>().replace(' ', "-")
    };
    text.contains(&format!("id=\"{anchor}\""))
        || text.lines().filter(|line| line.starts_with('#')).any(|line| name(line) == anchor)
}

#[test]
fn the_architecture_names_files_that_exist() {
    let sources: Vec<String> = files("rs").into_iter().map(|file| file.path).collect();
    for file in files("md").into_iter().filter(|file| file.path.to_lowercase().contains("architecture")) {
        for name in quoted(&file.text).filter(|name| name.ends_with(".rs") && !name.contains(' ')) {
            let exists = sources.iter().any(|path| path == name || path.ends_with(&format!("/{name}")));
            assert!(exists, "{} names {name}, which does not exist", file.path);
        }
    }
}

/// The durable steps of the programs: `producer.sent`.
fn steps(source: &str) -> BTreeSet<String> {
    let mut program = "";
    let mut steps = BTreeSet::new();
    for line in source.lines() {
        match line.split('"').collect::<Vec<_>>()[..] {
            ["    ", _, _, name, ","] => program = name,
            [_, name, " ", _, ","] => {
                steps.insert(format!("{program}.{name}"));
            }
            _ => {}
        }
    }
    steps
}

#[test]
fn every_durable_step_is_in_a_crash_table() {
    let find = |extension, path: &str| files(extension).into_iter().find(|file| file.path == path).unwrap().text;
    let steps = steps(&find("rs", "crates/runtime/src/step.rs"));
    assert!(steps.len() > 20, "only {steps:?}");
    let document = find("md", "docs/architecture/exactly-once.md");
    let named: BTreeSet<&str> = quoted(&document).collect();
    for step in steps {
        let name = step.split_once('.').unwrap().1;
        assert!(named.contains(name), "docs/architecture/exactly-once.md does not say what a crash at {step} leaves");
    }
}

#[test]
fn anchors_are_those_of_headings_and_ids() {
    let text = "# A page\n## Is it *well*, here?\n| <a id=\"x-y\"></a>`x-y` |\n";
    assert_eq!(["is-it-well-here", "x-y", "a", "a-page"].map(|name| has_anchor(text, name)), [true, true, false, true]);
    assert_eq!(links("[a](b.md#c) and ![d](e.svg)").collect::<Vec<_>>(), ["b.md#c", "e.svg"]);
}
