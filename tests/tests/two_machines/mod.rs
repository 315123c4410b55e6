//! Consumers of one group on several machines, a logs folder each: every record is once in the logs of all of them,
//! whatever is scaled, killed, copied, moved or deleted.

mod accepted;
mod previous_version;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::consumer_world::{append, assert_once_in, committed_everything, logs_in, owned, wait_until_committed};
use kafka::slots::Folder;
use model::error::Code;
use mysql_async::prelude::Queryable;
use runtime::step::{ConsumerStep, DurableStep as _};
use testbed::{Ended, Feed, Running, TestBed, eventually};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A machine with a separate logs folder.
pub(crate) struct Machine {
    logs: PathBuf,
}

impl Machine {
    pub(crate) fn new(world: &TestBed, name: &str) -> Self {
        Self { logs: world.folder.join(name).join("logs") }
    }

    /// A machine with a copy of this one's folder.
    pub(crate) fn copied(&self, world: &TestBed, name: &str) -> Self {
        let copy = Self::new(world, name);
        fs::create_dir_all(copy.logs.parent().unwrap()).unwrap();
        cp(&self.logs, &copy.logs);
        copy
    }

    pub(crate) fn name(&self) -> &str {
        self.logs.parent().unwrap().file_name().unwrap().to_str().unwrap()
    }

    pub(crate) fn start(&self, world: &TestBed, number: usize) -> Running {
        self.start_with(world, number, &[])
    }

    pub(crate) fn start_with(&self, world: &TestBed, number: usize, variables: &[(&str, &str)]) -> Running {
        let mut command = world.command("consumer", &[]);
        command.env("CONSUMER_LOGS", &self.logs).envs(variables.iter().copied());
        let name = format!("{}-{number}", self.name());
        Running::start(command, &name, world.folder.join(format!("{name}.log")))
    }

