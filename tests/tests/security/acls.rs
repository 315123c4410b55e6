//! The rights that the programs need at Kafka, one by one, as docs/security.md has them.

use kafka::{Record, TopicSpec, TransactionalProducer, ensure_topics};
use testbed::TestBed;
use testbed::servers::Kafka;

use super::refusals::filled;
use super::servers::{KAFKA, LACKING, LACKING_USERS, SECURED, login};

/// A right: operations on a resource.
#[derive(Clone, Debug)]
pub(crate) struct Right {
    /// Operations, such as `Write`.
    pub(crate) operations: Vec<&'static str>,
    /// `--topic`, `--group` or `--transactional-id`.
    pub(crate) kind: &'static str,
    /// The resource's name; with a `*` at its end for all that begin like this.
    pub(crate) name: String,
}

fn right(operation: &'static str, kind: &'static str, name: String) -> Right {
    Right { operations: vec![operation], kind, name }
}

/// What the producer needs.
pub(crate) fn of_producer(topic: &str) -> Vec<Right> {
    vec![
        right("Write", "--topic", topic.to_owned()),
        right("Read", "--topic", topic.to_owned()),
        right("Write", "--topic", format!("{topic}.checkpoint")),
        right("Read", "--topic", format!("{topic}.checkpoint")),
        right("Write", "--topic", format!("{topic}.dlq")),
        right("Write", "--transactional-id", format!("{topic}.producer")),
    ]
}

/// What the consumers need.
pub(crate) fn of_consumer(topic: &str, group: &str) -> Vec<Right> {
    vec![
        right("Read", "--topic", topic.to_owned()),
        right("Read", "--topic", format!("{topic}.slots")),
        right("Write", "--topic", format!("{topic}.slots")),
        right("Write", "--topic", format!("{topic}.dlq")),
        right("Read", "--group", group.to_owned()),
        right("Write", "--transactional-id", format!("{topic}.consumer_*")),
    ]
}

/// What the consumers need besides when they write to PostgreSQL: they only warn without the first, and read the dead
/// letters only when PostgreSQL is behind the logs and refuses a record.
pub(crate) fn of_sink(topic: &str) -> Vec<Right> {
    ["checkpoint", "dlq"].map(|suffix| right("Read", "--topic", format!("{topic}.{suffix}"))).into()
}

/// What verify needs.
pub(crate) fn of_verify(topic: &str, group: &str) -> Vec<Right> {
    vec![
        right("Read", "--topic", topic.to_owned()),
        right("Read", "--topic", format!("{topic}.checkpoint")),
        right("Read", "--topic", format!("{topic}.dlq")),
        right("Describe", "--group", group.to_owned()),
    ]
}

/// What verify needs besides to say which other logs folders the group has; without it it says only that there may be
/// some.
pub(crate) fn of_other_folders(topic: &str) -> Vec<Right> {
    vec![right("Read", "--topic", format!("{topic}.slots"))]
}

/// Who may create the topics when nobody has made them beforehand.
pub(crate) fn to_create(topic: &str) -> [Vec<Right>; 2] {
    let create = |names: &[&str]| names.iter().map(|n| right("Create", "--topic", format!("{topic}{n}"))).collect();
    [create(&["", ".checkpoint", ".dlq"]), create(&["", ".slots", ".dlq"])]
}

/// Gives users rights, with Kafka's own tool.
pub(crate) fn give(kafka: &Kafka, rights: &[(Right, Vec<String>)]) {
    // Each call is a Java process.
    for some in rights.chunks(3) {
        std::thread::scope(|scope| {
            some.iter().for_each(|(right, users)| drop(scope.spawn(|| give_one(kafka, right, users))));
        });
    }
}

