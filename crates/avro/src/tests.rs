//! Compares the values that we write with the library's.

use apache_avro::Schema;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use proptest::prelude::*;

use super::*;

const NUMBER_TEXT_AMOUNT: &str = r#"{"type":"record","name":"T","fields":[{"name":"n","type":"long"},
    {"name":"t","type":"string"},{"name":"d","type":{"type":"bytes","logicalType":"decimal","precision":19,"scale":2}}]}"#;

fn by_the_library(number: i64, text: &str, amount: i64) -> Vec<u8> {
    let schema = Schema::parse_str(NUMBER_TEXT_AMOUNT).expect("a schema");
    let writer = GenericDatumWriter::builder(&schema).build().expect("a schema");
    // The library writes the bytes that it is given: the shortest two's complement.
    let bytes = amount.to_be_bytes();
    let sign = if amount < 0 { 0xff } else { 0 };
    let redundant = bytes.windows(2).take_while(|pair| pair[0] == sign && (pair[1] ^ sign) & 0x80 == 0).count();
    let value = Value::Record(vec![
        ("n".into(), Value::Long(number)),
        ("t".into(), Value::String(text.to_owned())),
        ("d".into(), Value::Decimal(apache_avro::Decimal::from(&bytes[redundant..]))),
    ]);
    writer.write_value_to_vec(value).expect("a value of it")
}

proptest! {
    #[test]
    fn the_encoder_writes_what_apache_avro_writes(
        number in any::<i64>(),
        text in any::<String>(),
        amount in prop_oneof![-300_i64..300, any::<i64>()],
    ) {
        let mut ours = Vec::new();
        encode::long(number, &mut ours);
        encode::bytes(text.as_bytes(), &mut ours);
        encode::decimal(amount, &mut ours);
        prop_assert_eq!(ours, by_the_library(number, &text, amount));
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        drop(split(&bytes));
    }
}
