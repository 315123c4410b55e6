//! Text for a terminal: tables, lengths of time, numbers, and writing to a reader that may leave.

use std::io::{self, ErrorKind, IsTerminal as _, Write as _};

use model::error::{Error, Result};
use model::escape;
use model::time::Micros;
use tabled::builder::Builder;
use tabled::settings::object::Columns;
use tabled::settings::peaker::Priority;
use tabled::settings::{Alignment, Padding, Style, Width};

/// The size of a terminal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    pub(crate) columns: usize,
    pub(crate) rows: usize,
}

/// The terminal; `None` when the output goes elsewhere.
pub(crate) fn screen() -> Option<Screen> {
    let (columns, rows) = io::stdout().is_terminal().then(terminal_size::terminal_size).flatten()?;
    Some(Screen { columns: usize::from(columns.0), rows: usize::from(rows.0) })
}

/// Columns of the terminal; `None` when the output goes elsewhere.
pub(crate) fn width() -> Option<usize> {
    screen().map(|screen| screen.columns)
}

/// A table with a head; the columns in `right` are numbers. It is wrapped to `width`.
pub(crate) fn table(heads: &[&str], rows: Vec<Vec<String>>, right: &[usize], width: Option<usize>) -> String {
    let mut builder = Builder::default();
    builder.push_record(heads.iter().copied());
    for row in rows {
        builder.push_record(row.iter().map(|cell| escape::shown(cell).into_owned()));
    }
    let mut table = builder.build();
    table.with(Style::empty()).with(Padding::new(0, 2, 0, 0));
    for column in right {
        table.modify(Columns::one(*column), Alignment::right());
    }
    if let Some(width) = width {
        table.with(Width::wrap(width).keep_words(true).priority(Priority::max(true)));
    }
    table.to_string().lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// A text behind a head, with its lines broken between words at `width` and indented by the head's room.
pub(crate) fn paragraph(head: &str, room: usize, text: &str, width: Option<usize>) -> String {
    let text = escape::shown(text);
    let mut out = format!("{head:<room$}");
    let mut column = out.chars().count();
    let width = width.unwrap_or(usize::MAX).max(room + 20);
    for (place, word) in text.split(' ').enumerate() {
        let length = word.chars().count();
        if place > 0 && column + 1 + length > width && column > room {
            out.push_str(&format!("\n{:room$}", ""));
            column = room;
        } else if place > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out.push('\n');
    out
}

/// A length of time in the two largest units that matter: `3 ms`, `1.2 s`, `4 min 5 s`, `2 h 10 min`, `3 d 4 h`.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.round().max(0.0) as u64;
    let two = |large: u64, small: u64, names: [&str; 2]| match small {
        0 => format!("{large} {}", names[0]),
        _ => format!("{large} {} {small} {}", names[0], names[1]),
    };
    match seconds {
        s if s < 0.0005 => "0 ms".to_owned(),
        s if s < 1.0 => format!("{:.0} ms", s * 1_000.0),
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 59.5 => format!("{whole} s"),
        s if s < 3_600.0 => two(whole / 60, whole % 60, ["min", "s"]),
        s if s < 86_400.0 => two(whole / 3_600, whole % 3_600 / 60, ["h", "min"]),
        _ => two(whole / 86_400, whole % 86_400 / 3_600, ["d", "h"]),
    }
}

/// A number with its noun: `1 key`, `2,000 keys`.
pub(crate) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(count), if count == 1 { one } else { many })
}

/// A number of bytes: `0 bytes`, `12.5 KiB`, `3.0 GiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1_024 {
        return format!("{count} bytes");
    }
    let (mut size, mut unit) = (count as f64 / 1_024.0, 0);
    while size >= 1_024.0 && unit + 1 < UNITS.len() {
        size /= 1_024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// A count with its thousands apart: `1,234,567`.
pub(crate) fn grouped(count: impl TryInto<u64>) -> String {
    let digits = count.try_into().unwrap_or(0).to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time for a person, in UTC: `2026-11-30 02:10:11.123`.
pub(crate) fn time(at: Micros) -> String {
    let text = at.to_string();
    match text.split_once('T').zip(text.get(..23)) {
        Some(((date, _), short)) if text.len() == 27 => format!("{date} {}", &short[date.len() + 1..]),
        _ => text,
    }
}

/// Writes to standard output; false when its reader has gone, which ends a command quietly.
///
/// # Errors
/// Definite when it can't be written to for another reason.
pub(crate) fn write(text: &str) -> Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Error::definite("cannot write to the standard output").with_source(e)),
    }
}

/// One line of JSON; see [`write`].
///
/// # Errors
/// As [`write`].
pub(crate) fn write_json(value: &impl serde::Serialize) -> Result<bool> {
    let text = serde_json::to_string(value);
    let text = text.map_err(|e| Error::definite("the result can't be written as JSON").with_source(e))?;
    write(&format!("{}\n", escape::escaped(&text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_numbers_and_times_are_short() {
        for (seconds, want) in [
            (0.0, "0 ms"),
            (0.0034, "3 ms"),
            (1.23, "1.2 s"),
            (59.0, "59 s"),
            (60.0, "1 min"),
            (245.0, "4 min 5 s"),
            (7_800.0, "2 h 10 min"),
            (273_600.0, "3 d 4 h"),
            (-3.0, "0 ms"),
        ] {
            assert_eq!(duration(seconds), want);
        }
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 1_023, 12_800, 3 << 30].map(bytes), ["0 bytes", "1023 bytes", "12.5 KiB", "3.0 GiB"]);
        assert_eq!(time(Micros(1_763_697_600_123_456)), "2025-11-21 04:00:00.123");
    }

    #[test]
    fn a_paragraph_is_broken_between_words_and_indented() {
        let text = "one two three four five six seven";
        assert_eq!(paragraph("head", 6, text, None), format!("head  {text}\n"));
        let want = "head  one two three four\n      five six seven\n";
        assert_eq!(paragraph("head", 6, text, Some(26)), want);
        let long = format!("a {} b", "x".repeat(40));
        assert_eq!(paragraph("", 2, &long, Some(30)), format!("  a\n  {}\n  b\n", "x".repeat(40)));
    }

    #[test]
    fn a_table_is_wrapped_to_the_terminal_and_nothing_in_it_moves_the_cursor() {
        let rows = || vec![vec!["a\u{1b}[2J".to_owned(), "7".to_owned(), "some words that are long".to_owned()]];
        let heads = ["name", "count", "what"];
        let want = "name        count  what\na\\u001b[2J      7  some words that are long\n";
        assert_eq!(table(&heads, rows(), &[1], None), want);
        let narrow = table(&heads, rows(), &[1], Some(36));
        assert!(narrow.lines().all(|line| line.chars().count() <= 36), "{narrow}");
        assert!(narrow.contains("some words"), "{narrow}");
    }
}
