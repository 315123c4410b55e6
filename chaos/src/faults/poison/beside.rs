//! An attacker who reaches a metrics port, or who may put files into the updater's folder.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mysql_async::prelude::Queryable;
use rand::Rng;

use super::super::fault::Fault;
use super::letters::{SOON, withstands};
use crate::harness::{Harness, wait_for};
use testbed::{Running, peak_memory};

pub(in crate::faults) const FAULTS: &[Fault] = &[
    Fault {
        name: "poison-metrics",
        expects: "450 half-open connections to the metrics port of a program: it answers at /ready, works on, and holds few \
                  of them",
        weight: 2,
        quick: false,
        run: poison_metrics,
    },
    Fault {
        name: "poison-csv",
        expects: "a CSV file with a line of 64 MB and an open quote, links to files with secrets, and bytes that are no UTF-8: \
                  rejected, and the rows beside them are applied",
        weight: 2,
        quick: false,
        run: poison_csv,
    },
];

const MIB: u64 = 1 << 20;

fn poison_metrics(harness: &mut Harness) -> Result<()> {
    /// Simultaneous connections (`runtime::telemetry`), and descriptors that Kafka clients open and close meanwhile.
    const MOST: usize = 64 + 32;
    withstands(harness, |harness| {
        let number = harness.rng.random_range(0..=harness.consumers.len());
        let begins: [&[u8]; 3] = [b"GET /ready HTTP/1.1\r\nX-Slow: ", b"GE", b""];
        let before = descriptors(program(harness, number)?)?;
        let address = program(harness, number)?.metrics_address().context("it has no metrics port")?;
        let mut held = Vec::new();
        for n in 0..450 {
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10)).context("to connect")?;
            // The server may have closed it for a newer one.
            let _sent = stream.write_all(begins[n % begins.len()]);
            held.push(stream);
        }
        harness.probe()?;
        let program = program(harness, number)?;
        let (answer, now) = (program.http("/ready"), descriptors(program)?);
        ensure!(answer.as_ref().is_some_and(|(code, _)| *code == 200), "/ready says {answer:?}\n{}", program.log_end());
        ensure!(now <= before + MOST, "{before} descriptors before, {now} with {} connections", held.len());
        ensure!(!program.said().contains("Too many open files"), "{}", program.log_end());
        Ok(Vec::new())
    })?;
    Ok(())
}

/// A consumer by its number; the next number is the producer.
fn program(harness: &Harness, number: usize) -> Result<&Running> {
    harness.consumers.get(number).unwrap_or(&harness.producer).as_ref().context("it does not run")
}

fn descriptors(running: &Running) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{}/fd", running.pid()))?.count())
}

/// The ids of the rows in the files.
const IDS: std::ops::RangeInclusive<i64> = -4_099..=-4_000;

fn poison_csv(harness: &mut Harness) -> Result<()> {
    withstands(harness, |harness| {
        let deleted = format!("DELETE FROM product WHERE id BETWEEN {} AND {}", IDS.start(), IDS.end());
        harness.commit_direct(&[deleted])?;
        let data = harness.bed.folder.join("data");
        write_files(&data)?;
        update(harness, &data)?;
        fs::remove_dir_all(&data)?;
        let count = format!("SELECT COUNT(*) FROM product WHERE id BETWEEN {} AND {}", IDS.start(), IDS.end());
        let count: Option<usize> = harness.block_on(harness.mysql()?.query_first(count))?;
        ensure!(count == Some(APPLIED), "{count:?} of the {APPLIED} good rows were applied");
        Ok(Vec::new())
    })?;
    Ok(())
}

const HEADER: &[u8] = b"id,name,category,price,last_updated\n";
/// The valid rows in the files.
const APPLIED: usize = 24;
/// A text that must not appear in any output.
const SECRET: &str = "hunter2-of-another-file";

fn row(id: i64, name: &[u8]) -> Vec<u8> {
    [format!("{id},").as_bytes(), name, b",C,1.00,2027-01-01 00:00:00\n"].concat()
}

/// In the order of their names: two links, a row that is not UTF-8, a line without an end, valid rows.
fn write_files(data: &Path) -> Result<()> {
    fs::create_dir_all(data)?;
    let other = data.join("other.txt");
    fs::write(&other, [HEADER, &row(-4_050, SECRET.as_bytes())].concat())?;
    symlink("/proc/self/environ", data.join("a.csv"))?;
    symlink(&other, data.join("b.csv"))?;
    fs::write(
        data.join("c.csv"),
        [HEADER, &row(-4_000, b"a"), &row(-4_001, b"\xff\xfe"), &row(-4_002, b"b")].concat(),
    )?;
    let mut long = File::create(data.join("d.csv"))?;
    long.write_all(&[HEADER, &row(-4_003, b"a"), &row(-4_004, b"b"), b"-4005,\""].concat())?;
    // A sparse file, which takes no space on the disk.
    long.set_len(64 * MIB)?;
    let good: Vec<u8> = (0..20).flat_map(|n| row(-4_010 - n, b"good")).collect();
    fs::write(data.join("e.csv"), [HEADER, &good].concat())?;
    Ok(())
}

/// Runs the updater on the folder: it must end with 0, put bad rows aside, and show no secret.
fn update(harness: &Harness, data: &Path) -> Result<()> {
    let command = harness.bed.command("product-updater", &["--no-pause", "--data", &data.display().to_string()]);
    let mut updater = Running::start(command, "product-updater", harness.bed.folder.join("product-updater.log"));
    let (mut peak, pid) = (0, updater.pid());
    wait_for("the updater ends", SOON, || {
        peak = peak_memory(pid).unwrap_or(peak);
        (!updater.is_running()).then_some(())
    })?;
    let said = updater.said();
    let ended = updater.wait();
    ensure!(ended.code == 0, "the updater ends with {}:\n{said}", ended.code);
    ensure!(peak < 64 * MIB, "the updater took {} MiB", peak / MIB);
    let folder = Path::new(harness.bed.get("UPDATER_REJECTS"));
    for (name, reason) in [
        ("a", "symbolic link"),
        ("b", "symbolic link"),
        ("c", "UTF-8"),
        ("d", "the quote that opens the field is never closed"),
    ] {
        let rejects = fs::read(folder.join(format!("{name}.rejects.csv"))).context("the rejects")?;
        let rejects = String::from_utf8_lossy(&rejects);
        let shown: String = rejects.chars().take(500).collect();
        ensure!(rejects.contains(reason), "{name}.csv: {reason:?} is not in\n{shown}");
        ensure!(rejects.matches("\n").count() == 2, "{name}.csv has more than one reject:\n{shown}");
        for secret in [SECRET, "DB_PASSWORD"] {
            ensure!(!rejects.contains(secret) && !said.contains(secret), "{secret} is shown:\n{shown}\n{said}");
        }
    }
    ensure!(!folder.join("e.rejects.csv").exists(), "a good row was rejected");
    Ok(())
}
