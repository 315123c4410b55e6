//! Writers of the topic and of schemas.

use anyhow::{Context, Result, ensure};
use avro::registry::Registry;
use rand::Rng;
use rand::seq::SliceRandom;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use runtime::config::{PINNED_SCHEMA, Program, RegistrySettings};
use schema_registry_converter::async_impl::schema_registry::{SrSettings, post_schema};
use schema_registry_converter::schema_registry_common::{SchemaType, SuppliedSchema};
use testbed::Product;

use super::super::fault::Fault;
use super::letters::{SOON, withstands};
use crate::harness::Harness;

pub(in crate::faults) const FAULTS: &[Fault] = &[
    Fault {
        name: "poison-record",
        expects: "garbage, an unknown schema and a value without its header, from a foreign producer, become dead letters \
                  with their reasons",
        weight: 2,
        quick: true,
        run: poison_record,
    },
    Fault {
        name: "poison-schema",
        expects: "schemas of somebody else in the registry that are recursive, multiply, or are huge, and small records with \
                  their ids: dead letters",
        weight: 2,
        quick: false,
        run: poison_schema,
    },
    Fault {
        name: "poison-key",
        expects: "records with keys of 600 kB that can't be read: dead letters, cut, which say how much is missing",
        weight: 2,
        quick: false,
        run: poison_key,
    },
    Fault {
        name: "poison-value",
        expects: "damaged values with our schema's id, lengths and numbers beyond any bound, and headers that are no source: \
                  dead letters",
        weight: 2,
        quick: false,
        run: poison_value,
    },
];

const SOURCE: &[u8] = br#"{"op":"u","ts_us":1763697600000001,"pos":"a:1","row":0,"epoch":1}"#;

/// A record that is not ours, and the reason in its dead letter.
#[derive(Clone)]
struct Poison {
    key: Vec<u8>,
    value: Option<Vec<u8>>,
    header: Option<Vec<u8>>,
    reason: String,
}

impl Poison {
    /// With a header like ours.
    fn new(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>, reason: impl Into<String>) -> Self {
        Self { key: key.into(), value: Some(value.into()), header: Some(SOURCE.to_vec()), reason: reason.into() }
    }
}

/// Writes the records in random order; returns their reasons.
fn write(harness: &mut Harness, mut records: Vec<Poison>) -> Result<Vec<String>> {
    records.shuffle(&mut harness.rng);
    let settings = harness.bed.kafka();
    let producer: BaseProducer = kafka::client_config(&settings).set("message.max.bytes", "1040000").create()?;
    for poison in &records {
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&settings.topic).key(&poison.key);
        record.payload = poison.value.as_deref();
        if let Some(header) = &poison.header {
            record = record.headers(OwnedHeaders::new().insert(Header { key: "source", value: Some(header) }));
        }
        producer.send(record).map_err(|(e, _)| e)?;
    }
    producer.flush(SOON)?;
    Ok(records.into_iter().map(|poison| poison.reason).collect())
}

fn poison_record(harness: &mut Harness) -> Result<()> {
    let garbage = "the value can't be decoded: begins with byte 0xde";
    let bare = Poison::new("-7", [0, 0, 0, 0, 1, 13, 0, 0, 0, 0], "it has no header source");
    let records = vec![
        Poison::new("-5", *b"\xde\xad\xbe\xef", garbage),
        Poison::new("-6", [0, 0x7f, 0, 0, 1, 11, 0, 0, 0, 0], "the registry has no schema 2130706433"),
        Poison { header: None, ..bare },
    ];
    withstands(harness, |harness| write(harness, records))?;
    Ok(())
}

