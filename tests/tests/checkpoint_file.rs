//! A checkpoint file that can't be followed: it ends no producer that streams, a start refuses it, and `checkpoint
//! restore` writes it from the position in Kafka.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use model::change::Op;
use model::error::Code;
use mysql_async::Conn;
use testbed::{Ended, Link, Proxy, Running, TestBed, eventually, execute, read_topic};

const PATIENCE: Duration = Duration::from_secs(60);
const OUTDATED: &str = "producer_checkpoint_file_outdated";

struct Stage {
    world: TestBed,
    conn: Conn,
    file: PathBuf,
    rows: usize,
}

impl Stage {
    /// A table with a row, and a producer that has read it.
    async fn new(test: &str) -> (Self, Running) {
        let mut world = TestBed::new(test);
        world.set("METRICS_LISTEN", "127.0.0.1:0");
        Self::of(world).await
    }

    async fn of(world: TestBed) -> (Self, Running) {
        let mut conn = world.table().await;
        execute(&mut conn, &["INSERT INTO product VALUES (1,'a','b',1,NULL)"]).await;
        let mut producer = world.start("cdc-producer", &[]);
        producer.wait_for("snapshot complete");
        let file = world.folder.join("time_track/last_read_timestamp.json");
        eventually("the file is written", PATIENCE, || file.exists().then_some(()));
        (Self { world, conn, file, rows: 1 }, producer)
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.file).unwrap()
    }

    /// A row that is committed now arrives, once, in the epoch.
    async fn streams(&mut self, epoch: u64) {
        self.rows += 1;
        execute(&mut self.conn, &[format!("INSERT INTO product VALUES ({},'a','b',1,NULL)", self.rows + 1)]).await;
        let key = (self.rows + 1).to_string();
        let records = eventually("the change arrives", PATIENCE, || {
            let records = read_topic(&self.world.kafka());
            records.iter().any(|r| r.key == key).then_some(records)
        });
        let found: Vec<_> = records.iter().filter(|r| r.key == key).collect();
        assert!(found.len() == 1 && found[0].source.epoch == epoch && found[0].source.op == Op::Create, "{found:?}");
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        self.world.run("cdc-producer", arguments)
    }
}

fn reported(producer: &Running) -> usize {
    producer.said().matches("the checkpoint file is out of date").count()
}

/// After `act` the producer reports a fault with these words: an error in the log, the metric, a warning in `/ready`,
/// which stays 200.
fn reports(producer: &mut Running, words: &[&str], act: impl FnOnce()) {
    let before = reported(producer);
    act();
    eventually(&format!("{words:?} is reported"), PATIENCE, || {
        assert!(producer.is_running(), "{}", producer.log_end());
        let (_, body) = producer.http("/ready").filter(|(status, _)| *status == 200)?;
        let is_named = words.iter().chain(&["last_read_timestamp.json", "what to do: "]).all(|w| body.contains(w));
        (is_named && reported(producer) > before && producer.metric(OUTDATED) == Some(1.0)).then_some(())
    });
    let log = producer.said();
    let line = log.lines().rfind(|line| line.contains("the checkpoint file is out of date")).unwrap_or_default();
    assert!(line.contains("ERROR") && words.iter().all(|w| line.contains(w)), "{words:?}: {line}");
}

