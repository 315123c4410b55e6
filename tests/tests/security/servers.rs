//! The four servers with locked doors, started once for all tests of this program.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use runtime::config::{PostgresSettings, Secret};
use sinks::postgres::Target;
use testbed::servers::server::free_port;
use testbed::servers::{
    ADMIN, CDC, Kafka, KafkaOptions, KafkaSecurity, KafkaUser, Mechanism, MySql, MySqlOptions, Postgres, Registry,
    UPDATER, VERIFY,
};
use testbed::{Running, TestBed};

use super::certificates::{Certificate, Certificates};

/// The user and password at the registry.
pub(crate) const REGISTRY: (&str, &str) = ("pipeline", "registry-secret-1");
/// PostgreSQL's role of the consumers, and of verify.
pub(crate) const POSTGRES: [(&str, &str); 2] = [("consumer", "postgres-secret-1"), ("verify", "postgres-secret-2")];
/// Kafka's users: of the producer, the consumers, verify, and one who may do anything.
pub(crate) const KAFKA: [(&str, &str, Mechanism); 4] = [
    ("producer", "kafka-secret-1", Mechanism::Scram256),
    ("consumer", "kafka-secret-2", Mechanism::Scram512),
    ("verify", "kafka-secret-3", Mechanism::Plain),
    ("operator", "kafka-secret-4", Mechanism::Scram512),
];
/// Password of Kafka's users that lack a right each.
pub(crate) const LACKING: &str = "kafka-secret-5";
/// How many of them there are.
pub(crate) const LACKING_USERS: usize = 24;
/// A password that nobody has.
pub(crate) const WRONG: &str = "wrong-secret-1";

/// Longer must nothing take that is refused.
const SOON: Duration = Duration::from_secs(30);

/// The servers.
pub(crate) struct Secured {
    pub(crate) certificates: Certificates,
    pub(crate) mysql: MySql,
    /// A second door of MySQL, whose certificate has expired.
    pub(crate) mysql_expired: u16,
    pub(crate) kafka: Kafka,
    /// It runs as long as this is there.
    _registry: Registry,
    /// The registry's port with TLS.
    pub(crate) registry_tls: u16,
    pub(crate) postgres: Postgres,
    /// A PostgreSQL whose certificate has expired.
    pub(crate) postgres_expired: Postgres,
}

/// What a program left behind.
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Never dropped: the kernel kills the servers with this process.
pub(crate) static SECURED: LazyLock<Secured> = LazyLock::new(Secured::open);

impl Secured {
    fn open() -> Self {
        // What the last run left is in the way.
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("secured");
        if folder.exists() {
            fs::remove_dir_all(&folder).unwrap();
        }
        let certificates = Certificates::make(&folder.join("certificates"));
        let (mysql_expired, registry_tls) = (free_port().unwrap(), free_port().unwrap());
        let (mysql, kafka, registry, postgres, postgres_expired) = std::thread::scope(|scope| {
            let mysql = scope.spawn(|| start_mysql(&folder, &certificates, mysql_expired));
            let kafka = scope.spawn(|| start_kafka(&folder, &certificates));
            let registry = scope.spawn(|| start_registry(&folder, &certificates, registry_tls));
            let postgres = scope.spawn(|| {
                let postgres = start_postgres(&folder.join("postgres"), &certificates.server);
                make_roles(&postgres, &certificates.ca);
                postgres
            });
            let expired = scope.spawn(|| start_postgres(&folder.join("postgres-expired"), &certificates.expired));
            let (postgres, expired) = (postgres.join().unwrap(), expired.join().unwrap());
            (mysql.join().unwrap(), kafka.join().unwrap(), registry.join().unwrap(), postgres, expired)
        });
        Self {
            certificates,
            mysql,
            mysql_expired,
            kafka,
            _registry: registry,
            registry_tls,
            postgres,
            postgres_expired,
        }
    }

    /// A world on these servers with everything set as it must be, its rights at MySQL and its database in PostgreSQL;
    /// at Kafka it is the operator's.
    pub(crate) async fn world(&self, name: &str) -> TestBed {
        let ca = text(&self.certificates.ca);
        let mut world = TestBed::on(name, |variable| {
            Some(match variable {
                "DB_HOST" => "127.0.0.1".to_owned(),
                "DB_PORT" => self.mysql.port.to_string(),
                "DB_USER" => ADMIN.0.to_owned(),
                "DB_PASSWORD" => ADMIN.1.to_owned(),
                "KAFKA_BOOTSTRAP_SERVERS" => format!("127.0.0.1:{}", self.kafka.port),
                "SCHEMA_REGISTRY_URL" => self.registry_at("127.0.0.1"),
                _ => return None,
            })
        });
        for (variable, value) in [
            ("DB_SSL_MODE", "verify_identity"),
            ("DB_SSL_CA", ca.as_str()),
            ("KAFKA_SECURITY_PROTOCOL", "SASL_SSL"),
            ("KAFKA_SSL_CA_LOCATION", ca.as_str()),
            ("SCHEMA_REGISTRY_USER", REGISTRY.0),
            ("SCHEMA_REGISTRY_SECRET", REGISTRY.1),
            ("SCHEMA_REGISTRY_CA_LOCATION", ca.as_str()),
        ] {
            world.set(variable, value);
        }
        for (variable, value) in login(KAFKA[3]) {
            world.set(variable, value);
        }
        let [(consumer, _), (verify, _)] = POSTGRES;
        let database = format!("CREATE DATABASE \"{}\"", world.name);
        self.postgres("postgres").await.batch_execute(&database).await.unwrap();
        let rights = format!(
            "GRANT CREATE ON SCHEMA public TO {consumer};
             ALTER DEFAULT PRIVILEGES FOR ROLE {consumer} GRANT SELECT ON TABLES TO {verify}"
        );
        self.postgres(&world.name).await.batch_execute(&rights).await.unwrap();
        world
    }

