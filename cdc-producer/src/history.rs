//! Proof that the server's binlog after the committed position is complete.
//!
//! On the server of the position the stream begins at file and offset, after [`check`] has compared the binlog there
//! with the last read transaction: the file has the same creation time, and the same transaction is at the same offset.
//! Only reset binlogs, a restored copy or another server differ in that. So no transaction between two files is
//! skipped, with or without a GTID. On another server, and for a position of version 0.1, the GTID set determines the
//! place (`probe::place_of`). [`Continuity`] keeps the GTID set of the position correct while the stream runs.

use model::error::{Code, Error, Result};
use model::gtid::GtidSet;
use model::position::{Anchor, Position, compare_files};
use model::time::Micros;
use mysql_async::Conn;

use crate::endpoint::Endpoint;
use crate::probe::{self, Found, Known};
use crate::server::{self, BinlogFile, Server};

const NEW_SNAPSHOT: &str = "ask for a new snapshot: `cdc-producer checkpoint reset`";
const KEEP_LONGER: &str =
    "ask for a new snapshot: `cdc-producer checkpoint reset`; and keep binlogs longer (binlog_expire_logs_seconds)";

/// A position on the server of the session, from which the stream is complete.
#[derive(Debug)]
pub struct Proven {
    /// The position.
    pub position: Position,
    /// Passed on to the reader.
    pub continuity: Continuity,
}

/// Proves that the stream can continue after `position`, and finds the place on this server.
///
/// # Errors
/// Definite when the server has another history, or an incomplete one; the error has the reason and the remedies.
pub async fn resume(endpoint: &Endpoint, server: &Server, position: &Position) -> Result<Proven> {
    let proven = |position, head| Proven { position, continuity: Continuity::new(server.purged.clone(), head) };
    match &position.anchor {
        Some(anchor) if server.uuid == position.server_uuid => {
            let head = check_anchor(endpoint, &mut endpoint.connect().await?, position, anchor).await?;
            Ok(proven(position.clone(), head))
        }
        _ if server.uuid != position.server_uuid => {
            Ok(proven(on_another_server(endpoint, server, position).await?, None))
        }
        _ => Ok(proven(of_version_0_1(endpoint, server, position).await?, None)),
    }
}

/// Checks that the server of the session, to which `conn` leads, still has the history up to `position`.
///
/// # Errors
/// Definite when it does not; transient when the link breaks.
pub async fn check(endpoint: &Endpoint, conn: &mut Conn, position: &Position) -> Result<()> {
    match &position.anchor {
        Some(anchor) if endpoint.is_session(&position.server_uuid) => {
            check_anchor(endpoint, conn, position, anchor).await.map(drop)
        }
        // The position is still that of the start; the first committed transaction brings an anchor on this server.
        _ => Ok(()),
    }
}

/// Checks that the file which the stream has sent after that of `position` belongs to the same history. Its head does
/// not prove that: a reset while the producer is behind creates files of the same names. But if the server still has
/// the file of the position unchanged, it was not reset before it sent the next one.
///
/// # Errors
/// As [`check`].
pub(crate) async fn follows(endpoint: &Endpoint, position: &Position) -> Result<()> {
    let Some(anchor) = &position.anchor else { return Ok(()) };
    let mut conn = endpoint.connect().await?;
    let files = server::binlog_files(&mut conn).await?;
    // The file was purged while its last events were read.
    if files.first().is_some_and(|first| compare_files(&first.name, &position.file).is_gt()) {
        return Ok(());
    }
    check_anchor(endpoint, &mut conn, position, anchor).await.map(drop)
}

/// The GTIDs before the position's file, if the position is directly after the head of the file.
async fn check_anchor(
    endpoint: &Endpoint,
    conn: &mut Conn,
    position: &Position,
    anchor: &Anchor,
) -> Result<Option<GtidSet>> {
    holds(&server::binlog_files(conn).await?, position)?;
    compare(position, anchor, probe::look(endpoint, &position.file, anchor).await?)
}

