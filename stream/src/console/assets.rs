//! The page: files that are part of the program, so that nothing is fetched from elsewhere.

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

macro_rules! files {
    ($($path:literal $kind:ident $file:literal),* $(,)?) => {
        &[$(($path, $kind, include_str!(concat!("../../assets/", $file)))),*]
    };
}

/// Each path with its type and content. `vendor/` has uPlot 1.6.32 as npm distributes it, with its licence (MIT).
const FILES: &[(&str, &str, &str)] = files![
    "/" HTML "index.html",
    "/assets/app.js" SCRIPT "app.js",
    "/assets/changes.js" SCRIPT "changes.js",
    "/assets/charts.js" SCRIPT "charts.js",
    "/assets/checkpoint.js" SCRIPT "checkpoint.js",
    "/assets/detail.js" SCRIPT "detail.js",
    "/assets/dom.js" SCRIPT "dom.js",
    "/assets/letters.js" SCRIPT "letters.js",
    "/assets/picture.js" SCRIPT "picture.js",
    "/assets/pipeline.js" SCRIPT "pipeline.js",
    "/assets/rows.js" SCRIPT "rows.js",
    "/assets/store.js" SCRIPT "store.js",
    "/assets/theme.js" SCRIPT "theme.js",
    "/assets/topics.js" SCRIPT "topics.js",
    "/assets/trace.js" SCRIPT "trace.js",
    "/assets/values.js" SCRIPT "values.js",
    "/assets/style.css" STYLE "style.css",
    "/assets/icon.svg" IMAGE "icon.svg",
    "/assets/uplot.js" SCRIPT "vendor/uplot.js",
    "/assets/uplot.css" STYLE "vendor/uplot.css",
    "/assets/uplot.LICENSE" TEXT "vendor/uplot.LICENSE",
];

/// The file of a path.
pub(super) async fn file(uri: Uri) -> Response {
    match FILES.iter().find(|(path, ..)| *path == uri.path()) {
        // Another version of the program may answer next time.
        Some((_, kind, content)) => ([(CONTENT_TYPE, *kind), (CACHE_CONTROL, "no-cache")], *content).into_response(),
        None => (StatusCode::NOT_FOUND, "there is no such page\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_is_part_of_the_program() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
        let names = |folder: &Path| -> BTreeSet<String> {
            let entries = std::fs::read_dir(folder).expect("the folder");
            entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect()
        };
        let mut expected: BTreeSet<String> = names(&folder);
        expected.remove("vendor");
        expected.extend(names(&folder.join("vendor")));
        let name =
            |path: &&str| if *path == "/" { "index.html" } else { path.trim_start_matches("/assets/") }.to_owned();
        let found: BTreeSet<String> = FILES.iter().map(|(path, ..)| name(path)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn no_file_parses_html_or_names_another_host() {
        for (path, _, content) in FILES.iter().filter(|(path, ..)| !path.contains("uplot")) {
            for word in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "DOMParser",
                "eval(",
                "style=\"",
                "onclick=\"",
            ] {
                assert!(!content.contains(word), "{path} has {word}");
            }
            let hosts = content.split("://").skip(1).filter(|rest| !rest.starts_with("www.w3.org/2000/svg"));
            assert_eq!(hosts.count(), 0, "{path} names a host");
            assert!(content.lines().count() <= 500, "{path} is long");
        }
    }
}
