//! Applies files or random changes to the table, chunk by chunk, with pauses.

use std::path::{Path, PathBuf};
use std::time::Duration;

use model::error::{Code, Error, Result};
use model::escape;
use model::time::Micros;
use rand::Rng;
use runtime::config::{MySqlSettings, Origin, Pause};
use runtime::program::Context;
use runtime::telemetry::Watchdog;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::change::Place;
use crate::csv_file::{self, Chunk, CsvFile, Fault, Format};
use crate::doctor;
use crate::generate::{Generator, Mix};
use crate::outcome::{self, Outcome};
use crate::progress::Progress;
use crate::rejects::Rejects;
use crate::row_error::RowError;
use crate::store::Store;
use crate::table;
use crate::table_store::TableStore;
use crate::target::Target;
use crate::ties::Ties;
use crate::watch::Folder;

/// Rows in a transaction of random changes, unless a setting overrides it.
const GENERATED_CHUNK: usize = 5000;
/// How long a chunk may continue after a shutdown request.
const GRACE: Duration = Duration::from_secs(5);
/// How long to retry when the server is away or a lock is held, unless `--watch` is set.
const PATIENCE: Duration = Duration::from_secs(60);
/// Maximum bad rows of one file that are logged individually.
const REPORTED_FAULTS: u64 = 20;

/// Runs until the work is done or a shutdown is requested.
///
/// # Errors
/// Errors of the modules that it calls; with `--strict` also the first bad row.
pub(crate) async fn run(context: Context) -> Result<()> {
    let patience = if context.arguments.get_flag("watch") { Duration::MAX } else { PATIENCE };
    let strict = context.arguments.get_flag("strict");
    let mysql = MySqlSettings::from(&context.settings)?;
    let count = context.arguments.get_one::<u64>("generate").copied();
    let checks = context.arguments.subcommand_name() == Some("doctor");
    match (context.settings.optional("updater.table"), count) {
        (None, _) if checks => doctor::run(&mysql, true).await,
        (None, None) => {
            let store = Store::open(mysql, patience, strict).await?;
            Updater::new(context, store)?.run(async |updater| updater.apply_folder().await).await
        }
        (None, Some(count)) => {
            let store = Store::open(mysql, patience, strict).await?;
            Updater::new(context, store)?.run(async |updater| updater.generate(count).await).await
        }
        (Some(_), Some(_)) => Err(Error::new(Code::CommandLine, "--generate makes products: leave updater.table out")),
        (Some(name), None) => {
            let name = table::name(name, &mysql.database);
            let (database, table) = name.map_err(|fault| context.settings.wrong("updater.table", fault))?;
            let mysql = MySqlSettings { database, table, ..mysql };
            if checks {
                return doctor::run(&mysql, false).await;
            }
            let store = TableStore::open(mysql, patience, strict).await?;
            Updater::new(context, store)?.run(async |updater| updater.apply_folder().await).await
        }
    }
}

/// A file, and its next chunk.
type Read<T> = (CsvFile<<T as Target>::Format>, Chunk<<T as Target>::Change>);

struct Updater<T: Target> {
    context: Context,
    target: T,
    /// An answer is due while a chunk is being applied.
    mysql: Watchdog,
    chunk_rows: usize,
    pause: Option<Pause>,
    /// Whether a chunk of these files was applied.
    begun: bool,
    strict: bool,
    format: T::Format,
    rejects: PathBuf,
    /// The outcome of each file.
    files: Vec<(String, Outcome)>,
    /// The files with the rejected rows.
    left_out: Vec<PathBuf>,
}

impl<T: Target> Updater<T> {
    fn new(context: Context, target: T) -> Result<Self> {
        let settings = &context.settings;
        let pause = match context.arguments.get_flag("no-pause") {
            true => None,
            false => Some(settings.pause("updater.pause")?),
        };
        context.health.ready();
        if let Some(pause) = pause {
            context.health.set_deadline(pause.to + Duration::from_secs(60));
        }
        Ok(Self {
            pause,
            chunk_rows: settings.number("updater.chunk_size")?,
            begun: false,
            strict: context.arguments.get_flag("strict"),
            format: target.format(settings.bytes("updater.row_bytes")?),
            rejects: settings.path("updater.rejects"),
            files: Vec::new(),
            left_out: Vec::new(),
            mysql: context.health.watchdog("MySQL", Duration::from_secs(5)),
            target,
            context,
        })
    }

    /// Does the work, prints the final table and closes the connection.
    async fn run(mut self, work: impl AsyncFnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let result = work(&mut self).await;
        self.print_table();
        self.target.close().await;
        result
    }

