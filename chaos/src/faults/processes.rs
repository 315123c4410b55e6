//! Kills, restarts, doubles and scales programs.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::Rng;

use super::fault::Fault;
use crate::harness::{Harness, wait_for};
use testbed::Running;

/// The faults of this family.
pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "kill-producer",
        expects: "SIGKILL of the producer: the next one continues in the same epoch",
        weight: 10,
        quick: true,
        run: kill_producer,
    },
    Fault {
        name: "kill-consumer",
        expects: "SIGKILL of a random consumer: the next one takes its slot and is ready",
        weight: 10,
        quick: true,
        run: kill_consumer,
    },
    Fault {
        name: "kill-all",
        expects: "SIGKILL of all programs at once: all come back",
        weight: 4,
        quick: true,
        run: kill_all,
    },
    Fault {
        name: "kill-while-starting",
        expects: "SIGKILL at random moments of a program's start, several times: the last one works",
        weight: 4,
        quick: true,
        run: kill_while_starting,
    },
    Fault {
        name: "kill-burst",
        expects: "SIGKILL of random programs faster than they recover: all come back",
        weight: 4,
        quick: true,
        run: kill_burst,
    },
    Fault {
        name: "pause-program",
        expects: "SIGSTOP of a moment: the program does not answer meanwhile, and continues as the same process",
        weight: 4,
        quick: true,
        run: pause_program,
    },
    Fault {
        name: "rolling-restart",
        expects: "SIGTERM of one program after the other: each ends with 0 within its deadline",
        weight: 3,
        quick: true,
        run: rolling_restart,
    },
    Fault {
        name: "second-producer-here",
        expects: "another producer on the same folder: it names the holder and ends with 1; the first is unharmed",
        weight: 2,
        quick: true,
        run: second_producer_here,
    },
    Fault {
        name: "second-producer-elsewhere",
        expects: "another producer with a copy of the folder: one of the two is fenced, says so and ends with 1",
        weight: 2,
        quick: true,
        run: second_producer_elsewhere,
    },
    Fault {
        name: "scale-consumers",
        expects: "5, 3, 8, 5 consumers: their partitions go over to the others",
        weight: 1,
        quick: false,
        run: scale_consumers,
    },
];

/// How long a stopped program may take to become silent; the harness waits two seconds for an answer.
const STOPPED: Duration = Duration::from_secs(10);
/// The time limit for one of two producers to leave.
const FENCED: Duration = Duration::from_secs(60);

fn producer(harness: &mut Harness) -> Result<Running> {
    harness.producer.take().context("the producer does not run")
}

/// Takes a random running consumer out of the harness, with its number.
fn random_consumer(harness: &mut Harness) -> Result<(usize, Running)> {
    let running: Vec<usize> = (0..harness.consumers.len()).filter(|n| harness.consumers[*n].is_some()).collect();
    ensure!(!running.is_empty(), "no consumer runs");
    let number = running[harness.rng.random_range(0..running.len())];
    let consumer = harness.consumers[number].take().context("the consumer does not run")?;
    Ok((number, consumer))
}

/// Waits for a random moment, so that a fault does not always hit the same step.
fn moment(harness: &mut Harness, longest_ms: u64) {
    let moment = harness.rng.random_range(0..=longest_ms);
    std::thread::sleep(Duration::from_millis(moment));
}

fn kill_producer(harness: &mut Harness) -> Result<()> {
    let epoch = harness.epoch()?;
    producer(harness)?.kill();
    moment(harness, 500);
    harness.start_producer();
    let next = harness.producer.as_mut().context("the producer does not run")?;
    next.wait_for(&format!("epoch={epoch}"));
    Ok(())
}

fn kill_consumer(harness: &mut Harness) -> Result<()> {
    let (number, consumer) = random_consumer(harness)?;
    consumer.kill();
    moment(harness, 500);
    harness.start_consumer(number);
    Ok(())
}

fn kill_all(harness: &mut Harness) -> Result<()> {
    let programs: Vec<Running> =
        harness.consumers.iter_mut().chain([&mut harness.producer]).filter_map(Option::take).collect();
    programs.into_iter().for_each(Running::kill);
    moment(harness, 500);
    harness.start_all();
    Ok(())
}

fn kill_while_starting(harness: &mut Harness) -> Result<()> {
    let kills = harness.rng.random_range(2..=4);
    let of_producer = harness.rng.random_bool(0.5);
    for _ in 0..kills {
        if of_producer {
            producer(harness)?.kill();
            harness.start_producer();
        } else {
            let (number, consumer) = random_consumer(harness)?;
            consumer.kill();
            harness.start_consumer(number);
        }
        moment(harness, 700);
    }
    Ok(())
}

