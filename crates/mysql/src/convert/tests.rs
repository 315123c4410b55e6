use std::borrow::Cow;

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as Avro;
use apache_avro::{Decimal as AvroDecimal, Schema};

use super::*;
use crate::binlog::{Decimal, Time, Timestamp};

const MONEY: FieldType = FieldType::Decimal { precision: 10, scale: 2 };

fn field(kind: FieldType) -> Field {
    Field { name: "x".to_owned(), column: "x".to_owned(), kind, null: None }
}

fn written(value: &Value<'_>, kind: FieldType) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    write(value, &field(kind), &mut out).map_err(|refusal| refusal.reason)?;
    Ok(out)
}

/// The value as another implementation of Avro reads it.
fn read(value: &Value<'_>, kind: FieldType, schema: &str) -> Avro {
    let bytes = written(value, kind).expect(schema);
    let schema = Schema::parse_str(schema).expect("a schema");
    let mut rest = &bytes[..];
    let value = GenericDatumReader::builder(&schema).build().and_then(|reader| reader.read_value(&mut rest));
    assert!(rest.is_empty());
    value.expect("a value")
}

fn unscaled(value: &Value<'_>) -> Result<i64, String> {
    let schema = r#"{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}"#;
    written(value, MONEY)?;
    let Avro::Decimal(decimal) = read(value, MONEY, schema) else { panic!("no decimal") };
    let bytes: Vec<u8> = decimal.try_into().expect("bytes");
    Ok(bytes.iter().fold(if bytes[0] & 0x80 == 0 { 0 } else { -1 }, |number, byte| number << 8 | i64::from(*byte)))
}

#[test]
fn floats_become_the_decimal_they_stand_for() {
    for (float, want) in [(12.3, Some(1230)), (-0.05, Some(-5)), (0.0, Some(0)), (-0.0, Some(0)), (12.345, None)] {
        assert_eq!(unscaled(&Value::Float(float)).ok(), want, "{float}");
        let double = unscaled(&Value::Double(f64::from(float))).ok();
        assert_eq!(double, want.filter(|_| f64::from(float) == 0.0), "{float}");
    }
    assert_eq!(unscaled(&Value::Double(12.3)), Ok(1230));
    assert_eq!(unscaled(&Value::Double(99_999_999.99)), Ok(9_999_999_999));
    assert!(unscaled(&Value::Double(1e8)).is_err() && unscaled(&Value::Float(1e30)).is_err());
    assert_eq!(unscaled(&Value::Float(16_777_216.0)), Ok(1_677_721_600));
}

#[test]
fn decimals_and_integers_fit_or_are_refused() {
    for (number, precision, scale, want) in [(12, 2, 0, 1200), (12, 3, 1, 120), (-12, 10, 2, -12)] {
        let decimal = Decimal::small(number, precision, scale).expect("a decimal");
        assert_eq!(unscaled(&Value::Decimal(decimal)), Ok(want));
    }
    assert_eq!(unscaled(&Value::Int(-99_999_999)), Ok(-9_999_999_900));
    let refused = "100000000 does not fit decimal(10,2), and nothing is rounded";
    assert_eq!(unscaled(&Value::Int(100_000_000)).expect_err("too large"), refused);
    assert!(unscaled(&Value::UInt(u64::MAX)).is_err());
    let large = written(&Value::UInt(1 << 63), FieldType::Long).expect_err("too large");
    assert_eq!(
        large,
        "9223372036854775808 is beyond 9223372036854775807, the largest number that the Avro schema holds"
    );
    assert!(written(&Value::Int(-1 << 31), FieldType::Int).is_ok());
    assert!(written(&Value::Int((-1 << 31) - 1), FieldType::Int).is_err());
}

