//! The binlog from a position on.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::error::{Error, Result};
use model::gtid::GtidSet;
use model::position::{Position, compare_files};
use mysql_async::Sid;
use mysql_async::binlog::EventType;
use mysql_common::packets::BinlogDumpFlags;
use mysql_common::packets::binlog_request::BinlogRequest;

use crate::binlog_error::gtid_mode_refuses;
use crate::dump::{Event, Events, HEAD, Observer};
use crate::endpoint::Endpoint;

/// The server ends an earlier dump with the same id, except with this one.
const NOBODY: u32 = 0;

/// How often a search reports its place.
pub(crate) const SAY_EVERY: Duration = Duration::from_secs(5);

/// A running dump of the binlog.
pub struct EventStream {
    events: Events,
    options: StreamOptions,
    work: Option<Work>,
    /// Offset of the first event of a scan that began at an earlier offset; 0 when that event was reached.
    first: u64,
}

/// A search in the binlog, which may take long.
struct Work {
    observer: Arc<dyn Observer>,
    /// Its purpose.
    purpose: &'static str,
    begun: Instant,
    said: Instant,
}

impl Work {
    fn of(endpoint: &Endpoint, purpose: &'static str) -> Option<Self> {
        let (observer, begun) = (Arc::clone(endpoint.observer()?), Instant::now());
        Some(Self { observer, purpose, begun, said: begun })
    }

    /// Reports its place from time to time.
    fn is_at(&mut self, (file, offset): (&str, u64)) {
        if self.said.elapsed() >= SAY_EVERY {
            self.said = Instant::now();
            let (purpose, seconds) = (self.purpose, self.begun.elapsed().as_secs());
            self.observer.working(&format!("{purpose}: at {file}:{offset} after {seconds} s"));
        }
    }
}

/// The options of a request for the binlog.
#[derive(Clone, Copy, Debug)]
pub struct StreamOptions {
    /// `producer.server_id`, which no other reader of the server may use.
    pub server_id: u32,
    /// The server sends a heartbeat after this time without an event.
    pub heartbeat: Duration,
    /// Maximum bytes of an event that must be read; a larger one is an error.
    pub max_event: usize,
}

impl EventStream {
    /// Requests the binlog from the server of the session, from the file and offset of `position` on, including later
    /// events.
    ///
    /// # Errors
    /// Transient when the connection breaks; definite when the server no longer has that part of the binlog; as
    /// [`Endpoint::connect`] when another server answers.
    pub async fn open(endpoint: &Endpoint, position: &Position, options: StreamOptions) -> Result<Self> {
        let from = first_offset(position);
        let request = BinlogRequest::new(options.server_id).with_filename(position.file.as_bytes()).with_pos(from);
        let events = endpoint.dump().await?.dump(&request, options.heartbeat).await?;
        let work = Work::of(endpoint, "passing over the binlog up to the position");
        let mut stream = Self { events, options, work, first: 0 };
        while stream.place().0 == position.file && stream.place().1 < position.offset {
            stream.next().await?;
        }
        stream.work = None;
        Ok(stream)
    }

    /// Requests the binlog from the server of the session, from `offset` in `file` to its present end. The log names
    /// the `purpose` if this takes long. With a set, the server leaves out the transactions in it, which works only
    /// while its `gtid_mode` is ON.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn scan(
        endpoint: &Endpoint,
        purpose: &'static str,
        file: &str,
        offset: u64,
        without: Option<&GtidSet>,
    ) -> Result<Self> {
        const HEARTBEAT: Duration = Duration::from_secs(8);
        let from = askable(offset);
        let mut request = BinlogRequest::new(NOBODY)
            .with_filename(file.as_bytes())
            .with_pos(from)
            .with_flags(BinlogDumpFlags::BINLOG_DUMP_NON_BLOCK);
        if let Some(set) = without {
            request = request.with_use_gtid(true).with_sids(sids(set)?);
        }
        let events = endpoint.dump().await?.dump(&request, HEARTBEAT).await?;
        // A scan does not read rows.
        let options = StreamOptions { server_id: NOBODY, heartbeat: HEARTBEAT, max_event: 0 };
        let work = Work::of(endpoint, purpose);
        Ok(Self { events, options, work, first: if from == offset { 0 } else { offset } })
    }

    /// The options of its request.
    pub fn options(&self) -> StreamOptions {
        self.options
    }

    /// Sets the maximum bytes of an event, for a scan whose rows are needed.
    pub fn set_max_event(&mut self, max_event: usize) {
        self.options.max_event = max_event;
    }

    /// The next event, heartbeats included. Dropping the future loses nothing.
    ///
    /// # Errors
    /// As [`Events::next`]. After an error the stream must be dropped.
    pub async fn next(&mut self) -> Result<Event> {
        self.next_or_end().await?.ok_or_else(|| Error::transient("the server ended the binlog stream"))
    }

    /// As [`Self::next`]; `None` at the end of a [`Self::scan`].
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn next_or_end(&mut self) -> Result<Option<Event>> {
        loop {
            let event = self.events.next().await?;
            if let Some(work) = &mut self.work {
                work.is_at(self.events.place());
            }
            if self.first == 0 {
                return Ok(event);
            }
            let Some(header) = event.as_ref().map(Event::header) else { return Ok(None) };
            if is_reached(self.first, self.begin(), header.event_type_raw(), header.log_pos()) {
                self.first = 0;
            } else if header.event_type_raw() != EventType::FORMAT_DESCRIPTION_EVENT as u8 {
                continue;
            }
            return Ok(event);
        }
    }

    /// The whole of a large event that [`Self::next`] returned last.
    ///
    /// # Errors
    /// As [`Events::complete`].
    pub async fn complete(&mut self, event: Event) -> Result<Event> {
        self.events.complete(event, self.options.max_event).await
    }

    /// The error to report about the last event, see [`Events::blame`].
    pub async fn blame(&mut self, error: Error) -> Error {
        self.events.blame(error).await
    }

    /// Binlog file and offset after the last event.
    pub fn place(&self) -> (&str, u64) {
        self.events.place()
    }

    /// Offset at which the last event begins, see [`Events::begin`].
    pub fn begin(&self) -> u64 {
        self.events.begin()
    }

    /// Whether the last error is the server's refusal to send a transaction because of its `gtid_mode`: with ON it does
    /// not send those without a GTID, and with OFF those with one.
    pub fn is_refused_by_gtid_mode(&self) -> bool {
        self.events.server_error().is_some_and(|error| gtid_mode_refuses(&error.message))
    }

    /// Whether the last error means that some bytes are not an event, see [`Events::is_damaged`].
    pub fn is_damaged(&self) -> bool {
        self.events.is_damaged()
    }

    /// Whether the stream is at or beyond this place.
    pub fn has_reached(&self, file: &str, offset: u64) -> bool {
        let place = self.place();
        compare_files(place.0, file).then(place.1.cmp(&offset)) != Ordering::Less
    }
}

