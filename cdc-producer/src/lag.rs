//! How far Kafka is behind the server, and how long the server keeps the binlogs that are not in Kafka yet.
//!
//! [`Lag`] compares the end of the server's binlog, as [`crate::lag_watch`] asks for it, with the committed position.
//! All values are computed when a metric is read, so the lag grows while MySQL or Kafka does not answer. Times are those
//! of the server's clock.
//!
//! Not here: anything that progress depends on.

use std::time::{Duration, Instant};

use model::position::{BinlogOffset, Progress, compare_files};
use model::time::Micros;

use crate::server::BinlogFile;

/// The server's answers.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The server's clock, read before its files: they contain everything that was committed until then.
    pub server_time: Micros,
    /// The same moment on our clock.
    pub at: Instant,
    /// Its files, oldest first.
    pub files: Vec<BinlogFile>,
    /// How long a file is kept after its last event; `None` for ever.
    pub kept_for: Option<Duration>,
}

impl Sample {
    /// Earliest time at which retention may delete a file, in seconds since 1970, if it has an event of `read_at` (µs);
    /// infinite when retention never does. The last event of the file is at least as recent as that event, and as the
    /// last sample in which the server was still writing the file.
    pub(crate) fn purge_at(&self, file: &str, read_at: i64) -> f64 {
        let Some(kept_for) = self.kept_for else { return f64::INFINITY };
        let being_written = self.files.last().is_some_and(|last| compare_files(file, &last.name).is_ge());
        let last_event = if being_written { read_at.max(self.server_time.0) } else { read_at };
        last_event as f64 / 1e6 + kept_for.as_secs_f64()
    }
}

/// The known ends of the server's binlog and of Kafka's copy.
#[derive(Debug, Default)]
pub struct Lag {
    sample: Option<Sample>,
    /// The end of what is in Kafka.
    committed: Option<BinlogOffset>,
    /// No event between `committed` and this place concerns our table.
    nothing_until: Option<(BinlogOffset, BinlogOffset)>,
    /// Everything that the server committed until this time is in Kafka, µs.
    caught_up: Option<Micros>,
    /// The commit time of the last transaction that is in Kafka, µs.
    committed_at: i64,
    /// The files of the prepared XA transactions with an unknown outcome, and when each was prepared, µs.
    prepared: Vec<(String, i64)>,
    /// While a snapshot runs, Kafka does not have everything, however far the stream is.
    epoch: u64,
    in_snapshot: bool,
}

impl Lag {
    /// Notes the progress that is in Kafka.
    pub fn committed(&mut self, progress: &Progress) {
        let position = &progress.position;
        if self.epoch != progress.epoch {
            // The new epoch reads what an earlier epoch had reached again.
            self.caught_up = None;
            self.epoch = progress.epoch;
        }
        self.committed = (!position.file.is_empty()).then(|| position.binlog_offset());
        self.committed_at = position.committed_at.0;
        self.prepared.clear();
        let here = progress.prepared_rows.values().filter(|prepared| prepared.server_uuid == position.server_uuid);
        self.prepared.extend(here.map(|prepared| (prepared.file.clone(), prepared.at.0)));
        let continues = self.in_snapshot && progress.is_in_snapshot();
        self.in_snapshot = progress.is_in_snapshot();
        if !continues {
            self.caught_up = self.caught_up.max(Some(position.committed_at));
        }
        self.compare();
    }

    /// Notes that after `committed` the stream has reached `place` without an event for our table.
    pub(crate) fn nothing_until(&mut self, committed: &BinlogOffset, place: BinlogOffset) {
        self.nothing_until = Some((committed.clone(), place));
        self.compare();
    }

    /// Notes the server's answers.
    pub fn sampled(&mut self, sample: Sample) {
        self.sample = Some(sample);
        self.compare();
    }

    fn compare(&mut self) {
        if let Some(sample) = &self.sample
            && self.bytes() == Some(0)
            && !self.in_snapshot
        {
            self.caught_up = self.caught_up.max(Some(sample.server_time));
        }
    }

    /// The place up to which everything is in Kafka.
    fn reached(&self) -> Option<&BinlogOffset> {
        let committed = self.committed.as_ref()?;
        match &self.nothing_until {
            Some((after, place)) if after == committed && place >= committed => Some(place),
            _ => Some(committed),
        }
    }

    /// Bytes of binlog between Kafka and the last known end of the server's; events of other tables count as well.
    pub fn bytes(&self) -> Option<u64> {
        let BinlogOffset { file, offset } = self.reached()?;
        let files = &self.sample.as_ref()?.files;
        let ahead = files.iter().filter(|f| compare_files(&f.name, file).is_gt()).map(|f| f.size);
        let here = files.iter().find(|f| f.name == *file).map_or(0, |f| f.size.saturating_sub(*offset));
        Some(here + ahead.sum::<u64>())
    }

    /// The server's clock now, µs.
    fn server_time(&self) -> Micros {
        let after = |s: &Sample| s.server_time.0 + i64::try_from(s.at.elapsed().as_micros()).unwrap_or(i64::MAX);
        Micros(self.sample.as_ref().map_or_else(|| Micros::now().0, after))
    }

    /// Seconds since the last moment at which Kafka is known to have had everything.
    pub fn seconds(&self) -> Option<f64> {
        self.caught_up.map(|at| ((self.server_time().0 - at.0) as f64 / 1e6).max(0.0))
    }

