//! The last value of each key that was read lately, for the row before a change. Its memory is bounded: when the young
//! half is full, the old half is dropped. Pure.

use std::collections::HashMap;
use std::mem;

/// Bytes of both halves.
const LIMIT: usize = 32 << 20;
/// Bytes that an entry takes beside its key and value, about.
const ENTRY: usize = 64;

type Half = Vec<HashMap<Box<[u8]>, Option<Box<[u8]>>>>;

/// Values by table and key; a deleted row has none.
#[derive(Default)]
pub(super) struct Earlier {
    young: Half,
    old: Half,
    bytes: usize,
}

impl Earlier {
    /// Takes the value of a key, and returns the one before it; the outer `None` when that is not known.
    pub(super) fn replace(&mut self, table: usize, key: &[u8], value: Option<&[u8]>) -> Option<Option<Box<[u8]>>> {
        let size = ENTRY + key.len() + value.map_or(0, <[u8]>::len);
        if size > LIMIT / 8 {
            return self.forget(table, key);
        }
        if self.bytes + size > LIMIT / 2 {
            self.old = mem::take(&mut self.young);
            self.bytes = 0;
        }
        self.bytes += size;
        if self.young.len() <= table {
            self.young.resize_with(table + 1, HashMap::new);
        }
        let value = value.map(Box::from);
        match self.young[table].get_mut(key) {
            Some(known) => Some(mem::replace(known, value)),
            None => {
                self.young[table].insert(key.into(), value);
                self.old.get_mut(table).and_then(|keys| keys.remove(key))
            }
        }
    }

    fn forget(&mut self, table: usize, key: &[u8]) -> Option<Option<Box<[u8]>>> {
        let young = self.young.get_mut(table).and_then(|keys| keys.remove(key));
        let old = self.old.get_mut(table).and_then(|keys| keys.remove(key));
        young.or(old)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_before_is_known_until_the_memory_is_needed() {
        let mut earlier = Earlier::default();
        let take = |earlier: &mut Earlier, value: Option<&[u8]>| {
            earlier.replace(0, b"1", value).map(|v| v.map(|v| v.to_vec()))
        };
        assert_eq!(take(&mut earlier, Some(b"a")), None);
        assert_eq!(take(&mut earlier, None), Some(Some(b"a".to_vec())));
        assert_eq!(take(&mut earlier, Some(b"b")), Some(None));
        assert_eq!(earlier.replace(1, b"1", None), None, "another table");
        let value = vec![0; 1_000];
        for key in 0..100_000_u32 {
            earlier.replace(0, &key.to_be_bytes(), Some(&value));
        }
        let entries: usize = [&earlier.young, &earlier.old].into_iter().flatten().map(HashMap::len).sum();
        assert!(entries * 1_000 < LIMIT, "{entries}");
        assert_eq!(take(&mut earlier, None), None, "it was forgotten");
        assert!(earlier.replace(0, &99_999_u32.to_be_bytes(), None).is_some());
    }

    #[test]
    fn a_value_larger_than_its_share_is_not_kept() {
        let mut earlier = Earlier::default();
        earlier.replace(0, b"1", Some(b"a"));
        assert!(earlier.replace(0, b"1", Some(&vec![0; LIMIT / 8])).is_some());
        assert_eq!(earlier.replace(0, b"1", None), None);
    }
}