/// Checks that the server's files contain the position's place.
fn holds(files: &[BinlogFile], position: &Position) -> Result<()> {
    let (Some(first), Some(last)) = (files.first(), files.last()) else {
        return Err(
            Error::new(Code::ServerSettings, "the server has no binlog files").with_remedy(mysql::table::ENABLE_BINLOG)
        );
    };
    match files.iter().find(|f| f.name == position.file) {
        Some(file) if position.offset <= file.size => Ok(()),
        Some(file) => Err(Error::new(Code::HistoryDiffers, format!(
            "the position {position} is beyond the end of its file ({} bytes) on the server: its binlogs were reset or restored, or a crash cut their end off",
            file.size
        ))
        .with_remedy(NEW_SNAPSHOT)),
        None if compare_files(&first.name, &position.file).is_gt() => Err(Error::new(Code::PositionPurged, format!(
            "binlog {} of the position is no longer on the server; its first one is {}",
            position.file, first.name
        ))
        .with_remedy(KEEP_LONGER)),
        None => Err(Error::new(Code::HistoryDiffers, format!(
            "binlog {} of the position is not on the server, which has {} to {}: its binlogs were reset or restored",
            position.file, first.name, last.name
        ))
        .with_remedy(NEW_SNAPSHOT)),
    }
}

/// Compares the event at the anchor's place with the anchor.
fn compare(position: &Position, anchor: &Anchor, found: Found) -> Result<Option<GtidSet>> {
    let file = &position.file;
    let differs = match (found, &anchor.last) {
        (Found::Transaction(mark), Some(last))
            if mark.text() == last.gtid && mark.committed_at == last.committed_at =>
        {
            return Ok(None);
        }
        (Found::NotSent, _) => return Ok(None),
        (Found::Head { previous, end }, None) if is_after(position, &previous) => {
            return Ok((position.offset <= end).then_some(previous));
        }
        (Found::OtherFile(created), _) => {
            format!(
                "the server created {file} at second {created} since 1970, and the file that was read at {}",
                anchor.created
            )
        }
        (Found::Transaction(mark), Some(last)) => format!(
            "transaction {} of {} begins at {file}:{}, where transaction {} of {} was read",
            name(mark.text().as_deref()),
            mark.committed_at,
            last.begin,
            name(last.gtid.as_deref()),
            last.committed_at
        ),
        (Found::Nothing(why), Some(last)) => format!("no transaction begins at {file}:{}: {why}", last.begin),
        (Found::Transaction(_) | Found::Nothing(_) | Found::Head { .. }, None) | (Found::Head { .. }, Some(_)) => {
            format!("{file} does not begin as it did")
        }
    };
    Err(Error::new(
        Code::HistoryDiffers,
        format!(
            "the position {position} was read from another history than the one that server {} has now: {differs}; \
         its binlogs were reset or restored",
            position.server_uuid
        ),
    )
    .with_remedy(NEW_SNAPSHOT))
}

/// Whether a file that begins after `previous` may hold the position.
fn is_after(position: &Position, previous: &GtidSet) -> bool {
    position.gtid_set.as_ref().is_none_or(|set| set.contains_all(previous))
}

fn name(gtid: Option<&str>) -> &str {
    gtid.unwrap_or("without a GTID")
}

/// The place of the position's GTID set on another server.
async fn on_another_server(endpoint: &Endpoint, server: &Server, position: &Position) -> Result<Position> {
    let set = match &position.gtid_set {
        Some(set) if !set.is_empty() => set,
        _ => {
            return Err(Error::new(Code::HistoryDiffers, format!(
                "this is server {}, but the position {position} belongs to server {} and has no GTIDs to find its place here",
                server.uuid, position.server_uuid
            ))
            .with_remedy(format!("connect to the server the position belongs to, or {NEW_SNAPSHOT}")));
        }
    };
    has_executed(endpoint, server, set).await?;
    let place = probe::place_of(endpoint, server, set, known(position)).await?;
    Ok(Position { committed_at: position.committed_at, ..place })
}

