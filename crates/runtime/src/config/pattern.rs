//! Patterns of table names.

use model::table_name::TableName;
use wildmatch::WildMatch;

/// A pattern of table names: `shop.*`.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    is_exclusion: bool,
    database: Part,
    table: Part,
}

#[derive(Clone, Debug)]
enum Part {
    Exact(String),
    Glob(WildMatch),
}

impl Part {
    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(text) => text == name,
            Self::Glob(glob) => glob.matches(name),
        }
    }
}

impl Pattern {
    /// Reads `database.table`, in which `*` is any run of characters and `?` any one of them, or a part in backquotes
    /// stands for itself. `!` before it excludes the tables.
    ///
    /// # Errors
    /// The fault, as the end of a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        const WANTED: &str = "is no name of a table, e.g. shop.orders, shop.* or !shop.tmp_*";
        let (is_exclusion, rest) = match text.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (database, rest) = part(rest).ok_or(WANTED)?;
        let (table, rest) = rest.strip_prefix('.').and_then(part).ok_or(WANTED)?;
        if !rest.is_empty() {
            return Err(format!("{WANTED}; write a name that has a dot in backquotes"));
        }
        Ok(Self { text: text.to_owned(), is_exclusion, database, table })
    }

    /// Whether it names this table, to take it or to exclude it.
    pub fn matches(&self, name: &TableName) -> bool {
        self.database.matches(&name.database) && self.table.matches(&name.table)
    }

    /// The one table that it names; `None` for a pattern with `*` or `?`.
    pub fn exact(&self) -> Option<TableName> {
        match (&self.database, &self.table) {
            (Part::Exact(database), Part::Exact(table)) => Some(TableName::new(database, table)),
            _ => None,
        }
    }

    /// The pattern that takes just this table.
    pub(super) fn of(name: &TableName) -> Self {
        let TableName { database, table } = name.clone();
        let text = format!("{database}.{table}");
        Self { text, is_exclusion: false, database: Part::Exact(database), table: Part::Exact(table) }
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it excludes the tables that it names.
    pub fn is_exclusion(&self) -> bool {
        self.is_exclusion
    }
}

/// The first part of a pattern, and what follows it.
fn part(text: &str) -> Option<(Part, &str)> {
    if let Some(quoted) = text.strip_prefix('`') {
        let mut name = String::new();
        let mut rest = quoted;
        loop {
            let (before, after) = rest.split_once('`')?;
            name.push_str(before);
            let Some(doubled) = after.strip_prefix('`') else {
                return (!name.is_empty()).then_some((Part::Exact(name), after));
            };
            name.push('`');
            rest = doubled;
        }
    }
    let end = text.find('.').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    if name.is_empty() || name.contains(['`', '!']) {
        return None;
    }
    let is_glob = name.contains(['*', '?']);
    Some((if is_glob { Part::Glob(WildMatch::new(name)) } else { Part::Exact(name.to_owned()) }, rest))
}
