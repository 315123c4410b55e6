//! A test bed with separate servers and the running programs.

mod arrival;
mod epochs;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use rand::SeedableRng;
use rand::rngs::StdRng;
use testbed::downloads;
use testbed::programs::CONSUMERS;
use testbed::servers::server::{bound_to_us, free_port, joined};
use testbed::servers::{ADMIN, Kafka, KafkaOptions, MySql, MySqlOptions, Postgres, Registry};
use tokio::runtime::Runtime;

use super::load::{Load, Writer, connect};
use super::table::{LINE_PARTITIONS, LINES};
use testbed::{Ended, Link, Proxy, Running, TestBed};

/// How long a change may take from its commit to a log while all expected programs are running.
const ARRIVAL: Duration = Duration::from_secs(90);

/// The servers of a whole run: MySQL, Kafka, registry, PostgreSQL, each behind a proxy.
pub struct Servers {
    /// MySQL, with GTIDs.
    pub mysql: MySql,
    /// The brokers; one, or three with replication.
    pub kafka: Vec<Kafka>,
    /// The schema registry.
    pub registry: Registry,
    /// PostgreSQL.
    pub postgres: Postgres,
    /// The proxy between the programs and MySQL.
    pub to_mysql: Proxy,
    /// The proxy before each broker.
    pub to_kafka: Vec<Proxy>,
    /// The proxy before the registry.
    pub to_registry: Proxy,
    /// The proxy before PostgreSQL.
    pub to_postgres: Proxy,
}

/// Tables with their topics, logs, and the programs that use them.
pub struct Harness {
    /// The servers.
    pub servers: Servers,
    /// Names, folders and the programs' environment.
    pub bed: TestBed,
    /// `None` while it is stopped.
    pub producer: Option<Running>,
    /// By the number of their log; `None` while a consumer is stopped.
    pub consumers: Vec<Option<Running>>,
    /// The source of all random decisions.
    pub rng: StdRng,
    /// The writers and their ledger; paused at the beginning.
    pub load: Load,
    prober: Writer,
    runtime: Runtime,
}

impl Servers {
    /// Starts the servers with their data under `folder`, with this many brokers.
    ///
    /// # Errors
    /// When a server does not start.
    pub fn start(folder: &Path, brokers: usize) -> Result<Self> {
        let mut to_kafka = Vec::new();
        let mut options = Vec::new();
        for broker in 0..brokers {
            let port = free_port()?;
            let proxy = Proxy::start(port);
            let folder = folder.join(format!("kafka-{broker}"));
            options.push(KafkaOptions {
                folder,
                port: Some(port),
                advertised: Some(proxy.port()),
                ..KafkaOptions::default()
            });
            to_kafka.push(proxy);
        }
        let mysql = MySqlOptions { folder: folder.join("mysql"), ..MySqlOptions::default() };
        let (mysql, kafka, registry, postgres) = std::thread::scope(|scope| {
            let mysql = scope.spawn(|| MySql::start(&mysql, &|_| {}));
            let kafka = scope.spawn(|| Kafka::start_cluster(&options, &|_| {}));
            let registry = scope.spawn(|| Registry::start(&folder.join("registry"), None, &|_| {}));
            let postgres = Postgres::start(&folder.join("postgres"), None, &|_| {});
            anyhow::Ok((joined(mysql)?, joined(kafka)?, joined(registry)?, postgres?))
        })?;
        let [to_mysql, to_registry, to_postgres] = [mysql.port, registry.port, postgres.port].map(Proxy::start);
        Ok(Self { mysql, kafka, registry, postgres, to_mysql, to_kafka, to_registry, to_postgres })
    }

    /// The versions of the servers.
    pub(crate) fn versions(&self) -> BTreeMap<String, String> {
        let kafka = downloads::kafka_version();
        let versions = [
            ("product-stream", env!("CARGO_PKG_VERSION")),
            ("MySQL", &self.mysql.version),
            ("Kafka", &kafka),
            ("Apicurio Registry", downloads::REGISTRY),
            ("PostgreSQL", &self.postgres.version),
        ];
        versions.into_iter().map(|(name, version)| (name.to_owned(), version.to_owned())).collect()
    }

