//! ALTER TABLE, clause by clause: recognises the clauses that leave the carried columns and the rows unchanged.
//!
//! Any other clause stops the stream.

use super::column::{self, Definition};
use super::names::{Names, same};
use super::session::Session;
use super::subject::{Effect, Reason, Redefinition, Subject, changes, may_change};
use super::words::{Kind, Word};

/// The effect of a foreign key that changes rows on a server that does not log those rows.
pub(super) fn unlogged_cascade() -> Effect {
    Effect::Unreadable(Reason {
        what: "a foreign key with CASCADE or SET NULL".to_owned(),
        is_certain: true,
        prevent: "use RESTRICT or NO ACTION, or MySQL 9.6 or later without innodb_native_foreign_keys",
    })
}

/// Table options without an effect on rows, each with one value.
const OPTIONS: [&str; 25] = [
    "AUTOEXTEND_SIZE",
    "AUTO_INCREMENT",
    "AVG_ROW_LENGTH",
    "CHECKSUM",
    "COMMENT",
    "COMPRESSION",
    "DELAY_KEY_WRITE",
    "ENCRYPTION",
    "ENGINE_ATTRIBUTE",
    "INSERT_METHOD",
    "KEY_BLOCK_SIZE",
    "MAX_ROWS",
    "MIN_ROWS",
    "PACK_KEYS",
    "PASSWORD",
    "ROW_FORMAT",
    "SECONDARY_ENGINE",
    "SECONDARY_ENGINE_ATTRIBUTE",
    "STATS_AUTO_RECALC",
    "STATS_PERSISTENT",
    "STATS_SAMPLE_PAGES",
    "STORAGE",
    "TABLESPACE",
    "CHARSET",
    "COLLATE",
];

/// Ok when the clause leaves the rows unchanged (what it redefines is in [`Alter::after`]), else its effect.
type Outcome = Result<(), Effect>;

/// ALTER TABLE of the table that is read.
pub(super) fn effect(
    words: &[Word<'_>],
    names: &Names<'_, '_>,
    session: &Session<'_>,
    subject: &Subject<'_>,
) -> Effect {
    if cascades(words) && !subject.logs_cascades {
        return unlogged_cascade();
    }
    let after = Redefinition { columns: subject.columns.to_vec(), gone: Vec::new() };
    let mut alter = Alter { subject, strict: session.mode.strict, after, in_order: false };
    let from = names.at(2).map_or(words.len(), |name| name.end);
    for clause in clauses(&words[from..]) {
        if let Err(effect) = alter.clause(clause) {
            return effect;
        }
    }
    let is_same = alter.after.columns == subject.columns && alter.after.gone.is_empty();
    if is_same { Effect::None } else { Effect::Redefined(alter.after) }
}

/// The effect of ALTER TABLE on our table.
pub(super) fn of_another(words: &[Word<'_>], names: &Names<'_, '_>, subject: &Subject<'_>) -> Effect {
    if !names.mention(subject.database, subject.table) {
        return Effect::None;
    }
    let from = names.at(2).map_or(words.len(), |name| name.end);
    for clause in clauses(&words[from..]) {
        let is = |i: usize, keyword: &str| clause.get(i).is_some_and(|w| w.is(keyword));
        if is(0, "EXCHANGE") {
            return changes("ALTER TABLE … that exchanges rows with a partition of another table");
        }
        if is(0, "RENAME") && !["COLUMN", "INDEX", "KEY"].iter().any(|k| is(1, k)) {
            return changes("ALTER TABLE … RENAME");
        }
    }
    Effect::None
}

/// Whether the statement has a foreign key that changes rows of the table with the key.
pub(super) fn cascades(words: &[Word<'_>]) -> bool {
    words.iter().any(|w| w.is("REFERENCES"))
        && words.windows(2).any(|w| {
            let acts = w[0].is_any(&["DELETE", "UPDATE"]);
            acts && w[1].is_any(&["CASCADE", "SET"])
        })
}

/// The items of a list, separated by commas outside of brackets.
fn clauses<'a, 'w>(words: &'a [Word<'w>]) -> impl Iterator<Item = &'a [Word<'w>]> {
    let mut depth = 0_i32;
    words.split(move |word| {
        depth += i32::from(word.symbol('(')) - i32::from(word.symbol(')'));
        depth == 0 && word.symbol(',')
    })
}

struct Alter<'a> {
    subject: &'a Subject<'a>,
    strict: bool,
    /// The carried columns so far.
    after: Redefinition,
    /// Whether the clause belongs to ORDER BY, in which each column is a separate clause.
    in_order: bool,
}

