//! Checks of `doctor` whether the server still has the binlogs with the rows of prepared XA transactions, and for how
//! long.

use kafka::doctor::Check;
use model::error::Result;
use model::position::{PreparedAt, Progress, compare_files};
use model::time::Micros;
use mysql_async::Conn;

use crate::lag::Sample;
use crate::lag_watch::sample;

const NAME: &str = "prepared XA";

/// Asks the server of `conn` for its binlogs.
///
/// # Errors
/// Transient when the link breaks; definite when the user may not ask.
pub(crate) async fn check(conn: &mut Conn, progress: &Progress) -> Result<Check> {
    Ok(judge(progress, &sample(conn).await?))
}

fn judge(progress: &Progress, sample: &Sample) -> Check {
    let here = |prepared: &PreparedAt| prepared.server_uuid == progress.position.server_uuid;
    let deadline = |prepared: &PreparedAt| sample.purge_at(&prepared.file, prepared.at.0);
    let next = progress
        .prepared_rows
        .iter()
        .filter(|(_, prepared)| here(prepared))
        .min_by(|(_, a), (_, b)| deadline(a).total_cmp(&deadline(b)));
    let Some((xa, prepared)) = next else {
        return Check::good(NAME, "no transaction with rows of the table waits for its outcome");
    };
    let waits = format!(
        "the XA transaction {xa} has rows of the table, is prepared since {} at {}:{} and waits for its outcome",
        prepared.at, prepared.file, prepared.offset
    );
    if sample.files.first().is_some_and(|first| compare_files(&first.name, &prepared.file).is_gt()) {
        return Check::warning(
            NAME,
            format!("{waits}, but the server no longer has {}", prepared.file),
            format!(
                "XA ROLLBACK {xa}; or XA COMMIT {xa} and then `cdc-producer checkpoint reset`; if XA RECOVER does not list it, \
                 `cdc-producer checkpoint reset`"
            ),
        );
    }
    let Some(kept_for) = sample.kept_for else { return Check::good(NAME, waits) };
    let left = deadline(prepared) - sample.server_time.0 as f64 / 1e6;
    let until = Micros((deadline(prepared) * 1e6) as i64);
    let found = format!("{waits}; the server keeps {} until {until} at least", prepared.file);
    if left > f64::min(kept_for.as_secs_f64() / 2.0, 86_400.0) {
        return Check::good(NAME, found);
    }
    Check::warning(
        NAME,
        found,
        format!(
            "XA COMMIT {xa} or XA ROLLBACK {xa}; or keep binlogs longer (SET PERSIST binlog_expire_logs_seconds); if XA RECOVER \
             does not list it, `cdc-producer checkpoint reset`"
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use kafka::doctor::Outcome;
    use model::position::Position;

    use super::*;
    use crate::server::BinlogFile;

    #[test]
    fn the_one_whose_binlog_goes_first_is_named() {
        const SECOND: i64 = 1_000_000;
        let position = Position {
            server_uuid: "here".to_owned(),
            gtid_set: None,
            file: "b.000005".to_owned(),
            offset: 4,
            committed_at: Micros(0),
            anchor: None,
        };
        let files = ["b.000002", "b.000003", "b.000005"];
        let files = files.map(|name| BinlogFile { name: name.to_owned(), size: 9 }).to_vec();
        for (prepared, kept_for, want, text) in [
            (&[][..], Some(600), Outcome::Good, "no transaction"),
            (&[("there", "b.000001", 0)], Some(600), Outcome::Good, "no transaction"),
            (&[("here", "b.000003", 800)], Some(600), Outcome::Good, "until 1970-01-01T00:23:20"),
            (&[("here", "b.000003", 600), ("here", "b.000002", 500)], Some(600), Outcome::Warning, "at b.000002:7"),
            (&[("here", "b.000005", 0)], Some(600), Outcome::Good, "until 1970-01-01T00:26:40"),
            (&[("here", "b.000002", 1)], None, Outcome::Good, "at b.000002:7"),
            (&[("here", "b.000001", 900)], Some(600), Outcome::Warning, "no longer has b.000001"),
            (&[("here", "b.000001", 900)], None, Outcome::Warning, "no longer has b.000001"),
            // A progress of an earlier version does not have the time.
            (&[("here", "b.000002", 0)], Some(600), Outcome::Warning, "at b.000002:7"),
        ] {
            let mut progress = Progress::new(1, position.clone());
            for (n, (uuid, file, second)) in prepared.iter().enumerate() {
                let place = PreparedAt {
                    server_uuid: (*uuid).to_owned(),
                    file: (*file).to_owned(),
                    offset: 7,
                    at: Micros(second * SECOND),
                };
                progress.prepared_rows.insert(format!("X'{n}',X'',1"), place);
            }
            let sample = Sample {
                server_time: Micros(1_000 * SECOND),
                at: Instant::now(),
                files: files.clone(),
                kept_for: kept_for.map(Duration::from_secs),
            };
            let check = judge(&progress, &sample);
            assert!(check.outcome == want && check.found.contains(text), "{prepared:?} {kept_for:?}: {check:?}");
        }
    }
}
