//! Decides whether a new definition of a column leaves each value unchanged.
//!
//! In a strict session the server refuses to convert a value that does not fit. Type changes that silently round, pad
//! or cut values (fractions, trailing spaces of a text) are not accepted here.

use super::words::{Kind, Mode, Word, Words};

/// A column's type, and the other attributes that decide its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Definition {
    kind: Type,
    auto_increment: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Type {
    Int,
    Decimal {
        scale: u32,
    },
    /// CHAR, which loses trailing spaces, and VARCHAR.
    Chars {
        length: u32,
        is_padded: bool,
    },
    Text {
        bytes: u64,
    },
    Date,
    DateTime {
        fraction: u32,
    },
    Timestamp {
        fraction: u32,
    },
    Time {
        fraction: u32,
    },
    Float,
    Double,
    /// VARBINARY and the BLOB types, by their bytes.
    Bytes {
        length: u64,
    },
    Json,
    /// ENUM, or SET.
    Labels {
        is_set: bool,
        labels: Vec<String>,
    },
}

impl Definition {
    /// Parses the server's text: `varchar(300)`, `int unsigned auto_increment`. `None` for an unsupported type and for
    /// a generated column.
    pub(super) fn of(text: &str) -> Option<Self> {
        let words: Vec<Word<'_>> = Words::new(text.as_bytes(), Mode::default()).collect();
        let (kind, end) = Type::parse(&words)?;
        let auto_increment = words[end..].iter().any(|w| w.is("AUTO_INCREMENT"));
        let is_generated = words[end..].iter().any(|w| w.is("GENERATED"));
        (!is_generated).then_some(Self { kind, auto_increment })
    }
}