fn give_one(kafka: &Kafka, right: &Right, users: &[String]) {
    let mut tool = Kafka::tool("org.apache.kafka.tools.AclCommand").unwrap();
    tool.args(["--bootstrap-server", &kafka.administration(), "--add"]);
    for user in users {
        tool.args(["--allow-principal", &format!("User:{user}")]);
    }
    for operation in &right.operations {
        tool.args(["--operation", operation]);
    }
    match right.name.strip_suffix('*') {
        Some(prefix) => tool.args([right.kind, prefix, "--resource-pattern-type", "prefixed"]),
        None => tool.args([right.kind, &right.name]),
    };
    let output = tool.output().unwrap();
    assert!(output.status.success(), "{right:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Gives each program's user all that it needs in a world where no topic is there yet.
pub(crate) fn give_all(kafka: &Kafka, world: &TestBed) {
    let (topic, group) = (world.get("KAFKA_TOPIC"), world.get("KAFKA_GROUP_ID"));
    let [producers, consumers] = to_create(topic);
    let mut all: Vec<(Right, Vec<String>)> = Vec::new();
    for (user, rights) in [
        ("producer", [of_producer(topic), producers].concat()),
        ("consumer", [of_consumer(topic, group), of_sink(topic), consumers].concat()),
        ("verify", of_verify(topic, group)),
    ] {
        for right in rights {
            let same =
                |(r, u): &&mut (Right, Vec<String>)| r.kind == right.kind && r.name == right.name && u[0] == user;
            match all.iter_mut().find(same) {
                Some((known, _)) => known.operations.extend(right.operations),
                None => all.push((right, vec![user.to_owned()])),
            }
        }
    }
    give(kafka, &all);
}

/// With every right it works; with one taken away it stops, soon, and says which.
#[tokio::test(flavor = "multi_thread")]
async fn each_right_is_needed() {
    let world = SECURED.world("rights").await;
    let (topic, group) = (world.get("KAFKA_TOPIC").to_owned(), world.get("KAFKA_GROUP_ID").to_owned());
    make_topics(&world).await;
    let programs = [
        ("producer", of_producer(&topic)),
        ("consumer", of_consumer(&topic, &group)),
        ("verify", of_verify(&topic, &group)),
    ];
    let (mut given, mut users) = (Vec::new(), 0..);
    let lacking = programs.map(|(user, rights)| {
        let names: Vec<String> = rights.iter().zip(&mut users).map(|(_, n)| format!("lacking-{n}")).collect();
        for (i, right) in rights.into_iter().enumerate() {
            let others = names.iter().enumerate().filter(|(n, _)| *n != i).map(|(_, name)| name.clone());
            given.push((right, others.chain([user.to_owned()]).collect()));
        }
        names
    });
    give(&SECURED.kafka, &given);
    let refuses = |program: &str, user: &str, texts: &[&str]| {
        let login =
            [("KAFKA_SASL_USERNAME", user), ("KAFKA_SASL_PASSWORD", LACKING), ("KAFKA_SASL_MECHANISMS", "PLAIN")];
        SECURED.refuses(&world, program, &login, texts);
    };
    let [own_producer, own_consumer, ..] = KAFKA.map(login);

    let producer = filled(&world, &own_producer).await;
    assert_eq!(producer.stop().code, 0);
    let (checkpoint, id) = (
        format!("cannot read topic {topic}.checkpoint "),
        format!("cannot initialise transactions of {topic}.producer at "),
    );
    let letters = format!("cannot look up topic {topic}.dlq ");
    for (user, texts) in lacking[0].iter().zip([
        ["publishing to ", "ACL WRITE"],
        ["cannot read topic ", "ACL READ"],
        ["cannot begin epoch ", "ACL WRITE"],
        [&checkpoint, "ACL READ"],
        [&letters, "ACL DESCRIBE, which READ and WRITE bring"],
        [&id, "ACL WRITE on the transactional id"],
    ]) {
        // Each takes up a replay: a first epoch does not read the topic.
        assert_eq!(SECURED.run(&world, "cdc-producer", &["checkpoint", "reset"], &[]).code, 0);
        refuses("cdc-producer", user, &texts);
    }

    poison(&world);
    let mut consumer = SECURED.start(&world, "consumer", "consumer", &own_consumer);
    consumer.wait_for("dead letters records=1");
    assert_eq!(consumer.stop().code, 0);
    let slots = format!("cannot read topic {topic}.slots ");
    let looked_up = format!("cannot look up topic {topic} ");
    // The folder's identity follows.
    let id = format!("transactions of {topic}.consumer_1-");
    for (user, texts) in lacking[1].iter().zip([
        [&looked_up, "ACL DESCRIBE, which READ and WRITE bring"],
        [&slots, "ACL READ"],
        ["cannot write the log checkpoint of consumer_1: ", "ACL WRITE"],
        [&letters, "ACL DESCRIBE, which READ and WRITE bring"],
        ["in its group", "ACL READ on the topic and on the group"],
        [&id, "ACL WRITE on the transactional id"],
    ]) {
        poison(&world);
        refuses("consumer", user, &texts);
    }

    let mut producer = SECURED.start(&world, "cdc-producer", "producer", &own_producer);
    producer.wait_for("snapshot=true");
    for (user, texts) in lacking[2].iter().zip([
        [looked_up.as_str(), "ACL DESCRIBE"],
        [&format!("cannot look up topic {topic}.checkpoint "), "ACL DESCRIBE"],
        [&letters, "ACL DESCRIBE"],
        ["cannot read the offsets of group ", "ACL READ on the group"],
    ]) {
        refuses("verify --wait 20s", user, &texts);
    }
    assert_eq!(producer.stop().code, 0);
}

/// `doctor` names each right that is missing, without using it; with the ACL that it prints a start finds it.
#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_a_missing_right() {
    let world = SECURED.world("rights_seen").await;
    let (topic, group) = (world.get("KAFKA_TOPIC").to_owned(), world.get("KAFKA_GROUP_ID").to_owned());
    make_topics(&world).await;
    let (producer, consumer) = (of_producer(&topic), of_consumer(&topic, &group));
    let [own_producer, own_consumer, ..] = KAFKA.map(login);
    let user = |n: usize| format!("lacking-{}", LACKING_USERS - 1 - n);
    // Each lacks writing, which nothing that doctor reads would show; the group's is lacking to the last one.
    let without = |rights: &[Right], operation: &str, kind: &str, name: &str| -> Vec<Right> {
        let is = |right: &Right| right.operations == [operation] && right.kind == kind && right.name == name;
        let describe = rights.iter().filter(|r| is(r)).map(|r| right("Describe", r.kind, r.name.clone()));
        describe.chain(rights.iter().filter(|r| !is(r)).cloned()).collect()
    };
    let cases = [
        ("cdc-producer", &producer, "Write", "--topic", topic.clone(), "WRITE on topic "),
        ("cdc-producer", &producer, "Write", "--topic", format!("{topic}.checkpoint"), "WRITE on topic "),
        ("cdc-producer", &producer, "Write", "--topic", format!("{topic}.dlq"), "WRITE on topic "),
        ("consumer", &consumer, "Write", "--topic", format!("{topic}.slots"), "WRITE on topic "),
        ("consumer", &consumer, "Write", "--topic", format!("{topic}.dlq"), "WRITE on topic "),
        ("consumer", &consumer, "Read", "--group", group.clone(), "READ on group "),
    ];
    let doctor = |program: &str, login: &[(&str, &str)]| SECURED.run(&world, program, &["doctor"], login);
    let mut given: Vec<(Right, Vec<String>)> = Vec::new();
    let lacking = cases
        .iter()
        .enumerate()
        .map(|(n, (_, all, operation, kind, name, _))| (user(n), without(all, operation, kind, name)));
    let whole = [("producer".to_owned(), producer.clone()), ("consumer".to_owned(), consumer.clone())];
    for (user, rights) in whole.into_iter().chain(lacking) {
        for right in rights {
            let same = |(r, _): &&mut (Right, _)| {
                (r.kind, &r.name, &r.operations) == (right.kind, &right.name, &right.operations)
            };
            match given.iter_mut().find(same) {
                Some((_, users)) => users.push(user.clone()),
                None => given.push((right, vec![user.clone()])),
            }
        }
    }
    give(&SECURED.kafka, &given);
    assert_eq!(filled(&world, &own_producer).await.stop().code, 0);
    for (n, (program, rights, operation, kind, name, lacks)) in cases.iter().enumerate() {
        let user = user(n);
        let login = [
            ("KAFKA_SASL_USERNAME", user.as_str()),
            ("KAFKA_SASL_PASSWORD", LACKING),
            ("KAFKA_SASL_MECHANISMS", "PLAIN"),
        ];
        let ended = doctor(program, &login);
        let says = [
            format!("FAIL  rights      Kafka does not allow this user {lacks}{name}\n"),
            format!("what to do: allow the user of kafka.sasl_username: ACL {lacks}{name}\n"),
        ];
        for text in &says {
            let squeezed = ended.out.split_whitespace().collect::<Vec<_>>().join(" ");
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(ended.code == 1 && squeezed.contains(&text), "{text}\n{}{}", ended.out, ended.err);
        }
        // As it says.
        let right =
            rights.iter().find(|r| r.operations == [*operation] && r.kind == *kind && r.name == *name).unwrap().clone();
        give(&SECURED.kafka, &[(right, vec![user.clone()])]);
        let ended = doctor(program, &login);
        assert!(ended.code == 0 && ended.out.contains("Kafka allows what is needed on topic "), "{}", ended.out);
    }
    let ended = doctor("consumer", &own_consumer);
    let note =
        format!("not checked, as Kafka does not tell it: WRITE on the transactional ids {topic}.consumer_*. A start");
    assert!(ended.code == 0 && ended.out.contains(&note) && ended.out.contains("note  rights"), "{}", ended.out);

    // The right that only doctor needs: without it the check of the topics warns.
    assert!(ended.out.contains("warn  topics ") && ended.out.contains("ACL DESCRIBE_CONFIGS"), "{}", ended.out);
    let topics = ["", ".checkpoint", ".slots", ".dlq"].map(|suffix| format!("{topic}{suffix}"));
    let rights = topics.map(|name| (right("DescribeConfigs", "--topic", name), vec!["consumer".to_owned()]));
    give(&SECURED.kafka, &rights);
    let ended = doctor("consumer", &own_consumer);
    assert!(
        ended.code == 0 && ended.out.contains("ok    topics ") && !ended.out.contains("warn  topics "),
        "{}",
        ended.out
    );
}

/// The commands in docs/security.md give these rights and no others.
#[test]
fn the_documentation_has_each_right() {
    let documentation = include_str!("../../../docs/security.md");
    let commands: Vec<Vec<&str>> =
        documentation.lines().filter_map(|l| Some(l.strip_prefix("$acls ")?.split(' ').collect())).collect();
    let has = |command: &[&str], pair: [&str; 2]| command.windows(2).any(|w| w == pair);
    let values = |command: &[&str], flags: &[&str]| command.iter().filter(|word| flags.contains(word)).count();
    let (topic, group) = ("product_updates", "product_consumers");
    let mut count = 0;
    for (user, rights) in [
        ("producer", of_producer(topic)),
        ("consumer", [of_consumer(topic, group), of_sink(topic)].concat()),
        ("verify", [of_verify(topic, group), of_other_folders(topic)].concat()),
    ] {
        for right in rights {
            let name = right.name.trim_end_matches('*');
            let gives = |command: &&Vec<&str>| {
                has(command, ["--allow-principal", &format!("User:{user}")])
                    && has(command, ["--operation", right.operations[0]])
                    && has(command, [right.kind, name])
                    && has(command, ["--resource-pattern-type", "prefixed"]) == right.name.ends_with('*')
            };
            assert_eq!(commands.iter().filter(gives).count(), 1, "{user}: {right:?}");
            count += 1;
        }
    }
    let resources = ["--topic", "--group", "--transactional-id"];
    let given: usize = commands.iter().map(|c| values(c, &["--operation"]) * values(c, &resources)).sum();
    assert_eq!(given, count);
}

/// Made by an operator beforehand: then nobody needs the right to create them.
async fn make_topics(world: &TestBed) {
    let kafka = world.kafka();
    let compacted = |suffix: &str, partitions| TopicSpec::compacted(format!("{}.{suffix}", kafka.topic), partitions);
    let (checkpoint, slots) = (compacted("checkpoint", 1), compacted("slots", 16));
    ensure_topics(&kafka, &[TopicSpec::products(&kafka), checkpoint, slots, TopicSpec::dead_letters(&kafka)])
        .await
        .unwrap();
}

/// A record that nobody can decode.
fn poison(world: &TestBed) {
    let kafka = world.kafka();
    let producer = TransactionalProducer::new(&kafka, &kafka.transactional_id).unwrap();
    producer.begin().unwrap();
    let record = Record { topic: &kafka.topic, partition: Some(0), key: b"1", value: Some(b"nonsense"), header: None };
    producer.send(&record).unwrap();
    producer.commit().unwrap();
}