    pub(crate) fn registry_at(&self, host: &str) -> String {
        format!("https://{host}:{}/apis/ccompat/v7", self.registry_tls)
    }

    /// The URL of a world's database for one of PostgreSQL's roles.
    pub(crate) fn postgres_url(&self, role: (&str, &str), database: &str) -> String {
        postgres_url(role, self.postgres.port, database, &self.certificates.ca)
    }

    /// The administrator's connection.
    pub(crate) async fn postgres(&self, database: &str) -> tokio_postgres::Client {
        postgres_client(self.postgres_url(Postgres::SUPERUSER, database)).await
    }

    /// A program with its own role in PostgreSQL, and `more` in its environment.
    fn command(&self, world: &TestBed, program: &str, arguments: &[&str], more: &[(&str, &str)]) -> Command {
        let mut command = world.command(program, arguments);
        match program {
            "consumer" => command.env("POSTGRES_URL", self.postgres_url(POSTGRES[0], &world.name)),
            "verify" | "stream" => command.env("POSTGRES_URL", self.postgres_url(POSTGRES[1], &world.name)),
            _ => &mut command,
        };
        command.envs(more.iter().copied());
        command
    }

    /// Starts a program (its arguments may follow its name), its log in a file of the world.
    pub(crate) fn start(&self, world: &TestBed, program: &str, log: &str, more: &[(&str, &str)]) -> Running {
        let (program, arguments) = program.split_once(' ').unwrap_or((program, ""));
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        Running::start(self.command(world, program, &arguments, more), program, world.folder.join(format!("{log}.log")))
    }

    /// Runs a program to its end; what it says is kept in the world's folder as well.
    pub(crate) fn run(&self, world: &TestBed, program: &str, arguments: &[&str], more: &[(&str, &str)]) -> Outcome {
        let output = self.command(world, program, arguments, more).stdin(Stdio::null()).output().unwrap();
        let mut log = File::options().create(true).append(true).open(world.folder.join("runs.log")).unwrap();
        log.write_all(&[output.stdout.as_slice(), &output.stderr].concat()).unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Outcome { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// Starts a program that must be refused: see [`assert_refused`].
    pub(crate) fn refuses(&self, world: &TestBed, program: &str, more: &[(&str, &str)], texts: &[&str]) {
        static CASE: AtomicU32 = AtomicU32::new(0);
        let log = format!("refused-{}", CASE.fetch_add(1, Ordering::Relaxed));
        assert_refused(self.start(world, program, &log, more), &format!("{program} {more:?}"), texts);
    }
}

/// Waits for the end of a program that must stop soon, with exit code 1, an error with these texts, a remedy, and no
/// secret.
pub(crate) fn assert_refused(running: Running, case: &str, texts: &[&str]) {
    let started = Instant::now();
    let ended = running.wait();
    assert_eq!(ended.code, 1, "{case}: {}", ended.err);
    assert!(started.elapsed() < SOON, "{case} took {:?}: {}", started.elapsed(), ended.err);
    let error = ended.err.rfind("\nerror[").map(|at| at + 1).or(ended.err.starts_with("error[").then_some(0));
    let error = &ended.err[error.unwrap_or_else(|| panic!("{case}: no error in {}", ended.err))..];
    texts.iter().for_each(|text| assert!(error.contains(text), "{case}: {text:?} in\n{error}"));
    assert!(error.contains("\n  what to do: "), "{case}: {error}");
    assert_no_secret(&ended.err);
}

/// A program's login at Kafka.
pub(crate) fn login(
    (user, password, mechanism): (&'static str, &'static str, Mechanism),
) -> [(&'static str, &'static str); 3] {
    [("KAFKA_SASL_USERNAME", user), ("KAFKA_SASL_PASSWORD", password), ("KAFKA_SASL_MECHANISMS", mechanism.name())]
}

/// All that the programs of a world have written: logs, outputs, checkpoint, consumers' logs.
pub(crate) fn told(folder: &Path) -> String {
    let mut all = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.push_str(&told(&path));
        } else {
            all.push_str(&String::from_utf8_lossy(&fs::read(&path).unwrap()));
        }
    }
    all
}

