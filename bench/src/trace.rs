//! How long `stream trace` takes on a long topic whose records five consumers have written, while all programs run.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use model::change::{SOURCE_HEADER, Source};
use rdkafka::consumer::Consumer;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use runtime::config::KafkaSettings;
use serde::Deserialize;
use testbed::programs::{CONSUMERS, Program, Programs};

use crate::backlog::Backlog;
use crate::drain;
use crate::lab::Lab;
use crate::load::Load;
use crate::report::{Better, Figure};
use crate::size::Size;
use crate::topic;

/// How long the consumers may write nothing.
const PATIENCE: Duration = Duration::from_secs(60);
const PARTITION: i32 = 3;

/// A record of the topic.
struct Place {
    key: String,
    position: String,
    offset: i64,
}

/// The parts of the answer that show that it is the right one.
#[derive(Deserialize)]
struct Answer {
    key: Option<String>,
    changes: Vec<Change>,
}

#[derive(Deserialize)]
struct Change {
    position: Option<String>,
    partition: i32,
    offset: i64,
    log: Option<serde::de::IgnoredAny>,
}

/// The case.
///
/// # Errors
/// When a program fails or makes no progress, or an answer is not about what was asked for.
pub(crate) fn case(lab: &mut Lab, size: &Size, say: &dyn Fn(String)) -> Result<Vec<Figure>> {
    let case = format!("Trace in a topic of {} changes", size.changes);
    say(case.clone());
    let backlog = Backlog::make(lab, Load { changes: size.changes, per_transaction: 500 }, false)?;
    let filled = backlog.ours(lab)?;
    let settings = topic::settings(&lab.kafka(), &filled.topic)?;
    let programs = lab.programs(&filled.topic);
    let mut running = vec![programs.producer()?];
    for number in 1..=CONSUMERS {
        running.push(programs.consumer(number)?);
    }
    drained(lab, &filled.topic, &mut running, backlog.changes)?;
    let (_, end) = topic::reader(&settings)?.fetch_watermarks(&settings.topic, PARTITION, PATIENCE)?;
    let [first, middle, last] = [0, end / 2, end - 200].map(|offset| place(&settings, offset));
    let (first, middle, last) = (first?, middle?, last?);
    let at_middle = format!("{PARTITION}:{}", middle.offset);
    let ways: [(&str, &[&str], &Place, &str); 6] = [
        ("a key that changed lately", &[&last.key], &last, "≤ 1 s"),
        ("the row of a record in the middle", &["--offset", &at_middle], &middle, "≤ 1 s"),
        (
            "the 500 changes of a transaction in the middle",
            &["--position", &middle.position, "--last", "500"],
            &middle,
            "≤ 1 s",
        ),
        ("those of the first transaction", &["--position", &first.position, "--last", "500"], &first, "≤ 1 s"),
        ("a key that changed long ago, not found among the last offsets", &[&first.key], &first, "≤ 1 s"),
        ("all of the first key's partition", &[&first.key, "--all"], &first, ""),
    ];
    let mut figures = Vec::new();
    for (what, arguments, place, goal) in ways {
        let times = (0..size.runs).map(|_| once(&programs, arguments, place)).collect::<Result<Vec<_>>>();
        let times = times.with_context(|| format!("stream trace {}", arguments.join(" ")))?;
        say(format!("  {what}: {times:.3?} s"));
        figures.push(Figure::new([&case, what, "s", "", goal], Better::Less, times, vec![]));
    }
    running.iter_mut().rev().try_for_each(Program::stop)?;
    Ok(figures)
}

/// Waits until the logs have all lines.
fn drained(lab: &Lab, name: &str, running: &mut [Program], lines: u64) -> Result<()> {
    let logs = lab.stack.dir().join("runs").join(name).join("consumer_logs");
    let (mut bytes, mut since) = (0, Instant::now());
    loop {
        testbed::interrupt::check()?;
        running.iter_mut().try_for_each(Program::check)?;
        let (now, _) = drain::written(&logs)?;
        if now != bytes {
            (bytes, since) = (now, Instant::now());
        } else if now > 0 && drain::lines(&logs)? == lines {
            return Ok(());
        }
        ensure!(since.elapsed() < PATIENCE, "the consumers stalled after {} lines", drain::lines(&logs)?);
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The first record from this offset on.
fn place(settings: &KafkaSettings, offset: i64) -> Result<Place> {
    let reader = topic::reader(settings)?;
    let mut partitions = TopicPartitionList::new();
    partitions.add_partition_offset(&settings.topic, PARTITION, Offset::Offset(offset))?;
    reader.assign(&partitions)?;
    let message = reader.poll(PATIENCE).context("no record")??;
    let source: Source<'_> = serde_json::from_slice(kafka::header(&message, SOURCE_HEADER).context("no header")?)?;
    let key = std::str::from_utf8(message.key().context("no key")?)?.to_owned();
    Ok(Place { key, position: source.pos.into_owned(), offset: message.offset() })
}

/// The seconds that one trace takes, from the start of its process to its end.
fn once(programs: &Programs, arguments: &[&str], place: &Place) -> Result<f64> {
    let begun = Instant::now();
    let mut trace = programs.trace(arguments)?;
    // It ends with 1 where a change is missing or not found.
    drop(trace.wait(|| Ok(())));
    let took = begun.elapsed().as_secs_f64();
    let answer: Answer = serde_json::from_str(&programs.output("trace")?)?;
    let is_it =
        |change: &Change| change.partition == PARTITION && change.offset == place.offset && change.log.is_some();
    let has_it = answer.changes.iter().any(is_it);
    let by_key = arguments.contains(&place.key.as_str()) || arguments.contains(&"--offset");
    if by_key {
        ensure!(answer.key.as_ref() == Some(&place.key), "it is about {:?}", answer.key);
    } else {
        let is_of = |change: &Change| change.position.as_ref() == Some(&place.position);
        ensure!(has_it && answer.changes.iter().all(is_of), "the record at {PARTITION}:{} is missing", place.offset);
    }
    Ok(took)
}
