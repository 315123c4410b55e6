//! Columns of every type, with values that reach the ends of it, and random columns and values.
//!
//! A value is an SQL expression; what it becomes in the table the server says.

use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

pub(crate) struct Column {
    pub(crate) sql: String,
    pub(crate) edges: Vec<String>,
    random: Box<dyn Fn(&mut StdRng) -> String>,
}

impl Column {
    fn new(sql: impl Into<String>, edges: &[&str], random: impl Fn(&mut StdRng) -> String + 'static) -> Self {
        let edges = edges.iter().map(|edge| (*edge).to_owned()).collect();
        Self { sql: sql.into(), edges, random: Box::new(random) }
    }

    /// NULL, an edge or a random value.
    pub(crate) fn value(&self, rng: &mut StdRng) -> String {
        match rng.random_range(0..10) {
            0 => "NULL".to_owned(),
            1..=3 => self.edges.choose(rng).map_or_else(|| "NULL".to_owned(), String::clone),
            _ => (self.random)(rng),
        }
    }

    pub(crate) fn is_float(&self) -> bool {
        self.sql.starts_with("FLOAT")
    }
}

/// One column of each type there is, and more where the form in the binlog changes with its size.
pub(crate) fn every_column() -> Vec<Column> {
    let mut columns = Vec::new();
    for (name, bits) in [("TINYINT", 8), ("SMALLINT", 16), ("MEDIUMINT", 24), ("INT", 32), ("BIGINT", 64)] {
        columns.push(int(name, bits, false));
        columns.push(int(name, bits, true));
    }
    columns.extend([float(), double(), year(), date(), json(), longest("LONGTEXT", 70_000)]);
    columns.extend(
        [(1, 0), (2, 2), (9, 0), (10, 2), (18, 9), (19, 9), (38, 10), (65, 0), (65, 30)]
            .map(|(p, s)| decimal(p, s, false)),
    );
    columns.push(decimal(12, 3, true));
    columns.extend([1, 7, 8, 9, 31, 33, 63, 64].map(bit));
    for fsp in 0..=6 {
        columns.extend([time(fsp), datetime(fsp), timestamp(fsp)]);
    }
    for charset in CHARSETS {
        columns.extend([text("CHAR(64)", charset), text("VARCHAR(60)", charset), text("VARCHAR(300)", charset)]);
        columns.extend([text("TINYTEXT", charset), text("TEXT", charset), text("MEDIUMTEXT", charset)]);
        columns.extend([enumeration(&["a", "b'\"\\", "grün, ü", ""], charset), set(&["x", "y'", "Ω", "ü"], charset)]);
    }
    columns.extend(["CHAR(0)", "CHAR(63)", "CHAR(127)", "CHAR(128)", "CHAR(255)"].map(|sql| text(sql, "utf8mb4")));
    columns.extend(["BINARY(1)", "BINARY(16)", "BINARY(255)", "VARBINARY(255)", "VARBINARY(256)"].map(bytes));
    columns.extend(["TINYBLOB", "BLOB", "MEDIUMBLOB", "LONGBLOB"].map(bytes));
    columns.push(longest("LONGBLOB", 1_100_000));
    columns.push(longest("VARCHAR(16000)", 16_000));
    columns.push(longest("MEDIUMTEXT", 66_000));
    columns.extend([many_labels("ENUM", 300), many_labels("SET", 9), many_labels("SET", 24), many_labels("SET", 64)]);
    columns.extend(["GEOMETRY", "POINT", "POLYGON"].map(geometry));
    columns.push(Column::new("VECTOR(3)", &["STRING_TO_VECTOR('[1, -2.5, 3e38]')"], |rng| {
        format!("STRING_TO_VECTOR('[{}, 0, 1]')", rng.random::<f32>())
    }));
    columns
}