/// Tolerance for the time between reading the server's clock and its last executed transaction, µs.
const SLACK: i64 = 10_000_000;

fn known(position: &Position) -> Known<'_> {
    let last = position.anchor.as_ref().and_then(|a| a.last.as_ref()).and_then(|last| {
        let gtid = last.gtid.as_deref()?;
        let is_of_this_server = gtid.starts_with(&position.server_uuid);
        Some((gtid, last.first_committed_at.or(is_of_this_server.then_some(last.committed_at))?))
    });
    Known { server_uuid: &position.server_uuid, last, not_after: Micros(position.committed_at.0 + SLACK) }
}

/// The place of a position that has no anchor.
async fn of_version_0_1(endpoint: &Endpoint, server: &Server, position: &Position) -> Result<Position> {
    let reset = |at| {
        Error::new(Code::HistoryDiffers, format!(
            "the position {position} was committed at {}, but the transaction before that place was committed at {at}: the \
             server's binlogs were reset or restored",
            position.committed_at
        ))
        .with_remedy(NEW_SNAPSHOT)
    };
    let place = match &position.gtid_set {
        Some(set) => {
            has_executed(endpoint, server, set).await?;
            let place = probe::place_of(endpoint, server, set, known(position)).await?;
            let order = compare_files(&place.file, &position.file).then(place.offset.cmp(&position.offset));
            if !position.file.is_empty() && order.is_gt() {
                return Err(Error::new(Code::HistoryDiffers, format!(
                    "the transactions up to the position {position} end at {}:{}: the server's binlogs were reset or restored",
                    place.file, place.offset
                ))
                .with_remedy(NEW_SNAPSHOT));
            }
            Position { committed_at: position.committed_at, ..place }
        }
        None => {
            holds(&server::binlog_files(&mut endpoint.connect().await?).await?, position)?;
            let Some((anchor, at)) = probe::anchor_before(endpoint, &position.file, position.offset).await? else {
                return Err(Error::new(
                    Code::HistoryDiffers,
                    format!("no event ends at the position {position}: the server's binlogs were reset or restored"),
                )
                .with_remedy(NEW_SNAPSHOT));
            };
            if at.0 > position.committed_at.0 + SLACK {
                return Err(reset(at));
            }
            Position { anchor: Some(anchor), ..position.clone() }
        }
    };
    match place.anchor.as_ref().and_then(|a| a.last.as_ref()) {
        Some(last) if last.committed_at.0 > position.committed_at.0 + SLACK => Err(reset(last.committed_at)),
        _ => Ok(place),
    }
}

/// Checks that the server has executed the transactions of the set, and has not purged others that were not read.
async fn has_executed(endpoint: &Endpoint, server: &Server, set: &GtidSet) -> Result<()> {
    let has = server.executed.contains_all(set) || server::executes(&mut endpoint.connect().await?, set).await?;
    if !has {
        return Err(Error::new(Code::HistoryDiffers, format!(
            "server {} has not executed everything up to the position {set}: another server, or its history was reset",
            server.uuid
        ))
        .with_remedy(format!("connect to the right server, or {NEW_SNAPSHOT}")));
    }
    if set.contains_all(&server.purged) {
        return Ok(());
    }
    Err(Error::new(
        Code::PositionPurged,
        format!("the server has purged binlogs that were not read yet: purged {}, read {set}", server.purged),
    )
    .with_remedy(KEEP_LONGER))
}

/// Keeps the GTID set of the position correct while the stream reads on; pure.
///
/// A transaction without a GTID clears the set: another server could not tell whether it was read. The set restarts at
/// the first transaction with a GTID in a file without any other ones: it then consists of the GTIDs before that file
/// and those since.
#[derive(Debug, Default)]
pub struct Continuity {
    /// Transactions that the server has executed without its binlog, and those of its purged binlogs.
    purged: GtidSet,
    /// Whether the set of the position includes `purged`; transactions that the server adds to it later without a
    /// binlog count from the next session on.
    has_purged: bool,
    /// The GTIDs before the file that is read.
    previous: Option<GtidSet>,
    /// Whether every transaction of that file so far had a GTID.
    is_whole: bool,
}

