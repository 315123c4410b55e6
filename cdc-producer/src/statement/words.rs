//! Splits an SQL statement into words like the server's own lexer (`sql/sql_lex.cc`): the session's SQL mode decides
//! the meaning of quotes and backslashes, its character set the length of a character. One pass, without storing the
//! words.

use std::borrow::Cow;

/// The settings of a session that decide how its statements are split into words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// `"` begins an identifier, not a text.
    pub ansi_quotes: bool,
    /// A backslash in a text has no special meaning.
    pub no_backslash_escapes: bool,
    /// A value that does not fit is an error.
    pub strict: bool,
    /// `character_set_client`.
    pub client: Client,
}

/// Character sets of clients, grouped by whether a later byte of a character may look like ASCII.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Client {
    /// No later byte looks like ASCII.
    #[default]
    Plain,
    /// `big5` and `gbk`: two bytes.
    TwoBytes,
    /// `sjis` and `cp932`: two bytes after some first bytes.
    ShiftJis,
    /// Two or four bytes.
    Gb18030,
}

impl Mode {
    /// From `sql_mode` in the binlog's form (bits of `sql/sql_const.h`), and the collation id of the client's text.
    pub fn new(sql_mode: u64, collation: u16) -> Self {
        let client = match collation {
            1 | 28 | 84 | 87 => Client::TwoBytes,
            13 | 88 | 95 | 96 => Client::ShiftJis,
            248..=250 => Client::Gb18030,
            _ => Client::Plain,
        };
        Self {
            ansi_quotes: sql_mode & (1 << 2) != 0,
            no_backslash_escapes: sql_mode & (1 << 20) != 0,
            strict: sql_mode & (1 << 21 | 1 << 22) != 0,
            client,
        }
    }
}

impl Client {
    /// Bytes of the character that begins here.
    fn length(self, bytes: &[u8]) -> usize {
        let (first, second) = (bytes[0], bytes.get(1).copied().unwrap_or(0));
        let wanted = match self {
            Self::Plain => 1,
            Self::TwoBytes if matches!(first, 0x81..=0xFE) => 2,
            Self::ShiftJis if matches!(first, 0x81..=0x9F | 0xE0..=0xFC) => 2,
            Self::Gb18030 if matches!(first, 0x81..=0xFE) => {
                if second.is_ascii_digit() {
                    4
                } else {
                    2
                }
            }
            _ => 1,
        };
        wanted.min(bytes.len())
    }
}

/// The kind of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A keyword, a name without quotes, or a number.
    Plain,
    /// A name in quotes.
    Quoted,
    /// A text literal; its content is omitted.
    Text,
    /// One character of punctuation.
    Symbol,
}

/// One word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word<'a> {
    /// Without quotes; empty for a text literal.
    pub text: Cow<'a, str>,
    /// Its kind.
    pub kind: Kind,
    /// Whether space or a comment precedes it.
    pub spaced: bool,
    /// The bytes between the quotes of a text literal, as the statement has them; else empty.
    pub literal: &'a [u8],
}

impl Word<'_> {
    /// Whether it is this keyword, given in capitals.
    pub fn is(&self, keyword: &str) -> bool {
        self.kind == Kind::Plain && self.text.eq_ignore_ascii_case(keyword)
    }

    /// Whether it is one of these keywords.
    pub fn is_any(&self, keywords: &[&str]) -> bool {
        keywords.iter().any(|keyword| self.is(keyword))
    }

    /// Whether it is this character of punctuation.
    pub fn symbol(&self, symbol: char) -> bool {
        self.kind == Kind::Symbol && self.text.starts_with(symbol)
    }

    /// Whether it may be a name.
    pub fn is_name(&self) -> bool {
        matches!(self.kind, Kind::Plain | Kind::Quoted)
    }
}

/// Iterates over the words of a statement, without comments. The server executes the text in `/*! … */`, so its words
/// count.
#[derive(Clone, Debug)]
pub struct Words<'a> {
    rest: &'a [u8],
    mode: Mode,
    /// Within `/*! … */`.
    versioned: bool,
}

