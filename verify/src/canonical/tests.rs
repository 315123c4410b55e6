use apache_avro::Decimal;
use proptest::prelude::*;

use super::*;

const DECIMAL: FieldType = FieldType::Decimal { precision: 10, scale: 2 };
const LARGEST: FieldType = FieldType::Decimal { precision: 65, scale: 30 };

/// Whether MySQL's text, the Avro value and PostgreSQL's text have this canonical text.
fn check(kind: FieldType, stored: &str, mysql: &[u8], avro: Value, postgres: &str, want: &str) {
    let case = format!("{kind} of {stored} {:?}", String::from_utf8_lossy(mysql));
    assert_eq!(of_mysql(kind, stored, mysql).as_deref(), Ok(want), "MySQL: {case}");
    assert_eq!(of_avro(kind, &avro).as_ref().map(Option::as_deref), Ok(Some(want)), "Avro: {case}");
    let in_union = Value::Union(1, Box::new(avro));
    assert_eq!(of_avro(kind, &in_union).as_ref().map(Option::as_deref), Ok(Some(want)), "Avro: {case}");
    assert_eq!(of_postgres(kind, postgres.to_owned()), want, "PostgreSQL: {case}");
}

fn unscaled(bytes: &[u8]) -> Value {
    Value::Decimal(Decimal::from(bytes))
}

#[test]
fn numbers() {
    check(FieldType::Int, "int", b"-2147483648", Value::Int(i32::MIN), "-2147483648", "-2147483648");
    check(FieldType::Int, "year", b"0000", Value::Int(0), "0", "0");
    check(FieldType::Int, "int", b"00007", Value::Int(7), "7", "7");
    let least = "-9223372036854775808";
    check(FieldType::Long, "bigint", least.as_bytes(), Value::Long(i64::MIN), least, least);
    check(FieldType::Boolean, "bit", &[1], Value::Boolean(true), "true", "true");
    check(FieldType::Boolean, "tinyint", b"0", Value::Boolean(false), "false", "false");
    check(FieldType::Float, "float", b"0.10000000149011612", Value::Float(0.1), "0.1", "0.1");
    check(FieldType::Float, "float", b"-0", Value::Float(-0.0), "-0", "-0");
    let large = "340282350000000000000000000000000000000";
    check(FieldType::Float, "float", b"3.4028234663852886e38", Value::Float(f32::MAX), "3.4028235e+38", large);
    check(FieldType::Double, "double", b"1e-7", Value::Double(1e-7), "1e-07", "0.0000001");
    check(FieldType::Double, "double", b"0.1", Value::Double(0.1), "0.1", "0.1");
    check(DECIMAL, "decimal", b"12.30", unscaled(&[4, 0xce]), "12.3", "12.30");
    check(DECIMAL, "decimal", b"-0.05", unscaled(&[0xfb]), "-0.05", "-0.05");
    check(DECIMAL, "int", b"12", unscaled(&[4, 0xb0]), "12.00", "12.00");
    check(DECIMAL, "float", b"12.300000190734863", unscaled(&[4, 0xce]), "12.30", "12.30");
    check(DECIMAL, "double", b"-0", unscaled(&[0]), "0", "0.00");
    let (nines, point) = ("9".repeat(35), "9".repeat(30));
    let text = format!("-{nines}.{point}");
    // 10^65 - 1 in two's complement, negated.
    let mut number = [0u8; 28];
    for digit in "9".repeat(65).bytes() {
        let mut carry = u32::from(digit - b'0');
        for byte in number.iter_mut().rev() {
            let value = u32::from(*byte) * 10 + carry;
            (*byte, carry) = (value as u8, value >> 8);
        }
    }
    let mut bytes = number.map(|byte| !byte);
    *bytes.last_mut().expect("a byte") += 1;
    check(LARGEST, "decimal", text.as_bytes(), unscaled(&bytes), &text, &text);
}

