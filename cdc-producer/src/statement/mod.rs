//! Classifies what a statement in the binlog may do to the rows of our table.
//!
//! Row changes come as row events; a QUERY event matters when it changes rows without them: a definition (TRUNCATE,
//! DROP, a column with converted values), or a statement that was logged as text. There is no DDL parser: the
//! classification compares words, and a statement that may affect our table stops the stream.
//!
//! Pure. Whether another table has triggers that write to ours is not decided here: the module `reach` asks the server.

mod alter;
mod column;
mod session;
mod text;
mod words;

pub use session::{Session, Written};
pub use words::{Mode, Words, digest};

use std::collections::BTreeSet;

use words::{Kind, Word};

/// Maximum words of a definition; a longer one stops the stream. The longest known ones have some thousands.
const LONGEST: usize = 100_000;

/// The table that is read, and the known facts about it at this place of the binlog.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its database.
    pub database: &'a str,
    /// Its name.
    pub table: &'a str,
    /// The names of the carried columns.
    pub carried: &'a [String],
    /// The definitions of these columns, in the form of [`mysql::table::ColumnPlan::definition`]; empty when
    /// unknown.
    pub columns: &'a [String],
    /// By place in `carried`, whether the records need the column: a pinned schema or the key has it.
    pub needed: &'a [bool],
    /// Whether each column of the table is carried, also a new one.
    pub takes_all: bool,
    /// Columns that the table no longer has, and of which the topic's records have values.
    pub gone: &'a BTreeSet<String>,
    /// Whether a carried column is computed from others.
    pub is_generated: bool,
    /// The server logs the rows that a foreign key changes.
    pub logs_cascades: bool,
    /// Whether a snapshot reads the table behind this place, so that only a transaction's begin and end matter.
    pub is_read_behind: bool,
    /// Tables, `database.table`, about which the producer asked the server after its binlog had reached this place.
    pub asked: Option<&'a BTreeSet<String>>,
}

/// The effect of a QUERY event on a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Begins a transaction; with XA, its identity.
    Begin(Option<String>),
    /// Commits it.
    Commit,
    /// Rolls it back.
    Rollback,
    /// Commits an XA transaction that was prepared before; the text is its identity.
    XaCommit(String),
    /// Rolls such a transaction back.
    XaRollback(String),
    /// Rolls back to a savepoint: earlier rows of the transaction may be void.
    RollbackToSavepoint,
    /// No effect on the rows of the table.
    None,
    /// The table is created.
    Created,
    /// No value changes, but the columns do.
    Redefined(Redefinition),
    /// Writes to this other table only: database and table. Its triggers may write to our table.
    Writes(String, String),
    /// The rows change, or may change, without row events.
    Unreadable(Reason),
}

/// The carried columns after a statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redefinition {
    /// Their definitions, as in [`Subject::columns`]; an empty one is unknown.
    pub columns: Vec<String>,
    /// Those that the statement drops, in small letters.
    pub gone: Vec<String>,
}

/// Why the rows change without row events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The cause of the change.
    pub what: String,
    /// True if the rows change for certain; false if they may change.
    pub is_certain: bool,
    /// How to prevent this; empty when that is obvious.
    pub prevent: &'static str,
}

fn changes(what: impl Into<String>) -> Effect {
    Effect::Unreadable(Reason { what: what.into(), is_certain: true, prevent: "" })
}

fn may_change(what: impl Into<String>) -> Effect {
    Effect::Unreadable(Reason { what: what.into(), is_certain: false, prevent: "" })
}

