//! Searches the server's binlog files: finds the event at a place, and the first transaction outside of a GTID set.

use std::time::{Duration, Instant};

use model::error::{Code, Error, Result};
use model::gtid::GtidSet;
use model::position::{Anchor, LastTransaction, Position};
use model::time::Micros;
use mysql::table::answered;
use mysql_async::binlog::EventType;
use mysql_async::binlog::events::PreviousGtidsEvent;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use uuid::Uuid;

use crate::binlog_error::{damaged, failed};
use crate::dump::{Event, HEAD};
use crate::endpoint::Endpoint;
use crate::server::{self, BinlogFile, Server};
use crate::stream::EventStream;
use crate::transaction::{GtidMark, gtid_mark};

/// The result of looking at a place of a binlog file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The server created the file at another time, in seconds since 1970.
    OtherFile(u32),
    /// The head of the file.
    Head {
        /// The GTIDs in the files before it.
        previous: GtidSet,
        /// Offset at which the head ends.
        end: u64,
    },
    /// The first event of a transaction.
    Transaction(GtidMark),
    /// The file is the same, but with its present `gtid_mode` the server does not send the transaction.
    NotSent,
    /// No transaction begins there, for this reason.
    Nothing(String),
}

/// When the server created the file, in seconds since 1970, from its format description event; `None` for another event. A
/// stream that begins in the middle of a file begins with a copy of that event.
pub(crate) fn created(event: &Event) -> Option<u32> {
    let header = event.header();
    let is_head = header.event_type_raw() == EventType::FORMAT_DESCRIPTION_EVENT as u8;
    is_head.then(|| header.timestamp())
}

/// The GTIDs before a file, from its PREVIOUS_GTIDS event; `None` when the event is another one.
///
/// # Errors
/// Definite when it is damaged.
pub(crate) fn previous_gtids(event: &Event) -> Result<Option<GtidSet>> {
    if event.header().event_type_raw() != EventType::PREVIOUS_GTIDS_EVENT as u8 {
        return Ok(None);
    }
    let parsed: PreviousGtidsEvent<'_> = event.read_event().map_err(|e| damaged("PREVIOUS_GTIDS", &e))?;
    let mut set = GtidSet::default();
    for sid in parsed.sids() {
        let mut source = Uuid::from_bytes(sid.uuid()).hyphenated().to_string();
        if let Some(tag) = sid.tag().filter(|tag| !tag.as_str().is_empty()) {
            source = format!("{source}:{}", tag.as_str());
        }
        sid.intervals().iter().for_each(|i| set.insert_interval(&source, i.start(), i.end()));
    }
    Ok(Some(set))
}

/// The GTIDs before a file.
///
/// # Errors
/// Definite when the file does not begin with them.
pub(crate) async fn previous_gtids_of(conn: &mut Conn, file: &BinlogFile) -> Result<GtidSet> {
    let query = format!("SHOW BINLOG EVENTS IN '{}' LIMIT 2", file.name.replace('\'', "''"));
    let rows: Vec<Row> = answered(conn.query(query)).await.map_err(|e| failed("look into a binlog file", e))?;
    let text = rows
        .iter()
        .find(|r| r.get::<String, _>(2).as_deref() == Some("Previous_gtids"))
        .and_then(|r| r.get::<String, _>(5));
    match text {
        Some(text) => server::gtid_set(&text),
        None => Err(Error::new(
            Code::EventUnreadable,
            format!("binlog {} does not begin with its previous GTIDs", file.name),
        )),
    }
}

/// Looks at the anchor's place in `file`, which the server must have.
///
/// # Errors
/// Transient when the link breaks; definite when the server refuses to send the file.
pub(crate) async fn look(endpoint: &Endpoint, file: &str, anchor: &Anchor) -> Result<Found> {
    /// Bytes that were damaged on the way are intact at the next try.
    const TRIES: usize = 3;
    let begin = anchor.last.as_ref().map_or(HEAD, |last| last.begin);
    let mut found = Err(Error::transient("nothing was looked at"));
    for _ in 0..TRIES {
        let mut events =
            EventStream::scan(endpoint, "comparing the position with the binlog", file, begin, None).await?;
        found = look_at(&mut events, anchor).await;
        if !events.is_damaged() {
            break;
        }
        // If the server created the file again within the same second, it sends any bytes at the offset.
        found = found.or_else(|error| Ok(Found::Nothing(error.to_string())));
    }
    found
}