/// A column of random type and size.
pub(crate) fn random_column(rng: &mut StdRng) -> Column {
    let charset = *CHARSETS.choose(rng).expect("there are charsets");
    match rng.random_range(0..20) {
        0 | 1 => {
            let (name, bits) = [("TINYINT", 8), ("SMALLINT", 16), ("MEDIUMINT", 24), ("INT", 32), ("BIGINT", 64)]
                [rng.random_range(0..5)];
            int(name, bits, rng.random())
        }
        2 => float(),
        3 => double(),
        4 | 5 => {
            let precision = rng.random_range(1..=65);
            decimal(precision, rng.random_range(0..=precision.min(30)), rng.random())
        }
        6 => bit(rng.random_range(1..=64)),
        7 => time(rng.random_range(0..=6)),
        8 => datetime(rng.random_range(0..=6)),
        9 => timestamp(rng.random_range(0..=6)),
        10 => date(),
        11 => year(),
        12 => text(&format!("CHAR({})", rng.random_range(1..=255)), charset),
        13 | 14 => text(&format!("VARCHAR({})", rng.random_range(1..=300)), charset),
        15 => text(["TINYTEXT", "TEXT", "MEDIUMTEXT", "LONGTEXT"][rng.random_range(0..4)], charset),
        16 => {
            let length = rng.random_range(1..=255);
            match rng.random_range(0..3) {
                0 => bytes(&format!("BINARY({length})")),
                1 => bytes(&format!("VARBINARY({})", length * 2)),
                _ => bytes(["TINYBLOB", "BLOB", "MEDIUMBLOB", "LONGBLOB"][rng.random_range(0..4)]),
            }
        }
        17 => {
            if rng.random() {
                enumeration(&["red", "grün", "blau, ü", "x"], charset)
            } else {
                set(&["red", "grün", "blau ü", "x"], charset)
            }
        }
        18 => json(),
        _ => geometry("GEOMETRY"),
    }
}

const CHARSETS: [&str; 8] = ["utf8mb4", "utf8mb3", "ascii", "latin1", "ucs2", "utf16", "utf16le", "utf32"];

fn int(name: &str, bits: u32, unsigned: bool) -> Column {
    let (min, max) =
        if unsigned { (0, (1_i128 << bits) - 1) } else { (-(1_i128 << (bits - 1)), (1_i128 << (bits - 1)) - 1) };
    let edges = [
        min.to_string(),
        max.to_string(),
        (max / 2).to_string(),
        "0".to_owned(),
        "1".to_owned(),
        min.min(-1).to_string(),
    ];
    let sql = format!("{name}{}", if unsigned { " UNSIGNED" } else { "" });
    Column::new(sql, &edges.each_ref().map(String::as_str), move |rng| {
        (rng.random_range(min..=max) >> rng.random_range(0..bits)).to_string()
    })
}

fn float() -> Column {
    let edges = ["0", "-0e0", "1", "-1.5", "3.402823466e38", "-3.402823466e38", "1.175494351e-38", "1e-45", "16777217"];
    Column::new("FLOAT", &edges, |rng| format!("{:e}", f32::from_bits(rng.random_range(0..0x7f00_0000))))
}

fn double() -> Column {
    let edges = [
        "0",
        "-0e0",
        "1",
        "-1.5",
        "0.1",
        "1e14",
        "1e15",
        "123456789012345678",
        "1e-15",
        "1e-16",
        "1.7976931348623157e308",
        "2.2250738585072014e-308",
        "5e-324",
        "123456.789e3",
        "811454038520340.25",
        "1618757221050418.75",
        "1234567890123456",
    ];
    Column::new("DOUBLE", &edges, random_double)
}

/// Any double, or one of the few whose digits lie on both sides of the point, where MySQL's layout changes.
fn random_double(rng: &mut StdRng) -> String {
    let number = if rng.random() {
        f64::from_bits(rng.random_range(0..0x7fe0_0000_0000_0000))
    } else {
        (rng.random::<u64>() >> rng.random_range(0..64)) as f64 / (1_u64 << rng.random_range(0..64)) as f64
    };
    format!("{number:e}")
}

fn decimal(precision: usize, scale: usize, unsigned: bool) -> Column {
    let nines = |sign: &str| format!("{sign}{}.{}", "9".repeat(precision - scale), "9".repeat(scale));
    let last = format!("-0.{}1", "0".repeat(scale.saturating_sub(1)));
    let edges = [nines(""), nines("-"), last, "0".to_owned(), "-0.0".to_owned(), "1".to_owned(), "0.5".to_owned()];
    let sql = format!("DECIMAL({precision},{scale}){}", if unsigned { " UNSIGNED" } else { "" });
    Column::new(sql, &edges.each_ref().map(String::as_str), move |rng| {
        let mut digits = |most: usize| -> String {
            let count = rng.random_range(0..=most);
            (0..count).map(|_| char::from(rng.random_range(b'0'..=b'9'))).collect()
        };
        let number = format!("0{}.{}", digits(precision - scale), digits(scale));
        if rng.random() { number } else { format!("-{number}") }
    })
}

