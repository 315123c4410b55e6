//! The decoders by schema id, and the decision for an id without one. Pure.

use std::collections::{BTreeSet, HashMap};

use crate::{Decoder, Scratch};
use model::position::Progress;
use model::product::{Product, SCHEMA};

/// Maximum number of ids that are kept; any writer to the topic can invent ids.
const MOST_IDS: usize = 1_000;

/// The decoders of the schemas that were looked up, by schema id; or the reason why there is none.
pub struct Decoders {
    by_id: HashMap<u32, Result<Decoder, String>>,
    noted: Noted,
    /// `None` only if our own schema were invalid.
    ours: Option<Decoder>,
}

/// The ids in the producer's progress.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Noted {
    ids: BTreeSet<u32>,
    /// As [`Progress::schema_ids_from`].
    from: Option<Vec<i64>>,
    /// By partition, the end of the committed records when the progress was read; the progress covers the records
    /// before it.
    ends: Vec<i64>,
}

impl Noted {
    /// From a progress that covers each record before these ends.
    pub(super) fn new(progress: Option<Progress>, ends: Vec<i64>) -> Self {
        let (ids, from) = progress.map_or((None, None), |p| (p.schema_ids, p.schema_ids_from));
        Self { ids: ids.unwrap_or_default(), from, ends }
    }

    /// Whether the progress covers the record at this place.
    pub(super) fn covers(&self, partition: i32, offset: i64) -> bool {
        at(&self.ends, partition).is_some_and(|end| offset < end)
    }

    /// Whether the producer wrote with this id.
    pub(super) fn has(&self, id: u32) -> bool {
        self.ids.contains(&id)
    }

    /// Whether our producer can't have written a record at this place with an id that is not in the list.
    fn is_complete_at(&self, partition: i32, offset: i64) -> bool {
        self.from.as_ref().is_some_and(|from| offset >= at(from, partition).unwrap_or(0))
    }
}

fn at(offsets: &[i64], partition: i32) -> Option<i64> {
    offsets.get(usize::try_from(partition).ok()?).copied()
}

impl Default for Decoders {
    /// No schema was looked up, and the progress covers no record.
    fn default() -> Self {
        let noted = Noted { ids: BTreeSet::new(), from: Some(Vec::new()), ends: Vec::new() };
        Self { by_id: HashMap::new(), noted, ours: Decoder::new(SCHEMA).ok() }
    }
}