/// Classifies a statement of this session.
pub fn effect(statement: &[u8], session: &Session<'_>, subject: &Subject<'_>) -> Effect {
    let mut head = Words::new(statement, session.mode);
    let Some(first) = head.next() else { return Effect::None };
    let second = head.next();
    let second_is = |keyword: &str| second.as_ref().is_some_and(|w| w.is(keyword));
    if first.kind != Kind::Plain {
        return text::effect(statement, session, subject);
    }
    match first.text.to_ascii_uppercase().as_str() {
        "BEGIN" => Effect::Begin(None),
        "START" if second_is("TRANSACTION") => Effect::Begin(None),
        "XA" => match xa(statement) {
            Some(Xa::Start(xa)) => Effect::Begin(Some(xa)),
            Some(Xa::Commit(xa)) => Effect::XaCommit(xa),
            Some(Xa::Rollback(xa)) => Effect::XaRollback(xa),
            None => Effect::None,
        },
        "COMMIT" => Effect::Commit,
        "ROLLBACK" if Words::new(statement, session.mode).any(|w| w.is("TO")) => Effect::RollbackToSavepoint,
        "ROLLBACK" => Effect::Rollback,
        "TRUNCATE" | "DROP" | "RENAME" | "ALTER" | "CREATE" => {
            let words: Vec<Word<'_>> = Words::new(statement, session.mode).take(LONGEST + 1).collect();
            if words.len() > LONGEST {
                return long_definition(&words, Words::new(statement, session.mode), subject);
            }
            definition(&words, statement, session, subject)
        }
        "SAVEPOINT" | "RELEASE" | "GRANT" | "REVOKE" | "SET" | "FLUSH" | "ANALYZE" | "OPTIMIZE" | "REPAIR"
        | "CHECK" | "INSTALL" | "UNINSTALL" => Effect::None,
        _ => text::effect(statement, session, subject),
    }
}

/// Whether the statement may create a table, or give it another name.
pub fn may_create(statement: &[u8], mode: Mode) -> bool {
    let mut words = Words::new(statement, mode);
    words.next().is_some_and(|first| first.is_any(&["CREATE", "RENAME", "ALTER"]))
        && words.take(6).any(|word| word.is("TABLE"))
}

/// A definition with more words than are kept. One of a procedure and its like has no table; of another, the table is ours
/// only if our table or database is among the words.
fn long_definition<'a>(first: &[Word<'a>], mut all: impl Iterator<Item = Word<'a>>, subject: &Subject<'_>) -> Effect {
    const OBJECTS: [&str; 9] =
        ["TABLE", "DATABASE", "SCHEMA", "INDEX", "VIEW", "TRIGGER", "PROCEDURE", "FUNCTION", "EVENT"];
    let object = first.iter().skip(1).find(|word| word.is_any(&OBJECTS));
    if object.is_some_and(|object| object.is_any(&["VIEW", "PROCEDURE", "FUNCTION", "EVENT"])) {
        return Effect::None;
    }
    let asked = subject.asked.into_iter().flatten().filter_map(|name| name.split_once('.'));
    let names: Vec<&str> =
        asked.flat_map(|(database, table)| [database, table]).chain([subject.database, subject.table]).collect();
    if all.any(|word| names.iter().any(|name| same(&word.text, name))) {
        return may_change(format!(
            "a definition of more than {LONGEST} words, which is a fixed limit, with the name of the table or its database"
        ));
    }
    Effect::None
}

