//! Which file of a crate imports which, and the circles among them.

use std::collections::{BTreeMap, BTreeSet};

use crate::rust_source::parts;

/// The files of one crate by the path of their module; the root has the path `crate`.
pub(crate) struct Crate {
    pub(crate) files: BTreeMap<String, String>,
}

/// An import, from a file's module to another.
pub(crate) type Import = (String, String);

/// The path of the module in a file, from its path below the crate's `src`; `None` for a test module.
pub(crate) fn module(path: &str) -> Option<String> {
    let path = path.strip_suffix(".rs")?;
    let mut parts: Vec<&str> = path.split('/').collect();
    if parts.contains(&"tests") || parts.contains(&"bin") {
        return None;
    }
    if matches!(parts.last(), Some(&"mod" | &"lib" | &"main")) {
        parts.pop();
    }
    parts.insert(0, "crate");
    Some(parts.join("::"))
}

impl Crate {
    /// The imports between two files, those of a parent and its child included.
    pub(crate) fn imports(&self) -> BTreeSet<Import> {
        let mut imports = BTreeSet::new();
        for (module, text) in &self.files {
            for path in paths(module, &parts(text).code) {
                let target = self.file_of(&path);
                if target.is_some_and(|target| target != module) {
                    imports.extend(target.map(|target| (module.clone(), target.clone())));
                }
            }
        }
        imports
    }

    /// The module whose file holds the item with this path.
    fn file_of(&self, path: &str) -> Option<&String> {
        let mut path = path;
        loop {
            if let Some((module, _)) = self.files.get_key_value(path) {
                return Some(module);
            }
            path = path.rsplit_once("::")?.0;
        }
    }
}

/// The absolute paths that the code of a module names: after `crate::`, `self::`, `super::`, and from a child.
fn paths(module: &str, code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let code: String = code.split_whitespace().collect::<Vec<_>>().join(" ");
    let children = children(&code);
    for statement in code.split(';') {
        let used = statement.rsplit_once("use ").filter(|(before, _)| ends_an_item(before));
        absolute_paths(module, used.map_or(statement, |(before, _)| before), &children, &mut found);
        let Some((_, tree)) = used else { continue };
        let mut leaves = Vec::new();
        expand("", tree.trim(), &mut leaves);
        for leaf in leaves {
            let child = format!("{module}::{leaf}");
            found.push(absolute(module, &leaf).unwrap_or(child));
        }
    }
    found
}

/// The names of the modules that the code declares as files.
fn children(code: &str) -> Vec<&str> {
    let declared = code.split(';').filter_map(|statement| statement.rsplit_once("mod "));
    let declared = declared.filter(|(before, _)| ends_an_item(before)).map(|(_, name)| name.trim());
    declared.filter(|name| name.chars().all(|c| c.is_alphanumeric() || c == '_')).collect()
}

/// Whether an item, a `use` or a `mod`, can begin behind this code.
fn ends_an_item(before: &str) -> bool {
    let before =
        before.trim_end().trim_end_matches("pub").trim_end_matches("pub(crate)").trim_end_matches("pub(super)");
    let before = before.trim_end();
    before.is_empty() || before.ends_with(['{', '}', ']'])
}

/// Splits a `use` tree into its paths.
fn expand(prefix: &str, tree: &str, leaves: &mut Vec<String>) {
    let Some((head, inner)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default().trim();
        leaves.push(format!("{prefix}{path}"));
        return;
    };
    let inner = inner.rsplit_once('}').map_or(inner, |(inner, _)| inner);
    let (mut depth, mut begin) = (0, 0);
    for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let part = inner[begin..at].trim();
                if !part.is_empty() {
                    expand(&format!("{prefix}{}", head.trim()), part, leaves);
                }
                begin = at + 1;
            }
            _ => {}
        }
    }
}

/// The paths within code that begin with `crate::`, `super::` or the name of a child.
fn absolute_paths(module: &str, code: &str, children: &[&str], found: &mut Vec<String>) {
    for begin in ["crate", "super"].iter().chain(children) {
        for (at, _) in code.match_indices(&format!("{begin}::")) {
            // A visibility imports nothing.
            let before = &code[..at];
            if before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') || before.ends_with("pub(in ") {
                continue;
            }
            let end =
                code[at..].find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(code.len() - at);
            let path = code[at..at + end].trim_end_matches(':');
            found.push(absolute(module, path).unwrap_or_else(|| format!("{module}::{path}")));
        }
    }
}

/// The absolute form of a path that begins with `crate`, `self` or `super`.
fn absolute(module: &str, path: &str) -> Option<String> {
    let mut module = module.to_owned();
    let (first, mut rest) = path.split_once("::").unwrap_or((path, ""));
    match first {
        "crate" => module = "crate".to_owned(),
        "self" => {}
        "super" => {
            module = module.rsplit_once("::")?.0.to_owned();
            while let Some(above) = rest.strip_prefix("super::") {
                module = module.rsplit_once("::")?.0.to_owned();
                rest = above;
            }
        }
        _ => return None,
    }
    Some(if rest.is_empty() { module } else { format!("{module}::{rest}") })
}

/// The imports that are part of a circle.
pub(crate) fn circular(imports: &BTreeSet<Import>) -> BTreeSet<Import> {
    let leads_back = |(from, to): &&Import| {
        let (mut seen, mut next) = (BTreeSet::from([to]), vec![to]);
        while let Some(module) = next.pop() {
            if module == from {
                return true;
            }
            next.extend(imports.iter().filter(|(a, _)| a == module).map(|(_, b)| b).filter(|b| seen.insert(b)));
        }
        false
    };
    imports.iter().filter(leads_back).cloned().collect()
}

#[test]
fn a_circle_is_found_through_nested_uses_and_paths() {
    let files = [
        ("crate", "mod a; mod b; mod c; pub use a::A;"),
        ("crate::a", "use crate::{b::{self, B}, c::C as D};"),
        ("crate::b", "pub(in crate::a) fn f() -> super::c::C { g() }"),
        ("crate::c", "pub(crate) mod d; pub(crate) use crate::b::B; fn h() { d::f() } #[derive(Clone)] use x::y;"),
        ("crate::c::d", "use super::C;"),
    ];
    let files = files.map(|(module, text)| (module.to_owned(), text.to_owned())).into();
    let imports = Crate { files }.imports();
    let shown: Vec<String> = imports.iter().map(|(a, b)| format!("{a} {b}")).collect();
    assert_eq!(
        shown,
        [
            "crate crate::a",
            "crate::a crate::b",
            "crate::a crate::c",
            "crate::b crate::c",
            "crate::c crate::b",
            "crate::c crate::c::d",
            "crate::c::d crate::c"
        ]
    );
    let circle = circular(&imports);
    assert_eq!(circle.len(), 4, "{circle:?}");
    assert!(circle.iter().all(|(a, _)| ["crate::b", "crate::c", "crate::c::d"].contains(&a.as_str())));
    assert_eq!(module("run/rows.rs").as_deref(), Some("crate::run::rows"));
    assert_eq!(module("kafka/mod.rs").as_deref(), Some("crate::kafka"));
    assert_eq!(module("main.rs").as_deref(), Some("crate"));
    assert_eq!(module("avro/tests.rs"), None);
}
