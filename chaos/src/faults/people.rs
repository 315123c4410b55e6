//! What people do to the pipeline's files and tables: they delete, cut and edit logs, reset and damage the checkpoint,
//! change the table.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::Rng;

use super::fault::Fault;
use crate::harness::{Harness, wait_for};
use testbed::Running;

/// The faults of this family.
pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "torn-last-line",
        expects: "half a line at the end of a killed consumer's log is cut off at its next start",
        weight: 3,
        quick: true,
        run: torn_last_line,
    },
    Fault {
        name: "log-deleted",
        expects: "a log that is deleted under a running consumer stops it with the ways out, and so does one that is \
                  missing at the start; put back, it continues",
        weight: 2,
        quick: true,
        run: log_deleted,
    },
    Fault {
        name: "log-rotated",
        expects: "a log that is moved away with an empty one in its place stops the consumer; put back, it continues",
        weight: 2,
        quick: true,
        run: log_rotated,
    },
    Fault {
        name: "log-edited",
        expects: "a log that is cut under a running consumer, and one whose lines were edited while it was stopped, are \
                  refused with the ways out and left alone; put back, it continues",
        weight: 2,
        quick: true,
        run: log_edited,
    },
    Fault {
        name: "checkpoint-corrupted",
        expects: "a producer that runs reports a checkpoint file that is no JSON, and streams on; each start is refused with \
                  the ways out; the file is not overwritten; restored or reset, it continues",
        weight: 2,
        quick: true,
        run: checkpoint_corrupted,
    },
    Fault {
        name: "checkpoint-reset",
        expects: "a reset, of a running producer or a stopped one, begins a new epoch with a snapshot",
        weight: 2,
        quick: true,
        run: checkpoint_reset,
    },
    Fault {
        name: "checkpoint-set-back",
        expects: "a time begins a new epoch with every change committed from then on",
        weight: 2,
        quick: true,
        run: checkpoint_set_back,
    },
    Fault {
        name: "checkpoint-set-forward",
        expects: "a producer that runs reports a time in the future, and streams on; each start is refused; nothing is \
                  overwritten; restored, it continues",
        weight: 2,
        quick: true,
        run: checkpoint_set_forward,
    },
    Fault {
        name: "checkpoint-of-another-server",
        expects: "a producer that runs reports a checkpoint file of another server, and streams on; each start is refused; \
                  nothing is overwritten; put back, it continues",
        weight: 2,
        quick: true,
        run: checkpoint_of_another_server,
    },
    Fault {
        name: "ddl-carried",
        expects: "columns that are added, renamed and dropped beside the contract, or widened within it, change nothing in the stream",
        weight: 2,
        quick: true,
        run: ddl_carried,
    },
    Fault {
        name: "ddl-drop-column",
        expects: "a dropped column of the contract stops the producer definitely; with the column back and a reset it continues",
        weight: 1,
        quick: true,
        run: ddl_drop_column,
    },
    Fault {
        name: "ddl-rename-column",
        expects: "a renamed column of the contract stops the producer definitely; renamed back and reset, it continues",
        weight: 1,
        quick: true,
        run: ddl_rename_column,
    },
    Fault {
        name: "ddl-widen-price",
        expects: "a price that may not fit the contract any more stops the producer definitely; made narrow again and reset, \
                  it continues",
        weight: 1,
        quick: true,
        run: ddl_widen_price,
    },
    Fault {
        name: "ddl-truncate",
        expects: "TRUNCATE stops the producer definitely; with the rows back and a reset it continues",
        weight: 1,
        quick: true,
        run: ddl_truncate,
    },
];

const SOON: Duration = Duration::from_secs(20);

/// A program of the harness.
#[derive(Clone, Copy)]
pub(super) enum Who {
    Producer,
    /// By its number.
    Consumer(usize),
}

impl Who {
    fn take(self, harness: &mut Harness) -> Option<Running> {
        match self {
            Self::Producer => harness.producer.take(),
            Self::Consumer(number) => harness.consumers[number].take(),
        }
    }

    fn start(self, harness: &mut Harness) {
        match self {
            Self::Producer => harness.start_producer(),
            Self::Consumer(number) => harness.start_consumer(number),
        }
    }
}

