//! The row decoder against the real server: what it reads from the binlog is what SELECT returns.
//!
//! `DECODER_SEED` repeats a run, `DECODER_TABLES` sets how many random tables there are, and `DECODER_BLESS=1` writes
//! the fuzzer's seed corpus.

#[allow(clippy::expect_used, reason = "the invariants of a table of test data")]
mod columns;
mod oracle;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::Path,
    time::SystemTime,
};

use anyhow::{Context, Result, ensure};
use columns::Column;
use mysql::binlog::{RowOperation, TableLayout};
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

/// Each type alone: all its edges and NULL, inserted, updated to the next edge, and deleted.
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
async fn random_table(compression: &str) -> Result<()> {
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
                shown(got, want),
                shown(want, got)
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

/// The values that differ, or all when it is not only values.
fn shown(change: &Change, other: &Change) -> String {
    let image = |image: &Image, other: &Image| {
        let value = |value: &Option<Vec<u8>>| match value {
            None => "NULL".to_owned(),
            Some(bytes) => bytes[..bytes.len().min(400)].escape_ascii().to_string(),
        };
        let differ = |(place, own): (usize, &Option<Vec<u8>>)| {
            (image.len() != other.len() || other[place] != *own).then(|| format!("{place}: {}", value(own)))
        };
        image.iter().enumerate().filter_map(differ).collect::<Vec<_>>().join(", ")
    };
    let (before, after) = (image(&change.before, &other.before), image(&change.after, &other.after));
    format!("{:?} {} ({before}) → ({after})", change.operation, change.table)
}

/// Writes seeds of the fuzzer: the table map's length in 2 bytes, the table map, the event's type, the event. Of each
/// table it is the largest update that is small enough, of some an insert and a delete too.
fn bless(captured: &[Captured]) -> Result<()> {
    const UPDATE: u8 = 31;
    const LARGEST: usize = 1500;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzzing/seeds/rows");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("empty {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let mut largest: BTreeMap<(&str, u8), Vec<u8>> = BTreeMap::new();
    for event in captured.iter().filter(|event| event.event_type == UPDATE || event.table.ends_with('0')) {
        let mut seed = u16::try_from(event.table_map.len())?.to_le_bytes().to_vec();
        seed.extend(&event.table_map);
        seed.push(event.event_type);
        seed.extend(&event.rows);
        let kept = largest.entry((&event.table, event.event_type)).or_default();
        if kept.len() < seed.len() && seed.len() <= LARGEST {
            *kept = seed;
        }
    }
    largest.retain(|_, seed| !seed.is_empty());
    for ((table, event_type), seed) in &largest {
        fs::write(folder.join(format!("{table}-{event_type}")), seed)?;
    }
    println!("{} seeds in {}", largest.len(), folder.display());
    Ok(())
}

/// Columns that SELECT * hides and columns that are computed: which of them are in the binlog, and under which names.
#[tokio::test]
async fn hidden_and_generated_columns() -> Result<()> {
    let mut oracle = Oracle::open("decoder_hidden").await?;
    oracle.run("SET SESSION sql_generate_invisible_primary_key = ON").await?;
    let columns = "a INT, kept INT AS (a + 1) STORED, computed BIGINT UNSIGNED AS (a + 2) VIRTUAL, \
                   unseen VARCHAR(9) INVISIBLE DEFAULT 'here', tags JSON, `größe` INT UNSIGNED, \
                   KEY ((a * 2)), KEY ((CAST(tags AS UNSIGNED ARRAY)))";
    oracle.run(&format!("CREATE TABLE t ({columns})")).await?;
    oracle.run("INSERT INTO t (a, tags, `größe`) VALUES (5, '[1, 2]', 4294967295)").await?;
    oracle.run("UPDATE t SET a = -7").await?;
    oracle.run("DELETE FROM t").await?;
    let (captured, _) = oracle.captured().await?;
    let names = ["my_row_id", "a", "kept", "unseen", "tags", "größe"];
    let layout = TableLayout::parse(&captured[0].table_map)?;
    let in_binlog: Vec<_> = layout.columns.iter().map(|column| column.name.as_str()).collect();
    ensure!(names.iter().all(|name| in_binlog.contains(name)), "the binlog has {in_binlog:?}");
    let key = layout.primary_key.iter().map(|key| layout.columns[key.column].name.as_str()).collect::<Vec<_>>();
    ensure!(key == ["my_row_id"], "the key is {key:?}");
    let hidden: Vec<_> = layout.columns.iter().filter(|column| !column.visible).map(|column| &column.name).collect();
    ensure!(hidden == ["my_row_id", "unseen"], "invisible are {hidden:?}");
    let row = |a: &str, kept: &str| -> Image {
        ["1", a, kept, "here", "[1, 2]", "4294967295"].iter().map(|text| Some(text.as_bytes().to_vec())).collect()
    };
    let mut changes = Vec::new();
    for event in &captured {
        changes.extend(event.changes(Some(&names))?.into_iter().map(|change| (change.before, change.after)));
    }
    let (first, second) = (row("5", "6"), row("-7", "-6"));
    ensure!(
        changes == [(vec![], first.clone()), (first, second.clone()), (second, vec![])],
        "the binlog says {changes:?}"
    );
    oracle.close().await
}

/// With `binlog_row_image=MINIMAL` an update holds its key and what it changed: enough for who wants no more, and
/// refused with column and remedy for who does.
#[tokio::test]
async fn minimal_images() -> Result<()> {
    let mut oracle = Oracle::open("decoder_minimal").await?;
    oracle.run("SET SESSION binlog_row_image = MINIMAL").await?;
    oracle.run("CREATE TABLE t (id INT PRIMARY KEY, a VARCHAR(20), b INT)").await?;
    oracle.run("INSERT INTO t VALUES (1, 'text', 2)").await?;
    oracle.run("UPDATE t SET b = 3").await?;
    oracle.run("DELETE FROM t").await?;
    let (captured, _) = oracle.captured().await?;
    let [insert, update, delete] = &captured[..] else { anyhow::bail!("{} events", captured.len()) };
    let deleted = delete.changes(Some(&["id"]))?;
    ensure!(deleted.len() == 1 && deleted[0].before == [Some(b"1".to_vec())], "deleted {deleted:?}");
    ensure!(insert.changes(None)?.len() == 1, "an insert that sets all columns holds them all");
    for (event, column) in [(update, "a"), (update, "b"), (delete, "a")] {
        let error = event.changes(Some(&["id", column])).err().context("the image is not whole")?.to_string();
        ensure!(error.contains("binlog_row_image=FULL") && error.contains("decoder_minimal.t"), "{error}");
        ensure!(error.contains(&format!("leaves out column {column} ")), "{error}");
    }
    oracle.close().await
}

/// Each collation of the server is read as its charset, or refused by the charset's name.
#[tokio::test]
async fn every_collation() -> Result<()> {
    let mut oracle = Oracle::open("decoder_collations").await?;
    let query = "SELECT COLLATION_NAME, CHARACTER_SET_NAME FROM information_schema.COLLATIONS ORDER BY ID";
    let text = |value: &Option<Vec<u8>>| String::from_utf8_lossy(value.as_deref().unwrap_or_default()).into_owned();
    let collations: Vec<_> = oracle.select(query).await?.iter().map(|row| (text(&row[0]), text(&row[1]))).collect();
    for (number, (collation, charset)) in collations.iter().enumerate() {
        let charset =
            if charset == "binary" { "CHARACTER SET binary".to_owned() } else { format!("COLLATE {collation}") };
        oracle.run(&format!("CREATE TABLE t{number} (c VARCHAR(20) {charset})")).await?;
        oracle.run(&format!("INSERT INTO t{number} VALUES ('text')")).await?;
    }
    let (captured, _) = oracle.captured().await?;
    ensure!(captured.len() == collations.len(), "one event for each collation");
    let mut refused = BTreeSet::new();
    for (event, (collation, charset)) in captured.iter().zip(&collations) {
        match event.changes(None) {
            Ok(changes) => {
                let expected = [Some(b"text".to_vec())];
                ensure!(changes.len() == 1 && changes[0].after == expected, "{collation}: {:?}", changes[0].after);
                ensure!(CONVERTED.contains(&charset.as_str()), "{collation} is of {charset}, which is not converted");
            }
            Err(error) => {
                let error = error.to_string();
                ensure!(error.contains(&format!("its charset is {charset} ")), "{collation} is refused with: {error}");
                refused.insert(charset);
            }
        }
    }
    let wrongly: Vec<_> = refused.iter().filter(|charset| CONVERTED.contains(&charset.as_str())).collect();
    ensure!(wrongly.is_empty(), "refused {wrongly:?}");
    oracle.close().await
}

const CONVERTED: [&str; 9] = ["utf8mb4", "utf8mb3", "ascii", "latin1", "binary", "ucs2", "utf16", "utf16le", "utf32"];

#[tokio::test]
async fn edges_of_every_type() -> Result<()> {
    edges("OFF").await
}

#[tokio::test]
async fn edges_of_every_type_compressed() -> Result<()> {
    edges("ON").await
}

#[tokio::test]
async fn random_tables() -> Result<()> {
    random_table("OFF").await
}

#[tokio::test]
async fn random_tables_compressed() -> Result<()> {
    random_table("ON").await
}
