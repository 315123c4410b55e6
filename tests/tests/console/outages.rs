//! What the page shows while a part is away, and when it is back.

use chaos::Servers;
use testbed::{Link, TestBed};

use super::browser::{Browser, Screen};
use super::stage::Console;

#[tokio::test(flavor = "multi_thread")]
async fn the_page_names_what_is_away_and_shows_the_rest() {
    let folder = testbed::scratch::folder("console_outages");
    let mut servers = tokio::task::block_in_place(|| Servers::start(&folder, 1)).unwrap();
    let bed = TestBed::on("console_outages", |variable| servers.variable(variable));
    let mut conn = bed.table().await;
    let mut producer = bed.start("cdc-producer", &[]);
    producer.wait_for(" reading ");
    let consumer = bed.start("consumer", &[]);
    let console = Console::start(&bed, &[]);
    let browser = Browser::start(Screen::Desk).await;
    browser.open(&format!("{}/#/pipeline", console.address)).await;
    browser.has("everything works").await;

    // A broker that is killed while somebody watches.
    tokio::task::block_in_place(|| servers.kafka[0].server.kill()).unwrap();
    browser.has("Kafka is away").await;
    browser.shows("document.querySelectorAll('.partition').length === 10").await;
    browser.has("gives no answer").await;
    tokio::task::block_in_place(|| servers.kafka[0].start_again()).unwrap();
    browser.has("answers again").await;
    browser.has("everything works").await;

    // Changes are seen again.
    testbed::execute(&mut conn, &["INSERT INTO product VALUES (1, 'Cup', 'CAT_1', 3.00, NULL)"]).await;
    browser
        .shows("[...document.querySelectorAll('.tile .note')].some((note) => note.textContent === '1 since you watch')")
        .await;

    // MySQL is silent: the topics are still there.
    servers.to_mysql.set(Link::Stalled);
    browser.has("MySQL is away").await;
    browser.press("4").await;
    browser.shows("document.querySelector('tr.opens')").await;
    servers.to_mysql.set(Link::Open);
    browser.has("everything works").await;
    browser.press("1").await;

    // A consumer that is killed is named within seconds, and its partitions wait.
    consumer.kill();
    browser.has("consumer_1 has stopped").await;
    browser.shows("document.querySelectorAll('.partition.is-bad').length === 10").await;
    let again = bed.start("consumer", &[]);
    browser.has("everything works").await;

    // The console itself is away.
    drop(console);
    browser.has("the line to the console is cut").await;
    assert_eq!(browser.errors().await, Vec::<String>::new());
    again.stop();
    producer.stop();
}