    /// The value of a program's variable for one of these servers, with the proxies' addresses.
    pub fn variable(&self, name: &str) -> Option<String> {
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

    /// Opens every link again.
    pub fn heal_links(&self) {
        let links = self.to_kafka.iter().chain([&self.to_mysql, &self.to_registry, &self.to_postgres]);
        links.for_each(|link| link.set(Link::Open));
    }
}

impl Harness {
    /// Creates a fresh test bed on these servers, with the tables and PostgreSQL. No program is running yet, and the
    /// load is paused.
    ///
    /// # Errors
    /// When MySQL does not create the tables.
    pub fn new(servers: Servers, name: &str, seed: u64) -> Result<Self> {
        let mut bed = TestBed::on(name, |variable| servers.variable(variable));
        let (server, _) =
            servers.postgres.url().rsplit_once('/').map(|(s, d)| (s.to_owned(), d.to_owned())).expect("a URL");
        let server =
            server.replace(&format!(":{}", servers.postgres.port), &format!(":{}", servers.to_postgres.port()));
        bed.set("POSTGRES_URL", format!("{server}/{}", bed.name));
        bed.set("METRICS_LISTEN", "127.0.0.1:0");
        bed.set("KAFKA_SESSION_TIMEOUT", "6s");
        bed.set("KAFKA_TRANSACTION_TIMEOUT", "10s");
        bed.set("PRODUCER_SNAPSHOT_CHUNK", "500");
        bed.set("TABLES", format!("[{0}.product, \"{0}.{LINES}\"]", bed.name));
        let config = bed.folder.join("config.yaml");
        let partitions = format!("table: {{\"{}.{LINES}\": {{kafka: {{partitions: {LINE_PARTITIONS}}}}}}}\n", bed.name);
        std::fs::write(&config, partitions)?;
        bed.set("CONFIG", config.to_string_lossy());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let port = servers.mysql.port;
        runtime.block_on(async {
            drop(bed.table().await);
        });
        let load = Load::new(&runtime, &bed.name, port, seed)?;
        let prober = load.prober();
        let rng = StdRng::seed_from_u64(seed);
        Ok(Self { servers, bed, producer: None, consumers: Vec::new(), rng, load, prober, runtime })
    }

    /// Starts all programs and the load, and waits until the first snapshot is complete and changes arrive.
    ///
    /// # Errors
    /// When one of these takes too long.
    pub fn begin(&mut self) -> Result<()> {
        self.begin_main_topic();
        self.start_all();
        self.resume_load();
        self.epoch_after(0)?;
        self.collapse_until_here()?;
        self.probe()?;
        Ok(())
    }

    /// Stops the programs and the load; the servers keep running.
    pub fn end(mut self) -> Servers {
        self.producer = None;
        self.consumers.clear();
        let Self { servers, load, prober, runtime, .. } = self;
        drop((load, prober));
        runtime.shutdown_background();
        servers
    }

    /// Runs a future to its end.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// A direct connection to MySQL, past the proxy, in this test bed's database.
    ///
    /// # Errors
    /// When MySQL does not answer.
    pub fn mysql(&self) -> Result<Conn> {
        self.block_on(connect(self.servers.mysql.port, Some(&self.bed.name)))
    }

    /// Runs statements on a direct connection. They must not change rows of the load's keys, which the ledger would not
    /// record. Ids below zero are free for this.
    ///
    /// # Errors
    /// MySQL's own.
    pub fn commit_direct<S: AsRef<str>>(&self, statements: &[S]) -> Result<()> {
        let mut conn = self.mysql()?;
        for statement in statements.iter().map(AsRef::as_ref) {
            let done = self.block_on(conn.query_drop(statement));
            done.with_context(|| statement.chars().take(200).collect::<String>())?;
        }
        Ok(())
    }

    /// Waits until every writer has ended its transaction, and all commits are in the ledger. MySQL must be up.
    ///
    /// # Errors
    /// When a writer does not end its transaction.
    pub fn pause_load(&mut self) -> Result<()> {
        self.load.pause(&self.runtime)
    }

    /// Lets the writers continue, on the MySQL that `servers.mysql` is now.
    pub fn resume_load(&mut self) {
        self.load.resume(self.servers.mysql.port);
    }

    /// Runs `work` while no writer has a transaction open.
    fn between_transactions<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let paused = self.load.is_paused();
        self.pause_load()?;
        let outcome = work(self);
        if !paused {
            self.resume_load();
        }
        outcome
    }