/// Requires that after `act` the program ends with exit code 1 and logs all these texts.
pub(super) fn refuses(
    harness: &mut Harness,
    who: Who,
    texts: &[&str],
    act: impl FnOnce(&mut Harness) -> Result<()>,
) -> Result<()> {
    act(harness)?;
    let mut running = who.take(harness).context("it does not run")?;
    let gone = wait_for("it stops", SOON, || (!running.is_running()).then_some(()));
    gone.with_context(|| format!("{} should say {texts:?}, but:\n{}", running.name(), running.log_end()))?;
    let (name, ended) = (running.name().to_owned(), running.wait());
    let said = ended.err;
    ensure!(ended.code == 1, "{name} left with {} instead of 1:\n{said}", ended.code);
    for text in texts {
        ensure!(said.contains(text), "{name} does not say {text:?}:\n{said}");
    }
    Ok(())
}

/// Requires the same of a start.
pub(super) fn refuses_to_start(harness: &mut Harness, who: Who, texts: &[&str]) -> Result<()> {
    refuses(harness, who, texts, |harness| {
        who.start(harness);
        Ok(())
    })
}

/// A random running consumer, with the path of its log.
pub(super) fn some_consumer(harness: &mut Harness) -> Result<(usize, PathBuf)> {
    let running: Vec<usize> = (0..harness.consumers.len()).filter(|n| harness.consumers[*n].is_some()).collect();
    let number = running[harness.rng.random_range(0..running.len())];
    let folder = PathBuf::from(harness.bed.get("CONSUMER_LOGS"));
    let consumer = harness.consumers[number].as_ref().context("it runs")?;
    let path = wait_for("it has a log with lines", SOON, || {
        let log = consumer.said();
        let name = log.rsplit_once("slot claimed slot=")?.1.split_whitespace().next()?;
        // A slot's name in Kafka ends with the identity of its folder.
        let slot = name.split_once('-').map_or(name, |(slot, _)| slot);
        let path = folder.join(slot).join("consumer_log.json");
        fs::metadata(&path).is_ok_and(|m| m.len() > 0).then_some(path)
    })?;
    Ok((number, path))
}

/// Waits until everything is delivered and this consumer's log has no uncommitted line.
fn quiet(harness: &mut Harness, number: usize, log: &Path) -> Result<()> {
    harness.settle()?;
    let consumer = harness.consumers[number].as_ref().context("it runs")?;
    wait_for("the whole log is committed", SOON, || {
        let length = fs::metadata(log).ok()?.len();
        (consumer.metric("consumer_log_bytes")? as u64 == length).then_some(())
    })
}

fn torn_last_line(harness: &mut Harness) -> Result<()> {
    use std::io::Write as _;
    let (number, log) = some_consumer(harness)?;
    let consumer = harness.consumers[number].take().context("it runs")?;
    consumer.kill();
    File::options().append(true).open(&log)?.write_all(b"{\"id\":1,\"name\":\"half a li")?;
    harness.start_consumer(number);
    // The new consumer cuts them, or a neighbour that recovers the slot while it starts.
    let says = format!("cut off what no transaction committed file={}", log.display());
    wait_for("the torn line is cut off, and a consumer says so", SOON, || {
        let is_cut = !fs::read_to_string(&log).ok()?.contains("half a li");
        (is_cut && harness.consumers.iter().flatten().any(|c| c.said().contains(&says))).then_some(())
    })
}

fn log_deleted(harness: &mut Harness) -> Result<()> {
    harness.resume_load();
    let (number, log) = some_consumer(harness)?;
    let (who, kept) = (Who::Consumer(number), log.with_extension("kept"));
    fs::hard_link(&log, &kept)?;
    let says = ["there is no such file any more", "put the file back as it was", "accept-log consumer_"];
    refuses(harness, who, &says, |_| Ok(fs::remove_file(&log)?))?;
    // A start, or a neighbour that checks the slot, creates an empty log.
    refuses_to_start(harness, who, &["has 0 bytes, but", "were committed", "accept-log consumer_"])?;
    fs::rename(&kept, &log)?;
    harness.start_all();
    Ok(())
}

fn log_rotated(harness: &mut Harness) -> Result<()> {
    harness.resume_load();
    let (number, log) = some_consumer(harness)?;
    let kept = log.with_extension("1");
    // The consumer may check just before the new file exists.
    refuses(harness, Who::Consumer(number), &["bytes of it were committed", "put the file back as it was"], |_| {
        fs::rename(&log, &kept)?;
        File::create(&log)?;
        Ok(())
    })?;
    fs::rename(&kept, &log)?;
    harness.start_all();
    Ok(())
}

