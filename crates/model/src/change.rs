//! A change of a row: what happened to it, and its source.

use serde::{Deserialize, Serialize};

/// The name of the one header that each record of the topic carries; its value is a [`Source`].
pub const SOURCE_HEADER: &str = "source";

/// What happened to a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Read by a snapshot.
    #[serde(rename = "r")]
    Snapshot,
    /// Created.
    #[serde(rename = "c")]
    Create,
    /// Updated.
    #[serde(rename = "u")]
    Update,
    /// Deleted; the record has no value.
    #[serde(rename = "d")]
    Delete,
}

impl Op {
    /// Its letter in headers and log lines.
    pub fn letter(self) -> &'static str {
        match self {
            Self::Snapshot => "r",
            Self::Create => "c",
            Self::Update => "u",
            Self::Delete => "d",
        }
    }
}

/// The source of a record: the value of the header [`SOURCE_HEADER`], compact JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source<'a> {
    /// What happened.
    pub op: Op,
    /// Commit time on the source, microseconds since 1970 UTC; of a snapshot row, the time its chunk was read.
    pub ts_us: i64,
    /// The transaction's GTID, or `file:offset` behind its first event where the server has no GTIDs. For a snapshot
    /// row, the position at which it is exact: the set of GTIDs that it contains, or `file:offset`.
    #[serde(borrow)]
    pub pos: std::borrow::Cow<'a, str>,
    /// The record's number within the transaction, or within the snapshot, from 0.
    pub row: u64,
    /// Counts the replays from 1: a reset checkpoint begins a new one.
    pub epoch: u64,
}

impl Source<'_> {
    /// Appends the JSON text to `out` without allocating.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut digits = itoa::Buffer::new();
        out.extend_from_slice(b"{\"op\":\"");
        out.extend_from_slice(self.op.letter().as_bytes());
        out.extend_from_slice(b"\",\"ts_us\":");
        out.extend_from_slice(digits.format(self.ts_us).as_bytes());
        out.extend_from_slice(b",\"pos\":\"");
        // GTIDs and binlog file names hold no character that JSON escapes; `position` refuses others when it reads them.
        out.extend_from_slice(self.pos.as_bytes());
        out.extend_from_slice(b"\",\"row\":");
        out.extend_from_slice(digits.format(self.row).as_bytes());
        out.extend_from_slice(b",\"epoch\":");
        out.extend_from_slice(digits.format(self.epoch).as_bytes());
        out.push(b'}');
    }

    /// Reads the header's JSON text.
    ///
    /// # Errors
    /// When it is not an object of this form.
    pub fn parse(bytes: &[u8]) -> Result<Source<'_>, serde_json::Error> {
        // Our producer writes the header in one form, which this parser reads in a tenth of a JSON parser's time.
        match as_written(bytes) {
            Some(source) => Ok(source),
            None => serde_json::from_slice(bytes),
        }
    }
}

/// Reads only the form that [`Source::write`] writes; `None` for any other text.
fn as_written(bytes: &[u8]) -> Option<Source<'_>> {
    let (letter, rest) = bytes.strip_prefix(b"{\"op\":\"")?.split_first()?;
    let op = match letter {
        b'r' => Op::Snapshot,
        b'c' => Op::Create,
        b'u' => Op::Update,
        b'd' => Op::Delete,
        _ => return None,
    };
    // Reads from both ends: the position is the rest between the known fields.
    let rest = rest.strip_prefix(b"\",\"ts_us\":")?;
    let (ts_us, rest) = rest.split_at(rest.iter().take_while(|b| b.is_ascii_digit()).count());
    let ts_us = whole_number(ts_us)?;
    let rest = rest.strip_prefix(b",\"pos\":\"")?.strip_suffix(b"}")?;
    let (epoch, rest) = number_at_end(rest)?;
    let (row, rest) = number_at_end(rest.strip_suffix(b",\"epoch\":")?)?;
    let pos = rest.strip_suffix(b"\",\"row\":")?;
    Some(Source { op, ts_us: ts_us as i64, pos: plain_text(pos)?.into(), row, epoch })
}

fn number_at_end(text: &[u8]) -> Option<(u64, &[u8])> {
    let digits = text.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    let (rest, digits) = text.split_at(text.len() - digits);
    whole_number(digits).map(|number| (number, rest))
}

/// A number of at most 18 digits without leading zeros.
fn whole_number(digits: &[u8]) -> Option<u64> {
    match digits {
        [b'0', _, ..] => None,
        _ if !(1..=18).contains(&digits.len()) => None,
        _ => Some(digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))),
    }
}

/// ASCII that JSON does not escape. All bytes are checked, so the compiler can check many at a time.
fn plain_text(bytes: &[u8]) -> Option<&str> {
    let other = bytes.iter().fold(false, |other, b| other | !(b' '..=b'~').contains(b) | (*b == b'"') | (*b == b'\\'));
    if other { None } else { std::str::from_utf8(bytes).ok() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_source_header_reads_back() {
        let source = Source {
            op: Op::Update,
            ts_us: 1_763_697_600_123_456,
            pos: "3e11fa47-71ca-11e1-9e33-c80aa9429562:23".into(),
            row: 7,
            epoch: 2,
        };
        let mut text = Vec::new();
        source.write(&mut text);
        assert_eq!(
            String::from_utf8_lossy(&text),
            r#"{"op":"u","ts_us":1763697600123456,"pos":"3e11fa47-71ca-11e1-9e33-c80aa9429562:23","row":7,"epoch":2}"#
        );
        assert_eq!(as_written(&text).as_ref(), Some(&source));
        assert_eq!(Source::parse(&text).ok(), Some(source.clone()));
        text.insert(0, b' ');
        assert_eq!((as_written(&text), Source::parse(&text).ok()), (None, Some(source)));
    }

    proptest! {
        #[test]
        fn headers_read_the_short_way_as_the_long_way(
            ts_us in any::<i64>(), pos in "[ -~]{0,9}", row in any::<u64>(), epoch in 0_u64..1000, cut in 0_usize..200, byte in any::<u8>(),
        ) {
            let mut text = Vec::new();
            Source { op: Op::Update, ts_us, pos: pos.into(), row, epoch }.write(&mut text);
            let mut changed = text.clone();
            if let Some(place) = changed.get_mut(cut) {
                *place = byte;
            }
            for text in [&text[..], &text[..cut.min(text.len())], &changed] {
                if let Some(source) = as_written(text) {
                    prop_assert_eq!(serde_json::from_slice::<Source<'_>>(text).ok(), Some(source));
                }
            }
        }
    }
}
