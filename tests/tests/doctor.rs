//! `doctor` of producer and consumer on real servers: each fault is named with what to do, which is then done, as it is
//! printed, and makes the check green.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::consumer_world::{log_path, wait_until_committed};
use crate::postgres_world::{PATIENCE, connect, run};
use model::error::Code;
use mysql_async::prelude::Queryable;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use testbed::servers::CDC;
use testbed::{Ended, TestBed, eventually, execute, expire};

/// The lines of doctor about one thing that are not ok, each with its remedy.
fn faults(ended: &Ended, name: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> = ended.out.lines().collect();
    let about = |line: &str| !line.starts_with("ok") && line.get(6..).is_some_and(|rest| rest.starts_with(name));
    let remedy = |i: usize| lines.get(i + 1).and_then(|l| l.split_once("what to do: ")).map_or("", |(_, r)| r);
    // The columns are as wide as the longest name.
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    (0..lines.len()).filter(|i| about(lines[*i])).map(|i| (words(lines[i]), remedy(i).to_owned())).collect()
}

fn doctor(world: &TestBed, program: &str) -> Ended {
    world.run(program, &["doctor"])
}

/// The consumer's doctor finds this, and nothing else that fails; gives the remedy.
fn finds(world: &TestBed, name: &str, texts: &[&str]) -> String {
    let ended = doctor(world, "consumer");
    assert_eq!(ended.code, 1, "{}\n{}", ended.out, ended.err);
    assert_eq!(ended.out.matches("FAIL").count(), faults(&ended, name).len(), "{}", ended.out);
    for text in texts {
        assert!(ended.out.contains(text), "{text:?} is not in\n{}", ended.out);
    }
    let remedies: Vec<String> = faults(&ended, name).into_iter().map(|(_, remedy)| remedy).collect();
    assert!(remedies.iter().all(|r| !r.is_empty()), "{}", ended.out);
    remedies.join("; ")
}

fn is_green(world: &TestBed, program: &str) -> String {
    let ended = doctor(world, program);
    assert!(ended.code == 0 && !ended.out.contains("FAIL"), "{}\n{}", ended.out, ended.err);
    assert_documented(&ended.out, program);
    ended.out
}

/// The program's table in docs/doctor.md has each check that is printed.
fn assert_documented(out: &str, program: &str) {
    let page = include_str!("../../docs/doctor.md");
    let heading = format!("`{program} doctor`\n");
    let table = page.split("\n## ").find(|section| section.starts_with(&heading)).unwrap();
    for line in out.lines().filter(|line| !line.starts_with(' ')) {
        let name = line[6..].split("  ").next().unwrap();
        assert!(table.contains(&format!("| `{name}` |")), "{name:?} is not in docs/doctor.md:\n{line}");
    }
}

/// The statements of a remedy.
fn statements(remedy: &str) -> Vec<String> {
    let end = [';', ',', '('];
    let rest = remedy.split("SET PERSIST ").skip(1).map(|rest| rest.split(end).next().unwrap().trim());
    rest.map(|rest| format!("SET PERSIST {rest}")).collect()
}

/// A world whose changes have gone all the way.
async fn delivered(world: &TestBed) {
    let mut conn = world.table().await;
    conn.query_drop("INSERT INTO product VALUES (1,'a','cat_5',1,NULL), (2,'b','b',2,NULL)").await.unwrap();
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    let consumer = world.start("consumer", &[]);
    wait_until_committed(world);
    world.verify();
    assert_eq!((producer.stop().code, consumer.stop().code), (0, 0));
}

/// The topics' configuration as it was set here.
struct Configs<'a> {
    world: &'a TestBed,
    set: BTreeMap<String, BTreeMap<String, String>>,
}