fn poison_schema(harness: &mut Harness) -> Result<()> {
    const NO_COLUMN: &str = "which no column has";
    // A different schema each time gets a different id, which no consumer knows.
    let name: u64 = harness.rng.random();
    let list = r#"{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]}]}"#;
    let array = r#"{"type":"record","name":"A","fields":[{"name":"of","type":{"type":"array","items":"A"}}]}"#;
    let doubling = (1..=18).fold(r#"{"type":"record","name":"T0","fields":[]}"#.to_owned(), |of, n| {
        let fields = format!(r#"[{{"name":"a","type":{of}}},{{"name":"b","type":"T{}"}}]"#, n - 1);
        format!(r#"{{"type":"record","name":"T{n}","fields":{fields}}}"#)
    });
    let long = format!(r#"{{"type":"string","text":"{}"}}"#, "d".repeat(300_000));
    // Schemas that our subject's compatibility rule accepts: ours with another field that has a default.
    let evolved = |n: usize, kind: &str| {
        let field = format!(r#""fields": [{{"name":"x{name}_{n}","type":["null",{kind}],"default":null}},"#);
        PINNED_SCHEMA.replacen("\"fields\": [", &field, 1)
    };
    let (ours, guests) = (format!("{}-value", harness.bed.name), format!("guest-{name}-value"));
    withstands(harness, |harness| {
        let registry = SrSettings::new(harness.servers.registry.url());
        let mut records = Vec::new();
        for (subject, schema, tail, reason) in [
            // 2 kB that decode to a thousand levels, which could overflow a stack.
            (&ours, evolved(0, list), vec![2; 2_000], NO_COLUMN),
            (&ours, evolved(1, array), vec![2; 2_000], NO_COLUMN),
            (&ours, evolved(2, &doubling), vec![2], NO_COLUMN),
            (&ours, evolved(3, &long), vec![2, 0], "limit is 262144"),
            (&guests, list.replace('L', &format!("L{name}")), vec![2; 2_000], "is one of another subject"),
        ] {
            let schema = SuppliedSchema::new(None, SchemaType::Avro, schema);
            let schema = harness.block_on(post_schema(&registry, subject.clone(), schema))?;
            let value = [&[0][..], &schema.id.to_be_bytes(), &tail].concat();
            records.push(Poison::new(key(records.len()), value, reason));
        }
        write(harness, records)
    })?;
    Ok(())
}

/// The key of the foreign record number `n`.
fn key(n: usize) -> String {
    format!("-{}", 10 + n)
}

/// A value with this schema id that begins with the id of record number `n`, below 54.
fn value(schema: u32, n: usize, tail: &[u8]) -> Vec<u8> {
    let id = 2 * (10 + n as u8) - 1;
    [&[0][..], &schema.to_be_bytes(), &[id], tail].concat()
}

fn poison_key(harness: &mut Harness) -> Result<()> {
    const LARGE: usize = 600_000;
    let records = vec![
        Poison::new(vec![b'k'; LARGE], vec![0xff; 300_000], "is not a whole number"),
        Poison::new(vec![0xff; LARGE], vec![0; 300_000], "its key is not UTF-8"),
        Poison { value: None, ..Poison::new(vec![b'1'; LARGE], [], "is not a whole number") },
    ];
    let letters = withstands(harness, |harness| write(harness, records))?;
    for letter in letters {
        let missing = letter.origin.cut.get("key").copied().unwrap_or_default();
        let size: usize = letter.sizes.iter().sum();
        ensure!(missing > 0 && size < LARGE + 400_000, "{missing} bytes of its key are cut, and {size} are left");
        ensure!(letter.sizes[0] + missing == LARGE, "{missing} bytes are cut, and {} are left", letter.sizes[0]);
    }
    Ok(())
}

fn poison_value(harness: &mut Harness) -> Result<()> {
    let registry = RegistrySettings::from(&harness.bed.settings(Program::CdcProducer))?;
    let schema = harness
        .block_on(async { Registry::new(registry)?.register(PINNED_SCHEMA).await })
        .context("our schema's id")?;
    let mut records: Vec<Poison> = Vec::new();
    for (tail, reason) in damaged() {
        let n = records.len();
        records.push(Poison::new(key(n), value(schema, n, &tail), reason));
    }
    for (header, reason) in headers() {
        let n = records.len();
        let product = Product { id: -10 - n as i64, name: Some("x"), category: None, price: None, last_updated: None };
        let mut value = Vec::new();
        product.encode(schema, &mut value);
        records.push(Poison { header: Some(header), ..Poison::new(key(n), value, reason) });
    }
    withstands(harness, |harness| write(harness, records))?;
    Ok(())
}

/// The bytes after an id, and the error in them.
fn damaged() -> Vec<(Vec<u8>, &'static str)> {
    /// The smallest and the largest number as Avro writes them.
    const SMALLEST: [u8; 10] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    const LARGEST: [u8; 10] = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    vec![
        ([&[2][..], &LARGEST].concat(), "a field of 9223372036854775807 bytes, but 0 are left"),
        ([&[2][..], &SMALLEST].concat(), "a field of -9223372036854775808 bytes"),
        ([&[0, 0, 2][..], &LARGEST, &[0x77; 9]].concat(), "a field of 9223372036854775807 bytes, but 9 are left"),
        (vec![2, 1], "a field of -1 bytes"),
        (vec![0x0e], "branch 7 of a union of two"),
        (LARGEST.to_vec(), "branch 9223372036854775807 of a union of two"),
        (vec![0xff; 400_000], "an integer ends too early or is too long"),
        (Vec::new(), "an integer ends too early or is too long"),
        (vec![2, 4, 0xc3, 0x28, 0, 0, 0], "text is not UTF-8"),
        (vec![0, 0, 0, 0, 9, 9], "2 bytes are left over"),
        ([&[0, 0, 2, 0xc0, 0x9a, 0x0c][..], &[0x77; 100_000], &[0]].concat(), "price does not fit decimal(10,2)"),
        ([&[0, 0, 0, 2][..], &LARGEST].concat(), "last_updated is 9223372036854775807"),
    ]
}

/// Headers of an intact value, and the error in them.
fn headers() -> Vec<(Vec<u8>, &'static str)> {
    const UNREADABLE: &str = "its header source can't be read";
    let with = |ts_us: &str, row: &str, epoch: &str| {
        format!(r#"{{"op":"u","ts_us":{ts_us},"pos":"a:1","row":{row},"epoch":{epoch}}}"#).into_bytes()
    };
    let nines = "9".repeat(400);
    let deep = format!(r#"{{"x":{}"#, "[".repeat(300_000)).into_bytes();
    vec![
        (with("1e400", "0", "1"), UNREADABLE),
        (with(&nines, "0", "1"), UNREADABLE),
        (with("1", "-1", "1"), UNREADABLE),
        (with("1", "0", &nines), UNREADABLE),
        (with("9223372036854775807", "0", "1"), "the header's ts_us is"),
        (deep, UNREADABLE),
        (Vec::new(), UNREADABLE),
        (vec![0xff; 300_000], UNREADABLE),
        (br#"{"op":"x","ts_us":1,"pos":"a:1","row":0,"epoch":1}"#.to_vec(), UNREADABLE),
        (br#"{"op":"d","ts_us":1,"pos":"a:1","row":0,"epoch":1}"#.to_vec(), "its op is d, but it has a value"),
    ]
}
