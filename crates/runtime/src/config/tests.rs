//! Tests the merging of all sources into the settings in force, and the text of each error.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use clap::Command;

use super::*;
use model::error::{Class, Result};
use rules::transform::{Discount, Filter, Rules};

/// A file that is removed when the test ends.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let folder = format!("pipeline-config-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(folder);
        std::fs::create_dir_all(&folder).expect("a folder for the test");
        let path = folder.join(name);
        std::fs::write(&path, text).expect("a file for the test");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("it is ASCII")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let folder = self.0.parent().expect("it was made in a folder");
        std::fs::remove_dir_all(folder).expect("it is still there");
    }
}

fn load_as(program: Program, yaml: &str, environment: &[(&str, &str)], flags: &[&str]) -> Result<Settings> {
    let file = File::new("config.yaml", yaml);
    let words = ["test", "--config", file.path()].into_iter().chain(flags.iter().copied());
    let arguments = command(program, Command::new("test")).try_get_matches_from(words).expect("the flags are known");
    let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Settings::load(program, &environment, &arguments)
}

fn load(yaml: &str, environment: &[(&str, &str)], flags: &[&str]) -> Result<Settings> {
    load_as(Program::CdcProducer, yaml, environment, flags)
}

/// The error's text and remedy, without the folder of the file.
fn refused(result: Result<Settings>) -> String {
    let error = result.expect_err("it must be refused");
    assert_eq!(error.class(), Class::Usage);
    let text = format!("{error}\n{}", error.remedy().unwrap_or(""));
    let words = text.split_inclusive(' ').map(|word| match word.find(std::env::temp_dir().to_str().expect("ASCII")) {
        Some(at) => format!("{}{}", &word[..at], word.rsplit('/').next().unwrap_or("")),
        None => word.to_owned(),
    });
    words.collect()
}

#[test]
fn flags_beat_environment_beats_file_beats_default() {
    let yaml = "kafka:\n  topic: from_file\n  group_id: g\n";
    let cases: [(&str, &[_], &[_], &str, &str); 5] = [
        ("", &[], &[], "product_updates", "default"),
        (yaml, &[], &[], "from_file", "config.yaml:2"),
        ("kafka.topic: dotted", &[], &[], "dotted", "config.yaml:1"),
        (yaml, &[("KAFKA_TOPIC", "from_env")], &[], "from_env", "environment KAFKA_TOPIC"),
        (yaml, &[("KAFKA_TOPIC", "from_env")], &["--kafka-topic", "from_flag"], "from_flag", "flag --kafka-topic"),
    ];
    for (yaml, environment, flags, topic, origin) in cases {
        let settings = load(yaml, environment, flags).expect("it is valid");
        assert_eq!(settings.text("kafka.topic"), topic);
        let shown = settings.origin("kafka.topic").expect("it is set").to_string();
        assert!(shown.ends_with(origin), "{shown}");
        assert_eq!(settings.text("kafka.transactional_id"), format!("{topic}.producer"));
        assert_eq!(settings.text("schema_registry.subject"), format!("{topic}-value"));
    }
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let settings = load("DB_HOST: db", &[("DB_HOST", ""), ("DB_PASSWORD", ""), ("DB_PASSWORD_FILE", "")], &[]);
    let settings = settings.expect("it is valid");
    assert_eq!((settings.text("DB_HOST"), settings.secret("DB_PASSWORD")), ("db", None));
}

#[test]
fn a_programs_own_section_needs_no_prefix() {
    for flag in ["--time-track", "--producer-time-track"] {
        let settings = load("", &[], &[flag, "x"]).expect("it is valid");
        assert_eq!(settings.path("producer.time_track"), PathBuf::from("x"));
    }
    let settings = load("", &[], &["--kafka-replication-factor", "-1"]).expect("a negative number is no flag");
    assert_eq!(settings.number("kafka.replication_factor").ok(), Some(-1_i32));
}

#[test]
fn the_server_id_belongs_to_the_source() {
    let id =
        |host| load("", &[("DB_HOST", host)], &[]).and_then(|s| s.number::<u32>("producer.server_id")).expect("an id");
    assert_eq!(id("a"), id("a"));
    assert_ne!(id("a"), id("b"));
    assert!(id("a") >= 0x4000_0000);
}

