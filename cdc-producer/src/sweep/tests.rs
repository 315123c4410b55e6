use std::collections::BTreeMap;

use model::position::{Position, SnapshotProgress, TableProgress};
use model::time::Micros;
use proptest::prelude::*;

use super::*;

/// The keys of each pass over these partitions, with at most `limit` keys per pass.
fn passes(partitions: &[Vec<(i64, bool)>], limit: usize) -> Vec<Vec<i64>> {
    // Keys of two digits, whose bytes have the order of their numbers.
    let text = |key: &i64| format!("{key:02}");
    let limit = limit * (2 + KEY_BYTES);
    let (mut passes, mut cursor) = (Vec::new(), SweepCursor::default());
    while cursor.partition < partitions.len() {
        let mut collector = Collector::new(cursor.clone(), limit);
        while let Some(records) = partitions.get(collector.cursor.partition) {
            records.iter().for_each(|(key, is_alive)| collector.take(text(key).as_bytes(), *is_alive));
            if !collector.end_partition() {
                break;
            }
        }
        let next = &collector.cursor;
        assert!((next.partition, &next.from) > (cursor.partition, &cursor.from));
        cursor = collector.cursor;
        let number = |key: Box<[u8]>| String::from_utf8_lossy(&key).parse().expect("a number");
        passes.push(collector.earlier.into_iter().map(number).collect());
    }
    passes
}

#[test]
fn small_partitions_share_a_pass_and_large_ones_are_split() {
    let alive = |keys: &[i64]| keys.iter().map(|k| (*k, true)).collect::<Vec<_>>();
    assert_eq!(passes(&[alive(&[3, 1]), vec![(5, true), (5, false)], alive(&[2])], 100), [[1, 2, 3]]);
    assert_eq!(passes(&[alive(&[9, 7, 5, 3, 1])], 2), [vec![1, 3], vec![5, 7], vec![9]]);
    assert_eq!(passes(&[vec![], vec![]], 2), [Vec::<i64>::new()]);
}

proptest! {
    #[test]
    fn each_key_that_is_alive_is_in_one_pass(
        records in prop::collection::vec((0_i64..60, any::<bool>()), 0..300), limit in 2_usize..20,
    ) {
        let mut partitions = vec![Vec::new(); 3];
        let mut alive = BTreeMap::new();
        for (key, is_alive) in records {
            partitions[key as usize % 3].push((key, is_alive));
            alive.insert(key, is_alive);
        }
        let passes = passes(&partitions, limit);
        prop_assert!(passes.iter().all(|pass| pass.len() <= limit));
        let mut keys: Vec<i64> = passes.concat();
        keys.sort_unstable();
        let want: Vec<i64> = alive.into_iter().filter(|(_, is_alive)| *is_alive).map(|(key, _)| key).collect();
        prop_assert_eq!(keys, want);
    }
}

#[test]
fn a_commit_includes_what_was_handed_over_before_it() {
    let progress = |file: &str, offset, partition| {
        let position = Position {
            server_uuid: String::new(),
            gtid_set: None,
            file: file.to_owned(),
            offset,
            committed_at: Micros(0),
            anchor: None,
        };
        let sweep = Some(SweepCursor { partition, from: None });
        let snapshot = Some(SnapshotProgress { after: None, first: 0, rows: 0, begin: None, sweep });
        Progress { main: TableProgress { snapshot, ..TableProgress::default() }, ..Progress::new(2, position) }
    };
    let marked = progress("binlog.000009", 700, 4);
    for (committed, want) in [
        (progress("binlog.000009", 700, 4), true),
        (progress("binlog.000010", 4, 4), true),
        (progress("binlog.000009", 699, 4), false),
        // The stream had no events, and the previous pass has not been committed yet.
        (progress("binlog.000009", 700, 3), false),
    ] {
        assert_eq!(includes(&committed, &marked), want, "{committed:?}");
    }
}