impl Continuity {
    /// For a server that has purged these GTIDs; `head` are those before the file if nothing was read from it yet.
    pub fn new(purged: GtidSet, head: Option<GtidSet>) -> Self {
        Self { purged, has_purged: false, is_whole: head.is_some(), previous: head }
    }

    /// Notes that a file begins after these GTIDs.
    ///
    /// # Errors
    /// Definite when one of them was not read, or when they lack one of the GTIDs before the previous file.
    pub fn file(&mut self, previous: GtidSet, file: &str, position: &Position) -> Result<()> {
        let uuid = &position.server_uuid;
        if let Some(set) = &position.gtid_set
            && !set.contains_all(&previous)
        {
            return Err(Error::new(Code::HistoryDiffers, format!(
                "{file} of server {uuid} begins after the transactions {previous}, but only {set} were read: the binlog has a gap"
            ))
            .with_remedy(NEW_SNAPSHOT));
        }
        if let Some(before) = self.previous.as_ref().filter(|before| !previous.contains_all(before)) {
            return Err(Error::new(Code::HistoryDiffers, format!(
                "{file} of server {uuid} begins after the transactions {previous}, and the file before it after {before}: the \
                 server's binlogs were reset"
            ))
            .with_remedy(NEW_SNAPSHOT));
        }
        (self.previous, self.is_whole) = (Some(previous), true);
        Ok(())
    }