#[test]
fn texts_and_bytes() {
    check(FieldType::Text, "varchar", "ü\n".as_bytes(), Value::String("ü\n".to_owned()), "ü\n", "ü\n");
    check(FieldType::Text, "enum", b"", Value::String(String::new()), "", "");
    check(FieldType::Bytes, "blob", &[0, 0xff], Value::Bytes(vec![0, 0xff]), "\\x00ff", "00ff");
    check(FieldType::Bytes, "bit", &[1, 2], Value::Bytes(vec![1, 2]), "\\x0102", "0102");
    let uuid = "0123abcd-0000-4000-8000-00000000000f";
    let value = Value::Uuid(uuid.parse().expect("a UUID"));
    check(FieldType::Uuid, "char", uuid.to_uppercase().as_bytes(), value.clone(), uuid, uuid);
    let bytes = unhex(&uuid.replace('-', ""));
    check(FieldType::Uuid, "binary", &bytes, value, uuid, uuid);
    let floats = [1.0f32, -2.5].map(f32::to_le_bytes).concat();
    let array = Value::Array(vec![Value::Float(1.0), Value::Float(-2.5)]);
    check(FieldType::Vector, "vector", &floats, array.clone(), "{1,-2.5}", "[1,-2.5]");
    check(FieldType::Vector, "vector", &floats, array, "[1,-2.5]", "[1,-2.5]");
    check(FieldType::Vector, "vector", &[], Value::Array(Vec::new()), "{}", "[]");
}

#[test]
fn geometries_have_their_srid() {
    let point = [&[1, 1, 0, 0, 0][..], &[0; 16]].concat();
    for (srid, srid_value, head) in [
        (0u32, Value::Union(0, Box::new(Value::Null)), "0101000000".to_owned()),
        (4326, Value::Union(1, Box::new(Value::Int(4326))), "0101000020e6100000".to_owned()),
    ] {
        let want = format!("{head}{}", "0".repeat(32));
        let stored = [&srid.to_le_bytes()[..], &point].concat();
        let record =
            Value::Record(vec![("wkb".to_owned(), Value::Bytes(point.clone())), ("srid".to_owned(), srid_value)]);
        check(FieldType::Geometry, "point", &stored, record, &want.to_uppercase(), &want);
    }
}

#[test]
fn times() {
    let day = 86_400_000_000;
    check(FieldType::Date, "date", b"9999-12-31", Value::Date(2_932_896), "9999-12-31", "9999-12-31");
    check(FieldType::Date, "date", b"0001-01-01", Value::Date(-719_162), "0001-01-01", "0001-01-01");
    let (text, want) = (b"9999-12-31 23:59:59.999999", "9999-12-31T23:59:59.999999");
    let last = 2_932_897 * day - 1;
    let local = Value::LocalTimestampMicros(last);
    check(FieldType::LocalTimestamp, "datetime", text, local, "9999-12-31 23:59:59.999999", want);
    let (text, want) = (b"1970-01-02 00:00:00.5", "1970-01-02T00:00:00.500000Z");
    let value = Value::TimestampMicros(day + 500_000);
    check(FieldType::Timestamp, "timestamp", text, value, "1970-01-02 00:00:00.5+00", want);
    let value = Value::TimestampMicros(day);
    check(FieldType::Timestamp, "date", b"1970-01-02", value, "1970-01-02 00:00:00+00", "1970-01-02T00:00:00.000000Z");
    let longest = (838 * 3600 + 59 * 60 + 59) * 1_000_000;
    let want = "-838:59:59.000000";
    check(FieldType::Duration, "time", b"-838:59:59", Value::Long(-longest), "-838:59:59", want);
    check(FieldType::Duration, "time", b"-00:00:00.25", Value::Long(-250_000), "-00:00:00.25", "-00:00:00.250000");
    let value = Value::TimeMicros(3_600_000_000);
    check(FieldType::TimeOfDay, "time", b"01:00:00", value, "01:00:00", "01:00:00.000000");
}

