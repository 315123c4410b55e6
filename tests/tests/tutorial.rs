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

/// The commands of the page, one a line, with the names of the test bed.
fn commands(bed: &TestBed) -> Vec<String> {
    let blocks = TUTORIAL.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let text: String = blocks.collect::<String>().replace("\\\n", " ");
    let text = text.replace("product_updates", bed.get("KAFKA_TOPIC"));
    let text = text.replace("product_consumers", bed.get("KAFKA_GROUP_ID"));
    text.lines().map(str::to_owned).collect()
}

/// Runs a command in the folder of the test bed until it succeeds, as a person would who waits for a change to arrive.
fn run(bed: &TestBed, command: &str) -> String {
    if let Some(tool) = command.strip_prefix("cargo xtask kafka ") {
        let mut words = tool.split_whitespace().map(str::to_owned);
        let name = words.next().unwrap();
        testbed::kafka_tools::run(&name, &words.collect::<Vec<_>>(), &[]).unwrap();
        return String::new();
    }
    let path = std::env::var_os("PATH").map(|path| ("PATH", path));
    let mut last = String::new();
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let mut shell = Command::new("sh");
        // Only what the page's own commands set, e.g. no PostgreSQL.
        shell.args(["-c", command]).current_dir(&bed.folder).env_clear().envs(path.clone());
        let output = shell.output().unwrap();
        let out = String::from_utf8(output.stdout).unwrap();
        if output.status.success() {
            return out;
        }
        last = format!("{out}{}", String::from_utf8_lossy(&output.stderr));
        std::thread::sleep(PAUSE);
    }
    panic!("{command} does not succeed within {PATIENCE:?}: {last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_tutorial_do_what_it_says() {
    let bed = TestBed::new("tutorial");
    // What `cargo xtask up` leaves in the checkout, in the folder of the test bed.
    let [stack, release, data] = ["target/stack", "target/release", "data"].map(|folder| bed.folder.join(folder));
    [&stack, &release, &data].into_iter().for_each(|folder| fs::create_dir_all(folder).unwrap());
    let verify = bed.command("verify", &[]);
    let mut env = String::new();
    for (name, value) in verify.get_envs() {
        let value = value.unwrap_or_default().to_str().unwrap();
        writeln!(env, "export {}='{value}'", name.to_str().unwrap()).unwrap();
    }
    fs::write(stack.join("env"), env).unwrap();
    std::os::unix::fs::symlink(verify.get_program(), release.join("verify")).unwrap();
    let rows: String = (1..=8).map(|id| format!("{id},name {id},cat_5,{id}.50,2026-01-01 00:00:00\n")).collect();
    fs::write(data.join("01.csv"), format!("id,name,category,price,last_updated\n{rows}")).unwrap();

    let updater = bed.start("product-updater", &["--data", "data", "--no-pause", "--watch"]);
    let mut producer = bed.start("cdc-producer", &[]);
    producer.wait_for("reading");
    let mut consumer = Some(bed.start("consumer", &[]));
    bed.verify();
    // As `cargo xtask up`, this process starts a consumer again that has ended when it gets SIGUSR1.
    testbed::interrupt::catch_start_again().unwrap();
    fs::write(stack.join("lock"), std::process::id().to_string()).unwrap();
    let commands = commands(&bed);
    assert_eq!(commands.len(), 13, "{commands:#?}");
    let mut outputs = Vec::new();
    for command in &commands {
        outputs.push(run(&bed, command));
        if command.starts_with("kill -9") {
            assert_eq!(consumer.take().unwrap().wait().code, -1, "a signal ends the consumer");
        }
        if command.starts_with("kill -USR1") {
            let asked = || testbed::interrupt::asked_to_start_again().then_some(());
            testbed::eventually("SIGUSR1 arrives", PATIENCE, asked);
            consumer = Some(bed.start("consumer", &[]));
        }
    }
    let output = |of: &str| &outputs[commands.iter().position(|command| command.contains(of)).unwrap()];
    assert!(output("curl").contains(r#"\"name\": \"last_updated\""#), "{}", output("curl"));
    for name in ["A5", "A4"] {
        let lines = output(&format!("grep -h '\"id\":9,.*Notebook {name}"));
        let line = format!(r#""name":"Notebook {name}","category":"CAT_5""#);
        assert!(lines.lines().count() == 1 && lines.contains(&line), "{lines}");
    }
    assert!(output("verify").contains("OK:"), "{}", output("verify"));
    producer.wait_for("epoch=2");
    for program in [updater, producer, consumer.unwrap()] {
        assert_eq!(program.stop().code, 0);
    }
}
