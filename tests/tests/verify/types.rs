//! A table with a column of every type and a key of two columns, whose records `apache-avro` writes: verify accepts it,
//! and finds one changed value in each column of the table, of PostgreSQL and of the logs.

use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use apache_avro::{Decimal, Schema};
use kafka::TopicSpec;
use model::change::{Op, Source};
use mysql_async::prelude::Queryable;
use serde_json::json;
use testbed::{TestBed, read_topic};

use super::scene::*;

/// A column, and one value of it in every place.
struct Column {
    name: &'static str,
    /// MySQL's type, the value as an expression, and another value.
    mysql: [&'static str; 3],
    avro: (serde_json::Value, Value),
    /// In a line.
    json: &'static str,
    /// PostgreSQL's type, the value as an expression, and another value.
    postgres: [&'static str; 3],
}

fn column(
    name: &'static str,
    mysql: [&'static str; 3],
    avro: (serde_json::Value, Value),
    json: &'static str,
    postgres: [&'static str; 3],
) -> Column {
    Column { name, mysql, avro, json, postgres }
}

fn logical(kind: &str, logical: &str) -> serde_json::Value {
    json!({"type": kind, "logicalType": logical})
}

fn decimal(precision: u32, scale: u32) -> serde_json::Value {
    json!({"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale})
}

fn numbers() -> Vec<Column> {
    let unscaled = |bytes: &[u8]| Value::Decimal(Decimal::from(bytes));
    let large = [&[0][..], &[0xff; 8]].concat();
    let ten_to_the_30th = (10i128.pow(30) + 1).to_be_bytes();
    vec![
        column(
            "tiny",
            ["TINYINT", "-128", "127"],
            (json!("int"), Value::Int(-128)),
            "-128",
            ["smallint", "-128", "127"],
        ),
        column("year", ["YEAR", "2155", "0000"], (json!("int"), Value::Int(2155)), "2155", ["smallint", "2155", "0"]),
        column(
            "int_u",
            ["INT UNSIGNED", "4294967295", "0"],
            (json!("long"), Value::Long(4_294_967_295)),
            "4294967295",
            ["bigint", "4294967295", "0"],
        ),
        column(
            "big",
            ["BIGINT", "-9223372036854775808", "-9223372036854775807"],
            (json!("long"), Value::Long(i64::MIN)),
            "-9223372036854775808",
            ["bigint", "-9223372036854775808", "-9223372036854775807"],
        ),
        column(
            "big_u",
            ["BIGINT UNSIGNED", "18446744073709551615", "18446744073709551614"],
            (decimal(20, 0), unscaled(&large)),
            "18446744073709551615",
            ["numeric(20,0)", "18446744073709551615", "18446744073709551614"],
        ),
        column(
            "amount",
            ["DECIMAL(10,2)", "-0.05", "-0.06"],
            (decimal(10, 2), unscaled(&[0xfb])),
            "-0.05",
            ["numeric(10,2)", "-0.05", "-0.06"],
        ),
        column(
            "long_decimal",
            ["DECIMAL(65,30)", "1.000000000000000000000000000001", "1.000000000000000000000000000002"],
            (decimal(65, 30), unscaled(&ten_to_the_30th)),
            "1.000000000000000000000000000001",
            ["numeric(65,30)", "1.000000000000000000000000000001", "1.000000000000000000000000000002"],
        ),
        column(
            "real_number",
            ["FLOAT", "16777216", "16777215"],
            (json!("float"), Value::Float(16_777_216.0)),
            "16777216.0",
            ["real", "16777216", "16777215"],
        ),
        column(
            "tenth",
            ["FLOAT", "0.1", "0.10000001"],
            (json!("float"), Value::Float(0.1)),
            "0.1",
            ["real", "0.1", "0.10000001"],
        ),
        column(
            "precise",
            ["DOUBLE", "1.7976931348623157e308", "1.7976931348623155e308"],
            (json!("double"), Value::Double(f64::MAX)),
            "1.7976931348623157e308",
            ["double precision", "1.7976931348623157e308", "1.7976931348623155e308"],
        ),
        column(
            "flag",
            ["BIT(1)", "b'1'", "b'0'"],
            (json!("boolean"), Value::Boolean(true)),
            "true",
            ["boolean", "true", "false"],
        ),
        column(
            "bits",
            ["BIT(9)", "b'100000001'", "b'100000011'"],
            (json!("bytes"), Value::Bytes(vec![1, 1])),
            r#""AQE=""#,
            ["bytea", r"'\x0101'", r"'\x0103'"],
        ),
    ]
}

fn texts() -> Vec<Column> {
    let uuid = "0123abcd-0000-4000-8000-00000000000f";
    let wkb = [&[1, 1, 0, 0, 0][..], &1f64.to_le_bytes(), &(-2f64).to_le_bytes()].concat();
    let geometry = json!({"type": "record", "name": "point", "fields":
        [{"name": "wkb", "type": "bytes"}, {"name": "srid", "type": ["null", "int"]}]});
    let srid = Value::Union(1, Box::new(Value::Int(4326)));
    let point = Value::Record(vec![("wkb".to_owned(), Value::Bytes(wkb)), ("srid".to_owned(), srid)]);
    vec![
        column(
            "words",
            ["TEXT", "'grün, \"q\"\\n'", "'grün, \"Q\"\\n'"],
            (json!("string"), Value::String("grün, \"q\"\n".to_owned())),
            r#""grün, \"q\"\n""#,
            ["text", "E'grün, \"q\"\\n'", "E'grün, \"Q\"\\n'"],
        ),
        column(
            "latin",
            ["VARCHAR(9) CHARACTER SET latin1", "'é '", "'é'"],
            (json!("string"), Value::String("é ".to_owned())),
            r#""é ""#,
            ["text", "'é '", "'é'"],
        ),
        column(
            "one_of",
            ["ENUM('a','ü')", "'ü'", "'a'"],
            (json!("string"), Value::String("ü".to_owned())),
            r#""ü""#,
            ["text", "'ü'", "'a'"],
        ),
        column(
            "some_of",
            ["SET('a','b','ü')", "'ü,a'", "'ü'"],
            (json!("string"), Value::String("a,ü".to_owned())),
            r#""a,ü""#,
            ["text", "'a,ü'", "'ü'"],
        ),
        column(
            "document",
            ["JSON", r#"'{"bb":1.50,"a":[null]}'"#, r#"'{"bb":1.5,"a":[]}'"#],
            (json!("string"), Value::String(r#"{"a": [null], "bb": 1.5}"#.to_owned())),
            r#""{\"a\": [null], \"bb\": 1.5}""#,
            ["json", r#"'{"a": [null], "bb": 1.5}'"#, r#"'{"a": [], "bb": 1.5}'"#],
        ),
        column(
            "fixed_bytes",
            ["BINARY(3)", "0x00ff", "0x00fe"],
            (json!("bytes"), Value::Bytes(vec![0, 255, 0])),
            r#""AP8A""#,
            ["bytea", r"'\x00ff00'", r"'\x00fe00'"],
        ),
        column(
            "blob",
            ["BLOB", "0x00ff10ab", "0x00ff10aa"],
            (json!("bytes"), Value::Bytes(vec![0, 255, 16, 171])),
            r#""AP8Qqw==""#,
            ["bytea", r"'\x00ff10ab'", r"'\x00ff10aa'"],
        ),
        column(
            "uuid",
            ["BINARY(16)", "0x0123abcd00004000800000000000000f", "0x0123abcd00004000800000000000000e"],
            (logical("string", "uuid"), Value::Uuid(uuid.parse().unwrap())),
            r#""0123abcd-0000-4000-8000-00000000000f""#,
            ["uuid", "'0123abcd-0000-4000-8000-00000000000f'", "'0123abcd-0000-4000-8000-00000000000e'"],
        ),
        column(
            "place",
            ["POINT SRID 4326", "ST_SRID(POINT(1, -2), 4326)", "ST_SRID(POINT(1, -3), 4326)"],
            (geometry, point),
            r#""0101000020e6100000000000000000f03f00000000000000c0""#,
            [
                "bytea",
                r"'\x0101000020e6100000000000000000f03f00000000000000c0'",
                r"'\x0101000020e6100000000000000000f03f00000000000008c0'",
            ],
        ),
        column(
            "vector",
            ["VECTOR(2)", "STRING_TO_VECTOR('[0.1,-2.5]')", "STRING_TO_VECTOR('[0.1,-2.25]')"],
            (json!({"type": "array", "items": "float"}), Value::Array(vec![Value::Float(0.1), Value::Float(-2.5)])),
            "[0.1,-2.5]",
            ["real[]", "'{0.1,-2.5}'", "'{0.1,-2.25}'"],
        ),
    ]
}

fn times() -> Vec<Column> {
    let day = 86_400_000_000;
    let last = 2_932_897 * day - 1;
    let longest = (838 * 3600 + 59 * 60 + 59) * 1_000_000;
    vec![
        column(
            "day",
            ["DATE", "'9999-12-31'", "'9999-12-30'"],
            (logical("int", "date"), Value::Date(2_932_896)),
            r#""9999-12-31""#,
            ["date", "'9999-12-31'", "'9999-12-30'"],
        ),
        column(
            "local",
            ["DATETIME(6)", "'9999-12-31 23:59:59.999999'", "'9999-12-31 23:59:59.999998'"],
            (logical("long", "local-timestamp-micros"), Value::LocalTimestampMicros(last)),
            r#""9999-12-31T23:59:59.999999""#,
            ["timestamp(6)", "'9999-12-31 23:59:59.999999'", "'9999-12-31 23:59:59.999998'"],
        ),
        column(
            "instant",
            ["TIMESTAMP(3) NULL", "'1970-01-02 00:00:00.5'", "'1970-01-02 00:00:00.501'"],
            (logical("long", "timestamp-micros"), Value::TimestampMicros(day + 500_000)),
            r#""1970-01-02T00:00:00.500000Z""#,
            ["timestamptz(6)", "'1970-01-02 00:00:00.5+00'", "'1970-01-02 00:00:00.501+00'"],
        ),
        column(
            "span",
            ["TIME(6)", "'-838:59:59'", "'838:59:59'"],
            (json!({"type": "long", "unit": "microseconds"}), Value::Long(-longest)),
            r#""-838:59:59.000000""#,
            ["interval", "'-838:59:59'", "'838:59:59'"],
        ),
    ]
}

/// The columns beside the key, and a row of the topic for each of them, one of nulls and one that is deleted.
struct Types {
    world: TestBed,
    columns: Vec<Column>,
}

/// The second column of the key.
const CODE: &str = r#"a"ü"#;

impl Types {
    async fn new() -> Self {
        let mut world = TestBed::new("verify_types").with_postgres();
        for (variable, value) in [("DB_TABLE", "things"), ("POSTGRES_TABLE", "things"), ("CONSUMER_LINE", "nested")] {
            world.set(variable, value);
        }
        let types = Self { world, columns: [numbers(), texts(), times()].into_iter().flatten().collect() };
        types.fill_table().await;
        types.fill_topic().await;
        types.write_log(|_, _| None);
        types.fill_postgres().await;
        types
    }

    async fn fill_table(&self) {
        let mut conn = self.world.mysql().await;
        let columns = self.columns.iter().map(|c| format!("`{}` {}", c.name, c.mysql[0])).collect::<Vec<_>>();
        let columns = columns.join(", ");
        let create =
            format!("CREATE TABLE things (code VARCHAR(9), left_out INT, {columns}, id INT, PRIMARY KEY (id, code))");
        let values = self.columns.iter().map(|c| c.mysql[1]).collect::<Vec<_>>().join(", ");
        for statement in ["SET time_zone = '+00:00', sql_mode = ''", &create] {
            conn.query_drop(statement).await.unwrap();
        }
        for id in 1..=self.columns.len() {
            conn.query_drop(format!("INSERT INTO things VALUES ('{CODE}', 7, {values}, {id})")).await.unwrap();
        }
        conn.query_drop(format!("INSERT INTO things (code, id) VALUES ('{CODE}', 0)")).await.unwrap();
    }

    async fn fill_topic(&self) {
        let settings = self.world.kafka();
        kafka::ensure_topics(&settings, &[TopicSpec::products(&settings)]).await.unwrap();
        let fields = self.columns.iter().map(|c| json!({"name": c.name, "type": ["null", c.avro.0]}));
        let key =
            [json!({"name": "id", "type": "int"}), json!({"name": "code_", "mysql.name": "code", "type": "string"})];
        let fields: Vec<serde_json::Value> = key.into_iter().chain(fields).collect();
        let schema = json!({"type": "record", "name": "things", "namespace": "shop", "mysql.key": ["id", "code_"], "fields": fields});
        let url = format!("{}/subjects/{}-value/versions", self.world.get("SCHEMA_REGISTRY_URL"), settings.topic);
        let request = reqwest::Client::new().post(url).header("content-type", "application/vnd.schemaregistry.v1+json");
        let answer = request.body(json!({"schema": schema.to_string()}).to_string()).send().await.unwrap();
        let answer: serde_json::Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        let registered = u32::try_from(answer["id"].as_u64().unwrap_or_else(|| panic!("{answer}"))).unwrap();
        let schema = Schema::parse(&schema).unwrap();
        let writer = GenericDatumWriter::builder(&schema).build().unwrap();
        let record = |id: usize, values: Option<&[Column]>| {
            let value = |c: &Column| match values {
                Some(_) => Value::Union(1, Box::new(c.avro.1.clone())),
                None => Value::Union(0, Box::new(Value::Null)),
            };
            let key = [("id", Value::Int(id as i32)), ("code_", Value::String(CODE.to_owned()))];
            let fields = self.columns.iter().map(|c| (c.name, value(c)));
            let fields = key.into_iter().chain(fields).map(|(name, value)| (name.to_owned(), value)).collect();
            let body = writer.write_value_to_vec(Value::Record(fields)).unwrap();
            [&[0][..], &registered.to_be_bytes(), &body].concat()
        };
        let last = self.columns.len() + 1;
        let mut sent: Vec<Sent> = (0..=last)
            .map(|id| Sent {
                key: json!([id, CODE]).to_string(),
                value: Some(record(id, Some(&self.columns).filter(|_| id > 0).map(Vec::as_slice))),
                source: Source { op: Op::Create, ts_us: TS, pos: format!("{UUID}:1").into(), row: id as u64, epoch: 1 },
                partition: None,
            })
            .collect();
        let deleted = Source { op: Op::Delete, pos: format!("{UUID}:2").into(), ..sent[last].source.clone() };
        sent.push(Sent { value: None, source: deleted, ..sent[last].clone() });
        send(&settings, &sent);
    }

    /// Writes the log; `spoiled` gives another text for the value of a column in a row.
    fn write_log(&self, spoiled: impl Fn(usize, usize) -> Option<String>) {
        let mut log = String::new();
        for record in read_topic(&self.world.kafka()) {
            let id: usize =
                serde_json::from_str::<serde_json::Value>(&record.key).unwrap()[0].as_u64().unwrap() as usize;
            let value = |(i, c): (usize, &Column)| {
                let value = if id == 0 { "null".to_owned() } else { spoiled(id, i + 1).unwrap_or(c.json.to_owned()) };
                format!(r#","{}":{value}"#, c.name)
            };
            let row = match record.value {
                None => "null".to_owned(),
                Some(_) => {
                    let values: String = self.columns.iter().enumerate().map(value).collect();
                    format!(r#"{{"id":{id},"code":{}{values}}}"#, json!(CODE))
                }
            };
            log.push_str(&format!(
                r#"{{"table":"shop.things","key":{},"op":"{}","partition":{},"offset":{},"source_ts":"2025-11-21T04:00:00.000000Z","row":{row}}}"#,
                record.key,
                record.source.op.letter(),
                record.partition,
                record.offset
            ));
            log.push('\n');
        }
        let folder = self.world.folder.join("consumer_logs/consumer_1");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("consumer_log.json"), log).unwrap();
    }

    async fn fill_postgres(&self) {
        let (server, _) = self.world.get("POSTGRES_URL").rsplit_once('/').unwrap();
        postgres(&format!("{server}/postgres"), &format!("CREATE DATABASE {}", self.world.name)).await;
        let columns: String = self.columns.iter().map(|c| format!("\"{}\" {}, ", c.name, c.postgres[0])).collect();
        let values: String = self.columns.iter().map(|c| format!(", {}", c.postgres[1])).collect();
        let mut statements = format!(
            "CREATE TABLE things (id int, code text, {columns} source_partition int, source_offset bigint, PRIMARY KEY (id, code));"
        );
        for id in 1..=self.columns.len() {
            statements.push_str(&format!("INSERT INTO things VALUES ({id}, '{CODE}'{values});"));
        }
        statements.push_str(&format!("INSERT INTO things VALUES (0, '{CODE}')"));
        postgres(self.world.get("POSTGRES_URL"), &statements).await;
    }

    /// Runs verify, which must report one difference of this check for each column, and nothing else.
    fn finds(&self, check: &str) {
        let ended = self.world.run("verify", &["--json"]);
        let report: serde_json::Value =
            serde_json::from_str(&ended.out).unwrap_or_else(|e| panic!("{e}: {}{}", ended.out, ended.err));
        assert_eq!(report["counts"], json!({ check: self.columns.len() }));
        let first = &report["differences"][0];
        let key: Vec<serde_json::Value> = serde_json::from_str(first["key"].as_str().unwrap()).unwrap();
        assert!(key[0].as_u64().is_some_and(|id| id > 0) && key[1] == CODE, "{first}");
        assert!(first["expected"] != first["found"] && first["found"].is_string(), "{first}");
    }
}

/// Another value in place of a line's.
fn spoiled(value: &str) -> String {
    match value.as_bytes()[0] {
        b'"' => value.replacen('"', "\"x", 1),
        b'[' => value.replace(']', ",0]"),
        b't' => "false".to_owned(),
        _ => match value.split_once('e') {
            Some((digits, exponent)) => format!("{digits}1e{}", exponent.parse::<u32>().unwrap() - 1),
            None => format!("{value}1"),
        },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_changed_value_in_each_column_is_found() {
    let types = Types::new().await;
    let rows = types.columns.len() + 1;
    let ended = types.world.run("verify", &[]);
    assert_eq!(ended.code, 0, "{}\n{}", ended.out, ended.err);
    let agrees =
        format!("OK: {} changes, each in exactly one log; table, topic, logs and PostgreSQL agree\n", rows + 2);
    assert!(ended.out.contains(&agrees), "{}", ended.out);

    types.write_log(|id, column| (id == column).then(|| spoiled(types.columns[column - 1].json)));
    types.finds("wrong");
    types.write_log(|_, _| None);

    let url = types.world.get("POSTGRES_URL").to_owned();
    let set = |which: usize| -> String {
        let set = |(i, c): (usize, &Column)| {
            format!("UPDATE things SET \"{}\" = {} WHERE id = {};", c.name, c.postgres[which], i + 1)
        };
        types.columns.iter().enumerate().map(set).collect()
    };
    postgres(&url, &set(2)).await;
    types.finds("postgres");
    postgres(&url, &set(1)).await;

    let mut conn = types.world.mysql().await;
    conn.query_drop("SET sql_log_bin = 0, time_zone = '+00:00', sql_mode = ''").await.unwrap();
    // A column that no record has is not compared.
    conn.query_drop("UPDATE things SET left_out = 8").await.unwrap();
    let ended = types.world.run("verify", &[]);
    assert_eq!(ended.code, 0, "{}\n{}", ended.out, ended.err);
    for (i, column) in types.columns.iter().enumerate() {
        let (name, other, id) = (column.name, column.mysql[2], i + 1);
        conn.query_drop(format!("UPDATE things SET `{name}` = {other} WHERE id = {id}")).await.unwrap();
    }
    postgres(&url, &set(2)).await;
    types.finds("table");
}
