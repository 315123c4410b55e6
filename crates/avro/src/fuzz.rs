//! Fuzz target for values and schemas of other writers.

use model::product::SCHEMA;
use model::row::Datum;

use crate::{self as avro, Decoder};

/// The length of a writer's schema in 2 bytes, the schema, a value: decoding gives a row or an error.
#[test]
fn avro() {
    let pinned = Decoder::new(SCHEMA).expect("our schema");
    fuzzing::check!(fuzzing::seeds("avro"), 4_000, |input: &[u8]| {
        let Some((length, rest)) = input.split_first_chunk() else { return };
        let Some((schema, value)) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length))) else { return };
        let mut row = Vec::new();
        if let Ok(product) = avro::decode_value(value) {
            let mut again = Vec::new();
            avro::encode_value(&product, &mut again);
            assert_eq!(avro::decode_value(&again), Ok(product));
            // The years 1 to 9999 are the row's limit.
            if pinned.decode(value, &mut row).is_ok() {
                assert_eq!((row[0], row.len()), (Datum::Int(product.id), 5));
            }
        }
        let Some(decoder) = std::str::from_utf8(schema).ok().and_then(|text| Decoder::new(text).ok()) else { return };
        if decoder.decode(value, &mut row).is_ok() {
            assert_eq!(row.len(), decoder.schema().fields.len());
        }
    });
}