fn is_well(producer: &Running) {
    eventually("the fault is over", PATIENCE, || {
        let (status, body) = producer.http("/ready")?;
        (status == 200 && body.contains("\"warning\":null") && producer.metric(OUTDATED) == Some(0.0)).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_typo_ends_no_running_producer() {
    let (mut stage, mut producer) = Stage::new("typo").await;
    let own = stage.text();
    let years_ahead = own.replacen("\"last_read_timestamp\": \"20", "\"last_read_timestamp\": \"29", 1);
    let typo = own.replacen("\"last_read_timestamp\": \"20", "\"last_read_timestamp\": \"2O", 1);
    let foreign = own.replace(&format!("{}.product", stage.world.name), "other.product");
    let ahead = own.replace("\"epoch\": 1", "\"epoch\": 7");
    let halved = &own[..own.len() / 2];
    for (text, words) in [
        (typo.as_str(), &["neither RFC 3339 nor", "checkpoint restore"][..]),
        (halved, &["not valid JSON", "checkpoint restore"]),
        ("", &["not valid JSON", "checkpoint restore"]),
        ("[1]", &["not a JSON object"]),
        ("{}", &["it has no last_read_timestamp"]),
        // The remedies of a start that refuses these are offered while it runs.
        (&foreign, &["it belongs to other.product", "checkpoint restore"]),
        (&ahead, &["it is ahead of the position in Kafka (epoch 1", "checkpoint reset"]),
        (&years_ahead, &["is in the future: the server's clock says", "checkpoint restore"]),
    ] {
        let before = reported(&producer);
        reports(&mut producer, words, || fs::write(&stage.file, text).unwrap());
        stage.streams(1).await;
        // Once for what it says, though it was looked at many times.
        assert_eq!(reported(&producer), before + 1, "{}", producer.log_end());
        assert_eq!(stage.text(), text, "it was overwritten");
    }
    assert!(!producer.said().contains("following it"), "{}", producer.log_end());

    // The remedy, while it runs.
    let restored = stage.run(&["checkpoint", "restore"]);
    assert_eq!(restored.code, 0, "{}", restored.err);
    is_well(&producer);
    stage.streams(1).await;
    let text = stage.text();
    stage.streams(1).await;
    eventually("it is kept up to date again", PATIENCE, || (stage.text() != text).then_some(()));
    assert!(!producer.said().contains("following it"), "{}", producer.log_end());

    // A valid edit after another fault is followed.
    reports(&mut producer, &["not valid JSON"], || {
        fs::write(&stage.file, "{\"last_read_timestamp\": nul}").unwrap();
    });
    fs::write(&stage.file, "{\"last_read_timestamp\": null}").unwrap();
    producer.wait_for("epoch=2");
    is_well(&producer);
    stage.streams(2).await;
    stage.world.assert_whole(producer);
}

/// Changes are in the file after a while.
async fn is_kept(stage: &mut Stage) {
    let text = stage.text();
    stage.streams(1).await;
    eventually("the file is kept up to date", PATIENCE, || (stage.text() != text).then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_read_ends_no_running_producer() {
    let (mut stage, mut producer) = Stage::new("unreadable").await;
    let folder = stage.file.parent().unwrap().to_owned();
    let own = stage.text();
    reports(&mut producer, &["not a regular file"], || {
        fs::remove_file(&stage.file).unwrap();
        fs::create_dir(&stage.file).unwrap();
    });
    stage.streams(1).await;
    fs::remove_dir(&stage.file).unwrap();
    fs::write(&stage.file, &own).unwrap();
    is_well(&producer);

    // A pipe would hold a reader up for ever.
    reports(&mut producer, &["not a regular file"], || {
        fs::remove_file(&stage.file).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&stage.file).status().unwrap().success());
    });
    stage.streams(1).await;
    let restored = stage.run(&["checkpoint", "restore"]);
    assert_eq!(restored.code, 0, "{}", restored.err);
    is_well(&producer);

    // What somebody puts in the place of the temporary file neither holds it up nor is written to.
    let (temporary, target) = (folder.join("last_read_timestamp.json.tmp"), folder.join("target"));
    assert!(std::process::Command::new("mkfifo").arg(&temporary).status().unwrap().success());
    stage.streams(1).await;
    is_kept(&mut stage).await;
    fs::write(&target, "kept").unwrap();
    std::os::unix::fs::symlink(&target, &temporary).unwrap();
    is_kept(&mut stage).await;
    assert_eq!(fs::read_to_string(&target).unwrap(), "kept");
    assert_eq!(stage.run(&["checkpoint", "restore"]).code, 0);
    is_well(&producer);

    // The folder is away, as one that was unmounted: nobody has asked for a snapshot.
    let away = folder.with_extension("away");
    reports(&mut producer, &["No such file"], || fs::rename(&folder, &away).unwrap());
    stage.streams(1).await;
    fs::rename(&away, &folder).unwrap();
    is_well(&producer);
    assert!(!producer.said().contains("following it"), "{}", producer.log_end());

    // The file alone is gone: a person asks for a snapshot.
    fs::remove_file(&stage.file).unwrap();
    producer.wait_for("epoch=2");
    stage.streams(2).await;
    stage.world.assert_whole(producer);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_editor_that_empties_or_removes_the_file_first_is_waited_for() {
    let (mut stage, producer) = Stage::new("editor").await;
    for round in 0..40 {
        let own = stage.text();
        if round % 2 == 0 {
            fs::write(&stage.file, "").unwrap();
        } else {
            fs::remove_file(&stage.file).unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
        fs::write(&stage.file, own).unwrap();
        std::thread::sleep(Duration::from_millis(70));
    }
    stage.streams(1).await;
    is_well(&producer);
    assert_eq!(reported(&producer), 0, "{}", producer.log_end());
    assert!(!producer.said().contains("following it"), "{}", producer.log_end());
    assert_eq!(producer.stop().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_begins_again_continues_with_a_damaged_file() {
    let mut world = TestBed::new("again");
    world.set("METRICS_LISTEN", "127.0.0.1:0");
    let port = world.get("DB_PORT").parse().unwrap();
    let proxy = tokio::task::spawn_blocking(move || Proxy::start(port)).await.unwrap();
    // Only the programs go through it.
    let mut conn = world.table().await;
    world.set("DB_PORT", proxy.port().to_string());
    execute(&mut conn, &["INSERT INTO product VALUES (1,'a','b',1,NULL)"]).await;
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    let file = world.folder.join("time_track/last_read_timestamp.json");
    let mut stage = Stage { world, conn, file, rows: 1 };
    for text in ["{\"last_read_timestamp\": nul}", "{\"last_read_timestamp\": \"2999-01-01 00:00:00\"}"] {
        let begun = producer.said().matches("trying again").count();
        reports(&mut producer, &[], || fs::write(&stage.file, text).unwrap());
        proxy.set(Link::Cut);
        eventually("the session ends", PATIENCE, || {
            (producer.said().matches("trying again").count() > begun).then_some(())
        });
        proxy.set(Link::Open);
        stage.streams(1).await;
        assert!(
            producer.http("/ready").is_some_and(|(status, body)| status == 200 && !body.contains("\"warning\":null"))
        );
        assert_eq!(stage.text(), text, "it was overwritten");
    }
    // Put in between two sessions: found by the next one.
    proxy.set(Link::Cut);
    let begun = producer.said().matches("trying again").count();
    eventually("the session ends", PATIENCE, || {
        (producer.said().matches("trying again").count() > begun).then_some(())
    });
    reports(&mut producer, &["not valid JSON"], || {
        fs::write(&stage.file, "yesterday, please").unwrap();
        proxy.set(Link::Open);
    });
    stage.streams(1).await;
    assert_eq!(stage.run(&["checkpoint", "restore"]).code, 0);
    is_well(&producer);
    stage.world.assert_whole(producer);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_refuses_what_restore_puts_right() {
    let (mut stage, producer) = Stage::new("restore").await;
    stage.streams(1).await;
    assert_eq!(producer.stop().code, 0);
    let own = stage.text();
    let gtids = own.split("\"gtid_set\": \"").nth(1).and_then(|t| t.split(':').next()).unwrap().to_owned();
    let other = own.replace(&format!("{}.product", stage.world.name), "other.product");
    let damaged = Code::CheckpointFileDamaged;
    for (text, code, words) in [
        ("not json", damaged, &["not valid JSON", "checkpoint restore"][..]),
        ("", damaged, &["not valid JSON", "checkpoint restore"]),
        (&other, damaged, &["it belongs to other.product", "checkpoint restore"]),
        // What somebody asked for by mistake is withdrawn.
        (
            "{\"last_read_timestamp\": \"2999-01-01 00:00:00\"}",
            Code::TimeOutOfRange,
            &["is in the future", "checkpoint restore"],
        ),
    ] {
        let last = stage.text();
        fs::write(&stage.file, text).unwrap();
        let ended = stage.run(&[]);
        ended.assert_error(code, words);
        assert_eq!(stage.text(), text, "it was overwritten");
        let is_request = text.contains("2999");
        let shown = stage.run(&["checkpoint", "show"]);
        assert_eq!(shown.code, i32::from(!is_request), "{text}: {}{}", shown.out, shown.err);
        assert!(shown.out.contains("epoch           1\n  position "), "{text}: {}", shown.out);
        assert!(is_request || words.iter().all(|w| shown.err.contains(w)), "{text}: {}", shown.err);
        let restored = stage.run(&["checkpoint", "restore"]);
        assert!(restored.code == 0 && restored.out.contains("epoch 1 at "), "{}{}", restored.out, restored.err);
        assert_eq!(stage.text(), last, "it is what the producer wrote last");
        // Changes of the meantime follow, each once.
        let mut producer = stage.world.start("cdc-producer", &[]);
        producer.wait_for("reading");
        stage.streams(1).await;
        assert_eq!(producer.stop().code, 0);
    }
    // The file knows of more than Kafka: nothing says what the topic has behind the position.
    let ahead = own.replace(&gtids, "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee");
    fs::write(&stage.file, &ahead).unwrap();
    for arguments in [&[][..], &["checkpoint", "show"], &["checkpoint", "restore"]] {
        let ended = stage.run(arguments);
        ended.assert_error(Code::CheckpointFileAhead, &["ahead of the position in Kafka", "checkpoint reset"]);
        assert_eq!(stage.text(), ahead);
    }
    assert_eq!(stage.run(&["checkpoint", "reset"]).code, 0);
    let mut producer = stage.world.start("cdc-producer", &[]);
    producer.wait_for("epoch=2");
    stage.streams(2).await;
    stage.world.assert_whole(producer);
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_without_a_position_leads_to_a_reset() {
    let world = TestBed::new("nothing");
    let folder = world.folder.join("time_track");
    let shown = world.run("cdc-producer", &["checkpoint", "show"]);
    assert!(shown.code == 0 && shown.out.contains("no position yet"), "{}{}", shown.out, shown.err);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("last_read_timestamp.json"), "not json").unwrap();
    let doctor = world.run("cdc-producer", &["doctor"]);
    for part in ["FAIL  checkpoint ", "not valid JSON", "checkpoint restore"] {
        assert!(doctor.out.contains(part), "{part} is not in\n{}", doctor.out);
    }
    let restored = world.run("cdc-producer", &["checkpoint", "restore"]);
    let words = ["Kafka holds no position for", "nothing to restore", "checkpoint reset"];
    restored.assert_error(Code::NothingToRestore, &words);
    assert_eq!(fs::read_to_string(folder.join("last_read_timestamp.json")).unwrap(), "not json");
    assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
    let (mut stage, producer) = Stage::of(world).await;
    stage.streams(1).await;
    stage.world.assert_whole(producer);
}
