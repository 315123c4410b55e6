//! The position of the source up to which verify compares, so that the table may be written to meanwhile.
//!
//! Verify reads the table in one consistent snapshot, and knows almost exactly which transactions that snapshot
//! contains: all of [`Cut::low`], which was read before it, and none after [`Cut::high`], which was read after it. So a
//! row that no later transaction touched must equal its last record. A row that a transaction after `low` touched must
//! equal one of the states that its records give since then.

use std::time::Duration;

use model::error::{Code, Error, Result};
use model::gtid::GtidSet;
use model::position::{Progress, compare_files};
use mysql::table::{self, answered};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row};

use crate::place::{Place, Places};
use crate::source::Source;

/// How long a transaction in the binlog may take to become visible.
const COMMITTING: Duration = Duration::from_secs(2);

/// The end of a server's binlog.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BinlogEnd {
    /// `gtid_mode` is `ON`: every transaction has a GTID.
    pub(crate) has_gtids: bool,
    /// All transactions that the server has executed and that have GTIDs.
    pub(crate) executed: GtidSet,
    pub(crate) file: String,
    /// Offset in the file, bytes.
    pub(crate) offset: u64,
}

impl BinlogEnd {
    /// Asks the server.
    ///
    /// # Errors
    /// As [`table::failed`]; definite when it has no binlog.
    pub(crate) async fn ask(conn: &mut Conn) -> Result<Self> {
        let failed = |e| table::failed("ask where the binlog ends", e);
        let (major, minor, _) = conn.server_version();
        let query = if (major, minor) >= (8, 2) { "SHOW BINARY LOG STATUS" } else { "SHOW MASTER STATUS" };
        let status: Option<Row> = answered(conn.query_first(query)).await.map_err(failed)?;
        let (file, offset) = status.and_then(|row| Some((row.get(0)?, row.get(1)?))).ok_or_else(|| {
            Error::new(Code::ServerSettings, "the server has no binlog").with_remedy(table::ENABLE_BINLOG)
        })?;
        let query = "SELECT @@GLOBAL.gtid_mode, @@GLOBAL.gtid_executed";
        let row: Option<(String, String)> = answered(conn.query_first(query)).await.map_err(failed)?;
        let (mode, executed) = row.unwrap_or_default();
        Ok(Self { has_gtids: mode == "ON", executed: set(&executed)?, file, offset })
    }

    /// Whether this end contains the transaction of a record, or all transactions that a snapshot's record contains.
    fn contains(&self, places: &Places, place: Place) -> bool {
        match place {
            Place::Gtid(source, number) => self.executed.contains(places.name(source), number),
            Place::Contains(set) => self.executed.contains_all(places.set(set)),
            Place::File(file, offset) => {
                compare_files(places.name(file), &self.file).then(offset.cmp(&self.offset)).is_le()
            }
        }
    }

    /// Whether the place belongs to a source whose transactions this server has.
    fn knows(&self, places: &Places, place: Place) -> bool {
        let knows = |source: &str| self.executed.sources().any(|(known, _)| known == source);
        match place {
            Place::Gtid(source, _) => knows(places.name(source)),
            Place::Contains(set) => places.set(set).sources().any(|(source, _)| knows(source)),
            Place::File(..) => true,
        }
    }

    /// The transactions that the producer has not published yet; `None` when it has reached this end.
    pub(crate) fn missing(&self, progress: Option<&Progress>) -> Option<String> {
        let Some(progress) = progress else { return Some("the producer has not begun".to_owned()) };
        if let Some(snapshot) = &progress.main.snapshot {
            return Some(format!("the producer's snapshot is at row {}", snapshot.emitted()));
        }
        let position = &progress.position;
        if let Some(set) = position.gtid_set.as_ref().filter(|_| self.has_gtids) {
            let left = count_missing(&self.executed, set);
            let all = &self.executed;
            return (left > 0).then(|| {
                format!("the producer is {left} transactions behind (it stands at {set}, the server at {all})")
            });
        }
        let Self { file, offset, .. } = self;
        let order = compare_files(&position.file, file).then(position.offset.cmp(offset));
        order.is_lt().then(|| {
            format!("the producer stands at {}:{}, the server at {file}:{offset}", position.file, position.offset)
        })
    }

