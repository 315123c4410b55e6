//! Counts the effects of the rows of each file, and prints the final table.

use std::ops::AddAssign;

use model::escape;

use crate::change::Effect;

/// Counts of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) rows: u64,
    pub(crate) inserted: u64,
    pub(crate) updated: u64,
    pub(crate) deleted: u64,
    pub(crate) unchanged: u64,
    pub(crate) older: u64,
    pub(crate) rejected: u64,
}

impl Outcome {
    pub(crate) fn count(&mut self, effect: Effect) {
        self.rows += 1;
        *match effect {
            Effect::Insert => &mut self.inserted,
            Effect::Update => &mut self.updated,
            Effect::Delete => &mut self.deleted,
            Effect::Unchanged | Effect::Remember => &mut self.unchanged,
            Effect::Older => &mut self.older,
        } += 1;
    }

    pub(crate) fn reject(&mut self) {
        self.rows += 1;
        self.rejected += 1;
    }

    /// Number of changes of the table.
    pub(crate) fn changes(&self) -> u64 {
        self.inserted + self.updated + self.deleted
    }

    fn cells(&self) -> [u64; 7] {
        [self.rows, self.inserted, self.updated, self.deleted, self.unchanged, self.older, self.rejected]
    }
}

impl AddAssign for Outcome {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.inserted += other.inserted;
        self.updated += other.updated;
        self.deleted += other.deleted;
        self.unchanged += other.unchanged;
        self.older += other.older;
        self.rejected += other.rejected;
    }
}

/// The final table: one line per file, and their sum when there are several.
pub(crate) fn table(files: &[(String, Outcome)]) -> String {
    const HEADS: [&str; 7] = ["rows", "inserted", "updated", "deleted", "unchanged", "skipped older", "rejected"];
    let mut total = Outcome::default();
    files.iter().for_each(|(_, outcome)| total += *outcome);
    let width = files.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max("total".len());
    let line = |name: &str, cells: [String; 7]| {
        let cells: String =
            cells.iter().zip(HEADS).map(|(cell, head)| format!("  {cell:>0$}", head.len().max(7))).collect();
        format!("{name:width$}{cells}\n")
    };
    let mut out = line("file", HEADS.map(str::to_owned));
    for (name, outcome) in files {
        out.push_str(&line(&escape::shown(name), outcome.cells().map(|n| n.to_string())));
    }
    if files.len() > 1 {
        out.push_str(&line("total", total.cells().map(|n| n.to_string())));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lines_up() {
        let mut one = Outcome::default();
        [Effect::Insert, Effect::Update, Effect::Delete, Effect::Older, Effect::Unchanged]
            .iter()
            .for_each(|e| one.count(*e));
        one.reject();
        let two = Outcome { rows: 1_000_000, inserted: 1_000_000, ..Outcome::default() };
        let table = table(&[("a.csv".to_owned(), one), ("früh.csv".to_owned(), two)]);
        let want = "\
file         rows  inserted  updated  deleted  unchanged  skipped older  rejected
a.csv           6         1        1        1          1              1         1
früh.csv  1000000   1000000        0        0          0              0         0
total     1000006   1000001        1        1          1              1         1
";
        assert_eq!(table, want);
    }
}