impl Configs<'_> {
    /// As `kafka-configs --alter --add-config`: what else is set stays.
    async fn add(&mut self, topic: &str, config: &str) {
        let of_topic = self.set.entry(topic.to_owned()).or_default();
        // A comma within a value is followed by no `=`.
        let mut last = String::new();
        for part in config.split(',') {
            match part.split_once('=') {
                Some((name, value)) => {
                    name.clone_into(&mut last);
                    of_topic.insert(name.to_owned(), value.to_owned());
                }
                None => of_topic.get_mut(&last).unwrap().push_str(&format!(",{part}")),
            }
        }
        let admin: AdminClient<_> = kafka::client_config(&self.world.kafka()).create().unwrap();
        let start = AlterConfig::new(ResourceSpecifier::Topic(topic));
        let all = of_topic.iter().fold(start, |alter, (name, value)| alter.set(name, value));
        let altered = admin.alter_configs(&[all], &AdminOptions::new()).await.unwrap();
        assert!(altered.iter().all(Result::is_ok), "{altered:?}");
    }

    /// Does what is printed.
    async fn follow(&mut self, remedy: &str) {
        for step in remedy.split("; then ") {
            if let Some((_, command)) = step.split_once("--entity-name ") {
                let (topic, config) = command.split_once(" --add-config ").unwrap();
                self.add(topic, config).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_remedy_for_a_topic_makes_it_green() {
    let world = TestBed::new("topic_checks");
    delivered(&world).await;
    let topic = world.kafka().topic;
    for program in ["cdc-producer", "consumer"] {
        let told = is_green(&world, program);
        assert!(told.contains("ok    topics") && !told.contains("warn  topics"), "{told}");
    }
    // Of several topics at once; each fault with its message.
    let rounds: [&[(&str, &str, &[&str])]; 4] = [
        &[
            ("", "cleanup.policy=compact", &["min.compaction.lag.ms", "delete.retention.ms", "`verify` goes by it"]),
            (".checkpoint", "cleanup.policy=delete", &["the state of the programs would be gone"]),
            (".dlq", "retention.ms=86400000", &["deletes dead letters: retention.ms=86400000"]),
        ],
        &[
            ("", "cleanup.policy=compact,delete,min.compaction.lag.ms=604800000", &["delete.retention.ms"]),
            (".slots", "cleanup.policy=compact,delete", &["the state of the programs would be gone"]),
            (".dlq", "retention.bytes=1000000", &["deletes dead letters: ", "retention.bytes=1000000"]),
        ],
        &[
            ("", "retention.ms=86400000", &["(retention.ms=86400000): consumers that are down"]),
            (".dlq", "cleanup.policy=compact", &["a dead letter is lost"]),
        ],
        &[("", "retention.bytes=1000000", &["retention.bytes=1000000): consumers that are down"])],
    ];
    for round in rounds {
        let mut configs = Configs { world: &world, set: BTreeMap::new() };
        for (suffix, config, _) in round {
            configs.add(&format!("{topic}{suffix}"), config).await;
        }
        let wants = |ended: &Ended| round.iter().all(|(.., want)| want.iter().all(|want| ended.out.contains(want)));
        let ended = eventually(&format!("{round:?}"), PATIENCE, || {
            let ended = doctor(&world, "cdc-producer");
            (wants(&ended) && faults(&ended, "topics").len() == round.len()).then_some(ended)
        });
        assert_eq!(ended.code, i32::from(ended.out.contains("FAIL")), "{}", ended.out);
        assert_eq!(faults(&ended, "topics"), faults(&doctor(&world, "consumer"), "topics"));
        for (_, remedy) in faults(&ended, "topics") {
            configs.follow(&remedy).await;
        }
        // The setting that a remedy may name is given as a flag.
        let policy = if ended.out.contains("set kafka.cleanup_policy to compact") { "compact" } else { "delete" };
        assert_eq!(policy == "compact", round[0].1.contains("compact"), "{}", ended.out);
        eventually(&format!("green after {round:?}"), PATIENCE, || {
            let ended = world.run("cdc-producer", &["doctor", "--kafka-cleanup-policy", policy]);
            (ended.code == 0 && faults(&ended, "topics").is_empty()).then_some(())
        });
    }
    expired_records_and_their_remedy(&world).await;
}

/// Retention has taken the records of products: what keeps them from now on, and an epoch that writes them again.
async fn expired_records_and_their_remedy(world: &TestBed) {
    expire(&world.kafka()).await;
    let ended = eventually("the check", PATIENCE, || {
        Some(doctor(world, "cdc-producer")).filter(|e| e.out.contains("have expired"))
    });
    let found = faults(&ended, "topics");
    assert!(ended.code == 0 && found.len() == 1 && found[0].1.contains("checkpoint reset"), "{}", ended.out);
    Configs { world, set: BTreeMap::new() }.follow(&found[0].1).await;
    assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
    let mut producer = world.start_as("cdc-producer", "after", &[]);
    producer.wait_for("snapshot complete");
    let consumer = world.start("consumer", &[]);
    for program in ["cdc-producer", "consumer"] {
        let told = is_green(world, program);
        assert!(
            told.contains(&format!("{} keeps every change", world.name)) && !told.contains("warn  topics"),
            "{told}"
        );
    }
    wait_until_committed(world);
    world.verify();
    assert_eq!((producer.stop().code, consumer.stop().code), (0, 0));
}

/// A topic that the programs create compacted is as doctor wants it.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_created_compacted_is_green() {
    let mut world = TestBed::new("compacted");
    world.set("KAFKA_CLEANUP_POLICY", "compact");
    delivered(&world).await;
    for program in ["cdc-producer", "consumer"] {
        let told = is_green(&world, program);
        assert!(told.contains("keeps the last record of each product, and every change for 604800000 ms"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_consumers_doctor_changes_nothing_and_names_what_is_missing() {
    let mut world = TestBed::new("nothing").with_postgres();
    let told = is_green(&world, "consumer");
    for want in [
        format!("to be created: {0}, {0}.slots, {0}.dlq", world.name),
        "gets its identity, at the first start".to_owned(),
        format!("it has no subject {}-value: the producer was never started", world.name),
        format!("database {} is to be created, with its tables", world.name),
    ] {
        assert!(told.contains(&want), "{want:?} is not in\n{told}");
    }
    assert!(!Path::new(world.get("CONSUMER_LOGS")).exists());
    assert_eq!(is_green(&world, "consumer"), told, "nothing was made");
    // One that nobody may make.
    let (server, _) = world.get("POSTGRES_URL").rsplit_once('/').map(|(s, d)| (s.to_owned(), d.to_owned())).unwrap();
    let admin = crate::postgres_world::connect_to(&format!("{server}/postgres")).await;
    let role = format!("r{}", world.name);
    run(&admin, &format!("CREATE ROLE {role} LOGIN PASSWORD 'p'")).await;
    let (_, host) = server.rsplit_once('@').unwrap();
    world.set("POSTGRES_URL", format!("postgres://{role}:p@{host}/{}", world.name));
    let remedy = finds(&world, "PostgreSQL", &["there is no database", "may not create it"]);
    let (statement, _) = remedy.split_once(", or give").unwrap();
    run(&admin, statement).await;
    // In PostgreSQL 15 only the owner may make tables in the schema public.
    let remedy = finds(&world, "PostgreSQL", &["lacks product, product_offsets, product_parked"]);
    let owner = crate::postgres_world::connect_to(&format!("{server}/{}", world.name)).await;
    run(&owner, remedy.split_once("; or make").unwrap().0).await;
    assert!(is_green(&world, "consumer").contains("to be created in schema public: product"));
    // A server that is not there, as each of the others.
    for (variable, value, name) in [
        ("POSTGRES_URL", "postgres://u:p@127.0.0.1:1/d", "PostgreSQL"),
        ("SCHEMA_REGISTRY_URL", "http://127.0.0.1:1", "registry"),
        ("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1", "Kafka"),
        ("CONSUMER_LOGS", "/proc/logs", "logs folder"),
    ] {
        let before = world.get(variable).to_owned();
        world.set(variable, value);
        finds(&world, name, &[]);
        world.set(variable, before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_consumers_doctor_finds_what_a_start_refuses() {
    let mut world = TestBed::new("sick").with_postgres();
    // Offsets can be moved when the session of the last member is over.
    world.set("KAFKA_SESSION_TIMEOUT", "6s");
    delivered(&world).await;
    let told = is_green(&world, "consumer");
    for want in ["agrees with its logs, and is 0 offsets behind", "public.product: id bigint", "5 slots, 0 held"] {
        assert!(told.contains(want), "{want:?} is not in\n{told}");
    }
    let consumer = world.start("consumer", &[]);
    eventually("it is seen", PATIENCE, || is_green(&world, "consumer").contains("5 slots, 1 held").then_some(()));
    assert_eq!(consumer.stop().code, 0);

    let admin = connect(&world).await;
    // The types of columns; a start says the same.
    for (change, want, back) in [
        (
            "ALTER TABLE product ALTER price TYPE numeric(10,1)",
            "column price of public.product is numeric(10,1), which rounds, and must be numeric(10,2)",
            "ALTER TABLE product ALTER price TYPE numeric(10,2)",
        ),
        (
            "ALTER TABLE product ALTER last_updated TYPE timestamp",
            "which depends on the session's time zone, and must be timestamp with time zone",
            "ALTER TABLE product ALTER last_updated TYPE timestamptz",
        ),
        (
            "ALTER TABLE product_offsets RENAME next_offset TO n",
            "public.product_offsets has no column next_offset (bigint)",
            "ALTER TABLE product_offsets RENAME n TO next_offset",
        ),
    ] {
        run(&admin, change).await;
        let remedy = finds(&world, "PostgreSQL tables", &[want]);
        assert!(remedy.contains("change what is named (ALTER TABLE)"), "{remedy}");
        if change.contains("numeric") {
            let ended = world.run("consumer", &[]);
            ended.assert_error(Code::PostgresTables, &[want]);
        }
        run(&admin, back).await;
    }
    is_green(&world, "consumer");

    // Rights, by a role that is given what is printed.
    let (role, url) = (format!("r{}", world.name), world.get("POSTGRES_URL").to_owned());
    run(&admin, &format!("CREATE ROLE {role} LOGIN PASSWORD 'p'; REVOKE ALL ON SCHEMA public FROM PUBLIC")).await;
    world.set("POSTGRES_URL", format!("postgres://{role}:p@{}", url.rsplit_once('@').unwrap().1));
    let remedy =
        finds(&world, "PostgreSQL", &["may not use schema public", "has no DELETE, INSERT, SELECT, UPDATE on"]);
    run(&admin, &remedy).await;
    is_green(&world, "consumer");
    run(&admin, "DROP TABLE product_parked").await;
    let remedy = finds(&world, "PostgreSQL", &["schema public lacks product_parked"]);
    run(&admin, remedy.split_once("; or make").unwrap().0).await;
    assert!(is_green(&world, "consumer").contains("to be created in schema public: product_parked"));

    // The topic, the group's offsets, and the logs.
    world.set("KAFKA_PARTITIONS", "3");
    assert!(finds(&world, "Kafka", &["has 10 partitions, but 3 are wanted"]).contains("set kafka.partitions"));
    world.set("KAFKA_PARTITIONS", "10");
    move_back(&world);
    let remedy = finds(&world, "group", &["were moved back"]);
    assert!(remedy.contains("consumer restore-offsets"), "{remedy}");
    assert_eq!(world.run("consumer", &["restore-offsets"]).code, 0);
    is_green(&world, "consumer");
    let log = log_path(&world, "consumer_1");
    fs::write(&log, "").unwrap();
    let remedy = finds(&world, "logs folder", &["consumer_1"]);
    assert!(remedy.contains("consumer accept-log consumer_1"), "{remedy}");
    assert_eq!(world.run("consumer", &["accept-log", "consumer_1"]).code, 0);
    is_green(&world, "consumer");

    // Each remedy was true: everything works again.
    let producer = world.start("cdc-producer", &[]);
    let consumer = world.start("consumer", &[]);
    let mut conn = world.mysql().await;
    conn.query_drop("UPDATE product SET price = 3").await.unwrap();
    wait_until_committed(&world);
    eventually("PostgreSQL has it", PATIENCE, || {
        let ended = world.run("consumer", &["doctor"]);
        (ended.code == 0 && ended.out.contains("is 0 offsets behind")).then_some(())
    });
    assert_eq!((producer.stop().code, consumer.stop().code), (0, 0));
}

/// Sets the group's offsets to 0, as a tool would.
fn move_back(world: &TestBed) {
    let settings = world.kafka();
    let consumer: BaseConsumer = kafka::consumer_config(&settings, &settings.group_id).create().unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..settings.partitions {
        list.add_partition_offset(&settings.topic, partition, Offset::Offset(0)).unwrap();
    }
    eventually("the group is empty", Duration::from_secs(90), || consumer.commit(&list, CommitMode::Sync).ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misspelt_table_and_all_that_is_wrong_with_one_are_named_at_once() {
    let mut world = TestBed::new("doctor_table");
    let mut conn = world.mysql().await;
    execute(
        &mut conn,
        &["CREATE TABLE product (id INT UNIQUE NOT NULL, name VARBINARY(9), category TEXT, price DECIMAL(12,4), picture BLOB)"],
    )
    .await;
    world.set("DB_TABLE", "prodcut");
    let found = doctor(&world, "cdc-producer");
    let near =
        format!("there is no table {0}.prodcut, or this user may not see it; did you mean {0}.product?", world.name);
    assert!(found.out.contains(&near), "{}", found.out);
    world.set("DB_TABLE", "product");
    let found = faults(&doctor(&world, "cdc-producer"), "table");
    let [(line, remedy)] = &found[..] else { panic!("{found:?}") };
    for part in [
        "product.name is varbinary(9)",
        "product.price is decimal(12,4)",
        "has no column last_updated",
        "has no primary key",
    ] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    for part in ["change the column to VARCHAR", "DECIMAL(10,2)", "add the column last_updated", "ADD PRIMARY KEY (id)"]
    {
        assert!(remedy.contains(part), "{part} is not in {remedy}");
    }
    execute(
        &mut conn,
        &["ALTER TABLE product MODIFY name VARCHAR(9), MODIFY price DECIMAL(10,2), ADD last_updated TIMESTAMP(6) NULL, \
           ADD PRIMARY KEY (id)"],
    )
    .await;
    let green = is_green(&world, "cdc-producer");
    assert!(green.contains("product; not in the schema, so not carried: picture\n"), "{green}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_producers_doctor_names_a_server_that_does_not_answer() {
    let mut world = TestBed::new("unreachable");
    drop(world.table().await);
    is_green(&world, "cdc-producer");
    for (variable, value, name) in [
        ("DB_PORT", "1", "MySQL"),
        ("SCHEMA_REGISTRY_URL", "http://127.0.0.1:1", "registry"),
        ("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1", "Kafka"),
    ] {
        let before = world.get(variable).to_owned();
        world.set(variable, value);
        let ended = doctor(&world, "cdc-producer");
        let found = faults(&ended, name);
        let is_named = matches!(&found[..], [(line, remedy)] if line.starts_with("FAIL") && !remedy.is_empty());
        assert!(ended.code == 1 && is_named, "{name}: {}", ended.out);
        world.set(variable, before);
    }
    is_green(&world, "cdc-producer");
}

/// On a separate server, as its settings change.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_gets_gtids_as_doctor_says() {
    let mut world = TestBed::new("gtids_on");
    let _mysql = world.own_mysql(&["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"]);
    let mut conn = world.table().await;
    execute(&mut conn, &["INSERT INTO product VALUES (1,'a','b',1,NULL)"]).await;

    // The right that only a server without GTIDs wants.
    let (user, database) = (format!("'{}'@'%'", CDC.0), world.name.replace('_', r"\_"));
    execute(&mut conn, &[format!("REVOKE LOCK TABLES ON `{database}`.* FROM {user}")]).await;
    let ended = doctor(&world, "cdc-producer");
    let found = faults(&ended, "LOCK TABLES");
    let [(line, grant)] = &found[..] else { panic!("{}", ended.out) };
    assert!(ended.code == 0 && line.starts_with("warn"), "{}", ended.out);
    world.run("cdc-producer", &[]).assert_error(Code::RightMissing, &[grant.as_str()]);
    execute(&mut conn, &[grant.replace("the user of DB_USER", &user)]).await;
    let ended = doctor(&world, "cdc-producer");
    assert!(ended.code == 0 && ended.out.contains("ok    LOCK TABLES"), "{}", ended.out);

    // GTIDs, while the producer runs and the table changes.
    let found = faults(&ended, "gtid_mode");
    let [(_, remedy)] = &found[..] else { panic!("{}", ended.out) };
    let statements = statements(remedy);
    assert_eq!(statements.len(), 4, "{remedy}");
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    for statement in &statements {
        if statement.ends_with("gtid_mode = ON") {
            world.wait_until_read();
        }
        execute(&mut conn, &[statement.as_str(), "UPDATE product SET price = price + 1"]).await;
    }
    let told = is_green(&world, "cdc-producer");
    assert!(told.contains("ok    gtid_mode") && !told.contains("LOCK TABLES"), "{told}");

    // Binlogs that the server deletes soon, and those that it never deletes.
    let mut conn = world.mysql().await;
    let retention = |world: &TestBed| faults(&doctor(world, "cdc-producer"), "retention");
    execute(&mut conn, &["SET GLOBAL binlog_expire_logs_seconds = 60"]).await;
    assert!(retention(&world)[0].0.contains("binlogs are kept for 60 s only"));
    execute(&mut conn, &["SET GLOBAL binlog_expire_logs_auto_purge = OFF"]).await;
    assert!(retention(&world).is_empty());
    execute(&mut conn, &["UPDATE product SET price = price + 1"]).await;
    world.assert_whole(producer);
}