    pub(crate) fn run(&self, world: &TestBed, arguments: &[&str]) -> Ended {
        let output = world.command("consumer", arguments).env("CONSUMER_LOGS", &self.logs).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ended { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }

    pub(crate) fn slot(&self, slot: &str) -> PathBuf {
        self.logs.join(slot)
    }

    pub(crate) fn log(&self, slot: &str) -> PathBuf {
        self.slot(slot).join("consumer_log.json")
    }

    pub(crate) fn id(&self) -> String {
        Folder::read(&self.logs).unwrap().expect("an identity").id.to_string()
    }

    /// Where its log checkpoints say that it is.
    pub(crate) fn place(&self) -> String {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        format!("{}:{}", host.trim(), self.logs.display())
    }

    pub(crate) fn line_count(&self) -> usize {
        logs_in(&self.logs).values().map(Vec::len).sum()
    }
}

pub(crate) fn cp(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

/// Every record is once in the logs of these machines.
pub(crate) fn assert_once(world: &TestBed, machines: &[&Machine]) {
    wait_until_committed(world);
    let mut logs = BTreeMap::new();
    for machine in machines {
        logs.extend(
            logs_in(&machine.logs).into_iter().map(|(slot, lines)| (format!("{}/{slot}", machine.name()), lines)),
        );
    }
    assert_once_in(world, logs);
}

pub(crate) fn share<'a>(consumers: impl IntoIterator<Item = &'a Running> + Clone) {
    let count = consumers.clone().into_iter().count();
    let fair = 10 / count..=10_usize.div_ceil(count);
    eventually(&format!("{count} consumers share the partitions"), PATIENCE, || {
        consumers.clone().into_iter().all(|c| fair.contains(&owned(c).len())).then_some(())
    });
}

pub(crate) fn stop(consumers: impl IntoIterator<Item = Running>) {
    for consumer in consumers {
        let ended = consumer.stop();
        assert_eq!(ended.code, 0, "{}", ended.err);
    }
}

pub(crate) fn world(test: &str) -> TestBed {
    let mut world = TestBed::new(test);
    world.set("KAFKA_SESSION_TIMEOUT", "6s");
    world.set("CONSUMER_BATCH_ROWS", "40");
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_on_two_machines_shares_the_partitions_through_kills_and_scaling() {
    let world = world("scaled2");
    let mut feed = Feed::new(&world).await;
    let (a, b) = (Machine::new(&world, "a"), Machine::new(&world, "b"));
    let mut on_a: Vec<_> = (1..=3).map(|n| a.start(&world, n)).collect();
    let mut on_b: Vec<_> = (1..=2).map(|n| b.start(&world, n)).collect();
    share(on_a.iter().chain(&on_b));
    for round in 0..4 {
        feed.update(1..=300, round);
        // One of each side, in the middle of its work.
        on_a.remove(0).kill();
        on_a.push(a.start(&world, 4 + round as usize));
        on_b.remove(0).kill();
        on_b.push(b.start(&world, 4 + round as usize));
    }
    assert_once(&world, &[&a, &b]);
    // 5 → 3: both of one machine go; 3 → 8 on both.
    stop(on_b.drain(..));
    feed.update(1..=300, 4);
    assert_once(&world, &[&a, &b]);
    on_b.extend((11..=15).map(|n| b.start(&world, n)));
    feed.update(1..=300, 5);
    share(on_a.iter().chain(&on_b));
    feed.update(1..=300, 6);
    assert_once(&world, &[&a, &b]);
    assert!(a.line_count() > 0 && b.line_count() > 0);
    for consumer in on_a.iter().chain(&on_b) {
        assert!(!consumer.log().contains("fenced"), "{}", consumer.log());
    }
    assert_ne!(a.id(), b.id());
    stop(on_a.into_iter().chain(on_b));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_dies_in_mid_transaction_is_made_up_for_and_cuts_its_log_when_it_is_back() {
    let world = world("dies");
    let mut feed = Feed::new(&world).await;
    let (a, b) = (Machine::new(&world, "a"), Machine::new(&world, "b"));
    let failpoints = ConsumerStep::OffsetsSent.failpoint("3*off->return(kill)");
    let first = a.start_with(&world, 1, &[("FAILPOINTS", &failpoints)]);
    let second = b.start(&world, 1);
    share([&first, &second]);
    for round in 0..6 {
        feed.update(1..=100, round);
    }
    assert_eq!(first.wait().code, -1);
    let left = fs::metadata(a.log("consumer_1")).unwrap().len();
    // The other machine takes the partitions, although it cannot reach the dead one's log.
    share([&second]);
    wait_until_committed(&world);
    let mut back = a.start(&world, 2);
    back.wait_for("cut off what no transaction committed");
    share([&second, &back]);
    assert_once(&world, &[&a, &b]);
    assert!(fs::metadata(a.log("consumer_1")).unwrap().len() < left);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_copies_of_a_folder_the_one_that_was_opened_last_continues() {
    let world = world("copies");
    let mut feed = Feed::new(&world).await;
    let a = Machine::new(&world, "a");
    let original = a.start(&world, 1);
    feed.update(1..=40, 0);
    wait_until_committed(&world);
    // Taken while it runs; everything is in it.
    let b = a.copied(&world, "b");
    let mut copy = b.start(&world, 1);
    let ended = original.wait();
    let older = format!(
        "consumer_1/consumer_log.json is an older copy of the log of consumer_1 of folder {}, which was opened later at {}",
        a.id(),
        b.place()
    );
    ended.assert_error(
        Code::LogCopied,
        &[&older, "two machines may not use copies of one logs folder", "delete this copy with its dot files"],
    );
    feed.update(1..=40, 1);
    assert_once(&world, &[&b]);
    // However often it starts, it does not harm the other one.
    for n in 2..=7 {
        a.start(&world, n).wait().assert_error(Code::LogCopied, &[&older]);
    }
    assert!(copy.is_running() && !copy.log().contains("trying again"), "{}", copy.log());
    // The first way out: it begins with a new folder.
    fs::remove_dir_all(&a.logs).unwrap();
    let original = a.start(&world, 8);
    share([&original, &copy]);
    feed.update(1..=40, 2);
    assert_once(&world, &[&a, &b]);
    assert_ne!(a.id(), b.id());
    stop([original, copy]);
    // The second way out, on another pair of copies: back to where it was.
    let c = b.copied(&world, "c");
    let copy = c.start(&world, 1);
    feed.update(1..=40, 3);
    wait_until_committed(&world);
    b.start(&world, 9)
        .wait()
        .assert_error(Code::LogCopied, &["is an older copy of the log", "To continue here, stop the consumers there"]);
    stop([copy]);
    fs::remove_dir_all(b.slot("consumer_1")).unwrap();
    cp(&c.slot("consumer_1"), &b.slot("consumer_1"));
    fs::remove_dir_all(&c.logs).unwrap();
    let back = b.start(&world, 10);
    feed.update(1..=40, 4);
    assert_once(&world, &[&a, &b]);
    stop([back]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_without_the_last_lines_is_refused_and_disturbs_nobody() {
    let world = world("stale");
    let mut feed = Feed::new(&world).await;
    let a = Machine::new(&world, "a");
    let mut original = a.start(&world, 1);
    feed.update(1..=40, 0);
    wait_until_committed(&world);
    let b = a.copied(&world, "b");
    let copied = fs::metadata(b.log("consumer_1")).unwrap().len();
    feed.update(1..=40, 1);
    wait_until_committed(&world);
    let length = fs::metadata(a.log("consumer_1")).unwrap().len();
    let lost = format!(
        "has {copied} bytes, but {length} were committed: {} bytes are gone; the log was last open at {}",
        length - copied,
        a.place()
    );
    for n in 1..=6 {
        b.start(&world, n).wait().assert_error(Code::LogCopied, &[&lost, "so this is an older copy of it"]);
    }
    feed.update(1..=40, 2);
    assert_once(&world, &[&a]);
    assert!(original.is_running() && !original.log().contains("trying again"), "{}", original.log());
    // Without it the consumer works there, behind the lines that it has.
    stop([original]);
    let accepted = b.run(&world, &["accept-log", "consumer_1"]);
    assert_eq!(accepted.code, 0, "{}", accepted.err);
    let consumer = b.start(&world, 7);
    feed.update(1..=40, 3);
    wait_until_committed(&world);
    assert_eq!(b.line_count(), 80);
    stop([consumer]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_moved_takes_its_lines_along() {
    let world = world("moved2");
    let mut feed = Feed::new(&world).await;
    let (a, b) = (Machine::new(&world, "a"), Machine::new(&world, "b"));
    let consumers = [a.start(&world, 1), b.start(&world, 1), b.start(&world, 2)];
    share(&consumers);
    feed.update(1..=100, 0);
    wait_until_committed(&world);
    stop(consumers);
    // A torn tail goes with it.
    append(&b.log("consumer_2"), b"{\"id\":99}\n{\"id\"");
    // Into a place that has lines: refused, as nobody could tell what became of them.
    let own = a.logs.join("aside");
    fs::rename(a.slot("consumer_1"), &own).unwrap();
    fs::rename(b.slot("consumer_2"), a.slot("consumer_1")).unwrap();
    let ended = a.start(&world, 2).wait();
    let occupied =
        format!("is the log of consumer_2 of folder {}, but consumer_1 of this folder has committed lines", b.id());
    let way_out = "rename this folder to consumer_N with a number that is free";
    ended.assert_error(Code::LogCopied, &[&occupied, way_out]);
    let text = fs::read(a.log("consumer_1")).unwrap();
    a.run(&world, &["accept-log", "consumer_1"]).assert_error(Code::LogCopied, &[&occupied, way_out]);
    assert!(fs::read(a.log("consumer_1")).unwrap() == text);
    // As it says.
    fs::rename(a.slot("consumer_1"), a.slot("consumer_7")).unwrap();
    fs::rename(&own, a.slot("consumer_1")).unwrap();
    fs::remove_dir_all(a.slot("consumer_2")).unwrap();
    fs::rename(a.slot("consumer_7"), a.slot("consumer_2")).unwrap();
    let on_a = [a.start(&world, 3), a.start(&world, 4)];
    eventually("it took its log over", PATIENCE, || {
        on_a.iter().any(|c| c.log().contains("took the log over")).then_some(())
    });
    // The former place begins with an empty log.
    let on_b = [b.start(&world, 3), b.start(&world, 4)];
    share(on_a.iter().chain(&on_b));
    feed.update(1..=100, 1);
    assert_once(&world, &[&a, &b]);
    stop(on_a.into_iter().chain(on_b));
    // Numbers that are exchanged, and then only the files.
    let [one, two] = ["consumer_1", "consumer_2"].map(|slot| a.slot(slot));
    let exchange = |one: &Path, two: &Path| {
        fs::rename(one, &own).unwrap();
        fs::rename(two, one).unwrap();
        fs::rename(&own, two).unwrap();
    };
    exchange(&one, &two);
    a.start(&world, 5).wait().assert_error(Code::LogCopied, &["is the log of consumer_2 of folder"]);
    exchange(&one, &two);
    exchange(&a.log("consumer_1"), &a.log("consumer_2"));
    a.start(&world, 6).wait().assert_error(Code::LogTruncated, &["consumer_log.json"]);
    exchange(&a.log("consumer_1"), &a.log("consumer_2"));
    let on_a = [a.start(&world, 7), a.start(&world, 8)];
    feed.update(1..=100, 2);
    assert_once(&world, &[&a, &b]);
    stop(on_a);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_was_deleted_is_missed_until_it_is_declared_lost() {
    let world = world("wiped");
    let mut feed = Feed::new(&world).await;
    let (a, b) = (Machine::new(&world, "a"), Machine::new(&world, "b"));
    let (on_a, on_b) = (a.start(&world, 1), b.start(&world, 1));
    share([&on_a, &on_b]);
    feed.update(1..=100, 0);
    wait_until_committed(&world);
    let id = a.id();
    stop([on_a]);
    let aside = world.folder.join("aside");
    fs::rename(&a.logs, &aside).unwrap();
    let bytes = fs::metadata(aside.join("consumer_1/consumer_log.json")).unwrap().len();
    let gone =
        format!("{} held the logs folder {id} with {bytes} committed bytes of this group, which is gone", a.place());
    let remedy = format!("run: consumer forget-folder {id}");
    a.start(&world, 2).wait().assert_error(Code::FolderGone, &[&gone, &remedy]);
    // The first way out.
    fs::remove_dir_all(&a.logs).unwrap();
    fs::rename(&aside, &a.logs).unwrap();
    let on_a = a.start(&world, 3);
    feed.update(1..=100, 1);
    assert_once(&world, &[&a, &b]);
    let held = b.run(&world, &["forget-folder", &id]);
    held.assert_error(Code::AnotherConsumer, &[&format!("of folder {id} is in the group"), "stop its consumers"]);
    // The second one: what it held is missing, and nothing else.
    stop([on_a]);
    let before = a.line_count();
    fs::rename(&a.logs, &aside).unwrap();
    let forgotten = eventually("its session is over", PATIENCE, || {
        let ended = a.run(&world, &["forget-folder", &id]);
        (ended.code == 0).then_some(ended.out)
    });
    assert!(forgotten.contains(&format!("consumer_1 of folder {id}: ")), "{forgotten}");
    assert!(forgotten.contains(&format!("folder {id} is declared lost")), "{forgotten}");
    let on_a = a.start(&world, 4);
    feed.update(1..=100, 2);
    wait_until_committed(&world);
    assert_eq!(a.line_count() + b.line_count() + before, 300);
    stop([on_a, on_b]);
    // What was declared lost is not used by mistake.
    fs::remove_dir_all(&a.logs).unwrap();
    fs::rename(&aside, &a.logs).unwrap();
    a.start(&world, 5)
        .wait()
        .assert_error(Code::LogCopied, &["was declared lost at", "consumer accept-log consumer_1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_lost_its_identity_or_its_dot_files_continues() {
    let world = world("dots");
    let mut feed = Feed::new(&world).await;
    let a = Machine::new(&world, "a");
    let consumer = a.start(&world, 1);
    feed.update(1..=40, 0);
    wait_until_committed(&world);
    stop([consumer]);
    let id = a.id();
    fs::write(a.logs.join(".folder"), "").unwrap();
    a.start(&world, 2)
        .wait()
        .assert_error(Code::FileAccess, &[".folder", "or delete it: the folder then gets a new identity"]);
    // As it says.
    fs::remove_file(a.logs.join(".folder")).unwrap();
    let consumer = a.start(&world, 3);
    feed.update(1..=40, 1);
    assert_once(&world, &[&a]);
    assert_ne!(a.id(), id);
    stop([consumer]);
    fs::remove_file(a.slot("consumer_1").join(".owner")).unwrap();
    let consumer = a.start(&world, 4);
    feed.update(1..=40, 2);
    assert_once(&world, &[&a]);
    stop([consumer]);
    // An older state of the same folder, put back in its place: others may have lines of its later records.
    let backup = world.folder.join("backup");
    cp(&a.logs, &backup);
    let mut consumer = a.start(&world, 5);
    // By then it has opened the log.
    consumer.wait_for("partitions assigned");
    stop([consumer]);
    fs::remove_dir_all(&a.logs).unwrap();
    fs::rename(&backup, &a.logs).unwrap();
    a.start(&world, 6)
        .wait()
        .assert_error(Code::LogCopied, &["is an older copy of the log of consumer_1: the log was opened again"]);
    assert_eq!(a.run(&world, &["accept-log", "consumer_1"]).code, 0);
    let consumer = a.start(&world, 7);
    feed.update(1..=40, 3);
    assert_once(&world, &[&a]);
    stop([consumer]);
    assert!(committed_everything(&world));
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_compares_the_folders_of_all_machines_and_says_what_it_was_not_given() {
    let world = world("verify2");
    let mut conn = world.table().await;
    let rows: Vec<String> = (1..=200).map(|id| format!("({id}, 'a', 'b', 1, NULL)")).collect();
    conn.query_drop(format!("INSERT INTO product VALUES {}", rows.join(","))).await.unwrap();
    let producer = world.start("cdc-producer", &[]);
    let (a, b) = (Machine::new(&world, "a"), Machine::new(&world, "b"));
    let (on_a, on_b) = (a.start(&world, 1), b.start(&world, 1));
    share([&on_a, &on_b]);
    conn.query_drop("UPDATE product SET price = 2").await.unwrap();
    let verify = |machines: &[&Machine], code: i32| {
        let logs: Vec<&str> = machines.iter().map(|m| m.logs.to_str().unwrap()).collect();
        let ended = world.run("verify", &["--wait", "60s", "--json", "--logs", &logs.join(",")]);
        assert_eq!(ended.code, code, "{}{}", ended.out, ended.err);
        serde_json::from_str::<serde_json::Value>(&ended.out).unwrap()
    };
    let report = verify(&[&a, &b], 0);
    assert_eq!(report["agree"], true, "{report}");
    let lines = report["logs"].as_object().unwrap();
    assert_eq!(lines[a.slot("consumer_1").to_str().unwrap()], a.line_count(), "{report}");
    // Lines that are on the other machine are not lost, and nothing says that all agrees.
    let on_other = b.line_count();
    assert!(on_other > 0);
    let report = verify(&[&a], 1);
    assert_eq!(report["counts"], serde_json::json!({ "elsewhere": on_other }), "{report}");
    let text = format!("in a logs folder that was not given: {} at {}", b.id(), b.place());
    assert!(report["differences"][0]["text"].as_str().unwrap().contains(&text), "{report}");
    // With both, what is missing is lost.
    stop([on_a, on_b]);
    let log = fs::read_to_string(b.log("consumer_1")).unwrap();
    fs::write(b.log("consumer_1"), log.split_inclusive('\n').skip(1).collect::<String>()).unwrap();
    assert_eq!(verify(&[&a, &b], 1)["counts"], serde_json::json!({ "lost": 1 }));
    // A folder that was declared lost has nothing either.
    let id = b.id();
    eventually("its session is over", PATIENCE, || (a.run(&world, &["forget-folder", &id]).code == 0).then_some(()));
    assert_eq!(verify(&[&a], 1)["counts"], serde_json::json!({ "lost": on_other }));
    stop([producer]);
}
