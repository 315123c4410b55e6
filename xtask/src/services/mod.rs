//! Real servers on 127.0.0.1: MySQL, Kafka, a schema registry, PostgreSQL.
//!
//! Each is found on the machine or fetched, its data lies in a folder of ours, and none outlives the process that
//! started it.

mod kafka;
mod mysql;
mod postgres;
mod registry;
pub mod server;

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

pub use kafka::Kafka;
pub use mysql::{ADMIN, CDC, DATABASE, MySql, MySqlOptions, UPDATER};
pub use postgres::Postgres;
pub use registry::Registry;

use crate::machine::{self, Need};
use crate::progress;

/// Where a stack lies and what it is started with.
#[derive(Debug, Clone, Default)]
pub struct StackOptions {
    /// The folder of all data and logs.
    pub dir: PathBuf,
    /// Ports; free ones where none is asked for.
    pub ports: Ports,
    /// More flags for mysqld.
    pub mysql_flags: Vec<String>,
}

/// The ports asked for.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Ports {
    /// Port for MySQL
    #[arg(long, value_name = "PORT", help_heading = "Ports on 127.0.0.1 (default: free ones)")]
    pub mysql_port: Option<u16>,
    /// Port for Kafka
    #[arg(long, value_name = "PORT", help_heading = "Ports on 127.0.0.1 (default: free ones)")]
    pub kafka_port: Option<u16>,
    /// Port for the schema registry
    #[arg(long, value_name = "PORT", help_heading = "Ports on 127.0.0.1 (default: free ones)")]
    pub registry_port: Option<u16>,
    /// Port for PostgreSQL
    #[arg(long, value_name = "PORT", help_heading = "Ports on 127.0.0.1 (default: free ones)")]
    pub postgres_port: Option<u16>,
}

/// The four servers, running. Dropping it stops them.
#[derive(Debug)]
pub struct Stack {
    /// MySQL.
    pub mysql: MySql,
    /// Kafka.
    pub kafka: Kafka,
    /// The schema registry.
    pub registry: Registry,
    /// PostgreSQL.
    pub postgres: Postgres,
    dir: PathBuf,
    _lock: File,
}

impl Stack {
    /// Starts all four at once and waits until each takes requests. Data that is there is used again.
    ///
    /// # Errors
    /// When the folder is in use, or the first of the servers' own errors.
    pub fn start(options: &StackOptions) -> Result<Self> {
        machine::ensure(&[Need::Java, Need::PostgreSql])?;
        fs::create_dir_all(&options.dir).with_context(|| format!("cannot create {}", options.dir.display()))?;
        let dir = options.dir.canonicalize()?;
        let lock =
            lock(&dir)?.ok_or_else(|| anyhow!("{} is in use: stop it with `cargo xtask down`", dir.display()))?;
        let mysql_options = MySqlOptions {
            folder: dir.join("mysql"),
            port: options.ports.mysql_port,
            flags: options.mysql_flags.clone(),
        };
        let ports = options.ports;
        let (mysql, kafka, registry, postgres) = std::thread::scope(|scope| {
            let mysql = scope.spawn(|| {
                shown("MySQL", |say| MySql::start(&mysql_options, say), |m| format!("{} on port {}", m.version, m.port))
            });
            let kafka = scope.spawn(|| {
                shown(
                    "Kafka",
                    |say| Kafka::start(&dir.join("kafka"), ports.kafka_port, say),
                    |k| format!("on port {}", k.port),
                )
            });
            let registry = scope.spawn(|| {
                let start = |say: &dyn Fn(&str)| Registry::start(&dir.join("registry"), ports.registry_port, say);
                shown("Registry", start, |r| format!("on port {}", r.port))
            });
            let postgres = scope.spawn(|| {
                let start = |say: &dyn Fn(&str)| Postgres::start(&dir.join("postgres"), ports.postgres_port, say);
                shown("PostgreSQL", start, |p| format!("{} on port {}", p.version, p.port))
            });
            (joined(mysql), joined(kafka), joined(registry), joined(postgres))
        });
        Ok(Self { mysql: mysql?, kafka: kafka?, registry: registry?, postgres: postgres?, dir, _lock: lock })
    }

    /// The folder of all data and logs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The environment that points the programs to these servers.
    pub fn env(&self) -> Vec<(String, String)> {
        let settings = [
            ("DB_HOST", "127.0.0.1".to_owned()),
            ("DB_PORT", self.mysql.port.to_string()),
            ("DB_USER", ADMIN.0.to_owned()),
            ("DB_PASSWORD", ADMIN.1.to_owned()),
            ("DB_NAME", DATABASE.to_owned()),
            ("KAFKA_BOOTSTRAP_SERVERS", format!("127.0.0.1:{}", self.kafka.port)),
            ("SCHEMA_REGISTRY_URL", self.registry.url()),
            ("POSTGRES_URL", self.postgres.url()),
        ];
        settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The first server that has ended by itself, with the end of its log.
    ///
    /// # Errors
    /// That server's end.
    pub fn check(&mut self) -> Result<()> {
        for (name, server) in self.servers() {
            if let Some(status) = server.try_status()? {
                bail!("{name} ended with {status}{}", server.tail());
            }
        }
        Ok(())
    }

    /// Stops all four in order, at the same time.
    ///
    /// # Errors
    /// When one of them cannot be waited for.
    pub fn stop(&mut self) -> Result<()> {
        for (_, server) in self.servers() {
            server.ask_to_stop();
        }
        for (_, server) in self.servers() {
            server.stop()?;
        }
        Ok(())
    }

    fn servers(&mut self) -> [(&'static str, &mut server::Server); 4] {
        [
            ("MySQL", &mut self.mysql.server),
            ("Kafka", &mut self.kafka.server),
            ("the schema registry", &mut self.registry.server),
            ("PostgreSQL", &mut self.postgres.server),
        ]
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            progress::note(&format!("warning: {error:#}"));
        }
    }
}

/// The lock of a stack's folder, `None` when another process holds it.
///
/// # Errors
/// When the file cannot be made.
pub fn lock(dir: &Path) -> Result<Option<File>> {
    let path = dir.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

fn shown<T>(
    name: &str,
    start: impl FnOnce(&dyn Fn(&str)) -> Result<T>,
    result: impl FnOnce(&T) -> String,
) -> Result<T> {
    let step = progress::step(name, "looking for it");
    let server = start(&|doing| step.say(doing))?;
    step.done(&result(&server));
    Ok(server)
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| Err(anyhow!("a thread that starts a server panicked")))
}

/// Copies a folder with owners and rights.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    let part = to.with_extension("part");
    if part.exists() {
        fs::remove_dir_all(&part)?;
    }
    machine::run(Command::new("cp").args(["-a", "--reflink=auto", "--sparse=always"]).arg(from).arg(&part))?;
    fs::rename(&part, to).with_context(|| format!("cannot create {}", to.display()))
}
