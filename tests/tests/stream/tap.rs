//! `stream tap`: changes as lines, with filters; a reader that leaves; bad conditions.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use mysql_async::prelude::Queryable;
use testbed::TestBed;

use super::{Pipeline, refused};

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_lines_and_a_reader_may_leave() {
    let mut pipeline = Pipeline::start(TestBed::new("stream_tap"), 1).await;
    let lines = |arguments: &[&str]| {
        let ended = pipeline.run(&[&["tap", "--stop-at-end"], arguments].concat());
        assert_eq!(ended.code, 0, "{}\n{}", ended.out, ended.err);
        ended.out.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let all = lines(&["--from", "beginning"]);
    assert_eq!(all.len(), 20, "{all:?}");
    assert!(all[0].contains("  r  ") && !all[0].contains('\u{1b}'), "{}", all[0]);
    assert_eq!(lines(&["--last", "2"]).len(), 2);
    assert_eq!(lines(&["--from", "2099-01-01T00:00:00Z"]).len(), 0);
    assert_eq!(lines(&["--from", "2000-01-01T00:00:00Z", "--op", "r"]).len(), 20);
    assert_eq!(lines(&["--from", "beginning", "--op", "c,u,d"]).len(), 0);
    let one = lines(&["--from", "beginning", "--where", "name=product 9", "--key", "9"]);
    assert!(one.len() == 1 && one[0].contains("  9  id=9 name=\"product 9\" "), "{one:?}");

    let mut tap = pipeline.bed.command("stream", &["tap", "--last", "20"]);
    let mut tap = tap.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut reader = BufReader::new(tap.stdout.take().unwrap()).lines();
    let first = reader.by_ref().take(20).count();
    pipeline.conn.query_drop("UPDATE product SET price = 8.99 WHERE id = 9").await.unwrap();
    let line = reader.next().unwrap().unwrap();
    assert!(first == 20 && line.contains("  u  9  price 9.00 → 8.99  "), "{line}");
    pipeline.conn.query_drop("DELETE FROM product WHERE id = 9").await.unwrap();
    let line = reader.next().unwrap().unwrap();
    assert!(line.contains("  d  9  was id=9 name=\"product 9\" category=\"cat_1\" price=8.99 "), "{line}");
    // The reader leaves: the next line ends the command, quietly.
    drop(reader);
    pipeline.conn.query_drop("UPDATE product SET price = 7 WHERE id = 8").await.unwrap();
    assert_eq!(tap.wait().unwrap().code(), Some(0));

    let stream = pipeline.bed.command("stream", &[]).get_program().to_str().unwrap().to_owned();
    let script = format!("set -o pipefail; {stream} tap --from beginning --stop-at-end | head -1");
    let mut shell = Command::new("bash");
    let tap = pipeline.bed.command("stream", &[]);
    shell.args(["-c", &script]).current_dir(&pipeline.bed.folder).env_clear();
    shell.envs(tap.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("PATH", "/usr/bin:/bin");
    let ended = shell.output().unwrap();
    assert_eq!((ended.status.code(), ended.stdout.iter().filter(|b| **b == b'\n').count()), (Some(0), 1), "{ended:?}");

    for (arguments, parts) in [
        (&["--where", "price"][..], &["\"price\" is no condition", "category=CAT_5"][..]),
        (&["--where", "prise=1"], &["the records have no column prise", "id, name, category, price, last_updated"]),
        (&["--op", "x"], &["\"x\" is no operation"]),
        (&["--table", "a.b"], &["a.b is not taken"]),
    ] {
        refused(&pipeline.run(&[&["tap"], arguments].concat()), 2, parts);
    }
    let usage = pipeline.run(&["tap", "--from", "yesterday"]);
    assert!(usage.code == 2 && usage.err.contains("not beginning, end or a time"), "{}", usage.err);
    pipeline.bed.set("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1");
    refused(&pipeline.run(&["tap"]), 75, &["127.0.0.1:1"]);
}