    /// Seconds until retention may delete the first file that is still needed; infinite when it never does, negative
    /// when that time has passed. Needed are the file that is read next, and the files with the rows of prepared XA
    /// transactions.
    pub fn purge_seconds(&self) -> Option<f64> {
        let sample = self.sample.as_ref()?;
        let next = sample.purge_at(&self.reached()?.file, self.committed_at);
        let prepared = self.prepared.iter().map(|(file, at)| sample.purge_at(file, *at));
        let earliest = prepared.chain([next]).min_by(f64::total_cmp)?;
        Some(earliest - self.server_time().0 as f64 / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use model::position::{Position, PreparedAt, SnapshotProgress};

    use super::*;

    const SECOND: i64 = 1_000_000;

    fn progress(file: &str, offset: u64, second: i64) -> Progress {
        let position = Position {
            server_uuid: String::new(),
            gtid_set: None,
            file: file.to_owned(),
            offset,
            committed_at: Micros(second * SECOND),
            anchor: None,
        };
        Progress::new(1, position)
    }

    fn sample(second: i64, files: &[(&str, u64)], kept_for: Option<u64>) -> Sample {
        let files = files.iter().map(|(name, size)| BinlogFile { name: (*name).to_owned(), size: *size }).collect();
        let kept_for = kept_for.map(Duration::from_secs);
        Sample { server_time: Micros(second * SECOND), at: Instant::now(), files, kept_for }
    }

    /// Seconds of lag, bytes of lag, seconds until the purge.
    fn shown(lag: &Lag) -> (Option<i64>, Option<u64>, Option<i64>) {
        let whole = |seconds: f64| seconds.round() as i64;
        (lag.seconds().map(whole), lag.bytes(), lag.purge_seconds().map(whole))
    }

    #[test]
    fn it_grows_until_kafka_has_everything() {
        let mut lag = Lag::default();
        assert_eq!(shown(&lag), (None, None, None));
        lag.committed(&progress("b.000001", 100, 1_000));
        lag.sampled(sample(1_060, &[("b.000001", 300), ("b.000002", 50)], Some(600)));
        assert_eq!(shown(&lag), (Some(60), Some(250), Some(540)), "an older file is to be read");
        lag.committed(&progress("b.000002", 40, 1_050));
        assert_eq!(shown(&lag), (Some(10), Some(10), Some(600)), "the file that is being written");
        lag.committed(&progress("b.000002", 50, 1_055));
        assert_eq!(shown(&lag), (Some(0), Some(0), Some(600)));
        lag.sampled(sample(1_070, &[("b.000002", 90)], None));
        assert_eq!((shown(&lag).0, shown(&lag).1, lag.purge_seconds()), (Some(10), Some(40), Some(f64::INFINITY)));
    }

    #[test]
    fn what_is_not_ours_is_no_lag() {
        let at = |file: &str, offset| BinlogOffset { file: file.to_owned(), offset };
        let mut lag = Lag::default();
        lag.committed(&progress("b.000002", 4, 1_000));
        lag.sampled(sample(2_000, &[("b.000002", 197)], Some(600)));
        assert_eq!(shown(&lag), (Some(1_000), Some(193), Some(600)));
        lag.nothing_until(&at("b.000002", 4), at("b.000002", 197));
        assert_eq!(shown(&lag), (Some(0), Some(0), Some(600)));
        lag.nothing_until(&at("b.000001", 4), at("b.000002", 197));
        assert_eq!(lag.bytes(), Some(193), "the answer belongs to another state");
    }

    #[test]
    fn a_prepared_transaction_needs_its_file() {
        let mut lag = Lag::default();
        let mut progress = progress("b.000003", 100, 1_900);
        progress.position.server_uuid = "here".to_owned();
        let prepared = |server_uuid: &str, file: &str, second: i64| PreparedAt {
            server_uuid: server_uuid.to_owned(),
            file: file.to_owned(),
            offset: 4,
            at: Micros(second * SECOND),
        };
        // A server that is no longer read may purge everything.
        progress.prepared_rows.insert("a".to_owned(), prepared("there", "b.000001", 1_000));
        lag.committed(&progress);
        lag.sampled(sample(2_000, &[("b.000001", 9), ("b.000002", 9), ("b.000003", 100)], Some(600)));
        assert_eq!(shown(&lag).2, Some(600));
        progress.prepared_rows.insert("b".to_owned(), prepared("here", "b.000003", 1_500));
        lag.committed(&progress);
        assert_eq!(shown(&lag).2, Some(600), "it is being written");
        progress.prepared_rows.insert("c".to_owned(), prepared("here", "b.000002", 1_700));
        progress.prepared_rows.insert("d".to_owned(), prepared("here", "b.000001", 1_650));
        lag.committed(&progress);
        assert_eq!(shown(&lag).2, Some(250));
        progress.prepared_rows.remove("d");
        lag.committed(&progress);
        assert_eq!(shown(&lag).2, Some(300));
        lag.sampled(sample(2_000, &[("b.000003", 100)], None));
        assert_eq!(lag.purge_seconds(), Some(f64::INFINITY));
    }

    #[test]
    fn nothing_is_complete_before_the_snapshot_is() {
        let mut lag = Lag::default();
        let mut first = progress("b.000001", 100, 1_000);
        first.main.snapshot = Some(SnapshotProgress { after: None, first: 0, rows: 0, begin: None, sweep: None });
        lag.committed(&first);
        first.position.committed_at = Micros(1_030 * SECOND);
        lag.committed(&first);
        lag.sampled(sample(1_040, &[("b.000001", 100)], None));
        assert_eq!(shown(&lag).0, Some(40));
        lag.committed(&progress("b.000001", 100, 1_030));
        assert_eq!(shown(&lag).0, Some(0));
        let mut again = progress("b.000001", 50, 900);
        again.epoch = 2;
        lag.committed(&again);
        assert_eq!(shown(&lag).0, Some(140), "a replay from an earlier time is behind");
    }
}