    async fn apply_folder(&mut self) -> Result<()> {
        const LOOK_EVERY: Duration = Duration::from_secs(1);
        let path = self.context.settings.path("updater.data");
        let mut folder = Folder::new(path.clone());
        let files = folder.all()?;
        if files.is_empty() {
            tracing::warn!("no CSV files in {}", path.display());
        }
        self.apply_files(&files).await?;
        if !self.context.arguments.get_flag("watch") {
            return Ok(());
        }
        tracing::info!("watching {}", path.display());
        while self.sleep(LOOK_EVERY).await {
            self.context.health.progress();
            self.apply_files(&folder.changed()?).await?;
        }
        Ok(())
    }

    /// Applies files in their order, after checking that all of them can be opened.
    async fn apply_files(&mut self, files: &[PathBuf]) -> Result<()> {
        for path in files {
            drop(CsvFile::open(path, self.format.clone())?);
        }
        self.begun = false;
        self.target.begin(files, &self.format);
        for (file, path) in files.iter().enumerate() {
            let name = name_of(path);
            let mut outcome = Outcome::default();
            let mut rejects = Rejects::new(&self.rejects, &name)?;
            let number = Ties::first_number(file);
            let result = self.apply_file(path, &mut rejects, number, &mut outcome).await;
            if outcome.rejected > 0 {
                self.left_out.push(rejects.path().to_owned());
            }
            rejects.close()?;
            self.files.push((name, outcome));
            result?;
            if self.context.shutdown.is_cancelled() {
                break;
            }
        }
        Ok(())
    }

    async fn apply_file(
        &mut self,
        path: &Path,
        rejects: &mut Rejects,
        mut number: u64,
        outcome: &mut Outcome,
    ) -> Result<()> {
        let file = match CsvFile::open(path, self.format.clone())? {
            Ok(file) => file,
            Err((fault, header)) => {
                self.reject(path, &fault, outcome)?;
                return rejects.add(&fault, &header);
            }
        };
        let progress = Progress::new(name_of(path), std::fs::metadata(path).map_or(0, |m| m.len()));
        let mut reading = self.read_chunk(file);
        loop {
            let died = |_| Err(Error::definite(format!("the thread that reads {} has died", path.display())));
            let (file, chunk) = reading.await.unwrap_or_else(died)?;
            let at_end = chunk.at_end;
            // Reads the next chunk while this one is applied.
            reading = self.read_chunk(file);
            for (fault, record) in &chunk.bad {
                self.reject(path, fault, outcome)?;
                rejects.add(fault, record)?;
            }
            if !chunk.changes.is_empty() {
                if !self.pause_before_next_chunk().await {
                    break;
                }
                let refused = self.apply_chunk(number, &chunk.changes, outcome).await;
                let refused = refused.map_err(|e| e.at(&path.display().to_string()))?;
                for (change, RowError { column, reason }) in refused {
                    let Place { line, byte } = T::Format::place(change);
                    let fault = Fault { line, column, reason };
                    self.reject(path, &fault, outcome)?;
                    rejects.add(&fault, &csv_file::row_at(path, byte, self.format.row_bytes())?)?;
                }
                number += chunk.changes.len() as u64;
                progress.show(chunk.read_bytes, outcome);
            }
            if at_end || self.context.shutdown.is_cancelled() {
                break;
            }
        }
        progress.end(outcome);
        Ok(())
    }

    /// Reads the next chunk in a separate thread.
    fn read_chunk(&self, mut file: CsvFile<T::Format>) -> JoinHandle<Result<Read<T>>> {
        let rows = self.chunk_rows;
        tokio::task::spawn_blocking(move || file.next_chunk(rows).map(|chunk| (file, chunk)))
    }

