//! Waits until everything up to a position of the source has arrived: first in the topic, then in the logs.

use std::time::{Duration, Instant};

use kafka::Logging;
use model::error::{Code, Error, Result};
use model::position::Progress;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use runtime::config::KafkaSettings;

use crate::cut::BinlogEnd;
use crate::status::Status;
use crate::topic::{Consumed, Topic};

const PAUSE: Duration = Duration::from_millis(300);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// How long to wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) until: Instant,
    /// A person asked to wait (`--wait`). Otherwise verify waits only for changes on their way, not for a program that
    /// is not running.
    pub(crate) asked: bool,
}

/// What has not arrived.
#[derive(Debug)]
pub(crate) struct Missing {
    pub(crate) text: String,
    /// Whether some of it has arrived, so that the rest may be on its way.
    pub(crate) has_begun: bool,
}

/// Waits until the producer has published everything up to `end`. Blocks. At the time limit, the text names the missing
/// changes.
///
/// # Errors
/// Transient when Kafka can't be reached; definite when the progress record has another format.
pub(crate) fn of_producer(
    settings: &KafkaSettings,
    source: &str,
    end: &BinlogEnd,
    patience: Patience,
) -> Result<Option<Missing>> {
    let topic = settings.checkpoint_topic.clone();
    until(patience, || {
        let progress = match kafka::last_record(settings, &topic, 0, source.as_bytes())? {
            None => None,
            Some(bytes) => Some(serde_json::from_slice::<Progress>(&bytes).map_err(|e| {
                Error::new(Code::ProgressUnreadable, format!("the progress of {source} in {topic} can't be read"))
                    .with_source(e)
            })?),
        };
        if let (Some(progress), Some(table)) = (&progress, &settings.table)
            && !progress.tables.contains_key(table)
        {
            return Ok(Some(Missing { text: format!("the producer has not taken {table} yet"), has_begun: true }));
        }
        let progress = progress.map(|progress| progress.of_table(settings.table.as_deref()));
        Ok(end.missing(progress.as_ref()).map(|text| Missing { text, has_begun: progress.is_some() }))
    })
}

/// Waits until the consumers have committed every record of `topic`. Blocks.
///
/// # Errors
/// Transient when Kafka can't be reached; definite when `--wait` was given and the user has no right to describe the
/// group.
pub(crate) fn of_consumers(settings: &KafkaSettings, topic: &Topic, patience: Patience) -> Result<Consumed> {
    let logging = Logging::default();
    let what = format!("cannot read the offsets of group {}", settings.group_id);
    let failed = |e| kafka::unreachable(settings, &what, &e, &logging);
    let consumer: BaseConsumer<Logging> =
        kafka::consumer_config(settings, &settings.group_id).create_with_context(logging.clone()).map_err(failed)?;
    kafka::give_token(settings, consumer.client())?;
    // The client reports a missing right on the group through `poll`; the call itself only times out.
    let group_denied = || {
        let said = std::iter::from_fn(|| consumer.poll(Duration::from_millis(10)));
        said.filter_map(Result::err)
            .find(|e| e.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed))
    };
    let look_up = |wanted: &TopicPartitionList| {
        let end = Instant::now() + REQUEST_TIMEOUT;
        loop {
            match consumer.committed_offsets(wanted.clone(), REQUEST_TIMEOUT / 10) {
                Err(error) => match group_denied() {
                    Some(denied) => return Err(failed(denied)),
                    None if Instant::now() > end => return Err(failed(error)),
                    None => {}
                },
                Ok(committed) => return Ok(committed),
            }
        }
    };
    let mut wanted = TopicPartitionList::new();
    for partition in 0..topic.partitions.len() {
        wanted.add_partition(&settings.topic, partition as i32);
    }
    let mut next = vec![None; topic.partitions.len()];
    let missing = until(patience, || {
        let committed = match look_up(&wanted) {
            // Without `--wait`, verify needs no right to describe the group.
            Err(error) if !error.is_transient() && !patience.asked => return Ok(None),
            other => other?,
        };
        let (mut behind, mut records, mut reads) = (Vec::new(), 0, false);
        for element in committed.elements() {
            let partition = element.partition() as usize;
            next[partition] = if let Offset::Offset(offset) = element.offset() { Some(offset) } else { None };
            let left = topic.unread(partition, next[partition]);
            if left > 0 {
                behind.push(format!("{} ({left})", element.partition()));
                records += left;
                reads |= next[partition].is_some();
            }
        }
        let text = || {
            format!("the group {} has {records} records to read; partitions: {}", settings.group_id, behind.join(", "))
        };
        Ok((records > 0).then(|| Missing { text: text(), has_begun: reads }))
    })?;
    Ok(Consumed { missing: missing.map(|missing| missing.text), next })
}

/// Checks until nothing is missing or the time is over.
fn until(patience: Patience, mut look: impl FnMut() -> Result<Option<Missing>>) -> Result<Option<Missing>> {
    let mut status = Status::new("", "");
    loop {
        let Some(missing) = look()? else { return Ok(None) };
        if Instant::now() >= patience.until || !(patience.asked || missing.has_begun) {
            return Ok(Some(missing));
        }
        status.show(&format!("waiting: {}", missing.text));
        std::thread::sleep(PAUSE.min(patience.until.saturating_duration_since(Instant::now())));
    }
}
