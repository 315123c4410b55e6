//! Sets of GTIDs: the transactions of each source that are contained.
//!
//! Text form as MySQL prints it (manual, "GTID Format and Storage"): `uuid:1-5:8,uuid:tag:1-3`. Tags exist since 8.3.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The source of a GTID: a server's UUID in lower case, with `:tag` where there is one.
pub type SourceId = String;

/// A set of GTIDs. Intervals are half open, sorted and never touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GtidSet(BTreeMap<SourceId, Vec<(u64, u64)>>);

/// A text that is neither a GTID nor a set of GTIDs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a GTID set")]
pub struct ParseGtidError(String);

/// Splits `uuid:23` or `uuid:tag:23` into source and number.
///
/// # Errors
/// When the text is not a single GTID.
pub fn parse_gtid(text: &str) -> Result<(&str, u64), ParseGtidError> {
    let wrong = || ParseGtidError(text.to_owned());
    let (source, number) = text.rsplit_once(':').ok_or_else(wrong)?;
    let uuid = source.split(':').next().unwrap_or_default();
    let number = number.parse().map_err(|_| wrong())?;
    if is_uuid(uuid) && number > 0 { Ok((source, number)) } else { Err(wrong()) }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text
            .bytes()
            .enumerate()
            .all(|(i, b)| if matches!(i, 8 | 13 | 18 | 23) { b == b'-' } else { b.is_ascii_hexdigit() })
}

impl GtidSet {
    /// Adds one GTID; adding it twice changes nothing.
    pub fn insert(&mut self, source: &str, number: u64) {
        if let Some(intervals) = self.0.get_mut(source) {
            // The stream brings GTIDs in order, so nearly always the last interval grows by one.
            if let Some(last) = intervals.last_mut().filter(|last| last.1 == number) {
                last.1 += 1;
                return;
            }
        }
        self.insert_interval(source, number, number.saturating_add(1));
    }

    /// Adds the GTIDs of `source` from `start` to `end`, excluding `end`.
    pub fn insert_interval(&mut self, source: &str, start: u64, end: u64) {
        let intervals = self.0.entry(source.to_owned()).or_default();
        let first = intervals.partition_point(|i| i.1 < start);
        let last = intervals.partition_point(|i| i.0 <= end);
        let (mut start, mut end) = (start, end);
        if first < last {
            start = start.min(intervals[first].0);
            end = end.max(intervals[last - 1].1);
        }
        intervals.splice(first..last, [(start, end)]);
    }

    /// Adds every GTID of `other`.
    pub fn insert_all(&mut self, other: &Self) {
        for (source, intervals) in other.sources() {
            for (start, end) in intervals {
                self.insert_interval(source, *start, *end);
            }
        }
    }

    /// Whether the GTID is in the set.
    pub fn contains(&self, source: &str, number: u64) -> bool {
        self.0.get(source).is_some_and(|intervals| {
            let i = intervals.partition_point(|i| i.1 <= number);
            intervals.get(i).is_some_and(|i| i.0 <= number)
        })
    }

    /// Whether every GTID of `other` is in this set.
    pub fn contains_all(&self, other: &Self) -> bool {
        other.0.iter().all(|(source, theirs)| {
            let ours = self.0.get(source).map_or(&[][..], Vec::as_slice);
            theirs.iter().all(|t| ours.iter().any(|o| o.0 <= t.0 && t.1 <= o.1))
        })
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each source with its half-open intervals.
    pub fn sources(&self) -> impl Iterator<Item = (&str, &[(u64, u64)])> {
        self.0.iter().map(|(source, intervals)| (source.as_str(), intervals.as_slice()))
    }
}

impl FromStr for GtidSet {
    type Err = ParseGtidError;

    fn from_str(text: &str) -> Result<Self, ParseGtidError> {
        let wrong = || ParseGtidError(text.to_owned());
        let mut set = Self::default();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let mut fields = part.split(':').map(str::trim);
            let uuid = fields.next().filter(|u| is_uuid(u)).ok_or_else(wrong)?.to_ascii_lowercase();
            let mut source = uuid.clone();
            for field in fields {
                if !field.starts_with(|c: char| c.is_ascii_digit()) {
                    let tag = field.to_ascii_lowercase();
                    if tag.is_empty() || !tag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                        return Err(wrong());
                    }
                    source = format!("{uuid}:{tag}");
                    continue;
                }
                let (start, end) = field.split_once('-').unwrap_or((field, field));
                let start: u64 = start.parse().map_err(|_| wrong())?;
                let end: u64 = end.parse().map_err(|_| wrong())?;
                if start == 0 || end < start || end == u64::MAX {
                    return Err(wrong());
                }
                set.insert_interval(&source, start, end + 1);
            }
        }
        Ok(set)
    }
}

impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (source, intervals)) in self.0.iter().enumerate() {
            write!(f, "{}{source}", if i == 0 { "" } else { "," })?;
            for (start, end) in intervals {
                if *end == start + 1 {
                    write!(f, ":{start}")?;
                } else {
                    write!(f, ":{start}-{}", end - 1)?;
                }
            }
        }
        Ok(())
    }
}

impl Serialize for GtidSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GtidSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const B: &str = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";

    #[test]
    fn text_forms() {
        for (text, want) in [
            ("", Some(String::new())),
            (&format!("{A}:1-5"), Some(format!("{A}:1-5"))),
            (&format!("{A}:3:1-2:7-9"), Some(format!("{A}:1-3:7-9"))),
            (&format!("{},\n{B}:4", A.to_uppercase() + ":1"), Some(format!("{A}:1,{B}:4"))),
            (&format!("{A}:1-9:nightly:1:3"), Some(format!("{A}:1-9,{A}:nightly:1:3"))),
            ("1-5", None),
            (&format!("{A}:0-5"), None),
            (&format!("{A}:5-1"), None),
            (&format!("{A}:x y:1"), None),
        ] {
            assert_eq!(text.parse::<GtidSet>().ok().map(|s| s.to_string()), want, "{text}");
        }
        assert_eq!(parse_gtid(&format!("{A}:nightly:7")), Ok((format!("{A}:nightly").as_str(), 7)));
        assert!(parse_gtid("nonsense:7").is_err());
    }

    proptest! {
        #[test]
        fn it_is_a_set(numbers in proptest::collection::vec(1u64..60, 0..80), others in proptest::collection::vec(1u64..60, 0..10)) {
            let fill = |numbers: &[u64]| {
                let mut set = GtidSet::default();
                numbers.iter().for_each(|n| set.insert(A, *n));
                set
            };
            let (set, other) = (fill(&numbers), fill(&others));
            let model: BTreeSet<u64> = numbers.iter().copied().collect();
            for n in 1..61 {
                prop_assert_eq!(set.contains(A, n), model.contains(&n));
            }
            prop_assert_eq!(set.contains_all(&other), others.iter().all(|n| model.contains(n)));
            prop_assert_eq!(set.to_string().parse::<GtidSet>(), Ok(set));
        }
    }
}