fn bit(width: u32) -> Column {
    let max = u64::MAX >> (64 - width);
    let edges = ["0".to_owned(), "1".to_owned(), max.to_string(), (max / 2 + 1).to_string()];
    Column::new(format!("BIT({width})"), &edges.each_ref().map(String::as_str), move |rng| {
        (rng.random::<u64>() & max).to_string()
    })
}

fn year() -> Column {
    Column::new("YEAR", &["'0000'", "1901", "2155", "2026", "'0'"], |rng| rng.random_range(1901..=2155).to_string())
}

fn date() -> Column {
    let edges = [
        "'0000-00-00'",
        "'0001-01-01'",
        "'1000-01-01'",
        "'9999-12-31'",
        "'2024-02-29'",
        "'2026-00-00'",
        "'2026-02-31'",
    ];
    Column::new("DATE", &edges, |rng| {
        format!("'{:04}-{:02}-{:02}'", rng.random_range(0..=9999), rng.random_range(0..=12), rng.random_range(0..=31))
    })
}

fn time(fsp: usize) -> Column {
    let edges = [
        "'0'",
        "'838:59:59'",
        "'-838:59:59'",
        "'-00:00:00.000001'",
        "'-00:00:00.1'",
        "'-00:00:01.999999'",
        "'-00:00:59.99'",
        "'-01:00:00'",
        "'23:59:59.999999'",
        "'-12:34:56.123456'",
    ];
    Column::new(format!("TIME({fsp})"), &edges, |rng| {
        let sign = if rng.random() { "-" } else { "" };
        let (hours, minutes) = (rng.random_range(0..838), rng.random_range(0..60));
        format!("'{sign}{hours}:{minutes:02}:{:02}.{:06}'", rng.random_range(0..60), rng.random_range(0..1_000_000))
    })
}

fn datetime(fsp: usize) -> Column {
    let edges = [
        "'0000-00-00 00:00:00'",
        "'0001-01-01 00:00:00'",
        "'9999-12-31 23:59:59'",
        "'2026-11-21 04:05:06.789012'",
        "'2026-00-00 01:02:03'",
        "'2026-02-31 00:00:00.5'",
    ];
    Column::new(format!("DATETIME({fsp})"), &edges, |rng| {
        let (year, month, day) = (rng.random_range(0..=9998), rng.random_range(1..=12), rng.random_range(1..=28));
        let (hour, minute, second) = (rng.random_range(0..24), rng.random_range(0..60), rng.random_range(0..60));
        let micros = rng.random_range(0..1_000_000);
        format!("'{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{micros:06}'")
    })
}

fn timestamp(fsp: usize) -> Column {
    let edges = [
        "'0000-00-00 00:00:00'",
        "'1970-01-01 00:00:01'",
        "'2038-01-19 03:14:07'",
        "'2000-02-29 23:59:59.999'",
        "'2026-11-21 04:05:06.789012'",
    ];
    Column::new(format!("TIMESTAMP({fsp}) NULL"), &edges, |rng| {
        format!("FROM_UNIXTIME({}.{:06})", rng.random_range(1..i32::MAX), rng.random_range(0..1_000_000))
    })
}

fn text(sql: &str, charset: &str) -> Column {
    let edges = [
        "''",
        "' '",
        "'trailing  '",
        "'plain'",
        "'ÄÖÜ € ‚quoted‘'",
        "'ΩЖ中'",
        "'😀'",
        "_latin1 x'8081ff'",
        "'a\\0b'",
        "'\\'\"\\\\'",
        "REPEAT('x', 60)",
        "REPEAT('ü', 255)",
        "REPEAT('中', 300)",
        "REPEAT('abc', 100)",
    ];
    Column::new(format!("{sql} CHARACTER SET {charset}"), &edges, |rng| {
        let alphabet =
            ['a', 'Z', '0', ' ', '\'', '"', '\\', '\n', '\t', 'ä', 'ß', '€', 'Ω', 'Ж', '中', '😀', '\u{7f}', '\u{ff}'];
        let most = if rng.random() { 8 } else { 300 };
        let length = rng.random_range(0..most);
        quoted(&(0..length).map(|_| alphabet[rng.random_range(0..alphabet.len())]).collect::<String>())
    })
}