#[test]
fn decimals_of_65_digits() {
    let digits = "-".to_owned() + &"9".repeat(35) + "." + &"9".repeat(30);
    let kind = FieldType::Decimal { precision: 65, scale: 30 };
    let schema = r#"{"type":"bytes","logicalType":"decimal","precision":65,"scale":30}"#;
    let number = Decimal::parse(digits.as_bytes(), 65, 30).expect("a decimal");
    let bytes = [vec![0xff; 0], written(&Value::Decimal(number), kind).expect("it fits")[1..].to_vec()].concat();
    assert_eq!(read(&Value::Decimal(number), kind, schema), Avro::Decimal(AvroDecimal::from(&bytes)));
    assert_eq!(bytes.len(), 28, "the digits take 216 bits");
    let small = Decimal::parse(b"-1.5", 65, 30).expect("a decimal");
    let mut wide = avro::encode::Wide::default();
    "15".bytes().chain([b'0'; 29]).for_each(|digit| wide.multiply_add(10, u32::from(digit - b'0')));
    let mut want = Vec::new();
    wide.write(true, &mut want);
    assert_eq!(written(&Value::Decimal(small), kind), Ok(want));
}

#[test]
fn impossible_dates_are_refused() {
    let date = |year, month, day| Date { year, month, day };
    let at = |date, second| DateTime { date, hour: 4, minute: 0, second, micros: 7, fsp: 6 };
    let micros = |t: DateTime| CivilTime::of_datetime(t).to_micros().map(|t| t.to_string()).ok();
    assert_eq!(micros(at(date(9999, 12, 31), 59)).as_deref(), Some("9999-12-31T04:00:59.000007Z"));
    assert_eq!(micros(at(date(2026, 11, 21), 1)).as_deref(), Some("2026-11-21T04:00:01.000007Z"));
    for (year, month, day, second) in
        [(0, 0, 0, 0), (2026, 0, 1, 0), (2026, 2, 30, 0), (2026, 1, 1, 60), (0, 1, 1, 0), (2026, 200, 1, 0)]
    {
        assert_eq!(micros(at(date(year, month, day), second)), None, "{year} {month} {day} {second}");
    }
    let zero = written(&Value::Timestamp(Timestamp { micros: 0, fsp: 0 }), FieldType::Timestamp);
    assert_eq!(zero, Err("0000-00-00 00:00:00 is no point in time".to_owned()));
    let partial = written(&Value::Date(date(2026, 2, 0)), FieldType::Date);
    assert_eq!(partial, Err("2026-02-00 is no date".to_owned()));
}