impl<'a> Words<'a> {
    /// Begins at the start of this statement, as the client sent it.
    pub fn new(statement: &'a [u8], mode: Mode) -> Self {
        Self { rest: statement, mode, versioned: false }
    }

    /// Bytes of space and comment at the beginning; 0 when it begins with a word.
    fn gap(&mut self) -> usize {
        let rest = self.rest;
        let line = || rest.iter().position(|b| *b == b'\n').map_or(rest.len(), |end| end + 1);
        match rest {
            [b' ' | b'\t'..=b'\r', ..] => 1,
            [b'#', ..] => line(),
            // Without a space after them, these are two minus signs.
            [b'-', b'-', next, ..] if *next > b' ' && *next != 0x7F => 0,
            [b'-', b'-', ..] => line(),
            [b'/', b'*', b'!', version @ ..] => {
                self.versioned = true;
                3 + version.iter().take_while(|b| b.is_ascii_digit()).count()
            }
            [b'/', b'*', comment @ ..] => {
                comment.windows(2).position(|end| end == b"*/").map_or(rest.len(), |end| end + 4)
            }
            [b'*', b'/', ..] if self.versioned => {
                self.versioned = false;
                2
            }
            _ => 0,
        }
    }

    /// Bytes of the quoted text at the beginning, quotes included, and whether it contains a quote or a backslash.
    fn quoted(&self, escapes: bool) -> (usize, bool) {
        let (rest, quote) = (self.rest, self.rest[0]);
        let (mut at, mut special) = (1, false);
        while at < rest.len() {
            match rest[at] {
                b'\\' if escapes => {
                    special = true;
                    at += 1;
                    at += rest.get(at..).filter(|r| !r.is_empty()).map_or(0, |r| self.mode.client.length(r));
                }
                c if c == quote && rest.get(at + 1) == Some(&quote) => {
                    special = true;
                    at += 2;
                }
                c if c == quote => return (at + 1, special),
                _ => at += self.mode.client.length(&rest[at..]),
            }
        }
        (rest.len(), special)
    }

    fn name(&self, used: usize, doubled: bool) -> Cow<'a, str> {
        let closed = used > 1 && self.rest[used - 1] == self.rest[0];
        let name = String::from_utf8_lossy(&self.rest[1..if closed { used - 1 } else { used }]);
        let quote = char::from(self.rest[0]);
        if doubled { name.replace(&format!("{quote}{quote}"), &quote.to_string()).into() } else { name }
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = Word<'a>;

    fn next(&mut self) -> Option<Word<'a>> {
        let mut spaced = false;
        loop {
            let gap = self.gap();
            if gap == 0 {
                break;
            }
            spaced = true;
            self.rest = self.rest.get(gap..).unwrap_or_default();
        }
        let first = *self.rest.first()?;
        let (text, kind, used) = match first {
            b'`' | b'"' if first == b'`' || self.mode.ansi_quotes => {
                let (used, doubled) = self.quoted(false);
                (self.name(used, doubled), Kind::Quoted, used)
            }
            b'\'' | b'"' => ("".into(), Kind::Text, self.quoted(!self.mode.no_backslash_escapes).0),
            c if is_word(c) => {
                let mut used = 0;
                while self.rest.get(used).is_some_and(|b| is_word(*b)) {
                    used += self.mode.client.length(&self.rest[used..]);
                }
                (String::from_utf8_lossy(&self.rest[..used]), Kind::Plain, used)
            }
            _ => (String::from_utf8_lossy(&self.rest[..1]), Kind::Symbol, 1),
        };
        let literal = if kind == Kind::Text { &self.rest[1..used.saturating_sub(1).max(1)] } else { &[] };
        self.rest = &self.rest[used..];
        Some(Word { text, kind, spaced, literal })
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..)
}

