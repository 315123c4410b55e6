//! What a statement in the binlog may do to the table.
//!
//! Rows come as row events; a QUERY event matters only when it changes the table's rows without them (TRUNCATE, DROP,
//! a statement logged as text). There is no DDL parser: the words of the statement are looked at, and what may concern
//! the table stops the stream. Column changes need nothing: the next row event brings its own metadata.

use pipeline::table::Field;

/// What a QUERY event means for a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Begins a transaction; with XA, its identity.
    Begin(Option<String>),
    /// Commits it.
    Commit,
    /// Rolls it back.
    Rollback,
    /// Commits a transaction that was prepared before (XA); the text is its identity.
    XaCommit(String),
    /// Rolls such a transaction back.
    XaRollback(String),
    /// Rolls back to a savepoint: rows of the transaction that came before may be void.
    RollbackToSavepoint,
    /// Nothing that concerns the rows of the table.
    None,
    /// The rows change, or may change, without row events; the text names what it is.
    Unreadable(&'static str),
}

/// Looks at a statement that was run with `current` as its default database.
pub fn effect(statement: &str, current: &str, database: &str, table: &str) -> Effect {
    let words = words(statement);
    let is = |i: usize, keyword: &str| words.get(i).is_some_and(|w| !w.quoted && w.text.eq_ignore_ascii_case(keyword));
    let any = |keyword: &str| (0..words.len()).any(|i| is(i, keyword));
    let named = || mentions(&words, current, database, table);
    let Some(first) = words.first() else { return Effect::None };
    match first.text.to_ascii_uppercase().as_str() {
        "BEGIN" | "START" => Effect::Begin(None),
        "XA" if is(1, "START") || is(1, "BEGIN") => Effect::Begin(Some(identity(statement))),
        "XA" if is(1, "COMMIT") => Effect::XaCommit(identity(statement)),
        "XA" if is(1, "ROLLBACK") => Effect::XaRollback(identity(statement)),
        "COMMIT" => Effect::Commit,
        "ROLLBACK" if any("TO") => Effect::RollbackToSavepoint,
        "ROLLBACK" => Effect::Rollback,
        "TRUNCATE" if named() => Effect::Unreadable("TRUNCATE TABLE"),
        "DROP" if is(1, "DATABASE") || is(1, "SCHEMA") => {
            if words.iter().skip(2).any(|w| same(&w.text, database)) {
                Effect::Unreadable("DROP DATABASE")
            } else {
                Effect::None
            }
        }
        "DROP" if (is(1, "TABLE") || is(1, "TABLES")) && named() => Effect::Unreadable("DROP TABLE"),
        "RENAME" if named() => Effect::Unreadable("RENAME TABLE"),
        "ALTER" if is(1, "TABLE") && named() => alter(&words),
        "CREATE" if is(1, "TABLE") && any("SELECT") && named() => Effect::None,
        "INSERT" | "UPDATE" | "DELETE" | "REPLACE" | "LOAD" | "CALL" | "WITH" if same(current, database) || named() => {
            Effect::Unreadable("a statement that was logged as text (binlog_format is not ROW)")
        }
        _ => Effect::None,
    }
}

