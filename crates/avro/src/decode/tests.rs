//! Compares our decoder with the library's generic reader, and refuses what is no table's schema or no value of it.

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use proptest::prelude::*;
use runtime::config::PINNED_SCHEMA;

use super::*;

/// A record with a field of each type, never null, null first and null second.
fn all_types() -> String {
    let types = [
        r#""boolean""#,
        r#""int""#,
        r#""long""#,
        r#""float""#,
        r#""double""#,
        r#"{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}"#,
        r#"{"type":"bytes","logicalType":"decimal","precision":65,"scale":30}"#,
        r#""string""#,
        r#""bytes""#,
        r#"{"type":"string","logicalType":"uuid"}"#,
        r#"{"type":"int","logicalType":"date"}"#,
        r#"{"type":"long","logicalType":"local-timestamp-micros"}"#,
        r#"{"type":"long","logicalType":"timestamp-micros"}"#,
        r#"{"type":"long","logicalType":"time-micros"}"#,
        r#"{"type":"long","unit":"microseconds"}"#,
        r#"{"type":"array","items":"float"}"#,
    ];
    let geometry = |name: &str| {
        format!(
            r#"{{"type":"record","name":"{name}","fields":[{{"name":"wkb","type":"bytes"}},{{"name":"srid","type":["null","int"]}}]}}"#
        )
    };
    let mut fields = Vec::new();
    for n in 0..=types.len() {
        let kind = |name: &str| types.get(n).map_or_else(|| geometry(name), |kind| (*kind).to_owned());
        fields.push(format!(r#"{{"name":"a{n}","type":{}}}"#, kind("A")));
        fields.push(format!(r#"{{"name":"b{n}","type":["null",{}]}}"#, kind("B")));
        fields.push(format!(r#"{{"name":"c{n}","type":[{},"null"]}}"#, kind("C")));
    }
    format!(r#"{{"type":"record","name":"T","mysql.key":["a1"],"fields":[{}]}}"#, fields.join(","))
}

/// A value, from which the library's and our form follow.
#[derive(Clone, Debug)]
enum Plain {
    Boolean(bool),
    Int(i32),
    Long(i64),
    Float(f32),
    Double(f64),
    Decimal(i128, u8),
    Text(String),
    Bytes(Vec<u8>),
    Uuid(u128),
    Date(i32),
    LocalTimestamp(i64),
    Timestamp(i64),
    TimeOfDay(i64),
    Duration(i64),
    Vector(Vec<f32>),
    Geometry(Vec<u8>, i32),
}

fn plain(of: usize) -> BoxedStrategy<Plain> {
    const YEARS: std::ops::RangeInclusive<i64> = -62_135_596_800_000_000..=253_402_300_799_999_999;
    let finite = any::<f32>().prop_map(|f| if f.is_finite() { f } else { 0.5 });
    match of {
        0 => any::<bool>().prop_map(Plain::Boolean).boxed(),
        1 => any::<i32>().prop_map(Plain::Int).boxed(),
        2 => any::<i64>().prop_map(Plain::Long).boxed(),
        3 => finite.prop_map(Plain::Float).boxed(),
        4 => any::<f64>().prop_map(|f| Plain::Double(if f.is_finite() { f } else { 0.5 })).boxed(),
        5 => (-9_999_999_999_i128..=9_999_999_999).prop_map(|n| Plain::Decimal(n, 2)).boxed(),
        6 => (any::<i128>(), 0..128_u32).prop_map(|(n, shift)| Plain::Decimal(n >> shift, 30)).boxed(),
        7 => any::<String>().prop_map(Plain::Text).boxed(),
        8 => any::<Vec<u8>>().prop_map(Plain::Bytes).boxed(),
        9 => any::<u128>().prop_map(Plain::Uuid).boxed(),
        10 => (-719_162..=2_932_896).prop_map(Plain::Date).boxed(),
        11 => YEARS.prop_map(Plain::LocalTimestamp).boxed(),
        12 => YEARS.prop_map(Plain::Timestamp).boxed(),
        13 => (0..86_400_000_000_i64).prop_map(Plain::TimeOfDay).boxed(),
        14 => any::<i64>().prop_map(Plain::Duration).boxed(),
        15 => proptest::collection::vec(finite, 0..9).prop_map(Plain::Vector).boxed(),
        _ => (any::<Vec<u8>>(), any::<i32>()).prop_map(|(wkb, srid)| Plain::Geometry(wkb, srid)).boxed(),
    }
}

/// Each field's value; `None` is null.
fn any_row() -> BoxedStrategy<Vec<Option<Plain>>> {
    let mut fields: Vec<BoxedStrategy<Option<Plain>>> = Vec::new();
    for of in 0..=16 {
        fields.push(plain(of).prop_map(Some).boxed());
        fields.push(proptest::option::of(plain(of)).boxed());
        fields.push(proptest::option::of(plain(of)).boxed());
    }
    fields.boxed()
}

fn uuid(number: u128) -> String {
    let hex = format!("{number:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// The shortest two's complement of a number.
fn shortest(number: i128) -> Vec<u8> {
    let bytes = number.to_be_bytes();
    let sign = if number < 0 { 0xff } else { 0 };
    let redundant = bytes.windows(2).take_while(|pair| pair[0] == sign && (pair[1] ^ sign) & 0x80 == 0).count();
    bytes[redundant..].to_vec()
}

fn by_the_library(value: &Plain) -> Value {
    match value.clone() {
        Plain::Boolean(b) => Value::Boolean(b),
        Plain::Int(n) => Value::Int(n),
        Plain::Long(n) | Plain::Duration(n) => Value::Long(n),
        Plain::Float(f) => Value::Float(f),
        Plain::Double(f) => Value::Double(f),
        Plain::Decimal(n, _) => Value::Decimal(apache_avro::Decimal::from(shortest(n))),
        Plain::Text(text) => Value::String(text),
        Plain::Bytes(bytes) => Value::Bytes(bytes),
        Plain::Uuid(n) => Value::Uuid(uuid(n).parse().expect("a UUID")),
        Plain::Date(days) => Value::Date(days),
        Plain::LocalTimestamp(t) => Value::LocalTimestampMicros(t),
        Plain::Timestamp(t) => Value::TimestampMicros(t),
        Plain::TimeOfDay(t) => Value::TimeMicros(t),
        Plain::Vector(items) => Value::Array(items.into_iter().map(Value::Float).collect()),
        Plain::Geometry(wkb, srid) => {
            let (branch, srid) = if srid == 0 { (0, Value::Null) } else { (1, Value::Int(srid)) };
            let srid = Value::Union(branch, Box::new(srid));
            Value::Record(vec![("wkb".to_owned(), Value::Bytes(wkb)), ("srid".to_owned(), srid)])
        }
    }
}

/// The datum as text.
fn shown(value: Option<&Plain>) -> String {
    let Some(value) = value else { return format!("{:?}", Datum::Null) };
    let (mut bytes, text);
    let datum = match value {
        Plain::Decimal(n, scale) => match i64::try_from(*n) {
            Ok(unscaled) => Datum::Decimal { unscaled, scale: *scale },
            Err(_) => {
                bytes = shortest(*n);
                Datum::LargeDecimal { unscaled: &bytes, scale: *scale }
            }
        },
        Plain::Boolean(b) => Datum::Boolean(*b),
        Plain::Int(n) => Datum::Int(i64::from(*n)),
        Plain::Long(n) => Datum::Int(*n),
        Plain::Float(f) => Datum::Float(*f),
        Plain::Double(f) => Datum::Double(*f),
        Plain::Text(text) => Datum::Text(text),
        Plain::Bytes(bytes) => Datum::Bytes(bytes),
        Plain::Uuid(n) => {
            text = uuid(*n);
            Datum::Text(&text)
        }
        Plain::Date(days) => Datum::Date(*days),
        Plain::LocalTimestamp(t) => Datum::LocalTimestamp(*t),
        Plain::Timestamp(t) => Datum::Timestamp(Micros(*t)),
        Plain::TimeOfDay(t) => Datum::TimeOfDay(*t),
        Plain::Duration(t) => Datum::Duration(*t),
        Plain::Vector(items) => {
            bytes = Vec::new();
            items.iter().for_each(|f| bytes.extend(f.to_le_bytes()));
            Datum::Vector(&bytes)
        }
        Plain::Geometry(wkb, srid) => Datum::Geometry { wkb, srid: *srid },
    };
    format!("{datum:?}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_value_of_each_type_is_what_apache_avro_reads(row in any_row(), cut in any::<prop::sample::Index>()) {
        let text = all_types();
        let schema = Schema::parse_str(&text.replace("\"B\"", "\"B1\"")).expect("a schema");
        let Schema::Record(record) = &schema else { unreachable!() };
        let fields = record.fields.iter().zip(&row).map(|(field, value)| {
            let plain = value.as_ref().map_or(Value::Null, by_the_library);
            let value = match &field.schema {
                Schema::Union(union) => {
                    let null_at = union.variants().iter().position(|v| matches!(v, Schema::Null)).expect("null");
                    let branch = if value.is_none() { null_at } else { 1 - null_at };
                    Value::Union(branch as u32, Box::new(plain))
                }
                _ => plain,
            };
            (field.name.clone(), value)
        });
        let value = Value::Record(fields.collect());
        let writer = GenericDatumWriter::builder(&schema).build().expect("a writer");
        let bytes = writer.write_value_to_vec(value.clone()).expect("a value");
        let mut rest = bytes.as_slice();
        let reader = GenericDatumReader::builder(&schema).build().expect("a reader");
        prop_assert_eq!(reader.read_value(&mut rest).expect("its own value"), value);

        let decoder = Decoder::new(&text).expect("a decoder");
        let mut ours = Vec::new();
        prop_assert_eq!(decoder.decode(&bytes, &mut ours), Ok(()));
        let ours: Vec<String> = ours.iter().map(|datum| format!("{datum:?}")).collect();
        let want: Vec<String> = row.iter().map(|value| shown(value.as_ref())).collect();
        prop_assert_eq!(ours, want);
        // A part of a value is no value, and neither is more than a value.
        let part = &bytes[..cut.index(bytes.len())];
        prop_assert!(decoder.decode(part, &mut Vec::new()).is_err());
        let more = [&bytes[..], &[0]].concat();
        let error = decoder.decode(&more, &mut Vec::new()).expect_err("left over");
        prop_assert_eq!(error.to_string(), "the value can't be decoded: 1 bytes are left over");
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let decoder = Decoder::new(&all_types()).expect("a decoder");
        drop(decoder.decode(&bytes, &mut Vec::new()));
    }
}

/// A writer's schema with a field of this type beside `id`.
fn with(kind: &str) -> String {
    format!(
        r#"{{"type":"record","name":"Product","namespace":"shop","mysql.key":["id"],"fields":[{{"name":"id","type":"long"}},{{"name":"x","type":{kind}}}]}}"#
    )
}

/// Zigzag, seven bits a byte.
fn long(n: i64) -> Vec<u8> {
    let mut z = ((n << 1) ^ (n >> 63)) as u64;
    let mut out = Vec::new();
    while z >= 0x80 {
        out.push(z as u8 | 0x80);
        z >>= 7;
    }
    out.push(z as u8);
    out
}

/// What the bytes of the field `x` give: a datum or the fault.
fn read(kind: &str, x: &[u8]) -> String {
    let decoder = Decoder::new(&with(kind)).expect(kind);
    let bytes = [&long(1)[..], x].concat();
    let mut row = Vec::new();
    match decoder.decode(&bytes, &mut row) {
        Ok(()) => format!("{:?}", row[1]),
        Err(error) => error.to_string().replace("the value can't be decoded: ", ""),
    }
}

const TEXT: &str = r#""string""#;
const JSON: &str = r#""string","mysql.type":"json""#;
const VECTOR: &str = r#"{"type":"array","items":"float"}"#;
const MONEY: &str = r#"{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}"#;
const UNSIGNED: &str = r#"{"type":"bytes","logicalType":"decimal","precision":20,"scale":0}"#;
const DATE: &str = r#"{"type":"int","logicalType":"date"}"#;
const TIMESTAMP: &str = r#"{"type":"long","logicalType":"timestamp-micros"}"#;
const LOCAL: &str = r#"{"type":"long","logicalType":"local-timestamp-micros"}"#;
const CLOCK: &str = r#"{"type":"long","logicalType":"time-micros"}"#;
const UUID: &str = r#"{"type":"string","logicalType":"uuid"}"#;

#[test]
fn what_no_column_holds_is_refused_with_the_field() {
    let text = |text: &str| [long(text.len() as i64), text.as_bytes().to_vec()].concat();
    let bytes = |bytes: &[u8]| [long(bytes.len() as i64), bytes.to_vec()].concat();
    let two_blocks = [long(1), vec![0; 4], long(1), vec![0; 4], long(0)].concat();
    for (kind, x, want) in [
        (TEXT, long(500_000_000), "field x: a field of 500000000 bytes, but 0 are left"),
        (TEXT, long(-1), "field x: a field of -1 bytes, but 0 are left"),
        (TEXT, vec![4, 0xc3, 0x28], "field x: text is not UTF-8: invalid utf-8 sequence of 1 bytes from index 0"),
        (JSON, text("{\"a\": 1"), "field x: text is not one line of JSON"),
        (JSON, text("[1,\n2]"), "field x: text is not one line of JSON"),
        (r#"["null","string"]"#, long(7), "field x: branch 7 of a union of two"),
        (r#"["null","string"]"#, vec![], "field x: an integer ends too early or is too long"),
        (r#""long""#, vec![0xff; 11], "field x: an integer ends too early or is too long"),
        (r#""int""#, long(1 << 31), "x does not fit int"),
        (r#""boolean""#, vec![2], "x does not fit boolean"),
        (r#""float""#, f32::NAN.to_le_bytes().to_vec(), "x does not fit float"),
        (r#""double""#, f64::INFINITY.to_le_bytes().to_vec(), "x does not fit double"),
        (MONEY, bytes(&10_000_000_000_i64.to_be_bytes()), "x does not fit decimal(10,2)"),
        (MONEY, bytes(&(-10_000_000_000_i64).to_be_bytes()), "x does not fit decimal(10,2)"),
        (MONEY, bytes(&[]), "x does not fit decimal(10,2)"),
        (UNSIGNED, bytes(&[1; 33]), "x does not fit decimal(20,0)"),
        (UNSIGNED, bytes(&[6; 9]), "x does not fit decimal(20,0)"),
        (DATE, long(2_932_897), "x is 253402300800000000 µs since 1970, outside the years 1 to 9999"),
        (TIMESTAMP, long(i64::MAX), "x is 9223372036854775807 µs since 1970, outside the years 1 to 9999"),
        (LOCAL, long(i64::MIN), "x is -9223372036854775808 µs since 1970, outside the years 1 to 9999"),
        (CLOCK, long(86_400_000_000), "x does not fit time-micros"),
        (CLOCK, long(-1), "x does not fit time-micros"),
        (UUID, text("0b6ce1a2-0000-4000-8000-00000000000g"), "x does not fit uuid"),
        (VECTOR, long(1 << 40), "field x: a field of 4398046511104 bytes, but 0 are left"),
        (VECTOR, long(i64::MIN), "field x: an integer ends too early or is too long"),
        (VECTOR, two_blocks, "field x: more than one block of items"),
    ] {
        assert_eq!(read(kind, &x), want, "{kind}");
    }
    let deep = ["[".repeat(100), "]".repeat(100)].concat();
    assert_eq!(read(JSON, &text(&deep)), format!("Json({deep:?})"));
    // A negative count is followed by the block's size.
    let block = [long(-1), long(4), 1.5_f32.to_le_bytes().to_vec(), long(0)].concat();
    assert_eq!(read(VECTOR, &block), "Vector([0, 0, 192, 63])");
    assert_eq!(read(MONEY, &bytes(&9_999_999_999_i64.to_be_bytes())), "Decimal { unscaled: 9999999999, scale: 2 }");
}

#[test]
fn what_is_no_tables_schema_is_refused_before_any_value() {
    let nested = format!("{}\"int\"{}", r#"{"type":"array","items":"#.repeat(10_000), "}".repeat(10_000));
    for (schema, want) in [
        (
            with(r#"{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]}]}"#),
            "field x has the type",
        ),
        (with(r#"{"type":"map","values":"null"}"#), "its schema is not a table's: field x has the type"),
        (with(&MONEY.replace("10", "2000000")), "field x is decimal(2000000,2), and a decimal has at most 65 digits"),
        (with(&nested), "recursion limit"),
        (with(&format!("\"{}\"", "n".repeat(SCHEMA_BYTES))), "and the fixed limit is 262144"),
        ("syntax = \"proto3\";".to_owned(), "its schema is not a table's: it is not JSON"),
    ] {
        let error = Decoder::new(&schema).expect_err(want);
        assert!(error.contains(want) && error.len() < 1_000, "{want:?} in {error:?}");
    }
}

/// Attributes that do not change the bytes leave the schema equal to ours.
#[test]
fn defaults_and_documentation_do_not_count() {
    let documented = PINNED_SCHEMA.replacen('{', r#"{"doc":"another text","#, 1);
    let ours = Decoder::new(PINNED_SCHEMA).expect("ours");
    assert_eq!(Decoder::new(&documented).as_ref(), Ok(&ours));
    for (from, to) in [("\"scale\": 2", "\"scale\": 4"), ("timestamp-micros", "local-timestamp-micros")] {
        assert_ne!(Decoder::new(&PINNED_SCHEMA.replace(from, to)).as_ref(), Ok(&ours), "{to}");
    }
}

#[test]
fn the_key_may_be_named() {
    let mut decoder = Decoder::new(&with(TEXT)).expect("a decoder");
    assert_eq!(decoder.schema().key, [0]);
    decoder.set_key(&["x", "id"]);
    assert_eq!(decoder.schema().key, [1, 0]);
    decoder.set_key(&["y"]);
    assert_eq!(decoder.schema().key, [1, 0]);
}
