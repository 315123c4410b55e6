//! An updater at work that is killed, stopped or kept waiting, or is not the only one.

use std::fs;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use testbed::{TestBed, eventually};

use super::{HEADER, counts, products, update, write_data};

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_it_goes_on() {
    let world = TestBed::new("killed_updater");
    let rows: String = (0..3000)
        .map(|n| format!("{},name {n},c,{}.00,2026-01-01 00:00:{:02}.{:06}\n", n % 700, n, n / 100, n))
        .collect();
    let data = write_data(&world, &[("a.csv", format!("{HEADER}\n{rows}").as_bytes())]);
    let mut conn = world.mysql().await;
    let program = world.start("product-updater", &["--data", data.to_str().unwrap(), "--pause", "1ms..3ms"]);
    eventually("some of it is there", PATIENCE, || {
        let count = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(conn.query_first::<u64, _>("SELECT COUNT(*) FROM product"))
        });
        // The table may not be there yet.
        (100..).contains(&count.ok().flatten().unwrap_or(0)).then_some(())
    });
    program.kill();
    let count: u64 = conn.query_first("SELECT COUNT(*) FROM product").await.unwrap().unwrap();
    assert_ne!(count, 700, "it was killed too late to show anything");
    let ended = update(&world, &data, &[]);
    let [rows, inserted, updated, _, unchanged, older, _] = counts(&ended, "a.csv");
    assert_eq!((rows, inserted + updated + unchanged + older), (3000, 3000));
    assert!(inserted < 700, "some were there");
    let table = products(&world).await;
    assert_eq!(table.len(), 700);
    assert_eq!((table[0].1.as_str(), table[699].1.as_str()), ("name 2800", "name 2799"));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_updaters_at_once_end_with_the_newest_of_both() {
    let world = TestBed::new("two");
    // Each chunk of both holds the same products; whose rows are the newer ones changes from chunk to chunk.
    let rows = |of: usize| -> String {
        let newer = |n: usize| (n / 20 + of).is_multiple_of(2);
        (0..4000).map(|n| format!("{n},{},c,1.00,2026-01-01 00:00:0{}\n", newer(n), u8::from(newer(n)))).collect()
    };
    let folders = [0, 1].map(|of| {
        let folder = world.folder.join(format!("data{of}"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("a.csv"), format!("{HEADER}\n{}", rows(of))).unwrap();
        folder
    });
    let running = folders.each_ref().map(|f| {
        let flags = ["--no-pause", "--data", f.to_str().unwrap(), "--chunk-size", "20"];
        world.start("product-updater", &flags)
    });
    for program in running {
        let ended = program.wait();
        assert_eq!(ended.code, 0, "{}", ended.err);
    }
    let table = products(&world).await;
    assert_eq!(table.len(), 4000);
    let older: Vec<_> = table.iter().filter(|p| p.1 != "true").collect();
    assert!(older.is_empty(), "{older:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_applies_files_that_appear_until_it_is_stopped() {
    let world = TestBed::new("watch");
    let data = write_data(&world, &[("a.csv", format!("{HEADER}\n1,n,c,1.00,2026-01-01\n").as_bytes())]);
    let mut program = world.start("product-updater", &["--no-pause", "--watch", "--data", data.to_str().unwrap()]);
    program.wait_for("watching ");
    write_data(&world, &[("b.csv", format!("{HEADER}\n2,n,c,1.00,2026-01-01\n").as_bytes())]);
    program.wait_for("b.csv: 1 rows, 1 changes");
    write_data(&world, &[("a.csv", format!("{HEADER}\n1,changed,c,1.00,2026-01-01\n").as_bytes())]);
    program.wait_for("a.csv: 1 rows, 1 changes\n");
    eventually("the change is there", PATIENCE, || {
        program.log().matches("a.csv: 1 rows, 1 changes").nth(1).map(|_| ())
    });
    let ended = program.stop();
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(products(&world).await.iter().map(|p| p.1.as_str()).collect::<Vec<_>>(), ["changed", "n"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_ends_when_it_is_stopped() {
    let world = TestBed::new("pause");
    let data = write_data(
        &world,
        &[("a.csv", format!("{HEADER}\n1,n,c,1.00,2026-01-01\n2,n,c,1.00,2026-01-01\n").as_bytes())],
    );
    let program =
        world.start("product-updater", &["--chunk-size", "1", "--pause", "1h", "--data", data.to_str().unwrap()]);
    let mut conn = world.mysql().await;
    eventually("the first chunk is there", PATIENCE, || {
        let count = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(conn.query_first::<u64, _>("SELECT COUNT(*) FROM product"))
        });
        (count.ok().flatten() == Some(1)).then_some(())
    });
    let ended = program.stop();
    assert_eq!(ended.code, 0, "{}", ended.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_can_be_left() {
    let world = TestBed::new("locked");
    let data = write_data(&world, &[("a.csv", format!("{HEADER}\n1,n,c,1.00,2026-01-01\n").as_bytes())]);
    assert_eq!(update(&world, &data, &[]).code, 0);
    let mut conn = world.mysql().await;
    conn.query_drop("LOCK TABLES product WRITE").await.unwrap();
    let mut other = world.server().await;
    let waiting = "SELECT COUNT(*) FROM information_schema.processlist WHERE state LIKE '%lock%' AND info LIKE CONCAT('SELECT%`', ?, '`.`product`%')";
    for (signals, code) in [(1, 0), (2, 130)] {
        let program = world.start("product-updater", &["--no-pause", "--data", data.to_str().unwrap()]);
        eventually("it waits for the lock", PATIENCE, || {
            let count = tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(other.exec_first::<u64, _, _>(waiting, (&world.name,)))
            });
            // The server does not notice that the first program is gone: its query waits as well.
            (count.unwrap() == Some(signals)).then_some(())
        });
        program.signal("TERM");
        if signals == 2 {
            eventually("the program has received the first signal", PATIENCE, || {
                program.log().matches("stopping").nth(1).map(|_| ())
            });
            program.signal("TERM");
        }
        let ended = program.wait();
        assert_eq!(ended.code, code, "{}", ended.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_is_asked_anew() {
    let world = TestBed::new("silent");
    let data = write_data(&world, &[("a.csv", format!("{HEADER}\n1,n,c,1.00,2026-01-01\n").as_bytes())]);
    assert_eq!(update(&world, &data, &[]).code, 0);
    let mut conn = world.mysql().await;
    conn.query_drop("LOCK TABLES product WRITE").await.unwrap();
    let program = world.start("product-updater", &["--no-pause", "--data", data.to_str().unwrap()]);
    eventually("it gives the silent connection up", PATIENCE, || {
        program.log().contains("trying the chunk again").then_some(())
    });
    conn.query_drop("UNLOCK TABLES").await.unwrap();
    let ended = program.wait();
    assert_eq!(ended.code, 0, "{}", ended.err);
}
