//! The commands of `docs/tutorial.md`, run in their order on a pipeline with one consumer.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use testbed::TestBed;

const PATIENCE: Duration = Duration::from_secs(60);
/// Before a command is tried again.
const PAUSE: Duration = Duration::from_millis(200);
const TUTORIAL: &str = include_str!("../../docs/tutorial.md");

/// The commands of the page by their beginnings, and what each must show.
const SEEN: [(&str, &[&str]); 20] = [
    ("cargo xtask kafka topics --describe", &["PartitionCount: 10", "Partition: 9"]),
    ("stream tap --last 3", &["  id=", " category=\"cat_5\" price=", "@"]),
    ("cargo xtask kafka console-consumer", &["source:{\"", "\"epoch\":1", "Processed a total of 1 messages"]),
    ("curl", &[r#"\"name\": \"last_updated\""#]),
    (
        "stream status",
        &[
            "MySQL  ",
            "Kafka      has all up to ",
            "producer   runs: ",
            ": lag 0;",
            "held by",
            "consumer_1  ",
            "runs, 0 aborts, ready",
        ],
    ),
    ("printf", &[]),
    ("stream trace 9", &["price=9.99", "  topic  ", "consumer_1/consumer_log.json at byte", "\nARRIVED: "]),
    ("grep -h '\"id\":9,.*\"price\":9.99", &[r#""category":"CAT_5","price":9.99,"discount_price":7.99,"#]),
    ("slot=", &[]),
    ("printf", &[]),
    ("stream status", &["consumer_1: STOPPED", "STOPPED: its lock is free"]),
    ("stream trace 9", &["\nWAITS FOR A CONSUMER: ", "has stopped: its lock is free"]),
    ("kill -USR1", &[]),
    ("stream trace 9", &["Notebook A4", "\nARRIVED: "]),
    ("grep -h '\"id\":9,.*Notebook A4", &[r#""name":"Notebook A4","category":"CAT_5""#]),
    ("cat", &["\"last_read_timestamp\": \"2"]),
    ("echo", &[]),
    ("stream status", &["epoch 2"]),
    ("stream tap --op r", &["  r  "]),
    ("stream verify", &["\nOK: "]),
];
/// How many lines some commands show.
const LINES: [(&str, usize); 2] = [("stream tap", 3), ("grep -h", 1)];
/// What a shell keeps for the commands after it.
const SETUP: &str = ". target/stack/env; ";

/// The commands of the page, with the names of the test bed.
fn commands(bed: &TestBed) -> Vec<String> {
    let blocks = TUTORIAL.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let text: String = blocks.collect::<String>().replace("\\\n", " ").replace("&&\n", "&& ");
    let text = text.replace("product_updates", bed.get("KAFKA_TOPIC"));
    text.lines().map(str::to_owned).collect()
}

/// A command as a shell runs it in the folder of the test bed after `setup`, with nothing else of this environment.
fn shell(bed: &TestBed, setup: &str, command: &str) -> Command {
    if let Some(tool) = command.strip_prefix("cargo xtask kafka ") {
        let mut words = tool.split_whitespace().map(str::to_owned);
        let name = words.next().unwrap();
        return testbed::kafka_tools::command(&name, &words.collect::<Vec<_>>(), &[]).unwrap();
    }
    let path = std::env::var_os("PATH").map(|path| ("PATH", path));
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{setup}\n{command}")]).current_dir(&bed.folder).env_clear().envs(path);
    shell
}

/// Runs a command until it succeeds and shows this, as a person would who waits for a change to arrive.
fn run(mut shell: Command, command: &str, seen: &[&str]) {
    let lines = LINES.iter().find(|(start, _)| command.starts_with(start)).map(|(_, lines)| *lines);
    let mut last = String::new();
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let output = shell.output().unwrap();
        let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        last = format!("{}\n{out}{err}", output.status);
        let has_lines = lines.is_none_or(|lines| out.lines().count() == lines);
        if output.status.success() && has_lines && seen.iter().all(|part| last.contains(part)) {
            return;
        }
        std::thread::sleep(PAUSE);
    }
    panic!("{command} does not show {seen:?} within {PATIENCE:?}: {last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_tutorial_do_what_it_says() {
    let mut bed = TestBed::new("tutorial");
    bed.set("METRICS_LISTEN", "127.0.0.1:0");
    // What `cargo xtask up` leaves in the checkout, in the folder of the test bed.
    let [stack, release, data] = ["target/stack", "target/release", "data"].map(|folder| bed.folder.join(folder));
    [&stack, &release, &data].into_iter().for_each(|folder| fs::create_dir_all(folder).unwrap());
    let rows: String = (1..=8).map(|id| format!("{id},name {id},cat_5,{id}.50,2026-01-01 00:00:00\n")).collect();
    fs::write(data.join("01.csv"), format!("id,name,category,price,last_updated\n{rows}")).unwrap();

    let updater = bed.start("product-updater", &["--data", "data", "--no-pause", "--watch"]);
    let mut producer = bed.start("cdc-producer", &[]);
    producer.wait_for("reading");
    let consumer = bed.start("consumer", &[]);
    bed.verify();
    let addresses = [&producer, &consumer].map(|program| program.metrics_address().unwrap().to_string());
    bed.set("STREAM_METRICS", addresses.join(","));
    let mut consumer = Some(consumer);
    let stream = bed.command("stream", &[]);
    std::os::unix::fs::symlink(stream.get_program(), release.join("stream")).unwrap();
    let mut env = String::new();
    for (name, value) in stream.get_envs() {
        let value = value.unwrap_or_default().to_str().unwrap();
        writeln!(env, "export {}='{value}'", name.to_str().unwrap()).unwrap();
    }
    fs::write(stack.join("env"), env).unwrap();
    // As `cargo xtask up`, this process starts a consumer again that has ended when it gets SIGUSR1.
    testbed::interrupt::catch_start_again().unwrap();
    fs::write(stack.join("lock"), std::process::id().to_string()).unwrap();
    let commands = commands(&bed);
    let (setup, commands) = commands.split_first().unwrap();
    assert!(setup.starts_with(SETUP) && commands.len() == SEEN.len(), "{setup}\n{commands:#?}");
    for (command, (start, seen)) in commands.iter().zip(SEEN) {
        assert!(command.starts_with(start), "{command} is not {start}");
        run(shell(&bed, setup, command), command, seen);
        if command.starts_with("slot=") {
            assert_eq!(consumer.take().unwrap().wait().code, -1, "a signal ends the consumer");
        }
        if command.starts_with("kill -USR1") {
            let asked = || testbed::interrupt::asked_to_start_again().then_some(());
            testbed::eventually("SIGUSR1 arrives", PATIENCE, asked);
            consumer = Some(bed.start("consumer", &[]));
        }
    }
    producer.wait_for("epoch=2");
    for program in [updater, producer, consumer.unwrap()] {
        assert_eq!(program.stop().code, 0);
    }
}