fn bytes(sql: &str) -> Column {
    let edges = [
        "''",
        "x'00'",
        "x'ff'",
        "x'610000'",
        "x'0000'",
        "REPEAT(x'00', 255)",
        "REPEAT(x'ff', 255)",
        "REPEAT('ab', 200)",
    ];
    Column::new(sql, &edges, |rng| {
        let length = rng.random_range(0..300);
        hex(&(0..length).map(|_| rng.random::<u8>() & rng.random::<u8>()).collect::<Vec<_>>())
    })
}

fn longest(sql: &str, length: usize) -> Column {
    let edges = [format!("REPEAT('x', {length})"), "''".to_owned()];
    Column::new(sql, &edges.each_ref().map(String::as_str), move |rng| {
        format!("REPEAT('y', {})", rng.random_range(0..length))
    })
}

fn enumeration(labels: &[&str], charset: &str) -> Column {
    let count = labels.len();
    let list = labels.iter().map(|label| quoted(label)).collect::<Vec<_>>().join(", ");
    let edges = ["1", "4", "'no such label'", "'a'"];
    Column::new(format!("ENUM({list}) CHARACTER SET {charset}"), &edges, move |rng| {
        rng.random_range(1..=count).to_string()
    })
}

fn set(labels: &[&str], charset: &str) -> Column {
    let all = (1_u64 << labels.len()) - 1;
    let list = labels.iter().map(|label| quoted(label)).collect::<Vec<_>>().join(", ");
    let edges = ["''".to_owned(), "1".to_owned(), all.to_string()];
    let sql = format!("SET({list}) CHARACTER SET {charset}");
    Column::new(sql, &edges.each_ref().map(String::as_str), move |rng| rng.random_range(0..=all).to_string())
}

fn many_labels(kind: &'static str, count: u32) -> Column {
    let list = (1..=count).map(|number| format!("'label{number}'")).collect::<Vec<_>>().join(", ");
    let edges = ["1".to_owned(), count.to_string(), "'label1'".to_owned(), format!("'label{count}'")];
    Column::new(format!("{kind}({list})"), &edges.each_ref().map(String::as_str), move |rng| {
        format!("'label{}'", rng.random_range(1..=count))
    })
}

fn geometry(sql: &str) -> Column {
    let (point, polygon) = ("ST_GeomFromText('POINT(1 -2)')", "ST_GeomFromText('POLYGON((0 0, 1 0, 1 1, 0 0))')");
    let edges = match sql {
        "POINT" => vec![point, "ST_SRID(POINT(3, 4), 4326)"],
        "POLYGON" => vec![polygon],
        _ => vec![
            point,
            polygon,
            "ST_GeomFromText('GEOMETRYCOLLECTION EMPTY')",
            "ST_GeomFromText('LINESTRING(0 0, 5 5)')",
        ],
    };
    let polygon = sql == "POLYGON";
    Column::new(sql, &edges, move |rng| {
        let mut side = || rng.random_range(1..1000);
        match polygon {
            true => format!("ST_GeomFromText('POLYGON((0 0, {} 0, 1 {}, 0 0))')", side(), side()),
            false => format!("POINT({}, {})", side(), side()),
        }
    })
}