impl Type {
    /// The type at the beginning, and the index after it.
    fn parse(words: &[Word<'_>]) -> Option<(Self, usize)> {
        let name = words.first().filter(|w| w.kind == Kind::Plain)?.text.to_ascii_lowercase();
        if name == "enum" || name == "set" {
            let (labels, end) = labels(words)?;
            return Some((Self::Labels { is_set: name == "set", labels }, end));
        }
        let (mut sizes, mut end) = ([None, None], 1);
        if words.get(1).is_some_and(|w| w.symbol('(')) {
            let close = words.iter().position(|w| w.symbol(')'))?;
            for (size, word) in sizes.iter_mut().zip(words[2..close].split(|w| w.symbol(','))) {
                *size = Some(word.first()?.text.parse::<u32>().ok()?);
            }
            end = close + 1;
        }
        while words.get(end).is_some_and(|w| w.is_any(&["UNSIGNED", "SIGNED", "ZEROFILL"])) {
            end += 1;
        }
        let [size, scale] = sizes;
        let kind = match name.as_str() {
            "tinyint" | "smallint" | "mediumint" | "int" | "integer" | "bigint" => Self::Int,
            "decimal" | "numeric" | "dec" => Self::Decimal { scale: scale.unwrap_or(0) },
            "char" => Self::Chars { length: size.unwrap_or(1), is_padded: true },
            "varchar" => Self::Chars { length: size?, is_padded: false },
            "tinytext" => Self::Text { bytes: 255 },
            "text" if size.is_none() => Self::Text { bytes: 65_535 },
            "mediumtext" => Self::Text { bytes: 16_777_215 },
            "longtext" => Self::Text { bytes: 4_294_967_295 },
            "date" => Self::Date,
            "datetime" => Self::DateTime { fraction: size.unwrap_or(0) },
            "timestamp" => Self::Timestamp { fraction: size.unwrap_or(0) },
            "time" => Self::Time { fraction: size.unwrap_or(0) },
            "varbinary" => Self::Bytes { length: size?.into() },
            "tinyblob" => Self::Bytes { length: 255 },
            "blob" if size.is_none() => Self::Bytes { length: 65_535 },
            "mediumblob" => Self::Bytes { length: 16_777_215 },
            "longblob" => Self::Bytes { length: 4_294_967_295 },
            "json" => Self::Json,
            "float" if size.is_none() => Self::Float,
            "double" if size.is_none() => Self::Double,
            _ => return None,
        };
        Some((kind, end))
    }

    /// Whether each value of this type stays the same in the other type, or is refused by a strict session.
    fn stays_in(&self, other: &Self) -> bool {
        /// Maximum bytes of a character.
        const WIDEST: u64 = 4;
        match (self, other) {
            (Self::Int, Self::Int | Self::Decimal { .. }) => true,
            (Self::Decimal { scale: a }, Self::Decimal { scale: b }) => a <= b,
            (Self::Chars { length: a, is_padded }, Self::Chars { length: b, is_padded: padded }) => {
                a <= b && (*is_padded || !padded)
            }
            (Self::Chars { length, .. }, Self::Text { bytes }) => u64::from(*length) * WIDEST <= *bytes,
            (Self::Text { bytes: a }, Self::Text { bytes: b }) => a <= b,
            (Self::DateTime { fraction: a }, Self::DateTime { fraction: b })
            | (Self::Timestamp { fraction: a }, Self::Timestamp { fraction: b })
            | (Self::Time { fraction: a }, Self::Time { fraction: b }) => a <= b,
            (Self::Bytes { length: a }, Self::Bytes { length: b }) => a <= b,
            // A record carries the label, so its number may not name another one.
            (Self::Labels { is_set: a, labels }, Self::Labels { is_set: b, labels: more }) => {
                a == b && more.starts_with(labels)
            }
            // Each value is exact in the wider type.
            (Self::Float, Self::Double) => true,
            (a, b) => a == b,
        }
    }
}

/// The labels in brackets, and the index after them. `None` when one has an escaped character.
fn labels(words: &[Word<'_>]) -> Option<(Vec<String>, usize)> {
    let close = words.iter().position(|w| w.symbol(')'))?;
    let list = words.get(1).filter(|w| w.symbol('(')).and_then(|_| words.get(2..close))?;
    let label = |item: &[Word<'_>]| match item {
        [Word { kind: Kind::Text, literal, .. }] if !literal.iter().any(|b| matches!(b, b'\\' | b'\'' | b'"')) => {
            String::from_utf8(literal.to_vec()).ok()
        }
        _ => None,
    };
    let labels: Option<Vec<String>> = list.split(|w| w.symbol(',')).map(label).collect();
    Some((labels?, close + 1))
}

/// The new definition, in the form of [`Definition::of`], of a column with the definition `before`. The type of the field
/// of a pinned column stays.
///
/// # Errors
/// Why values may change.
pub(super) fn redefined(
    before: &Definition,
    words: &[Word<'_>],
    (is_strict, is_pinned): (bool, bool),
) -> Result<String, &'static str> {
    if !is_strict {
        return Err("the session is not strict, so values may be cut");
    }
    let (kind, end) = Type::parse(words).ok_or("its values may be converted")?;
    // A decimal field has the shortest digits of a float, which are not those of the double.
    let is_exact = !is_pinned || before.kind != Type::Float || kind == Type::Float;
    if !before.kind.stays_in(&kind) || !is_exact {
        return Err("its values may be converted or cut");
    }
    let attributes = Attributes::of(&words[end..]).ok_or("with something that is not known here")?;
    if attributes.auto_increment && !before.auto_increment {
        return Err("AUTO_INCREMENT gives rows with 0 another number");
    }
    // With explicit_defaults_for_timestamp off, NULL becomes the present time.
    if matches!(kind, Type::Timestamp { .. }) && !attributes.null {
        return Err("a NULL may become the present time");
    }
    let mut text = written(&words[..end]);
    if attributes.auto_increment {
        text.push_str(" auto_increment");
    }
    Ok(text)
}

/// The definition of a new column, in the form of [`Definition::of`]; empty when its type is unknown.
pub(super) fn added(words: &[Word<'_>]) -> String {
    Type::parse(words).map_or_else(String::new, |(_, end)| written(&words[..end]))
}

fn written(words: &[Word<'_>]) -> String {
    let word = |word: &Word<'_>| match word.kind {
        Kind::Text => format!("'{}'", String::from_utf8_lossy(word.literal)),
        _ => word.text.to_ascii_lowercase(),
    };
    words.iter().map(word).collect::<Vec<_>>().join(" ")
}

#[derive(Default)]
struct Attributes {
    auto_increment: bool,
    null: bool,
}

impl Attributes {
    /// `None` when one of the attributes is not known to leave values unchanged.
    fn of(words: &[Word<'_>]) -> Option<Self> {
        let mut found = Self::default();
        let mut i = 0;
        while let Some(word) = words.get(i) {
            let is = |i: usize, keyword: &str| words.get(i).is_some_and(|w| w.is(keyword));
            i = match word.text.to_ascii_uppercase().as_str() {
                _ if word.kind != Kind::Plain => return None,
                "NULL" => {
                    found.null = true;
                    i + 1
                }
                "NOT" if is(i + 1, "NULL") => i + 2,
                "AUTO_INCREMENT" => {
                    found.auto_increment = true;
                    i + 1
                }
                "VISIBLE" | "INVISIBLE" | "UNIQUE" | "PRIMARY" | "KEY" | "FIRST" => i + 1,
                "CHARACTER" if is(i + 1, "SET") && !is(i + 2, "BINARY") => i + 3,
                "CHARSET" if !is(i + 1, "BINARY") => i + 2,
                "COLLATE" | "COMMENT" | "AFTER" | "COLUMN_FORMAT" | "STORAGE" => i + 2,
                "DEFAULT" => value(words, i + 1)?,
                "ON" if is(i + 1, "UPDATE") => value(words, i + 2)?,
                _ => return None,
            };
        }
        Some(found)
    }
}

/// The index after a value: a literal with its sign or character set, a function with its brackets, or an expression in
/// brackets.
fn value(words: &[Word<'_>], mut i: usize) -> Option<usize> {
    if words.get(i).is_some_and(|w| w.symbol('-') || w.symbol('+')) {
        i += 1;
    }
    let word = words.get(i)?;
    let open = if word.symbol('(') {
        i
    } else if word.kind == Kind::Symbol {
        return None;
    } else {
        let number = word.text.starts_with(|c: char| c.is_ascii_digit());
        match words.get(i + 1) {
            // `0.00`
            Some(point) if number && point.symbol('.') => return Some(i + 3),
            // `_utf8mb4'…'`, `X'…'`
            Some(text) if word.kind == Kind::Plain && text.kind == Kind::Text => return Some(i + 2),
            Some(open) if open.symbol('(') => i + 1,
            _ => return Some(i + 1),
        }
    };
    let mut depth = 0;
    for (place, word) in words.iter().enumerate().skip(open) {
        depth += i32::from(word.symbol('(')) - i32::from(word.symbol(')'));
        if depth == 0 {
            return Some(place + 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_that_keep_each_value() {
        const ENUM: &str = "enum('a','b c')";
        for (before, after, is_kept) in [
            ("float", "DOUBLE", true),
            ("double", "FLOAT", false),
            ("int", "DOUBLE", false),
            (ENUM, "ENUM('a','b c','d')", true),
            (ENUM, "ENUM ( 'a' , 'b c' ) NOT NULL", true),
            (ENUM, "ENUM('b c','a')", false),
            (ENUM, "ENUM('a')", false),
            (ENUM, "ENUM('a','B c','d')", false),
            (ENUM, "SET('a','b c')", false),
            (ENUM, "VARCHAR(9)", false),
            ("enum('it''s')", "ENUM('it''s','x')", false),
            ("enum('it''s')", r"ENUM('it\'s','x')", false),
            ("set('a','b')", "SET('a','b','c')", true),
            ("set('a','b')", "SET('a','c','b')", false),
            ("time", "TIME(6)", true),
            ("time(3)", "TIME", false),
            ("datetime", "DATETIME(6)", true),
            ("datetime(6)", "DATETIME(3)", false),
            ("varbinary(9)", "VARBINARY(10)", true),
            ("varbinary(9)", "BLOB", true),
            ("blob", "VARBINARY(9)", false),
            ("blob", "LONGBLOB", true),
            ("binary(9)", "BINARY(10)", false),
            ("json", "JSON COMMENT 'x'", true),
            ("json", "TEXT", false),
        ] {
            let words: Vec<Word<'_>> = Words::new(after.as_bytes(), Mode::default()).collect();
            let redefined = |before: &Definition, is_pinned| redefined(before, &words, (true, is_pinned)).is_ok();
            let kept = |is_pinned| Definition::of(before).is_some_and(|before| redefined(&before, is_pinned));
            assert_eq!(kept(false), is_kept, "{before}: {after}");
            // The digits of a decimal field are those of the shorter number.
            assert_eq!(kept(true), is_kept && before != "float", "pinned, {before}: {after}");
        }
    }
}
