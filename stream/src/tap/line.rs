//! A change as one line. Pure, apart from the look at the terminal.

use std::io::{IsTerminal as _, stdout};

use model::escape;
use model::time::Micros;
use serde::Serialize;

use crate::record::{Change, Row};
use crate::text;

/// Characters of a value that are shown.
const LONGEST: usize = 120;

/// A change with the row before it: the form of `--json`, one a line.
#[derive(Clone, Debug, Serialize)]
pub struct Tapped {
    /// The change.
    #[serde(flatten)]
    pub change: Change,
    /// The row before it; `null` when it is not known, or there was none.
    pub before: Option<Row>,
    /// Whether the row before it is known, also that there was none.
    pub is_before_known: bool,
}

/// Whether lines have colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// They have.
    On,
    /// They have not.
    Off,
}

impl Colours {
    /// On for a terminal, unless `NO_COLOR` is set (no-color.org).
    pub fn of_terminal() -> Self {
        let is_off = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if stdout().is_terminal() && !is_off { Self::On } else { Self::Off }
    }

    /// The text in a colour: a parameter of "Select Graphic Rendition" (ECMA-48).
    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::On => format!("\x1b[{code}m{text}\x1b[0m"),
            Self::Off => text.to_owned(),
        }
    }
}

const DIM: &str = "2";
const BOLD: &str = "1";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const CYAN: &str = "36";

/// The line of a change, with its newline; `with_table` when several tables are shown.
pub fn line(tapped: &Tapped, with_table: bool, colours: Colours) -> String {
    let change = &tapped.change;
    let at = change.committed_at.as_deref().and_then(Micros::parse).map_or_else(|| "-".to_owned(), text::time);
    let (colour, op) = match change.op {
        Some("c") => (GREEN, "c"),
        Some("u") => (YELLOW, "u"),
        Some("d") => (RED, "d"),
        Some("r") => (CYAN, "r"),
        _ => (RED, "?"),
    };
    let table = if with_table { format!("{} ", escape::shown(&change.table)) } else { String::new() };
    let key = colours.paint(BOLD, &escape::cut(&change.key, LONGEST));
    let what = match (&change.unreadable, &change.row, &tapped.before) {
        (Some(reason), ..) => colours.paint(RED, &format!("unreadable: {}", escape::cut(reason, LONGEST))),
        (None, Some(row), Some(before)) => changed(before, row, colours),
        (None, Some(row), None) => all(row, colours),
        (None, None, Some(before)) => format!("was {}", all(before, colours)),
        (None, None, None) => "deleted".to_owned(),
    };
    let place = colours.paint(DIM, &format!("{}@{}", change.partition, change.offset));
    format!("{}  {}  {table}{key}  {what}  {place}\n", colours.paint(DIM, &at), colours.paint(colour, op))
}

fn all(row: &Row, colours: Colours) -> String {
    let pair = |(name, value): &(String, String)| {
        format!("{}={}", colours.paint(DIM, &escape::shown(name)), escape::cut(value, LONGEST))
    };
    row.0.iter().map(pair).collect::<Vec<_>>().join(" ")
}

/// The columns that differ: `price 9.99 → 8.99`.
fn changed(before: &Row, now: &Row, colours: Colours) -> String {
    let pair = |(name, value): &(String, String)| {
        let old = before.get(name).filter(|old| old != value);
        let is_new = before.get(name).is_none();
        let new = colours.paint(GREEN, &escape::cut(value, LONGEST));
        let name = escape::shown(name);
        match old {
            Some(old) => Some(format!("{name} {} → {new}", colours.paint(RED, &escape::cut(old, LONGEST)))),
            None if is_new => Some(format!("{name} → {new}")),
            None => None,
        }
    };
    let gone = before.0.iter().filter(|(name, _)| now.get(name).is_none());
    let gone = gone.map(|(name, old)| format!("{} {} → gone", escape::shown(name), escape::cut(old, LONGEST)));
    let changes: Vec<String> = now.0.iter().filter_map(pair).chain(gone).collect();
    if changes.is_empty() { colours.paint(DIM, "no column changed") } else { changes.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::super::filter::tests::change;
    use super::*;

    fn tapped(op: &'static str, now: Option<[&str; 2]>, before: Option<[&str; 2]>) -> Tapped {
        let before = change("u", before).row;
        Tapped { change: change(op, now), is_before_known: before.is_some(), before }
    }

    fn plain(op: &'static str, now: Option<[&str; 2]>, before: Option<[&str; 2]>) -> String {
        let line = line(&tapped(op, now, before), false, Colours::Off);
        line.trim_end().strip_prefix("2026-11-30 02:10:11.123  ").expect("its time").to_owned()
    }

    #[test]
    fn a_change_is_one_line_with_what_changed() {
        let (old, new) = (["9.99", "\"Mug\""], ["8.99", "\"Mug\""]);
        assert_eq!(plain("u", Some(new), Some(old)), "u  9  price 9.99 → 8.99  3@120");
        assert_eq!(plain("u", Some(new), Some(new)), "u  9  no column changed  3@120");
        assert_eq!(plain("c", Some(new), None), "c  9  id=9 price=8.99 name=\"Mug\"  3@120");
        assert_eq!(plain("d", None, Some(old)), "d  9  was id=9 price=9.99 name=\"Mug\"  3@120");
        assert_eq!(plain("d", None, None), "d  9  deleted  3@120");
        let with_table = line(&tapped("u", Some(new), Some(old)), true, Colours::Off);
        assert!(with_table.contains("  u  shop.p 9  price"), "{with_table}");
    }

    #[test]
    fn what_comes_from_data_obeys_no_terminal() {
        let hostile = plain("c", Some(["1", "\"\u{1b}[2J\u{202e}\""]), None);
        assert_eq!(hostile, "c  9  id=9 price=1 name=\"\\u001b[2J\\u202e\"  3@120");
        let coloured = line(&tapped("u", Some(["2", "null"]), Some(["1", "null"])), false, Colours::On);
        assert!(coloured.contains("price \u{1b}[31m1\u{1b}[0m → \u{1b}[32m2\u{1b}[0m"), "{coloured:?}");
    }
}