#[test]
fn secrets_come_from_files_and_are_never_shown() {
    let secret = File::new("password", "hunter2\n");
    let yaml = format!(
        "DB_PASSWORD_FILE: {0}\nkafka:\n  security_protocol: sasl_ssl\n  sasl_mechanisms: PLAIN\n  \
                        sasl_username: me\n  sasl_password_file: {0}\n  librdkafka: {{ssl.key.password: hunter2, debug: broker}}\n\
                        schema_registry: {{user: me}}\n",
        secret.path()
    );
    let environment = [("SCHEMA_REGISTRY_SECRET_FILE", secret.path())];
    let settings = load(&yaml, &environment, &[]).expect("it is valid");
    for key in ["DB_PASSWORD", "kafka.sasl_password", "schema_registry.secret"] {
        assert_eq!(settings.secret(key).map(|s| s.expose().to_owned()).as_deref(), Some("hunter2"), "{key}");
    }
    let kafka = KafkaSettings::from(&settings).expect("it is valid");
    let registry = RegistrySettings::from(&settings).expect("it is valid");
    let mysql = MySqlSettings::from(&settings).expect("it is valid");
    let shown = format!("{}{settings:?}{kafka:?}{registry:?}{mysql:?}", settings.report());
    assert!(!shown.contains("hunter2"), "{shown}");
    let options: Vec<_> = (&kafka.client).into_iter().map(|(k, v)| format!("{k}={v}")).collect();
    let want = [
        "debug=broker",
        "sasl.mechanisms=PLAIN",
        "sasl.password=hunter2",
        "sasl.username=me",
        "security.protocol=SASL_SSL",
        "ssl.key.password=hunter2",
    ];
    assert_eq!(options, want);

    let flag =
        load(&yaml, &environment, &["--db-password", "other"]).expect("a stronger source may use the other form");
    assert_eq!(flag.secret("DB_PASSWORD"), Some(Secret::new("other")));
}

