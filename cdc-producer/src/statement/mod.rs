//! Classifies what a statement in the binlog may do to the rows of our table.
//!
//! Row changes come as row events; a QUERY event matters when it changes rows without them: a definition (TRUNCATE,
//! DROP, a column with converted values), or a statement that was logged as text. There is no DDL parser: the
//! classification compares words, and a statement that may affect our table stops the stream.
//!
//! Pure. Whether another table has triggers that write to ours is not decided here: the module `reach` asks the server.

mod alter;
mod column;
mod names;
mod session;
mod subject;
mod text;
mod words;

pub use session::{Session, Written};
pub use subject::{Effect, Reason, Redefinition, Subject};
pub use words::{Mode, Words, digest};

use names::{Name, Names, same};
use subject::{changes, may_change};
use words::{Kind, Word};

/// Maximum words of a definition; a longer one stops the stream. The longest known ones have some thousands.
const LONGEST: usize = 100_000;

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

#[cfg(test)]
mod tests;
