//! Events that a real server wrote, which are also the fuzzer's seeds (`fuzzing/seeds/rows`, written by the oracle test
//! with `DECODER_BLESS=1`): whole, cut at every offset, and with changed bytes.

use std::{fs, path::Path, sync::LazyLock};

use super::*;

/// A table map, and a rows event with its type.
#[derive(Clone)]
struct Seed {
    name: String,
    map: Vec<u8>,
    event_type: u8,
    event: Vec<u8>,
}

fn seeds() -> Vec<Seed> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzzing/seeds/rows");
    let mut seeds = Vec::new();
    for file in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let file = file.unwrap();
        let bytes = fs::read(file.path()).unwrap();
        let (len, rest) = bytes.split_first_chunk().unwrap();
        let (map, rest) = rest.split_at(usize::from(u16::from_le_bytes(*len)));
        let (event_type, event) = rest.split_first().unwrap();
        let name = file.file_name().to_string_lossy().into_owned();
        seeds.push(Seed { name, map: map.to_vec(), event_type: *event_type, event: event.to_vec() });
    }
    assert!(seeds.len() > 100, "{} seeds", seeds.len());
    seeds
}

impl Seed {
    /// Decodes the event, and counts its images.
    fn decode(&self) -> Result<usize, DecodeError> {
        let layout = TableLayout::parse(&self.map)?;
        let projection = layout.project_all()?;
        values(self.event_type, &self.event, &layout, &projection).map(|images| images.len())
    }
}

#[test]
fn whole_events_decode() {
    for seed in seeds() {
        assert_eq!(seed.decode(), Ok(if seed.event_type == 31 { 2 } else { 1 }), "{}", seed.name);
    }
}

#[test]
fn every_truncated_event_is_an_error() {
    for mut seed in seeds() {
        // The head of an event without rows is a valid event.
        let head = 8 + 2 + 1 + if seed.event_type == 31 { 2 } else { 1 };
        while seed.event.pop().is_some() {
            let images = seed.decode();
            assert!(if seed.event.len() == head { images == Ok(0) } else { images.is_err() }, "{}", seed.name);
        }
    }
}

#[test]
fn truncated_table_maps_never_pass_for_whole_ones() {
    for mut seed in seeds() {
        let whole = TableLayout::parse(&seed.map).unwrap();
        while seed.map.pop().is_some() {
            // Optional metadata may end after any of its fields; the fields before read the same.
            let Ok(layout) = TableLayout::parse(&seed.map) else { continue };
            let names =
                |layout: &TableLayout| layout.columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>();
            assert_eq!(names(&layout), names(&whole), "{}", seed.name);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn changed_bytes_never_panic(
        seed: prop::sample::Index,
        changes in prop::collection::vec((0..3_u8, any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        static SEEDS: LazyLock<Vec<Seed>> = LazyLock::new(seeds);
        let mut changed = seed.get(&SEEDS[..]).clone();
        for (place, at, byte) in changes {
            let bytes = if place == 0 { &mut changed.map } else { &mut changed.event };
            *at.get_mut(bytes.as_mut_slice()) = byte;
        }
        let _images = changed.decode();
    }
}
