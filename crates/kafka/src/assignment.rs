//! The assignment of a member as the group's coordinator stores it.

use crate::partition::{Partition, Topic};

/// Decodes a member's assignment as the coordinator stores it: ConsumerProtocolAssignment, version 0 and later, big
/// endian: version i16, array of (topic: i16 length and UTF-8; array of partitions i32), user data. `main` is the name
/// of the main topic. `None` for other bytes.
pub fn assigned(mut bytes: &[u8], main: &str) -> Option<Vec<Partition>> {
    // Some brokers store nothing for a member without partitions.
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let version = i16::from_be_bytes(take(&mut bytes)?);
    let topics = i32::from_be_bytes(take(&mut bytes)?);
    let mut partitions = Vec::new();
    for _ in 0..topics {
        let length = usize::try_from(i16::from_be_bytes(take(&mut bytes)?)).ok()?;
        let (name, rest) = bytes.split_at_checked(length)?;
        bytes = rest;
        let topic = Topic::of(std::str::from_utf8(name).ok()?, main);
        for _ in 0..i32::from_be_bytes(take(&mut bytes)?) {
            partitions.push(Partition { topic, number: i32::from_be_bytes(take(&mut bytes)?) });
        }
    }
    (version >= 0).then_some(partitions)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASSIGNMENT: &[u8] = &[
        0, 1, // version
        0, 0, 0, 2, // topics
        0, 1, b'a', 0, 0, 0, 1, 0, 0, 0, 7, // a: 7
        0, 2, b'a', b'b', 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1, 2, // ab: 0, 258
        0xff, 0xff, 0xff, 0xff, // no user data
    ];

    #[test]
    fn partitions_of_every_topic() {
        let shown = |main: &str| format!("{:?}", assigned(ASSIGNMENT, main));
        assert_eq!(shown("ab"), "Some([a/7, 0, 258])");
        assert_eq!(shown("a"), "Some([7, ab/0, ab/258])");
    }

    #[test]
    fn bytes_that_are_no_assignment() {
        assert_eq!(assigned(&[], "ab"), Some(vec![]));
        for length in 1..ASSIGNMENT.len() - 4 {
            assert_eq!(assigned(&ASSIGNMENT[..length], "ab"), None, "{length} bytes");
        }
        assert_eq!(assigned(&[0xff, 0xff, 0, 0, 0, 0], "a"), None);
    }
}
