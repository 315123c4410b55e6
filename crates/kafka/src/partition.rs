//! A partition of one of the topics that a group reads.
//!
//! A group has one main topic, after which its own topics are named. In texts and in JSON, a partition of that topic is
//! its number, and another one has the name of its topic: `3`, `shop.orders/3`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// A topic that a group reads: the main one, or another by its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Option<&'static str>);

impl Topic {
    /// The topic of the main table.
    pub const MAIN: Self = Self(None);

    /// The topic with this name, where `main` is the name of the main one. Keeps each name for the life of the process.
    pub fn of(name: &str, main: &str) -> Self {
        if name == main { Self::MAIN } else { Self::named(name) }
    }

    /// Its name, where `main` is the name of the main one.
    pub fn name(self, main: &str) -> &str {
        self.0.unwrap_or(main)
    }

    fn named(name: &str) -> Self {
        static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
        let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        let known = names.get(name).copied();
        let name = known.unwrap_or_else(|| Box::leak(name.to_owned().into_boxed_str()));
        names.insert(name);
        Self(Some(name))
    }
}

/// A partition of a topic.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Partition {
    /// Its topic.
    pub topic: Topic,
    /// Its number in the topic.
    pub number: i32,
}

impl Partition {
    /// A partition of the main topic.
    pub const fn main(number: i32) -> Self {
        Self { topic: Topic::MAIN, number }
    }

    /// The partition with this number of the topic with this name, where `main` is the name of the main one.
    pub fn of(topic: &str, number: i32, main: &str) -> Self {
        Self { topic: Topic::of(topic, main), number }
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.topic.0 {
            None => write!(f, "{}", self.number),
            Some(topic) => write!(f, "{topic}/{}", self.number),
        }
    }
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Partition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (topic, number) = text.rsplit_once('/').map_or((None, text), |(topic, number)| (Some(topic), number));
        let is_topic = |name: &&str| {
            // Kafka's `Topic.validate`.
            (1..=249).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        let number: Option<i32> = number.parse().ok().filter(|n: &i32| n.to_string() == number);
        match (topic, number) {
            (None, Some(number)) => Ok(Self::main(number)),
            (Some(topic), Some(number)) if is_topic(&topic) => Ok(Self { topic: Topic::named(topic), number }),
            _ => Err(format!("{text:?} is no partition")),
        }
    }
}

impl TryFrom<String> for Partition {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Partition> for String {
    fn from(partition: Partition) -> Self {
        partition.to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_main_topic_has_plain_numbers_and_others_have_their_name() {
        let offsets = BTreeMap::from([
            (Partition::of("shop.orders", 3, "main"), 7),
            (Partition::of("shop.carts", 11, "main"), 8),
            (Partition::of("main", 10, "main"), 5),
            (Partition::main(2), 6),
        ]);
        let text = r#"{"2":6,"10":5,"shop.carts/11":8,"shop.orders/3":7}"#;
        assert_eq!(serde_json::to_string(&offsets).expect("JSON"), text);
        assert_eq!(serde_json::from_str::<BTreeMap<Partition, i64>>(text).expect("partitions"), offsets);
        let orders = Partition::of("shop.orders", 3, "main");
        assert_eq!((orders.topic.name("main"), Topic::MAIN.name("main")), ("shop.orders", "main"));
        assert_eq!(format!("{orders} {:?}", [Partition::main(1)]), "shop.orders/3 [1]");
    }

    #[test]
    fn another_text_is_no_partition() {
        for text in ["", "a", "03", "+3", "/3", "a/", "a/b/3", "a b/3", "2147483648", "a/-"] {
            assert!(text.parse::<Partition>().is_err(), "{text:?}");
        }
        assert!(format!("{}/1", "a".repeat(250)).parse::<Partition>().is_err());
    }
}
