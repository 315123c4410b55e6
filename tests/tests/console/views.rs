//! Each view, with changes that come while it is open, and with data that means harm.

use serde_json::json;
use testbed::TestBed;

use super::browser::{BACKSPACE, ENTER, ESCAPE, Screen};
use super::stage::Stage;

/// The hash of a view with parameters.
fn hash(view: &str, parameters: &[(&str, &str)]) -> String {
    let text = json!(parameters.iter().map(|(name, value)| json!([name, value])).collect::<Vec<_>>());
    format!("location.hash = '#/{view}?' + new URLSearchParams({text})")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_view_shows_the_pipeline_while_it_works() {
    let mut stage = Stage::new("console_views", &[]).await;
    stage.execute(&["INSERT INTO product VALUES (7, 'Wool blanket', 'CAT_5', 10.50, '2026-11-20 10:00:00')"]).await;
    let browser = stage.browser(Screen::Desk, "pipeline").await;
    browser.has("everything works").await;
    // The picture has each part, and ten partitions with their holder.
    browser.shows("document.querySelectorAll('.partition').length === 10").await;
    browser.shows("document.querySelectorAll('.node').length === 5").await;
    browser.shows("document.querySelectorAll('.links path').length === 1 + 10 + 10 + 2").await;
    browser.shows("document.querySelectorAll('.readers .cell').length === 10").await;
    // Seconds to Kafka beside the offsets to the consumers.
    let lag = "[...document.querySelectorAll('.chart')].find((card) => card.querySelector('h2').textContent === 'Lag')";
    browser
        .shows(format!(
            "/^offsets behind [0-9.,]+Kafka behind MySQL [0-9.]+ m?s$/.test({lag}.querySelector('.legend').textContent)"
        ))
        .await;

    // A change is seen as it comes, with the row before it.
    browser.press("2").await;
    browser.has("No change since you watch.").await;
    browser.press("/").await;
    browser.shows("document.activeElement === document.querySelector('#view input[type=search]')").await;
    browser.press("6").await;
    browser.shows("document.activeElement.value === '6' && document.querySelector('.view-changes')").await;
    browser.press(BACKSPACE).await;
    browser.shows("document.activeElement.value === ''").await;
    browser.value("document.activeElement.blur()").await;
    stage.execute(&["UPDATE product SET price = 12.25 WHERE id = 7"]).await;
    browser.has("12.25").await;
    stage.execute(&["UPDATE product SET price = 13.75 WHERE id = 7"]).await;
    let summary = "[...document.querySelectorAll('.pair')].some((pair) => pair.textContent === 'price12.25→13.75')";
    browser.shows(summary).await;
    stage.execute(&["DELETE FROM product WHERE id = 7"]).await;
    browser.shows("document.querySelector('.op-d') !== null").await;

    tokio::task::block_in_place(|| stage.bed.verify());

    // The change in full, by keyboard, and from there the way of the row.
    browser.value("document.querySelector('tr.opens').focus()").await;
    browser.press(ENTER).await;
    browser.shows("document.querySelector('dialog .comparison') !== null").await;
    browser.has("After: deleted").await;
    browser.press(ESCAPE).await;
    browser.shows("document.querySelector('dialog') === null").await;
    browser.value("document.querySelector('tr.opens').click()").await;
    browser.shows("document.querySelector('dialog .ways a')").await;
    browser.value("document.querySelector('dialog .ways a').click()").await;
    browser.has("It is everywhere where it belongs").await;
    browser.has("4 changes in partition").await;
    browser.shows("document.querySelector('.u-over') !== null").await;
    browser.has("price over time").await;

    // All rows, topics, messages, the schema.
    stage
        .execute(&["INSERT INTO product VALUES (8, 'Cup', 'CAT_1', 3.00, NULL), (9, 'Kettle', 'CAT_1', 4.00, NULL)"])
        .await;
    tokio::task::block_in_place(|| stage.bed.verify());
    browser.value(&hash("rows", &[("table", &stage.table())])).await;
    browser.shows("[...document.querySelectorAll('.bars li')].some((bar) => bar.textContent === 'CAT_12')").await;
    browser.press("4").await;
    browser.shows("document.querySelector('tr.opens')").await;
    browser.value("document.querySelector('tr.opens').click()").await;
    browser.shows("document.querySelectorAll('tbody tr').length === 10").await;
    browser.value(&hash("topics", &[("topic", &stage.bed.name), ("tab", "messages")])).await;
    browser.shows("document.querySelectorAll('tbody tr').length === 6").await;
    browser.value(&hash("topics", &[("topic", &stage.bed.name), ("tab", "schema")])).await;
    browser.has("timestamp-micros").await;
    browser.press("5").await;
    browser.has("No dead letter.").await;
    browser.press("6").await;
    browser.has("This console only reads.").await;
    browser.has("nothing is missing").await;
    assert_eq!(browser.errors().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_appears_while_somebody_watches_is_shown_from_its_first_record() {
    let mut bed = TestBed::new("console_new");
    bed.set("TABLES", format!("['{0}.product', '{0}.new_*']", bed.name));
    let mut stage = Stage::on(bed, &[]).await;
    let browser = stage.browser(Screen::Desk, "changes").await;
    // From now on it reads the ends of the topics that are there.
    browser.has("No change since you watch.").await;
    stage
        .execute(&[
            "CREATE TABLE new_note (id INT PRIMARY KEY, note TEXT)",
            "INSERT INTO new_note VALUES (1, 'x'), (2, 'y')",
            "INSERT INTO new_note VALUES (3, 'z')",
        ])
        .await;
    browser.has("3 since you watch").await;
    browser.shows("document.querySelectorAll('tr.opens').length === 3").await;
    stage.execute(&["INSERT INTO product VALUES (1, 'Cup', 'CAT_1', 3.00, NULL)"]).await;
    browser.has("4 since you watch").await;
    assert_eq!(browser.errors().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_data_is_text() {
    let mut stage = Stage::new("console_hostile", &[]).await;
    let attack = "<img src=x onerror=\"document.title=`hacked`\"><script>document.title=`hacked`</script>";
    let long = "x".repeat(290);
    let browser = stage.browser(Screen::Phone, "changes").await;
    browser.has("No change since you watch.").await;
    stage
        .execute(&[
            &format!("INSERT INTO product VALUES (1, '{attack}', '{attack}', 1.00, NULL)"),
            "INSERT INTO product VALUES (2, 'a\u{202e}evil\u{2066}', CONCAT('nul', CHAR(0), CHAR(27), '[31m'), 2.00, NULL)",
            &format!("INSERT INTO product VALUES (3, '{long}', '{}', 3.00, NULL)", "é".repeat(490)),
        ])
        .await;
    browser.shows("document.querySelectorAll('tr.opens').length === 3").await;
    browser.has("<img src=x onerror=").await;
    browser.has("a\\u{202e}evil\\u{2066}").await;
    browser.has("nul\\u{0}\\u{1b}[31m").await;
    let name = |place: usize| format!("document.querySelectorAll('tr.opens')[{place}].click()");
    for place in 0..3 {
        browser.value(&name(place)).await;
        browser
            .shows("document.querySelector('dialog .facts') !== null && document.querySelector('dialog .comparison')")
            .await;
        browser.press(ESCAPE).await;
    }
    browser.value(&hash("rows", &[("table", &stage.table())])).await;
    browser.shows("document.querySelectorAll('.bars li').length > 3").await;
    browser.value(&hash("rows", &[("table", attack), ("key", attack)])).await;
    browser.shows("document.querySelectorAll('.alert').length > 0").await;
    browser.value(&hash("topics", &[("topic", attack), ("tab", "messages"), ("partition", "-1"), ("from", "x")])).await;
    browser.has("from: invalid digit found in string").await;
    assert_eq!(browser.value("document.querySelectorAll('img, dialog script, main script').length").await, json!(0));
    assert!(!browser.value("document.title").await.as_str().unwrap().contains("hacked"));
    assert_eq!(browser.errors().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_fits_a_phone_and_has_two_sets_of_colours() {
    let mut stage = Stage::new("console_phone", &[]).await;
    let long = "x".repeat(290);
    stage.execute(&[&format!("INSERT INTO product VALUES (1, 'Cup', '{long}', 3.00, NULL)")]).await;
    let browser = stage.browser(Screen::Phone, "pipeline").await;
    browser.has("everything works").await;
    for key in ["1", "2", "3", "4", "5", "6"] {
        browser.press(key).await;
        browser
            .shows(format!("document.querySelectorAll('#views a')[{key} - 1].getAttribute('aria-current') === 'page'"))
            .await;
        let over = browser.value("document.documentElement.scrollWidth - innerWidth").await;
        assert_eq!(over, json!(0), "view {key} is wider than the phone");
    }
    // A card cuts off what is too wide for it; a table and a text may be scrolled.
    let wider = |root: &str| {
        format!(
            "[...document.querySelectorAll('{root}, {root} *')].filter((one) => !one.closest('.scroll, .tabs, pre') && \
             one.getBoundingClientRect().right > innerWidth).map((one) => `${{one.tagName}} ${{one.className}}`).join()"
        )
    };
    browser.value(&hash("topics", &[("topic", &stage.bed.name), ("tab", "messages")])).await;
    browser.shows("document.querySelector('tr.opens .pair')").await;
    assert_eq!(browser.value(&wider("body")).await, json!(""));
    browser.value("document.querySelector('tr.opens').click()").await;
    browser.has("Header source").await;
    assert_eq!(browser.value(&wider("dialog")).await, json!(""));
    browser.press(ESCAPE).await;
    let page = "getComputedStyle(document.documentElement).backgroundColor";
    let scheme = |name: &str| json!({ "features": [{ "name": "prefers-color-scheme", "value": name }] });
    // The page hears of it by an event.
    let has = |name: &str| format!("document.documentElement.dataset.colours === '{name}'");
    browser.chrome("Emulation.setEmulatedMedia", scheme("dark")).await;
    browser.shows(has("dark")).await;
    let dark = browser.value(page).await;
    browser.chrome("Emulation.setEmulatedMedia", scheme("light")).await;
    browser.shows(has("light")).await;
    let light = browser.value(page).await;
    assert_ne!(dark, light);
    // The switch wins over the system, also after the page was loaded again.
    browser
        .value("[...document.querySelectorAll('#theme button')].find((b) => b.textContent === 'Dark').click()")
        .await;
    assert_eq!(browser.value(page).await, dark);
    browser.reload().await;
    browser.has("everything works").await;
    assert_eq!(browser.value(page).await, dark);
    assert_eq!(browser.errors().await, Vec::<String>::new());
}
