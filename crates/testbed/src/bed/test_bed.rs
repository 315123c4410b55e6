//! The database, topic, group and folders of one test on the shared servers, and the environment of its programs.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::servers::{CDC, MySql, MySqlOptions, UPDATER, VERIFY};
use model::position::Progress;
use model::table_name::TableName;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use runtime::config::{Environment, KafkaSettings, MySqlSettings, Program, Secret, Settings};

use crate::process::{Ended, Running, eventually, run};
use crate::scratch;

/// The names and folders of one test, and the environment of its programs.
pub struct TestBed {
    /// Name of the database, the topic and the group.
    pub name: String,
    /// A temporary folder with `time_track`, `consumer_logs` and the programs' logs.
    pub folder: PathBuf,
    /// Name and password of MySQL's administrator, for the tests only: no program gets them.
    admin: (String, String),
    environment: Vec<(String, String)>,
}

/// The variables that every program needs.
const NEEDED: [&str; 4] = ["DB_HOST", "DB_PORT", "KAFKA_BOOTSTRAP_SERVERS", "SCHEMA_REGISTRY_URL"];

impl TestBed {
    /// Creates a test bed on the servers of the environment; PostgreSQL is off.
    pub fn new(test: &str) -> Self {
        Self::on(test, |variable| std::env::var(variable).ok())
    }