#[test]
fn a_value_that_a_field_can_not_hold_is_refused() {
    for (kind, stored, text) in [
        (FieldType::Int, "bigint", &b"2147483648"[..]),
        (FieldType::Long, "bigint", b"9223372036854775808"),
        (FieldType::Boolean, "tinyint", b"2"),
        (DECIMAL, "decimal", b"100000000.00"),
        (DECIMAL, "decimal", b"0.001"),
        (DECIMAL, "double", b"12.345"),
        (DECIMAL, "float", b"1.0000000150474662e30"),
        (FieldType::Text, "varchar", b"\xed\xa0\x80"),
        (FieldType::Timestamp, "timestamp", b"0000-00-00 00:00:00"),
        (FieldType::Timestamp, "date", b"2026-02-00"),
        (FieldType::LocalTimestamp, "datetime", b"2026-02-30 00:00:00"),
        (FieldType::LocalTimestamp, "datetime", b"0000-01-01 10:00:00.000001"),
        (FieldType::Date, "date", b"0000-00-00"),
    ] {
        assert!(of_mysql(kind, stored, text).is_err(), "{kind} {stored} {text:?}");
    }
    for (kind, value) in [
        (FieldType::Timestamp, Value::TimestampMicros(i64::MAX)),
        (FieldType::Date, Value::Date(i32::MIN)),
        (FieldType::Double, Value::Double(f64::NAN)),
        (DECIMAL, unscaled(&[0x7f; 5])),
        (FieldType::Text, Value::Bytes(Vec::new())),
        (FieldType::Geometry, Value::Record(Vec::new())),
    ] {
        assert!(of_avro(kind, &value).is_err(), "{kind} {value:?}");
    }
    // A text of another form is another value.
    assert_eq!(of_postgres(DECIMAL, "12.345".to_owned()), "12.345");
    assert_eq!(of_postgres(FieldType::Timestamp, "infinity".to_owned()), "infinity");
}

#[test]
fn lines_have_json_texts() {
    for (kind, text, want) in [
        (DECIMAL, "12.30", "12.30"),
        (FieldType::Boolean, "true", "true"),
        (FieldType::Text, "a\"ü\n", r#""a\"ü\n""#),
        (FieldType::Json, r#"{"a": [1.0, null]}"#, r#"{"a": [1.0, null]}"#),
        (FieldType::Bytes, "", r#""""#),
        (FieldType::Bytes, "00", r#""AA==""#),
        (FieldType::Bytes, "00ff", r#""AP8=""#),
        (FieldType::Bytes, "00ff10", r#""AP8Q""#),
        (FieldType::Vector, "[1,-2.5]", "[1,-2.5]"),
        (FieldType::Duration, "-838:59:59.000000", r#""-838:59:59.000000""#),
    ] {
        assert_eq!(json(kind, text), want);
    }
}

#[test]
fn an_older_record_has_the_text_of_the_latest_type() {
    for (from, to, text, want) in [
        (FieldType::Float, FieldType::Double, "0.1", "0.10000000149011612"),
        (FieldType::Int, FieldType::Long, "7", "7"),
        (FieldType::Int, DECIMAL, "7", "7.00"),
        (DECIMAL, FieldType::Decimal { precision: 12, scale: 4 }, "12.30", "12.3000"),
    ] {
        assert_eq!(recast(from, to, text.to_owned()), want);
    }
}

proptest! {
    #[test]
    fn any_decimal(number in any::<i128>(), scale in 0u32..=30) {
        let kind = FieldType::Decimal { precision: 65, scale };
        let (sign, digits) = (if number < 0 { "-" } else { "" }, number.unsigned_abs().to_string());
        let text = with_point(sign, &digits, scale);
        prop_assert_eq!(of_mysql(kind, "decimal", text.as_bytes()), Ok(text.clone()));
        prop_assert_eq!(of_avro(kind, &unscaled(&number.to_be_bytes())), Ok(Some(text.clone())));
        prop_assert_eq!(of_postgres(kind, text.clone()), text);
    }

    #[test]
    fn any_float(bits in any::<u32>()) {
        let float = f32::from_bits(bits);
        prop_assume!(float.is_finite());
        let text = of_avro(FieldType::Float, &Value::Float(float)).ok().flatten();
        // The server prints the double of it.
        let printed = format!("{:e}", f64::from(float));
        prop_assert_eq!(of_mysql(FieldType::Float, "float", printed.as_bytes()).ok(), text.clone());
        prop_assert_eq!(of_postgres(FieldType::Float, format!("{float:e}")), text.unwrap_or_default());
    }

    #[test]
    fn any_time(micros in -62_135_596_800_000_000i64..=253_402_300_799_999_999) {
        let text = of_avro(FieldType::LocalTimestamp, &Value::LocalTimestampMicros(micros)).ok().flatten();
        let text = text.unwrap_or_default();
        let printed = text.replace('T', " ");
        prop_assert_eq!(of_mysql(FieldType::LocalTimestamp, "datetime", printed.as_bytes()), Ok(text.clone()));
        prop_assert_eq!(of_postgres(FieldType::LocalTimestamp, printed), text);
    }
}
