//! Bounds the memory: a pass compares only a share of the keys, records and changes, by their hashes. A share that needs
//! more than the limit is compared again in two halves.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use model::error::{Error, Result};

use crate::contract::KeyHash;

/// Shares are not halved any more from this number on: a single key may have more changes than the memory holds.
const MOST_SHARES: u64 = 1 << 20;
/// Items are added between two looks at the memory.
const LOOK_EVERY: u64 = 1024;

/// A share of all items: those whose hash leaves this rest when it is divided by `of`, a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    rest: u64,
    of: u64,
}

impl Share {
    /// The shares of as many passes as are needed for these bytes, at `limit` bytes each.
    pub(crate) fn all(bytes: u64, limit: u64) -> Vec<Self> {
        let of = bytes.div_ceil(limit.max(1)).clamp(1, MOST_SHARES).next_power_of_two();
        (0..of).rev().map(|rest| Self { rest, of }).collect()
    }

    pub(crate) fn halves(self) -> [Self; 2] {
        let of = self.of * 2;
        [Self { rest: self.rest + self.of, of }, Self { rest: self.rest, of }]
    }

    fn has(self, hash: u64) -> bool {
        hash & (self.of - 1) == self.rest
    }
}

/// One pass over table, topic, logs and PostgreSQL.
#[derive(Clone, Debug)]
pub(crate) struct Pass {
    share: Share,
    /// Bytes.
    limit: usize,
    is_exceeded: Arc<AtomicBool>,
    /// For the progress: `pass 2 of 8: `, empty for an only pass.
    pub(crate) label: String,
}

impl Pass {
    pub(crate) fn new(share: Share, limit: usize, label: String) -> Self {
        Self { share, limit, is_exceeded: Arc::default(), label }
    }

    /// Whether there is no other pass.
    pub(crate) fn is_only(&self) -> bool {
        self.share.of == 1
    }

    /// Whether it reports what belongs to no key and no record; one pass does.
    pub(crate) fn is_first(&self) -> bool {
        self.share.rest == 0
    }

    pub(crate) fn has_key(&self, key: KeyHash) -> bool {
        self.share.has(key.low())
    }

    pub(crate) fn has_record(&self, partition: i32, offset: i64) -> bool {
        let hash = || {
            let mut hasher = DefaultHasher::new();
            (partition, offset).hash(&mut hasher);
            hasher.finish()
        };
        self.is_only() || self.share.has(hash())
    }

    /// Whether it has the change with this hash of its place in the source.
    pub(crate) fn has_change(&self, hash: u64) -> bool {
        self.share.has(hash)
    }

    /// The number of all items, if this pass has `count` of them.
    pub(crate) fn of_all(&self, count: u64) -> u64 {
        count * self.share.of
    }

    /// Ends the pass with an error when it needs too much memory; looks after some items only.
    ///
    /// # Errors
    /// An error for which [`Pass::is_exceeded`] is true afterwards.
    pub(crate) fn look(&self, items: u64, bytes: impl FnOnce() -> usize) -> Result<()> {
        if items.is_multiple_of(LOOK_EVERY) { self.check(bytes()) } else { Ok(()) }
    }

    /// As [`Pass::look`], at once.
    ///
    /// # Errors
    /// As [`Pass::look`].
    pub(crate) fn check(&self, bytes: usize) -> Result<()> {
        if bytes <= self.limit || self.share.of >= MOST_SHARES {
            return Ok(());
        }
        self.is_exceeded.store(true, Ordering::Relaxed);
        Err(Error::definite("a pass needs more memory than verify.memory"))
    }

    /// Whether it ended as it needed too much memory.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.is_exceeded.load(Ordering::Relaxed)
    }

    /// The halves of its share.
    pub(crate) fn halves(&self) -> [Share; 2] {
        self.share.halves()
    }
}

/// The bytes of a hash table.
pub(crate) fn bytes_of<K, V>(map: &HashMap<K, V>) -> usize {
    // The standard library's table has 2^n places, of which at most seven eighths are used, and a byte for each.
    let places = if map.capacity() == 0 { 0 } else { (map.capacity() * 8 / 7).next_power_of_two() };
    places * (size_of::<(K, V)>() + 1)
}

