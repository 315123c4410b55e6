//! The rights that the programs need at Kafka, one by one, as docs/security.md has them.

use integration_tests::World;
use xtask::services::Kafka;

/// A right: operations on a resource.
#[derive(Clone, Debug)]
pub(crate) struct Right {
    /// Operations, such as `Write`.
    pub(crate) operations: &'static [&'static str],
    /// `--topic`, `--group` or `--transactional-id`.
    pub(crate) kind: &'static str,
    /// The resource's name; with a `*` at its end for all that begin like this.
    pub(crate) name: String,
}

fn right(operations: &'static [&'static str], kind: &'static str, name: String) -> Right {
    Right { operations, kind, name }
}

/// What the producer needs.
pub(crate) fn of_producer(topic: &str) -> Vec<Right> {
    vec![
        right(&["Write"], "--topic", topic.to_owned()),
        right(&["Read"], "--topic", topic.to_owned()),
        right(&["Write"], "--topic", format!("{topic}.checkpoint")),
        right(&["Read"], "--topic", format!("{topic}.checkpoint")),
        right(&["Write"], "--transactional-id", format!("{topic}.producer")),
    ]
}

/// What the consumers need.
pub(crate) fn of_consumer(topic: &str, group: &str) -> Vec<Right> {
    vec![
        right(&["Read"], "--topic", topic.to_owned()),
        right(&["Read"], "--topic", format!("{topic}.slots")),
        right(&["Write"], "--topic", format!("{topic}.slots")),
        right(&["Write"], "--topic", format!("{topic}.dlq")),
        right(&["Read"], "--group", group.to_owned()),
        right(&["Write"], "--transactional-id", format!("{topic}.consumer_*")),
    ]
}

/// What verify needs.
pub(crate) fn of_verify(topic: &str, group: &str) -> Vec<Right> {
    vec![
        right(&["Read"], "--topic", topic.to_owned()),
        right(&["Read"], "--topic", format!("{topic}.checkpoint")),
        right(&["Read"], "--topic", format!("{topic}.dlq")),
        right(&["Describe"], "--group", group.to_owned()),
    ]
}

/// Who may create the topics when nobody has made them beforehand.
pub(crate) fn to_create(topic: &str) -> [Vec<Right>; 2] {
    let create = |names: &[&str]| names.iter().map(|n| right(&["Create"], "--topic", format!("{topic}{n}"))).collect();
    [create(&["", ".checkpoint"]), create(&["", ".slots", ".dlq"])]
}

/// Gives users a right, with Kafka's own tool.
pub(crate) fn give(kafka: &Kafka, right: &Right, users: &[String]) {
    let mut tool = kafka.tool("org.apache.kafka.tools.AclCommand").unwrap();
    tool.args(["--bootstrap-server", &kafka.administration(), "--add"]);
    for user in users {
        tool.args(["--allow-principal", &format!("User:{user}")]);
    }
    for operation in right.operations {
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
pub(crate) fn give_all(kafka: &Kafka, world: &World) {
    let (topic, group) = (world.get("KAFKA_TOPIC"), world.get("KAFKA_GROUP_ID"));
    let [producers, consumers] = to_create(topic);
    for (user, rights) in [
        ("producer", [of_producer(topic), producers].concat()),
        ("consumer", [of_consumer(topic, group), consumers].concat()),
        ("verify", of_verify(topic, group)),
    ] {
        rights.iter().for_each(|right| give(kafka, right, &[user.to_owned()]));
    }
}