impl Decoders {
    /// Decodes the value of the record at this place whose key is `key`; the schema must have been looked up.
    ///
    /// # Errors
    /// The reason for a person why it is not a value of our producer.
    pub fn decode<'a>(
        &'a self,
        value: &'a [u8],
        key: i64,
        (partition, offset): (i32, i64),
        scratch: &'a mut Scratch,
    ) -> Result<Product<'a>, String> {
        let (id, body) = crate::split(value).map_err(|e| e.to_string())?;
        let (decoder, reason) = match self.by_id.get(&id) {
            Some(Ok(decoder)) => (decoder, None),
            Some(Err(reason)) => match &self.ours {
                Some(ours) if !self.noted.is_complete_at(partition, offset) => (ours, Some(reason)),
                _ => return Err(reason.clone()),
            },
            None => return Err(format!("schema {id} was not looked up")),
        };
        let refused = |why: String| reason.cloned().unwrap_or(why);
        let product = decoder.decode(body, scratch).map_err(|e| refused(e.to_string()))?;
        if product.id == key {
            Ok(product)
        } else {
            Err(refused(format!("its key is {key}, but its value has id {}", product.id)))
        }
    }

    /// Whether this value, whose schema has been looked up, can only be decoded by trying our schema: the producer's
    /// list of ids is not complete at its offset.
    pub fn is_guess(&self, value: &[u8], partition: i32, offset: i64) -> bool {
        let id = crate::split(value).ok().map(|(id, _)| id);
        let is_unknown = id.and_then(|id| self.by_id.get(&id)).is_some_and(Result::is_err);
        is_unknown && !self.noted.is_complete_at(partition, offset)
    }

    /// Stores the result for an id. At most `MOST_IDS` are kept; dropped ones must be looked up again.
    pub fn insert(&mut self, id: u32, found: Result<Decoder, String>) {
        if self.by_id.len() >= MOST_IDS {
            self.by_id.clear();
        }
        self.by_id.insert(id, found);
    }

    /// Whether a record with this id at this place needs no look-up.
    pub(super) fn has(&self, id: u32, partition: i32, offset: i64) -> bool {
        match self.by_id.get(&id) {
            Some(Ok(_)) => true,
            // A registry that has lost its schemas may assign an unknown id to later records of ours.
            Some(Err(_)) => self.noted.covers(partition, offset),
            None => false,
        }
    }

    pub(super) fn noted(&self) -> &Noted {
        &self.noted
    }

    /// Replaces the list of the producer's ids; ids that were unknown before must be looked up again.
    pub(super) fn note(&mut self, noted: Noted) {
        self.forget_unknown();
        self.noted = noted;
    }

    pub(super) fn forget_unknown(&mut self) {
        self.by_id.retain(|_, found| found.is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MUG: Product<'static> = Product { id: 5, name: Some("mug"), category: None, price: None, last_updated: None };

    fn value(id: u32) -> Vec<u8> {
        let mut out = Vec::new();
        crate::encode(id, &MUG, &mut out);
        out
    }

    fn noted(from: Option<Vec<i64>>) -> Noted {
        Noted { ids: [1].into(), from, ends: vec![9, 9] }
    }

    fn unknown(noted: Noted) -> Decoders {
        let mut decoders = Decoders { noted, ..Decoders::default() };
        decoders.insert(4, Err("the registry has no schema 4".to_owned()));
        decoders
    }

    #[test]
    fn an_unknown_id_is_ours_or_not_by_where_the_record_is() {
        for (from, place, is_read) in [
            (Some(vec![3, 0]), (0, 2), true),
            (Some(vec![3, 0]), (0, 3), false),
            (Some(vec![3, 0]), (1, 0), false),
            // A partition that was added to the topic while it was empty.
            (Some(vec![3, 0]), (2, 0), false),
            (None, (1, 8), true),
        ] {
            let decoders = unknown(noted(from.clone()));
            let read = |value: &[u8], key| decoders.decode(value, key, place, &mut Scratch::default()).map(|p| p.id);
            let reason = Err("the registry has no schema 4".to_owned());
            assert_eq!(read(&value(4), 5), if is_read { Ok(5) } else { reason.clone() }, "{from:?} {place:?}");
            assert_eq!(decoders.is_guess(&value(4), place.0, place.1), is_read, "{from:?} {place:?}");
            // A value that does not fit exactly is not from our producer, wherever it is.
            assert_eq!(read(&value(4), 6), reason);
            assert_eq!(read(&[value(4), vec![0]].concat(), 5), reason);
            assert_eq!(read(&value(4)[..8], 5), reason);
        }
    }

    #[test]
    fn what_was_unknown_is_looked_up_again_for_later_records() {
        let mut decoders = unknown(noted(Some(vec![0, 0])));
        decoders.insert(1, Ok(Decoder::new(SCHEMA).expect("our schema")));
        assert!(decoders.has(4, 0, 8) && !decoders.has(4, 0, 9) && !decoders.has(4, 2, 0));
        assert!(decoders.has(1, 0, 9) && !decoders.has(7, 0, 0));
        decoders.note(Noted { ends: vec![20, 20], ..noted(None) });
        assert!(!decoders.has(4, 0, 8) && decoders.has(1, 0, 9));
    }

    #[test]
    fn no_more_ids_are_kept_than_the_limit() {
        let mut decoders = unknown(noted(None));
        for id in 0..10 * MOST_IDS as u32 {
            decoders.insert(id, Err(format!("the registry has no schema {id}")));
            assert!(decoders.by_id.len() <= MOST_IDS && decoders.has(id, 0, 0));
        }
    }
}
