//! What it costs the pipeline to be looked at: the latency to the log and the CPU of the programs at 1,000 changes a
//! second, in turns unobserved, with the console and a browser's stream of events, and with `stream status --watch`.
//!
//! All programs answer at `/metrics` in each run, as the lookers ask them there.

use std::cell::RefCell;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use testbed::Usage;
use testbed::programs::{Program, Programs};

use super::measure::{Latency, latencies, observe, prepare};
use super::ours::{Read, checkpoints, start};
use crate::lab::Lab;
use crate::pace::Stretch;
use crate::report::{Better, Figure};
use crate::size::Size;
use crate::{drain, postgres};

const RATE: u64 = 1_000;
/// Where the producer and the five consumers answer.
const METRICS: &str = "127.0.0.1:9170-9179";

/// Who looks.
#[derive(Clone, Copy, Debug)]
enum Looker {
    Nobody,
    Console,
    Status,
}

/// The results of a run.
#[derive(Debug)]
struct Run {
    latency: Latency,
    /// CPU seconds of producer and consumers for a million changes.
    cpu_per_million: f64,
    /// Of one core, percent.
    looker_cpu: f64,
}

/// Runs the case.
///
/// # Errors
/// When a program fails or makes no progress, or a change does not arrive exactly once.
pub fn run(lab: &mut Lab, size: &Size, say: &dyn Fn(String)) -> Result<Vec<Figure>> {
    let (runs, measured) = if size.changes < 1_000_000 { (1, 10) } else { (size.runs, 25) };
    say(format!("Look: single inserts at {RATE} a second, {measured} s each after a warm-up, in turns"));
    let (mut nobody, mut console, mut status) = (vec![], vec![], vec![]);
    for _ in 0..runs {
        for (looker, all) in
            [(Looker::Nobody, &mut nobody), (Looker::Console, &mut console), (Looker::Status, &mut status)]
        {
            let run = once(lab, measured, looker)?;
            let [p50, p99, _] = run.latency.quantiles;
            say(format!(
                "  {:8} p50 {p50:6.1}  p99 {p99:6.1} ms  {:6.2} CPU-s per million  {:5.1} % of a core to look",
                format!("{looker:?}"),
                run.cpu_per_million,
                run.looker_cpu
            ));
            all.push(run);
        }
    }
    let beside = [("Looked at by the console", &console), ("Looked at by stream status --watch", &status)];
    Ok(beside.into_iter().flat_map(|(case, runs)| figures(case, runs, &nobody)).collect())
}

fn figures(case: &str, looked: &[Run], nobody: &[Run]) -> Vec<Figure> {
    let beside = |measure: &str, unit: &str, goal: &str, value: fn(&Run) -> f64| {
        let of = |runs: &[Run]| runs.iter().map(value).collect();
        Figure::new([case, measure, unit, "nobody looks", goal], Better::Less, of(looked), of(nobody))
    };
    let cpu = looked.iter().map(|run| run.looker_cpu).collect();
    vec![
        beside("commit to the line in the log, durable, p50", "ms", "≥ 0.95 ×", |run| run.latency.quantiles[0]),
        beside("commit to the line in the log, durable, p99", "ms", "", |run| run.latency.quantiles[1]),
        beside("CPU of producer and consumers for a million changes", "s", "≥ 0.95 ×", |run| run.cpu_per_million),
        Figure::new([case, "CPU of the one that looks", "% of a core", "", ""], Better::Less, cpu, vec![]),
    ]
}

/// The whole pipeline once.
fn once(lab: &mut Lab, measured: u64, looker: Looker) -> Result<Run> {
    let mut pace = prepare(lab)?;
    postgres::forget(lab)?;
    let name = lab.fresh_name("look");
    let logs = lab.stack.dir().join("runs").join(&name).join("consumer_logs");
    let programs = lab.programs(&name).with("METRICS_LISTEN", METRICS);
    let mut running;
    (pace, running) = start(lab, pace, &programs, &logs)?;
    let mut looking = look(looker, &programs)?;
    let reader = checkpoints(lab, &name)?;
    let read: RefCell<Read> = RefCell::default();
    let mut run = None;
    for stretch in [Stretch { rate: RATE, warm_up: 0, measured: 5 }, Stretch { rate: RATE, warm_up: 5, measured }] {
        let (begun, before) = (Instant::now(), [cpu(&running)?, cpu(&looking)?]);
        let note = |at: i64, message: &rdkafka::message::BorrowedMessage<'_>| read.borrow_mut().note(at, message);
        let paced;
        (pace, paced) = observe(lab, pace, stretch, &reader, note, |last_id| {
            running.iter_mut().chain(&mut looking).try_for_each(Program::check)?;
            Ok(drain::lines(&logs)? >= last_id && read.borrow().covers(&logs)?)
        })?;
        let changes = (stretch.rate * (stretch.warm_up + stretch.measured)) as f64;
        let cpu_per_million = (cpu(&running)? - before[0]) / (changes / 1e6);
        let looker_cpu = (cpu(&looking)? - before[1]) / begun.elapsed().as_secs_f64() * 100.0;
        run = Some((paced, cpu_per_million, looker_cpu));
    }
    looking.iter_mut().chain(running.iter_mut().rev()).try_for_each(Program::stop)?;
    let (paced, cpu_per_million, looker_cpu) = run.context("two stretches")?;
    let all = latencies(read.into_inner().arrivals(&logs)?, pace.last_id, &[paced])?;
    let latency = all.into_iter().next().context("one stretch is measured")?;
    Ok(Run { latency, cpu_per_million, looker_cpu })
}

fn cpu(programs: &[Program]) -> Result<f64> {
    let of = |program: &Program| Ok(Usage::of(program.pid().context("it has ended")?)?.cpu_seconds);
    programs.iter().map(of).sum()
}

/// Starts the one that looks.
fn look(looker: Looker, programs: &Programs) -> Result<Vec<Program>> {
    match looker {
        Looker::Nobody => Ok(Vec::new()),
        Looker::Status => Ok(vec![programs.status()?]),
        Looker::Console => {
            let (console, address) = programs.console()?;
            watch(&address)?;
            Ok(vec![console])
        }
    }
}

/// Reads the console's events as a browser does, until it ends.
fn watch(address: &str) -> Result<()> {
    let host = address.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).context("the console does not answer")?;
    write!(stream, "GET /api/stream HTTP/1.1\r\nHost: {host}\r\n\r\n")?;
    let mut head = [0; 15];
    stream.read_exact(&mut head)?;
    ensure!(&head == b"HTTP/1.1 200 OK", "the console refuses to be watched: {}", String::from_utf8_lossy(&head));
    std::thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()));
    Ok(())
}
