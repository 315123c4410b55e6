//! The decoders by schema id, and the decision for an id without one. Pure.

use std::collections::{BTreeSet, HashMap};

use model::position::{Progress, TableProgress};

/// Maximum number of ids that are kept; any writer to the topic can invent ids.
const MOST_IDS: usize = 1_000;

/// The decoders of the schemas that were looked up, by schema id; or the reason why there is none.
pub struct Decoders<D> {
    by_id: HashMap<u32, Result<D, String>>,
    noted: Noted,
    /// Of the topic's pinned schema.
    ours: Option<D>,
}

/// The ids in the producer's progress.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Noted {
    ids: BTreeSet<u32>,
    /// As [`TableProgress::schema_fields`](model::position::TableProgress::schema_fields).
    fields: BTreeSet<(u32, u32)>,
    /// As [`TableProgress::schema_ids_from`](model::position::TableProgress::schema_ids_from).
    from: Option<Vec<i64>>,
    /// By partition, the end of the committed records when the progress was read; the progress covers the records
    /// before it.
    ends: Vec<i64>,
}

impl Noted {
    /// From a progress that covers each record before these ends.
    pub(super) fn new(progress: Option<Progress>, ends: Vec<i64>) -> Self {
        let TableProgress { schema_ids, schema_fields, schema_ids_from, .. } =
            progress.map(|p| p.main).unwrap_or_default();
        Self { ids: schema_ids.unwrap_or_default(), fields: schema_fields, from: schema_ids_from, ends }
    }

    /// Whether the progress covers the record at this place.
    pub(super) fn covers(&self, partition: i32, offset: i64) -> bool {
        at(&self.ends, partition).is_some_and(|end| offset < end)
    }

    /// Whether the producer wrote with this id.
    pub(super) fn has(&self, id: u32) -> bool {
        self.ids.contains(&id)
    }

    /// The fingerprint of the fields that an id stood for, unless an earlier version of the producer noted the id.
    pub(super) fn fingerprint(&self, id: u32) -> Option<u32> {
        self.fields.iter().find(|(noted, _)| *noted == id).map(|(_, fingerprint)| *fingerprint)
    }

    /// Whether our producer can't have written a record at this place with an id that is not in the list.
    fn is_complete_at(&self, partition: i32, offset: i64) -> bool {
        self.from.as_ref().is_some_and(|from| offset >= at(from, partition).unwrap_or(0))
    }
}

fn at(offsets: &[i64], partition: i32) -> Option<i64> {
    offsets.get(usize::try_from(partition).ok()?).copied()
}

/// The decoder of a value.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a, D> {
    /// The decoder.
    pub decoder: &'a D,
    /// Why the id is unknown, if the pinned schema is only tried: a value that does not fit exactly, or not the
    /// record's key, is not from our producer, for this reason.
    pub doubt: Option<&'a str>,
    /// The Avro value without its prefix.
    pub body: &'a [u8],
}

impl<D> Decoders<D> {
    /// No schema was looked up, and the progress covers no record; `ours` is the decoder of the topic's pinned schema.
    pub fn new(ours: Option<D>) -> Self {
        let noted = Noted { ids: BTreeSet::new(), fields: BTreeSet::new(), from: Some(Vec::new()), ends: Vec::new() };
        Self { by_id: HashMap::new(), noted, ours }
    }

    /// The decoder of the topic's pinned schema.
    pub fn ours(&self) -> Option<&D> {
        self.ours.as_ref()
    }

    /// The decoder of the value of the record at this place; the schema must have been looked up.
    ///
    /// # Errors
    /// The reason for a person why it is not a value of our producer.
    pub fn find<'a>(&'a self, value: &'a [u8], partition: i32, offset: i64) -> Result<Found<'a, D>, String> {
        let (id, body) = crate::split(value).map_err(|e| e.to_string())?;
        match self.by_id.get(&id) {
            Some(Ok(decoder)) => Ok(Found { decoder, doubt: None, body }),
            Some(Err(reason)) => match &self.ours {
                Some(decoder) if !self.noted.is_complete_at(partition, offset) => {
                    Ok(Found { decoder, doubt: Some(reason), body })
                }
                _ => Err(reason.clone()),
            },
            None => Err(format!("schema {id} was not looked up")),
        }
    }

    /// Stores the result for an id. At most `MOST_IDS` are kept; dropped ones must be looked up again.
    pub fn insert(&mut self, id: u32, found: Result<D, String>) {
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

    /// A value with this schema id.
    fn value(id: u32) -> Vec<u8> {
        [&[0][..], &id.to_be_bytes(), b"body"].concat()
    }

    fn noted(from: Option<Vec<i64>>) -> Noted {
        Noted { ids: [1].into(), fields: BTreeSet::new(), from, ends: vec![9, 9] }
    }

    fn unknown(noted: Noted) -> Decoders<char> {
        let mut decoders = Decoders { noted, ..Decoders::new(Some('o')) };
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
            let mut decoders = unknown(noted(from.clone()));
            let value = value(4);
            let unknown = "the registry has no schema 4";
            let found = decoders.find(&value, place.0, place.1).map(|f| (*f.decoder, f.doubt, f.body));
            let want = if is_read { Ok(('o', Some(unknown), &b"body"[..])) } else { Err(unknown.to_owned()) };
            assert_eq!(found, want, "{from:?} {place:?}");
            // Without a pinned schema there is nothing to try.
            decoders.ours = None;
            assert_eq!(decoders.find(&value, place.0, place.1).map(|_| ()), Err(unknown.to_owned()));
        }
        let mut decoders = unknown(noted(None));
        decoders.insert(5, Ok('w'));
        let found = |bytes: &[u8]| decoders.find(bytes, 0, 0).map(|f| (*f.decoder, f.doubt.is_some()));
        assert_eq!(found(&value(5)), Ok(('w', false)));
        assert_eq!(found(&value(6)), Err("schema 6 was not looked up".to_owned()));
        assert_eq!(found(b""), Err("the value can't be decoded: empty".to_owned()));
    }

    #[test]
    fn what_was_unknown_is_looked_up_again_for_later_records() {
        let mut decoders = unknown(noted(Some(vec![0, 0])));
        decoders.insert(1, Ok('w'));
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
