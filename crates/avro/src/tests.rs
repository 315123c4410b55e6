//! Compares our values with the library's.

use apache_avro::Schema;
use apache_avro::types::Value;
use model::product::SCHEMA;

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
/// The shortest two's complement of a big-endian integer.
fn shortest(bytes: &[u8; 8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::decimal(i64::from_be_bytes(*bytes), &mut out);
    out.split_off(1)
}
