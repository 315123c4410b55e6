//! Fuzz target for values and schemas of other writers.

use model::row::Datum;
use runtime::config::PINNED_SCHEMA;

use crate::{Decoder, encode};

/// The length of a writer's schema in 2 bytes, the schema, a value: decoding gives a row or an error, and a row of the
/// pinned schema is encoded as the same one.
#[test]
fn avro() {
    let pinned = Decoder::new(PINNED_SCHEMA).expect("our schema");
    fuzzing::check!(fuzzing::seeds("avro"), 4_000, |input: &[u8]| {
        let Some((length, rest)) = input.split_first_chunk() else { return };
        let Some((schema, value)) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length))) else { return };
        let mut row = Vec::new();
        if pinned.decode(value, &mut row).is_ok() {
            let value = encoded(&row);
            let mut again = Vec::new();
            assert_eq!(pinned.decode(&value, &mut again), Ok(()));
            assert_eq!((&again, row.len()), (&row, 5));
        }
        let Some(decoder) = std::str::from_utf8(schema).ok().and_then(|text| Decoder::new(text).ok()) else { return };
        if decoder.decode(value, &mut row).is_ok() {
            assert_eq!(row.len(), decoder.schema().fields.len());
        }
    });
}

/// The value of a row whose key comes first and whose other fields may be null.
fn encoded(row: &[Datum<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (place, datum) in row.iter().enumerate() {
        if place > 0 {
            encode::long(i64::from(*datum != Datum::Null), &mut out);
        }
        match datum {
            Datum::Null => {}
            Datum::Int(number) => encode::long(*number, &mut out),
            Datum::Text(text) => encode::bytes(text.as_bytes(), &mut out),
            Datum::Decimal { unscaled, .. } => encode::decimal(*unscaled, &mut out),
            Datum::Timestamp(time) => encode::long(time.0, &mut out),
            other => unreachable!("{other:?} of the pinned schema"),
        }
    }
    out
}