    /// As text for a person: the GTID set, or file and offset if the server has no GTIDs.
    pub(crate) fn describe(&self) -> String {
        if self.has_gtids { self.executed.to_string() } else { format!("{}:{}", self.file, self.offset) }
    }
}

/// The number of GTIDs of `all` that are not in `have`.
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

fn set(text: &str) -> Result<GtidSet> {
    text.parse().map_err(|e| Error::definite("the server's set of GTIDs can't be read").with_source(e))
}

/// GTIDs of transactions that are committing: they may be in the binlog, and visible, before `gtid_executed` has them.
async fn in_commit(conn: &mut Conn) -> Result<GtidSet> {
    let failed = |e| table::failed("ask which transactions are being committed", e);
    let owned: Option<String> = answered(conn.query_first("SELECT @@GLOBAL.gtid_owned")).await.map_err(failed)?;
    set(&without_threads(&owned.unwrap_or_default()))
}

/// `gtid_owned` names the thread behind each number: `uuid:5#12:6#13`.
fn without_threads(owned: &str) -> String {
    let mut in_thread = false;
    let mut keep = |c: char| {
        in_thread = c == '#' || (in_thread && c.is_ascii_digit());
        !in_thread
    };
    owned.chars().filter(|c| keep(*c)).collect()
}

/// The position up to which verify compares.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cut {
    /// The table's snapshot contains everything up to here.
    low: BinlogEnd,
    /// It contains nothing after here.
    high: BinlogEnd,
    /// The server's executed transactions after the topic's end was fixed.
    last: BinlogEnd,
}

