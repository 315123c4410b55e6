//! A Rust file, taken apart into code, comments and string literals.

/// The parts of a Rust file. Each has as many lines as the file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    /// Without comments and without the contents of literals.
    pub(crate) code: String,
    pub(crate) comments: String,
    pub(crate) strings: String,
}

/// Takes a file apart.
pub(crate) fn parts(text: &str) -> Parts {
    let mut parts = Parts::default();
    let mut rest = text;
    while !rest.is_empty() {
        let (kind, length) = next(rest, parts.code.chars().next_back());
        let (token, after) = rest.split_at(length);
        rest = after;
        let lines: String = token.chars().filter(|c| *c == '\n').collect();
        let (code, comments, strings) = match kind {
            Kind::Code => (token, lines.as_str(), lines.as_str()),
            Kind::Comment => (lines.as_str(), token, lines.as_str()),
            Kind::Text => (lines.as_str(), lines.as_str(), token),
        };
        parts.code.push_str(code);
        parts.comments.push_str(comments);
        parts.strings.push_str(strings);
        if kind == Kind::Text {
            // A literal separates the tokens around it.
            parts.code.push(' ');
        }
    }
    parts
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Text,
}

/// The first token of `rest` and its length in bytes; `before` is the character before it.
fn next(rest: &str, before: Option<char>) -> (Kind, usize) {
    let first = rest.chars().next().map_or(1, char::len_utf8);
    if rest.starts_with("//") {
        return (Kind::Comment, rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return (Kind::Comment, rest.find("*/").map_or(rest.len(), |end| end + 2));
    }
    let in_a_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if (rest.starts_with("br") || rest.starts_with('r')) && !in_a_word {
        let after = rest.trim_start_matches('b').trim_start_matches('r');
        let hashes = after.len() - after.trim_start_matches('#').len();
        if after[hashes..].starts_with('"') {
            let begin = rest.len() - after.len() + hashes + 1;
            let end = format!("\"{}", "#".repeat(hashes));
            return (Kind::Text, rest[begin..].find(&end).map_or(rest.len(), |at| begin + at + end.len()));
        }
    }
    if rest.starts_with('"') {
        return (Kind::Text, end_of_text(rest, '"'));
    }
    // A lifetime has no second quote behind its first character.
    let mut characters = rest.chars().skip(1);
    if rest.starts_with('\'') && (characters.next() == Some('\\') || characters.next() == Some('\'')) {
        return (Kind::Text, end_of_text(rest, '\''));
    }
    (Kind::Code, first)
}

/// The length of the literal that `rest` begins with, both quotes included.
fn end_of_text(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

/// The file without its test modules: those in files of their own are left out by line, and one with a body stands at
/// the end.
pub(crate) fn without_tests(text: &str) -> String {
    let mut kept = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let module = lines.peek().filter(|next| line == "#[cfg(test)]" && next.contains("mod "));
        match module.map(|module| module.ends_with(';')) {
            Some(true) => drop(lines.next()),
            Some(false) => break,
            None => kept.extend([line, "\n"]),
        }
    }
    kept
}

/// The words of a text: runs of letters, digits and `_`.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

#[test]
fn a_file_is_taken_apart() {
    let text = "use a; // one \"x\"\nlet s = \"two // \\\" \";\nlet c = '\"'; fn f<'a>(r: &'a str) {}\nbr#\"raw \" text\"# /* three\n */ r";
    let parts = parts(text);
    assert_eq!(parts.comments, "// one \"x\"\n\n\n/* three\n */");
    assert_eq!(parts.strings, "\n\"two // \\\" \"\n'\"'\nbr#\"raw \" text\"#\n");
    assert_eq!(parts.code, "use a; \nlet s =  ;\nlet c =  ; fn f<'a>(r: &'a str) {}\n  \n r");
    assert_eq!(without_tests("a\n#[cfg(test)]\nmod fuzz;\nuse b;\n#[cfg(test)]\nmod tests {}"), "a\nuse b;\n");
    assert_eq!(words("a_b(1.c) ß").collect::<Vec<_>>(), ["a_b", "1", "c", "ß"]);
}
