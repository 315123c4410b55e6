//! `cargo xtask up`, on fresh servers and in new folders: it names the console before the programs run, shows why one of
//! them has ended and continues with the rest, and a signal ends all that it has started.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use testbed::{Running, eventually, scratch};

/// The time for four servers and seven programs to start.
const STARTS: Duration = Duration::from_secs(180);
const PATIENCE: Duration = Duration::from_secs(60);
const ROWS: usize = 40;

/// A running process: its parent, and when it started, as its number may be given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    parent: u32,
    started: u64,
}

/// All processes by their numbers, without those that have ended and are not waited for yet.
fn processes() -> BTreeMap<u32, Process> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let of = |entry: fs::DirEntry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name before this parenthesis may have spaces: proc_pid_stat(5).
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let process = Process { parent: fields[1].parse().ok()?, started: fields[19].parse().ok()? };
        (fields[0] != "Z").then_some((id, process))
    };
    entries.filter_map(of).collect()
}

/// The processes that this one has started, and those that they have started.
fn started_by(id: u32) -> BTreeMap<u32, Process> {
    let all = processes();
    let mut found = BTreeMap::new();
    let mut parents = vec![id];
    while let Some(parent) = parents.pop() {
        for (child, process) in all.iter().filter(|(_, process)| process.parent == parent) {
            found.insert(*child, *process);
            parents.push(*child);
        }
    }
    found
}

/// The lines of all logs.
fn lines(work: &Path) -> usize {
    let logs = (1..=5).map(|slot| work.join(format!("consumer_logs/consumer_{slot}/consumer_log.json")));
    logs.map(|log| fs::read_to_string(log).unwrap_or_default().lines().count()).sum()
}

fn write_rows(file: &Path, ids: std::ops::Range<usize>) {
    let rows: String = ids.map(|id| format!("{id},product {id},cat_5,{id}.50,2026-01-01 00:00:00\n")).collect();
    fs::write(file, format!("id,name,category,price,last_updated\n{rows}")).unwrap();
}

fn page(address: &str) -> String {
    let host = address.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).unwrap();
    write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// `up`, with the programs of this build.
fn start(folder: &Path) -> Running {
    let program = Path::new(env!("CARGO_BIN_EXE_xtask"));
    let built =
        std::env::var_os("PIPELINE_BIN_DIR").map_or_else(|| program.parent().unwrap().to_owned(), PathBuf::from);
    let mut command = Command::new(program);
    command.arg("up").env("PIPELINE_BIN_DIR", built).env("METRICS_LISTEN", "127.0.0.1:9120-9139");
    for part in ["dir", "work", "data"] {
        command.arg(format!("--{part}")).arg(folder.join(part));
    }
    Running::start(command, "up", folder.join("up.log"))
}

#[test]
fn up_shows_the_console_first_outlives_a_consumer_and_ends_with_all_that_it_started() {
    let folder = scratch::folder("up");
    let [work, data] = ["work", "data"].map(|part| folder.join(part));
    [&work, &data].into_iter().for_each(|folder| fs::create_dir_all(folder).unwrap());
    write_rows(&data.join("01.csv"), 0..ROWS);

    let mut up = start(&folder);
    up.wait_for_within("the console is on ", STARTS);
    let address = up.log().split_once("the console is on ").unwrap().1.split(' ').next().unwrap().to_owned();
    assert!(page(&address).starts_with("HTTP/1.1 200"), "{}", page(&address));
    up.wait_for_within("running until Ctrl-C", STARTS);
    let log = up.log();
    let place = |text: &str| log.find(text).unwrap_or_else(|| panic!("{text:?} is not in\n{log}"));
    assert!(place("the console is on ") < place("starting the producer and five consumers"), "{log}");
    eventually("the rows are in the logs", PATIENCE, || (lines(&work) == ROWS).then_some(()));

    // One consumer is stopped, as a person does it.
    let lock = fs::read_to_string(work.join("consumer_logs/consumer_1/.lock")).unwrap();
    let holder = lock.split_once("process ").unwrap().1.split(' ').next().unwrap().to_owned();
    let before = started_by(up.pid());
    assert!(Command::new("kill").arg(&holder).status().unwrap().success());
    up.wait_for(", in the slot consumer_1, ended with exit code 0, as after `kill`, though it should run on");
    up.wait_for(&format!("start it again with `kill -USR1 {}`", up.pid()));
    // A server's own processes come and go with its clients.
    let mut others = before;
    others.retain(|_, process| process.parent == up.pid());
    assert!(others.remove(&holder.parse::<u32>().unwrap()).is_some(), "{holder} is no child of `up`: {others:?}");
    let now = started_by(up.pid());
    assert!(others.iter().all(|(id, process)| now.get(id) == Some(process)), "{others:?}\n{now:?}\n{}", up.log_end());

    // The others carry what comes meanwhile; the stopped one carries its part when it is back.
    write_rows(&data.join("02.csv"), ROWS..2 * ROWS);
    eventually("some of the next rows are in the logs", PATIENCE, || (lines(&work) > ROWS).then_some(()));
    up.signal("USR1");
    up.wait_for(" is started again");
    eventually("all rows are in the logs", PATIENCE, || (lines(&work) == 2 * ROWS).then_some(()));

    let running = started_by(up.pid());
    assert!(running.len() > 10, "four servers and eight programs: {running:?}");
    let ended = up.stop();
    assert!(ended.code == 0 && ended.err.contains("nothing is left running"), "{} {}", ended.code, ended.err);
    let left = processes();
    let left: Vec<_> =
        running.iter().filter(|(id, process)| left.get(id).is_some_and(|now| now.started == process.started)).collect();
    assert!(left.is_empty(), "still running: {left:?}");
    assert!(!folder.join("dir/env").exists(), "nobody finds servers that have ended");
}
