//! A change as the page gets it: values as JSON text, so that no digit is lost, and long ones cut.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::record::{Change, Row};

/// Columns and characters of a value that a list gets; the whole record is asked for by its place.
const COLUMNS: usize = 60;
const CHARACTERS: usize = 300;

/// Column and JSON text.
pub(super) type Cells = Vec<(String, String)>;

/// The row before a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// It was not read.
    Unknown,
    /// There was no row.
    Nothing,
    /// The row.
    Row(Row),
}

/// A change with the row before it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Shown {
    pub(super) topic: String,
    table: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) key: String,
    op: Option<&'static str>,
    pub(super) committed_at: Option<String>,
    pub(super) written_at: Option<String>,
    position: Option<String>,
    epoch: Option<u64>,
    row: Option<Cells>,
    before: Option<Cells>,
    /// Whether `before` is what was there.
    known: bool,
    unreadable: Option<String>,
}

impl Shown {
    pub(super) fn new(topic: &str, change: Change, before: Before) -> Self {
        let (before, known) = match before {
            Before::Unknown => (None, false),
            Before::Nothing => (None, true),
            Before::Row(row) => (Some(row.0), true),
        };
        let Change {
            table,
            key,
            op,
            committed_at,
            position,
            epoch,
            partition,
            offset,
            written_at,
            row,
            unreadable,
            ..
        } = change;
        let row = row.map(|row| row.0);
        let topic = topic.to_owned();
        Self {
            topic,
            table,
            partition,
            offset,
            key,
            op,
            committed_at,
            written_at,
            position,
            epoch,
            row,
            before,
            known,
            unreadable,
        }
    }

    /// For a list: what differs, up to a bound, and long values cut.
    #[must_use]
    pub(super) fn short(mut self) -> Self {
        if let (Some(row), Some(before)) = (&mut self.row, &mut self.before) {
            let differs: BTreeSet<String> =
                row.iter().filter(|cell| !before.contains(cell)).take(COLUMNS).map(|(name, _)| name.clone()).collect();
            let others = COLUMNS - differs.len();
            for cells in [row, before] {
                let mut room = others;
                cells.retain(|(name, _)| {
                    let is_kept = differs.contains(name) || room > 0;
                    room -= usize::from(is_kept && !differs.contains(name));
                    is_kept
                });
            }
        }
        for cells in [&mut self.row, &mut self.before].into_iter().flatten() {
            cells.truncate(COLUMNS);
            cells.iter_mut().for_each(|(_, json)| cut(json));
        }
        self
    }
}

/// Cuts a long JSON text; what is left is the JSON of a text.
fn cut(json: &mut String) {
    if json.len() <= CHARACTERS {
        return;
    }
    let text = serde_json::from_str::<String>(json).unwrap_or_else(|_| json.clone());
    if text.chars().count() > CHARACTERS {
        let begin: String = text.chars().take(CHARACTERS).collect();
        *json = serde_json::Value::String(begin + "…").to_string();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_stay_json_and_what_differs_is_kept() {
        let cells = |price: &str| -> Cells {
            let mut cells: Cells = (0..100).map(|number| (format!("c{number}"), "1".to_owned())).collect();
            cells.push(("price".to_owned(), price.to_owned()));
            cells[0].1 = serde_json::Value::String("\u{202e}é\"".repeat(5_000)).to_string();
            cells
        };
        let change = Change {
            table: "a.b".to_owned(),
            key: "1".to_owned(),
            op: Some("u"),
            committed_at: None,
            position: None,
            row_number: None,
            epoch: None,
            partition: 0,
            offset: 0,
            written_at: None,
            row: Some(Row(cells("2.50"))),
            unreadable: None,
        };
        let shown = Shown::new("t", change, Before::Row(Row(cells("2.00")))).short();
        let (row, before) = (shown.row.expect("a row"), shown.before.expect("a row"));
        assert_eq!((row.len(), before.len()), (COLUMNS, COLUMNS));
        assert_eq!((row[59].1.as_str(), before[59].1.as_str()), ("2.50", "2.00"));
        let text: String = serde_json::from_str(&row[0].1).expect("JSON");
        assert_eq!(text.chars().count(), CHARACTERS + 1);
    }
}