#[test]
fn the_report_names_value_and_origin() {
    let settings = load("DB_PORT: 3307", &[("DB_PASSWORD", "hunter2")], &["--linger", "5ms"]).expect("it is valid");
    let report = settings.report();
    let line = |key: &str| {
        let line = report.lines().find(|l| l.starts_with(key)).unwrap_or_else(|| panic!("{key} in\n{report}"));
        line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    assert!(line("DB_PORT").starts_with("3307 ") && line("DB_PORT").ends_with("config.yaml:1"));
    assert_eq!(line("DB_PASSWORD"), "*** environment DB_PASSWORD");
    assert_eq!(line("producer.linger"), "5ms flag --linger");
    assert_eq!(line("kafka.transactional_id"), "product_updates.producer default, from kafka.topic");
    assert_eq!(line("kafka.retention"), "- unset");
    assert!(!report.contains("consumer.slots"), "settings of other programs are left out");
}

#[test]
fn misspelt_variables_are_pointed_out() {
    let environment =
        [("KAFKA_BOOTSTRAP_SERVER", "x"), ("DB_PASSWORD_FIL", "x"), ("HOME_DIR", "x"), ("KAFKA_TOPIC", "x")];
    let settings = load("", &environment, &[]).expect("it is a warning only");
    assert_eq!(
        settings.warnings(),
        [
            "the environment variable DB_PASSWORD_FIL is not known and has no effect; did you mean DB_PASSWORD_FILE?",
            "the environment variable KAFKA_BOOTSTRAP_SERVER is not known and has no effect; did you mean KAFKA_BOOTSTRAP_SERVERS?",
        ]
    );
}

#[test]
fn an_option_without_effect_is_pointed_out() {
    let options = [("KAFKA_LIBRDKAFKA", "linger.ms=5,client.id=me,socket.timeout.ms=9000")];
    let settings = load("", &options, &[]).expect("it is a warning only");
    let [without, elsewhere] = settings.warnings() else { panic!("{:?}", settings.warnings()) };
    assert!(without.starts_with("kafka.librdkafka: linger.ms has no effect"), "{without}");
    assert!(
        elsewhere.starts_with("kafka.librdkafka: socket.timeout.ms does not reach the programs' own"),
        "{elsewhere}"
    );
}

#[test]
fn a_password_that_anybody_on_the_way_can_read_is_a_warning() {
    let warnings = |program: Program, yaml: &str| {
        let settings = load_as(program, yaml, &[("DB_PASSWORD", "hunter2")], &[]).expect("it is a warning only");
        assert!(settings.warnings().iter().all(|w| !w.contains("hunter2")), "{:?}", settings.warnings());
        settings.warnings().iter().map(|w| w.split(" goes to ").next().unwrap_or("").to_owned()).collect::<Vec<_>>()
    };
    let mysql =
        |mode: &str, host: &str| warnings(Program::CdcProducer, &format!("DB_HOST: {host}\ndb: {{ssl_mode: {mode}}}"));
    for mode in ["disabled", "preferred", "required"] {
        assert_eq!(mysql(mode, "mysql.example.com"), ["DB_PASSWORD"], "{mode}");
        assert!(mysql(mode, "127.0.0.1").is_empty(), "{mode}");
    }
    assert!(mysql("verify_identity", "mysql.example.com").is_empty());
    let sasl = |protocol: &str, mechanism: &str, more: &str| {
        let yaml = format!(
            "kafka: {{bootstrap_servers: 'localhost:1,broker:2', security_protocol: {protocol}, sasl_mechanisms: {mechanism}, \
             sasl_username: u, sasl_password: hunter2{more}}}"
        );
        warnings(Program::Consumer, &yaml)
    };
    assert_eq!(sasl("SASL_PLAINTEXT", "PLAIN", ""), ["kafka.sasl_password"]);
    assert!(sasl("SASL_PLAINTEXT", "SCRAM-SHA-512", "").is_empty());
    assert!(sasl("SASL_SSL", "PLAIN", "").is_empty());
    let unchecked = ", librdkafka: {ssl.endpoint.identification.algorithm: none}";
    assert_eq!(sasl("SASL_SSL", "PLAIN", unchecked), ["kafka.sasl_password"]);
    let registry = |url: &str| {
        warnings(Program::Consumer, &format!("schema_registry: {{url: '{url}', user: u, secret: hunter2}}"))
    };
    assert_eq!(registry("http://registry:8081"), ["schema_registry.secret"]);
    assert!(registry("http://localhost:8081").is_empty() && registry("https://registry").is_empty());
    let postgres = |url: &str| warnings(Program::Consumer, &format!("postgres: {{url: '{url}'}}"));
    assert_eq!(postgres("postgres://u:hunter2@db/d?sslmode=require"), ["the password in postgres.url"]);
    assert!(postgres("postgres://u:hunter2@db/d?sslmode=verify-full").is_empty());
    assert!(postgres("postgres://u:hunter2@localhost/d").is_empty());
}

#[test]
fn every_mistake_in_the_file_is_named() {
    for (yaml, want) in [
        (
            "kafka:\n  bootstrap_server: x",
            "config.yaml:2: unknown setting kafka.bootstrap_server\ndid you mean kafka.bootstrap_servers? Every setting is in conf/config.example.yaml",
        ),
        (
            "db_host: x",
            "config.yaml:1: unknown setting db_host\ndid you mean DB_HOST? Every setting is in conf/config.example.yaml",
        ),
        ("\nfoo: {bar: 1}", "config.yaml:2: unknown setting foo\nevery setting is in conf/config.example.yaml"),
        ("kafka: 3", "config.yaml:1: unknown setting kafka\n"),
        ("DB_HOST: [a]", "config.yaml:1: DB_HOST must be a single text, not a list or a map\n"),
        ("DB_HOST: a\nDB_HOST: b", "config.yaml:2: DB_HOST stands here and in line 1\ncorrect the YAML of this line"),
        (
            "kafka: {topic: a}\nkafka.topic: b",
            "kafka.topic is given twice: config.yaml:1 and config.yaml:2\nkeep one of the two",
        ),
        ("- a", "config.yaml:1: settings are wanted here, e.g. kafka.topic: products\n"),
        ("DB_HOST: \"a", "config.yaml:1: "),
        (
            "DB_PORT: 70000",
            "DB_PORT: \"70000\" is not a whole number from 1 to 65535 (config.yaml:1)\ncorrect it: MySQL port",
        ),
        (
            "DB_PASSWORD_FILE: /nowhere/x",
            "cannot read the file /nowhere/x that holds DB_PASSWORD (config.yaml:1): No such file or directory (os error 2)\nmake it readable for this user, or name another file",
        ),
        (
            "DB_PASSWORD: a\nDB_PASSWORD_FILE: Cargo.toml",
            "DB_PASSWORD is given twice: config.yaml:1 and config.yaml:2\nkeep one of the two",
        ),
        ("DB_NAME: a`b", "DB_NAME: \"a`b\" is not a name that MySQL allows (config.yaml:1)\n"),
    ] {
        let text = refused(load(yaml, &[], &[]));
        assert!(text.starts_with(want), "{yaml}: {text}");
    }
}

#[test]
fn every_wrong_value_is_named_with_its_origin() {
    for (key, value, want) in [
        (
            "KAFKA_TRANSACTION_TIMEOUT",
            "10",
            "kafka.transaction_timeout: \"10\" is not a time span with a unit, e.g. 500ms, 10s, 2m, 7d (environment KAFKA_TRANSACTION_TIMEOUT)\ncorrect it: Time after",
        ),
        (
            "KAFKA_TRANSACTION_TIMEOUT",
            "10ms",
            "kafka.transaction_timeout: \"10ms\" is too short: at least 1s is needed (environment KAFKA_TRANSACTION_TIMEOUT)\n",
        ),
        (
            "PRODUCER_MEMORY",
            "lots",
            "producer.memory: \"lots\" is not a size, e.g. 65536, 512KiB or 64MiB (environment PRODUCER_MEMORY)\n",
        ),
        (
            "KAFKA_COMPRESSION",
            "lzma",
            "kafka.compression: \"lzma\" is none of none, gzip, snappy, lz4, zstd (environment KAFKA_COMPRESSION)\n",
        ),
        (
            "SCHEMA_REGISTRY_URL",
            "localhost:8081",
            "schema_registry.url: \"localhost:8081\" does not begin with http:// or https:// (environment SCHEMA_REGISTRY_URL)\n",
        ),
        (
            "SCHEMA_REGISTRY_URL",
            "https://bob:hunter2@localhost:8081/x",
            "schema_registry.url: *** holds a user: that belongs into schema_registry.user and schema_registry.secret (environment SCHEMA_REGISTRY_URL)\n",
        ),
        (
            "LOG_LEVEL",
            "info,loud",
            "log.level: \"info,loud\" is none of error, warn, info, debug, trace, and no filter such as info,rdkafka=debug (environment LOG_LEVEL)\n",
        ),
        (
            "METRICS_LISTEN",
            "9100",
            "metrics.listen: \"9100\" is not an IP address with a port or a range of ports, e.g. 127.0.0.1:9100-9109 (environment METRICS_LISTEN)\n",
        ),
        (
            "METRICS_LISTEN",
            "127.0.0.1:9100-9099",
            "metrics.listen: \"127.0.0.1:9100-9099\" is not an IP address with a port or a range of ports, e.g. 127.0.0.1:9100-9109 (environment METRICS_LISTEN)\n",
        ),
        (
            "UPDATER_PAUSE",
            "10s..1s",
            "updater.pause: \"10s..1s\" is not a pause, e.g. 2s or 1s..10s (environment UPDATER_PAUSE)\n",
        ),
        (
            "KAFKA_TOPIC",
            "a b",
            "kafka.topic: \"a b\" is not a legal name: letters, digits, '.', '_' and '-', at most 238 (environment KAFKA_TOPIC)\n",
        ),
        (
            "KAFKA_REPLICATION_FACTOR",
            "0",
            "kafka.replication_factor: \"0\" is not -1 and not at least 1 (environment KAFKA_REPLICATION_FACTOR)\n",
        ),
        (
            "KAFKA_LIBRDKAFKA",
            "acks=1",
            "kafka.librdkafka: acks must stay as the programs set it (environment KAFKA_LIBRDKAFKA)\nremove it: changing it would break exactly once",
        ),
        (
            "KAFKA_LIBRDKAFKA",
            "allow.auto.create.topics=true",
            "kafka.librdkafka: allow.auto.create.topics must stay as the programs set it (environment KAFKA_LIBRDKAFKA)\nremove it: changing it would break exactly once",
        ),
        (
            "KAFKA_LIBRDKAFKA",
            "ssl.key.pem=hunter2",
            "kafka.librdkafka: ssl.key.pem does not reach the programs' own producer (environment KAFKA_LIBRDKAFKA)\nset the login by kafka.sasl_*",
        ),
        (
            "KAFKA_LIBRDKAFKA",
            "group.id=x",
            "kafka.librdkafka: group.id has its own setting, kafka.group_id (environment KAFKA_LIBRDKAFKA)\nset kafka.group_id instead",
        ),
        (
            "KAFKA_LIBRDKAFKA",
            "debug",
            "kafka.librdkafka: *** is not a map of texts, e.g. {a: b} or a=b,c=d (environment KAFKA_LIBRDKAFKA)\n",
        ),
        (
            "KAFKA_SECURITY_PROTOCOL",
            "SASL_SSL",
            "kafka.security_protocol SASL_SSL needs kafka.sasl_mechanisms\nset kafka.sasl_mechanisms",
        ),
        (
            "KAFKA_SASL_PASSWORD",
            "hunter2",
            "kafka.sasl_password: \"***\" has no effect with kafka.security_protocol PLAINTEXT (environment KAFKA_SASL_PASSWORD)\nset kafka.security_protocol to SASL_SSL",
        ),
        (
            "KAFKA_SSL_CA_LOCATION",
            "/nowhere",
            "kafka.ssl_ca_location: \"/nowhere\" can't be read (environment KAFKA_SSL_CA_LOCATION): No such file or directory (os error 2)\nname a file",
        ),
        (
            "DB_SSL_CA",
            "Cargo.toml",
            "db.ssl_ca: \"Cargo.toml\" has no effect with db.ssl_mode preferred (environment DB_SSL_CA)\nset db.ssl_mode to verify_ca or verify_identity",
        ),
        (
            "SCHEMA_REGISTRY_SECRET",
            "x",
            "schema_registry.secret is set, but schema_registry.user is not\nset schema_registry.user, too",
        ),
    ] {
        let text = refused(load("", &[(key, value)], &[]));
        assert!(text.starts_with(want), "{key}={value}: {text}");
    }
    let both = refused(load("", &[("DB_PASSWORD", "a"), ("DB_PASSWORD_FILE", "b")], &[]));
    assert_eq!(
        both,
        "DB_PASSWORD is given twice: environment DB_PASSWORD and environment DB_PASSWORD_FILE\nkeep one of the two"
    );
    let flag = refused(load("", &[], &["--batch-rows", "0"]));
    assert!(
        flag.starts_with("producer.batch_rows: \"0\" is not a whole number from 1 to 10000000 (flag --batch-rows)\n"),
        "{flag}"
    );
}

#[test]
fn a_named_file_must_be_there() {
    let arguments = command(Program::Verify, Command::new("test")).try_get_matches_from(["test"]).expect("no flags");
    let environment = [("CONFIG".to_owned(), "/nowhere/config.yaml".to_owned())].into_iter().collect();
    let text = refused(Settings::load(Program::Verify, &environment, &arguments));
    let want = "cannot read the configuration file /nowhere/config.yaml: No such file or directory (os error 2)\n\
                name an existing file with --config or CONFIG; conf/config.example.yaml is one to copy";
    assert_eq!(text, want);
}

#[test]
fn rules_have_the_documented_default_and_can_be_set() {
    let of = |yaml: &str, environment: &[(&str, &str)]| {
        load_as(Program::Consumer, yaml, environment, &[]).map(|s| rules(&s).expect("loading has checked them"))
    };
    let discount = |percents: &[(&str, u16)]| {
        let [from, by, column] = ["price", "category", "discount_price"].map(str::to_owned);
        let percents = percents.iter().map(|(text, percent)| ((*text).to_owned(), *percent)).collect();
        Some(Discount { from, by, column, percents })
    };
    let category = "category".to_owned();
    let default =
        Rules { capitalise: vec![category.clone()], discount: discount(&[("CAT_5", 2000)]), drop: Vec::new() };
    assert_eq!(of("", &[]).ok(), Some(default));
    let want = Rules {
        capitalise: vec!["name".to_owned(), category.clone()],
        discount: discount(&[("CAT_5", 1250), ("ÄPFEL", 10_000)]),
        drop: vec![Filter { column: category, equals: "Test, please".to_owned() }],
    };
    assert_eq!(of("rules:\n  discount: {}\n  capitalise: []\n", &[]).ok(), Some(Rules::default()));
    let yaml = "rules:\n  capitalise: [name, category]\n  discounts:\n    cat_5: 12.5\n    Äpfel: 100\n  drop:\n    - field: category\n      equals: 'Test, please'\n";
    assert_eq!(of(yaml, &[]).ok().as_ref(), Some(&want));
    let json = [
        ("RULES_CAPITALISE", r#"["name","category"]"#),
        ("RULES_DISCOUNTS", r#"{"cat_5": 12.5, "Äpfel": 100}"#),
        ("RULES_DROP", r#"[{"field":"category","equals":"Test, please"}]"#),
    ];
    assert_eq!(of("", &json).ok().as_ref(), Some(&want));

    for (key, value, want) in [
        ("RULES_CAPITALISE", "[{a: b}]", "is not a list of column names, e.g. [category]"),
        (
            "RULES_DISCOUNT",
            "{from: price}",
            "is not a map of three columns, e.g. {from: price, by: category, column: d",
        ),
        (
            "RULES_DISCOUNTS",
            "{CAT_5: 120}",
            "gives CAT_5 \"120\"; a discount is a percentage from 0 to 100 with at most two decimals",
        ),
        ("RULES_DISCOUNTS", "{CAT_5: 1.005}", "gives CAT_5 \"1.005\"; a discount"),
        ("RULES_DROP", "[category]", "is not a list of filters, e.g. [{field: category, equals: TEST}]"),
    ] {
        let text = refused(load_as(Program::Consumer, "", &[(key, value)], &[]));
        assert!(text.contains(want), "{text}");
    }
}

#[test]
fn postgres_is_off_until_it_has_an_address() {
    let off = load_as(Program::Consumer, "", &[], &[]).expect("it is valid");
    assert!(matches!(PostgresSettings::from(&off), Ok(None)));
    let text = refused(load_as(Program::Consumer, "", &[("POSTGRES_URL", "host=x password=hunter2")], &[]));
    assert_eq!(
        text,
        "postgres.url: \"***\" does not begin with postgres:// or postgresql:// (environment POSTGRES_URL)\n\
                      write it as postgres://user:password@host:5432/database"
    );
}

#[test]
fn the_example_file_holds_every_setting_at_its_default() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../conf/config.example.yaml");
    let text = std::fs::read_to_string(path).expect("the example file");
    // A commented-out line is an example of a setting that has no default.
    let uncommented: String = text
        .lines()
        .map(|l| l.replacen("# ", "", usize::from(l.trim_start().starts_with("# ") && l.contains(": "))) + "\n")
        .collect();
    for names in table::NAMES.iter() {
        let last = names.setting.key.rsplit('.').next().unwrap_or("");
        assert!(uncommented.contains(&format!("{last}:")), "{} is missing", names.setting.key);
    }
    for program in [Program::ProductUpdater, Program::CdcProducer, Program::Consumer, Program::Verify, Program::Stream]
    {
        let settings = load_as(program, &text, &[], &[]).expect("the example is valid");
        let defaults = Settings::defaults(program);
        for names in table::NAMES.iter() {
            let key = names.setting.key;
            let plain = |s: &Settings| s.text(key).replace('"', "");
            assert_eq!(plain(&settings), plain(&defaults), "{key}");
        }
    }
}

/// A fuzz target: a configuration file and the texts of settings.
#[test]
fn any_text_is_a_configuration_or_refused() {
    fuzzing::check!(fuzzing::seeds("config"), 2_000, |input: &[u8]| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        drop(super::yaml::Node::parse(text));
        drop(super::yaml::Node::parse_list(text));
        drop(super::yaml::Node::parse_map(text));
        drop(load(text, &[], &[]));
    });
}
