//! `stream status --watch`: a screen that is drawn again in place, until somebody ends it or its reader has gone.

use std::fs::{self, File};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use testbed::{Running, TestBed, eventually, run};

use super::Pipeline;
use super::terminal::Terminal;

const COLUMNS: u16 = 100;
/// Rows in which all of a pipeline with ten partitions has room.
const HIGH: u16 = 40;
/// The rows of a terminal as most programs open it.
const USUAL: u16 = 24;
const CTRL_C: char = '\u{3}';

fn open(pipeline: &Pipeline, rows: u16) -> Terminal {
    Terminal::start(&pipeline.bed, rows.try_into().unwrap(), COLUMNS.try_into().unwrap())
}

/// Whether the screen has one look from its first line on.
fn is_one_look(screen: &str) -> bool {
    let first = screen.lines().next().unwrap_or_default();
    first.ends_with(" UTC") && ["UTC", "MySQL  ", "\ngroup "].iter().all(|part| screen.matches(part).count() == 1)
}

/// Waits until another look is in the place of the present one.
#[track_caller]
fn next_look(terminal: &mut Terminal) {
    let mut before = String::new();
    terminal.shows(|text| {
        before = text.to_owned();
        is_one_look(text)
    });
    terminal.shows(|text| is_one_look(text) && text.lines().next() != before.lines().next());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_drawn_again_in_place_until_ctrl_c() {
    let mut pipeline = Pipeline::start(TestBed::new("stream_watch"), 2).await;
    let mut terminal = open(&pipeline, HIGH);
    terminal.start_command("stream status --watch");
    next_look(&mut terminal);
    // What was on the screen is covered, and each partition has its rates. A look is drawn from its first line on.
    terminal.shows(|text| {
        is_one_look(text)
            && !text.contains('$')
            && text.contains("  written/s  read/s  held by\n")
            && text.matches("  consumer_").count() == 10
    });

    // The group names a killed consumer for 45 s; the screen is waited for for less.
    pipeline.consumers.pop().unwrap().kill();
    terminal.shows(|text| is_one_look(text) && text.contains(": its lock is free; its partitions wait for it"));
    terminal.shows(|text| text.matches(": STOPPED").count() == 5);
    next_look(&mut terminal);
    pipeline.consumers.push(pipeline.bed.start_as("consumer", "consumer2", &[]));
    terminal.shows(|text| is_one_look(text) && !text.contains("STOPPED"));

    terminal.press(CTRL_C);
    terminal.prompts();
    terminal.clear();
    terminal.start_command("echo code=$?");
    terminal.shows(|text| text.contains("\ncode=0\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_of_few_rows_shows_what_needs_attention() {
    let mut pipeline = Pipeline::start(TestBed::new("stream_low"), 2).await;
    let mut terminal = open(&pipeline, USUAL);
    terminal.start_command("stream status --watch");
    terminal.shows(|text| is_one_look(text) && text.contains("\n10 partitions without lag, each held by a consumer"));
    next_look(&mut terminal);
    pipeline.consumers.pop().unwrap().kill();
    terminal.shows(|text| is_one_look(text) && text.matches(": STOPPED").count() == 5);
    next_look(&mut terminal);
    terminal.press(CTRL_C);
    terminal.prompts();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_it_with_code_0_and_so_does_a_reader_that_has_gone() {
    let pipeline = Pipeline::start(TestBed::new("stream_end"), 1).await;
    for signal in ["TERM", "INT"] {
        let output = pipeline.bed.folder.join(format!("{signal}.out"));
        let watch = pipeline.bed.command("stream", &["status", "--watch", "--json"]);
        let log = pipeline.bed.folder.join(format!("{signal}.log"));
        let watch = Running::start_into(watch, "status", log, File::create(&output).unwrap());
        eventually("two looks", Duration::from_secs(30), || {
            (fs::read_to_string(&output).unwrap().lines().count() >= 2).then_some(())
        });
        watch.signal(signal);
        let ended = watch.wait();
        assert!(ended.code == 0 && !ended.err.contains("error["), "{signal} {}: {}", ended.code, ended.err);
        for line in fs::read_to_string(&output).unwrap().lines() {
            let look: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{signal}: {e}: {line}"));
            assert!(look["at"].is_string(), "{look}");
        }
    }
    let stream = pipeline.bed.command("stream", &[]);
    let mut shell = Command::new("bash");
    let program = stream.get_program().to_str().unwrap();
    shell.args(["-c", &format!("set -o pipefail; '{program}' status --watch --json | head -n 1")]);
    shell.env_clear().envs(stream.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.env("PATH", "/usr/bin:/bin").current_dir(&pipeline.bed.folder);
    let ended = run(shell);
    assert!(ended.code == 0 && ended.out.lines().count() == 1, "{}: {}{}", ended.code, ended.out, ended.err);
}
