//! What the page shows while a part is away, and when it is back.

use chaos::Servers;
use testbed::{Link, TestBed};

use super::browser::{Browser, Screen};
use super::stage::Console;

#[tokio::test(flavor = "multi_thread")]
async fn the_page_names_what_is_away_and_shows_the_rest() {
    let folder = testbed::scratch::folder("console_outages");
    let mut servers = tokio::task::block_in_place(|| Servers::start(&folder, 1)).unwrap();
    let mut bed = TestBed::on("console_outages", |variable| servers.variable(variable));
    let url = servers.postgres.url();
    let (server, _) = url.rsplit_once('/').unwrap();
    let ports = [servers.postgres.port, servers.to_postgres.port()].map(|port| format!(":{port}"));
    bed.set("POSTGRES_URL", format!("{}/{}", server.replace(&ports[0], &ports[1]), bed.name));
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
    // A console that starts meanwhile shows what answers.
    let late_console = Console::start(&bed, &[]);
    let late = Browser::start(Screen::Desk).await;
    late.open(&format!("{}/#/pipeline", late_console.address)).await;
    late.has("Kafka is away").await;
    late.has("no topic yet").await;
    late.shows("document.querySelector('.node-mysql .state.good')").await;
    tokio::task::block_in_place(|| servers.kafka[0].start_again()).unwrap();
    browser.has("answers again").await;
    browser.has("everything works").await;
    late.shows("document.querySelectorAll('.partition').length === 10").await;
    late.has("everything works").await;

    // Changes are seen again.
    testbed::execute(&mut conn, &["INSERT INTO product VALUES (1, 'Cup', 'CAT_1', 3.00, NULL)"]).await;
    let seen = "[...document.querySelectorAll('.tile .note')].some((note) => note.textContent === '1 since you watch')";
    browser.shows(seen).await;
    late.shows(seen).await;
    drop((late, late_console));

    // PostgreSQL and the registry are away: each is named.
    servers.to_postgres.set(Link::Cut);
    servers.to_registry.set(Link::Cut);
    let alerts = "[...document.querySelectorAll('#alerts strong')].map((part) => part.textContent).join()";
    browser.shows(format!("{alerts} === 'PostgreSQL,schema registry'")).await;
    browser.has("PostgreSQL is away, and 1 more").await;
    let sinks =
        "[...document.querySelectorAll('.node-sink')].map((sink) => sink.innerText.replace(/\\s+/g, ' ')).join()";
    browser.shows(format!("{sinks} === 'JSON logs consumer_logs/,PostgreSQL does not answer'")).await;
    servers.to_postgres.set(Link::Open);
    browser.has("schema registry is away").await;
    servers.to_registry.set(Link::Open);
    browser.has("everything works").await;

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

    // A rebalance: a second consumer gets half of the partitions.
    let second = bed.start("consumer", &[]);
    let holds =
        "[...document.querySelectorAll('.readers li')].map((one) => one.querySelectorAll('.cell').length).join()";
    browser.shows(format!("{holds} === '5,5'")).await;
    let event = "[...document.querySelectorAll('.events li')].some((event) => \
        /partitions? [0-9, ]+ went from [a-z_0-9]+ to consumer_2$/.test(event.textContent))";
    browser.shows(event).await;
    browser.has("consumer_2 has ").await;
    browser.has("everything works").await;

    // A login that is refused is not an absence.
    drop(console);
    let console = Console::start(&bed, &["--db-password", "wrong"]);
    browser.open(&format!("{}/#/pipeline", console.address)).await;
    browser.has("MySQL refuses").await;
    browser.shows("document.querySelector('.node-mysql').innerText.includes('refuses')").await;
    browser.shows("document.querySelectorAll('.partition').length === 10").await;

    // The console itself is away.
    drop(console);
    browser.has("the line to the console is cut").await;
    assert_eq!(browser.errors().await, Vec::<String>::new());
    second.stop();
    again.stop();
    producer.stop();
}
