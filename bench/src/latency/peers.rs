//! Debezium, with and without transactions, to a reader of its topic.

use anyhow::Result;
use rdkafka::message::{BorrowedMessage, Message};
use serde::Deserialize;

use super::measure::{Latency, at_reader, prepare};
use crate::backlog::options;
use crate::debezium::{Debezium, Format, Options};
use crate::lab::Lab;
use crate::pace::{Pace, Paced};
use crate::topic;

/// Debezium in a standalone Connect.
///
/// # Errors
/// When Debezium fails, or a change does not arrive exactly once.
pub(super) fn at_least_once(lab: &mut Lab, measured: u64) -> Result<(Vec<Paced>, Vec<Latency>)> {
    let pace = prepare(lab)?;
    let options = fresh(lab, "debezium_latency")?;
    Debezium::take_position(&options)?;
    let debezium = Debezium::start(&options)?;
    measure(lab, measured, pace, debezium)
}

/// Debezium in a distributed Connect that commits Kafka transactions.
///
/// # Errors
/// As [`at_least_once`].
pub(super) fn exactly_once(lab: &mut Lab, measured: u64) -> Result<(Vec<Paced>, Vec<Latency>)> {
    let pace = prepare(lab)?;
    let options = fresh(lab, "debezium_exactly_once")?;
    let debezium = Debezium::start_exactly_once(&options)?;
    measure(lab, measured, pace, debezium)
}

/// The options of a first start, with an empty topic.
fn fresh(lab: &mut Lab, what: &str) -> Result<Options> {
    let name = lab.fresh_name(what);
    let mut options = options(lab, lab.stack.dir().join("runs").join(&name), Format::Json);
    options.topic_prefix = name;
    lab.runtime.block_on(topic::make_anew(&topic::settings(&lab.kafka(), &options.topic())?))?;
    Ok(options)
}

fn measure(lab: &Lab, measured: u64, pace: Pace, mut debezium: Debezium) -> Result<(Vec<Paced>, Vec<Latency>)> {
    let topic = topic::settings(&lab.kafka(), &debezium.topic())?;
    let results = at_reader(lab, measured, pace, &topic, &mut || debezium.check(), change)?;
    debezium.stop()?;
    Ok(results)
}

/// The id and the commit time of a record of Debezium's.
fn change(message: &BorrowedMessage<'_>) -> Result<(u64, i64)> {
    let Envelope { after, source } = serde_json::from_slice(message.payload().unwrap_or_default())?;
    Ok((after.id, source.ts_us))
}

/// A change in Debezium's format.
#[derive(Deserialize)]
struct Envelope {
    after: After,
    source: Source,
}

#[derive(Deserialize)]
struct After {
    id: u64,
}

#[derive(Deserialize)]
struct Source {
    ts_us: i64,
}