/// Which forms of ALTER TABLE touch rows or the name. A column of the contract that is dropped may come back in the same
/// statement with other values.
fn alter(words: &[Word<'_>]) -> Effect {
    let is = |i: usize, keyword: &str| words.get(i).is_some_and(|w| !w.quoted && w.text.eq_ignore_ascii_case(keyword));
    for i in 2..words.len() {
        let partition = ["TRUNCATE", "DROP", "EXCHANGE"].iter().any(|k| is(i, k)) && is(i + 1, "PARTITION");
        let tablespace =
            ["IMPORT", "DISCARD"].iter().any(|k| is(i, k)) && (is(i + 1, "TABLESPACE") || is(i + 1, "PARTITION"));
        if partition || tablespace {
            return Effect::Unreadable("ALTER TABLE … that removes or exchanges rows");
        }
        let column = if is(i + 1, "COLUMN") { i + 2 } else { i + 1 };
        let contract = |w: &Word<'_>| Field::ALL.iter().any(|f| w.text.eq_ignore_ascii_case(f.name()));
        if is(i, "DROP") && words.get(column).is_some_and(contract) {
            return Effect::Unreadable("ALTER TABLE … that drops a column");
        }
        if is(i, "RENAME") && !["COLUMN", "INDEX", "KEY"].iter().any(|k| is(i + 1, k)) {
            return Effect::Unreadable("ALTER TABLE … RENAME");
        }
    }
    Effect::None
}

/// The identity of an XA transaction, as the binlog prints it behind the two words.
fn identity(statement: &str) -> String {
    statement.split_whitespace().skip(2).collect()
}

/// Whether it is the same name; capitals count on some servers only, and what may concern the table stops the stream.
fn same(a: &str, b: &str) -> bool {
    a.to_lowercase() == b.to_lowercase()
}

/// Whether the table is named: alone where its database is the default one, or after its database and a point.
fn mentions(words: &[Word<'_>], current: &str, database: &str, table: &str) -> bool {
    words.iter().enumerate().any(|(i, w)| {
        let qualified = i >= 2 && words[i - 1].text == ".";
        same(&w.text, table) && if qualified { same(&words[i - 2].text, database) } else { same(current, database) }
    })
}

struct Word<'a> {
    text: std::borrow::Cow<'a, str>,
    quoted: bool,
}

/// The identifiers, keywords and points of a statement, without comments and string literals. `/*! … */` is executed by
/// the server, so its content counts.
fn words(statement: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut rest = statement;
    while let Some(c) = rest.chars().next() {
        let skip = |rest: &str, end: &str| rest.find(end).map_or(rest.len(), |i| i + end.len());
        let used = match c {
            '/' if rest.starts_with("/*!") => 3 + rest[3..].bytes().take_while(u8::is_ascii_digit).count(),
            '/' if rest.starts_with("/*") => 2 + skip(&rest[2..], "*/"),
            '#' => skip(rest, "\n"),
            '-' if rest.starts_with("--") => skip(rest, "\n"),
            '`' | '"' | '\'' => {
                let (text, used) = quoted(rest, c);
                if c != '\'' {
                    words.push(Word { text: text.into(), quoted: true });
                }
                used
            }
            '.' => {
                words.push(Word { text: ".".into(), quoted: false });
                1
            }
            c if is_word(c) => {
                let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                words.push(Word { text: rest[..end].into(), quoted: false });
                end
            }
            c => c.len_utf8(),
        };
        rest = &rest[used..];
    }
    words
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$')
}

/// The text in quotes at the beginning of `rest`, and how many bytes it takes; a doubled quote stands for one.
fn quoted(rest: &str, quote: char) -> (String, usize) {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((i, c)) = chars.next() {
        if c == '\\' && quote != '`' {
            if let Some((_, escaped)) = chars.next() {
                text.push(escaped);
            }
        } else if c != quote {
            text.push(c);
        } else if chars.peek().is_some_and(|(_, next)| *next == quote) {
            chars.next();
            text.push(quote);
        } else {
            return (text, i + 1);
        }
    }
    (text, rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_concerns_the_table() {
        const UNREADABLE: bool = true;
        for (statement, current, want) in [
            ("TRUNCATE product", "shop", UNREADABLE),
            ("truncate table `shop`.`product`", "other", UNREADABLE),
            ("TRUNCATE product", "other", false),
            ("TRUNCATE other.product", "shop", false),
            ("/* x */ DROP TABLE IF EXISTS a, `product` /* generated by server */", "shop", UNREADABLE),
            ("DROP TABLE `products`", "shop", false),
            ("DROP TEMPORARY TABLE product", "shop", false),
            ("DROP DATABASE shop", "", UNREADABLE),
            ("DROP DATABASE shop2", "shop", false),
            ("RENAME TABLE product TO old", "shop", UNREADABLE),
            ("RENAME TABLE shop.new TO shop.product", "", UNREADABLE),
            ("ALTER TABLE product ADD COLUMN colour INT COMMENT 'rename product'", "shop", false),
            ("ALTER TABLE product RENAME COLUMN a TO b", "shop", false),
            ("ALTER TABLE product RENAME TO old", "shop", UNREADABLE),
            ("ALTER TABLE product RENAME old", "shop", UNREADABLE),
            ("ALTER TABLE product DROP PARTITION p0", "shop", UNREADABLE),
            ("ALTER TABLE product /*!50100 TRUNCATE PARTITION p0 */", "shop", UNREADABLE),
            ("ALTER TABLE product DROP COLUMN `price`, ADD price INT", "shop", UNREADABLE),
            ("ALTER TABLE product DROP colour", "shop", false),
            ("ALTER TABLE product DROP INDEX price", "shop", false),
            ("truncate table SHOP.Product", "", UNREADABLE),
            ("DROP DATABASE SHOP", "", UNREADABLE),
            ("ALTER TABLE product DISCARD TABLESPACE", "shop", UNREADABLE),
            ("INSERT INTO product VALUES (1)", "shop", UNREADABLE),
            ("UPDATE other.t, shop.product SET x = 1", "other", UNREADABLE),
            ("INSERT INTO t VALUES ('product')", "other", false),
            ("CREATE TABLE product (id INT)", "shop", false),
            ("GRANT SELECT ON shop.product TO x", "shop", false),
            ("-- comment\nTRUNCATE product", "shop", UNREADABLE),
            ("", "shop", false),
            ("`", "shop", false),
        ] {
            let got = matches!(effect(statement, current, "shop", "product"), Effect::Unreadable(_));
            assert_eq!(got, want, "{statement} (in {current})");
        }
    }

    #[test]
    fn transactions() {
        for (statement, want) in [
            ("BEGIN", Effect::Begin(None)),
            ("XA START X'61',X'',1", Effect::Begin(Some("X'61',X'',1".to_owned()))),
            ("XA END X'61',X'',1", Effect::None),
            ("XA COMMIT X'61',X'',1", Effect::XaCommit("X'61',X'',1".to_owned())),
            ("XA ROLLBACK X'61',X'',1", Effect::XaRollback("X'61',X'',1".to_owned())),
            ("COMMIT", Effect::Commit),
            ("ROLLBACK", Effect::Rollback),
            ("ROLLBACK TO `a`", Effect::RollbackToSavepoint),
            ("SAVEPOINT `a`", Effect::None),
        ] {
            assert_eq!(effect(statement, "shop", "shop", "product"), want, "{statement}");
        }
    }
}
