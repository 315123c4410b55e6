//! Any bytes as a table map and a rows event: the decoder returns values or an error, and a projection returns what the
//! whole row does.
//!
//! `cargo fuzz run rows` (with `RUSTC_BOOTSTRAP=1` on a stable toolchain). A seed is the table map's length in 2 bytes,
//! the table map, the event's type and the event; the oracle test of the decoder writes them with `DECODER_BLESS=1`.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../src/binlog/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the decoder's own crate uses all of it")]
mod binlog;

use binlog::{ColumnKind, DecodeError, Projection, Row, RowChanges, TableLayout};

type Image = Vec<Option<Vec<u8>>>;

fuzz_target!(|seed: &[u8]| {
    let Some((len, rest)) = seed.split_first_chunk() else { return };
    let Some((map, rest)) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len))) else { return };
    let Some((event_type, event)) = rest.split_first() else { return };
    let Ok(layout) = TableLayout::parse(map) else { return };
    let known = layout.columns.iter().filter(|column| !matches!(column.kind, ColumnKind::Unsupported { .. }));
    let mut names: Vec<_> = known.map(|column| column.name.as_str()).collect();
    // One name twice would stand for its first column twice.
    names.sort_unstable_by_key(|name| name.to_lowercase());
    names.dedup_by_key(|name| name.to_lowercase());
    let Ok(all) = layout.project(&names) else { return };
    let Ok(whole) = images(*event_type, event, &layout, &all) else { return };

    let half: Vec<_> = names.iter().copied().step_by(2).collect();
    let Ok(half) = layout.project(&half) else { panic!("a part of what could be projected can't be") };
    let Ok(part) = images(*event_type, event, &layout, &half) else { panic!("a part of what was decoded is damaged") };
    assert_eq!(whole.len(), part.len());
    for (whole, part) in whole.iter().zip(&part) {
        assert!(whole.iter().step_by(2).eq(part), "a value differs in a projection");
    }
});

fn images(
    event_type: u8,
    event: &[u8],
    layout: &TableLayout,
    projection: &Projection,
) -> Result<Vec<Image>, DecodeError> {
    let (mut row, mut images) = (Row::default(), Vec::new());
    let mut rows = RowChanges::parse(event_type, event)?.rows(layout, projection)?;
    while rows.read(&mut row)? {
        let image = |values: &[binlog::Value<'_>]| values.iter().map(binlog::Value::to_text_protocol).collect();
        images.extend([image(&row.before), image(&row.after)]);
    }
    Ok(images)
}
