//! A world with servers of its own and the programs running in it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::SeedableRng;
use rand::rngs::StdRng;
use xtask::services::server::free_port;
use xtask::services::{ADMIN, Kafka, KafkaOptions, MySql, MySqlOptions, Postgres, Registry};

use crate::{Link, Proxy, Running, World};

/// How many consumers run when nothing else is said.
pub const CONSUMERS: usize = 5;

/// Servers that live as long as a whole run: MySQL, Kafka, registry, PostgreSQL, each behind a proxy.
pub struct Servers {
    /// MySQL, with GTIDs.
    pub mysql: MySql,
    /// The brokers; one, or three with replication.
    pub kafka: Vec<Kafka>,
    /// The schema registry.
    pub registry: Registry,
    /// PostgreSQL.
    pub postgres: Postgres,
    /// The programs' way to MySQL.
    pub to_mysql: Proxy,
    /// Their way to each broker.
    pub to_kafka: Vec<Proxy>,
    /// Their way to the registry.
    pub to_registry: Proxy,
    /// Their way to PostgreSQL.
    pub to_postgres: Proxy,
}

/// A topic, a table, logs and the programs that work on them.
pub struct Arena {
    /// The servers.
    pub servers: Servers,
    /// Names, folders and the programs' environment.
    pub world: World,
    /// `None` while it does not run.
    pub producer: Option<Running>,
    /// By the number of their log; `None` while one does not run.
    pub consumers: Vec<Option<Running>>,
    /// Where every decision of chance comes from.
    pub chance: StdRng,
}

impl Servers {
    /// Starts them with their data under `folder`, with this many brokers.
    ///
    /// # Errors
    /// When one of them does not start.
    pub fn start(folder: &Path, brokers: usize) -> Result<Self> {
        let mysql = MySqlOptions { folder: folder.join("mysql"), ..MySqlOptions::default() };
        let mysql = MySql::start(&mysql, &|_| {})?;
        let registry = Registry::start(&folder.join("registry"), None, &|_| {})?;
        let postgres = Postgres::start(&folder.join("postgres"), None, &|_| {})?;
        let mut to_kafka = Vec::new();
        let mut options = Vec::new();
        for broker in 0..brokers {
            let port = free_port()?;
            let proxy = Proxy::start(port);
            let folder = folder.join(format!("kafka-{broker}"));
            options.push(KafkaOptions { folder, port: Some(port), advertised: Some(proxy.port()) });
            to_kafka.push(proxy);
        }
        let kafka = Kafka::start_cluster(&options, &|_| {})?;
        let [to_mysql, to_registry, to_postgres] = [mysql.port, registry.port, postgres.port].map(Proxy::start);
        Ok(Self { mysql, kafka, registry, postgres, to_mysql, to_kafka, to_registry, to_postgres })
    }

    /// The value of a program's variable for one of these servers, through the proxies.
    fn variable(&self, name: &str) -> Option<String> {
        Some(match name {
            "DB_HOST" => "127.0.0.1".to_owned(),
            "DB_PORT" => self.to_mysql.port().to_string(),
            "DB_USER" => ADMIN.0.to_owned(),
            "DB_PASSWORD" => ADMIN.1.to_owned(),
            "KAFKA_BOOTSTRAP_SERVERS" => {
                let brokers: Vec<String> = self.to_kafka.iter().map(|p| format!("127.0.0.1:{}", p.port())).collect();
                brokers.join(",")
            }
            "SCHEMA_REGISTRY_URL" => format!("http://127.0.0.1:{}/apis/ccompat/v7", self.to_registry.port()),
            _ => return None,
        })
    }

    /// Every link carries everything again.
    pub fn heal_links(&self) {
        let links = self.to_kafka.iter().chain([&self.to_mysql, &self.to_registry, &self.to_postgres]);
        links.for_each(|link| link.set(Link::Open));
    }
}

impl Arena {
    /// A fresh world on these servers, with PostgreSQL on. Nothing runs yet.
    pub fn new(servers: Servers, name: &str, seed: u64) -> Self {
        let mut world = World::on(name, |variable| servers.variable(variable));
        let (server, _) =
            servers.postgres.url().rsplit_once('/').map(|(s, d)| (s.to_owned(), d.to_owned())).expect("a URL");
        let server =
            server.replace(&format!(":{}", servers.postgres.port), &format!(":{}", servers.to_postgres.port()));
        world.set("POSTGRES_URL", format!("{server}/{}", world.name));
        world.set("METRICS_LISTEN", "127.0.0.1:0");
        world.set("KAFKA_SESSION_TIMEOUT", "6s");
        world.set("KAFKA_TRANSACTION_TIMEOUT", "10s");
        world.set("PRODUCER_SNAPSHOT_CHUNK", "500");
        Self { servers, world, producer: None, consumers: Vec::new(), chance: StdRng::seed_from_u64(seed) }
    }

    /// Starts the producer, which must not be running.
    pub fn start_producer(&mut self) {
        self.start_producer_with(&[]);
    }

    /// Starts the producer with more variables, such as `FAILPOINTS`.
    pub fn start_producer_with(&mut self, variables: &[(&str, &str)]) {
        self.producer = Some(self.start_with("cdc-producer", "cdc-producer", variables));
    }

    /// Starts consumer `number` (from 0), which must not be running.
    pub fn start_consumer(&mut self, number: usize) {
        self.start_consumer_with(number, &[]);
    }

    /// Starts consumer `number` with more variables.
    pub fn start_consumer_with(&mut self, number: usize, variables: &[(&str, &str)]) {
        if self.consumers.len() <= number {
            self.consumers.resize_with(number + 1, || None);
        }
        self.consumers[number] = Some(self.start_with("consumer", &format!("consumer{number}"), variables));
    }

    fn start_with(&self, program: &str, log: &str, variables: &[(&str, &str)]) -> Running {
        let mut command = self.world.command(program, &[]);
        command.envs(variables.iter().copied());
        Running::start(command, program, self.world.folder.join(format!("{log}.log")))
    }

    /// Starts whatever should run and does not.
    pub fn start_all(&mut self) {
        if self.producer.is_none() {
            self.start_producer();
        }
        for number in 0..self.consumers.len().max(CONSUMERS) {
            if self.consumers.get(number).is_none_or(Option::is_none) {
                self.start_consumer(number);
            }
        }
    }

    /// Fails when a program that should run has ended by itself.
    ///
    /// # Errors
    /// Which one, with its log's end.
    pub fn check_running(&mut self) -> Result<()> {
        for running in self.consumers.iter_mut().chain([&mut self.producer]).flatten() {
            ensure!(running.is_running(), "{} ended by itself:\n{}", running.name(), running.log_end());
        }
        Ok(())
    }
}

/// Waits until `condition` gives a value.
///
/// # Errors
/// What was waited for, when it takes longer than `patience`.
pub fn wait_for<T>(what: &str, patience: Duration, mut condition: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        ensure!(Instant::now() < deadline, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