    /// Creates a test bed on the caller's servers: `server` returns the values of their variables; `DB_USER` is the
    /// administrator.
    pub fn on(test: &str, server: impl Fn(&str) -> Option<String>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let now = std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_millis() % 100_000_000;
        let name = format!("{test}_{now}_{count}_{}", std::process::id());
        let folder = scratch::folder(&format!("{test}_{now}_{count}"));
        fs::create_dir_all(&folder).expect("a temporary folder");
        let needed = |variable: &str| {
            server(variable).unwrap_or_else(|| {
                panic!("{variable} is not set: run `cargo xtask test`, or `. target/stack/env` after `cargo xtask services --detach`")
            })
        };
        let admin = (needed("DB_USER"), needed("DB_PASSWORD"));
        let mut bed = Self { name: name.clone(), environment: Vec::new(), folder, admin };
        for variable in NEEDED {
            bed.set(variable, needed(variable));
        }
        let path = |p: &str| bed.folder.join(p).to_str().expect("a plain path").to_owned();
        let (time_track, logs, rejects) = (path("time_track"), path("consumer_logs"), path("rejects"));
        for (variable, value) in [
            ("DB_NAME", name.clone()),
            ("KAFKA_TOPIC", name.clone()),
            ("KAFKA_GROUP_ID", name),
            ("POSTGRES_URL", String::new()),
            ("PRODUCER_TIME_TRACK", time_track),
            ("CONSUMER_LOGS", logs),
            ("UPDATER_REJECTS", rejects),
            ("RUST_BACKTRACE", "0".to_owned()),
        ] {
            bed.set(variable, value);
        }
        // Use a separate thread: the caller may be in a runtime already, which must not block on another.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(async { bed.grant().await.disconnect().await.expect("to leave") });
            });
        });
        bed
    }

    /// Sets a variable for the programs of this test bed.
    pub fn set(&mut self, variable: &str, value: impl Into<String>) {
        self.environment.retain(|(name, _)| name != variable);
        self.environment.push((variable.to_owned(), value.into()));
    }

    /// A variable of this test bed.
    pub fn get(&self, variable: &str) -> &str {
        self.environment.iter().find(|(name, _)| name == variable).map_or("", |(_, value)| value)
    }

    /// Starts a MySQL server for this test bed only, with these flags; the programs use it from now on.
    pub fn own_mysql(&mut self, flags: &[&str]) -> MySql {
        let flags = flags.iter().map(|f| (*f).to_owned()).collect();
        let options = MySqlOptions { folder: self.folder.join("mysql"), port: None, flags };
        let mysql = MySql::start(&options, &|_| {}).expect("a MySQL server");
        self.set("DB_PORT", mysql.port.to_string());
        mysql
    }

    /// Turns PostgreSQL on, with a separate database.
    pub fn with_postgres(mut self) -> Self {
        let url = std::env::var("POSTGRES_URL").expect("POSTGRES_URL: run `cargo xtask test`");
        let (server, _) = url.rsplit_once('/').expect("a URL with a database");
        self.set("POSTGRES_URL", format!("{server}/{}", self.name));
        self
    }

    /// The environment of a program in this test bed, with the program's own user at MySQL unless the test has set one.
    fn environment(&self, program: &str) -> impl Iterator<Item = (String, String)> {
        let (user, password) = match program {
            "product-updater" => UPDATER,
            "verify" | "stream" => VERIFY,
            _ => CDC,
        };
        let login = [("DB_USER", user), ("DB_PASSWORD", password)].map(|(k, v)| (k.to_owned(), v.to_owned()));
        login.into_iter().chain(self.environment.iter().filter(|(_, value)| !value.is_empty()).cloned())
    }

    /// The settings of a program in this test bed.
    pub fn settings(&self, program: Program) -> Settings {
        let environment: Environment = self.environment(program.name()).collect();
        let flags = runtime::config::command(program, clap::Command::new("test")).get_matches_from(["test"]);
        Settings::load(program, &environment, &flags).expect("settings")
    }

    /// The Kafka settings of this test bed.
    pub fn kafka(&self) -> KafkaSettings {
        KafkaSettings::from(&self.settings(Program::CdcProducer)).expect("Kafka settings")
    }

    /// The Kafka settings of a table in this test bed's database.
    pub fn kafka_of(&self, table: &str) -> KafkaSettings {
        let name = TableName::new(&self.name, table);
        KafkaSettings::from(&self.settings(Program::CdcProducer).of_table(&name)).expect("Kafka settings")
    }

    /// A program with this test bed's environment; its working folder is the test bed's, so it finds no configuration
    /// file.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(programs().join(program));
        command.args(arguments).current_dir(&self.folder).env_clear().envs(self.environment(program));
        command
    }

    /// Starts a program; several with the same name log into the same file.
    pub fn start(&self, program: &str, arguments: &[&str]) -> Running {
        Running::start(self.command(program, arguments), program, self.folder.join(format!("{program}.log")))
    }

    /// Starts a program with a separate log.
    pub fn start_as(&self, program: &str, log: &str, arguments: &[&str]) -> Running {
        Running::start(self.command(program, arguments), program, self.folder.join(format!("{log}.log")))
    }

    /// Runs a program to its end.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Ended {
        run(self.command(program, arguments))
    }

    /// The administrator's connection to MySQL, without a database.
    pub async fn server(&self) -> Conn {
        let port = self.get("DB_PORT").parse().expect("a port");
        self.server_on(port).await
    }

    /// The administrator's connection to another server on this machine.
    pub async fn server_on(&self, port: u16) -> Conn {
        let mut settings = MySqlSettings::from(&self.settings(Program::CdcProducer)).expect("MySQL settings");
        settings.port = port;
        settings.user.clone_from(&self.admin.0);
        settings.password = Some(Secret::new(&self.admin.1));
        mysql::table::connect(&settings).await.expect("a connection to MySQL")
    }

    /// Grants the programs' users their rights on this test bed's database, which need not exist: those in
    /// docs/security.md. Returns the administrator's connection.
    async fn grant(&self) -> Conn {
        let mut conn = self.server().await;
        let gtids: Option<String> = conn.query_first("SELECT @@gtid_mode").await.expect("the server's setting");
        let read = if gtids.as_deref() == Some("ON") { "SELECT" } else { "SELECT, LOCK TABLES" };
        // An unescaped `_` matches any character.
        let database = self.name.replace('_', r"\_");
        let own = "CREATE, SELECT, INSERT, UPDATE, DELETE";
        for (rights, (user, _)) in [(read, CDC), (read, VERIFY), (own, UPDATER)] {
            let grant = format!("GRANT {rights} ON `{database}`.* TO '{user}'@'%'");
            conn.query_drop(grant).await.expect("the rights of the programs");
        }
        conn
    }

    /// The administrator's connection to this test bed's database, which is created if necessary, with the programs'
    /// rights on it.
    pub async fn mysql(&self) -> Conn {
        let mut conn = self.grant().await;
        for statement in [format!("CREATE DATABASE IF NOT EXISTS `{}`", self.name), format!("USE `{}`", self.name)] {
            conn.query_drop(statement).await.expect("this test bed's database");
        }
        conn
    }

    /// Grants the producer's user the right to see triggers, so that it can pass over statements on other tables.
    pub async fn grant_trigger(&self, conn: &mut Conn) {
        let grant = format!("GRANT TRIGGER ON `{}`.* TO '{}'@'%'", self.name.replace('_', r"\_"), CDC.0);
        conn.query_drop(grant).await.expect("the right to see triggers");
    }

    /// A connection to this test bed's database, with the contract's table in it.
    pub async fn table(&self) -> Conn {
        let mut conn = self.mysql().await;
        conn.query_drop(
            "CREATE TABLE product (id INT PRIMARY KEY, name VARCHAR(300), category VARCHAR(500), \
             price DECIMAL(10,2), last_updated TIMESTAMP(6) NULL)",
        )
        .await
        .expect("the table");
        conn
    }

    /// The producer's progress in Kafka; `None` when it has committed none.
    ///
    /// # Errors
    /// When Kafka does not answer.
    pub fn find_progress(&self) -> anyhow::Result<Option<Progress>> {
        let kafka = self.kafka();
        let (topic, key) = (kafka.checkpoint_topic.clone(), format!("{}.product", self.name));
        let value = kafka::last_record(&kafka, &topic, 0, key.as_bytes())?;
        Ok(value.map(|value| serde_json::from_slice(&value)).transpose()?)
    }

    /// The producer's progress; fails when there is none.
    pub fn progress(&self) -> Progress {
        self.find_progress().expect("the topic with the progress").expect("a progress")
    }

    /// Waits until the producer has published everything that is in MySQL now, according to `verify --wait`.
    pub fn wait_until_read(&self) {
        eventually("the producer has read everything", Duration::from_secs(60), || {
            let ended = self.run("verify", &["--wait", "1s"]);
            (!ended.out.contains("the producer ")).then_some(())
        });
    }

    /// Runs `verify`; fails with its output unless all agree.
    pub fn verify(&self) -> String {
        let ended = self.run("verify", &["--wait", "60s"]);
        assert_eq!(ended.code, 0, "verify:\n{}\n{}", ended.out, ended.err);
        ended.out
    }

    /// Checks with a consumer and `verify` that everything is in the topic and in the logs exactly once; then stops
    /// both programs.
    pub fn assert_whole(&self, producer: Running) {
        let consumer = self.start("consumer", &[]);
        let report = self.verify();
        assert!(report.contains("OK: "), "{report}");
        for program in [consumer, producer] {
            let ended = program.stop();
            assert_eq!(ended.code, 0, "{}", ended.err);
        }
    }
}

/// Executes SQL statements one after the other; a failure names the statement.
pub async fn execute(conn: &mut Conn, statements: &[impl AsRef<str>]) {
    for statement in statements {
        let statement = statement.as_ref();
        conn.query_drop(statement).await.unwrap_or_else(|e| panic!("{statement}: {e}"));
    }
}

/// The folder of the programs: `PIPELINE_BIN_DIR`, or cargo's target folder.
fn programs() -> PathBuf {
    std::env::var_os("PIPELINE_BIN_DIR").map_or_else(
        || {
            let test = std::env::current_exe().expect("the test's own path");
            test.ancestors().nth(2).expect("target/debug").to_owned()
        },
        PathBuf::from,
    )
}

/// A connection to the database of this URL. Call it on a runtime; the connection ends with the client.
///
/// # Errors
/// When PostgreSQL can't be reached.
pub async fn postgres(url: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    // The calls of the client return the connection's errors.
    drop(tokio::spawn(connection));
    Ok(client)
}
