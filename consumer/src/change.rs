//! Decodes a record of the topic into the change that it carries, or into the reason why it carries none.
//!
//! Pure. Each record has one of these two results: a record that can't be decoded becomes a dead letter, never a panic
//! and never a gap.

use avro::Scratch;
use avro::writer_schema::Decoders;
use model::change::{Op, Source};
use model::escape;
use model::product::Product;
use model::time::Micros;

/// The number of characters that a reason shows of a key that is not an id.
const LONGEST_KEY: usize = 100;

/// A record as it was polled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Polled<'a> {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    /// The header [`model::change::SOURCE_HEADER`].
    pub(crate) source: Option<&'a [u8]>,
}

/// A change of one product.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Change<'a> {
    pub(crate) id: i64,
    pub(crate) op: Op,
    pub(crate) source_ts: Micros,
    /// `None` when the product was deleted.
    pub(crate) product: Option<Product<'a>>,
}

/// Reads a record.
///
/// # Errors
/// The reason, as text for a person, why the record is not a change in our format.
pub(crate) fn read<'a>(
    record: &Polled<'a>,
    decoders: &'a Decoders,
    scratch: &'a mut Scratch,
) -> Result<Change<'a>, String> {
    let header = record.source.ok_or("it has no header source")?;
    let source = Source::parse(header).map_err(|e| format!("its header source can't be read: {e}"))?;
    printable("the header's ts_us", Micros(source.ts_us))?;
    let id = key_id(record.key)?;
    let product = match (record.value, source.op) {
        (None, Op::Delete) => None,
        (None, op) => return Err(format!("it has no value, but its op is {}", op.letter())),
        (Some(_), Op::Delete) => return Err("its op is d, but it has a value".to_owned()),
        (Some(value), _) => Some(product(record, value, id, decoders, scratch)?),
    };
    Ok(Change { id, op: source.op, source_ts: Micros(source.ts_us), product })
}

fn product<'a>(
    record: &Polled<'_>,
    value: &'a [u8],
    key: i64,
    decoders: &'a Decoders,
    scratch: &'a mut Scratch,
) -> Result<Product<'a>, String> {
    let product = decoders.decode(value, key, (record.partition, record.offset), scratch)?;
    product.last_updated.map_or(Ok(()), |t| printable("last_updated", t))?;
    Ok(product)
}

/// Parses the key: the id in decimal without leading zeros, as its bytes decide the partition.
fn key_id(key: Option<&[u8]>) -> Result<i64, String> {
    let key = key.ok_or("it has no key")?;
    let text = std::str::from_utf8(key).map_err(|_| "its key is not UTF-8")?;
    let id: Option<i64> = text.parse().ok();
    id.filter(|id| itoa::Buffer::new().format(*id) == text)
        .ok_or_else(|| format!("its key \"{}\" is not a whole number", escape::cut(text, LONGEST_KEY)))
}

/// A time that JSON lines and PostgreSQL can hold: the years 1 to 9999.
fn printable(what: &str, time: Micros) -> Result<(), String> {
    const YEARS: std::ops::RangeInclusive<i64> = -62_135_596_800_000_000..=253_402_300_799_999_999;
    if YEARS.contains(&time.0) { Ok(()) } else { Err(format!("{what} is {time}, outside the years 1 to 9999")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use avro::Decoder;
    use model::product::{Price, SCHEMA};

    const HEADER: &[u8] = br#"{"op":"c","ts_us":1763697600000001,"pos":"a:1","row":0,"epoch":1}"#;
    const DELETE: &[u8] = br#"{"op":"d","ts_us":1763697600000001,"pos":"a:1","row":0,"epoch":1}"#;

    fn mug(id: i64) -> Product<'static> {
        Product { id, name: Some("mug"), category: None, price: Price::parse("1.20"), last_updated: Some(Micros(5)) }
    }

    fn value(product: &Product<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        avro::encode(7, product, &mut out);
        out
    }

    fn outcome(key: Option<&[u8]>, value: Option<&[u8]>, source: Option<&[u8]>) -> String {
        let mut decoders = Decoders::default();
        decoders.insert(7, Ok(Decoder::new(SCHEMA).expect("our schema")));
        decoders.insert(8, Err("the registry has no schema 8".to_owned()));
        let mut scratch = Scratch::default();
        let record = Polled { partition: 0, offset: 0, key, value, source };
        match read(&record, &decoders, &mut scratch) {
            Ok(change) => format!("{} {} {:?}", change.op.letter(), change.id, change.product.map(|p| p.name)),
            Err(reason) => reason,
        }
    }

    #[test]
    fn each_record_is_a_change_or_has_a_reason() {
        let good = value(&mug(5));
        let late = value(&Product { last_updated: Some(Micros(i64::MAX)), ..mug(5) });
        let mut unknown = good.clone();
        unknown[4] = 8;
        let (key, long) = (Some(b"5".as_slice()), [b'k'; 500]);
        for (key, value, header, want) in [
            (key, Some(good.as_slice()), Some(HEADER), "c 5 Some(Some(\"mug\"))"),
            (key, None, Some(DELETE), "d 5 None"),
            (key, None, Some(HEADER), "it has no value, but its op is c"),
            (key, Some(&good), Some(DELETE), "its op is d, but it has a value"),
            (key, Some(&good), None, "it has no header source"),
            (key, Some(&good), Some(b"x"), "its header source can't be read: expected value at line 1 column 1"),
            (None, Some(&good), Some(HEADER), "it has no key"),
            (
                Some(&long),
                Some(&good),
                Some(HEADER),
                &format!("its key \"{}… (400 more characters)\" is not a whole number", "k".repeat(100)),
            ),
            (Some(b"05"), Some(&good), Some(HEADER), "its key \"05\" is not a whole number"),
            (Some(b"\xff"), Some(&good), Some(HEADER), "its key is not UTF-8"),
            (Some(b"6"), Some(&good), Some(HEADER), "its key is 6, but its value has id 5"),
            (key, Some(b""), Some(HEADER), "the value is not a product: empty"),
            (
                key,
                Some(b"{}"),
                Some(HEADER),
                "the value is not a product: begins with byte 0x7b instead of 0x00 of Confluent's wire format",
            ),
            (key, Some(&good[..8]), Some(HEADER), "the value is not a product: a field of 3 bytes, but 0 are left"),
            (key, Some(&unknown), Some(HEADER), "the registry has no schema 8"),
            (
                key,
                Some(&late),
                Some(HEADER),
                "last_updated is 9223372036854775807 µs since 1970, outside the years 1 to 9999",
            ),
        ] {
            assert_eq!(outcome(key, value, header), want);
        }
    }
}
