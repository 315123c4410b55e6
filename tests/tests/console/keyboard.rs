//! The console by keyboard alone: Tab reaches each control and shows the focus, and the keys do what the page says.

use serde_json::{Value, json};
use testbed::{TestBed, execute};

use super::browser::{BACKSPACE, Browser, DOWN, ENTER, ESCAPE, SPACE, Screen, TAB, UP};
use super::guard::{TOKEN, token_file};
use super::stage::Stage;

/// More controls than any view has.
const MOST: usize = 120;

/// What has the focus: its name, its place among all controls within `root`, and what hides the mark of the focus.
///
/// Of radio buttons, Tab reaches the chosen one. The mark is an outline of two pixels: no parent may cut off a side, and
/// nothing may lie on the control. Chromium also gives the focus to parts that can be scrolled and have no control.
const FOCUS: &str = r"
    const controls = [...root.querySelectorAll('a[href], button, input, select, textarea, summary, [tabindex=\'0\']')].filter((one) =>
        !one.disabled && one.checkVisibility() && !(one.type === 'radio' && !one.checked));
    const one = document.activeElement;
    const name = (one.getAttribute('aria-label') ?? (one.labels?.[0] ?? one).innerText ?? '').trim().split(/[\n\t]/)[0];
    const scrolls = one.scrollHeight > one.clientHeight || one.scrollWidth > one.clientWidth;
    const hides = () => {
        const style = getComputedStyle(one);
        if (style.outlineStyle === 'none' || parseFloat(style.outlineWidth) < 2) return 'it has no outline';
        const box = one.getBoundingClientRect();
        const reach = parseFloat(style.outlineOffset) + parseFloat(style.outlineWidth) - 0.5;
        for (let above = one.parentElement; above !== document.body; above = above.parentElement) {
            if (getComputedStyle(above).overflowX === 'visible') continue;
            const edge = above.getBoundingClientRect();
            const [left, top] = [edge.left + above.clientLeft, edge.top + above.clientTop];
            if (box.left - reach < left || box.right + reach > left + above.clientWidth ||
                box.top - reach < top || box.bottom + reach > top + above.clientHeight) {
                return `${above.tagName} ${above.className} cuts off its outline`;
            }
        }
        const middle = (from, to, most) => (Math.max(0, from) + Math.min(most, to)) / 2;
        const shown = document.elementFromPoint(middle(box.left, box.right, innerWidth), middle(box.top, box.bottom, innerHeight));
        return one.contains(shown) ? null : `${shown?.tagName} ${shown?.className} covers it`;
    };
    return { name: `${one.tagName} ${name}`, at: controls.indexOf(one), of: controls.length, scrolls, hides: one === document.body ? null : hides() };
";

/// What has the focus now, among the controls of `root`.
async fn focus(browser: &Browser, root: &str) -> Value {
    browser.value(&format!("((root) => {{ {FOCUS} }})({root})")).await
}

fn name(focus: &Value) -> &str {
    focus["name"].as_str().unwrap()
}

/// Requires that this control has the focus.
#[track_caller]
fn has_focus(browser: &Browser, wanted: &str) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    async move {
        let focus = focus(browser, "document").await;
        assert!(name(&focus).starts_with(wanted), "{place}: {wanted} has not the focus: {focus}");
    }
}

/// Presses Tab from the control that has the focus, else from the first one, to the last one within `root`. Each must get
/// the focus in its order and show it. Returns their names, of which these must be some.
#[track_caller]
fn walk<'a>(browser: &'a Browser, root: &'a str, wanted: &'a [&'a str]) -> impl Future<Output = Vec<String>> {
    let place = std::panic::Location::caller();
    async move {
        let mut names = Vec::new();
        let first = focus(browser, root).await;
        let mut next = first["at"].as_i64().unwrap() + 1;
        for _ in 0..MOST {
            browser.press(TAB).await;
            let reached = focus(browser, root).await;
            assert_eq!(reached["hides"], Value::Null, "{place}: the focus is not seen: {reached}");
            if reached["at"] == -1 && reached["scrolls"] == true {
                continue;
            }
            assert_eq!(reached["at"], json!(next), "{place}: not the control behind {:?}: {reached}", names.last());
            names.push(name(&reached).to_owned());
            next += 1;
            if reached["of"] == json!(next) {
                for wanted in wanted {
                    assert!(names.iter().any(|name| name.starts_with(wanted)), "{place}: no {wanted} in {names:?}");
                }
                return names;
            }
        }
        panic!("{place}: more than {MOST} controls: {names:?}");
    }
}

