//! Chromium without a window, driven by Debian's `chromium-driver` over WebDriver: HTTP with JSON (W3C WebDriver).
//!
//! A client is a few requests. The crates for it bring a second HTTP client, a licence that `deny.toml` does not allow
//! (`webdriver`), or bindings of Chrome's whole protocol, which compile for longer than this repository.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// The time in which the page must show what is expected.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);

// Keys of WebDriver.
pub(super) const BACKSPACE: &str = "\u{e003}";
pub(super) const TAB: &str = "\u{e004}";
pub(super) const ENTER: &str = "\u{e007}";
pub(super) const ESCAPE: &str = "\u{e00c}";
pub(super) const UP: &str = "\u{e013}";
pub(super) const DOWN: &str = "\u{e015}";
pub(super) const SPACE: &str = " ";
const SHIFT: &str = "\u{e008}";

/// A browser with one page. Dropping it ends all its processes.
pub(super) struct Browser {
    driver: Child,
    http: reqwest::Client,
    /// The address of the session.
    session: String,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let group = Pid::from_raw(i32::try_from(self.driver.id()).unwrap());
        // It may have ended already.
        killpg(group, Signal::SIGKILL).unwrap_or_default();
        drop(self.driver.wait());
    }
}

/// A size of the page.
#[derive(Clone, Copy)]
pub(super) enum Screen {
    Desk,
    Phone,
}

/// Starts chromedriver; returns its port. It takes one that is free for one version of IP, and ends when another program
/// has the same one for the other.
fn start_driver() -> (Child, u16) {
    let mut said = Vec::new();
    for _ in 0..5 {
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut driver = command.spawn().expect("chromedriver: run `cargo xtask setup`");
        for line in BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok) {
            let port = line.strip_prefix("ChromeDriver was started successfully on port ");
            if let Some(port) = port.and_then(|port| port.trim_end_matches('.').parse().ok()) {
                return (driver, port);
            }
            said.push(line);
        }
        driver.wait().unwrap();
        assert!(said.last().is_some_and(|line| line.contains("port not available")), "chromedriver ended: {said:?}");
    }
    panic!("chromedriver finds no port: {said:?}");
}

impl Browser {
    pub(super) async fn start(screen: Screen) -> Self {
        let (driver, port) = start_driver();
        let base = format!("http://127.0.0.1:{port}");
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        // A container of tests runs as root, for whom Chromium has no sandbox.
        let arguments =
            ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let mut browser = Self { driver, http, session: base };
        let answer = browser.post("session", wanted).await;
        browser.session = format!("{}/session/{}", browser.session, answer["sessionId"].as_str().unwrap());
        let (width, height, is_phone) = match screen {
            Screen::Desk => (1280, 800, false),
            Screen::Phone => (390, 844, true),
        };
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone });
        browser.chrome("Emulation.setDeviceMetricsOverride", metrics).await;
        browser.post("timeouts", json!({ "script": PATIENCE.as_millis() as u64 })).await;
        browser
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let request = self.http.post(format!("{}/{path}", self.session)).body(body.to_string());
        let text = request.send().await.unwrap().text().await.unwrap();
        let mut answer: Value = serde_json::from_str(&text).unwrap();
        let value = answer["value"].take();
        assert!(value.get("error").is_none(), "{path} {body}: {value}");
        value
    }

    /// A command of Chrome's own protocol.
    pub(super) async fn chrome(&self, command: &str, parameters: Value) -> Value {
        self.post("goog/cdp/execute", json!({ "cmd": command, "params": parameters })).await
    }

    pub(super) async fn open(&self, url: &str) {
        self.post("url", json!({ "url": url })).await;
    }

    pub(super) async fn reload(&self) {
        self.post("refresh", json!({})).await;
    }

    /// The value of an expression in the page.
    pub(super) async fn value(&self, expression: &str) -> Value {
        self.post("execute/sync", json!({ "script": format!("return {expression}"), "args": [] })).await
    }

    /// Waits until an expression is true in the page, and returns its value.
    #[track_caller]
    pub(super) fn shows(&self, expression: impl Into<String>) -> impl Future<Output = Value> {
        let place = std::panic::Location::caller();
        let expression = expression.into();
        async move {
            let begun = Instant::now();
            loop {
                let value = self.value(&expression).await;
                if !matches!(value, Value::Null | Value::Bool(false)) && value != json!(0) && value != json!("") {
                    return value;
                }
                if begun.elapsed() > PATIENCE {
                    let text = self.value("document.body.innerText").await;
                    panic!(
                        "{place}: not within {PATIENCE:?}: {expression}\nerrors: {:?}\npage:\n{}",
                        self.errors().await,
                        text.as_str().unwrap_or("")
                    );
                }
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    /// Waits until the page has this text.
    #[track_caller]
    pub(super) fn has(&self, text: &str) -> impl Future<Output = Value> {
        self.shows(format!("document.body.innerText.includes({})", json!(text)))
    }

    /// Presses a key in the page: a character, or the code of a key of WebDriver.
    pub(super) async fn press(&self, key: &str) {
        self.press_all(&[("keyDown", key), ("keyUp", key)]).await;
    }

    /// Presses a key while Shift is held.
    pub(super) async fn press_with_shift(&self, key: &str) {
        self.press_all(&[("keyDown", SHIFT), ("keyDown", key), ("keyUp", key), ("keyUp", SHIFT)]).await;
    }

    /// Types a text.
    pub(super) async fn write(&self, text: &str) {
        for letter in text.chars() {
            self.press(&letter.to_string()).await;
        }
    }

    async fn press_all(&self, presses: &[(&str, &str)]) {
        let presses: Vec<Value> = presses.iter().map(|(kind, key)| json!({ "type": kind, "value": key })).collect();
        self.post("actions", json!({ "actions": [{ "type": "key", "id": "keys", "actions": presses }] })).await;
    }

    pub(super) async fn screenshot(&self, path: &Path) {
        let answer = self.chrome("Page.captureScreenshot", json!({ "format": "png" })).await;
        let bytes = STANDARD.decode(answer["data"].as_str().unwrap()).unwrap();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// What the page has complained about since the last call: errors of scripts, violations of the policy. That a
    /// request has failed is part of what the page shows.
    pub(super) async fn errors(&self) -> Vec<String> {
        let entries = self.post("se/log", json!({ "type": "browser" })).await;
        let is_error = |entry: &&Value| entry["level"] == "SEVERE" && entry["source"] != "network";
        let entries = entries.as_array().unwrap().iter().filter(is_error);
        entries.map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect()
    }
}
