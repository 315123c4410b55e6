//! Fuzz targets for data that other programs may write to the topics and to the schema registry.

use std::fmt::Debug;

use serde::Serialize;

use crate::avro::{self, Decoder, Scratch};
use crate::position::Progress;
use crate::record::Source;
use crate::slots::Marker;

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

/// The fast parser of a header agrees with a JSON parser, and a position that our producer can write is printed as it
/// was read.
#[test]
fn source() {
    fuzzing::check!(fuzzing::seeds("source"), 20_000, |input: &[u8]| {
        let read = Source::parse(input).ok();
        assert_eq!(read, serde_json::from_slice(input).ok());
        let Some(source) = read.filter(|source| source.pos.bytes().all(|b| b.is_ascii_alphanumeric() || b == b':'))
        else {
            return;
        };
        let mut written = Vec::new();
        source.write(&mut written);
        assert_eq!(Source::parse(&written).expect("our own form"), source);
    });
}

/// Records of the checkpoint topic.
#[test]
fn progress() {
    fuzzing::check!(fuzzing::seeds("progress"), 8_000, |input: &[u8]| {
        if let Ok(progress) = serde_json::from_slice::<Progress>(input) {
            assert_same(&progress, |bytes| serde_json::from_slice(bytes).expect("our own form"));
        }
    });
}

/// Records of the slots topic.
#[test]
fn marker() {
    fuzzing::check!(fuzzing::seeds("marker"), 8_000, |input: &[u8]| {
        if let Ok(marker) = Marker::parse(input) {
            assert_same(&marker, |bytes| Marker::parse(bytes).expect("our own form"));
        }
    });
}

fn assert_same<T: Serialize + PartialEq + Debug>(record: &T, parse: impl FnOnce(&[u8]) -> T) {
    assert_eq!(&parse(&serde_json::to_vec(record).expect("JSON")), record);
}
