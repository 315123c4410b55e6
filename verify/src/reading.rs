//! Reads a record of the topic as a consumer does: the change in it, and its expected line.

use std::collections::HashSet;

use avro::Decoder;
use avro::writer_schema::{Decoders, WriterSchemas};
use model::change::{Op, SOURCE_HEADER, Source};
use model::error::{Error, Result};
use model::product::{Price, Product};
use model::row::Datum;
use model::time::Micros;
use rdkafka::Message as _;
use rdkafka::message::BorrowedMessage;
use rules::log_line::{self, Origin};
use rules::product::Capitals;
use rules::transform::Rules;
use runtime::config::KafkaSettings;

use crate::span::Bounds;

/// Reads records; looks each schema up once. Use it on a blocking thread.
pub(crate) struct Reader {
    schemas: WriterSchemas<Decoder>,
    /// The places of the records that a consumer could not read.
    dead_letters: HashSet<(i32, i64)>,
}

/// The contents of a record.
pub(crate) struct Change<'a> {
    pub(crate) id: i64,
    pub(crate) source: Source<'a>,
    /// `None` when the product was deleted.
    pub(crate) product: Option<Product<'a>>,
}

impl Reader {
    pub(crate) fn new(schemas: WriterSchemas<Decoder>) -> Self {
        Self { schemas, dead_letters: HashSet::new() }
    }

    /// Loads the places of records that consumers could not read. The consumers may have known that a record's schema
    /// id was foreign from a list of ids that is lost since; such a record is no change, although it can be read now.
    ///
    /// # Errors
    /// As [`DeadLetter::read`], and when Kafka can't be reached.
    pub(crate) fn look_at_dead_letters(&mut self, settings: &KafkaSettings) -> Result<()> {
        let topic = format!("{}.dlq", settings.topic);
        if Bounds::of(settings, &topic)?.is_none() {
            return Ok(());
        }
        kafka::scan(settings, &topic, &mut |message| {
            let letter = DeadLetter::read(message)?;
            if letter.topic == settings.topic && letter.sink.is_empty() {
                self.dead_letters.insert((letter.partition, letter.offset));
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Reads the change, or the reason why the record carries none.
    ///
    /// # Errors
    /// As [`WriterSchemas::look_up`]: only a schema id that none of our programs wrote is the record's fault.
    pub(crate) fn read<'a>(&'a mut self, message: &'a BorrowedMessage<'_>) -> Result<Result<Change<'a>, String>> {
        let (partition, offset) = (message.partition(), message.offset());
        self.schemas.look_up(message.payload(), partition, offset)?;
        let is_guess =
            |value| self.schemas.decoders().find(value, partition, offset).is_ok_and(|found| found.doubt.is_some());
        if self.dead_letters.contains(&(partition, offset)) && message.payload().is_some_and(is_guess) {
            return Ok(Err("its schema id is unknown, and it is a dead letter".to_owned()));
        }
        Ok(change(message, self.schemas.decoders()))
    }
}

fn change<'a>(message: &'a BorrowedMessage<'_>, decoders: &'a Decoders<Decoder>) -> Result<Change<'a>, String> {
    let header = kafka::header(message, SOURCE_HEADER).ok_or("it has no header source")?;
    let source = Source::parse(header).map_err(|e| format!("its header source can't be read: {e}"))?;
    printable("ts_us", Micros(source.ts_us))?;
    let key = std::str::from_utf8(message.key().ok_or("it has no key")?).map_err(|_| "its key is not UTF-8")?;
    let id: i64 = key.parse().map_err(|_| format!("its key {key:?} is not a whole number"))?;
    if id.to_string() != key {
        return Err(format!("its key {key:?} is not the plain form of {id}"));
    }
    let product = match (message.payload(), source.op) {
        (None, Op::Delete) => None,
        (None, op) => return Err(format!("it has no value, but its op is {}", op.letter())),
        (Some(_), Op::Delete) => return Err("its op is d, but it has a value".to_owned()),
        (Some(value), _) => Some(product(decoders, value, id, (message.partition(), message.offset()))?),
    };
    if let Some(product) = &product {
        product.last_updated.map_or(Ok(()), |t| printable("last_updated", t))?;
    }
    Ok(Change { id, source, product })
}

