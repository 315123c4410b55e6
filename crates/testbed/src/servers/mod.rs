//! Real servers on 127.0.0.1: MySQL, Kafka, a schema registry, PostgreSQL.
//!
//! Each server is found on the machine or downloaded, keeps its data in a folder of the stack, and ends with the
//! process that started it.

mod copy;
mod kafka;
mod kafka_security;
mod mysql;
mod pgbouncer;
mod postgres;
mod registry;
pub mod server;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

pub use copy::copy_folder;
pub use kafka::{Kafka, KafkaOptions};
pub use kafka_security::{KafkaSecurity, KafkaUser, Mechanism};
pub use mysql::{ADMIN, CDC, DATABASE, MySql, MySqlOptions, UPDATER, VERIFY, follow};
pub use pgbouncer::PgBouncer;
pub use postgres::Postgres;
pub use registry::Registry;

use server::joined;

use crate::downloads;
use crate::machine::{self, Need};
use crate::progress::{self, Say};

/// The folder and the options of a stack.
#[derive(Debug, Clone, Default)]
pub struct StackOptions {
    /// The folder of all data and logs.
    pub dir: PathBuf,
    /// Ports; free ones where none is asked for.
    pub ports: Ports,
    /// More flags for mysqld.
    pub mysql_flags: Vec<String>,
    /// More lines of Kafka's configuration.
    pub kafka_settings: Vec<String>,
    /// As [`KafkaOptions::as_shipped`].
    pub kafka_as_shipped: bool,
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

impl Ports {
    /// Reports a port in use at once, before slower servers start.
    fn check(self) -> Result<()> {
        let asked = [
            ("MySQL", self.mysql_port),
            ("Kafka", self.kafka_port),
            ("the schema registry", self.registry_port),
            ("PostgreSQL", self.postgres_port),
        ];
        asked.into_iter().try_for_each(|(name, port)| server::port_or_free(name, port).map(drop))
    }
}

/// What the machine must have installed to run the servers.
///
/// # Errors
/// When there is no cache folder.
pub fn needs() -> Result<Vec<Need>> {
    Ok([&[Need::Java, Need::PostgreSql], downloads::needs()?].concat())
}

/// Installs and downloads everything for the build and the servers, and starts nothing.
///
/// # Errors
/// When something can't be installed or downloaded.
pub fn fetch() -> Result<()> {
    machine::ensure(
        &[&[Need::Compiler, Need::Libraries, Need::Valgrind, Need::Browser], needs()?.as_slice()].concat(),
    )?;
    let place = |folder: &PathBuf| folder.display().to_string();
    shown("Kafka", |say| downloads::kafka(&downloads::kafka_version(), say), place)?;
    shown("Registry", |say| downloads::registry(say), place)?;
    shown("MySQL", |say| mysql::find(say), place)?;
    shown("Prometheus", |say| downloads::prometheus(say), place)?;
    Ok(())
}

/// The four running servers. Dropping it stops them.
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
    /// Starts all four at once and waits until each accepts requests. Existing data is used again.
    ///
    /// # Errors
    /// When the folder is in use, or the first error of a server.
    pub fn start(options: &StackOptions) -> Result<Self> {
        machine::ensure(&needs()?)?;
        fs::create_dir_all(&options.dir).with_context(|| format!("cannot create {}", options.dir.display()))?;
        let dir = options.dir.canonicalize()?;
        let lock = lock(&dir)?.ok_or_else(|| anyhow!("{}", in_use(&dir)))?;
        let mysql_options = MySqlOptions {
            folder: dir.join("mysql"),
            port: options.ports.mysql_port,
            flags: options.mysql_flags.clone(),
        };
        let ports = options.ports;
        let mut kafka_settings = options.kafka_settings.clone();
        // Nobody kills this broker, and no other one could lead: a machine that stands still for some seconds must not
        // make the controller fence it, after which all partitions have no leader for a while.
        kafka_settings.push("broker.session.timeout.ms=30000".to_owned());
        let kafka_options = KafkaOptions {
            folder: dir.join("kafka"),
            port: ports.kafka_port,
            settings: kafka_settings,
            as_shipped: options.kafka_as_shipped,
            ..KafkaOptions::default()
        };
        ports.check()?;
        let (mysql, kafka, registry, postgres) = std::thread::scope(|scope| {
            let mysql = scope.spawn(|| {
                shown("MySQL", |say| MySql::start(&mysql_options, say), |m| format!("{} on port {}", m.version, m.port))
            });
            let kafka = scope
                .spawn(|| shown("Kafka", |say| Kafka::start(&kafka_options, say), |k| format!("on port {}", k.port)));
            let registry = scope.spawn(|| {
                let start = |say: Say<'_>| Registry::start(&dir.join("registry"), ports.registry_port, say);
                shown("Registry", start, |r| format!("on port {}", r.port))
            });
            let postgres = scope.spawn(|| {
                let start = |say: Say<'_>| Postgres::start(&dir.join("postgres"), ports.postgres_port, say);
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

    /// Returns an error with the end of its log for the first server that has ended.
    ///
    /// # Errors
    /// The end of that server.
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
    /// When a server's end can't be waited for.
    pub fn stop(&mut self) -> Result<()> {
        for (_, server) in self.servers() {
            server.ask_to_stop();
        }
        for (_, server) in self.servers() {
            server.stop()?;
        }
        Ok(())
    }

    /// Kills all four, for when their data is no longer needed: Kafka alone takes 9 s to stop in order.
    ///
    /// # Errors
    /// When a server's end can't be waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.servers().into_iter().try_for_each(|(_, server)| server.kill())
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

/// Locks a stack's folder; `None` when another process holds the lock. The file contains its holder's process id.
///
/// # Errors
/// When the file cannot be made.
pub fn lock(dir: &Path) -> Result<Option<File>> {
    let path = dir.join("lock");
    let file = OpenOptions::new().create(true).write(true).truncate(false).open(&path);
    let mut file = file.with_context(|| format!("cannot create {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0)?;
            write!(file, "{}", std::process::id())?;
            Ok(Some(file))
        }
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// The process that holds the lock of this folder: `process 4711 (xtask up)`.
pub fn holder(dir: &Path) -> String {
    let id = fs::read_to_string(dir.join("lock")).unwrap_or_default();
    // Nothing can be read when the process has just ended.
    let command = fs::read_to_string(format!("/proc/{}/cmdline", id.trim())).unwrap_or_default();
    let (program, arguments) = command.split_once('\0').unwrap_or_default();
    let program = program.rsplit('/').next().unwrap_or_default();
    format!("process {} ({})", id.trim(), format!("{program} {}", arguments.replace('\0', " ")).trim())
}

/// The error that another process holds the lock of this folder.
pub(crate) fn in_use(dir: &Path) -> String {
    format!("{} is in use by {}\n  what to do: `cargo xtask down` stops it", dir.display(), holder(dir))
}

fn shown<T>(name: &str, start: impl FnOnce(Say<'_>) -> Result<T>, result: impl FnOnce(&T) -> String) -> Result<T> {
    let step = progress::step(name, "looking for it");
    let server = start(&|doing| step.say(doing))?;
    step.done(&result(&server));
    Ok(server)
}