/// Presses Tab until a control has the focus whose name begins with `wanted`; with `back`, Tab and Shift.
#[track_caller]
fn go_to<'a>(browser: &'a Browser, wanted: &'a str, back: bool) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    async move {
        for _ in 0..MOST {
            if back {
                browser.press_with_shift(TAB).await;
            } else {
                browser.press(TAB).await;
            }
            if name(&focus(browser, "document").await).starts_with(wanted) {
                return;
            }
        }
        panic!("{place}: Tab does not lead to {wanted}");
    }
}

const MAIN: &str = "document.getElementById('main')";
const OPENED: &str = "document.querySelector('dialog[open]')";

#[tokio::test(flavor = "multi_thread")]
async fn tab_reaches_each_control_of_each_view_and_shows_the_focus() {
    let token = token_file("console_tab");
    let mut stage = Stage::new("console_tab", &["--allow-control", "--token-file", &token]).await;
    stage.execute(&["INSERT INTO product VALUES (7, 'Wool blanket', 'CAT_5', 10.50, '2026-11-20 10:00:00')"]).await;
    let browser = stage.browser(Screen::Desk, "pipeline").await;
    browser.has("everything works").await;
    browser.shows("document.querySelectorAll('.partition').length === 10").await;
    let links = ["A Skip to the content", "A Pipeline", "A Checkpoint", "BUTTON Light", "BUTTON Dark"];
    let parts = ["A MySQL", "A cdc-producer", "A console_tab", "A 0", "A 9"];
    walk(&browser, "document", &[&links[..], &parts].concat()).await;

    browser.press("2").await;
    browser.has("No change since you watch.").await;
    stage.execute(&["UPDATE product SET price = 12.25 WHERE id = 7"]).await;
    browser.shows("document.querySelector('tr.opens')").await;
    tokio::task::block_in_place(|| stage.bed.verify());
    let filter = ["SELECT Operation", "INPUT Key or value", "BUTTON Pause", "DIV Latest changes", "TR "];
    walk(&browser, MAIN, &filter).await;

    // The latest row of a table, its curve, its way and its changes.
    browser.press("3").await;
    browser.shows("document.querySelector('.keys a')").await;
    walk(&browser, MAIN, &["SELECT Table", "INPUT Primary key", "BUTTON Show", "A 7"]).await;
    browser.press(ENTER).await;
    browser.has("It is everywhere where it belongs").await;
    browser.shows("document.querySelector('.u-over') && document.querySelectorAll('tr.opens').length === 2").await;
    let row = ["A All rows", "SELECT Column", "SELECT Change", "SUMMARY its line", "DIV Changes of the row", "TR "];
    walk(&browser, MAIN, &row).await;

    // A topic, its messages, one of them in full, its schema.
    browser.press("4").await;
    browser.shows("document.querySelector('tr.opens')").await;
    walk(&browser, MAIN, &["DIV Topics", "TR console_tab"]).await;
    browser.press(ENTER).await;
    browser.shows("document.querySelectorAll('tr.opens').length === 10").await;
    let partitions = walk(&browser, MAIN, &["A Topics", "A Partitions", "A Messages", "A Schema", "TR 9"]).await;
    assert_eq!(partitions.len(), 1 + 3 + 1 + 10, "{partitions:?}");
    go_to(&browser, "A Messages", true).await;
    browser.press(ENTER).await;
    browser.shows("document.querySelectorAll('tr.opens').length === 2").await;
    has_focus(&browser, "A Messages").await;
    walk(&browser, MAIN, &["A Schema", "SELECT Partition", "BUTTON Show", "BUTTON Read again", "TR "]).await;
    browser.press(ENTER).await;
    browser.shows("document.querySelector('dialog .comparison') && document.querySelector('dialog .facts')").await;
    has_focus(&browser, "BUTTON Close").await;
    walk(&browser, OPENED, &["A Trace it", "A History of the row", "A Its neighbours"]).await;
    browser.press(ESCAPE).await;
    browser.shows("document.querySelector('dialog') === null").await;
    has_focus(&browser, "TR ").await;
    go_to(&browser, "A Schema", true).await;
    browser.press(ENTER).await;
    browser.has("timestamp-micros").await;
    walk(&browser, MAIN, &["SUMMARY version 1", "PRE "]).await;

    stage.execute(&["SET SESSION sql_mode = ''", "UPDATE product SET last_updated = '0000-00-00' WHERE id = 7"]).await;
    browser.press("5").await;
    go_to(&browser, "BUTTON Read again", false).await;
    browser.shows("document.getElementById('letters-count').textContent === '1'").await;
    browser.press(SPACE).await;
    browser.shows("document.querySelector('tr.opens')").await;
    walk(&browser, MAIN, &["DIV Dead letters", "TR "]).await;
    browser.press(ENTER).await;
    browser.shows("document.querySelector('dialog .facts')").await;
    walk(&browser, OPENED, &["A Trace the row", "SUMMARY Its value", "PRE "]).await;
    browser.press(ESCAPE).await;

    browser.press("6").await;
    browser.shows("document.querySelector('input[type=password]')").await;
    walk(&browser, MAIN, &["INPUT Everything again", "INPUT Token", "BUTTON See what would happen"]).await;
    assert_eq!(browser.errors().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_switch_the_views_open_and_close_lines_and_keep_the_focus() {
    let mut bed = TestBed::new("console_keys");
    bed.set("TABLES", format!("['{0}.product', '{0}.part_*']", bed.name));
    let mut conn = bed.mysql().await;
    execute(&mut conn, &["CREATE TABLE part_1 (id INT PRIMARY KEY)", "CREATE TABLE part_2 (id INT PRIMARY KEY)"]).await;
    let mut stage = Stage::on(bed, &[]).await;
    let browser = stage.browser(Screen::Desk, "changes").await;
    browser.has("No change since you watch.").await;
    stage
        .execute(&[
            "INSERT INTO product VALUES (7, 'Wool blanket', 'CAT_5', 10.50, NULL), (8, 'Cup', 'CAT_1', 3.00, NULL)",
            "UPDATE product SET price = 12.25 WHERE id = 7",
        ])
        .await;
    browser.shows("document.querySelectorAll('tr.opens').length === 3").await;

    // From the first key on: past the menu to the view that is shown.
    browser.press(TAB).await;
    has_focus(&browser, "A Skip to the content").await;
    browser.press(ENTER).await;
    has_focus(&browser, "MAIN").await;
    browser.press(TAB).await;
    has_focus(&browser, "SELECT Table").await;
    assert_eq!(browser.value("location.hash").await, json!("#/changes"));

    // A filter by its arrows, the button by Space and Enter, the search field by `/`.
    browser.press(TAB).await;
    for _ in 0..2 {
        browser.press(DOWN).await;
    }
    let ops = "[...document.querySelectorAll('tr.opens .op')].map((op) => op.textContent).join()";
    browser.shows(format!("{ops} === 'update'")).await;
    for _ in 0..2 {
        browser.press(UP).await;
    }
    has_focus(&browser, "SELECT Operation").await;
    go_to(&browser, "BUTTON Pause", false).await;
    for (key, shown) in [(SPACE, "Continue"), (ENTER, "Pause"), (SPACE, "Continue"), (SPACE, "Pause")] {
        browser.press(key).await;
        has_focus(&browser, &format!("BUTTON {shown}")).await;
    }
    browser.press("/").await;
    has_focus(&browser, "INPUT Key or value").await;
    browser.write("wool").await;
    browser
        .shows("document.activeElement.value === 'wool' && document.querySelectorAll('tr.opens').length === 2")
        .await;
    for _ in "wool".chars() {
        browser.press(BACKSPACE).await;
    }
    browser.shows("document.querySelectorAll('tr.opens').length === 3").await;

    // A line by Enter and by Space; no other key acts while the dialog is open.
    go_to(&browser, "TR ", false).await;
    for key in [ENTER, SPACE] {
        browser.press(key).await;
        browser.shows("document.querySelector('dialog .comparison') !== null").await;
        browser.press("1").await;
        has_focus(&browser, "BUTTON Close").await;
        assert_ne!(browser.value("document.querySelector('.view-changes')").await, Value::Null);
        browser.press(ESCAPE).await;
        browser.shows("document.querySelector('dialog') === null").await;
        has_focus(&browser, "TR ").await;
    }
    browser.press(ENTER).await;
    browser.shows("document.querySelector('dialog .ways')").await;
    go_to(&browser, "A Trace it", false).await;
    browser.press(ENTER).await;
    browser.shows("document.querySelector('.view-rows') && document.querySelector('.u-over')").await;
    has_focus(&browser, "MAIN").await;

    // A choice that changes what is around it keeps the focus, so that the next one is a key away.
    go_to(&browser, "SELECT Column", false).await;
    let title = browser.value("document.querySelector('.chart h2').textContent").await;
    browser.press(DOWN).await;
    browser.shows(format!("document.querySelector('.chart h2').textContent !== {title}")).await;
    has_focus(&browser, "SELECT Column").await;
    go_to(&browser, "INPUT Primary key", true).await;
    browser.press(BACKSPACE).await;
    browser.write("8").await;
    browser.press(ENTER).await;
    browser.shows("location.hash.endsWith('key=8') && document.querySelectorAll('tr.opens').length === 1").await;
    has_focus(&browser, "INPUT Primary key").await;
    browser.press_with_shift(TAB).await;
    has_focus(&browser, "SELECT Table").await;
    for place in 1..=2 {
        browser.press(DOWN).await;
        browser.shows(format!("document.activeElement.selectedIndex === {place}")).await;
        browser.has("The topic has no row.").await;
        has_focus(&browser, "SELECT Table").await;
    }

    // The list of topics is drawn again each second, and keeps the focus.
    go_to(&browser, "BUTTON Show", false).await;
    browser.press("4").await;
    browser.shows("document.querySelectorAll('tr.opens').length === 3").await;
    for wanted in ["DIV Topics", "TR "] {
        browser.press(TAB).await;
        browser.value("(document.querySelector('.scroll').dataset.old = 'yes')").await;
        browser.shows("document.querySelector('.scroll').dataset.old !== 'yes'").await;
        has_focus(&browser, wanted).await;
    }

    // The colours, and the menu.
    go_to(&browser, "BUTTON Dark", true).await;
    browser.press(SPACE).await;
    browser.shows("document.documentElement.dataset.theme === 'dark'").await;
    has_focus(&browser, "BUTTON Dark").await;
    browser.press_with_shift(TAB).await;
    browser.press(ENTER).await;
    browser.shows("document.documentElement.dataset.theme === undefined").await;
    has_focus(&browser, "BUTTON Auto").await;
    go_to(&browser, "A Checkpoint", true).await;
    browser.press(ENTER).await;
    browser.shows("document.querySelector('.view-checkpoint')").await;
    has_focus(&browser, "MAIN").await;
    assert_eq!(browser.errors().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_asked_for_by_keyboard() {
    let token = token_file("console_replay");
    let mut stage = Stage::new("console_replay", &["--allow-control", "--token-file", &token]).await;
    stage.execute(&["INSERT INTO product VALUES (1, 'Cup', 'CAT_1', 3.00, NULL)"]).await;
    let browser = stage.browser(Screen::Desk, "pipeline").await;
    browser.has("everything works").await;
    browser.press("6").await;
    browser.shows("document.querySelector('input[type=password]')").await;
    go_to(&browser, "INPUT Everything again", false).await;
    for (key, shown) in [(DOWN, "Since"), (DOWN, "Table"), (UP, "Since"), (UP, "Token")] {
        browser.press(key).await;
        browser.shows(format!("document.querySelector('.form label:has(input:not([type=radio]), select)').textContent.startsWith('{shown}')")).await;
    }
    browser.press(TAB).await;
    has_focus(&browser, "INPUT Token").await;
    browser.write(TOKEN).await;
    browser.press(ENTER).await;
    browser.has("Epoch 2 begins: a snapshot of every row").await;
    has_focus(&browser, "INPUT Word of confirmation").await;
    browser.write("replay 2").await;
    walk(&browser, OPENED, &["BUTTON Replay"]).await;
    browser.press(SPACE).await;
    browser.has("Asked.").await;
    // The form has gone, and the focus with it; the dialog is still the only thing that keys reach.
    browser.press("1").await;
    assert_ne!(browser.value(OPENED).await, Value::Null);
    browser.press(ESCAPE).await;
    browser.shows("document.querySelector('dialog') === null && document.querySelector('.view-checkpoint')").await;
    has_focus(&browser, "INPUT Token").await;
    browser.shows("[...document.querySelectorAll('.facts div')].some((fact) => fact.textContent === 'Epoch2')").await;
    assert_eq!(browser.errors().await, Vec::<String>::new());
}