#[test]
fn each_kind_of_value_is_read_by_another_implementation() {
    let date = Date { year: 2026, month: 11, day: 21 };
    let labels = ["a".to_owned(), "b".to_owned(), "ü".to_owned()];
    let uuid = *b"\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67\x89\xab\xcd\xef";
    for (value, kind, schema, want) in [
        (Value::Int(-5), FieldType::Int, r#""int""#, Avro::Int(-5)),
        (Value::Year(2155), FieldType::Int, r#""int""#, Avro::Int(2155)),
        (Value::UInt(7), FieldType::Long, r#""long""#, Avro::Long(7)),
        (Value::Bit { bits: 1, width: 1 }, FieldType::Boolean, r#""boolean""#, Avro::Boolean(true)),
        (Value::Bit { bits: 0x3ff, width: 10 }, FieldType::Bytes, r#""bytes""#, Avro::Bytes(vec![3, 0xff])),
        (Value::Float(1.5), FieldType::Float, r#""float""#, Avro::Float(1.5)),
        (Value::Float(1.5), FieldType::Double, r#""double""#, Avro::Double(1.5)),
        (Value::Double(-0.1), FieldType::Double, r#""double""#, Avro::Double(-0.1)),
        (Value::Text("é".into()), FieldType::Text, r#""string""#, Avro::String("é".to_owned())),
        (Value::Json("{}".to_owned()), FieldType::Text, r#""string""#, Avro::String("{}".to_owned())),
        (Value::Enum { index: 0, label: "" }, FieldType::Text, r#""string""#, Avro::String(String::new())),
        (Value::Set { bits: 5, labels: &labels }, FieldType::Text, r#""string""#, Avro::String("a,ü".to_owned())),
        (Value::Set { bits: 0, labels: &labels }, FieldType::Text, r#""string""#, Avro::String(String::new())),
        (Value::Bytes(Cow::Borrowed(&[0, 255])), FieldType::Bytes, r#""bytes""#, Avro::Bytes(vec![0, 255])),
        (
            Value::Bytes(Cow::Borrowed(&uuid)),
            FieldType::Uuid,
            r#""string""#,
            Avro::String("01234567-89ab-cdef-0123-456789abcdef".to_owned()),
        ),
        (Value::Date(date), FieldType::Date, r#"{"type":"int","logicalType":"date"}"#, Avro::Date(20_778)),
        (
            Value::Date(date),
            FieldType::LocalTimestamp,
            r#"{"type":"long","logicalType":"local-timestamp-micros"}"#,
            Avro::LocalTimestampMicros(20_778 * 86_400_000_000),
        ),
        (
            Value::Timestamp(Timestamp { micros: 17, fsp: 6 }),
            FieldType::Timestamp,
            r#"{"type":"long","logicalType":"timestamp-micros"}"#,
            Avro::TimestampMicros(17),
        ),
        (
            Value::Time(Time { micros: -3_020_399_000_000, fsp: 0 }),
            FieldType::Duration,
            r#""long""#,
            Avro::Long(-3_020_399_000_000),
        ),
        (
            Value::Vector(&[0, 0, 128, 63]),
            FieldType::Vector,
            r#"{"type":"array","items":"float"}"#,
            Avro::Array(vec![Avro::Float(1.0)]),
        ),
        (Value::Vector(&[]), FieldType::Vector, r#"{"type":"array","items":"float"}"#, Avro::Array(Vec::new())),
        (
            Value::Geometry(&[0xe6, 0x10, 0, 0, 1, 2]),
            FieldType::Geometry,
            r#"{"type":"record","name":"G","fields":[{"name":"wkb","type":"bytes"},{"name":"srid","type":["null","int"]}]}"#,
            Avro::Record(vec![
                ("wkb".to_owned(), Avro::Bytes(vec![1, 2])),
                ("srid".to_owned(), Avro::Union(1, Box::new(Avro::Int(4326)))),
            ]),
        ),
    ] {
        assert_eq!(read(&value, kind, schema), want, "{value:?} as {kind}");
    }
}

#[test]
fn the_branch_of_null_is_where_the_schema_has_it() {
    let nullable = |null| Field { null: Some(null), ..field(FieldType::Long) };
    let mut out = Vec::new();
    for (value, null) in [(Value::Null, 0), (Value::Int(1), 0), (Value::Null, 1), (Value::Int(1), 1)] {
        write(&value, &nullable(null), &mut out).expect("it fits");
    }
    assert_eq!(out, [0, 2, 2, 2, 0, 2]);
    let refused = written(&Value::Null, FieldType::Long);
    assert_eq!(refused, Err("it is NULL, which the field can't be".to_owned()));
}

#[test]
fn keys_are_text() {
    let date = Date { year: 2026, month: 11, day: 21 };
    let decimal = Decimal::small(-50, 10, 2).expect("a decimal");
    for (value, want) in [
        (Value::Int(-17), "-17"),
        (Value::UInt(u64::MAX), "18446744073709551615"),
        (Value::Text("a b".into()), "a b"),
        (Value::Text("".into()), ""),
        (Value::Bytes(Cow::Borrowed(&[0, 0xab])), "00ab"),
        (Value::Decimal(decimal), "-0.50"),
        (Value::Float(-0.0), "0"),
        (Value::Double(1.5), "1.5"),
        (Value::Date(date), "2026-11-21"),
        (
            Value::DateTime(DateTime { date, hour: 4, minute: 5, second: 6, micros: 70, fsp: 6 }),
            "2026-11-21T04:05:06.000070",
        ),
        (Value::Timestamp(Timestamp { micros: 1, fsp: 6 }), "1970-01-01T00:00:00.000001Z"),
        (Value::Time(Time { micros: -3_020_399_000_000, fsp: 0 }), "-838:59:59.000000"),
        (Value::Year(0), "0"),
        (Value::Bit { bits: 5, width: 3 }, "5"),
        (Value::Enum { index: 1, label: "x" }, "x"),
    ] {
        let mut out = Vec::new();
        write_key(&value, &mut out).expect("a key");
        assert_eq!(String::from_utf8_lossy(&out), want, "{value:?}");
    }
    assert!(write_key(&Value::Malformed, &mut Vec::new()).is_err());
}