fn kill_burst(harness: &mut Harness) -> Result<()> {
    for _ in 0..harness.rng.random_range(3..=6) {
        if harness.rng.random_ratio(1, 3) {
            producer(harness)?.kill();
        } else {
            random_consumer(harness)?.1.kill();
        }
        moment(harness, 300);
        harness.start_all();
    }
    Ok(())
}

fn pause_program(harness: &mut Harness) -> Result<()> {
    let (number, program) = if harness.rng.random_ratio(1, 3) {
        (None, producer(harness)?)
    } else {
        let (number, consumer) = random_consumer(harness)?;
        (Some(number), consumer)
    };
    program.signal("STOP");
    // Its threads stop one after the other.
    wait_for("a stopped program does not answer", STOPPED, || program.http("/health").is_none().then_some(()))?;
    program.signal("CONT");
    match number {
        Some(number) => harness.consumers[number] = Some(program),
        None => harness.producer = Some(program),
    }
    Ok(())
}

fn rolling_restart(harness: &mut Harness) -> Result<()> {
    let ended = producer(harness)?.stop();
    ensure!(ended.code == 0, "the producer ended with {} after SIGTERM:\n{}", ended.code, ended.err);
    harness.start_producer();
    for number in 0..harness.consumers.len() {
        let consumer = harness.consumers[number].take().context("a consumer does not run")?;
        let ended = consumer.stop();
        ensure!(ended.code == 0, "consumer {number} ended with {} after SIGTERM:\n{}", ended.code, ended.err);
        harness.start_consumer(number);
    }
    Ok(())
}

fn second_producer_here(harness: &mut Harness) -> Result<()> {
    let first = harness.producer.as_ref().context("the producer does not run")?.pid();
    let ended = harness.bed.run("cdc-producer", &[]);
    ensure!(ended.code == 1, "the second producer ended with {}:\n{}", ended.code, ended.err);
    let holder = format!("a producer is at work here (process {first}");
    ensure!(ended.err.contains(&holder), "the second producer does not say {holder:?}:\n{}", ended.err);
    harness.check_running()
}

fn second_producer_elsewhere(harness: &mut Harness) -> Result<()> {
    let first = producer(harness)?;
    let (here, there) = (harness.bed.get("PRODUCER_TIME_TRACK").to_owned(), harness.bed.folder.join("other_host"));
    fs::create_dir_all(&there)?;
    fs::copy(format!("{here}/last_read_timestamp.json"), there.join("last_read_timestamp.json"))?;
    let mut command = harness.bed.command("cdc-producer", &[]);
    command.env("PRODUCER_TIME_TRACK", there).env("PRODUCER_SERVER_ID", "4711");
    let second = Running::start(command, "cdc-producer", harness.bed.folder.join("second-producer.log"));
    let mut both = [first, second];
    // Either may be the one that is fenced: the first re-initialises once if nothing was committed meanwhile.
    let gone = wait_for("one of two producers leaves", FENCED, || both.iter_mut().position(|p| !p.is_running()))?;
    let [first, second] = both;
    let (left, stayed) = if gone == 0 { (first, second) } else { (second, first) };
    let said = left.said();
    let ended = left.wait();
    let wanted = "another producer with the transactional id";
    ensure!(ended.code == 1, "the fenced producer ended with {}:\n{said}", ended.code);
    ensure!(said.contains(wanted), "the fenced producer does not say {wanted:?}:\n{said}");
    harness.producer = Some(stayed);
    harness.probe().context("with the producer that stayed")?;
    if gone == 0 {
        let ended = producer(harness)?.stop();
        ensure!(ended.code == 0, "the second producer ended with {} after SIGTERM:\n{}", ended.code, ended.err);
        // The file here is older than the position in Kafka, which counts.
        harness.start_producer();
    }
    Ok(())
}

fn scale_consumers(harness: &mut Harness) -> Result<()> {
    for many in [3, 8] {
        for number in many..harness.consumers.len() {
            let consumer = harness.consumers[number].take().context("a consumer does not run")?;
            let ended = consumer.stop();
            ensure!(ended.code == 0, "consumer {number} ended with {} after SIGTERM:\n{}", ended.code, ended.err);
        }
        harness.consumers.truncate(many);
        for number in harness.consumers.len()..many {
            harness.start_consumer(number);
        }
        harness.probe().with_context(|| format!("with {many} consumers"))?;
    }
    harness.scale_back().context("with five consumers again")
}