async fn look_at(events: &mut EventStream, anchor: &Anchor) -> Result<Found> {
    let mut is_file = false;
    loop {
        let event = match events.next_or_end().await {
            Ok(Some(event)) => event,
            Ok(None) if is_file => return Ok(Found::Nothing("the file ends there".to_owned())),
            Ok(None) => return Ok(Found::Nothing("the server sends nothing".to_owned())),
            Err(_) if events.is_refused_by_gtid_mode() => return Ok(Found::NotSent),
            // The file is the same, but the server cannot read an event there.
            Err(error) if is_file && !error.is_transient() => return Ok(Found::Nothing(error.to_string())),
            Err(error) => return Err(error),
        };
        match created(&event) {
            Some(created) if created != anchor.created => return Ok(Found::OtherFile(created)),
            Some(_) => is_file = true,
            None if !is_file => {}
            None => {
                if let Some(mark) = gtid_mark(&event)? {
                    return Ok(Found::Transaction(mark));
                }
                if let Some(previous) = previous_gtids(&event)? {
                    return Ok(Found::Head { previous, end: events.place().1 });
                }
                if event.header().log_pos() != 0 {
                    let kind = event.header().event_type_raw();
                    return Ok(Found::Nothing(format!("an event of type {kind} stands there")));
                }
            }
        }
    }
}

/// Reads the events after the position for a moment, to check that the server sends them.
///
/// # Errors
/// The errors that the stream would get.
pub(crate) async fn try_reading(endpoint: &Endpoint, position: &Position) -> Result<()> {
    const MOMENT: Duration = Duration::from_secs(3);
    let mut events = EventStream::scan(endpoint, "reading on", &position.file, position.offset, None).await?;
    let until = Instant::now() + MOMENT;
    while Instant::now() < until && events.next_or_end().await?.is_some() {}
    Ok(())
}

/// The position of a new epoch: every transaction before it is visible to a later read ([`server::make_visible`]), and
/// all other transactions follow it.
///
/// # Errors
/// As [`server::binlog_end`]; transient while transactions are still being committed.
pub async fn snapshot_start(endpoint: &Endpoint, conn: &mut Conn, server: &Server) -> Result<Position> {
    let committed_at = server::now(conn).await?;
    // Read the end before the set: transactions committed in between are in the set, so the stream skips them.
    let (file, end) = server::binlog_end(conn).await?;
    let executed = if server.gtids { Some(Server::ask(conn).await?.executed) } else { None };
    // The last transaction of each source is included, to distinguish the file from another one with the same
    // beginning.
    let without = executed.as_ref().map(all_but_last);
    let mut events =
        EventStream::scan(endpoint, "looking for the position of the snapshot", &file, HEAD, without.as_ref()).await?;
    let (mut anchor, mut offset) = (None, end);
    while let Some(event) = events.next_or_end().await.map_err(switched)? {
        if events.place().0 != file {
            break;
        }
        anchor = created(&event).map(|created| Anchor { created, last: None }).or(anchor);
        let previous = previous_gtids(&event)?;
        match (&executed, previous) {
            (None, Some(_)) => break,
            (Some(set), Some(previous)) if !set.contains_all(&previous) => {
                return Err(Error::transient(format!("the transactions before {file} are still being committed")));
            }
            _ => {}
        }
        let Some(mark) = gtid_mark(&event)? else { continue };
        let begin = events.begin();
        let is_visible = match (&executed, &mark.gtid) {
            (Some(set), Some((source, number))) => set.contains(source, *number),
            _ => false,
        };
        // The transaction is in the binlog but not visible yet, or behind the end.
        if !is_visible || begin >= end {
            offset = begin.min(end);
            break;
        }
        if let Some(anchor) = &mut anchor {
            anchor.last = Some(mark.at(begin));
        }
    }
    Ok(Position { server_uuid: server.uuid.clone(), gtid_set: executed, file, offset, committed_at, anchor })
}

/// The set without the last transaction of each source.
fn all_but_last(set: &GtidSet) -> GtidSet {
    let mut rest = GtidSet::default();
    for (source, intervals) in set.sources() {
        let last = intervals.iter().map(|(_, end)| *end).max().unwrap_or(0);
        for (start, end) in intervals {
            let end = if *end == last { end - 1 } else { *end };
            if start < &end {
                rest.insert_interval(source, *start, end);
            }
        }
    }
    rest
}

/// The server refuses to leave out transactions while somebody changes its `gtid_mode`.
fn switched(error: Error) -> Error {
    if error.is_transient() { error } else { Error::transient("the server changes its gtid_mode").with_source(error) }
}