/// Tables of a [`KeyMap`].
const TABLES: usize = 64;

/// A map by key. It consists of several tables, so that it grows in small steps: a table that grows exists twice.
#[derive(Debug)]
pub(crate) struct KeyMap<V>([HashMap<KeyHash, V>; TABLES]);

impl<V> KeyMap<V> {
    fn table(key: &KeyHash) -> usize {
        (key.high() % TABLES as u64) as usize
    }

    pub(crate) fn get(&self, key: &KeyHash) -> Option<&V> {
        self.0[Self::table(key)].get(key)
    }

    pub(crate) fn get_mut(&mut self, key: &KeyHash) -> Option<&mut V> {
        self.0[Self::table(key)].get_mut(key)
    }

    pub(crate) fn insert(&mut self, key: KeyHash, value: V) -> Option<V> {
        self.0[Self::table(&key)].insert(key, value)
    }

    pub(crate) fn remove(&mut self, key: &KeyHash) -> Option<V> {
        self.0[Self::table(key)].remove(key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&KeyHash, &V)> {
        self.0.iter().flatten()
    }

    /// Takes all entries, table by table.
    pub(crate) fn into_tables(self) -> impl Iterator<Item = HashMap<KeyHash, V>> {
        self.0.into_iter()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(bytes_of).sum()
    }

    /// The bytes of a map with so many keys, on average.
    pub(crate) fn bytes_for(keys: u64) -> u64 {
        keys * (size_of::<(KeyHash, V)>() + 1) as u64 * 3 / 2
    }
}

impl<V> Default for KeyMap<V> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| HashMap::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_is_in_exactly_one_share() {
        let mut shares = Share::all(700, 100);
        assert_eq!(shares.len(), 8);
        let [odd, even] = shares.pop().expect("a share").halves();
        shares.extend([odd, even]);
        for hash in (0..1000).map(|n| KeyHash::of(&n.to_string()).low()) {
            assert_eq!(shares.iter().filter(|share| share.has(hash)).count(), 1, "{hash}");
        }
        let firsts = shares.iter().filter(|share| Pass::new(**share, 0, String::new()).is_first());
        assert_eq!(firsts.count(), 1);
    }

    #[test]
    fn the_number_of_passes_follows_from_the_memory() {
        for (bytes, limit, passes) in [(0, 100, 1), (100, 100, 1), (101, 100, 2), (201, 100, 4), (u64::MAX, 1, 1 << 20)]
        {
            assert_eq!(Share::all(bytes, limit).len(), passes, "{bytes} {limit}");
        }
    }

    #[test]
    fn a_pass_ends_at_its_limit() {
        let pass = |of| Pass::new(Share { rest: 0, of }, 1000, String::new());
        let small = pass(1);
        assert!(small.look(1, || 2000).is_ok() && small.check(1000).is_ok() && !small.is_exceeded());
        assert!(small.look(LOOK_EVERY, || 1001).is_err() && small.is_exceeded());
        assert!(pass(MOST_SHARES).check(2000).is_ok());
    }

    #[test]
    fn a_maps_entries_are_those_of_its_tables() {
        let mut map = KeyMap::default();
        let keys: Vec<KeyHash> = (0..5000).map(|n| KeyHash::of(&n.to_string())).collect();
        for (n, key) in keys.iter().enumerate() {
            assert_eq!(map.insert(*key, n), None);
        }
        assert!((5000 * 25..5000 * 25 * 3).contains(&map.bytes()), "{}", map.bytes());
        assert_eq!(map.iter().count(), 5000);
        assert!(keys.iter().enumerate().all(|(n, key)| map.get(key) == Some(&n)));
        assert_eq!((map.remove(&keys[7]), map.get_mut(&keys[7])), (Some(7), None));
        let tables: Vec<usize> = map.into_tables().map(|table| table.len()).collect();
        assert_eq!((tables.len(), tables.iter().sum::<usize>()), (64, 4999));
        assert!(tables.iter().all(|n| *n > 20), "{tables:?}");
    }
}
