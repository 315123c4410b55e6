use super::*;

#[test]
fn places_are_in_the_order_of_the_files_numbers() {
    let at = |file: &str, offset| BinlogOffset { file: file.to_owned(), offset };
    assert!(at("b.000009", 900) < at("b.1000000", 4));
    assert!(at("b.000009", 4) < at("b.000009", 900));
    assert_eq!(at("b.000009", 4).cmp(&at("b.000009", 4)), Ordering::Equal);
}

const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

#[test]
fn a_request_for_the_main_tables_snapshot_is_beside_that_for_the_epoch() {
    let position = Position {
        server_uuid: A.to_owned(),
        gtid_set: None,
        file: "b.000001".to_owned(),
        offset: 4,
        committed_at: Micros(0),
        anchor: None,
    };
    let mut progress = Progress { request: "epoch".to_owned(), ..Progress::new(1, position) };
    progress.main.request = Some("snapshot".to_owned());
    let text = serde_json::to_string(&progress).expect("JSON");
    assert_eq!(serde_json::from_str::<Progress>(&text).expect(&text), progress);
}

#[test]
fn a_key_is_written_as_it_is_read() {
    for (key, text) in [
        (KeyBound::One(KeyPart::Signed(-7)), "-7"),
        (KeyBound::One(KeyPart::Unsigned(u64::MAX)), "18446744073709551615"),
        (KeyBound::Several(vec![KeyPart::Signed(1), KeyPart::Text("a".to_owned())]), r#"[1,"a"]"#),
        (KeyBound::One(KeyPart::Bytes { hex: "00ff".to_owned() }), r#"{"hex":"00ff"}"#),
        (KeyBound::One(KeyPart::Float { bits: 1.5_f64.to_bits() }), r#"{"bits":4609434218613702656}"#),
    ] {
        assert_eq!(serde_json::to_string(&key).expect("JSON"), text);
        assert_eq!(serde_json::from_str::<KeyBound>(text).expect("a key"), key);
    }
    let cursor: SweepCursor = serde_json::from_str(r#"{"partition":3,"after":17}"#).expect("of an earlier version");
    assert_eq!(cursor, SweepCursor { partition: 3, from: None });
}

#[test]
fn order_of_records() {
    let gtid = |n: u64| format!("{A}:{n}");
    for (before, snapshot_before, after, snapshot_after, want) in [
        (gtid(4), false, gtid(5), false, true),
        (gtid(5), false, gtid(5), false, true),
        (gtid(6), false, gtid(5), false, false),
        (format!("{A}:1-5"), true, gtid(6), false, true),
        (format!("{A}:1-5"), true, gtid(5), false, false),
        (gtid(5), false, format!("{A}:1-5"), true, true),
        (gtid(6), false, format!("{A}:1-5"), true, false),
        ("binlog.000009:900".into(), false, "binlog.000010:4".into(), false, true),
        ("binlog.999999:4".into(), false, "binlog.1000000:4".into(), false, true),
        ("binlog.000010:5".into(), false, "binlog.000010:4".into(), false, false),
        ("binlog.000010:5".into(), true, "binlog.000010:4".into(), false, false),
    ] {
        let a = RecordPosition::parse(&before, snapshot_before).expect("a position");
        let b = RecordPosition::parse(&after, snapshot_after).expect("a position");
        assert_eq!(a.may_precede(&b), want, "{before} then {after}");
    }
    assert_eq!(RecordPosition::parse("nonsense", false), None);
}