/// Facts about the transactions of a position, to recognise other transactions with the same GTIDs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known<'a> {
    /// The server of the position: the first commit times of its transactions are by its own clock.
    pub(crate) server_uuid: &'a str,
    /// The last of them, with its first commit time on whichever server.
    pub(crate) last: Option<(&'a str, Micros)>,
    /// No transaction of the position's server was committed after this time.
    pub(crate) not_after: Micros,
}

impl Known<'_> {
    fn contradicts(&self, gtid: &str, first_committed_at: Micros) -> bool {
        // Times of other servers are from other clocks.
        (gtid.starts_with(self.server_uuid) && first_committed_at > self.not_after)
            || self.last.is_some_and(|(last, at)| last == gtid && at != first_committed_at)
    }
}

/// The place in this server's binlog before the first transaction that is not in `set`. Reads from the file in which
/// the set becomes complete.
///
/// # Errors
/// Definite when the binlogs do not prove that no transaction without a GTID is in between, or when a transaction
/// contradicts `known`.
pub(crate) async fn place_of(
    endpoint: &Endpoint,
    server: &Server,
    set: &GtidSet,
    known: Known<'_>,
) -> Result<Position> {
    let mut conn = endpoint.connect().await?;
    let files = server::binlog_files(&mut conn).await?;
    let (first, mut search) = first_file(&mut conn, &files, server, set, known).await?;
    let mut events = EventStream::scan(endpoint, "looking for the position on this server", &first, HEAD, None).await?;
    while let Some(event) = events.next_or_end().await? {
        if search.take(&event, events.place(), events.begin())? {
            break;
        }
    }
    let (file, offset, anchor) = search.end(&server.uuid)?;
    Ok(Position {
        server_uuid: server.uuid.clone(),
        gtid_set: Some(set.clone()),
        file,
        offset,
        committed_at: Micros(0),
        anchor,
    })
}

/// The newest file that begins after transactions of `set` only, but not after all of them.
async fn first_file<'a>(
    conn: &mut Conn,
    files: &[BinlogFile],
    server: &Server,
    set: &'a GtidSet,
    known: Known<'a>,
) -> Result<(String, Search<'a>)> {
    for (index, file) in files.iter().enumerate().rev() {
        let previous = previous_gtids_of(conn, file).await?;
        if !set.contains_all(&previous) {
            continue;
        }
        let mut passed = previous;
        passed.insert_all(&server.purged);
        let is_complete = passed.contains_all(set);
        if !is_complete || (index == 0 && file.name.ends_with(".000001")) {
            return Ok((file.name.clone(), Search::new(set, known, passed)));
        }
    }
    let oldest = files.first().map_or("none", |f| f.name.as_str());
    Err(Error::new(Code::PositionPurged, format!(
        "server {} has purged the binlog in which the last transaction of the position {set} stands; its oldest one is {oldest}, \
         so nothing shows whether a transaction without a GTID came between",
        server.uuid
    ))
    .with_remedy("ask for a new snapshot: `cdc-producer checkpoint reset`; and keep binlogs longer (binlog_expire_logs_seconds)"))
}

/// The search of [`place_of`]; pure.
struct Search<'a> {
    set: &'a GtidSet,
    known: Known<'a>,
    /// GTIDs of the set that are before the current event.
    passed: GtidSet,
    file: String,
    offset: u64,
    /// The anchor of the place before the current event.
    anchor: Option<Anchor>,
    in_transaction: Option<LastTransaction>,
    /// The first transaction that is not in the set.
    unread: Option<(String, u64, Option<Anchor>)>,
    without_gtid: Option<String>,
}

impl<'a> Search<'a> {
    fn new(set: &'a GtidSet, known: Known<'a>, passed: GtidSet) -> Self {
        Self {
            set,
            known,
            passed,
            file: String::new(),
            offset: HEAD,
            anchor: None,
            unread: None,
            without_gtid: None,
            in_transaction: None,
        }
    }

    /// Processes an event that ends at `place` and begins at `begin`. Returns whether the search is complete.
    fn take(&mut self, event: &Event, place: (&str, u64), begin: u64) -> Result<bool> {
        let mark = gtid_mark(event)?;
        let ends = matches!(event.header().event_type(), Ok(EventType::ROTATE_EVENT | EventType::STOP_EVENT));
        if ends && self.anchor.is_some() && self.passed.contains_all(self.set) {
            return Ok(true);
        }
        if let (true, Some(anchor)) = (mark.is_some(), &mut self.anchor) {
            // The previous transaction ends here.
            anchor.last = self.in_transaction.take().or(anchor.last.take());
        }
        if let Some(created) = created(event) {
            self.anchor = Some(Anchor { created, last: None });
            self.in_transaction = None;
        }
        if self.file != place.0 {
            place.0.clone_into(&mut self.file);
        }
        self.offset = if mark.is_some() { begin } else { place.1 };
        let Some(mark) = mark else { return Ok(false) };
        // The transaction that completed the set ends where the next one begins.
        if self.passed.contains_all(self.set) {
            return Ok(true);
        }
        self.mark(&mark, begin)?;
        Ok(false)
    }