impl Alter<'_> {
    fn carried(&self, word: Option<&Word<'_>>) -> Option<usize> {
        let word = word.filter(|w| w.is_name())?;
        self.subject.carried.iter().position(|name| same(name, &word.text))
    }

    fn clause(&mut self, clause: &[Word<'_>]) -> Outcome {
        let is = |i: usize, keywords: &[&str]| clause.get(i).is_some_and(|w| w.is_any(keywords));
        let Some(first) = clause.first() else { return Ok(()) };
        let behind_column = if is(1, &["COLUMN"]) { 2 } else { 1 };
        let partition = is(1, &["PARTITION"]) || is(1, &["TABLESPACE"]);
        if self.in_order && is_ordered_by(clause) {
            return Ok(());
        }
        self.in_order = false;
        match first.text.to_ascii_uppercase().as_str() {
            _ if first.kind != Kind::Plain => Err(unknown(clause)),
            "TRUNCATE" | "DROP" | "EXCHANGE" | "IMPORT" | "DISCARD" if partition => {
                Err(changes("ALTER TABLE … that removes or exchanges rows"))
            }
            "ADD" if is(1, &["PARTITION"]) => Ok(()),
            "ADD"
                if is(
                    1,
                    &["INDEX", "KEY", "UNIQUE", "FULLTEXT", "SPATIAL", "PRIMARY", "CONSTRAINT", "FOREIGN", "CHECK"],
                ) =>
            {
                Ok(())
            }
            "ADD" => self.add(clause, behind_column),
            "DROP" if is(1, &["INDEX", "KEY", "PRIMARY", "FOREIGN", "CONSTRAINT", "CHECK"]) => Ok(()),
            "DROP" => self.drop(clause.get(behind_column)),
            "RENAME" if is(1, &["INDEX", "KEY"]) => Ok(()),
            "RENAME" if is(1, &["COLUMN"]) && is(3, &["TO"]) => self.rename(&clause[2], clause.get(4)),
            "RENAME" => Err(changes("ALTER TABLE … RENAME")),
            // Default or visibility of a column; an index; a check.
            "ALTER" => Ok(()),
            "MODIFY" => self.define(clause.get(behind_column), &clause[(behind_column + 1).min(clause.len())..]),
            "CHANGE" => {
                let (old, new) = (clause.get(behind_column), clause.get(behind_column + 1));
                if let (Some(old), Some(new)) = (old, new) {
                    self.rename(old, Some(new))?;
                }
                self.define(old, &clause[(behind_column + 2).min(clause.len())..])
            }
            "ORDER" if is(1, &["BY"]) => {
                self.in_order = true;
                Ok(())
            }
            "CONVERT" => Err(may_change("ALTER TABLE … CONVERT TO CHARACTER SET")),
            "FORCE" | "ENABLE" | "DISABLE" | "ALGORITHM" | "LOCK" | "WITH" | "WITHOUT" | "SECONDARY_LOAD"
            | "SECONDARY_UNLOAD" => Ok(()),
            "COALESCE" | "REORGANIZE" | "ANALYZE" | "CHECK" | "OPTIMIZE" | "REBUILD" if partition => Ok(()),
            _ => options(clause),
        }
    }

    /// Handles `DROP [COLUMN] name`: later records do not have a field of it.
    fn drop(&mut self, name: Option<&Word<'_>>) -> Outcome {
        let Some(i) = self.carried(name) else { return Ok(()) };
        let name = &self.subject.carried[i];
        if self.subject.needed.get(i) != Some(&false) {
            return Err(Effect::Unreadable(Reason {
                what: format!("ALTER TABLE … that drops the column {name}"),
                is_certain: true,
                prevent: "add the column again, as the records need it",
            }));
        }
        self.after.gone.push(name.to_lowercase());
        self.after.columns.get_mut(i).into_iter().for_each(String::clear);
        Ok(())
    }

    /// Handles `ADD [COLUMN] name …` or `ADD [COLUMN] (name …, name …)`.
    fn add(&mut self, clause: &[Word<'_>], place: usize) -> Outcome {
        let several = clause.get(place).is_some_and(|w| w.symbol('('));
        let list = &clause[(place + usize::from(several)).min(clause.len())..];
        clauses(list).take(if several { usize::MAX } else { 1 }).try_for_each(|definition| self.add_one(definition))
    }

    fn add_one(&mut self, definition: &[Word<'_>]) -> Outcome {
        let Some((name, kind)) = definition.split_first() else { return Ok(()) };
        let carried = self.carried(Some(name));
        let added = format!("ALTER TABLE … that adds the column {}", name.text);
        match carried {
            _ if self.subject.takes_all && fills_rows(definition) => {
                return Err(changes(format!("{added} and gives existing rows a value")));
            }
            _ if self.subject.takes_all && self.was_carried(&name.text.to_lowercase()) => {
                return Err(changes(format!("{added}, of which earlier records have other values,")));
            }
            Some(i) if !self.subject.takes_all => {
                return Err(changes(format!("ALTER TABLE … that adds the column {}", self.subject.carried[i])));
            }
            Some(i) => self.after.columns.get_mut(i).into_iter().for_each(|known| *known = column::added(kind)),
            None => {}
        }
        Ok(())
    }

    /// Whether the topic has records with values of a column of this name that was dropped.
    fn was_carried(&self, name: &String) -> bool {
        self.subject.gone.contains(name) || self.after.gone.contains(name)
    }

    fn rename(&self, from: &Word<'_>, to: Option<&Word<'_>>) -> Outcome {
        // A field keeps its spelling.
        if to.is_some_and(|to| same(&from.text, &to.text)) {
            return Ok(());
        }
        match self.carried(Some(from)).or(self.carried(to)) {
            Some(i) => Err(changes(format!("ALTER TABLE … that renames the column {}", self.subject.carried[i]))),
            None => Ok(()),
        }
    }

    /// Handles a new definition of an existing column.
    fn define(&mut self, name: Option<&Word<'_>>, words: &[Word<'_>]) -> Outcome {
        let Some(i) = self.carried(name) else {
            return if self.subject.is_generated {
                Err(may_change("ALTER TABLE … of a column that a carried one may be computed from"))
            } else {
                Ok(())
            };
        };
        let why = |why: &str| {
            may_change(format!("ALTER TABLE … that redefines the column {} ({why})", self.subject.carried[i]))
        };
        let Some(before) = self.after.columns.get(i).filter(|definition| !definition.is_empty()) else {
            return Err(why("its type before is not known at this place of the binlog"));
        };
        let Some(before) = Definition::of(before) else { return Err(why("its values may be converted")) };
        let is_pinned = self.subject.needed.get(i) != Some(&false);
        self.after.columns[i] = column::redefined(&before, words, (self.strict, is_pinned)).map_err(why)?;
        Ok(())
    }
}

/// Whether a new column has a value in the rows that exist: it has a default, is computed, or may not be NULL.
fn fills_rows(definition: &[Word<'_>]) -> bool {
    const FILLS: [&str; 6] = ["AS", "GENERATED", "AUTO_INCREMENT", "PRIMARY", "SERIAL", "NOT"];
    // With explicit_defaults_for_timestamp=OFF such a column may not be NULL and has a default.
    if definition.get(1).is_some_and(|kind| kind.is("TIMESTAMP")) && !definition.iter().any(|word| word.is("NULL")) {
        return true;
    }
    definition.iter().enumerate().skip(1).any(|(place, word)| {
        let is_null = definition.get(place + 1).is_some_and(|next| next.is("NULL"));
        word.is_any(&FILLS) || (word.is("DEFAULT") && !is_null)
    })
}

/// Whether the clause is a column, perhaps with its table, and perhaps with `ASC` or `DESC`.
fn is_ordered_by(clause: &[Word<'_>]) -> bool {
    let column = match clause {
        [column @ .., last] if last.is_any(&["ASC", "DESC"]) => column,
        column => column,
    };
    column.split(|w| w.symbol('.')).all(|part| matches!(part, [name] if name.is_name()))
}

/// Handles a sequence of table options and the partitioning.
fn options(clause: &[Word<'_>]) -> Outcome {
    let mut i = 0;
    while let Some(word) = clause.get(i) {
        let is = |i: usize, keyword: &str| clause.get(i).is_some_and(|w| w.is(keyword));
        if word.is_any(&["PARTITION", "REMOVE"]) {
            let engine = clause.iter().position(|w| w.is("ENGINE"));
            return if engine.is_none() { Ok(()) } else { Err(unknown(clause)) };
        }
        let name = if word.is("DEFAULT") { i + 1 } else { i };
        let value = match () {
            () if is(name, "CHARACTER") && is(name + 1, "SET") => name + 2,
            () if is(name, "DATA") || is(name, "INDEX") => name + 2,
            () if is(name, "ENGINE") => name + 1,
            () if clause.get(name).is_some_and(|w| w.is_any(&OPTIONS)) => name + 1,
            () => return Err(unknown(clause)),
        };
        let value = if clause.get(value).is_some_and(|w| w.symbol('=')) { value + 1 } else { value };
        if is(name, "ENGINE") && !is(value, "INNODB") {
            return Err(may_change("ALTER TABLE … to another storage engine than InnoDB"));
        }
        if clause.get(value).is_none_or(|w| w.kind == Kind::Symbol) {
            return Err(unknown(clause));
        }
        i = value + 1;
    }
    Ok(())
}

fn unknown(clause: &[Word<'_>]) -> Effect {
    let begin: Vec<&str> = clause.iter().take(2).map(|w| &*w.text).collect();
    may_change(format!("ALTER TABLE … with a clause that is not known here ({})", begin.join(" ")))
}