    /// The logs folder of the second machine, which some faults use.
    pub(crate) fn second_logs(&self) -> PathBuf {
        PathBuf::from(format!("{}_second", self.bed.get("CONSUMER_LOGS")))
    }

    /// All existing logs folders.
    pub(crate) fn logs(&self) -> Vec<PathBuf> {
        let mut logs = vec![PathBuf::from(self.bed.get("CONSUMER_LOGS"))];
        logs.extend(Some(self.second_logs()).filter(|second| second.is_dir()));
        logs
    }

    /// Runs `verify` with these arguments on everything. The load should be paused.
    pub(crate) fn verify(&self, arguments: &[&str]) -> Ended {
        let logs: Vec<String> = self.logs().iter().map(|logs| logs.display().to_string()).collect();
        self.bed.run("verify", &[&["--wait", "90s", "--logs", &logs.join(",")], arguments].concat())
    }

    /// The ends of the programs' logs.
    fn ends(&self) -> String {
        let running = self.consumers.iter().chain([&self.producer]).flatten();
        running.map(|r| format!("--- {}\n{}\n", r.name(), r.log_end())).collect()
    }

    /// Starts the producer, which must be stopped.
    pub fn start_producer(&mut self) {
        self.start_producer_with(&[]);
    }

    /// Starts the producer with additional variables, such as `FAILPOINTS`.
    pub fn start_producer_with(&mut self, variables: &[(&str, &str)]) {
        self.producer = Some(self.start_with("cdc-producer", "cdc-producer", variables));
    }

    /// Starts consumer `number` (from 0), which must be stopped.
    pub fn start_consumer(&mut self, number: usize) {
        self.start_consumer_with(number, &[]);
    }

    /// Starts consumer `number` with additional variables.
    pub fn start_consumer_with(&mut self, number: usize, variables: &[(&str, &str)]) {
        if self.consumers.len() <= number {
            self.consumers.resize_with(number + 1, || None);
        }
        self.consumers[number] = Some(self.start_with("consumer", &format!("consumer{number}"), variables));
    }

    fn start_with(&self, program: &str, log: &str, variables: &[(&str, &str)]) -> Running {
        let mut command = self.bed.command(program, &[]);
        command.envs(variables.iter().copied());
        // A killed harness must not leave a program running.
        let mut bound = bound_to_us(None);
        bound.arg(command.get_program()).args(command.get_args()).env_clear();
        bound.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        bound.current_dir(&self.bed.folder);
        Running::start(bound, program, self.bed.folder.join(format!("{log}.log")))
    }

    /// Starts every expected program that is stopped.
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

    /// Stops all consumers and starts the original number. Faults rely on a consumer returning to its slot with its
    /// share of the partitions, so no slot below a used one may be free: the function returns when the partitions have
    /// moved.
    ///
    /// # Errors
    /// When a consumer does not stop in order, or changes don't arrive.
    pub fn scale_back(&mut self) -> Result<()> {
        for consumer in self.consumers.drain(..) {
            let ended = consumer.context("a consumer does not run")?.stop();
            ensure!(ended.code == 0, "a consumer ended with {} after SIGTERM:\n{}", ended.code, ended.err);
        }
        self.start_all();
        self.settle()?;
        self.resume_load();
        Ok(())
    }

    /// Waits until `/health` and `/ready` of every program report success.
    ///
    /// # Errors
    /// Names the program that does not within a minute, and its answer.
    pub fn all_ready(&self) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(60);
        for program in self.consumers.iter().chain([&self.producer]).flatten() {
            for path in ["/ready", "/health"] {
                let mut said = None;
                let answer = wait_for("it says yes", PATIENCE, || {
                    said = program.http(path);
                    said.as_ref().filter(|(status, _)| *status == 200).map(drop)
                });
                answer.with_context(|| format!("{path} of {} says {said:?}\n{}", program.name(), program.log_end()))?;
            }
        }
        Ok(())
    }

    /// Fails when an expected program has ended.
    ///
    /// # Errors
    /// The program, with the end of its log.
    pub fn check_running(&mut self) -> Result<()> {
        for running in self.consumers.iter_mut().chain([&mut self.producer]).flatten() {
            ensure!(running.is_running(), "{} ended:\n{}", running.name(), running.log_end());
        }
        Ok(())
    }
}

/// Waits until `condition` returns a value.
///
/// # Errors
/// The name of the condition, when it takes longer than `patience`.
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
