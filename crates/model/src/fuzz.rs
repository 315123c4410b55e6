//! Fuzz targets for data that other programs may write to the topics.

use crate::change::Source;
use crate::position::Progress;

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
            let again = serde_json::to_vec(&progress).expect("JSON");
            assert_eq!(serde_json::from_slice::<Progress>(&again).expect("our own form"), progress);
        }
    });
}
