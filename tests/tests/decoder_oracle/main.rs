//! The row decoder against the real server: what it reads from the binlog is what SELECT returns.
//!
//! `DECODER_SEED` repeats a run, `DECODER_TABLES` sets how many chance tables there are, and `DECODER_BLESS=1` writes the
//! fuzzer's seed corpus anew.

#[allow(clippy::expect_used, reason = "the invariants of a table of test data")]
mod columns;
mod oracle;

use std::{env, fs, path::Path, time::SystemTime};

use anyhow::{Context, Result, ensure};
use cdc_producer::binlog::RowOperation;
use columns::Column;
use oracle::{Captured, Change, Image, Oracle};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

/// A table whose key is `id`, with the columns `c0`, `c1`, …
struct Table {
    name: String,
    columns: Vec<Column>,
    names: Vec<String>,
}

impl Table {
    fn new(name: String, columns: Vec<Column>) -> Self {
        let own = (0..columns.len()).map(|index| format!("c{index}"));
        let names = ["id", "version"].map(str::to_owned).into_iter().chain(own).collect();
        Self { name, columns, names }
    }

    async fn create(&self, oracle: &mut Oracle) -> Result<()> {
        let columns =
            self.columns.iter().zip(&self.names[2..]).map(|(column, name)| format!(", {name} {}", column.sql));
        let columns = columns.collect::<String>();
        let Self { name, .. } = self;
        oracle.run(&format!("CREATE TABLE {name} (id INT PRIMARY KEY, version INT UNSIGNED NOT NULL{columns})")).await
    }

    async fn image(&self, oracle: &mut Oracle, id: usize) -> Result<Image> {
        let list = self.columns.iter().zip(&self.names[2..]).map(|(column, name)| match column.is_float() {
            true => format!(", CAST({name} AS DOUBLE)"),
            false => format!(", {name}"),
        });
        let list = list.collect::<String>();
        let mut rows = oracle.select(&format!("SELECT id, version{list} FROM {} WHERE id = {id}", self.name)).await?;
        rows.pop().with_context(|| format!("{} has row {id}", self.name))
    }

    /// Inserts these values, and returns the change as the server tells it.
    async fn insert(&self, oracle: &mut Oracle, id: usize, values: &[String]) -> Result<Change> {
        let values = values.iter().map(|value| format!(", {value}")).collect::<String>();
        oracle.run(&format!("INSERT INTO {} VALUES ({id}, 0{values})", self.name)).await?;
        self.change(RowOperation::Insert, Vec::new(), self.image(oracle, id).await?)
    }

    async fn update(&self, oracle: &mut Oracle, id: usize, values: &[String]) -> Result<Change> {
        let before = self.image(oracle, id).await?;
        let set =
            self.names[2..].iter().zip(values).map(|(name, value)| format!(", {name} = {value}")).collect::<String>();
        oracle.run(&format!("UPDATE {} SET version = version + 1{set} WHERE id = {id}", self.name)).await?;
        self.change(RowOperation::Update, before, self.image(oracle, id).await?)
    }

    async fn delete(&self, oracle: &mut Oracle, id: usize) -> Result<Change> {
        let before = self.image(oracle, id).await?;
        oracle.run(&format!("DELETE FROM {} WHERE id = {id}", self.name)).await?;
        self.change(RowOperation::Delete, before, Vec::new())
    }

    fn change(&self, operation: RowOperation, before: Image, after: Image) -> Result<Change> {
        Ok(Change { table: self.name.clone(), operation, before, after })
    }

    fn values(&self, rng: &mut StdRng) -> Vec<String> {
        self.columns.iter().map(|column| column.value(rng)).collect()
    }
}

