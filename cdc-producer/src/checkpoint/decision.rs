//! Decides what a start does, from the checkpoint file and the progress in Kafka.

use std::path::Path;

use model::error::{Code, Error, Result};
use model::position::Progress;

use super::content::{Request, State, Written};

/// The decision of a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Continues from the position in Kafka.
    Resume(Box<Progress>),
    /// Begins this epoch.
    Begin {
        /// Its number.
        epoch: u64,
        /// The request.
        request: Request,
    },
}

/// Decides from the file and the progress in Kafka. Pure: the caller assigns the identity of a request afterwards.
///
/// # Errors
/// Definite when file and progress contradict each other; nothing is changed then.
pub fn decide(state: State, kafka: Option<Progress>, source: &str, path: &Path) -> Result<Start> {
    let refuse = |code: Code, reason: String, remedy: &str| {
        Err(Error::new(code, format!("{}: {reason}", path.display()))
            .with_remedy(format!("nothing was overwritten. {remedy}")))
    };
    let reset = "Ask for a replay with `cdc-producer checkpoint reset` (snapshot, then the binlog)";
    match state {
        State::Asked(request) => Ok(match kafka {
            Some(kafka) if request.id.as_deref() == Some(&kafka.request) => Start::Resume(Box::new(kafka)),
            kafka => Start::Begin { epoch: kafka.map_or(1, |k| k.epoch + 1), request },
        }),
        State::Written(written) if written.source != source => refuse(
            Code::CheckpointFileDamaged,
            format!("it belongs to {}, but the source is {source}", written.source),
            "Give each source its own producer.time_track and kafka.topic. If the source has another name now, ask for a replay \
             with `cdc-producer checkpoint reset`. If only the file is wrong, `cdc-producer checkpoint restore` writes it \
             from the position in Kafka",
        ),
        State::Written(written) => match kafka {
            None => refuse(
                Code::CheckpointFileAhead,
                format!(
                    "it says epoch {} at {}:{}, but Kafka holds no position for {source}",
                    written.epoch, written.file, written.offset
                ),
                &format!("Is this the right cluster, and was the checkpoint topic deleted? {reset}"),
            ),
            Some(kafka) if is_of_another_server(&written, &kafka) => refuse(
                Code::CheckpointFileDamaged,
                format!(
                    "it was read from server {}, but the position in Kafka belongs to {}",
                    written.server_uuid, kafka.position.server_uuid
                ),
                &format!(
                    "`cdc-producer checkpoint restore` writes the file from the position in Kafka, which the start compares \
                     with the server. {reset}"
                ),
            ),
            Some(kafka) if is_ahead(&written, &kafka) => refuse(
                Code::CheckpointFileAhead,
                format!("it is ahead of the position in Kafka (epoch {} at {})", kafka.epoch, kafka.position),
                &format!("Kafka has lost records, or it is another cluster. {reset}"),
            ),
            Some(kafka) => Ok(Start::Resume(Box::new(kafka))),
        },
    }
}

/// The text of the file with which the next start continues from the position in Kafka. Pure; `state` is the present
/// content of the file, `None` when it is damaged or missing.
///
/// # Errors
/// Definite when Kafka has no position, or when the file shows that Kafka once had a later one: the records behind the
/// position would be written again.
pub fn restored(state: Option<State>, kafka: Option<&Progress>, source: &str) -> Result<String> {
    let reset = "`cdc-producer checkpoint reset` asks for a snapshot, then the binlog";
    let Some(kafka) = kafka else {
        return Err(Error::new(
            Code::NothingToRestore,
            format!("Kafka holds no position for {source}, so there is nothing to restore"),
        )
        .with_remedy(format!("is this the right cluster (kafka.bootstrap_servers, kafka.topic)? {reset}")));
    };
    match state {
        Some(State::Written(written))
            if written.source == source && !is_of_another_server(&written, kafka) && is_ahead(&written, kafka) =>
        {
            Err(Error::new(Code::CheckpointFileAhead, format!(
                "the file says epoch {} at {}:{}, which is ahead of the position in Kafka (epoch {} at {}): from there, changes \
                 that the topic has would be written a second time",
                written.epoch, written.file, written.offset, kafka.epoch, kafka.position
            ))
            .with_remedy(format!("Kafka has lost records, or it is another cluster. {reset}")))
        }
        _ => Ok(Written::of(kafka, source).text()),
    }
}

