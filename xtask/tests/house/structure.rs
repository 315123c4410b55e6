//! Dependencies point down only, no files import each other in a circle, and the engine knows no column of the product.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::checkout::{File, files, root};
use crate::imports::{Crate, circular, module};
use crate::known::{Found, compare};
use crate::rust_source::{parts, without_tests, words};

/// The crates, each before those that may depend on it.
const LIBRARIES: [&[&str]; 7] =
    [&["model"], &["rules"], &["runtime"], &["kafka", "sinks"], &["avro"], &["mysql"], &["testbed"]];
/// The programs of a release; they depend on libraries other than the last one.
const PROGRAMS: [&str; 5] = ["product-updater", "cdc-producer", "consumer", "verify", "stream"];
/// The one program that has the commands of others, and so depends on them.
const OPERATOR: (&str, &[&str]) = ("stream", &["cdc-producer", "consumer", "verify"]);
/// The columns of the product that no other table is likely to have.
const COLUMNS: [&str; 3] = ["price", "discount_price", "last_updated"];

/// The dependencies of a package on ours, without those of its tests.
fn dependencies(folder: &str) -> BTreeSet<String> {
    let path = root().join(folder).join("Cargo.toml");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (_, rest) = text.split_once("\n[dependencies]\n").unwrap_or(("", ""));
    let section = rest.split("\n[").next().unwrap_or_default();
    let ours = LIBRARIES.concat().into_iter().chain(PROGRAMS).collect::<Vec<_>>();
    let names = section.lines().map(|line| line.split(['.', ' ', '=']).next().unwrap_or_default());
    names.filter(|name| ours.contains(name)).map(str::to_owned).collect()
}

#[test]
fn crates_depend_downwards_only() {
    let listed: BTreeSet<String> = LIBRARIES.concat().into_iter().map(str::to_owned).collect();
    let folders = fs::read_dir(root().join("crates")).unwrap();
    let found: BTreeSet<String> = folders.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(found, listed, "give a new crate its place in LIBRARIES");
    let mut below: BTreeSet<String> = BTreeSet::new();
    for level in LIBRARIES {
        for name in level {
            let depends = dependencies(&format!("crates/{name}"));
            assert!(depends.is_subset(&below), "crates/{name} depends on {depends:?}, but only {below:?} are below it");
        }
        below.extend(level.iter().map(|name| (*name).to_owned()));
    }
    below.remove("testbed");
    for name in PROGRAMS {
        let depends = dependencies(name);
        assert!(!depends.is_empty(), "{name} depends on no library: is the section still named [dependencies]?");
        let others = if name == OPERATOR.0 { OPERATOR.1 } else { &[] };
        let allowed: BTreeSet<String> = below.iter().cloned().chain(others.iter().map(|o| (*o).to_owned())).collect();
        assert!(depends.is_subset(&allowed), "{name} depends on {depends:?}, but only {allowed:?} are allowed");
    }
}

/// Our crates: the folder of each, and its files below `src`.
fn crates(files: &[File]) -> BTreeMap<&str, Vec<(&str, &str)>> {
    let mut crates: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
    for file in files {
        if let Some((folder, below)) = file.path.split_once("/src/") {
            crates.entry(folder).or_default().push((below, &file.text));
        }
    }
    crates
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let files = files("rs");
    for (folder, files) in crates(&files) {
        // The program beside a library is a separate crate.
        let has_library = files.iter().any(|(path, _)| *path == "lib.rs");
        let files = files.into_iter().filter(|(path, _)| !has_library || *path != "main.rs");
        let modules = files.filter_map(|(path, text)| Some((module(path)?, without_tests(text))));
        let circle = circular(&Crate { files: modules.collect() }.imports());
        assert!(circle.is_empty(), "{folder}: move what both files need into a third one: {circle:#?}");
    }
}

#[test]
fn the_engine_knows_no_column_of_the_product() {
    let mut found = Found::new();
    for file in files("rs") {
        let folder = file.path.split_once("/src/").map_or("", |(folder, _)| folder);
        let engine = PROGRAMS.contains(&folder) || folder.starts_with("crates/");
        // Rules, and the settings with their defaults, name columns.
        let named_here = ["crates/rules/", "crates/runtime/src/config/", "crates/testbed/"];
        let allowed = named_here.iter().any(|below| file.path.starts_with(below));
        if !engine || allowed || module(file.path.split_once("/src/").map_or("", |(_, below)| below)).is_none() {
            continue;
        }
        let parts = parts(&without_tests(&file.text));
        let named = words(&parts.code).chain(words(&parts.strings)).filter(|word| COLUMNS.contains(word)).count();
        if named > 0 {
            found.insert(file.path, named);
        }
    }
    compare("columns", &found, "the names of columns come from the catalogue and the configuration");
}
