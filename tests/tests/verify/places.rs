//! Faults of the logs and of PostgreSQL.

use super::scene::*;

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_the_logs() {
    let scene = Scene::with_topic_and_logs("verify_logs").await;
    let check = |fault: &dyn Fn(&mut [Vec<u8>; 2]), texts: &[&str]| {
        scene.write_logs(|logs| fault(logs));
        scene.differs(texts);
    };
    check(
        &|logs| drop(logs[0].drain(line(&logs[0], 1))),
        &[
            "records in no log: 1\n  key ",
            ": the record is in no log\n      expected {\"id\":",
            "\nDIFFERENT: records in no log: 1\n",
        ],
    );
    check(
        &|logs| logs[0].extend_from_within(line(&logs[0], 0)),
        &["the record is in this log already", "DIFFERENT: records more than once in the logs: 1\n"],
    );
    check(
        &|logs| {
            let twice = logs[0][line(&logs[0], 0)].to_vec();
            logs[1].splice(0..0, twice);
        },
        &[
            "consumer_2 line 1: the record is in consumer_1 already",
            "DIFFERENT: records more than once in the logs: 1\n",
        ],
    );
    check(
        &|logs| {
            let price = logs[0].windows(8).position(|w| w == b"\"price\":").unwrap() + 8;
            logs[0][price] = b'9';
        },
        &[
            "consumer_1 line 1 differs from what its record gives\n      expected {\"id\":",
            "      found    {\"id\":",
            "DIFFERENT: lines that differ from their record: 1\n",
        ],
    );
    check(
        &|logs| logs[1].extend_from_slice(b"{\"id\":7,\"na"),
        &["has no end (11 bytes)\n      found    {\"id\":7,\"na\n", "DIFFERENT: torn lines: 1\n"],
    );
    check(
        &|logs| {
            let log = logs.iter_mut().max_by_key(|log| log.len()).unwrap();
            let (first, second) = neighbours(log);
            let swapped = [&log[second.clone()], &log[first.clone()]].concat();
            log.splice(first.start..second.end, swapped);
        },
        &["comes after the line of offset", "DIFFERENT: lines out of order: 1\n"],
    );
    check(
        &|logs| {
            let far = String::from_utf8(logs[0][line(&logs[0], 0)].to_vec()).unwrap();
            let (start, end) = far.split_once("\"offset\":").unwrap();
            let (_, end) = end.split_once(',').unwrap();
            logs[0].extend_from_slice(format!("{start}\"offset\":99999,{end}not a line\n").as_bytes());
        },
        &[
            "is of an offset where the topic has no record",
            "is not a line of a consumer: it names no partition and offset\n      found    not a line\n",
            "DIFFERENT: lines of no record: 2\n",
        ],
    );
    check(
        &|logs| *logs = [Vec::new(), Vec::new()],
        &["records in no log: 12\n", "  … and 2 more\n", "DIFFERENT: records in no log: 12\n"],
    );
    scene.write_logs(|_| {});
    scene.agrees();
}

/// Two lines of one partition, the one after the other.
fn neighbours(log: &[u8]) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
    let partition = |range: &std::ops::Range<usize>| {
        let text = String::from_utf8_lossy(&log[range.clone()]).into_owned();
        text.rsplit_once("\"partition\":").unwrap().1.chars().next()
    };
    let lines = log.iter().filter(|b| **b == b'\n').count();
    let ranges: Vec<_> = (0..lines).map(|n| line(log, n)).collect();
    let pair = ranges.windows(2).find(|w| partition(&w[0]) == partition(&w[1])).expect("two lines of one partition");
    (pair[0].clone(), pair[1].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_postgres() {
    let scene = Scene::with_topic_and_logs("verify_postgres").await;
    let url = scene.world.get("POSTGRES_URL").to_owned();
    for (fault, repair, texts) in [
        (
            "UPDATE product SET discount_price = 4.45 WHERE id = 4",
            "UPDATE product SET discount_price = 4.44 WHERE id = 4",
            vec![
                "key 4: PostgreSQL's row differs from the table's after the rules\n      expected name",
                "price 5.55, discount_price 4.44, last_updated",
                "price 5.55, discount_price 4.45, last_updated",
            ],
        ),
        (
            "INSERT INTO product VALUES (99, 'x')",
            "DELETE FROM product WHERE id = 99",
            vec![
                "key 99: PostgreSQL has a row that it should not have\n      expected nothing\n      found    name \"x\", category null",
            ],
        ),
        (
            "UPDATE product SET id = 11 WHERE id = 10",
            "UPDATE product SET id = 10 WHERE id = 11",
            vec![
                "key 10: PostgreSQL lacks the row",
                "key 11: PostgreSQL has a row that it should not have",
                "DIFFERENT: PostgreSQL and table differ: 2\n",
            ],
        ),
        (
            "ALTER TABLE product RENAME TO hidden",
            "ALTER TABLE hidden RENAME TO product",
            vec!["PostgreSQL has no table product"],
        ),
    ] {
        postgres(&url, fault).await;
        scene.differs(&texts);
        postgres(&url, repair).await;
    }
    scene.agrees();
}