/// Files and offsets of two servers can't be compared; GTIDs can, and stay valid after a failover.
fn is_of_another_server(written: &Written, kafka: &Progress) -> bool {
    let gtids = written.gtid_set.is_some() && kafka.position.gtid_set.is_some();
    written.epoch == kafka.epoch && !gtids && written.server_uuid != kafka.position.server_uuid
}

fn is_ahead(written: &Written, kafka: &Progress) -> bool {
    if written.epoch != kafka.epoch {
        return written.epoch > kafka.epoch;
    }
    match (&written.gtid_set, &kafka.position.gtid_set) {
        (Some(file), Some(kafka)) => !kafka.contains_all(file),
        _ => model::position::compare_files(&written.file, &kafka.position.file)
            .then(written.offset.cmp(&kafka.position.offset))
            .is_gt(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use model::position::Position;
    use model::time::Micros;

    use super::super::content::parse;
    use super::*;

    const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn progress(epoch: u64, gtids: u64) -> Progress {
        let position = Position {
            server_uuid: UUID.to_owned(),
            gtid_set: format!("{UUID}:1-{gtids}").parse().ok(),
            file: "binlog.000002".to_owned(),
            offset: gtids * 100,
            committed_at: Micros(1_763_697_600_000_000 + gtids as i64),
            anchor: None,
        };
        Progress { request: format!("snapshot {epoch}"), ..Progress::new(epoch, position) }
    }

    fn file(progress: &Progress) -> String {
        Written::of(progress, "db.product").text()
    }

    fn decision(text: &str, kafka: Option<Progress>) -> String {
        let path = Path::new("time_track/last_read_timestamp.json");
        match parse(text, path).and_then(|s| decide(s, kafka, "db.product", path)) {
            Ok(Start::Resume(p)) => format!("resume epoch {} at {}", p.epoch, p.position.offset),
            Ok(Start::Begin { epoch, request }) => {
                format!("begin epoch {epoch} from {:?}", request.from.map(|t| t.to_string()))
            }
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn each_row_of_the_table() {
        let kafka = || Some(progress(2, 50));
        for (name, text, kafka, want) in [
            ("null", r#"{"last_read_timestamp": null}"#.to_owned(), kafka(), "begin epoch 3 from None"),
            ("first start", r#"{"last_read_timestamp": null}"#.to_owned(), None, "begin epoch 1 from None"),
            ("what was written last", file(&progress(2, 50)), kafka(), "resume epoch 2 at 5000"),
            ("an older state", file(&progress(2, 40)), kafka(), "resume epoch 2 at 5000"),
            ("an older epoch", file(&progress(1, 90)), kafka(), "resume epoch 2 at 5000"),
            (
                "a person's time",
                r#"{"last_read_timestamp": "2026-11-21 04:00:00"}"#.to_owned(),
                kafka(),
                r#"begin epoch 3 from Some("2026-11-21T04:00:00.000000Z")"#,
            ),
            (
                "a person's time in the program's file",
                file(&progress(2, 50)).replacen("2025-11-21T04:00:00.000050Z", "2024-11-21T04:00:00Z", 1),
                kafka(),
                r#"begin epoch 3 from Some("2024-11-21T04:00:00.000000Z")"#,
            ),
            (
                "null in the program's file",
                file(&progress(2, 50)).replacen("\"2025-11-21T04:00:00.000050Z\"", "null", 1),
                kafka(),
                "begin epoch 3 from None",
            ),
            (
                "a request that was carried out",
                r#"{"last_read_timestamp": null, "request": "snapshot 2"}"#.to_owned(),
                kafka(),
                "resume epoch 2 at 5000",
            ),
            (
                "a request edited after that",
                r#"{"last_read_timestamp": "2026-11-21 04:00:00", "request": "snapshot 2"}"#.to_owned(),
                kafka(),
                r#"begin epoch 3 from Some("2026-11-21T04:00:00.000000Z")"#,
            ),
        ] {
            assert_eq!(decision(&text, kafka), want, "{name}");
        }
    }

    #[test]
    fn contradictions_are_refused_with_the_ways_out() {
        for (text, kafka, want) in [
            (file(&progress(2, 60)), Some(progress(2, 50)), "it is ahead of the position in Kafka"),
            (file(&progress(3, 1)), Some(progress(2, 50)), "it is ahead of the position in Kafka"),
            (file(&progress(1, 1)), None, "Kafka holds no position for db.product"),
            (file(&progress(1, 1)).replace("db.product", "db.other"), None, "it belongs to db.other"),
            ("not json".to_owned(), None, "not valid JSON"),
            ("[]".to_owned(), None, "not a JSON object"),
            ("{}".to_owned(), None, "it has no last_read_timestamp"),
            (r#"{"last_read_timestamp": 5}"#.to_owned(), None, "is 5, not a text or null"),
            (r#"{"last_read_timestamp": "soon"}"#.to_owned(), None, "neither RFC 3339 nor"),
        ] {
            let got = decision(&text, kafka);
            assert!(got.contains(want), "{text}: {got}");
        }
    }

    #[test]
    fn the_file_is_restored_from_the_position_in_kafka_unless_it_was_further() {
        let kafka = progress(2, 50);
        let path = Path::new("file");
        let damaged = file(&kafka).replacen("2025-11-21T", "2025-11-21 soon", 1);
        for text in [
            Some(damaged.as_str()),
            Some(&file(&kafka)),
            Some(&file(&progress(2, 40))),
            Some(&file(&progress(2, 60)).replace("db.product", "db.other")),
            Some(r#"{"last_read_timestamp": "2999-01-01 00:00:00"}"#),
            None,
        ] {
            let state = text.and_then(|text| parse(text, path).ok());
            assert_eq!(restored(state, Some(&kafka), "db.product").ok(), Some(file(&kafka)), "{text:?}");
        }
        let refused = |text: &str, kafka: Option<&Progress>| {
            restored(parse(text, path).ok(), kafka, "db.product").expect_err("it is refused").to_string()
        };
        let lost = refused(&file(&progress(2, 60)), Some(&kafka));
        assert!(lost.contains("epoch 2 at binlog.000002:6000, which is ahead of the position in Kafka"), "{lost}");
        let none = refused("not json", None);
        assert!(none.contains("Kafka holds no position for db.product"), "{none}");
    }

    #[test]
    fn files_and_offsets_belong_to_one_server() {
        let without_gtids = |offset: u64| {
            let mut progress = progress(2, 50);
            progress.position.gtid_set = None;
            progress.position.offset = offset;
            progress
        };
        let other = file(&without_gtids(5000)).replace(UUID, "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee");
        for (text, want) in [
            (other, "it was read from server aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"),
            (file(&without_gtids(5001)), "it is ahead of the position in Kafka"),
            (file(&without_gtids(4999)), "resume epoch 2 at 5000"),
        ] {
            let got = decision(&text, Some(without_gtids(5000)));
            assert!(got.contains(want), "{text}: {got}");
        }
    }

    #[test]
    fn the_file_is_what_it_was() {
        let mut with_snapshot = progress(2, 50);
        with_snapshot.main.snapshot = Some(model::position::SnapshotProgress {
            after: Some(model::position::KeyBound::One(model::position::KeyPart::Signed(7))),
            first: 0,
            rows: 7,
            begin: None,
            sweep: None,
        });
        let text = Written::of(&with_snapshot, "buy_online_db.product").text();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/last_read_timestamp.json");
        if std::env::var_os("BLESS").is_some() {
            fs::write(&golden, &text).expect("to write the golden file");
        }
        assert_eq!(text, fs::read_to_string(golden).expect("the golden file; BLESS=1 writes it"));
    }
}