fn log_edited(harness: &mut Harness) -> Result<()> {
    let (number, log) = some_consumer(harness)?;
    quiet(harness, number, &log)?;
    let (who, lines) = (Who::Consumer(number), fs::read(&log)?);
    refuses(harness, who, &["were committed", "bytes are gone", "put the file back as it was"], |_| {
        Ok(File::options().write(true).open(&log)?.set_len(lines.len() as u64 / 2)?)
    })?;
    // An editor saved the file: one line is longer.
    let mut edited = lines.clone();
    edited.splice(1..1, *b"\"seen\":true,");
    fs::write(&log, &edited)?;
    refuses_to_start(harness, who, &["was edited: no line ends after the", "put the file back as it was"])?;
    ensure!(fs::read(&log)? == edited, "the edited file was touched");
    fs::write(&log, &lines)?;
    harness.start_all();
    harness.resume_load();
    Ok(())
}

fn checkpoint(harness: &Harness) -> PathBuf {
    Path::new(harness.bed.get("PRODUCER_TIME_TRACK")).join("last_read_timestamp.json")
}

/// Everything so far is streamed; changes committed while `act` starts a new epoch may be in it only as a snapshot's
/// state.
pub(super) fn new_epoch(harness: &mut Harness, act: impl FnOnce(&mut Harness) -> Result<()>) -> Result<()> {
    harness.settle()?;
    let epoch = harness.epoch()?;
    harness.collapse_from_here()?;
    act(harness)?;
    harness.start_all();
    harness.epoch_after(epoch)?;
    harness.collapse_until_here()?;
    harness.resume_load();
    Ok(())
}

/// `cdc-producer checkpoint …`
pub(super) fn ask(harness: &Harness, arguments: &[&str]) -> Result<()> {
    let ended = harness.bed.run("cdc-producer", &[&["checkpoint"], arguments].concat());
    ensure!(ended.code == 0, "checkpoint {arguments:?}: {}", ended.err);
    Ok(())
}

/// Writes a checkpoint file that a running producer must report while it continues to stream, and that its next start
/// must refuse, both without changing the file.
fn refused_checkpoint(harness: &mut Harness, text: &str, says: &str) -> Result<()> {
    let path = checkpoint(harness);
    let reports = [says, "last_read_timestamp.json", "the checkpoint file is out of date"];
    fs::write(&path, text)?;
    let producer = harness.producer.as_ref().context("it runs")?;
    let reported = wait_for("it reports the file", SOON, || {
        producer.said().lines().any(|line| reports.iter().all(|r| line.contains(r))).then_some(())
    });
    reported.with_context(|| producer.log_end())?;
    harness.probe()?;
    stop_producer(harness)?;
    let says = [says, "last_read_timestamp.json", "what to do: "];
    refuses_to_start(harness, Who::Producer, &says)?;
    ensure!(fs::read_to_string(&path)? == text, "the checkpoint file was overwritten");
    Ok(())
}

fn checkpoint_corrupted(harness: &mut Harness) -> Result<()> {
    let path = checkpoint(harness);
    if harness.rng.random() {
        harness.resume_load();
        let own = fs::read_to_string(&path)?;
        refused_checkpoint(harness, &own[..own.len() / 2], "not valid JSON")?;
        ask(harness, &["restore"])?;
        harness.start_all();
        return Ok(());
    }
    new_epoch(harness, |harness| {
        harness.resume_load();
        refused_checkpoint(harness, "yesterday, please", "not valid JSON")?;
        ask(harness, &["reset"])
    })
}

fn checkpoint_reset(harness: &mut Harness) -> Result<()> {
    new_epoch(harness, |harness| {
        harness.resume_load();
        if harness.rng.random() {
            stop_producer(harness)?;
        }
        ask(harness, &["reset"])
    })
}

pub(super) fn stop_producer(harness: &mut Harness) -> Result<()> {
    let ended = harness.producer.take().context("it runs")?.stop();
    ensure!(ended.code == 0, "asked to stop, the producer left with {}:\n{}", ended.code, ended.err);
    Ok(())
}

fn checkpoint_set_back(harness: &mut Harness) -> Result<()> {
    harness.resume_load();
    let epoch = harness.epoch()?;
    let at = harness.replay_from_here()?;
    harness.probe()?;
    if harness.rng.random() {
        stop_producer(harness)?;
    }
    ask(harness, &["set", &at.to_string()])?;
    harness.start_all();
    harness.epoch_after(epoch)?;
    Ok(())
}