    fn mark(&mut self, mark: &GtidMark, begin: u64) -> Result<()> {
        let gtid = mark.text();
        let here = || (self.file.clone(), begin, self.anchor.clone());
        match &mark.gtid {
            None => {
                self.without_gtid.get_or_insert(format!("{}:{begin}", self.file));
            }
            Some((source, number)) if self.set.contains(source, *number) => {
                if gtid.as_deref().is_some_and(|gtid| self.known.contradicts(gtid, mark.first_committed_at)) {
                    return Err(used_again(&gtid.unwrap_or_default(), mark.first_committed_at, self.known));
                }
                self.passed.insert(source, *number);
            }
            Some(_) if self.unread.is_none() => self.unread = Some(here()),
            Some(_) => {}
        }
        self.in_transaction = Some(mark.at(begin));
        Ok(())
    }

    /// File, offset and the anchor there.
    fn end(mut self, uuid: &str) -> Result<(String, u64, Option<Anchor>)> {
        if !self.passed.contains_all(self.set) {
            return Err(Error::new(Code::HistoryDiffers, format!(
                "server {uuid} has executed the transactions up to the position {}, but its binlogs do not contain all of them",
                self.set
            ))
            .with_remedy("read from a server with log_replica_updates=ON, or ask for a new snapshot: `cdc-producer checkpoint reset`"));
        }
        if let Some(place) = self.without_gtid {
            return Err(Error::new(Code::HistoryDiffers, format!(
                "server {uuid} has a transaction without a GTID at {place}, among those up to the position {}: nothing shows whether \
                 it was read",
                self.set
            ))
            .with_remedy("ask for a new snapshot: `cdc-producer checkpoint reset`"));
        }
        if let Some(anchor) = &mut self.anchor {
            anchor.last = self.in_transaction.take().or(anchor.last.take());
        }
        Ok(self.unread.unwrap_or((self.file, self.offset, self.anchor)))
    }
}

fn used_again(gtid: &str, at: Micros, known: Known<'_>) -> Error {
    let read = match known.last {
        Some((last, read)) if last == gtid => format!("at {read}"),
        _ => format!("at {} at the latest", known.not_after),
    };
    Error::new(Code::HistoryDiffers, format!(
        "transaction {gtid} was committed at {at}, but the transaction of that name that was read was committed {read}: the history \
         of server {} was reset, and its GTIDs are used a second time",
        known.server_uuid
    ))
    .with_remedy("ask for a new snapshot: `cdc-producer checkpoint reset`")
}

/// The anchor at `offset` of `file`, for a position without one, and its time; `None` when no event ends there.
///
/// # Errors
/// As [`EventStream::scan`].
pub(crate) async fn anchor_before(endpoint: &Endpoint, file: &str, offset: u64) -> Result<Option<(Anchor, Micros)>> {
    let mut events =
        EventStream::scan(endpoint, "looking for the transaction before the position", file, HEAD, None).await?;
    let mut found = None;
    while let Some(event) = events.next_or_end().await? {
        if let Some(created) = created(&event) {
            found = Some((Anchor { created, last: None }, Micros(i64::from(created) * 1_000_000)));
        }
        if let (Some(mark), Some((anchor, at))) = (gtid_mark(&event)?, &mut found) {
            let last = mark.at(events.begin());
            (anchor.last, *at) = (Some(last), mark.committed_at);
        }
        if events.has_reached(file, offset) {
            break;
        }
    }
    Ok(found.filter(|_| events.place() == (file, offset)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_transaction_of_each_source_is_left() {
        const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
        const B: &str = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";
        for (set, want) in [
            ("A:1-9", "A:1-8"),
            ("A:1-3:7", "A:1-3"),
            ("A:1,B:2-3:5-6", "B:2-3:5"),
            ("A:1-2:night:1-4", "A:1:night:1-3"),
            ("", ""),
        ] {
            let parse = |text: &str| text.replace('A', A).replace('B', B).parse::<GtidSet>().expect("a set");
            assert_eq!(all_but_last(&parse(set)), parse(want), "{set}");
        }
    }
}
