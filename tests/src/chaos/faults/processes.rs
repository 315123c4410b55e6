//! Kills, restarts, doubles and scales programs.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::Rng;

use super::Fault;
use crate::Running;
use crate::chaos::{Arena, wait_for};

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

fn producer(arena: &mut Arena) -> Result<Running> {
    arena.producer.take().context("the producer does not run")
}

/// Takes a random running consumer out of the arena, with its number.
fn random_consumer(arena: &mut Arena) -> Result<(usize, Running)> {
    let running: Vec<usize> = (0..arena.consumers.len()).filter(|n| arena.consumers[*n].is_some()).collect();
    ensure!(!running.is_empty(), "no consumer runs");
    let number = running[arena.rng.random_range(0..running.len())];
    let consumer = arena.consumers[number].take().context("the consumer does not run")?;
    Ok((number, consumer))
}

/// Waits for a random moment, so that a fault does not always hit the same step.
fn moment(arena: &mut Arena, longest_ms: u64) {
    let moment = arena.rng.random_range(0..=longest_ms);
    std::thread::sleep(Duration::from_millis(moment));
}

fn kill_producer(arena: &mut Arena) -> Result<()> {
    let epoch = arena.epoch()?;
    producer(arena)?.kill();
    moment(arena, 500);
    arena.start_producer();
    let next = arena.producer.as_mut().context("the producer does not run")?;
    next.wait_for(&format!("epoch={epoch}"));
    Ok(())
}

fn kill_consumer(arena: &mut Arena) -> Result<()> {
    let (number, consumer) = random_consumer(arena)?;
    consumer.kill();
    moment(arena, 500);
    arena.start_consumer(number);
    Ok(())
}

fn kill_all(arena: &mut Arena) -> Result<()> {
    let programs: Vec<Running> =
        arena.consumers.iter_mut().chain([&mut arena.producer]).filter_map(Option::take).collect();
    programs.into_iter().for_each(Running::kill);
    moment(arena, 500);
    arena.start_all();
    Ok(())
}

fn kill_while_starting(arena: &mut Arena) -> Result<()> {
    let kills = arena.rng.random_range(2..=4);
    let of_producer = arena.rng.random_bool(0.5);
    for _ in 0..kills {
        if of_producer {
            producer(arena)?.kill();
            arena.start_producer();
        } else {
            let (number, consumer) = random_consumer(arena)?;
            consumer.kill();
            arena.start_consumer(number);
        }
        moment(arena, 700);
    }
    Ok(())
}

fn kill_burst(arena: &mut Arena) -> Result<()> {
    for _ in 0..arena.rng.random_range(3..=6) {
        if arena.rng.random_ratio(1, 3) {
            producer(arena)?.kill();
        } else {
            random_consumer(arena)?.1.kill();
        }
        moment(arena, 300);
        arena.start_all();
    }
    Ok(())
}

fn pause_program(arena: &mut Arena) -> Result<()> {
    let (number, program) = if arena.rng.random_ratio(1, 3) {
        (None, producer(arena)?)
    } else {
        let (number, consumer) = random_consumer(arena)?;
        (Some(number), consumer)
    };
    program.signal("STOP");
    // Its threads stop one after the other.
    wait_for("a stopped program does not answer", STOPPED, || program.http("/health").is_none().then_some(()))?;
    program.signal("CONT");
    match number {
        Some(number) => arena.consumers[number] = Some(program),
        None => arena.producer = Some(program),
    }
    Ok(())
}

fn rolling_restart(arena: &mut Arena) -> Result<()> {
    let ended = producer(arena)?.stop();
    ensure!(ended.code == 0, "the producer ended with {} after SIGTERM:\n{}", ended.code, ended.err);
    arena.start_producer();
    for number in 0..arena.consumers.len() {
        let consumer = arena.consumers[number].take().context("a consumer does not run")?;
        let ended = consumer.stop();
        ensure!(ended.code == 0, "consumer {number} ended with {} after SIGTERM:\n{}", ended.code, ended.err);
        arena.start_consumer(number);
    }
    Ok(())
}

fn second_producer_here(arena: &mut Arena) -> Result<()> {
    let first = arena.producer.as_ref().context("the producer does not run")?.pid();
    let ended = arena.world.run("cdc-producer", &[]);
    ensure!(ended.code == 1, "the second producer ended with {}:\n{}", ended.code, ended.err);
    let holder = format!("a producer is at work here (process {first}");
    ensure!(ended.err.contains(&holder), "the second producer does not say {holder:?}:\n{}", ended.err);
    arena.check_running()
}

fn second_producer_elsewhere(arena: &mut Arena) -> Result<()> {
    let first = producer(arena)?;
    let (here, there) = (arena.world.get("PRODUCER_TIME_TRACK").to_owned(), arena.world.folder.join("other_host"));
    fs::create_dir_all(&there)?;
    fs::copy(format!("{here}/last_read_timestamp.json"), there.join("last_read_timestamp.json"))?;
    let mut command = arena.world.command("cdc-producer", &[]);
    command.env("PRODUCER_TIME_TRACK", there).env("PRODUCER_SERVER_ID", "4711");
    let second = Running::start(command, "cdc-producer", arena.world.folder.join("second-producer.log"));
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
    arena.producer = Some(stayed);
    arena.probe().context("with the producer that stayed")?;
    if gone == 0 {
        let ended = producer(arena)?.stop();
        ensure!(ended.code == 0, "the second producer ended with {} after SIGTERM:\n{}", ended.code, ended.err);
        // The file here is older than the position in Kafka, which counts.
        arena.start_producer();
    }
    Ok(())
}

fn scale_consumers(arena: &mut Arena) -> Result<()> {
    for many in [3, 8] {
        for number in many..arena.consumers.len() {
            let consumer = arena.consumers[number].take().context("a consumer does not run")?;
            let ended = consumer.stop();
            ensure!(ended.code == 0, "consumer {number} ended with {} after SIGTERM:\n{}", ended.code, ended.err);
        }
        arena.consumers.truncate(many);
        for number in arena.consumers.len()..many {
            arena.start_consumer(number);
        }
        arena.probe().with_context(|| format!("with {many} consumers"))?;
    }
    arena.scale_back().context("with five consumers again")
}