/// Each type by itself: all its edges and NULL, inserted, updated to the next edge, and deleted.
async fn edges(compression: &str) -> Result<()> {
    let mut oracle = Oracle::open(&format!("decoder_edges_{}", compression.to_lowercase())).await?;
    oracle.run(&format!("SET SESSION binlog_transaction_compression = {compression}")).await?;
    let (mut expected, mut described) = (Vec::new(), Vec::new());
    for (number, column) in columns::every_column().into_iter().enumerate() {
        let edges: Vec<String> = column.edges.iter().cloned().chain(["NULL".to_owned()]).collect();
        described.push(column.sql.clone());
        let table = Table::new(format!("t{number}"), vec![column]);
        table.create(&mut oracle).await?;
        let mut stored = 0;
        for (id, edge) in edges.iter().enumerate() {
            match table.insert(&mut oracle, id, std::slice::from_ref(edge)).await {
                Ok(change) => expected.push(change),
                // Not every edge fits every size of a type; but at least one value and NULL do.
                Err(error) if error.downcast_ref::<mysql_async::Error>().is_some() => continue,
                Err(error) => return Err(error),
            }
            stored += 1;
            let next = &edges[(id + 1) % edges.len()];
            if let Ok(change) = table.update(&mut oracle, id, std::slice::from_ref(next)).await {
                expected.push(change);
            }
            expected.push(table.delete(&mut oracle, id).await?);
        }
        ensure!(stored >= 2, "{} took {stored} values", described[number]);
    }
    let (captured, compressed) = oracle.captured().await?;
    ensure!(compressed == (compression == "ON"), "compression is {compression}");
    compare(&captured, &expected, &|table| {
        let number = table[1..].parse::<usize>().unwrap_or_default();
        format!("{}: {table} {}", compression, described[number])
    })?;
    if env::var_os("DECODER_BLESS").is_some() && compression == "OFF" {
        bless(&captured)?;
    }
    oracle.close().await
}

/// Chance tables and rows; statements of one row and of many; all columns and some.
async fn chance(compression: &str) -> Result<()> {
    let seed = match env::var("DECODER_SEED") {
        Ok(seed) => seed.parse().context("DECODER_SEED is no number")?,
        Err(_) => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos() as u64,
    };
    let tables = match env::var("DECODER_TABLES") {
        Ok(tables) => tables.parse().context("DECODER_TABLES is no number")?,
        Err(_) => 12,
    };
    println!("DECODER_SEED={seed} DECODER_TABLES={tables} repeats this run");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut oracle = Oracle::open(&format!("decoder_chance_{}", compression.to_lowercase())).await?;
    oracle.run(&format!("SET SESSION binlog_transaction_compression = {compression}")).await?;
    let (mut expected, mut made) = (Vec::new(), Vec::new());
    for number in 0..tables {
        let columns = (0..rng.random_range(1..=24)).map(|_| columns::random_column(&mut rng)).collect();
        let table = Table::new(format!("t{number}"), columns);
        table.create(&mut oracle).await?;
        oracle.run("BEGIN").await?;
        for id in 0..20 {
            expected.push(table.insert(&mut oracle, id, &table.values(&mut rng)).await?);
            if rng.random() {
                expected.push(table.update(&mut oracle, id, &table.values(&mut rng)).await?);
            }
        }
        expected.extend(update_many(&table, &mut oracle).await?);
        for id in 0..20 {
            expected.push(table.delete(&mut oracle, id).await?);
        }
        oracle.run("COMMIT").await?;
        made.push(table);
    }
    let (captured, compressed) = oracle.captured().await?;
    ensure!(compressed == (compression == "ON"), "compression is {compression}");
    let describe = |table: &str| {
        let table = made.iter().find(|made| made.name == table);
        let columns = table.map(|table| table.columns.iter().map(|column| column.sql.as_str()).collect::<Vec<_>>());
        format!("seed {seed}, compression {compression}, {columns:?}")
    };
    compare(&captured, &expected, &describe)?;
    for event in &captured {
        let table = made.iter().find(|table| table.name == event.table).context("an event of a table of ours")?;
        some_columns(event, table, &mut rng).with_context(|| describe(&table.name))?;
    }
    oracle.close().await
}