/// The offset to request in order to read the event at `offset`: COM_BINLOG_DUMP has 32 bits for it, so an event beyond
/// 4 GiB is reached from the head of the file. COM_BINLOG_DUMP_GTID has 64 bits, but works only while `gtid_mode` is
/// ON.
fn askable(offset: u64) -> u64 {
    if offset > u64::from(u32::MAX) { HEAD } else { offset }
}

/// Whether a scan has reached its first event at `first`, or the end of the previous file, with an event of this type
/// and header that begins at `begin`. An artificial event has no place, and never counts.
fn is_reached(first: u64, begin: u64, kind: u8, log_pos: u32) -> bool {
    let ends_file = kind == EventType::ROTATE_EVENT as u8 || kind == EventType::STOP_EVENT as u8;
    log_pos != 0 && (ends_file || begin >= first)
}

/// The offset to request for a position: its own, or else the begin of its last transaction, or else the head of its
/// file.
fn first_offset(position: &Position) -> u64 {
    let last = position.anchor.as_ref().and_then(|anchor| anchor.last.as_ref());
    let begin = last.map_or(position.offset, |last| last.begin);
    if askable(position.offset) == position.offset { position.offset } else { askable(begin) }
}

/// The GTID set in the form of the dump command: one entry for each source and tag.
fn sids(set: &GtidSet) -> Result<Vec<Sid<'static>>> {
    set.sources()
        .map(|(source, intervals)| {
            let mut text = source.to_owned();
            for (start, end) in intervals {
                text.push_str(&format!(":{start}-{}", end - 1));
            }
            text.parse().map_err(|e| Error::definite(format!("GTID set {text}: {e}")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use model::position::{Anchor, LastTransaction};
    use model::time::Micros;

    use super::*;

    #[test]
    fn a_place_beyond_4_gib_is_reached_from_an_earlier_one() {
        const GIB4: u64 = 1 << 32;
        for (offset, begin, want) in [
            (900, Some(400), 900),
            (GIB4 - 1, None, GIB4 - 1),
            (GIB4 + 9, Some(400), 400),
            (GIB4 + 9, Some(GIB4), HEAD),
            (GIB4 + 9, None, HEAD),
        ] {
            let last = begin.map(|begin| LastTransaction {
                begin,
                gtid: None,
                committed_at: Micros(1),
                first_committed_at: None,
            });
            let position = Position {
                server_uuid: String::new(),
                gtid_set: None,
                file: "b.000001".to_owned(),
                offset,
                committed_at: Micros(1),
                anchor: Some(Anchor { created: 1, last }),
            };
            assert_eq!(first_offset(&position), want, "{offset} {begin:?}");
        }
    }

    #[test]
    fn a_scan_from_an_earlier_place_begins_at_its_first_event() {
        const FIRST: u64 = (1 << 32) + 500;
        let (rotate, stop) = (EventType::ROTATE_EVENT as u8, EventType::STOP_EVENT as u8);
        let (format, gtid) = (EventType::FORMAT_DESCRIPTION_EVENT as u8, EventType::GTID_EVENT as u8);
        for (begin, kind, log_pos, want) in [
            (HEAD, rotate, 0, false),
            (HEAD, format, 126, false),
            (FIRST - 80, gtid, 500, false),
            (FIRST, gtid, 580, true),
            (FIRST + 80, gtid, 660, true),
            // The offset is beyond the end of the file.
            (HEAD, rotate, 300, true),
            (FIRST - 90, stop, 433, true),
        ] {
            assert_eq!(is_reached(FIRST, begin, kind, log_pos), want, "{begin} {kind} {log_pos}");
        }
    }

    #[test]
    fn tagged_gtids_are_split() {
        let uuid = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
        let set: GtidSet = format!("{uuid}:1-9:11:tag:1-3").parse().expect("a set");
        let text: Vec<String> = sids(&set).expect("sids").iter().map(ToString::to_string).collect();
        assert_eq!(text, [format!("{uuid}:1-9:11"), format!("{uuid}:tag:1-3")]);
    }
}
