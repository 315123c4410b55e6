//! Dead letters as text. Pure.

use model::escape;
use model::time::Micros;

use super::desk::{List, Shown, State};
use super::replay::Sent;
use crate::letters::{Kind, Letter};
use crate::text::{table, time};

/// Characters of a reason in the list.
const LONGEST_REASON: usize = 200;
/// Digits and characters of a value that are shown.
const LONGEST_VALUE: usize = 2_048;

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Row => "row",
        Kind::Record => "record",
        Kind::Postgres => "PostgreSQL",
        Kind::SentAgain => "sent again",
        Kind::Foreign => "foreign",
    }
}

fn written(letter: &Letter) -> String {
    letter.written_at.as_deref().and_then(Micros::parse).map_or_else(|| "-".to_owned(), time)
}

fn place(letter: &Letter) -> String {
    let place = letter.partition.zip(letter.record_offset);
    place.map_or_else(|| "-".to_owned(), |(partition, offset)| format!("{partition}:{offset}"))
}

/// The list for a terminal of this width.
pub fn render_list(list: &List, width: Option<usize>) -> String {
    if list.letters.is_empty() {
        return "no dead letters\n".to_owned();
    }
    let row = |letter: &Letter| {
        vec![
            letter.offset.to_string(),
            letter.table.clone(),
            written(letter),
            kind(letter.kind).to_owned(),
            escape::cut(&letter.key, 60).into_owned(),
            place(letter),
            escape::cut(&letter.reason, LONGEST_REASON).into_owned(),
        ]
    };
    let heads = ["offset", "table", "parked at", "what", "key", "record", "reason"];
    let mut text = table(&heads, list.letters.iter().map(row).collect(), &[0], width);
    text.push_str("(a letter stays when a later state replaces it: `stream dlq show OFFSET` says so)\n");
    if !list.is_complete {
        text.push_str("(the last ones of each table; --json lists no more)\n");
    }
    text
}

/// A letter in full.
pub fn render_letter(shown: &Shown) -> String {
    let letter = &shown.letter;
    let mut text = String::new();
    let mut line =
        |name: &str, value: &str| text.push_str(&format!("{name:<9} {}\n", escape::cut(value, LONGEST_VALUE)));
    line("letter", &format!("{} offset {}, {}", letter.topic, letter.offset, written(letter)));
    line(
        "what",
        match letter.kind {
            Kind::Row => "a row of MySQL that no record can carry",
            Kind::Record => "a record that the consumers could not read",
            Kind::Postgres => "a record that PostgreSQL refuses; its line is in a log",
            Kind::SentAgain => "a note that a record was sent again",
            Kind::Foreign => "a letter of another program",
        },
    );
    line("table", &letter.table);
    line("key", &letter.key);
    if letter.record_offset.is_some() {
        line("record", &format!("partition and offset {}", place(letter)));
    }
    if let Some(column) = &letter.column {
        line("column", column);
    }
    line("reason", &letter.reason);
    if let Some(header) = &letter.header {
        line("source", header);
    }
    match (&shown.now.as_ref().and_then(|now| now.row.as_ref()), &shown.value_text, &shown.value_hex) {
        (Some(row), ..) => line("row", &row.shown()),
        (None, Some(value), _) => line("value", value),
        (None, None, Some(hex)) => line("bytes", hex),
        (None, None, None) => line("value", "none: a delete"),
    }
    if letter.cut > 0 {
        line("cut", &format!("{} bytes of the record did not fit into the letter", letter.cut));
    }
    shown.faults.iter().for_each(|fault| line(fault.label(), &format!("{}: {}", fault.part, fault.reason)));
    let head = match shown.state {
        State::Replaced => "REPLACED",
        State::Missing => "MISSING",
        State::Unknown => "UNKNOWN",
    };
    text.push_str(&format!("\n{head}: {}\n", escape::shown(&shown.because)));
    if let Some(remedy) = &shown.what_to_do {
        text.push_str(&format!("  what to do: {}\n", escape::shown(remedy)));
    }
    text
}

/// What was sent.
pub fn render_sent(sent: &Sent) -> String {
    let at = sent.offset.map_or_else(|| "behind all others".to_owned(), |offset| format!("at offset {offset}"));
    let (key, topic) = (escape::cut(&sent.key, 100), escape::shown(&sent.topic));
    format!(
        "key {key}: the record of offset {} is in partition {} of {topic} again, {at}; a running producer was fenced for a moment\n",
        sent.before, sent.partition
    )
}