/// One statement that changes all rows.
async fn update_many(table: &Table, oracle: &mut Oracle) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    for id in 0..20 {
        changes.push(table.change(RowOperation::Update, table.image(oracle, id).await?, Vec::new())?);
    }
    oracle.run(&format!("UPDATE {} SET version = 4000000000 - id ORDER BY id", table.name)).await?;
    for (id, change) in changes.iter_mut().enumerate() {
        change.after = table.image(oracle, id).await?;
    }
    Ok(changes)
}

/// A projection gives what the whole row gives, for its columns in its order.
fn some_columns(event: &Captured, table: &Table, rng: &mut StdRng) -> Result<()> {
    let mut places: Vec<usize> = (0..table.names.len()).filter(|_| rng.random()).collect();
    places.shuffle(rng);
    let names: Vec<&str> = places.iter().map(|place| table.names[*place].as_str()).collect();
    for (whole, some) in event.changes(None)?.iter().zip(event.changes(Some(&names))?) {
        for (image, part) in [(&whole.before, &some.before), (&whole.after, &some.after)] {
            if image.is_empty() {
                ensure!(part.is_empty(), "an image that is not there");
                continue;
            }
            let chosen: Image = places.iter().map(|place| image[*place].clone()).collect();
            ensure!(chosen == *part, "columns {names:?}");
        }
    }
    Ok(())
}

fn compare(captured: &[Captured], expected: &[Change], describe: &dyn Fn(&str) -> String) -> Result<()> {
    let mut decoded = Vec::new();
    for event in captured {
        decoded.extend(event.changes(None).with_context(|| describe(&event.table))?);
    }
    let mut differences = Vec::new();
    for (number, (got, want)) in decoded.iter().zip(expected).enumerate() {
        if got != want {
            differences.push(format!(
                "change {number}, {}\n  binlog {}\n  SELECT {}",
                describe(&want.table),
                shown(got),
                shown(want)
            ));
        }
    }
    let count = differences.len();
    differences.truncate(20);
    ensure!(count == 0, "{count} changes differ, the first are:\n{}", differences.join("\n"));
    ensure!(decoded.len() == expected.len(), "{} changes in the binlog, {} expected", decoded.len(), expected.len());
    println!("{} changes in {} events are what SELECT returned", decoded.len(), captured.len());
    Ok(())
}

fn shown(change: &Change) -> String {
    let image = |image: &Image| {
        let value = |value: &Option<Vec<u8>>| match value {
            None => "NULL".to_owned(),
            Some(bytes) => bytes[..bytes.len().min(400)].escape_ascii().to_string(),
        };
        image.iter().map(value).collect::<Vec<_>>().join(" | ")
    };
    format!("{:?} {} ({}) → ({})", change.operation, change.table, image(&change.before), image(&change.after))
}

/// Writes the first insert and update of each table as seeds of the fuzzer: the table map's length in 2 bytes, the table
/// map, the event's type, the event.
fn bless(captured: &[Captured]) -> Result<()> {
    const LARGEST: usize = 2048;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cdc-producer/fuzz/corpus/rows");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let mut written = std::collections::HashSet::new();
    for event in captured {
        let mut seed = u16::try_from(event.table_map.len())?.to_le_bytes().to_vec();
        seed.extend(&event.table_map);
        seed.push(event.event_type);
        seed.extend(&event.rows);
        // Each third event, so that more than the first values are there.
        if seed.len() <= LARGEST && written.insert((event.table.clone(), event.event_type)) {
            fs::write(folder.join(format!("{}-{}", event.table, event.event_type)), seed)?;
        }
    }
    println!("{} seeds in {}", written.len(), folder.display());
    Ok(())
}

#[tokio::test]
async fn edges_of_every_type() -> Result<()> {
    edges("OFF").await
}

#[tokio::test]
async fn edges_of_every_type_compressed() -> Result<()> {
    edges("ON").await
}

#[tokio::test]
async fn chance_tables() -> Result<()> {
    chance("OFF").await
}

#[tokio::test]
async fn chance_tables_compressed() -> Result<()> {
    chance("ON").await
}
