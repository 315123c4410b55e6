//! Waiting until everything that is in MySQL now has arrived: first the producer, then the consumers.

use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row};
use pipeline::config::KafkaSettings;
use pipeline::error::{Error, Result};
use pipeline::gtid::GtidSet;
use pipeline::kafka::{self, Logging};
use pipeline::position::{CHECKPOINT_SUFFIX, Progress, compare_files};
use pipeline::table;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use crate::status::Status;
use crate::topic::Topic;

const PAUSE: Duration = Duration::from_millis(300);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// Where a server's binlog ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Everything it has executed.
    Gtids(GtidSet),
    /// Without GTIDs: file and offset.
    File(String, u64),
}

impl End {
    /// Asks the server.
    ///
    /// # Errors
    /// As [`table::failed`].
    pub(crate) async fn ask(conn: &mut Conn) -> Result<Self> {
        let failed = |e| table::failed("ask where the binlog ends", e);
        let row: Option<(String, String)> =
            table::answered(conn.query_first("SELECT @@GLOBAL.gtid_mode, @@GLOBAL.gtid_executed"))
                .await
                .map_err(failed)?;
        let (mode, executed) = row.unwrap_or_default();
        if mode == "ON" {
            let set = executed.parse().map_err(|e| Error::definite("the server's gtid_executed").with_source(e))?;
            return Ok(Self::Gtids(set));
        }
        let (major, minor, _) = conn.server_version();
        let query = if (major, minor) >= (8, 2) { "SHOW BINARY LOG STATUS" } else { "SHOW MASTER STATUS" };
        let row: Option<Row> = table::answered(conn.query_first(query)).await.map_err(failed)?;
        row.and_then(|row| Some(Self::File(row.get(0)?, row.get(1)?)))
            .ok_or_else(|| Error::definite("the server has no binlog").with_remedy("start it with --log-bin"))
    }

    /// What the producer has still to do; `None` when it has come here.
    fn missing(&self, progress: Option<&Progress>) -> Option<String> {
        let Some(progress) = progress else { return Some("the producer has not begun".to_owned()) };
        if let Some(snapshot) = &progress.snapshot {
            return Some(format!("the producer's snapshot is at row {}", snapshot.rows));
        }
        let position = &progress.position;
        match (self, &position.gtid_set) {
            (Self::Gtids(all), Some(set)) => {
                let left = count_missing(all, set);
                (left > 0).then(|| {
                    format!("the producer is {left} transactions behind (it stands at {set}, the server at {all})")
                })
            }
            (Self::Gtids(_), None) => Some("the producer's position has no GTIDs, but the server has".to_owned()),
            (Self::File(file, offset), _) => {
                let order = compare_files(&position.file, file).then(position.offset.cmp(offset));
                order.is_lt().then(|| {
                    format!(
                        "the producer stands at {}:{}, the server at {file}:{offset}",
                        position.file, position.offset
                    )
                })
            }
        }
    }
}

/// How many GTIDs of `all` are not in `have`.
fn count_missing(all: &GtidSet, have: &GtidSet) -> u64 {
    let mut missing = 0;
    for (source, wanted) in all.sources() {
        let held = have.sources().find(|(s, _)| *s == source).map_or(&[][..], |(_, intervals)| intervals);
        for (start, end) in wanted {
            let covered: u64 = held.iter().map(|(s, e)| (*e).min(*end).saturating_sub((*s).max(*start))).sum();
            missing += end - start - covered;
        }
    }
    missing
}

/// Waits until the producer has published everything up to `end`. Blocks. The text says what is missing when time is up.
///
/// # Errors
/// Transient when Kafka can't be reached; definite when the progress record is of another form.
pub(crate) fn of_producer(
    settings: &KafkaSettings,
    source: &str,
    end: &End,
    deadline: Instant,
) -> Result<Option<String>> {
    let topic = format!("{}{CHECKPOINT_SUFFIX}", settings.topic);
    until(deadline, || {
        let progress = match kafka::last_record(settings, &topic, 0, source.as_bytes())? {
            None => None,
            Some(bytes) => Some(serde_json::from_slice::<Progress>(&bytes).map_err(|e| {
                Error::definite(format!("the progress of {source} in {topic} can't be read")).with_source(e)
            })?),
        };
        Ok(end.missing(progress.as_ref()))
    })
}