/// The statement for a message: without comments, each literal as `?`, at most about 200 characters.
pub fn digest(statement: &[u8], mode: Mode) -> String {
    const LONGEST: usize = 200;
    let mut text = String::new();
    for word in Words::new(statement, mode) {
        if word.spaced && !text.is_empty() {
            text.push(' ');
        }
        match word.kind {
            Kind::Text => text.push('?'),
            Kind::Plain if word.text.starts_with(|c: char| c.is_ascii_digit()) => text.push('?'),
            Kind::Quoted => text.push_str(&format!("`{}`", word.text)),
            Kind::Plain | Kind::Symbol => text.push_str(&word.text),
        }
        if text.len() > LONGEST {
            text = text.chars().take(LONGEST).chain(['…']).collect();
            break;
        }
    }
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(statement: &[u8], mode: Mode) -> String {
        let show = |w: Word<'_>| match w.kind {
            Kind::Plain | Kind::Symbol => w.text.into_owned(),
            Kind::Quoted => format!("<{}>", w.text),
            Kind::Text => "?".to_owned(),
        };
        Words::new(statement, mode).map(show).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn as_the_server_takes_them_apart() {
        let ansi = Mode { ansi_quotes: true, ..Mode::default() };
        let plain = Mode { no_backslash_escapes: true, ..Mode::default() };
        let client = |client| Mode { client, ..Mode::default() };
        for (statement, mode, want) in [
            (&b"ALTER  TABLE a.`b``c` -- x\n ADD d INT"[..], Mode::default(), "ALTER TABLE a . <b`c> ADD d INT"),
            (b"a--1", Mode::default(), "a - - 1"),
            (b"a-- 1", Mode::default(), "a"),
            (b"a--", Mode::default(), "a"),
            (b"a#b\nc/*d*/e/*", Mode::default(), "a c e"),
            (b"a /*!80023 b /* c */ d */ e */ f", Mode::default(), "a b d e * / f"),
            (b"a/*!b*/c * d/*+ e */", Mode::default(), "a b c * d"),
            (br"'a\'b' c", Mode::default(), "? c"),
            (br"'a\' b", plain, "? b"),
            (br"COMMENT '\', COMMENT 'RENAME product x'", plain, "COMMENT ? , COMMENT ?"),
            (b"'a''b' N'c' _utf8mb4'd' x'61'", Mode::default(), "? N ? _utf8mb4 ? x ?"),
            (br#""a" "b\" c""#, Mode::default(), "? ?"),
            (br#""a" "b\" c"#, ansi, r"<a> <b\> c"),
            (b"'never closed", Mode::default(), "?"),
            (b"`never closed", Mode::default(), "<never closed>"),
            (br"'\", Mode::default(), "?"),
            ("größe $x 1e5".as_bytes(), Mode::default(), "größe $x 1e5"),
            // The second byte of the character looks like a backslash, or like the quote that ends a name.
            (b"'\x95\x5c' a", client(Client::ShiftJis), "? a"),
            (b"'\x81\x5c' a", client(Client::TwoBytes), "? a"),
            (b"'\x81\x30\x81\x5c' a", client(Client::Gb18030), "? a"),
            (b"`\x81\x60` a", client(Client::TwoBytes), "<\u{fffd}`> a"),
            (b"'\x81\x5c' a", Mode::default(), "?"),
        ] {
            assert_eq!(words(statement, mode), want, "{}", String::from_utf8_lossy(statement));
        }
    }

    #[test]
    fn a_message_shows_no_values() {
        let long = format!("INSERT INTO t VALUES {}", "(1, 'secret'), ".repeat(100));
        let digest = digest(long.as_bytes(), Mode::default());
        assert!(digest.starts_with("INSERT INTO t VALUES (?, ?), (?, ?)") && digest.ends_with('…'), "{digest}");
        assert!(digest.len() < 210 && !digest.contains("secret"));
        assert_eq!(super::digest(b"UPDATE\n t /* c */ SET `a` = -1.5", Mode::default()), "UPDATE t SET `a` = -?.?");
    }

    #[test]
    fn the_modes_of_a_session() {
        assert_eq!(Mode::new(0, 255), Mode::default());
        let all = Mode::new(1 << 2 | 1 << 20 | 1 << 22, 28);
        assert!(all.ansi_quotes && all.no_backslash_escapes && all.strict && all.client == Client::TwoBytes);
    }
}