fn product<'a>(
    decoders: &'a Decoders<Decoder>,
    value: &'a [u8],
    key: i64,
    (partition, offset): (i32, i64),
) -> Result<Product<'a>, String> {
    let found = decoders.find(value, partition, offset)?;
    let refused = |why: String| found.doubt.map_or(why, str::to_owned);
    let mut row = Vec::new();
    found.decoder.decode(found.body, &mut row).map_err(|e| refused(e.to_string()))?;
    let fields = &found.decoder.schema().fields;
    let find =
        |name: &str| fields.iter().position(|field| field.column == name).map_or(Datum::Null, |place| row[place]);
    let text = |name| if let Datum::Text(text) = find(name) { Some(text) } else { None };
    let id = if let Datum::Int(id) = find("id") { id } else { return Err(refused("it has no id".to_owned())) };
    if id != key {
        return Err(refused(format!("its key is {key}, but its value has id {id}")));
    }
    let price =
        if let Datum::Decimal { unscaled, .. } = find("price") { Price::from_hundredths(unscaled) } else { None };
    let last_updated = if let Datum::Timestamp(time) = find("last_updated") { Some(time) } else { None };
    Ok(Product { id, name: text("name"), category: text("category"), price, last_updated })
}

/// A time that a line can hold: the years 1 to 9999.
fn printable(what: &str, time: Micros) -> Result<(), String> {
    let years = -62_135_596_800_000_000..=253_402_300_799_999_999;
    if years.contains(&time.0) { Ok(()) } else { Err(format!("{what} is {time}, outside the years 1 to 9999")) }
}

impl Change<'_> {
    /// Writes the record's expected line to `out`; `false` when a rule filters the record out.
    pub(crate) fn line(&self, rules: &Rules, partition: i32, offset: i64, out: &mut Vec<u8>) -> bool {
        let origin = Origin { op: self.source.op, partition, offset, source_ts: Micros(self.source.ts_us) };
        match &self.product {
            None => log_line::write_delete(self.id, origin, out),
            Some(product) => match rules.apply(product, &mut Capitals::default()) {
                Some(transformed) => log_line::write(&transformed, origin, out),
                None => return false,
            },
        }
        true
    }
}

/// The origin of a dead letter: its header `origin`.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct DeadLetter {
    pub(crate) topic: String,
    /// The partition of the record; a row that the producer parked has none.
    #[serde(default = "nowhere")]
    pub(crate) partition: i32,
    #[serde(default = "nowhere")]
    pub(crate) offset: i64,
    /// The table of a row that the producer parked.
    #[serde(default)]
    table: String,
    /// The header `source` of the record, or of the row's missing record.
    #[serde(default)]
    header: String,
    /// The reason for parking.
    #[serde(default)]
    pub(crate) reason: String,
    /// The sink that does not store the record; empty when the record can't be decoded.
    #[serde(default)]
    pub(crate) sink: String,
    /// The product, if a sink does not store the record.
    #[serde(default)]
    pub(crate) key: i64,
}

fn nowhere<T: From<i32>>() -> T {
    T::from(-1)
}

impl DeadLetter {
    /// The place in the source of a row that the producer parked; `None` for a record's dead letter.
    ///
    /// # Errors
    /// Definite when its header has another format.
    pub(crate) fn of_row<'a>(&'a self, message: &BorrowedMessage<'_>) -> Result<Option<(i128, Source<'a>)>> {
        if self.offset >= 0 || self.table.is_empty() {
            return Ok(None);
        }
        let key = message.key().and_then(|key| std::str::from_utf8(key).ok()).and_then(|key| key.parse().ok());
        let source = Source::parse(self.header.as_bytes()).ok();
        let place = format!("{} offset {}", message.topic(), message.offset());
        key.zip(source).map(Some).ok_or_else(|| {
            Error::definite(format!("the dead letter at {place}: its row can't be told, or its place in the source"))
        })
    }

    /// Reads the header.
    ///
    /// # Errors
    /// Definite when it has another format.
    pub(crate) fn read(message: &BorrowedMessage<'_>) -> Result<Self> {
        let wrong = |reason: &str| {
            let place = format!("{} partition {} offset {}", message.topic(), message.partition(), message.offset());
            Error::definite(format!("the dead letter at {place}: {reason}"))
        };
        let header = kafka::header(message, "origin").ok_or_else(|| wrong("it has no header origin"))?;
        serde_json::from_slice(header).map_err(|e| wrong(&format!("its header origin can't be read: {e}")))
    }
}

/// A product as text for a person.
pub(crate) fn describe(product: &Product<'_>) -> String {
    let text = |t: Option<&str>| t.map_or_else(|| "null".to_owned(), |t| format!("{t:?}"));
    let shown = |t: Option<String>| t.unwrap_or_else(|| "null".to_owned());
    format!(
        "name {}, category {}, price {}, last_updated {}",
        text(product.name),
        text(product.category),
        shown(product.price.map(|p| p.to_string())),
        shown(product.last_updated.map(|t| t.to_string())),
    )
}
