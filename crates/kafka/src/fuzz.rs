//! Fuzz target for records of the slots topic.

use crate::slots::Marker;

/// Records of the slots topic.
#[test]
fn marker() {
    fuzzing::check!(fuzzing::seeds("marker"), 8_000, |input: &[u8]| {
        if let Ok(marker) = Marker::parse(input) {
            let again = serde_json::to_vec(&marker).expect("JSON");
            assert_eq!(Marker::parse(&again).expect("our own form"), marker);
        }
    });
}
