//! Checks that a topic equals the table: every row's last state, no deleted row, and in our topic every change exactly
//! once.
//!
//! Each name contains the row's id and the number of its state: `folding garden chair ID#STATE`. So the last record of
//! each key shows the row's state in the topic, whichever program wrote it, and is compared with the table's names.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use anyhow::{Context, Result, ensure};
use model::change::{SOURCE_HEADER, Source};
use mysql_async::prelude::Queryable;
use rdkafka::message::Message;
use runtime::config::KafkaSettings;
use testbed::servers::{DATABASE, MySql};

use crate::lab::Lab;
use crate::load::{self, NAME};
use crate::topic::{self, Arrival};

/// The program that wrote a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    /// Our producer: each record identifies its change.
    Ours,
    /// Debezium, which delivers at least once.
    Debezium,
}

/// State by row.
pub(crate) type Rows = HashMap<u64, u32>;

/// The contents of a topic.
pub(crate) struct Told {
    /// The rows after all records.
    pub(crate) rows: Rows,
    /// Records of our producer whose change another record has already.
    pub(crate) doubled: u64,
    pub(crate) arrival: Arrival,
}

/// Compares the topic with the table as it is now.
///
/// # Errors
/// When a row is missing, has another state, or is deleted in the table; when our topic has a change twice.
pub(crate) fn check(lab: &Lab, settings: &KafkaSettings, of: Of) -> Result<()> {
    let (told, table) = (told(settings, of)?, lab.runtime.block_on(table(&lab.stack.mysql))?);
    ensure!(told.doubled == 0, "{} of {} records are in {} twice", told.doubled, told.arrival.records, settings.topic);
    match difference(&told.rows, &table) {
        None => Ok(()),
        Some(difference) => Err(anyhow::anyhow!("{} {difference}", settings.topic)),
    }
}

/// The difference between a topic and the table, as text.
pub(crate) fn difference(told: &Rows, table: &Rows) -> Option<String> {
    let wrong = table.iter().filter(|(id, state)| told.get(id) != Some(state)).count();
    let more = told.keys().filter(|id| !table.contains_key(id)).count();
    (wrong + more > 0).then(|| format!("lacks the last state of {wrong} rows and has {more} that are gone"))
}

/// Reads the topic.
pub(crate) fn told(settings: &KafkaSettings, of: Of) -> Result<Told> {
    let mut last: HashMap<Vec<u8>, Option<(u64, u32)>> = HashMap::new();
    let (mut changes, mut doubled) = (HashSet::new(), 0);
    let arrival = topic::read_with(settings, |message| {
        last.insert(message.key().unwrap_or_default().to_vec(), state(message.payload(), of));
        if of == Of::Ours {
            let source = kafka::header(message, SOURCE_HEADER).context("a record without its source")?;
            let Source { pos, row, epoch, .. } = Source::parse(source)?;
            let mut change = DefaultHasher::new();
            (pos, row, epoch).hash(&mut change);
            doubled += u64::from(!changes.insert(change.finish()));
        }
        Ok(())
    })?;
    Ok(Told { rows: last.into_values().flatten().collect(), doubled, arrival })
}

/// Row and state in a record, `None` for a deleted row. An envelope of Debezium with a row before (the second branch of
/// its first union, after the five bytes with the schema id) and no other row is a deletion.
fn state(payload: Option<&[u8]>, of: Of) -> Option<(u64, u32)> {
    let (payload, name) = (payload?, NAME.as_bytes());
    let names = payload.windows(name.len()).enumerate().filter(|(_, bytes)| *bytes == name).map(|(at, _)| at);
    let (mut count, mut last) = (0, None);
    for at in names {
        (count, last) = (count + 1, Some(at));
    }
    if of == Of::Debezium && payload.get(5) == Some(&2) && count == 1 {
        return None;
    }
    parse(&payload[last? + name.len()..])
}

/// Parses `ID` or `ID#STATE`; the first state is 0.
fn parse(text: &[u8]) -> Option<(u64, u32)> {
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<u64>().ok();
    let (id, rest) = text.split_at(digits(text));
    let state = match rest.strip_prefix(b"#") {
        Some(rest) => u32::try_from(number(&rest[..digits(rest)])?).ok()?,
        None => 0,
    };
    Some((number(id)?, state))
}

/// The rows of the table.
pub(crate) async fn table(mysql: &MySql) -> Result<Rows> {
    let mut conn = load::connect(mysql, Some(DATABASE)).await?;
    let mut rows = HashMap::new();
    let mut result = conn.query_iter("SELECT name FROM product").await?;
    while let Some(row) = result.next().await? {
        let (name,): (String,) = mysql_async::from_row(row);
        let state = name.strip_prefix(NAME).and_then(|rest| parse(rest.as_bytes()));
        rows.extend([state.with_context(|| format!("the table has the name {name}"))?]);
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_tells_of_row_and_state() {
        let of = |payload: &[u8]| state(Some(payload), Of::Debezium);
        let (old, new) = ("folding garden chair 7", "folding garden chair 7#12\u{6}cat");
        assert_eq!(of(format!("\0\0\0\0\x01\0{old}\u{2}").as_bytes()), Some((7, 0)));
        assert_eq!(of(format!("\0\0\0\0\x01\x02{old}\x02{new}").as_bytes()), Some((7, 12)));
        assert_eq!(of(format!("\0\0\0\0\x01\x02{new}\0").as_bytes()), None);
        assert_eq!(state(Some(format!("\0\0\0\0\x01\x02{new}").as_bytes()), Of::Ours), Some((7, 12)));
        assert_eq!(state(None, Of::Ours), None);
    }

    #[test]
    fn a_difference_is_counted_both_ways() {
        let table = Rows::from([(1, 0), (2, 3)]);
        assert_eq!(difference(&table, &table), None);
        let told = Rows::from([(1, 0), (2, 2), (9, 0)]);
        let words = "lacks the last state of 1 rows and has 1 that are gone";
        assert_eq!(difference(&told, &table).as_deref(), Some(words));
    }
}
