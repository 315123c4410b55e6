//! Fuzz target for values and schemas of other writers.

use crate::{self as avro, Decoder, Scratch};

/// The length of a writer's schema in 2 bytes, the schema, a value: decoding gives a product or an error.
#[test]
fn avro() {
    fuzzing::check!(fuzzing::seeds("avro"), 4_000, |input: &[u8]| {
        let Some((length, rest)) = input.split_first_chunk() else { return };
        let Some((schema, value)) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length))) else { return };
        if let Ok(product) = avro::decode_value(value) {
            let mut again = Vec::new();
            avro::encode_value(&product, &mut again);
            assert_eq!(avro::decode_value(&again), Ok(product));
        }
        let Some(decoder) = std::str::from_utf8(schema).ok().and_then(|text| Decoder::new(text).ok()) else { return };
        drop(decoder.decode(value, &mut Scratch::default()));
    });
}
