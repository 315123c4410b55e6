//! Records of any table, written by another program: lines and PostgreSQL's rows have each value exactly.

use crate::consumer_world::{dead_letters, logs, register, start, wait_until_committed};
use apache_avro::Schema;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use model::change::Op;
use runtime::config::PINNED_SCHEMA;
use serde_json::json;
use testbed::{Feed, TestBed, postgres};

const TYPES: [(&str, &str); 16] = [
    ("b", r#""boolean""#),
    ("l", r#""long""#),
    ("f", r#""float""#),
    ("d", r#""double""#),
    ("money", r#"{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}"#),
    ("wide", r#"{"type":"bytes","logicalType":"decimal","precision":65,"scale":30}"#),
    ("unsigned", r#"{"type":"bytes","logicalType":"decimal","precision":20,"scale":0}"#),
    ("t", r#""string""#),
    ("y", r#""bytes""#),
    ("u", r#"{"type":"string","logicalType":"uuid"}"#),
    ("day", r#"{"type":"int","logicalType":"date"}"#),
    ("local", r#"{"type":"long","logicalType":"local-timestamp-micros"}"#),
    ("at", r#"{"type":"long","logicalType":"timestamp-micros"}"#),
    ("clock", r#"{"type":"long","logicalType":"time-micros"}"#),
    ("took", r#"{"type":"long","unit":"microseconds"}"#),
    ("v", r#"{"type":"array","items":"float"}"#),
];

/// A key of two columns, one field of each type, and a geometry.
fn schema(more: &str) -> String {
    let fields: String =
        TYPES.iter().map(|(name, kind)| format!(r#"{{"name":"{name}","type":["null",{kind}]}},"#)).collect();
    format!(
        r#"{{"type":"record","name":"T","namespace":"shop","mysql.key":["i","s"],"fields":[
            {{"name":"s","mysql.name":"a key","type":"string"}},{fields}
            {{"name":"g","type":["null",{{"type":"record","name":"G","fields":[
                {{"name":"wkb","type":"bytes"}},{{"name":"srid","type":["null","int"]}}]}}]}},
            {{"name":"i","type":"int"}}{more}]}}"#
    )
}

fn some(value: Value) -> Value {
    Value::Union(1, Box::new(value))
}

fn none() -> Value {
    Value::Union(0, Box::new(Value::Null))
}

/// A record's value by apache-avro; `values` are those between `s` and `i`.
fn value(schema: &str, id: u32, s: &str, values: Vec<Value>, i: i32, more: Vec<Value>) -> Vec<u8> {
    let schema = Schema::parse_str(schema).expect("a schema");
    let Schema::Record(record) = &schema else { unreachable!() };
    let all = [vec![Value::String(s.to_owned())], values, vec![Value::Int(i)], more].concat();
    let fields = record.fields.iter().map(|field| field.name.clone()).zip(all).collect();
    let writer = GenericDatumWriter::builder(&schema).build().expect("a writer");
    let value = writer.write_value_to_vec(Value::Record(fields)).expect("a value");
    [&[0][..], &id.to_be_bytes(), &value].concat()
}

fn decimal(digits: i128) -> Value {
    let bytes = digits.to_be_bytes();
    let sign = if digits < 0 { 0xff } else { 0 };
    let redundant = bytes.windows(2).take_while(|pair| pair[0] == sign && (pair[1] ^ sign) & 0x80 == 0).count();
    some(Value::Decimal(apache_avro::Decimal::from(&bytes[redundant..])))
}

/// The largest value of each type, or the smallest.
fn limits(is_largest: bool) -> Vec<Value> {
    let sign = if is_largest { 1 } else { -1 };
    let day = if is_largest { 2_932_896 } else { -719_162 };
    let micros = if is_largest { 253_402_300_799_999_999 } else { -62_135_596_800_000_000 };
    let uuid = if is_largest { u128::MAX } else { 15 };
    let hex = format!("{uuid:032x}");
    let uuid = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-");
    // 10^65 - 1 or its negative, and a point.
    let mut wide = vec![
        0x00, 0xf3, 0x16, 0x27, 0x1c, 0x7f, 0xc3, 0x90, 0x8a, 0x8b, 0xef, 0x46, 0x4e, 0x39, 0x45, 0xef, 0x7a, 0x25,
        0x36, 0x09, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    ];
    if !is_largest {
        wide.iter_mut().for_each(|b: &mut u8| *b = !*b);
        wide[27] = 1;
    }
    let point: Vec<u8> = [&[1, 1, 0, 0, 0][..], &1.5_f64.to_le_bytes(), &(-2.0_f64).to_le_bytes()].concat();
    let srid = if is_largest { Value::Union(1, Box::new(Value::Int(4326))) } else { none() };
    let vector = if is_largest { vec![Value::Float(1.5), Value::Float(-0.1)] } else { vec![] };
    let geometry = Value::Record(vec![("wkb".to_owned(), Value::Bytes(point)), ("srid".to_owned(), srid)]);
    vec![
        some(Value::Boolean(is_largest)),
        some(Value::Long(if is_largest { i64::MAX } else { i64::MIN })),
        some(Value::Float(f32::MAX * sign as f32)),
        some(Value::Double(f64::MAX * f64::from(sign))),
        decimal(9_999_999_999 * i128::from(sign)),
        some(Value::Decimal(apache_avro::Decimal::from(wide))),
        decimal(if is_largest { u64::MAX.into() } else { 0 }),
        some(Value::String(if is_largest { "ü🐈\"\\\n".to_owned() } else { String::new() })),
        some(Value::Bytes(if is_largest { vec![0, 0xff] } else { vec![] })),
        some(Value::Uuid(uuid.parse().expect("a UUID"))),
        some(Value::Date(day)),
        some(Value::LocalTimestampMicros(micros)),
        some(Value::TimestampMicros(micros)),
        some(Value::TimeMicros(if is_largest { 86_399_999_999 } else { 0 })),
        some(Value::Long(3_020_399_000_000 * i64::from(sign))),
        some(Value::Array(vector)),
        some(geometry),
    ]
}

/// All columns as PostgreSQL prints them, with `|` between them.
async fn rows(world: &TestBed, table: &str) -> Vec<String> {
    let client = postgres(world.get("POSTGRES_URL")).await.expect("a connection");
    client.batch_execute("SET timezone TO 'UTC'; SET extra_float_digits TO 3; SET bytea_output TO hex").await.unwrap();
    let names: Vec<String> = client
        .query(
            "SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 \
             AND attname NOT LIKE 'source%' ORDER BY attnum",
            &[&table],
        )
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    let columns = names.iter().map(|name| format!("coalesce({name}::text, 'null')")).collect::<Vec<_>>().join(",");
    let sql = format!("SELECT concat_ws('|', {columns}) FROM {table} ORDER BY 1");
    client.query(&sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_type_arrives_in_the_log_and_in_postgresql() {
    let mut world = TestBed::new("any_table").with_postgres();
    for (name, value) in [
        ("SCHEMA_REGISTRY_PINNED", "none"),
        ("CONSUMER_LINE", "nested"),
        ("POSTGRES_TABLE", "Any Table"),
        ("RULES_CAPITALISE", "[]"),
        ("RULES_DISCOUNT", "{}"),
    ] {
        world.set(name, value);
    }
    let mut feed = Feed::new(&world).await;
    let schema = schema("");
    let id = register(&world, &schema).await;
    let record = |s: &str, i: i32, values: Vec<Value>| value(&schema, id, s, values, i, Vec::new());
    let key = r#"[2147483647,"k \"1\""]"#;
    feed.raw(key.as_bytes(), Some(&record("k \"1\"", i32::MAX, limits(true))), Some(Op::Create));
    feed.raw(b"[1,\"low\"]", Some(&record("low", 1, limits(false))), Some(Op::Snapshot));
    feed.raw(b"[2,\"null\"]", Some(&record("null", 2, vec![none(); 17])), Some(Op::Create));
    feed.raw(b"[3,\"gone\"]", Some(&record("gone", 3, vec![none(); 17])), Some(Op::Create));
    // More rows than the consumer sends by upsert; a vector is no value of COPY.
    for i in 100..200 {
        let key = format!("[{i},\"many\"]");
        feed.raw(key.as_bytes(), Some(&record("many", i, vec![none(); 17])), Some(Op::Create));
    }
    let consumer = start(&world, 1);
    wait_until_committed(&world);
    feed.raw(b"[3,\"gone\"]", None, Some(Op::Delete));
    // Another spelling of a key, and a key of another row.
    feed.raw(b"[4, \"x\"]", Some(&record("x", 4, vec![none(); 17])), Some(Op::Create));
    feed.raw(b"[5,\"x\"]", Some(&record("x", 4, vec![none(); 17])), Some(Op::Create));
    wait_until_committed(&world);

    let lines: Vec<String> = logs(&world).into_values().flatten().collect();
    let of = |key: &str, op: &str| {
        let begins = format!(r#"{{"table":"shop.T","key":{key},"op":"{op}","partition":"#);
        lines.iter().find(|line| line.starts_with(&begins)).unwrap_or_else(|| panic!("{begins} in {lines:?}"))
    };
    let nines = format!("{}.{}", "9".repeat(35), "9".repeat(30));
    let want = format!(
        r#""row":{{"a key":"k \"1\"","b":true,"l":9223372036854775807,"f":3.4028235e38,"d":1.7976931348623157e308,"money":99999999.99,"wide":{nines},"unsigned":18446744073709551615,"t":"ü🐈\"\\\n","y":"AP8=","u":"ffffffff-ffff-ffff-ffff-ffffffffffff","day":"9999-12-31","local":"9999-12-31T23:59:59.999999","at":"9999-12-31T23:59:59.999999Z","clock":"23:59:59.999999","took":"838:59:59.000000","v":[1.5,-0.1],"g":"0101000020e6100000000000000000f83f00000000000000c0","i":2147483647}}}}"#
    );
    assert!(of(key, "c").ends_with(&want), "{want}\n{}", of(key, "c"));
    let want = format!(
        r#""row":{{"a key":"low","b":false,"l":-9223372036854775808,"f":-3.4028235e38,"d":-1.7976931348623157e308,"money":-99999999.99,"wide":-{nines},"unsigned":0,"t":"","y":"","u":"00000000-0000-0000-0000-00000000000f","day":"0001-01-01","local":"0001-01-01T00:00:00.000000","at":"0001-01-01T00:00:00.000000Z","clock":"00:00:00.000000","took":"-838:59:59.000000","v":[],"g":"0101000000000000000000f83f00000000000000c0","i":1}}}}"#
    );
    assert!(of(r#"[1,"low"]"#, "r").ends_with(&want), "{want}\n{}", of(r#"[1,"low"]"#, "r"));
    assert!(of(r#"[3,"gone"]"#, "d").ends_with(r#""row":null}"#));
    assert_eq!(lines.len(), 105);

    let rows = rows(&world, "\"Any Table\"").await;
    let find = |begin: &str| rows.iter().find(|row| row.starts_with(begin)).unwrap_or_else(|| panic!("{rows:?}"));
    assert_eq!(
        find("k \"1\"|"),
        &format!(
            "k \"1\"|true|9223372036854775807|3.4028235e+38|1.7976931348623157e+308|99999999.99|{nines}|\
             18446744073709551615|ü🐈\"\\\n|\\x00ff|ffffffff-ffff-ffff-ffff-ffffffffffff|9999-12-31|\
             9999-12-31 23:59:59.999999|9999-12-31 23:59:59.999999+00|23:59:59.999999|838:59:59|{{1.5,-0.1}}|\
             \\x0101000020e6100000000000000000f83f00000000000000c0|2147483647"
        )
    );
    assert_eq!(
        find("low|"),
        &format!(
            "low|false|-9223372036854775808|-3.4028235e+38|-1.7976931348623157e+308|-99999999.99|-{nines}|0||\\x|\
             00000000-0000-0000-0000-00000000000f|0001-01-01|0001-01-01 00:00:00|0001-01-01 00:00:00+00|00:00:00|\
             -838:59:59|{{}}|\\x0101000000000000000000f83f00000000000000c0|1"
        )
    );
    assert_eq!(find("null|"), &format!("null|{}2", "null|".repeat(17)));
    assert_eq!(rows.len(), 103);
    let mut reasons: Vec<String> = dead_letters(&world).iter().map(|letter| letter.reason()).collect();
    reasons.sort();
    let of_other = r#"its key is [5,"x"], but its value has i, a key [4,"x"]"#;
    assert_eq!(reasons, [r#"its key "[4, "x"]" is no value of i, a key"#, of_other]);
    assert_eq!(consumer.stop().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_column_is_added_and_a_refused_key_is_parked_as_text() {
    let mut world = TestBed::new("any_table_grows").with_postgres();
    for (name, value) in [
        ("SCHEMA_REGISTRY_PINNED", "none"),
        ("POSTGRES_TABLE", "grows"),
        ("RULES_CAPITALISE", "[]"),
        ("RULES_DISCOUNT", "{}"),
    ] {
        world.set(name, value);
    }
    let mut feed = Feed::new(&world).await;
    let text = |more: &str| {
        format!(
            r#"{{"type":"record","name":"T","namespace":"shop","mysql.key":["k"],"fields":[{{"name":"k","type":"string"}}{more}]}}"#
        )
    };
    let (old, new) = (text(""), text(r#",{"name":"n","type":["null","string"]}"#));
    let (old_id, new_id) = (register(&world, &old).await, register(&world, &new).await);
    let long = |text: &str| [&[2 * text.len() as u8][..], text.as_bytes()].concat();
    let record = |id: u32, parts: &[&[u8]]| [&[0][..], &id.to_be_bytes(), &parts.concat()].concat();
    feed.raw(b"a", Some(&record(old_id, &[&long("a")])), Some(Op::Create));
    let consumer = start(&world, 1);
    wait_until_committed(&world);
    feed.raw(b"b", Some(&record(new_id, &[&long("b"), &[2], &long("x")])), Some(Op::Create));
    feed.raw(b"a", Some(&record(new_id, &[&long("a"), &[2], &long("y")])), Some(Op::Update));
    feed.raw(b"c", Some(&record(new_id, &[&long("c"), &[2], &long("\0")])), Some(Op::Create));
    wait_until_committed(&world);
    assert_eq!(rows(&world, "grows").await, ["a|y", "b|x"]);
    let client = postgres(world.get("POSTGRES_URL")).await.expect("a connection");
    let parked = client.query("SELECT id, key, column_name, sqlstate FROM product_parked", &[]).await.unwrap();
    let parked: Vec<(Option<i64>, String, String, String)> =
        parked.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect();
    assert_eq!(parked, [(None, "c".to_owned(), "n".to_owned(), "22021".to_owned())]);
    let letters = dead_letters(&world);
    assert_eq!(
        (letters.len(), &letters[0].origin["key"], &letters[0].origin["table"]),
        (1, &json!("c"), &json!("grows"))
    );
    // A later state replaces the parked one.
    feed.raw(b"c", Some(&record(new_id, &[&long("c"), &[0]])), Some(Op::Update));
    feed.raw(b"a", None, Some(Op::Delete));
    wait_until_committed(&world);
    assert_eq!(rows(&world, "grows").await, ["b|x", "c|null"]);
    let left = client.query("SELECT FROM product_parked WHERE replaced_by IS NULL", &[]).await.unwrap();
    assert_eq!(left.len(), 0);
    assert_eq!(consumer.stop().code, 0);
}

/// PostgreSQL would round the price: such a record is parked, and its line has all places.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_the_products_column_would_round_is_parked() {
    let world = TestBed::new("rounds").with_postgres();
    let mut feed = Feed::new(&world).await;
    feed.update(1..=5, 0);
    let id = register(&world, &PINNED_SCHEMA.replace("\"scale\": 2", "\"scale\": 4")).await;
    // Product 7, no name, no category, 0.1234, no time.
    let value = [&[0][..], &id.to_be_bytes(), &[14, 0, 0, 2, 4, 0x04, 0xd2, 0]].concat();
    feed.raw(b"7", Some(&value), Some(Op::Create));
    let consumer = start(&world, 1);
    wait_until_committed(&world);
    let lines: Vec<String> = logs(&world).into_values().flatten().collect();
    assert!(lines.iter().any(|line| line.contains(r#""id":7,"#) && line.contains(r#""price":0.1234,"#)), "{lines:?}");
    let letters = dead_letters(&world);
    assert_eq!(letters.len(), 1);
    let origin = &letters[0].origin;
    assert_eq!((&origin["key"], &origin["column"], &origin["sqlstate"]), (&json!(7), &json!("price"), &json!("42804")));
    assert_eq!(origin["reason"], "the column is numeric(10,2), which rounds, and must be numeric(10,4)");
    assert_eq!(rows(&world, "product").await.len(), 5);
    assert_eq!(consumer.stop().code, 0);
}