    /// Notes a read transaction: source and number of its GTID.
    pub fn transaction(&mut self, position: &mut Position, gtid: Option<(&str, u64)>) {
        let Some((source, number)) = gtid else {
            if position.gtid_set.take().is_some() {
                tracing::warn!(
                    file = position.file,
                    offset = position.offset,
                    "a transaction without a GTID: the position is file and offset until the server writes a file with GTIDs only"
                );
            }
            self.is_whole = false;
            return;
        };
        if position.gtid_set.is_none()
            && self.is_whole
            && let Some(set) = self.previous.clone()
        {
            self.has_purged = false;
            tracing::info!(file = position.file, gtids = %set, "the position has GTIDs from here on");
            position.gtid_set = Some(set);
        }
        if let Some(set) = &mut position.gtid_set {
            set.insert(source, number);
            if !self.has_purged {
                set.insert_all(&self.purged);
                self.has_purged = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use model::position::LastTransaction;

    use super::*;
    use crate::transaction::GtidMark;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const B: &str = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";

    fn set(text: &str) -> GtidSet {
        text.replace('A', A).replace('B', B).parse().expect("a set")
    }

    fn position(gtids: Option<&str>, last: Option<LastTransaction>) -> Position {
        Position {
            server_uuid: A.to_owned(),
            gtid_set: gtids.map(set),
            file: "b.000003".to_owned(),
            offset: 500,
            committed_at: Micros(9),
            anchor: Some(Anchor { created: 100, last }),
        }
    }

    fn last(number: u64, at: i64) -> Option<LastTransaction> {
        Some(LastTransaction {
            begin: 300,
            gtid: Some(format!("{A}:{number}")),
            committed_at: Micros(at),
            first_committed_at: None,
        })
    }

    fn mark(number: Option<u64>, at: i64) -> Found {
        let gtid = number.map(|n| (A.to_owned(), n));
        Found::Transaction(GtidMark { gtid, committed_at: Micros(at), first_committed_at: Micros(at) })
    }

    #[test]
    fn only_the_same_transaction_at_the_same_place_is_the_same_history() {
        let head = |end| Found::Head { previous: set("A:1-3"), end };
        for (found, anchor, want) in [
            (mark(Some(3), 9), last(3, 9), Ok(None)),
            (mark(Some(3), 10), last(3, 9), Err("transaction A:3 of")),
            (mark(Some(4), 9), last(3, 9), Err("transaction A:4 of")),
            (mark(None, 9), last(3, 9), Err("transaction without a GTID of")),
            (mark(Some(3), 9), None, Err("does not begin as it did")),
            (Found::OtherFile(101), last(3, 9), Err("created b.000003 at second 101")),
            (Found::Nothing("no event begins there".to_owned()), last(3, 9), Err("no event begins there")),
            (Found::NotSent, last(3, 9), Ok(None)),
            (head(500), None, Ok(Some(set("A:1-3")))),
            (Found::Head { previous: set("A:1-4"), end: 500 }, None, Err("does not begin as it did")),
            (Found::Head { previous: set("A:1-2,B:1"), end: 500 }, None, Err("does not begin as it did")),
            (head(158), None, Ok(None)),
            (head(500), last(3, 9), Err("does not begin as it did")),
        ] {
            let position = position(Some("A:1-3"), anchor);
            let got = compare(&position, position.anchor.as_ref().expect("an anchor"), found.clone());
            match (got, want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want, "{found:?}"),
                (Err(e), Err(want)) => {
                    assert!(e.to_string().contains(&want.replace('A', A)) && e.remedy().is_some(), "{found:?}: {e}");
                }
                (got, want) => panic!("{found:?}: {got:?} instead of {want:?}"),
            }
        }
    }

    #[test]
    fn files_say_why_they_do_not_hold_the_position() {
        let files = |files: &[(&str, u64)]| -> Vec<BinlogFile> {
            files.iter().map(|(name, size)| BinlogFile { name: (*name).to_owned(), size: *size }).collect()
        };
        for (have, want) in [
            (&[("b.000002", 900), ("b.000003", 500)][..], None),
            (&[("b.000003", 499)], Some("a crash cut their end off")),
            (&[("b.000004", 900)], Some("no longer on the server; its first one is b.000004")),
            (&[("b.000001", 900), ("b.000002", 900)], Some("which has b.000001 to b.000002")),
            (&[], Some("no binlog files")),
        ] {
            let error = holds(&files(have), &position(None, None)).err().map(|e| e.to_string());
            assert_eq!(error.is_some(), want.is_some(), "{have:?} {error:?}");
            assert!(want.is_none_or(|w| error.as_ref().is_some_and(|e| e.contains(w))), "{have:?} {error:?}");
        }
    }

    #[test]
    fn the_set_ends_without_a_gtid_and_begins_with_a_file_of_gtids() {
        let mut continuity = Continuity::new(set("B:1-5"), None);
        let mut at = position(Some("A:1-3"), None);
        continuity.transaction(&mut at, Some((A, 4)));
        assert_eq!(at.gtid_set, Some(set("A:1-4,B:1-5")));
        continuity.transaction(&mut at, None);
        assert_eq!(at.gtid_set, None, "it ends");
        continuity.transaction(&mut at, Some((A, 5)));
        assert_eq!(at.gtid_set, None, "the file has another one without");
        continuity.file(set("A:1-5"), "b.000004", &at).expect("the next file");
        assert_eq!(at.gtid_set, None, "nothing shows that a replica has what had no GTID");
        continuity.transaction(&mut at, Some((A, 6)));
        assert_eq!(at.gtid_set, Some(set("A:1-6,B:1-5")));
        continuity.file(set("A:1-6"), "b.000004", &at).expect("the next file");
        continuity.transaction(&mut at, None);
        continuity.transaction(&mut at, Some((A, 7)));
        assert_eq!(at.gtid_set, None);
    }

    #[test]
    fn a_file_that_does_not_follow_is_refused() {
        let mut continuity = Continuity::default();
        let at = position(Some("A:1-6"), None);
        let error = continuity.file(set("A:1-7"), "b.000004", &at).expect_err("7 was not read");
        assert!(error.to_string().contains("has a gap"), "{error}");
        continuity.file(set("A:1-6"), "b.000004", &at).expect("as it was read");
        let error = continuity.file(set("A:1-2"), "b.000004", &at).expect_err("less than before");
        assert!(error.to_string().contains("were reset"), "{error}");
    }
}
