//! Compares our values with the library's, and decodes values of other schemas.

use super::*;
use proptest::prelude::*;

type Owned = (i64, Option<String>, Option<String>, Option<i64>, Option<i64>);

fn any_product() -> impl Strategy<Value = Owned> {
    (
        any::<i64>(),
        any::<Option<String>>(),
        any::<Option<String>>(),
        proptest::option::of(prop_oneof![-300i64..300, -Price::MAX..=Price::MAX]),
        any::<Option<i64>>(),
    )
}

fn borrow(p: &Owned) -> Product<'_> {
    Product {
        id: p.0,
        name: p.1.as_deref(),
        category: p.2.as_deref(),
        price: p.3.and_then(Price::from_hundredths),
        last_updated: p.4.map(Micros),
    }
}

fn write(schema: &Schema, value: Value) -> Vec<u8> {
    let writer = apache_avro::writer::datum::GenericDatumWriter::builder(schema).build().expect("a schema");
    writer.write_value_to_vec(value).expect("a value of it")
}

fn by_the_library(p: &Product<'_>) -> Vec<u8> {
    let schema = Schema::parse_str(SCHEMA).expect("our schema");
    let some = |v: Option<Value>| match v {
        None => Value::Union(0, Box::new(Value::Null)),
        Some(v) => Value::Union(1, Box::new(v)),
    };
    let text = |t: Option<&str>| some(t.map(|t| Value::String(t.to_owned())));
    let price = p.price.map(|p| {
        let bytes = p.hundredths().to_be_bytes();
        Value::Decimal(apache_avro::Decimal::from(shortest(&bytes)))
    });
    let value = Value::Record(vec![
        ("id".into(), Value::Long(p.id)),
        ("name".into(), text(p.name)),
        ("category".into(), text(p.category)),
        ("price".into(), some(price)),
        ("last_updated".into(), some(p.last_updated.map(|t| Value::TimestampMicros(t.0)))),
    ]);
    write(&schema, value)
}

proptest! {
    #[test]
    fn the_encoder_writes_what_apache_avro_writes(owned in any_product()) {
        let product = borrow(&owned);
        let mut ours = Vec::new();
        encode_value(&product, &mut ours);
        prop_assert_eq!(&ours, &by_the_library(&product));
        prop_assert_eq!(decode_value(&ours), Ok(product));
        for cut in 0..ours.len() {
            prop_assert!(decode_value(&ours[..cut]).is_err());
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        drop(split(&bytes));
        drop(decode_value(&bytes));
    }
}

#[test]
fn another_writers_schema_is_resolved() {
    let writer = r#"{"type":"record","name":"Product","namespace":"shop","fields":[
        {"name":"id","type":"int"},{"name":"colour","type":"string"},{"name":"name","type":"string"}]}"#;
    let schema = Schema::parse_str(writer).expect("a schema");
    let value = Value::Record(vec![
        ("id".into(), Value::Int(5)),
        ("colour".into(), Value::String("red".into())),
        ("name".into(), Value::String("mug".into())),
    ]);
    let bytes = write(&schema, value);
    let mut scratch = Scratch::default();
    let decoder = Decoder::new(writer).expect("a decoder");
    let product = Product { id: 5, name: Some("mug"), category: None, price: None, last_updated: None };
    assert_eq!(decoder.decode(&bytes, &mut scratch), Ok(product));
    assert!(decoder.resolve.is_some() && Decoder::new(SCHEMA).expect("ours").resolve.is_none());
}

/// Our schema with one field more, or with another text in it.
fn evolved(from: &str, to: &str) -> String {
    let more = SCHEMA.replacen("\"fields\": [", "\"fields\": [{\"name\": \"colour\", \"type\": \"string\"},", 1);
    assert!(SCHEMA.contains(from) && more != SCHEMA);
    more.replace(from, to)
}

#[test]
fn prices_of_any_length_are_resolved() {
    let writer = evolved("", "");
    let decoder = Decoder::new(&writer).expect("a decoder");
    let schema = Schema::parse_str(&writer).expect("a schema");
    for hundredths in [0, 1, -1, 199, -12_345, 1_234_567, Price::MAX, -Price::MAX] {
        let price = Decimal::from(shortest(&hundredths.to_be_bytes()));
        let value = Value::Record(vec![
            ("colour".into(), Value::String("red".into())),
            ("id".into(), Value::Long(5)),
            ("name".into(), Value::Union(0, Box::new(Value::Null))),
            ("category".into(), Value::Union(0, Box::new(Value::Null))),
            ("price".into(), Value::Union(1, Box::new(Value::Decimal(price)))),
            ("last_updated".into(), Value::Union(1, Box::new(Value::TimestampMicros(7)))),
        ]);
        let (bytes, mut scratch) = (write(&schema, value), Scratch::default());
        let product = decoder.decode(&bytes, &mut scratch).expect("a product");
        assert_eq!((product.price, product.last_updated), (Price::from_hundredths(hundredths), Some(Micros(7))));
    }
}

#[test]
fn other_units_are_refused() {
    for (from, to, want) in [
        ("\"scale\": 2", "\"scale\": 4", "price must be a decimal of scale 2"),
        ("\"logicalType\": \"decimal\", ", "", "price must be a decimal of scale 2"),
        ("timestamp-micros", "timestamp-millis", "last_updated must be timestamp-micros"),
        ("timestamp-micros", "local-timestamp-micros", "last_updated must be timestamp-micros"),
        (", \"logicalType\": \"timestamp-micros\"", "", "last_updated must be timestamp-micros"),
    ] {
        let error = Decoder::new(&evolved(from, to)).expect_err(to);
        assert!(error.to_string().contains(want), "{error}");
    }
}

/// The shortest two's complement of a big-endian integer.
fn shortest(bytes: &[u8; 8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::decimal(i64::from_be_bytes(*bytes), &mut out);
    out.split_off(1)
}
