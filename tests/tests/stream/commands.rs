//! The commands of the programs under `stream`, and the JSON that they print.

use std::fs;

use serde_json::Value;
use testbed::TestBed;
use testbed::servers::CDC;

use super::{Pipeline, refused};

#[tokio::test(flavor = "multi_thread")]
async fn the_programs_commands_are_the_same_here() {
    let mut pipeline = Pipeline::start(TestBed::new("stream_commands"), 1).await;
    // These commands need the rights of the producer.
    pipeline.bed.set("DB_USER", CDC.0);
    pipeline.bed.set("DB_PASSWORD", CDC.1);
    let checks = pipeline.json(&["doctor"], 0);
    let checks = checks["checks"].as_array().unwrap();
    for program in ["cdc-producer", "consumer"] {
        assert!(checks.iter().any(|check| check["program"] == program && check["outcome"] == "good"), "{checks:?}");
    }
    let text = pipeline.run(&["doctor"]).out;
    assert!(text.contains("== cdc-producer\nok ") && text.contains("== consumer\nok "), "{text}");
    assert_eq!(pipeline.json(&["verify"], 0)["agree"], true);
    let tables = pipeline.json(&["tables"], 0);
    let name = format!("{}.product", pipeline.bed.name);
    let listed = tables["tables"].as_array().unwrap().iter().find(|table| table["table"] == name).unwrap();
    assert_eq!((&listed["topic"], &listed["refused"]), (&pipeline.bed.name.clone().into(), &Value::Null), "{listed}");
    let shown = pipeline.json(&["checkpoint", "show"], 0);
    assert_eq!((&shown["kafka"]["epoch"], &shown["file"]["state"]), (&1.into(), &"written".into()), "{shown}");
    let asked = pipeline.run(&["snapshot", &name]);
    assert!(asked.code == 0 && asked.out.contains("asked for a snapshot of"), "{}{}", asked.out, asked.err);
    refused(&pipeline.run(&["snapshot", "a.b"]), 2, &["tables does not take a.b"]);

    let asked = pipeline.run(&["checkpoint", "reset"]);
    assert!(asked.code == 0 && asked.out.contains("asked for a snapshot"), "{}{}", asked.out, asked.err);
    pipeline.eventually(&["checkpoint", "show"], "/file/state", "written");
    let epoch = || -> Value { pipeline.json(&["checkpoint", "show"], 0)["kafka"]["epoch"].clone() };
    testbed::eventually("a second epoch", std::time::Duration::from_secs(30), || (epoch() == 2).then_some(()));
    refused(&pipeline.run(&["checkpoint", "set", "yesterday"]), 2, &["\"yesterday\" is no time"]);
    let file = format!("{}/last_read_timestamp.json", pipeline.bed.get("PRODUCER_TIME_TRACK"));
    // Nobody else writes the file from now on.
    assert_eq!(pipeline.producer.take().unwrap().stop().code, 0);
    let asked = pipeline.json(&["snapshot", &name], 0);
    assert_eq!((&asked["asked_for"], &asked["table"], &asked["since"]), (&"table".into(), &name.into(), &Value::Null));
    let time = "2001-01-01T00:00:00Z";
    for (arguments, what, since) in [
        (&["checkpoint", "reset"][..], "snapshot", Value::Null),
        (&["checkpoint", "set", time], "time", "2001-01-01T00:00:00.000000Z".into()),
    ] {
        let asked = pipeline.json(arguments, 0);
        assert_eq!((&asked["asked_for"], &asked["since"]), (&what.into(), &since), "{asked}");
        assert_eq!((&asked["file"], &asked["table"]), (&file.clone().into(), &Value::Null), "{asked}");
    }
    let restored = pipeline.json(&["checkpoint", "restore"], 0);
    assert_eq!((&restored["file"], &restored["epoch"]), (&file.clone().into(), &2.into()), "{restored}");
    assert!(restored["position"].as_str().is_some_and(|position| position.contains(':')), "{restored}");
    let before = fs::read_to_string(&file).unwrap();
    refused(
        &pipeline.run(&["checkpoint", "set", "2001-01-01T00:00:00Z", "--time-track", "/dev/null/x"]),
        1,
        &["/dev/null/x"],
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), before);
}