/// Statements that define something.
fn definition(words: &[Word<'_>], statement: &[u8], session: &Session<'_>, subject: &Subject<'_>) -> Effect {
    let is = |i: usize, keyword: &str| words.get(i).is_some_and(|w| w.is(keyword));
    let names = Names { words, current: &session.database };
    if let Some(asked) = subject.asked.filter(|asked| names.undoes(asked)) {
        let tables = asked.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        return may_change(format!(
            "a statement that was logged as text before and wrote to one of {tables}, whose triggers of that time are not \
             known any more because of this statement,"
        ));
    }
    let is_ours = |name: Option<Name<'_>>| name.is_some_and(|n| n.is(subject.database, subject.table));
    let after_if = |i: usize| (i..words.len()).find(|i| !words[*i].is_any(&["IF", "NOT", "EXISTS"])).unwrap_or(i);
    let ours_is_named = || names.mention(subject.database, subject.table);
    match words[0].text.to_ascii_uppercase().as_str() {
        "TRUNCATE" if is_ours(names.at(if is(1, "TABLE") { 2 } else { 1 })) => changes("TRUNCATE TABLE"),
        "DROP" if is(1, "DATABASE") || is(1, "SCHEMA") => {
            if words.get(after_if(2)).is_some_and(|w| same(&w.text, subject.database)) {
                changes("DROP DATABASE")
            } else {
                Effect::None
            }
        }
        "DROP" if (is(1, "TABLE") || is(1, "TABLES")) && ours_is_named() => changes("DROP TABLE"),
        "RENAME" if !is(1, "USER") && ours_is_named() => changes("RENAME TABLE"),
        "ALTER" if is(1, "TABLE") && is_ours(names.at(2)) => alter::effect(words, &names, session, subject),
        "ALTER" if is(1, "TABLE") => alter::of_another(words, &names, subject),
        "CREATE" if is(1, "TABLE") || is(2, "TABLE") => {
            let place = words.iter().position(|w| w.is("TABLE")).map_or(2, |i| after_if(i + 1));
            // With row logging the definition in the binlog does not contain the query.
            let has_query = words.iter().skip(place).any(|w| w.is_any(&["SELECT", "TABLE"]))
                || words.windows(2).any(|w| w[0].is("VALUES") && w[1].is("ROW"));
            let ours = is_ours(names.at(place)) && !is(1, "TEMPORARY");
            match (ours, has_query) {
                (true, true) => changes("CREATE TABLE … SELECT that was logged as text (binlog_format is not ROW)"),
                (true, false) if alter::cascades(words) && !subject.logs_cascades => alter::unlogged_cascade(),
                (true, false) => Effect::Created,
                (false, true) => text::effect(statement, session, subject),
                (false, false) => Effect::None,
            }
        }
        _ => Effect::None,
    }
}

/// The action of a statement on an XA transaction; the text is its identity, as the binlog prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Xa {
    /// Begins it.
    Start(String),
    /// Commits it, after it was prepared.
    Commit(String),
    /// Rolls it back.
    Rollback(String),
}

/// Parses an XA statement in the server's own form, `XA COMMIT X'61',X'',1`; `None` for any other statement.
pub fn xa(statement: &[u8]) -> Option<Xa> {
    let text = String::from_utf8_lossy(statement);
    let mut words = text.split_whitespace();
    let phase = words.next().filter(|word| word.eq_ignore_ascii_case("XA")).and(words.next())?;
    let identity = words.collect();
    match phase.to_ascii_uppercase().as_str() {
        "START" | "BEGIN" => Some(Xa::Start(identity)),
        "COMMIT" => Some(Xa::Commit(identity)),
        "ROLLBACK" => Some(Xa::Rollback(identity)),
        _ => None,
    }
}

/// Whether the names are equal, ignoring case: only some servers distinguish case, and a doubtful name must stop the
/// stream.
fn same(a: &str, b: &str) -> bool {
    a == b || a.to_lowercase() == b.to_lowercase()
}

/// The name of a table in a statement.
#[derive(Clone, Copy, Debug)]
struct Name<'a> {
    database: &'a str,
    table: &'a str,
    /// The index after it.
    end: usize,
}

impl Name<'_> {
    fn is(&self, database: &str, table: &str) -> bool {
        same(self.database, database) && same(self.table, table)
    }
}

/// The words of a statement, and the default database for names without one.
struct Names<'a, 'w> {
    words: &'a [Word<'w>],
    current: &'a str,
}

impl<'a> Names<'a, '_> {
    /// The table name that begins at this word: `table`, `database.table` or `.table`.
    fn at(&self, i: usize) -> Option<Name<'a>> {
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
    fn mention(&self, database: &str, table: &str) -> bool {
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
    fn undoes(&self, asked: &BTreeSet<String>) -> bool {
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

#[cfg(test)]
mod tests;
