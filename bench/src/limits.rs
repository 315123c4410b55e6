//! The two limits of the producer, each measured alone on the same machine: our reader without Kafka, and the Kafka
//! client with the same records in the same transactions and no other work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cdc_producer::endpoint::Endpoint;
use cdc_producer::history::Continuity;
use cdc_producer::known::Known;
use cdc_producer::locate;
use cdc_producer::plan::Encoder;
use cdc_producer::reader::{CapturedTable, Reader};
use cdc_producer::server::Server;
use cdc_producer::status::Status;
use cdc_producer::stream::{EventStream, StreamOptions};
use cdc_producer::sweep::Sweep;
use kafka::{Record, TopicSpec, TransactionalProducer};
use model::change::SOURCE_HEADER;
use model::position::{Progress, TableProgress};
use model::time::Micros;
use mysql::table::{Contract, SourceTable};
use rdkafka::message::Message;
use runtime::config::{KafkaSettings, MySqlSettings, PINNED_SCHEMA, Program, RegistrySettings, Secret, Settings};
use runtime::telemetry::{Health, Metrics};
use testbed::servers::{CDC, DATABASE};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::backlog::Backlog;
use crate::lab::Lab;
use crate::topic;

const SERVER_ID: u32 = 4_242;

/// The producer's settings for the server on this port.
pub(crate) fn connection(port: u16) -> Result<MySqlSettings> {
    let mut mysql = MySqlSettings::from(&Settings::defaults(Program::CdcProducer))?;
    mysql.host = "127.0.0.1".to_owned();
    mysql.port = port;
    mysql.user = CDC.0.to_owned();
    mysql.password = Some(Secret::new(CDC.1));
    mysql.database = DATABASE.to_owned();
    Ok(mysql)
}

/// The rate in records a second at which our reader decodes the binlog and encodes Avro, without sending.
///
/// # Errors
/// MySQL's, or when the reader stops early.
pub fn reader(lab: &Lab, backlog: &Backlog) -> Result<f64> {
    let defaults = Settings::defaults(Program::CdcProducer);
    let mysql = connection(lab.stack.mysql.port)?;
    let from = Micros::parse(backlog.from.trim_end_matches('Z')).context("the backlog's time")?;
    lab.runtime.block_on(async {
        let endpoint = Endpoint::new(mysql.clone());
        let mut conn = endpoint.begin().await?;
        let server = Server::ask(&mut conn).await?;
        let position = locate::position_at(&endpoint, &server, from).await?;
        let contract = Contract::new(PINNED_SCHEMA, false)?;
        let table = SourceTable::inspect(&mut conn, DATABASE, &mysql.table, &contract).await?;
        let options = StreamOptions { server_id: SERVER_ID, heartbeat: Duration::from_secs(5), max_event: 1 << 30 };
        let stream = EventStream::open(&endpoint, &position, options).await?;
        let (batch_sender, mut batches) = mpsc::channel(32);
        let (recycled, recycled_receiver) = mpsc::unbounded_channel();
        let progress = Progress::new(1, position);
        let known = Known::now(&mut conn, &table, true, true).await?;
        let clients = (KafkaSettings::from(&defaults)?, RegistrySettings::from(&defaults)?);
        let table = CapturedTable {
            name: table.full_name(),
            encoder: Encoder::new(table.clone(), 1),
            letters: None,
            sweep: Sweep::new(clients, table, watch::channel(None).1, 0),
            known,
        };
        let reader = Reader {
            source: table.name.clone(),
            tables: vec![table],
            discovers: None,
            unknown: TableProgress::default(),
            progress,
            stream,
            continuity: Continuity::new(server.purged, None),
            endpoint: Arc::new(endpoint),
            conn,
            chunk_rows: 1,
            chunk_bytes: 1,
            batches: batch_sender,
            recycled: recycled_receiver,
            position_every: Duration::from_secs(1),
            status: Status::new(&Metrics::default(), Health::new(options.heartbeat), options.heartbeat),
        };
        let stop = CancellationToken::new();
        let begun = Instant::now();
        let reading = tokio::spawn({
            let stop = stop.clone();
            async move { reader.run(&stop).await }
        });
        let mut records = 0;
        while records < backlog.changes {
            let mut batch = batches.recv().await.context("the reader stopped early")?;
            records += batch.len() as u64;
            batch.clear();
            drop(recycled.send(batch));
        }
        let rate = records as f64 / begun.elapsed().as_secs_f64();
        stop.cancel();
        // The reader was asked to stop.
        drop(reading.await);
        ensure!(records == backlog.changes, "{records} records of {} changes", backlog.changes);
        Ok(rate)
    })
}

/// The rate in records a second at which the Kafka client alone writes the records of the topic `from`, in transactions
/// like the producer's.
///
/// # Errors
/// Kafka's.
pub fn client(lab: &mut Lab, from: &str) -> Result<f64> {
    let mut bytes = Vec::new();
    let mut records = Vec::new();
    let source = topic::settings(&lab.kafka(), from)?;
    kafka::scan(&source, from, &mut |message| {
        let start = bytes.len();
        bytes.extend_from_slice(message.key().unwrap_or_default());
        let key = bytes.len();
        bytes.extend_from_slice(message.payload().unwrap_or_default());
        let value = bytes.len();
        bytes.extend_from_slice(kafka::header(message, SOURCE_HEADER).unwrap_or_default());
        records.push((start, key, value, bytes.len(), message.payload().is_some()));
        Ok(())
    })?;
    let name = lab.fresh_name("client");
    let settings = topic::settings(&lab.kafka(), &name)?;
    let progress = TopicSpec::compacted(format!("{name}.checkpoint"), 1);
    lab.runtime.block_on(kafka::ensure_topics(&settings, &[TopicSpec::products(&settings), progress.clone()]))?;
    let producer = TransactionalProducer::new(&settings, &name)?;
    let most: usize = Settings::defaults(Program::CdcProducer).number("producer.batch_rows")?;
    let begun = Instant::now();
    for part in records.chunks(most) {
        producer.begin()?;
        for (start, key, value, end, has_value) in part.iter().copied() {
            producer.send(&Record {
                topic: &name,
                partition: None,
                key: &bytes[start..key],
                value: has_value.then(|| &bytes[key..value]),
                header: Some((SOURCE_HEADER, &bytes[value..end])),
            })?;
        }
        let position =
            Record { topic: &progress.name, partition: Some(0), key: b"p", value: Some(b"{}"), header: None };
        producer.send(&position)?;
        producer.commit()?;
    }
    let rate = records.len() as f64 / begun.elapsed().as_secs_f64();
    // The last markers may be written after the answer to the commit.
    let written = topic::wait_for(&settings, records.len() as u64, || Ok(()))?.records;
    ensure!(written == records.len() as u64, "the client alone wrote {written} of {} records", records.len());
    Ok(rate)
}