/// Waits until the consumers have committed every record of `topic`. Blocks. The text says what is missing when time is up.
///
/// # Errors
/// Transient when Kafka can't be reached.
pub(crate) fn of_consumers(settings: &KafkaSettings, topic: &Topic, deadline: Instant) -> Result<Option<String>> {
    let logging = Logging::default();
    let what = format!("cannot read the offsets of group {}", settings.group_id);
    let failed = |e| kafka::unreachable(settings, &what, &e, &logging);
    let consumer: BaseConsumer<Logging> =
        kafka::consumer_config(settings, &settings.group_id).create_with_context(logging.clone()).map_err(failed)?;
    // That the group may not be seen is said beside the call, which just waits.
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
    until(deadline, || {
        let committed = look_up(&wanted)?;
        let (mut behind, mut records) = (Vec::new(), 0);
        for element in committed.elements() {
            // The end of a partition counts transaction markers, so the last record is what must be passed.
            let offsets = &topic.partitions[element.partition() as usize].offsets;
            let next = if let Offset::Offset(offset) = element.offset() { offset } else { 0 };
            let left = offsets.len() - offsets.partition_point(|offset| *offset < next);
            if left > 0 {
                behind.push(format!("{} ({left})", element.partition()));
                records += left;
            }
        }
        Ok((records > 0).then(|| {
            format!("the group {} has {records} records to read; partitions: {}", settings.group_id, behind.join(", "))
        }))
    })
}

fn until(deadline: Instant, mut missing: impl FnMut() -> Result<Option<String>>) -> Result<Option<String>> {
    let mut status = Status::new("");
    loop {
        let Some(text) = missing()? else { return Ok(None) };
        if Instant::now() >= deadline {
            return Ok(Some(text));
        }
        status.show(&format!("waiting: {text}"));
        std::thread::sleep(PAUSE.min(deadline.saturating_duration_since(Instant::now())));
    }
}

/// The first and the next offset of each partition of the topic. Blocks.
///
/// # Errors
/// Transient when Kafka can't be reached; definite when there is no such topic.
pub(crate) fn bounds(settings: &KafkaSettings) -> Result<Vec<(i64, i64)>> {
    let logging = Logging::default();
    let topic = &settings.topic;
    let what = format!("cannot look up topic {topic}");
    let failed = |e| kafka::unreachable(settings, &what, &e, &logging);
    let consumer: BaseConsumer<Logging> = kafka::consumer_config(settings, &format!("{topic}.reader"))
        .create_with_context(logging.clone())
        .map_err(failed)?;
    let partitions = kafka::partition_count(settings, &consumer, &logging, topic)?.ok_or_else(|| {
        Error::definite(format!("there is no topic {topic} at {}", settings.bootstrap_servers))
            .with_remedy("start the producer, which creates it, or correct kafka.topic")
    })?;
    let watermarks = |partition| consumer.fetch_watermarks(topic, partition, REQUEST_TIMEOUT).map_err(failed);
    (0..partitions as i32).map(watermarks).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pipeline::position::{Position, SnapshotProgress};
    use pipeline::record::Micros;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const B: &str = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";

    fn progress(gtids: Option<&str>, file: &str, offset: u64) -> Progress {
        let gtid_set = gtids.map(|g| g.parse().expect("a set"));
        let position =
            Position { server_uuid: A.to_owned(), gtid_set, file: file.to_owned(), offset, committed_at: Micros(0) };
        Progress {
            version: 1,
            epoch: 1,
            request: String::new(),
            position,
            snapshot: None,
            prepared: Default::default(),
            ends: None,
            complete: None,
        }
    }

    #[test]
    fn missing_transactions_are_counted() {
        for (all, have, want) in [
            (format!("{A}:1-10"), format!("{A}:1-10"), 0),
            (format!("{A}:1-10"), format!("{A}:1-20,{B}:1"), 0),
            (format!("{A}:1-10:15"), format!("{A}:2-4:9-11"), 6),
            (format!("{A}:1-2,{B}:1-3"), String::new(), 5),
        ] {
            assert_eq!(
                count_missing(&all.parse().expect("a set"), &have.parse().expect("a set")),
                want,
                "{all} {have}"
            );
        }
    }

    #[test]
    fn the_producer_has_arrived_or_something_is_missing() {
        let gtids = End::Gtids(format!("{A}:1-10").parse().expect("a set"));
        let file = End::File("binlog.000010".to_owned(), 500);
        assert_eq!(gtids.missing(None).as_deref(), Some("the producer has not begun"));
        assert_eq!(gtids.missing(Some(&progress(Some(&format!("{A}:1-11")), "", 0))), None);
        let text = gtids.missing(Some(&progress(Some(&format!("{A}:1-7")), "", 0))).unwrap_or_default();
        assert!(text.starts_with("the producer is 3 transactions behind"), "{text}");
        assert_eq!(file.missing(Some(&progress(None, "binlog.000010", 500))), None);
        assert_eq!(file.missing(Some(&progress(None, "binlog.000011", 4))), None);
        let text = file.missing(Some(&progress(None, "binlog.000009", 900)));
        assert_eq!(text.as_deref(), Some("the producer stands at binlog.000009:900, the server at binlog.000010:500"));
        let mut early = progress(Some(&format!("{A}:1-10")), "", 0);
        early.snapshot = Some(SnapshotProgress { after: None, rows: 7, begin: None, sweep: None });
        assert_eq!(gtids.missing(Some(&early)).as_deref(), Some("the producer's snapshot is at row 7"));
    }
}
