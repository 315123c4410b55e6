//! Fuzz target for records of the slots topic.

use crate::slots::LogCheckpoint;

/// Records of the slots topic.
#[test]
fn log_checkpoint() {
    fuzzing::check!(fuzzing::seeds("log_checkpoint"), 8_000, |input: &[u8]| {
        if let Ok(checkpoint) = LogCheckpoint::parse(input) {
            let again = serde_json::to_vec(&checkpoint).expect("JSON");
            assert_eq!(LogCheckpoint::parse(&again).expect("our own form"), checkpoint);
        }
    });
}
