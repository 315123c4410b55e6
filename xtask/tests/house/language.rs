//! Plain words in comments, messages and documents, the field's names in code, and lines and files of a readable size.

use crate::checkout::files;
use crate::known::{Found, compare};
use crate::rust_source::parts;

/// Words and phrases that a reader from elsewhere must look up, and names that we have replaced.
const LIST: &str = include_str!("words.txt");
/// The longest line of a document outside tables and code blocks.
const LINE: usize = 120;
/// The longest Rust file.
const FILE: usize = 500;

/// The entries of a section of the list.
fn listed(section: &str) -> Vec<&'static str> {
    let (_, rest) = LIST.split_once(&format!("[{section}]\n")).unwrap_or_else(|| panic!("no section {section}"));
    rest.lines().take_while(|line| !line.starts_with('[')).filter(|line| !line.is_empty()).collect()
}

/// How often the text has each of the phrases as whole words, in any case and across line ends.
fn count(text: &str, phrases: &[&str], place: &str, found: &mut Found) {
    let text = unmarked(text);
    for phrase in phrases {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        // `{name}` in a literal is code.
        let whole = |at: usize| {
            !text[..at].ends_with(is_word)
                && !text[..at].ends_with('{')
                && !text[at + phrase.len()..].starts_with(is_word)
        };
        let times = text.match_indices(phrase).filter(|(at, _)| whole(*at)).count();
        if times > 0 {
            *found.entry(format!("{place}: {phrase}")).or_default() += times;
        }
    }
}

/// The text in lower case and in one line, without the marks of comments and the joints of broken literals.
fn unmarked(text: &str) -> String {
    let line = |line: &str| line.trim().trim_start_matches(['/', '!']).trim_end_matches('\\').trim().to_lowercase();
    text.lines().map(line).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The lines of a document outside code blocks, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_code = false;
    text.lines().enumerate().filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        !in_code && !fence
    })
}

#[test]
fn comments_messages_and_documents_use_plain_words() {
    let (phrases, mut found) = (listed("words"), Found::new());
    for file in files("rs") {
        let parts = parts(&file.text);
        count(&parts.comments, &phrases, &file.path, &mut found);
        count(&parts.strings, &phrases, &file.path, &mut found);
    }
    for file in files("md") {
        let text: String = prose(&file.text).map(|(_, line)| format!("{line}\n")).collect();
        count(&text, &phrases, &file.path, &mut found);
    }
    compare("words", &found, "write it in the field's terms: docs/glossary.md lists ours");
}

#[test]
fn code_uses_the_names_of_the_field() {
    let (names, mut found) = (listed("names"), Found::new());
    for file in files("rs") {
        let code = parts(&file.text).code;
        for word in crate::rust_source::words(&code).filter(|word| names.contains(word)) {
            *found.entry(format!("{}: {word}", file.path)).or_default() += 1;
        }
        let name = file.path.rsplit('/').next().unwrap_or_default();
        if names.contains(&name) {
            found.insert(file.path.clone(), 1);
        }
    }
    compare("names", &found, "use the name that says what it is");
}

#[test]
fn lines_of_documents_are_short() {
    let mut found = Found::new();
    for file in files("md") {
        let long = prose(&file.text).filter(|(_, line)| !line.starts_with('|') && line.chars().count() > LINE);
        let long = long.count();
        if long > 0 {
            found.insert(file.path, long);
        }
    }
    compare("long_lines", &found, "break the line at 120 characters");
}

#[test]
fn files_are_short() {
    let long = files("rs").into_iter().map(|file| (file.path, file.text.lines().count()));
    let found: Found = long.filter(|(_, lines)| *lines > FILE).collect();
    compare("long_files", &found, "move a concept into another file");
}

#[test]
fn phrases_are_found_as_whole_words_across_lines() {
    let mut found = Found::new();
    count(
        "//! A Red, that\n//! in the\n//! sun\nredder {sky} blue_list",
        &["red", "in the sun", "sky", "blue"],
        "x",
        &mut found,
    );
    let found: Vec<_> = found.into_iter().collect();
    assert_eq!(found, [("x: in the sun".to_owned(), 1), ("x: red".to_owned(), 1)]);
    assert_eq!(prose("a\n```\nb\n```\nc").map(|(_, line)| line).collect::<Vec<_>>(), ["a", "c"]);
}
