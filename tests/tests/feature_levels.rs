//! The cluster finalises another level of `transaction.version` while both programs work.
//!
//! A broker does not say so to connections that are open, and continues to serve them at the level that they began
//! with (seen with Kafka 4.1.1, upwards and downwards). The next connection brings the new level: the programs replace
//! their producers by ones of that level.

use std::time::Duration;

use testbed::servers::server::free_port;
use testbed::servers::{Kafka, KafkaOptions};
use testbed::{Link, Proxy, Running, TestBed, eventually};

fn set_level(kafka: &Kafka, direction: &str, level: u8) {
    let mut tool = Kafka::tool("org.apache.kafka.tools.FeatureCommand").unwrap();
    tool.args(["--bootstrap-server", &kafka.administration(), direction]);
    let output = tool.args(["--feature", &format!("transaction.version={level}")]).output().unwrap();
    assert!(output.status.success(), "{direction}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Waits until each program has initialised its transactions at these levels, one after the other.
fn wait_for_levels(programs: &mut [Running], levels: &[&str]) {
    for program in programs {
        let what = format!("{} works at the levels {levels:?}", program.name());
        eventually(&what, Duration::from_secs(60), || {
            assert!(program.is_running(), "it ended:\n{}", program.log_end());
            let log = program.said();
            let lines = log.lines().filter(|line| line.contains("transactions are initialised"));
            let mut found: Vec<&str> =
                lines.filter_map(|line| line.rsplit_once("level=")).map(|(_, at)| &at[..2]).collect();
            found.dedup();
            (found == levels).then_some(())
        });
    }
}

#[test]
fn both_programs_follow_the_level_up_and_down() {
    let mut world = TestBed::new("levels");
    let port = free_port().unwrap();
    let proxy = Proxy::start(port);
    let options = KafkaOptions {
        folder: world.folder.join("kafka"),
        port: Some(port),
        advertised: Some(proxy.port()),
        transaction_version: Some(1),
        ..KafkaOptions::default()
    };
    let kafka = Kafka::start(&options, &|_| {}).expect("a broker");
    world.set("KAFKA_BOOTSTRAP_SERVERS", format!("127.0.0.1:{}", proxy.port()));
    world.set("RUST_LOG", "info,kafka=debug");
    drop(tokio::runtime::Runtime::new().unwrap().block_on(world.table()));
    let mut updater =
        world.start("product-updater", &["--generate", "1000000", "--rate", "500", "--seed", "3", "--no-pause"]);
    let mut programs = [world.start("cdc-producer", &[]), world.start("consumer", &[])];
    wait_for_levels(&mut programs, &["V1"]);
    programs[0].wait_for("snapshot complete");

    for (direction, level, seen) in [("upgrade", 2, &["V1", "V2"][..]), ("downgrade", 1, &["V1", "V2", "V1"])] {
        set_level(&kafka, direction, level);
        let closed = |program: &Running| program.said().matches("a connection to Kafka is closed").count();
        let before: Vec<usize> = programs.iter().map(closed).collect();
        proxy.set(Link::Cut);
        eventually("the connections are closed", Duration::from_secs(60), || {
            programs.iter().zip(&before).all(|(program, before)| closed(program) > *before).then_some(())
        });
        proxy.set(Link::Open);
        wait_for_levels(&mut programs, seen);
    }
    assert!(updater.is_running(), "it was to write all the time: {}", updater.log_end());
    assert_eq!(updater.stop().code, 0);
    let report = world.verify();
    assert!(report.contains("OK: "), "{report}");
    for program in programs {
        let ended = program.stop();
        assert_eq!(ended.code, 0, "{}", ended.err);
    }
}