    /// Applies a chunk; returns the changes that the table refused.
    async fn apply_chunk<'a>(
        &mut self,
        number: u64,
        chunk: &'a [T::Change],
        outcome: &mut Outcome,
    ) -> Result<Vec<(&'a T::Change, RowError)>> {
        let before = *outcome;
        let out_of_time = async {
            self.context.shutdown.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        self.mysql.wait();
        let applied = tokio::select! {
            applied = self.target.apply(number, chunk) => applied?,
            () = out_of_time => {
                tracing::warn!("stopped while the server did not answer; the last chunk may be missing, run again");
                return Ok(Vec::new());
            }
        };
        self.mysql.rest();
        let is_undone = self.strict && applied.iter().any(std::result::Result::is_err);
        let mut refused = Vec::new();
        for (change, applied) in chunk.iter().zip(applied) {
            match applied {
                Err(refusal) => refused.push((change, refusal)),
                Ok(effect) if !is_undone => outcome.count(effect),
                Ok(_) => {}
            }
        }
        let metrics = &self.context.metrics;
        let count = |effect, n| {
            metrics
                .counter("product_updater_rows_total", "Rows of the data by what they did.", &[("effect", effect)])
                .add(n);
        };
        count("inserted", outcome.inserted - before.inserted);
        count("updated", outcome.updated - before.updated);
        count("deleted", outcome.deleted - before.deleted);
        count("skipped", outcome.unchanged + outcome.older - before.unchanged - before.older);
        self.context.health.progress();
        Ok(refused)
    }

    fn reject(&self, path: &Path, fault: &Fault, outcome: &mut Outcome) -> Result<()> {
        let path = path.display();
        if self.strict {
            return Err(Error::new(Code::CsvRefused, format!("{path}, {fault}"))
                .with_remedy("correct it and run again, or leave --strict out to put such rows aside"));
        }
        outcome.reject();
        self.context
            .metrics
            .counter("product_updater_rows_total", "Rows of the data by what they did.", &[("effect", "rejected")])
            .add(1);
        if outcome.rejected <= REPORTED_FAULTS {
            tracing::warn!("{path}, {fault}");
        } else if outcome.rejected == REPORTED_FAULTS + 1 {
            tracing::warn!("{path} has more bad rows; all are in the rejects file");
        }
        Ok(())
    }

    /// Waits between two chunks; false when a shutdown was requested meanwhile.
    async fn pause_before_next_chunk(&mut self) -> bool {
        match self.pause {
            Some(pause) if std::mem::replace(&mut self.begun, true) => {
                let millis = |d: Duration| d.as_millis() as u64;
                let pause = rand::rng().random_range(millis(pause.from)..=millis(pause.to));
                self.sleep(Duration::from_millis(pause)).await
            }
            _ => !self.context.shutdown.is_cancelled(),
        }
    }

    /// Waits; false when a shutdown was requested meanwhile.
    async fn sleep(&self, time: Duration) -> bool {
        tokio::select! {
            () = self.context.shutdown.cancelled() => false,
            () = tokio::time::sleep(time) => true,
        }
    }

    fn print_table(&self) {
        if self.files.is_empty() {
            return;
        }
        print!("{}", outcome::table(&self.files));
        for path in &self.left_out {
            println!("rejected rows: {}", escape::shown(&path.display().to_string()));
        }
    }
}

impl Updater<Store> {
    async fn generate(&mut self, count: u64) -> Result<()> {
        let arguments = &self.context.arguments;
        let number = |name: &str| arguments.get_one::<u64>(name).copied();
        let mix = Mix { updates: number("updates").unwrap_or(0), deletes: number("deletes").unwrap_or(0) };
        if mix.updates + mix.deletes > 100 {
            return Err(Error::new(
                Code::CommandLine,
                format!("--updates {} and --deletes {} are more than 100 percent", mix.updates, mix.deletes),
            ));
        }
        let (rate, seed) = (number("rate"), number("seed").unwrap_or(1));
        let asked_for = !matches!(self.context.settings.origin("updater.chunk_size"), Some(Origin::Default(_)) | None);
        let mut chunk_rows = if asked_for { self.chunk_rows } else { GENERATED_CHUNK };
        if let Some(rate) = rate {
            // Ten transactions a second look like a continuous stream.
            chunk_rows = chunk_rows.min(usize::try_from(rate / 10).unwrap_or(chunk_rows)).max(1);
        }
        let stock = self.target.stock().await?;
        let mut generator = Generator::new(seed, mix, stock);
        let progress = Progress::new("random changes", count);
        let (started, mut done, mut outcome) = (Instant::now(), 0, Outcome::default());
        while done < count && !self.context.shutdown.is_cancelled() {
            let now = Micros::now();
            let rows = usize::try_from(count - done).unwrap_or(chunk_rows).min(chunk_rows);
            let chunk = (0..rows).map(|_| generator.next(now)).collect::<Result<Vec<_>>>()?;
            // Times only grow, so there are no ties.
            let refused = self.apply_chunk(done, &chunk, &mut outcome).await?;
            if let Some((change, refusal)) = refused.first() {
                return Err(Error::new(
                    Code::CsvRefused,
                    format!("random change of product {}: {}", change.id, refusal.reason),
                )
                .with_remedy("random changes need a table that takes any name, category and price"));
            }
            done += rows as u64;
            progress.show(done, &outcome);
            if let Some(rate) = rate {
                let due = Duration::from_secs_f64(done as f64 / rate as f64);
                self.sleep(due.saturating_sub(started.elapsed())).await;
            }
        }
        progress.end(&outcome);
        self.files.push(("random changes".to_owned(), outcome));
        Ok(())
    }
}

/// The file's name alone.
fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned())
}
