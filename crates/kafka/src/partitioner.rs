//! The partition of a key: murmur2, as the Java client computes it (`org.apache.kafka.common.utils.Utils.murmur2`).
//!
//! The programs compute it with the configured number of partitions. The client library would use the number that the
//! brokers report, and so would send later changes of a key to another partition within seconds after somebody has
//! raised it.

/// The partition of `key` in a topic with so many `partitions`, from 0.
pub fn partition_of(key: &[u8], partitions: i32) -> i32 {
    (murmur2(key) & i32::MAX) % partitions.max(1)
}

fn murmur2(key: &[u8]) -> i32 {
    const FACTOR: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    let mut hash = SEED ^ key.len() as u32;
    let mut rest = key;
    while let Some((word, after)) = rest.split_first_chunk::<4>() {
        let mixed = u32::from_le_bytes(*word).wrapping_mul(FACTOR);
        hash = hash.wrapping_mul(FACTOR) ^ (mixed ^ (mixed >> 24)).wrapping_mul(FACTOR);
        rest = after;
    }
    if !rest.is_empty() {
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        hash = (hash ^ u32::from_le_bytes(last)).wrapping_mul(FACTOR);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(FACTOR);
    (hash ^ (hash >> 15)) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cases of Kafka's own `UtilsTest.testMurmur2`, and 1,000 keys with the Java client's answers.
    #[test]
    fn keys_have_the_java_clients_partition() {
        for (key, want) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()), want, "{key}");
        }
        for line in include_str!("../../../tests/fixtures/partitions.txt").lines() {
            let (want, key) = line.split_once(' ').expect("a partition and a key");
            assert_eq!(partition_of(key.as_bytes(), 10).to_string(), want, "{key}");
        }
    }
}
