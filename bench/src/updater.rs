//! Writes CSV files into MySQL, with product-updater and with the `mysql` client in two ways.
//!
//! All three write the same rows in the same order into the same empty table, on a server with durable commits:
//! `sync_binlog=1`, `innodb_flush_log_at_trx_commit=1`, full row images. Afterwards the table must equal the files, row
//! by row. Times increase along the files, so that "the newest wins" and "the last wins" are the same.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use model::time::Micros;
use mysql_async::prelude::Queryable;
use testbed::servers::DATABASE;

use crate::lab::Lab;
use crate::load;
use crate::report::{Better, Figure};
use crate::size::Size;
use testbed::Usage;

const FILES: u64 = 4;
/// Rows in a transaction of product-updater.
const CHUNK: &str = "5000";
const STATEMENT: u64 = 1_000;
/// The first row's time.
const BEGIN: i64 = 1_780_000_000_000_000;

/// The results of product-updater.
#[derive(Clone, Copy, Debug)]
struct Updated {
    rate: f64,
    cpu_per_million: f64,
    peak_rss_mb: f64,
}

/// Runs the case.
///
/// # Errors
/// When a program fails, or the table differs from the files.
pub fn run(lab: &mut Lab, size: &Size, say: &dyn Fn(String)) -> Result<Vec<Figure>> {
    say(format!("Updater: {} rows in {FILES} files", size.changes));
    let data = Data::make(lab, size.changes)?;
    let (mut ours, mut inserts, mut loads) = (vec![], vec![], vec![]);
    for _ in 0..size.runs {
        ours.push(data.ours(lab)?);
        say(format!("  {:?}", ours[ours.len() - 1]));
        inserts.push(data.client(lab, Way::Insert)?);
        loads.push(data.client(lab, Way::Load)?);
        say(format!("  INSERT {:.0}/s, LOAD DATA {:.0}/s", inserts[inserts.len() - 1], loads[loads.len() - 1]));
    }
    let case = "Updater";
    let of = |value: fn(&Updated) -> f64| ours.iter().map(value).collect::<Vec<_>>();
    let rate = |reference: [&str; 2], theirs| {
        Figure::new([case, reference[0], "rows/s", reference[1], "≥ 0.7 ×"], Better::More, of(|u| u.rate), theirs)
    };
    let alone = |measure, unit, value| Figure::new([case, measure, unit, "", ""], Better::Less, of(value), Vec::new());
    Ok(vec![
        rate(["rate, beside INSERT … ON DUPLICATE KEY UPDATE", "mysql, 1,000 rows a statement"], inserts),
        rate(["rate, beside LOAD DATA LOCAL … REPLACE", "mysql, a file a statement"], loads),
        alone("CPU for a million rows", "s", |u| u.cpu_per_million),
        alone("most memory resident", "MB", |u| u.peak_rss_mb),
    ])
}

/// The two ways of the client.
#[derive(Clone, Copy, Debug)]
enum Way {
    Insert,
    Load,
}

/// The files, and the same rows as statements.
struct Data {
    rows: u64,
    folder: PathBuf,
}

/// The product of a row: of ten rows, six are new products, four change an existing one.
fn id(n: u64) -> u64 {
    let (round, place) = (n / 10, n % 10);
    if place < 6 { round * 6 + place } else { (n * 2_654_435_761) % (round * 6 + 6) }
}

/// A row without its id: name, category, price, time.
fn columns(n: u64) -> [String; 4] {
    let time = Micros(BEGIN + n as i64 * 1_000).to_string().replace('T', " ").replace('Z', "");
    [format!("folding garden chair {n}"), format!("cat_{}", n % 20), format!("{}.{:02}", n % 9_000, n % 100), time]
}