fn json() -> Column {
    let edges = [
        "'null'",
        "'true'",
        "'false'",
        "'{}'",
        "'[]'",
        "'\"\"'",
        "'0'",
        "'-1'",
        "'65535'",
        "'65536'",
        "'-32769'",
        "'4294967295'",
        "'18446744073709551615'",
        "'-9223372036854775808'",
        "'1.0'",
        "'-0.0'",
        "'1e15'",
        "'1e100'",
        "'1.5e-20'",
        "'100000.0'",
        "'18446744073709551616'",
        "'\"\\\\u0000\\\\u001f\\\\b\\\\f\\\\n\\\\r\\\\t\\\\\"\\\\\\\\\\\\/é😀\\\\u007f\"'",
        "'{\"bb\": 1, \"a\": [1, {\"x\": null}], \"ccc\": {\"\": \"\"}, \"ü\": -70000}'",
        "CAST(CAST(1.50 AS DECIMAL(65,30)) AS JSON)",
        "CAST(CAST(-0.07 AS DECIMAL(5,2)) AS JSON)",
        "CAST(99999999999999999999 AS JSON)",
        "JSON_ARRAY(CAST('2026-11-21' AS DATE), CAST('-12:34:56.000789' AS TIME(6)), CAST('838:59:59' AS TIME))",
        "JSON_ARRAY(CAST('2026-11-21 01:02:03.5' AS DATETIME(6)), CAST('0000-00-00' AS DATE), TIMESTAMP'2020-02-02 02:02:02')",
        "JSON_OBJECT('bin', x'00ff10', 'long', CAST(REPEAT('ab', 100) AS BINARY), 'bit', b'101', 'year', CAST(2026 AS YEAR))",
        "JSON_ARRAY(CAST(REPEAT('x', 57) AS BINARY), CAST(REPEAT('x', 58) AS BINARY), CAST('' AS BINARY))",
        "JSON_ARRAY(ST_GeomFromText('POINT(1 2)'), CAST(1e0 AS FLOAT), 1e0, 0.1e0, 3, -3)",
        "JSON_OBJECT('s', REPEAT('long', 40), 't', REPEAT('x', 127), 'u', REPEAT('x', 128), 'v', REPEAT('x', 16384))",
        "JSON_ARRAY(REPEAT('x', 40000), REPEAT('y', 40000), 70000, -5, 5, CAST(4000000000 AS UNSIGNED), JSON_ARRAY(), NULL, TRUE)",
        "JSON_OBJECT('a', REPEAT('x', 70000), 'b', -70000, 'c', JSON_OBJECT('d', 1, 'e', FALSE))",
        "CONCAT(REPEAT('[', 99), REPEAT(']', 99))",
    ];
    Column::new("JSON", &edges, |rng| {
        let mut sql = "JSON_EXTRACT(JSON_ARRAY(".to_owned();
        document(rng, 4, &mut sql);
        sql + "), '$[0]')"
    })
}

/// An SQL expression for a JSON document of some depth.
fn document(rng: &mut StdRng, depth: u32, sql: &mut String) {
    let leaf = match rng.random_range(0..if depth == 0 { 11 } else { 15 }) {
        0 => "CAST('null' AS JSON)".to_owned(),
        1 => "CAST('true' AS JSON)".to_owned(),
        2 => (rng.random::<i64>() >> rng.random_range(0..64)).to_string(),
        3 => format!("CAST({} AS UNSIGNED)", rng.random::<u64>() >> rng.random_range(0..64)),
        4 => random_double(rng),
        5 => format!("CAST({}.{:03} AS DECIMAL(20, 3))", rng.random::<i32>(), rng.random_range(0..1000)),
        6 => format!(
            "CAST('{}-{}-{}' AS DATE)",
            rng.random_range(1000..9999),
            rng.random_range(1..=12),
            rng.random_range(1..=28)
        ),
        7 => format!("CAST('-{}:10:20.{:06}' AS TIME(6))", rng.random_range(0..800), rng.random_range(0..1_000_000)),
        8 => format!("CAST('2026-11-21 10:20:30.{:06}' AS DATETIME(6))", rng.random_range(0..1_000_000)),
        9 => {
            let length = rng.random_range(0..200);
            hex(&(0..length).map(|_| rng.random()).collect::<Vec<u8>>())
        }
        10 => quoted(
            &"sß\"\\\n€\u{1}😀"
                .chars()
                .cycle()
                .skip(rng.random_range(0..8))
                .take(rng.random_range(0..200))
                .collect::<String>(),
        ),
        kind => {
            let object = kind > 12;
            sql.push_str(if object { "JSON_OBJECT(" } else { "JSON_ARRAY(" });
            for index in 0..rng.random_range(0..6) {
                if index > 0 {
                    sql.push_str(", ");
                }
                if object {
                    let key = format!("{}{index}", "kä\"".repeat(rng.random_range(0..4)));
                    sql.push_str(&format!("{}, ", quoted(&key)));
                }
                document(rng, depth - 1, sql);
            }
            sql.push(')');
            return;
        }
    };
    sql.push_str(&leaf);
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("x'{digits}'")
}
