//! Ten thousand changes a second, two consoles, browsers that are slow or go away.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;
use testbed::{Feed, TestBed};

use super::browser::{Browser, Screen};
use super::stage::Console;

/// Changes in a transaction, and transactions.
const BATCH: i64 = 1_000;
const BATCHES: i64 = 100;
/// The page may be behind by this.
const BEHIND: Duration = Duration::from_secs(3);
/// Memory that a console may take for it.
const GROWTH: u64 = 96 << 20;
/// Memory that the scripts of the page may take.
const HEAP: u64 = 32 << 20;

/// The number in `1,234 since you watch`.
const SEEN: &str = "Number([...document.querySelectorAll('.tile .note')].map((note) => note.textContent)\
    .find((text) => text.endsWith('since you watch')).replace(/[^0-9]/g, ''))";

/// Bytes that the scripts of a page keep.
async fn heap(page: &Browser) -> u64 {
    page.chrome("HeapProfiler.collectGarbage", json!({})).await;
    page.chrome("Performance.enable", json!({})).await;
    let metrics = page.chrome("Performance.getMetrics", json!({})).await;
    let used = metrics["metrics"].as_array().unwrap().iter().find(|metric| metric["name"] == "JSHeapUsedSize").unwrap();
    used["value"].as_u64().unwrap()
}

/// Asks for the events like a browser, and reads nothing.
fn slow_browser(console: &Console) -> TcpStream {
    let host = console.address.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).unwrap();
    write!(stream, "GET /api/stream HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_changes_a_second_are_counted_and_few_are_shown() {
    let bed = TestBed::new("console_load");
    drop(bed.table().await);
    let mut feed = Feed::new(&bed).await;
    let consoles = [Console::start(&bed, &[]), Console::start(&bed, &[])];
    let (pipeline, changes) = (Browser::start(Screen::Desk).await, Browser::start(Screen::Desk).await);
    pipeline.open(&format!("{}/#/changes", consoles[0].address)).await;
    changes.open(&format!("{}/#/changes", consoles[1].address)).await;
    let mut slow = slow_browser(&consoles[0]);
    for page in [&pipeline, &changes] {
        page.has("No change since you watch.").await;
    }
    // Records of one key are in order: once the delete is counted, all of its records before are.
    feed.update([1], 0);
    feed.delete([1]);
    for page in [&pipeline, &changes] {
        page.has("1 deleted").await;
    }
    pipeline.press("1").await;
    pipeline.shows("document.querySelectorAll('.partition').length === 10").await;
    let before = pipeline.value(SEEN).await.as_i64().unwrap();
    let (memory, elements) = (consoles[0].memory(), "document.querySelectorAll('*').length");
    let begun = Instant::now();
    for batch in 0..BATCHES {
        tokio::task::block_in_place(|| feed.update(batch * BATCH..(batch + 1) * BATCH, batch));
        let due = Duration::from_millis(100) * u32::try_from(batch + 1).unwrap();
        tokio::time::sleep(due.saturating_sub(begun.elapsed())).await;
    }
    let took = begun.elapsed();
    let all = before + BATCH * BATCHES;
    let ended = Instant::now();
    pipeline.shows(format!("{SEEN} === {all}")).await;
    let behind = ended.elapsed();
    println!("{} changes in {took:?}; the page had all {behind:?} later", BATCH * BATCHES);
    assert!(behind < BEHIND, "the page was {behind:?} behind");
    changes.has("100,0").await;

    // Neither page nor console has grown.
    assert!(changes.value("document.querySelectorAll('tr.opens').length").await.as_i64().unwrap() <= 100);
    for page in [&pipeline, &changes] {
        let count = page.value(elements).await.as_i64().unwrap();
        assert!(count < 6_000, "{count} elements");
        let heap = heap(page).await;
        assert!(heap < HEAP, "the page's scripts keep {heap} bytes");
        assert_eq!(page.errors().await, Vec::<String>::new());
    }
    let growth = consoles[0].memory().saturating_sub(memory);
    assert!(growth < GROWTH, "the console takes {growth} bytes more");

    // A browser that goes away, and one that was too slow, end only their own streams.
    drop(changes);
    slow.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut begin = [0; 15];
    slow.read_exact(&mut begin).unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200 OK");
    drop(slow);
    feed.update([5], 1);
    pipeline.shows(format!("{SEEN} === {}", all + 1)).await;
}
