//! A pipeline with a console before a browser.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use mysql_async::Conn;
use testbed::{Running, TestBed, execute};

use super::browser::{Browser, Screen};

/// A console as a process; dropping it kills it.
pub(super) struct Console {
    child: Child,
    /// `http://127.0.0.1:34567`
    pub(super) address: String,
}

impl Drop for Console {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Console {
    pub(super) fn start(bed: &TestBed, arguments: &[&str]) -> Self {
        let mut command = bed.command("stream", &[&["console", "--listen", "127.0.0.1:0"], arguments].concat());
        let log = std::fs::File::options().create(true).append(true).open(bed.folder.join("console.log")).unwrap();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("console on ").expect("its address").to_owned();
        Self { child, address }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its resident memory in bytes.
    pub(super) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

/// A producer, a consumer and a console.
pub(super) struct Stage {
    pub(super) bed: TestBed,
    pub(super) conn: Conn,
    pub(super) console: Console,
    _programs: [Running; 2],
}

impl Stage {
    pub(super) async fn new(test: &str, arguments: &[&str]) -> Self {
        Self::on(TestBed::new(test).with_postgres(), arguments).await
    }

    pub(super) async fn on(bed: TestBed, arguments: &[&str]) -> Self {
        let conn = bed.table().await;
        let mut producer = bed.start("cdc-producer", &[]);
        producer.wait_for(" reading ");
        let consumer = bed.start("consumer", &[]);
        let console = Console::start(&bed, arguments);
        Self { bed, conn, console, _programs: [producer, consumer] }
    }

    /// A browser that shows a view, e.g. `pipeline`.
    pub(super) async fn browser(&self, screen: Screen, view: &str) -> Browser {
        let browser = Browser::start(screen).await;
        browser.open(&format!("{}/#/{view}", self.console.address)).await;
        browser
    }

    pub(super) async fn execute(&mut self, statements: &[&str]) {
        execute(&mut self.conn, statements).await;
    }

    /// `database.product`
    pub(super) fn table(&self) -> String {
        format!("{}.product", self.bed.name)
    }
}
