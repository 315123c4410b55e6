//! Any table: every type of column, from a snapshot and from the binlog, as another implementation of Avro reads it.

use std::collections::BTreeMap;
use std::time::Duration;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use avro::registry::Registry;
use model::change::Op;
use model::error::Code;
use mysql_async::prelude::Queryable;
use runtime::config::{Program, RegistrySettings};
use testbed::{TestBed, TopicRecord, eventually, execute, read_topic};

const PATIENCE: Duration = Duration::from_secs(60);

/// A column of each type: definition, two values at its limits as SQL, and both as the record has them.
const COLUMNS: [(&str, [&str; 2], [&str; 2]); 33] = [
    ("TINYINT", ["-128", "127"], ["Int(-128)", "Int(127)"]),
    ("TINYINT UNSIGNED", ["0", "255"], ["Int(0)", "Int(255)"]),
    ("SMALLINT", ["-32768", "32767"], ["Int(-32768)", "Int(32767)"]),
    ("MEDIUMINT UNSIGNED", ["0", "16777215"], ["Int(0)", "Int(16777215)"]),
    ("MEDIUMINT", ["-8388608", "8388607"], ["Int(-8388608)", "Int(8388607)"]),
    ("INT", ["-2147483648", "2147483647"], ["Int(-2147483648)", "Int(2147483647)"]),
    ("INT UNSIGNED", ["0", "4294967295"], ["Long(0)", "Long(4294967295)"]),
    (
        "BIGINT",
        ["-9223372036854775808", "9223372036854775807"],
        ["Long(-9223372036854775808)", "Long(9223372036854775807)"],
    ),
    ("BIGINT UNSIGNED", ["0", "18446744073709551615"], ["0", "18446744073709551615"]),
    ("DECIMAL(10,2)", ["-99999999.99", "0.05"], ["-9999999999", "5"]),
    ("DECIMAL(18,0)", ["-999999999999999999", "7"], ["-999999999999999999", "7"]),
    (
        "DECIMAL(38,10)",
        ["-9999999999999999999999999999.9999999999", "0.0000000001"],
        ["-99999999999999999999999999999999999999", "1"],
    ),
    ("FLOAT", ["-1.5", "3.4028235e38"], ["Float(-1.5)", "Float(3.4028235e38)"]),
    ("FLOAT", ["0.1", "1.1754944e-38"], ["Float(0.1)", "Float(1.1754944e-38)"]),
    ("DOUBLE", ["-0.1", "1.7976931348623157e308"], ["Double(-0.1)", "Double(1.7976931348623157e308)"]),
    ("BIT(1)", ["b'0'", "b'1'"], ["Boolean(false)", "Boolean(true)"]),
    ("BIT(10)", ["b'0'", "b'1111111111'"], ["Bytes([0, 0])", "Bytes([3, 255])"]),
    (
        "BIT(64)",
        ["1", "18446744073709551615"],
        ["Bytes([0, 0, 0, 0, 0, 0, 0, 1])", "Bytes([255, 255, 255, 255, 255, 255, 255, 255])"],
    ),
    ("CHAR(5) CHARACTER SET latin1", ["''", "'a€ü'"], [r#"String("")"#, r#"String("a€ü")"#]),
    ("VARCHAR(9) CHARACTER SET utf16", ["'💶'", "'x '"], [r#"String("💶")"#, r#"String("x ")"#]),
    ("LONGTEXT", ["''", "'Ω'"], [r#"String("")"#, r#"String("Ω")"#]),
    ("BINARY(3)", ["X'00'", "X'61ff00'"], ["Bytes([0, 0, 0])", "Bytes([97, 255, 0])"]),
    ("VARBINARY(3)", ["X''", "X'6100'"], ["Bytes([])", "Bytes([97, 0])"]),
    ("BLOB", ["X'00'", "X'ff'"], ["Bytes([0])", "Bytes([255])"]),
    ("ENUM('a','ü')", ["'a'", "'ü'"], [r#"String("a")"#, r#"String("ü")"#]),
    ("SET('a','b','ü')", ["''", "'ü,a'"], [r#"String("")"#, r#"String("a,ü")"#]),
    (
        "JSON",
        [r#"'{"bb":1.50,"a":[true,null]}'"#, "'\"x\"'"],
        [r#"String("{\"a\": [true, null], \"bb\": 1.5}")"#, r#"String("\"x\"")"#],
    ),
    ("DATE", ["'1000-01-01'", "'9999-12-31'"], ["Date(-354285)", "Date(2932896)"]),
    (
        "DATETIME(6)",
        ["'1000-01-01 00:00:00'", "'9999-12-31 23:59:59.999999'"],
        ["LocalTimestampMicros(-30610224000000000)", "LocalTimestampMicros(253402300799999999)"],
    ),
    (
        "TIMESTAMP(3)",
        ["'1970-01-01 00:00:01'", "'2038-01-19 03:14:07.499'"],
        ["TimestampMicros(1000000)", "TimestampMicros(2147483647499000)"],
    ),
    ("TIME(6)", ["'-838:59:59'", "'838:59:58.999999'"], ["Long(-3020399000000)", "Long(3020398999999)"]),
    ("YEAR", ["0", "2155"], ["Int(2000)", "Int(2155)"]),
    (
        "GEOMETRY",
        ["ST_GeomFromText('POINT(1 2)', 4326)", "ST_GeomFromText('POINT(0 0)')"],
        ["srid 4326, 21 bytes", "srid null, 21 bytes"],
    ),
];

/// The value of a field, with decimals as their unscaled number and geometries by their size.
fn shown(value: &Value) -> String {
    match value {
        Value::Union(_, inner) => shown(inner),
        Value::Decimal(decimal) => {
            let bytes: Vec<u8> = decimal.try_into().unwrap();
            let sign = if bytes[0] & 0x80 == 0 { 0 } else { -1 };
            bytes.iter().fold(sign, |number: i128, byte| number << 8 | i128::from(*byte)).to_string()
        }
        Value::Record(fields) => {
            let [(_, Value::Bytes(wkb)), (_, srid)] = fields.as_slice() else { panic!("{fields:?}") };
            let Value::Union(_, srid) = srid else { panic!("{srid:?}") };
            let srid = if let Value::Int(srid) = **srid { srid.to_string() } else { "null".to_owned() };
            format!("srid {srid}, {} bytes", wkb.len())
        }
        other => format!("{other:?}"),
    }
}

fn fields(schema: &Schema, value: &[u8]) -> Vec<(String, String)> {
    let (_, mut body) = avro::split(value).unwrap();
    let read = GenericDatumReader::builder(schema).build().unwrap().read_value(&mut body).unwrap();
    assert!(body.is_empty());
    let Value::Record(fields) = read else { panic!("{read:?}") };
    fields.into_iter().map(|(name, value)| (name, shown(&value))).collect()
}

fn wait_for(bed: &TestBed, count: usize) -> Vec<TopicRecord> {
    eventually(&format!("{count} records in {}", bed.name), PATIENCE, || {
        let records = read_topic(&bed.kafka());
        (records.len() >= count).then_some(records)
    })
}

async fn writer_schema(bed: &TestBed, record: &TopicRecord) -> Schema {
    let registry = Registry::new(RegistrySettings::from(&bed.settings(Program::CdcProducer)).unwrap()).unwrap();
    let (id, _) = avro::split(record.value.as_deref().unwrap()).unwrap();
    let text = registry.find_schema(id).await.unwrap().unwrap().unwrap();
    Schema::parse_str(&text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_is_carried_alike_by_snapshot_and_stream() {
    let mut bed = TestBed::new("types");
    bed.set("DB_COLUMNS", "all");
    let mut conn = bed.mysql().await;
    let columns: Vec<String> =
        COLUMNS.iter().enumerate().map(|(i, (kind, ..))| format!("`c{i}` {kind} NULL")).collect();
    let row = |which: usize, key: &str| {
        let values: Vec<&str> = COLUMNS.iter().map(|(_, values, _)| values[which]).collect();
        format!("({key}, {})", values.join(", "))
    };
    let nulls = vec!["NULL"; COLUMNS.len()].join(", ");
    execute(
        &mut conn,
        &[
            "SET sql_mode = ''".to_owned(),
            format!("CREATE TABLE product (id INT PRIMARY KEY, {})", columns.join(", ")),
            format!("INSERT INTO product VALUES {}, {}, (3, {nulls})", row(0, "1"), row(1, "2")),
            "CREATE TABLE kept AS SELECT * FROM product".to_owned(),
        ],
    )
    .await;
    let mut producer = bed.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    execute(&mut conn, &["DELETE FROM product", "INSERT INTO product SELECT * FROM kept"]).await;
    let records = wait_for(&bed, 9);
    let values = |op: Op| -> BTreeMap<String, Vec<u8>> {
        let of = records.iter().filter(|record| record.source.op == op);
        of.map(|record| (record.key.clone(), record.value.clone().unwrap())).collect()
    };
    let (snapshot, stream) = (values(Op::Snapshot), values(Op::Create));
    assert_eq!(snapshot.keys().collect::<Vec<_>>(), ["1", "2", "3"]);
    let schema = writer_schema(&bed, &records[0]).await;
    for (which, key) in ["1", "2"].into_iter().enumerate() {
        let fields = fields(&schema, &snapshot[key]);
        for (i, (kind, values, want)) in COLUMNS.iter().enumerate() {
            let (_, found) = fields.iter().find(|(name, _)| *name == format!("c{i}")).unwrap();
            // MySQL takes the number 0 for the year 2000 only as text.
            let want = if *kind == "YEAR" && values[which] == "0" { "Int(0)" } else { want[which] };
            assert_eq!(found, want, "{kind} {}", values[which]);
        }
    }
    assert!(fields(&schema, &snapshot["3"]).iter().skip(1).all(|(_, value)| value == "Null"));
    for key in ["1", "2", "3"] {
        assert_eq!(fields(&schema, &stream[key]), fields(&schema, &snapshot[key]));
        assert_eq!(stream[key], snapshot[key], "the bytes of row {key}");
    }
    assert_eq!(producer.stop().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_composite_key_of_text_and_date() {
    let mut bed = TestBed::new("composite");
    bed.set("DB_COLUMNS", "all");
    bed.set("PRODUCER_SNAPSHOT_CHUNK", "2");
    let mut conn = bed.mysql().await;
    execute(
        &mut conn,
        &[
            "CREATE TABLE product (day DATE, place VARCHAR(20) COLLATE utf8mb4_0900_ai_ci, amount DECIMAL(8,2), \
             PRIMARY KEY (place, day))",
            "INSERT INTO product VALUES ('2026-11-21', 'Zoé \"x\"', 1), ('2026-11-21', 'a', 2), ('2026-11-22', 'a', 3), \
             ('2026-11-21', 'B', 4), ('2026-01-01', 'ä2', 5)",
        ],
    )
    .await;
    let mut producer = bed.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    let keys: Vec<String> = wait_for(&bed, 5).into_iter().map(|record| record.key).collect();
    let mut sorted = keys.clone();
    sorted.sort_unstable();
    let want = [
        r#"["B","2026-11-21"]"#,
        r#"["Zoé \"x\"","2026-11-21"]"#,
        r#"["a","2026-11-21"]"#,
        r#"["a","2026-11-22"]"#,
        r#"["ä2","2026-01-01"]"#,
    ];
    assert_eq!(sorted, want);
    execute(
        &mut conn,
        &[
            "UPDATE product SET amount = 7 WHERE place = 'b'",
            // The collation takes both for one key; the records' keys differ.
            "UPDATE product SET place = 'b' WHERE place = 'B'",
            "DELETE FROM product WHERE place = 'a'",
        ],
    )
    .await;
    let records = wait_for(&bed, 10);
    let of = |key: &str| -> Vec<Op> { records.iter().filter(|r| r.key == key).map(|r| r.source.op).collect() };
    assert_eq!(of(want[0]), [Op::Snapshot, Op::Update, Op::Delete]);
    assert_eq!(of(r#"["b","2026-11-21"]"#), [Op::Create]);
    assert_eq!(of(want[2]), [Op::Snapshot, Op::Delete]);
    assert_eq!(producer.stop().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_is_added_is_a_new_version_of_the_schema() {
    let mut bed = TestBed::new("added");
    bed.set("DB_COLUMNS", "all");
    let mut conn = bed.table().await;
    execute(&mut conn, &["INSERT INTO product VALUES (1,'mug','CAT_5',12.30,'2026-01-01')"]).await;
    let mut producer = bed.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    execute(
        &mut conn,
        &[
            "ALTER TABLE product ADD COLUMN sku VARCHAR(20)",
            "UPDATE product SET sku = 'M-1' WHERE id = 1",
            "INSERT INTO product VALUES (2,'tea','a',1,NULL,'T-2')",
        ],
    )
    .await;
    let records = wait_for(&bed, 3);
    let last = records.iter().find(|record| record.key == "2").unwrap();
    let schema = writer_schema(&bed, last).await;
    let sku = fields(&schema, last.value.as_deref().unwrap()).into_iter().find(|(name, _)| name == "sku");
    assert_eq!(sku.unwrap().1, r#"String("T-2")"#);
    let updated = records.iter().rfind(|record| record.key == "1").unwrap();
    let updated = fields(&schema, updated.value.as_deref().unwrap());
    assert_eq!(updated.last().unwrap().1, r#"String("M-1")"#);
    // The product's columns keep the types of its schema.
    assert_eq!(updated[0].1, "Long(1)");
    execute(&mut conn, &["ALTER TABLE product ADD COLUMN stock INT NOT NULL"]).await;
    let ended = producer.wait();
    ended.assert_error(Code::StatementChangesRows, &["adds the column stock and gives existing rows a value"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_cannot_be_carried_whole_is_refused_with_a_remedy() {
    for (definition, code, want, remedy) in [
        ("(a INT)", Code::TableWithoutKey, "has no primary key", "INVISIBLE PRIMARY KEY"),
        ("(a TEXT, PRIMARY KEY (a(10)))", Code::KeyRefused, "has the primary key a(10)", "whole columns"),
        (
            "(a ENUM('x') PRIMARY KEY)",
            Code::KeyRefused,
            "the values of enum have another order than their text",
            "VARCHAR",
        ),
        (
            "(a INT, b DOUBLE, PRIMARY KEY (a, b))",
            Code::KeyRefused,
            "b is in the primary key, and a double has more than one text",
            "DECIMAL",
        ),
        (
            "(a INT PRIMARY KEY, b VARCHAR(9) CHARACTER SET gbk)",
            Code::ColumnRefused,
            "character set gbk is not converted",
            "utf8mb4",
        ),
        (
            "(a INT PRIMARY KEY, `b c` INT, `b_u0020c` INT)",
            Code::ColumnRefused,
            "have one name in Avro, b_u0020c",
            "rename one",
        ),
    ] {
        let mut bed = TestBed::new("whole");
        bed.set("DB_COLUMNS", "all");
        let mut conn = bed.mysql().await;
        conn.query_drop(format!("CREATE TABLE product {definition}")).await.unwrap();
        let ended = bed.run("cdc-producer", &[]);
        ended.assert_error(code, &[want, remedy]);
        assert!(bed.find_progress().unwrap().is_none(), "nothing is written before");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_epoch_deletes_the_keys_that_are_gone() {
    let mut bed = TestBed::new("gone");
    bed.set("DB_COLUMNS", "all");
    let mut conn = bed.mysql().await;
    execute(
        &mut conn,
        &[
            "CREATE TABLE product (place VARCHAR(20), n INT, amount INT, PRIMARY KEY (n, place))",
            "INSERT INTO product VALUES ('a', 1, 1), ('ä \"x\"', 1, 2), ('b', 10, 3), ('b', 9, 4)",
        ],
    )
    .await;
    let mut producer = bed.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    wait_for(&bed, 4);
    assert_eq!(producer.stop().code, 0);
    execute(
        &mut conn,
        &[
            "DELETE FROM product WHERE n = 1",
            "ALTER TABLE product ADD COLUMN note TEXT",
            "INSERT INTO product VALUES ('c', 1, 5, 'x')",
        ],
    )
    .await;
    assert_eq!(bed.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
    let mut producer = bed.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    let records = wait_for(&bed, 9);
    let alive: BTreeMap<&str, bool> =
        records.iter().map(|record| (record.key.as_str(), record.value.is_some())).collect();
    let want = [
        (r#"[1,"a"]"#, false),
        (r#"[1,"c"]"#, true),
        (r#"[1,"ä \"x\""]"#, false),
        (r#"[10,"b"]"#, true),
        (r#"[9,"b"]"#, true),
    ];
    assert_eq!(alive.into_iter().collect::<Vec<_>>(), want);
    assert_eq!(producer.stop().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wider_column_is_carried_and_another_key_is_refused() {
    let mut bed = TestBed::new("wider");
    bed.set("DB_COLUMNS", "all");
    let mut conn = bed.mysql().await;
    execute(
        &mut conn,
        &["CREATE TABLE product (a INT, b INT, n INT, PRIMARY KEY (a, b))", "INSERT INTO product VALUES (1, 1, 1)"],
    )
    .await;
    let mut producer = bed.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    execute(&mut conn, &["ALTER TABLE product MODIFY n BIGINT", "UPDATE product SET n = 3000000000"]).await;
    let records = wait_for(&bed, 2);
    let schema = writer_schema(&bed, &records[1]).await;
    let values = fields(&schema, records[1].value.as_deref().unwrap());
    assert_eq!(values.last().unwrap().1, "Long(3000000000)");
    execute(&mut conn, &["ALTER TABLE product DROP PRIMARY KEY, ADD PRIMARY KEY (b, a)", "UPDATE product SET n = 2"])
        .await;
    let want = "has the primary key (b int, a int), and the records of topic";
    let ended = producer.wait();
    ended.assert_error(Code::KeyChanged, &[want]);
    assert_eq!(read_topic(&bed.kafka()).len(), 2, "nothing is written with the other key");
    let ended = bed.run("cdc-producer", &[]);
    ended.assert_error(Code::KeyChanged, &[want]);
    // The first remedy.
    execute(&mut conn, &["ALTER TABLE product DROP PRIMARY KEY, ADD PRIMARY KEY (a, b)"]).await;
    assert_eq!(bed.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
    let mut producer = bed.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    wait_for(&bed, 3);
    assert_eq!(producer.stop().code, 0);
}
