//! A statement that was logged as text (`binlog_format` is not ROW): whether it may have written to the table.
//!
//! The server lists the databases that the statement wrote to, also through views, triggers and functions. If ours is
//! among them, only a simple statement is accepted, such as a heartbeat tool's: it writes to one table by its name,
//! reads no other table and calls no stored function.

use super::names::same;
use super::session::{Session, Written};
use super::subject::{Effect, Reason, Subject};
use super::words::{Kind, Word, Words};

/// Words that may precede a bracket, with space or without, and are not the name of a function.
const KEYWORDS: [&str; 26] = [
    "AND", "AS", "BETWEEN", "BINARY", "BY", "CASE", "CHAR", "DECIMAL", "DIV", "ELSE", "IN", "INTERVAL", "IS", "LIKE",
    "LIMIT", "LINES", "MOD", "NOT", "ON", "OR", "SET", "THEN", "VALUES", "WHEN", "WHERE", "XOR",
];

/// Functions of the server, if the bracket follows directly; with a space, `now ()` may be a stored function of that
/// name.
const FUNCTIONS: [&str; 68] = [
    "ABS",
    "ADDDATE",
    "ADDTIME",
    "CAST",
    "CEIL",
    "CEILING",
    "COALESCE",
    "CONCAT",
    "CONCAT_WS",
    "CONNECTION_ID",
    "CONVERT",
    "CRC32",
    "CURDATE",
    "CURRENT_DATE",
    "CURRENT_TIME",
    "CURRENT_TIMESTAMP",
    "CURRENT_USER",
    "CURTIME",
    "DATABASE",
    "DATE",
    "DATE_ADD",
    "DATE_FORMAT",
    "DATE_SUB",
    "FLOOR",
    "FROM_UNIXTIME",
    "GREATEST",
    "HEX",
    "IF",
    "IFNULL",
    "LAST_INSERT_ID",
    "LEAST",
    "LEFT",
    "LENGTH",
    "LOCALTIME",
    "LOCALTIMESTAMP",
    "LOWER",
    "MD5",
    "MICROSECOND",
    "NOW",
    "NULLIF",
    "RAND",
    "REPLACE",
    "RIGHT",
    "ROUND",
    "SECOND",
    "SHA1",
    "SHA2",
    "STR_TO_DATE",
    "SUBDATE",
    "SUBSTR",
    "SUBSTRING",
    "SUBTIME",
    "SYSDATE",
    "TIME",
    "TIMEDIFF",
    "TIMESTAMP",
    "TIMESTAMPADD",
    "TIMESTAMPDIFF",
    "TRIM",
    "TRUNCATE",
    "UNHEX",
    "UNIX_TIMESTAMP",
    "UPPER",
    "USER",
    "UTC_DATE",
    "UTC_TIME",
    "UTC_TIMESTAMP",
    "UUID",
];

const LOGGED_AS_TEXT: &str = "a statement that was logged as text (binlog_format is not ROW)";

/// The effect of the statement on our table.
pub(super) fn effect(statement: &[u8], session: &Session<'_>, subject: &Subject<'_>) -> Effect {
    if !session.may_write_to(subject.database) {
        return Effect::None;
    }
    let may_change = |what: String, is_certain: bool| {
        let prevent = "let every session that writes use binlog_format = ROW";
        Effect::Unreadable(Reason { what, is_certain, prevent })
    };
    if session.written == Written::Unknown {
        return may_change(format!("{LOGGED_AS_TEXT} and concerns foreign keys or many databases"), false);
    }
    match target(&mut Words::new(statement, session.mode), &session.database) {
        Some((database, table)) if same(&database, subject.database) && same(&table, subject.table) => {
            may_change(LOGGED_AS_TEXT.to_owned(), true)
        }
        Some((database, table)) => Effect::Writes(database, table),
        None => may_change(LOGGED_AS_TEXT.to_owned(), false),
    }
}

/// The only table that a simple statement writes to; `None` when it may write to others as well.
fn target(words: &mut Words<'_>, current: &str) -> Option<(String, String)> {
    let first = words.next()?;
    let mut word = words.next()?;
    while word.is_any(&["LOW_PRIORITY", "DELAYED", "HIGH_PRIORITY", "QUICK", "IGNORE", "INTO"]) {
        word = words.next()?;
    }
    match first.text.to_ascii_uppercase().as_str() {
        "INSERT" | "REPLACE" | "UPDATE" => {}
        "DELETE" if word.is("FROM") => word = words.next()?,
        "LOAD" if word.is_any(&["DATA", "XML"]) => {
            while !word.is("TABLE") {
                word = words.next()?;
            }
            word = words.next()?;
        }
        _ => return None,
    }
    if !word.is_name() {
        return None;
    }
    let mut name = (current.to_owned(), word.text.into_owned());
    let mut next = words.next();
    if next.as_ref().is_some_and(|w| w.symbol('.')) {
        let table = words.next().filter(Word::is_name)?;
        name = (name.1, table.text.into_owned());
        next = words.next();
    }
    let one_table = match first.text.to_ascii_uppercase().as_str() {
        "UPDATE" => next.as_ref().is_some_and(|w| w.is("SET")),
        "DELETE" => next.as_ref().is_none_or(|w| w.is_any(&["WHERE", "ORDER", "LIMIT"])),
        _ => true,
    };
    // Skips the list of columns.
    if next.as_ref().is_some_and(|w| w.symbol('(')) {
        next = words.next();
    }
    (one_table && next.into_iter().chain(words).all(reads_nothing())).then_some(name)
}

/// Checks the words one by one: false when the statement may read another table or call a stored function.
fn reads_nothing<'a>() -> impl FnMut(Word<'a>) -> bool {
    let [mut before, mut last]: [Option<Word<'a>>; 2] = [None, None];
    move |word| {
        let reads = word.is_any(&["SELECT", "TABLE", "WITH", "FROM", "JOIN", "USING", "CALL", "INTO"]);
        let is_call = word.symbol('(')
            && last.as_ref().is_some_and(|name| {
                let qualified = before.as_ref().is_some_and(|w| w.symbol('.'));
                let is_known = name.is_any(&KEYWORDS) || !word.spaced && name.is_any(&FUNCTIONS);
                name.kind == Kind::Quoted || name.kind == Kind::Plain && (qualified || !is_known)
            });
        let harmless = !reads && !is_call && !word.symbol(';');
        before = last.replace(word);
        harmless
    }
}