/// Fails when a text holds one of the secrets, in the clear or as HTTP's basic authentication has it.
pub(crate) fn assert_no_secret(text: &str) {
    let basic = openssl::base64::encode_block(format!("{}:{}", REGISTRY.0, REGISTRY.1).as_bytes());
    let kafka = KAFKA.map(|(_, password, _)| password);
    let fixed =
        [ADMIN.1, CDC.1, UPDATER.1, VERIFY.1, REGISTRY.1, POSTGRES[0].1, POSTGRES[1].1, LACKING, WRONG, basic.as_str()];
    for secret in fixed.into_iter().chain(kafka) {
        if let Some(at) = text.find(secret) {
            let line = &text[text[..at].rfind('\n').map_or(0, |n| n + 1)..at];
            panic!("the secret {secret} stands behind {line:?}");
        }
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn postgres_url((role, password): (&str, &str), port: u16, database: &str, ca: &Path) -> String {
    format!("postgres://{role}:{password}@127.0.0.1:{port}/{database}?sslmode=verify-full&sslrootcert={}", text(ca))
}

async fn postgres_client(url: String) -> tokio_postgres::Client {
    let url = Secret::new(url);
    Target::from(&PostgresSettings::at(url), "test").unwrap().connect().await.unwrap()
}

/// With no rights but to log in. On a thread that is in no runtime.
fn make_roles(postgres: &Postgres, ca: &Path) {
    let url = postgres_url(Postgres::SUPERUSER, postgres.port, "postgres", ca);
    let roles = POSTGRES.map(|(role, password)| format!("CREATE ROLE {role} LOGIN PASSWORD '{password}'"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { postgres_client(url).await.batch_execute(&roles.join(";")).await.unwrap() });
}

fn start_mysql(folder: &Path, certificates: &Certificates, expired: u16) -> MySql {
    let Certificates { ca, server, expired: old, .. } = certificates;
    let flags = vec![
        "--require-secure-transport=ON".to_owned(),
        format!("--ssl-ca={}", text(ca)),
        format!("--ssl-cert={}", text(&server.certificate)),
        format!("--ssl-key={}", text(&server.key)),
        "--admin-address=127.0.0.1".to_owned(),
        format!("--admin-port={expired}"),
        format!("--admin-ssl-ca={}", text(ca)),
        format!("--admin-ssl-cert={}", text(&old.certificate)),
        format!("--admin-ssl-key={}", text(&old.key)),
    ];
    MySql::start(&MySqlOptions { folder: folder.join("mysql"), port: None, flags }, &|_| {}).unwrap()
}

fn start_kafka(folder: &Path, certificates: &Certificates) -> Kafka {
    let user = |name: &str, password: &str, mechanism| KafkaUser {
        name: name.to_owned(),
        password: password.to_owned(),
        mechanism,
    };
    let mut users: Vec<KafkaUser> = KAFKA.map(|(name, password, mechanism)| user(name, password, mechanism)).into();
    users.extend((0..LACKING_USERS).map(|n| user(&format!("lacking-{n}"), LACKING, Mechanism::Plain)));
    let security = KafkaSecurity { keystore: certificates.server.both.clone(), users, operator: KAFKA[3].0.to_owned() };
    // Each login ends soon.
    let settings = vec!["connections.max.reauth.ms=4000".to_owned()];
    let options = KafkaOptions { folder: folder.join("kafka"), settings, ..KafkaOptions::default() };
    Kafka::start_secured(&options, &security, &|_| {}).unwrap()
}

fn start_registry(folder: &Path, certificates: &Certificates, port: u16) -> Registry {
    let (user, password) = REGISTRY;
    let server = &certificates.server;
    let properties = [
        "quarkus.http.auth.basic=true".to_owned(),
        "quarkus.http.auth.permission.all.paths=/*".to_owned(),
        "quarkus.http.auth.permission.all.policy=authenticated".to_owned(),
        "quarkus.security.users.embedded.enabled=true".to_owned(),
        "quarkus.security.users.embedded.plain-text=true".to_owned(),
        format!("quarkus.security.users.embedded.users.{user}={password}"),
        format!("quarkus.http.ssl-port={port}"),
        format!("quarkus.http.ssl.certificate.files={}", text(&server.certificate)),
        format!("quarkus.http.ssl.certificate.key-files={}", text(&server.key)),
    ];
    Registry::start_with(&folder.join("registry"), None, &properties, &|_| {}).unwrap()
}

fn start_postgres(folder: &Path, certificate: &Certificate) -> Postgres {
    fs::create_dir_all(folder).unwrap();
    let hba = folder.join("hba.conf");
    fs::write(&hba, "hostssl all all 127.0.0.1/32 scram-sha-256\n").unwrap();
    let settings = [
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}", text(&certificate.certificate)),
        format!("ssl_key_file={}", text(&certificate.key)),
        format!("hba_file={}", text(&hba)),
    ];
    Postgres::start_with(folder, None, &settings, &|_| {}).unwrap()
}