fn checkpoint_set_forward(harness: &mut Harness) -> Result<()> {
    harness.resume_load();
    let asked = "{\"last_read_timestamp\": \"2999-01-01T00:00:00Z\"}";
    refused_checkpoint(harness, asked, "is in the future: the server's clock says")?;
    ask(harness, &["restore"])?;
    harness.start_all();
    Ok(())
}

fn checkpoint_of_another_server(harness: &mut Harness) -> Result<()> {
    harness.resume_load();
    let path = checkpoint(harness);
    let own = fs::read_to_string(&path)?;
    let server = harness.progress()?.context("progress")?.position.server_uuid;
    let other = own.replace(&server, "5ef05bfc-0000-11f1-8000-000000000000");
    ensure!(own != other, "the file does not name its server");
    refused_checkpoint(harness, &other, "it is ahead of the position in Kafka")?;
    fs::write(&path, own)?;
    harness.start_all();
    Ok(())
}

fn ddl_carried(harness: &mut Harness) -> Result<()> {
    harness.resume_load();
    for statement in [
        "ALTER TABLE product ADD COLUMN colour VARCHAR(20) NOT NULL DEFAULT 'none' FIRST",
        "ALTER TABLE product RENAME COLUMN colour TO shade",
        "ALTER TABLE product MODIFY name VARCHAR(400), MODIFY category TEXT",
        "ALTER TABLE product MODIFY id BIGINT NOT NULL",
        "ALTER TABLE product DROP COLUMN shade",
        "ALTER TABLE product MODIFY id INT NOT NULL",
    ] {
        harness.commit_direct(&[statement])?;
        harness.probe().with_context(|| format!("after {statement}"))?;
    }
    Ok(())
}

/// Runs when no change is on its way any more.
const COPY: &str = "CREATE TABLE product_copy AS SELECT * FROM product";

/// Runs statements that the stream can't carry; checks the producer's error, applies the remedy, and then resets.
pub(super) fn stopping(harness: &mut Harness, statements: &[&str], says: &str, remedy: &[&str]) -> Result<()> {
    new_epoch(harness, |harness| {
        refuses(harness, Who::Producer, &[says, "what to do: ", "checkpoint reset"], |harness| {
            harness.commit_direct(statements)
        })?;
        // Each start fails until a person acts.
        refuses_to_start(harness, Who::Producer, &["what to do: "])?;
        harness.commit_direct(remedy)?;
        ask(harness, &["reset"])
    })
}

fn ddl_drop_column(harness: &mut Harness) -> Result<()> {
    let remedy = [
        "ALTER TABLE product ADD COLUMN category VARCHAR(500) AFTER name",
        "UPDATE product p JOIN product_copy c USING (id) SET p.category = c.category, p.last_updated = c.last_updated",
        "DROP TABLE product_copy",
    ];
    let statements = [COPY, "ALTER TABLE product DROP COLUMN category"];
    stopping(harness, &statements, "ALTER TABLE … that drops the column category", &remedy)
}

fn ddl_rename_column(harness: &mut Harness) -> Result<()> {
    let statements = [
        "DELETE FROM product WHERE id = -1",
        "ALTER TABLE product RENAME COLUMN category TO kind",
        "INSERT INTO product (id, name, kind, price) VALUES (-1, 'renamed', 'x', 1)",
    ];
    stopping(harness, &statements, "category", &["ALTER TABLE product RENAME COLUMN kind TO category"])
}

fn ddl_widen_price(harness: &mut Harness) -> Result<()> {
    let statements = [
        "DELETE FROM product WHERE id = -1",
        "ALTER TABLE product MODIFY price DECIMAL(12,2)",
        "INSERT INTO product (id, name, price) VALUES (-1, 'dear', 9999999999.99)",
    ];
    let remedy = ["DELETE FROM product WHERE id = -1", "ALTER TABLE product MODIFY price DECIMAL(10,2)"];
    stopping(harness, &statements, "column price: its values may not fit decimal(10,2)", &remedy)
}

fn ddl_truncate(harness: &mut Harness) -> Result<()> {
    let remedy = ["INSERT INTO product SELECT * FROM product_copy", "DROP TABLE product_copy"];
    stopping(harness, &[COPY, "TRUNCATE TABLE product"], "TRUNCATE TABLE changes the rows of", &remedy)
}
