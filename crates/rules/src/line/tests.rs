//! Lines of a small table, and each type at its limits.

use model::schema::{Field, FieldType, RecordSchema};

use super::*;
use crate::transform::{Capitals, Discount, Rules};

const ORIGIN: Origin = Origin { op: Op::Create, partition: 3, offset: 17, source_ts: Micros(1_763_697_600_000_001) };

fn schema(columns: &[(&str, FieldType)], key: &[usize]) -> RecordSchema {
    let field = |(name, kind): &(&str, FieldType)| Field {
        name: (*name).to_owned(),
        column: (*name).to_owned(),
        kind: *kind,
        null: None,
    };
    RecordSchema { name: "shop.T".to_owned(), fields: columns.iter().map(field).collect(), key: key.to_vec() }
}

const MONEY: FieldType = FieldType::Decimal { precision: 10, scale: 2 };

fn product() -> (Transform, Line) {
    let schema = schema(
        &[
            ("id", FieldType::Long),
            ("name", FieldType::Text),
            ("category", FieldType::Text),
            ("price", MONEY),
            ("last_updated", FieldType::Timestamp),
        ],
        &[0],
    );
    let [from, by, column] = ["price", "category", "discount_price"].map(str::to_owned);
    let discount = Discount { from, by, column, percents: [("CAT_5".to_owned(), 2000)].into() };
    let rules = Rules { capitalise: vec!["category".to_owned()], discount: Some(discount), drop: Vec::new() };
    let transform = rules.compile(&schema).expect("rules that fit");
    let line = Line::new(LineForm::Flat, "shop.product", &transform).expect("a line");
    (transform, line)
}

fn text(out: Vec<u8>) -> String {
    String::from_utf8(out).expect("text")
}

#[test]
fn a_line_is_exact() {
    let (transform, line) = product();
    let mut row = vec![
        Datum::Int(7),
        Datum::Text("Tasse \"grün\"\n\u{1}"),
        Datum::Text("cat_5"),
        Datum::Decimal { unscaled: 1230, scale: 2 },
        Datum::Timestamp(Micros(1_795_233_600_000_000)),
    ];
    let (mut out, mut capitals) = (Vec::new(), Capitals::default());
    assert!(transform.apply(&mut row, &mut capitals));
    line.write(&row, ORIGIN, &mut out);
    assert_eq!(
        text(out),
        concat!(
            r#"{"id":7,"name":"Tasse \"grün\"\n\u0001","category":"CAT_5","price":12.30,"discount_price":9.84,"#,
            r#""last_updated":"2026-11-21T04:00:00.000000Z","op":"c","partition":3,"offset":17,"source_ts":"2025-11-21T04:00:00.000001Z"}"#,
            "\n"
        )
    );
}

#[test]
fn a_delete_is_a_line_of_nulls() {
    let (_, line) = product();
    let mut out = Vec::new();
    line.write_delete(&[Datum::Int(7)], Origin { op: Op::Delete, ..ORIGIN }, &mut out);
    assert_eq!(
        text(out),
        concat!(
            r#"{"id":7,"name":null,"category":null,"price":null,"discount_price":null,"last_updated":null,"op":"d","#,
            r#""partition":3,"offset":17,"source_ts":"2025-11-21T04:00:00.000001Z"}"#,
            "\n"
        )
    );
}

#[test]
fn a_nested_line_has_table_key_and_row() {
    let schema = schema(&[("op", FieldType::Int), ("a b", FieldType::Text), ("offset", FieldType::Bytes)], &[1, 0]);
    let transform = Rules::default().compile(&schema).expect("no rules");
    let line = Line::new(LineForm::Nested, "shop.t\"", &transform).expect("any names");
    let (mut out, key) = (Vec::new(), [Datum::Text("x\""), Datum::Int(-1)]);
    line.write(&[key[1], key[0], Datum::Bytes(&[1, 2, 3, 4])], ORIGIN, &mut out);
    line.write_delete(&key, Origin { op: Op::Delete, ..ORIGIN }, &mut out);
    assert_eq!(
        text(out),
        concat!(
            r#"{"table":"shop.t\"","key":["x\"",-1],"op":"c","partition":3,"offset":17,"#,
            r#""source_ts":"2025-11-21T04:00:00.000001Z","row":{"op":-1,"a b":"x\"","offset":"AQIDBA=="}}"#,
            "\n",
            r#"{"table":"shop.t\"","key":["x\"",-1],"op":"d","partition":3,"offset":17,"#,
            r#""source_ts":"2025-11-21T04:00:00.000001Z","row":null}"#,
            "\n"
        )
    );
    let taken = Line::new(LineForm::Flat, "shop.t", &transform).expect_err("a clash");
    assert_eq!(taken.to_string(), "the table has a column op, and a flat line has a field of this name");
}

#[test]
fn each_type_has_its_form() {
    let large = [0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let vector: Vec<u8> = [1.5_f32, -0.1, f32::MAX].iter().flat_map(|value| value.to_le_bytes()).collect();
    let all = "\0\u{1f}\"\\/ü🐈\u{7f}";
    for (datum, want) in [
        (Datum::Null, "null"),
        (Datum::Boolean(true), "true"),
        (Datum::Boolean(false), "false"),
        (Datum::Int(i64::MIN), "-9223372036854775808"),
        (Datum::Float(f32::MIN_POSITIVE), "1.1754944e-38"),
        (Datum::Double(f64::MAX), "1.7976931348623157e308"),
        (Datum::Double(-0.0), "0"),
        (Datum::Decimal { unscaled: -5, scale: 2 }, "-0.05"),
        (Datum::LargeDecimal { unscaled: &large, scale: 0 }, "18446744073709551615"),
        (Datum::LargeDecimal { unscaled: &large, scale: 30 }, "0.000000000018446744073709551615"),
        (Datum::Text(all), r#""\u0000\u001f\"\\/ü🐈""#),
        (Datum::Text(""), "\"\""),
        (Datum::Json(r#"{"a": [1, "x\n"]}"#), r#"{"a": [1, "x\n"]}"#),
        (Datum::Bytes(&[0, 0xff]), "\"AP8=\""),
        (Datum::Bytes(&[]), "\"\""),
        (Datum::Date(-719_162), "\"0001-01-01\""),
        (Datum::Date(2_932_896), "\"9999-12-31\""),
        (Datum::LocalTimestamp(0), "\"1970-01-01T00:00:00.000000\""),
        (Datum::Timestamp(Micros(253_402_300_799_999_999)), "\"9999-12-31T23:59:59.999999Z\""),
        (Datum::TimeOfDay(86_399_999_999), "\"23:59:59.999999\""),
        (Datum::Duration(-3_020_399_000_000), "\"-838:59:59.000000\""),
        (Datum::Geometry { wkb: &[1, 1, 0, 0, 0], srid: 4326 }, "\"0101000020e6100000\""),
        (Datum::Geometry { wkb: &[1, 1, 0, 0, 0], srid: 0 }, "\"0101000000\""),
        (Datum::Vector(&vector), "[1.5,-0.1,3.4028235e38]"),
        (Datum::Vector(&[]), "[]"),
    ] {
        let mut out = Vec::new();
        write_json(datum, &mut out);
        let written = text(out);
        // JSON does not escape DEL.
        assert_eq!(written.replace('\u{7f}', ""), want, "{datum:?}");
        serde_json::from_str::<serde_json::Value>(&written).expect("JSON");
    }
}
