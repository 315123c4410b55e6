//! Who may ask for what: names of the server, headers, the token, a replay with its confirmation.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};

use super::browser::Screen;
use super::stage::{Console, Stage};

pub(super) const TOKEN: &str = "correct horse battery staple";

/// A file with the token, in a folder of this name.
pub(super) fn token_file(folder: &str) -> String {
    let folder = testbed::scratch::folder(folder);
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    file.to_str().unwrap().to_owned()
}

/// The answer to a request with this head.
fn ask(console: &Console, request: &str, head: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(console.address.trim_start_matches("http://")).unwrap();
    let length = body.len();
    write!(stream, "{request} HTTP/1.1\r\n{head}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn other_names_and_wrong_tokens_are_refused_and_a_replay_needs_its_word() {
    let mut stage =
        Stage::new("console_guard", &["--allow-control", "--token-file", &token_file("console_guard")]).await;
    stage.execute(&["INSERT INTO product VALUES (1, 'Cup', 'CAT_1', 3.00, NULL)"]).await;
    let console = &stage.console;

    let page = ask(console, "GET /", "Host: 127.0.0.1", "");
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    for header in
        ["content-security-policy: default-src 'none'", "frame-ancestors 'none'", "x-content-type-options: nosniff"]
    {
        assert!(page.contains(header), "{header}: {page}");
    }
    for path in ["/", "/api/stream", "/api/letters", "/assets/app.js"] {
        let answer = ask(console, &format!("GET {path}"), "Host: evil.example", "");
        assert!(answer.starts_with("HTTP/1.1 421"), "{path}: {answer}");
    }
    assert!(ask(console, "GET /../../etc/passwd", "Host: localhost", "").starts_with("HTTP/1.1 404"));
    let snapshot = r#"{"kind":"snapshot"}"#;
    let post = |path: &str, token: &str, body: &str| {
        let head = format!("Host: localhost\r\nContent-Type: application/json\r\nAuthorization: Bearer {token}");
        ask(console, &format!("POST {path}"), &head, body)
    };
    for (path, token, body, word) in [
        ("/api/replay/plan", "wrong", snapshot, "the token is another one"),
        ("/api/replay", "", snapshot, "the token is missing"),
        ("/api/replay", TOKEN, snapshot, "the word is not"),
        ("/api/replay", TOKEN, r#"{"kind":"snapshot","word":"replay 9"}"#, "the word is not"),
        ("/api/replay/plan", TOKEN, r#"{"kind":"since","since":"soon"}"#, "is no time"),
        ("/api/replay/plan", TOKEN, r#"{"kind":"table","table":"mysql.user"}"#, "is not taken"),
        ("/api/replay/plan", TOKEN, r#"{"kind":"drop"}"#, "kind: unknown variant"),
    ] {
        let answer = post(path, token, body);
        assert!(answer.starts_with("HTTP/1.1 4") && answer.contains(word), "{path} {body}: {answer}");
    }
    for (path, reason) in [
        ("/api/messages?topic=x&partition=first", "partition: invalid digit"),
        ("/api/change?partition=0", "missing field `topic`"),
        ("/api/trace?table=a.b&partition=0&offset=99999999999999999999", "offset: number too large"),
    ] {
        let answer = ask(console, &format!("GET {path}"), "Host: localhost", "");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}"));
        assert!(head.starts_with("HTTP/1.1 400") && body["error"] == "command-line", "{path}: {answer}");
        assert!(body["reason"].as_str().unwrap().contains(reason) && body["what_to_do"].is_string(), "{answer}");
    }
    let epoch = |stage: &Stage| stage.bed.find_progress().unwrap().map(|progress| progress.epoch);
    assert_eq!(epoch(&stage), Some(1), "nothing was replayed");

    // As a person does it.
    let browser = stage.browser(Screen::Desk, "checkpoint").await;
    browser.shows("document.querySelector('input[type=password]')").await;
    browser.value(&format!("document.querySelector('input[type=password]').value = {}", json!(TOKEN))).await;
    browser.value("document.querySelector('.form button.primary').click()").await;
    browser.has("Epoch 2 begins: a snapshot of every row").await;
    assert_eq!(browser.value("document.querySelector('dialog .danger').disabled").await, Value::Bool(true));
    browser
        .value(
            "(() => { const word = document.querySelector('dialog input'); word.value = 'replay 2'; \
        word.dispatchEvent(new Event('input')); document.querySelector('dialog .danger').click(); })()",
        )
        .await;
    browser.has("Asked.").await;
    browser.shows("[...document.querySelectorAll('.facts div')].some((fact) => fact.textContent === 'Epoch2')").await;
    assert_eq!(browser.errors().await, Vec::<String>::new());
    assert_eq!(epoch(&stage), Some(2));
    tokio::task::block_in_place(|| stage.bed.verify());
}

#[test]
fn control_needs_a_token_of_some_length() {
    let bed = testbed::TestBed::new("console_flags");
    let file = bed.folder.join("token");
    std::fs::write(&file, "short").unwrap();
    let path = file.to_str().unwrap();
    for (arguments, word) in [
        (vec!["console", "--allow-control"], "--token-file"),
        (vec!["console", "--allow-control", "--token-file", path], "fewer than 16 characters"),
        (vec!["console", "--allow-control", "--token-file", "/nowhere"], "No such file"),
        (vec!["console", "--listen", "somewhere"], "is no address"),
        (vec!["console", "--listen", "192.0.2.1:80"], "cannot listen on"),
    ] {
        let ended = bed.run("stream", &arguments);
        assert!(ended.code != 0 && ended.err.contains(word), "{arguments:?} {}: {}", ended.code, ended.err);
    }
}
