//! Escapes texts from outside before a person sees them: server errors, registry answers, row values, table names.
//!
//! Invariant: nothing that a program prints or logs can move the cursor, set a title, begin a new line or change the
//! reading order. Such characters are written as JSON escapes, `\n` or `\u202e`, which stay valid inside a JSON string.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Maximum characters of an error, a remedy or a value that are shown; the rest is only counted.
pub const LONGEST: usize = 8_192;

/// The text with these characters escaped: control characters, separators of lines or paragraphs, marks and isolates of
/// bidirectional text, and invisible ones (U+2060 to U+206F, U+FEFF, U+FFF9 to U+FFFB, tags). Joiners stay, as
/// languages need them. Escaping twice changes nothing.
pub fn escaped(text: &str) -> Cow<'_, str> {
    let Some((first, _)) = text.char_indices().find(|(_, c)| is_unsafe(*c)) else { return Cow::Borrowed(text) };
    let mut out = text[..first].to_owned();
    for c in text[first..].chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_unsafe(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a String can't fail.
                    let _ok = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// The text as [`escaped`], cut after [`LONGEST`] characters with a mark of how many were cut.
pub fn shown(text: &str) -> Cow<'_, str> {
    cut(text, LONGEST)
}

/// The text as [`escaped`], cut after `most` characters with a mark of how many were cut.
pub fn cut(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        None => escaped(text),
        Some((end, _)) => {
            let rest = text[end..].chars().count();
            Cow::Owned(format!("{}… ({rest} more characters)", escaped(&text[..end])))
        }
    }
}

fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped_and_what_people_write_is_not() {
        for (text, want) in [
            ("\u{1b}[2J\u{1b}]0;title\u{7}", "\\u001b[2J\\u001b]0;title\\u0007"),
            ("a\r\nERROR b\tc", "a\\r\\nERROR b\\tc"),
            ("\u{9b}2J \u{7f}", "\\u009b2J \\u007f"),
            ("a\u{2028}b\u{2029}c", "a\\u2028b\\u2029c"),
            ("\u{202e}gpj.exe\u{2066}\u{61c}\u{200f}", "\\u202egpj.exe\\u2066\\u061c\\u200f"),
            ("\u{feff}x\u{2060}\u{fffa}\u{e0041}", "\\ufeffx\\u2060\\ufffa\\udb40\\udc41"),
            ("Größe 大小 \"q\" \\ 👩\u{200d}🔧 می\u{200c}خواهم", "Größe 大小 \"q\" \\ 👩\u{200d}🔧 می\u{200c}خواهم"),
        ] {
            assert_eq!(escaped(text), want);
            assert_eq!(escaped(want), want);
            let json = format!("\"{}\"", escaped(&text.replace(['\\', '"'], "")));
            assert!(serde_json::from_str::<String>(&json).is_ok(), "{json}");
        }
    }

    #[test]
    fn a_long_text_says_how_much_is_missing() {
        let long = "ü".repeat(LONGEST + 3);
        assert_eq!(shown(&long), format!("{}… (3 more characters)", "ü".repeat(LONGEST)));
        assert_eq!(shown("short"), "short");
        assert_eq!(cut("a\nbc", 2), "a\\n… (2 more characters)");
    }
}