impl Data {
    fn make(lab: &Lab, rows: u64) -> Result<Self> {
        let folder = lab.stack.dir().join("updater");
        fs::create_dir_all(folder.join("csv"))?;
        let data = Self { rows, folder };
        let mut inserts = BufWriter::new(File::create(data.inserts())?);
        for file in 0..FILES {
            let mut csv = BufWriter::new(File::create(data.csv(file))?);
            writeln!(csv, "id,name,category,price,last_updated")?;
            for n in rows * file / FILES..rows * (file + 1) / FILES {
                let [name, category, price, time] = columns(n);
                writeln!(csv, "{},{name},{category},{price},{time}", id(n))?;
                let before = if n % STATEMENT == 0 { "INSERT INTO product VALUES\n" } else { "," };
                let last = n % STATEMENT == STATEMENT - 1 || n == rows - 1;
                let after = if last {
                    "\nON DUPLICATE KEY UPDATE name = VALUES(name), category = VALUES(category), price = VALUES(price), \
                     last_updated = VALUES(last_updated);\n"
                } else {
                    ""
                };
                write!(inserts, "{before}({},'{name}','{category}',{price},'{time}'){after}", id(n))?;
            }
            csv.flush()?;
        }
        inserts.flush()?;
        Ok(data)
    }

    fn csv(&self, file: u64) -> PathBuf {
        self.folder.join("csv").join(format!("{file}.csv"))
    }

    fn inserts(&self) -> PathBuf {
        self.folder.join("inserts.sql")
    }

    fn ours(&self, lab: &Lab) -> Result<Updated> {
        lab.runtime.block_on(load::prepare_durable(&lab.stack.mysql))?;
        let path = |name: &str| self.folder.join(name).display().to_string();
        let begun = Instant::now();
        let programs = lab.programs("updater");
        let mut updater = programs.updater(&[
            "--no-pause",
            "--chunk-size",
            CHUNK,
            "--data",
            &path("csv"),
            "--rejects",
            &path("rejects"),
        ])?;
        let pid = updater.pid().context("it was started")?;
        let mut usage = Usage::default();
        updater.wait(|| {
            // The process may have ended in between; its last use is known.
            usage = Usage::of(pid).unwrap_or(usage);
            Ok(())
        })?;
        let rate = self.rows as f64 / begun.elapsed().as_secs_f64();
        self.check(lab).context("after product-updater")?;
        let cpu_per_million = usage.cpu_seconds / (self.rows as f64 / 1e6);
        Ok(Updated { rate, cpu_per_million, peak_rss_mb: usage.peak_rss_mb })
    }

    /// The rate in rows a second.
    fn client(&self, lab: &Lab, way: Way) -> Result<f64> {
        lab.runtime.block_on(load::prepare_durable(&lab.stack.mysql))?;
        let mut client = lab.stack.mysql.client();
        client.args(["--local-infile=1", "--init-command=SET time_zone = '+00:00'", DATABASE]);
        match way {
            Way::Insert => client.stdin(File::open(self.inserts())?),
            Way::Load => {
                let load = |file| {
                    format!(
                        "LOAD DATA LOCAL INFILE '{}' REPLACE INTO TABLE product FIELDS TERMINATED BY ',' \
                         LINES TERMINATED BY '\\n' IGNORE 1 LINES;",
                        self.csv(file).display()
                    )
                };
                client.arg("--execute").arg((0..FILES).map(load).collect::<String>())
            }
        };
        let begun = Instant::now();
        let output = client.output().context("cannot run mysql")?;
        let rate = self.rows as f64 / begun.elapsed().as_secs_f64();
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "mysql ended with {}: {told}", output.status);
        self.check(lab).with_context(|| format!("after {way:?} by mysql"))?;
        Ok(rate)
    }

    /// Compares the table with the files: each product must have its last row.
    fn check(&self, lab: &Lab) -> Result<()> {
        let mut last = vec![None; usize::try_from(self.rows)?];
        (0..self.rows).for_each(|n| last[id(n) as usize] = Some(n));
        let mut wanted = (0..).zip(last).filter_map(|(id, n)| Some((id, columns(n?))));
        lab.runtime.block_on(async {
            let mut conn = load::connect(&lab.stack.mysql, Some(DATABASE)).await?;
            conn.query_drop("SET time_zone = '+00:00'").await?;
            let mut rows = conn.query_iter("SELECT * FROM product ORDER BY id").await?;
            while let Some(row) = rows.next().await? {
                let (id, name, category, price, time) = mysql_async::from_row_opt(row)?;
                let row: (u64, [String; 4]) = (id, [name, category, price, time]);
                let wanted = wanted.next();
                ensure!(wanted.as_ref() == Some(&row), "the table has {row:?} where the files say {wanted:?}");
            }
            ensure!(wanted.next().is_none(), "the table ends too early");
            Ok(())
        })
    }
}