impl Cut {
    /// Opens one snapshot of the table for all later reads on this connection.
    ///
    /// # Errors
    /// As [`table::failed`].
    pub(crate) async fn open(conn: &mut Conn, source: &Source) -> Result<Self> {
        let low = BinlogEnd::ask(conn).await?;
        if !low.has_gtids {
            // A transaction in the binlog becomes visible an instant later; `gtid_executed` has only visible ones.
            table::wait_for_writers(conn, &source.database, &source.table).await?;
        }
        let begun = answered(conn.query_drop("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")).await;
        begun.map_err(|e| table::failed("begin a read-only transaction", e))?;
        let visible = in_commit(conn).await?;
        let deadline = tokio::time::Instant::now() + COMMITTING;
        let high = loop {
            let pending = in_commit(conn).await?;
            let end = BinlogEnd::ask(conn).await?;
            // A transaction that takes longer is not committing: it holds its GTID by SET gtid_next.
            if !overlap(&visible, &pending) || tokio::time::Instant::now() > deadline {
                break end;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        Ok(Self { last: high.clone(), low, high })
    }

    /// The position that the producer must reach before the topic can be compared with the table.
    pub(crate) fn high(&self) -> &BinlogEnd {
        &self.high
    }

    /// After the topic's end was fixed: asks which transactions the server has executed by now.
    ///
    /// # Errors
    /// As [`table::failed`].
    pub(crate) async fn close(&mut self, conn: &mut Conn) -> Result<()> {
        let in_commit = in_commit(conn).await?;
        self.last = BinlogEnd::ask(conn).await?;
        self.last.executed.insert_all(&in_commit);
        Ok(())
    }

    /// Whether the table's snapshot may lack this change.
    pub(crate) fn is_after_low(&self, places: &Places, place: Place) -> bool {
        !self.low.contains(places, place) && self.high.knows(places, place)
    }

    /// Whether the server made this change after [`Cut::low`]. A change outside its history was not made by it.
    pub(crate) fn is_recent(&self, places: &Places, place: Place) -> bool {
        self.is_after_low(places, place) && self.last.contains(places, place)
    }
}

fn overlap(a: &GtidSet, b: &GtidSet) -> bool {
    a.sources().any(|(source, ours)| {
        let theirs = b.sources().find(|(s, _)| *s == source).map_or(&[][..], |(_, intervals)| intervals);
        ours.iter().any(|(start, end)| theirs.iter().any(|(s, e)| s < end && start < e))
    })
}

#[cfg(test)]
mod tests {
    use model::change::Op;
    use model::position::{Position, SnapshotProgress};
    use model::time::Micros;

    use super::*;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const B: &str = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";

    fn gtids(text: &str) -> GtidSet {
        text.parse().expect("a set")
    }

    fn end(executed: &str, file: &str, offset: u64) -> BinlogEnd {
        BinlogEnd { has_gtids: !executed.is_empty(), executed: gtids(executed), file: file.to_owned(), offset }
    }

    fn progress(set: Option<&str>, file: &str, offset: u64) -> Progress {
        let gtid_set = set.map(gtids);
        let position = Position {
            server_uuid: A.to_owned(),
            gtid_set,
            file: file.to_owned(),
            offset,
            committed_at: Micros(0),
            anchor: None,
        };
        Progress::new(1, position)
    }

    #[test]
    fn missing_transactions_are_counted() {
        for (all, have, want) in [
            (format!("{A}:1-10"), format!("{A}:1-10"), 0),
            (format!("{A}:1-10"), format!("{A}:1-20,{B}:1"), 0),
            (format!("{A}:1-10:15"), format!("{A}:2-4:9-11"), 6),
            (format!("{A}:1-2,{B}:1-3"), String::new(), 5),
        ] {
            assert_eq!(count_missing(&gtids(&all), &gtids(&have)), want, "{all} {have}");
        }
    }

    #[test]
    fn the_producer_has_arrived_or_something_is_missing() {
        let all = end(&format!("{A}:1-10"), "binlog.000010", 500);
        let file = end("", "binlog.000010", 500);
        assert_eq!(all.missing(None).as_deref(), Some("the producer has not begun"));
        assert_eq!(all.missing(Some(&progress(Some(&format!("{A}:1-11")), "", 0))), None);
        // A position from before the server had GTIDs.
        assert_eq!(all.missing(Some(&progress(None, "binlog.000010", 500))), None);
        let text = all.missing(Some(&progress(Some(&format!("{A}:1-7")), "", 0))).unwrap_or_default();
        assert!(text.starts_with("the producer is 3 transactions behind"), "{text}");
        assert_eq!(file.missing(Some(&progress(None, "binlog.000010", 500))), None);
        assert_eq!(file.missing(Some(&progress(None, "binlog.000011", 4))), None);
        let text = file.missing(Some(&progress(None, "binlog.000009", 900)));
        assert_eq!(text.as_deref(), Some("the producer stands at binlog.000009:900, the server at binlog.000010:500"));
        let mut early = progress(Some(&format!("{A}:1-10")), "", 0);
        early.main.snapshot = Some(SnapshotProgress { after: None, first: 0, rows: 7, begin: None, sweep: None });
        assert_eq!(all.missing(Some(&early)).as_deref(), Some("the producer's snapshot is at row 7"));
    }

    #[test]
    fn a_change_is_before_the_cut_or_recent_or_no_change_of_this_server() {
        let cut = Cut {
            low: end(&format!("{A}:1-10"), "binlog.000002", 500),
            high: end(&format!("{A}:1-12"), "binlog.000002", 600),
            last: end(&format!("{A}:1-14"), "binlog.000003", 100),
        };
        let mut places = Places::default();
        for (pos, op, after_low, recent) in [
            (format!("{A}:10"), Op::Update, false, false),
            (format!("{A}:11"), Op::Update, true, true),
            (format!("{A}:14"), Op::Update, true, true),
            (format!("{A}:15"), Op::Update, true, false),
            (format!("{B}:1"), Op::Update, false, false),
            (format!("{A}:1-10"), Op::Snapshot, false, false),
            (format!("{A}:1-11"), Op::Snapshot, true, true),
            (format!("{B}:1-11"), Op::Snapshot, false, false),
            ("binlog.000002:500".to_owned(), Op::Update, false, false),
            ("binlog.000002:501".to_owned(), Op::Update, true, true),
            ("binlog.000003:101".to_owned(), Op::Snapshot, true, false),
        ] {
            let place = places.place(&pos, op).expect("a place");
            assert_eq!((cut.is_after_low(&places, place), cut.is_recent(&places, place)), (after_low, recent), "{pos}");
        }
    }

    #[test]
    fn owned_gtids_are_read_without_their_threads() {
        let owned = format!("{A}:5#12:6#13,\n{B}:tag:7#8");
        assert_eq!(gtids(&without_threads(&owned)), gtids(&format!("{A}:5-6,{B}:tag:7")));
        assert!(overlap(&gtids(&format!("{A}:5-6")), &gtids(&format!("{A}:6"))));
        assert!(!overlap(&gtids(&format!("{A}:5")), &gtids(&format!("{A}:6,{B}:5"))));
    }
}
