//! The names of tables in a statement.

use std::collections::BTreeSet;

use super::words::Word;

/// Whether the names are equal, ignoring case: only some servers distinguish case, and a doubtful name must stop the
/// stream.
pub(super) fn same(a: &str, b: &str) -> bool {
    a == b || a.to_lowercase() == b.to_lowercase()
}

/// The name of a table in a statement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name<'a> {
    pub(super) database: &'a str,
    pub(super) table: &'a str,
    /// The index after it.
    pub(super) end: usize,
}

impl Name<'_> {
    pub(super) fn is(&self, database: &str, table: &str) -> bool {
        same(self.database, database) && same(self.table, table)
    }
}

/// The words of a statement, and the default database for names without one.
pub(super) struct Names<'a, 'w> {
    pub(super) words: &'a [Word<'w>],
    pub(super) current: &'a str,
}

impl<'a> Names<'a, '_> {
    /// The table name that begins at this word: `table`, `database.table` or `.table`.
    pub(super) fn at(&self, i: usize) -> Option<Name<'a>> {
        let name = |i: usize| self.words.get(i).filter(|w| w.is_name()).map(|w| &*w.text);
        let point = |i: usize| self.words.get(i).is_some_and(|w| w.symbol('.'));
        if point(i) {
            return Some(Name { database: self.current, table: name(i + 1)?, end: i + 2 });
        }
        let first = name(i)?;
        match point(i + 1).then(|| name(i + 2)).flatten() {
            Some(table) => Some(Name { database: first, table, end: i + 3 }),
            None => Some(Name { database: self.current, table: first, end: i + 1 }),
        }
    }

    /// Whether the statement names the table: without a database when ours may be the default one, or with its
    /// database.
    pub(super) fn mention(&self, database: &str, table: &str) -> bool {
        let words = self.words;
        words.iter().enumerate().any(|(i, word)| {
            let after = i >= 2 && words[i - 1].symbol('.') && words[i - 2].is_name();
            let qualified = after && same(&words[i - 2].text, database);
            // A `.table` may follow any keyword.
            let alone = !after || words[i - 1].spaced;
            word.is_name() && same(&word.text, table) && (qualified || alone && same(self.current, database))
        })
    }

    /// Whether the statement drops a trigger of one of these tables, or changes which table has its name.
    pub(super) fn undoes(&self, asked: &BTreeSet<String>) -> bool {
        let is = |i: usize, keyword: &str| self.words.get(i).is_some_and(|w| w.is(keyword));
        let object = (2..self.words.len()).find(|i| !is(*i, "IF") && !is(*i, "EXISTS")).and_then(|i| self.at(i));
        asked.iter().filter_map(|name| name.split_once('.')).any(|(database, table)| match () {
            () if is(0, "DROP") && is(1, "TRIGGER") => object.is_some_and(|o| same(o.database, database)),
            () if is(0, "DROP") && (is(1, "DATABASE") || is(1, "SCHEMA")) => {
                object.is_some_and(|o| same(o.table, database))
            }
            () if is(0, "DROP") || is(0, "RENAME") || is(0, "CREATE") => self.mention(database, table),
            () => false,
        })
    }
}
