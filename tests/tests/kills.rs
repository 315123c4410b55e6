//! The whole pipeline under load, its programs killed at random moments: `verify` finds everything exactly once.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use testbed::programs::CONSUMERS;
use testbed::{Running, TestBed, eventually};

fn pause(duration: Duration) {
    let end = Instant::now() + duration;
    eventually("the moment of the next kill", duration * 2 + Duration::from_secs(1), || {
        (Instant::now() >= end).then_some(())
    });
}

fn start_consumer(world: &TestBed, n: usize) -> Running {
    world.start_as("consumer", &format!("consumer{n}"), &["--kafka-session-timeout", "6s"])
}

/// Load from `product-updater --generate`; every second or so one of the six programs is killed and started again.
fn killed_at_random(seed: u64) {
    let world = TestBed::new("kills").with_postgres();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut producer = Some(world.start("cdc-producer", &["--snapshot-chunk", "500"]));
    let mut consumers: Vec<Option<Running>> = (0..CONSUMERS).map(|n| Some(start_consumer(&world, n))).collect();
    let seed_text = seed.to_string();
    let load = ["--generate", "60000", "--rate", "4000", "--seed", &seed_text, "--no-pause"];
    let mut updater = world.start("product-updater", &load);
    let mut kills = 0;
    while updater.is_running() {
        pause(Duration::from_millis(rng.random_range(300..1300)));
        let victim = rng.random_range(0..=CONSUMERS);
        match consumers.get_mut(victim) {
            Some(consumer) => {
                assert!(consumer.as_mut().unwrap().is_running(), "consumer {victim} ended");
                consumer.take().unwrap().kill();
                *consumer = Some(start_consumer(&world, victim));
            }
            None => {
                assert!(producer.as_mut().unwrap().is_running(), "the producer ended");
                producer.take().unwrap().kill();
                producer = Some(world.start("cdc-producer", &["--snapshot-chunk", "500"]));
            }
        }
        kills += 1;
    }
    let ended = updater.wait();
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(kills >= 8, "only {kills} kills");
    let report = world.verify();
    assert!(report.contains("OK: "), "{report}");
    for program in consumers.into_iter().chain([producer]) {
        let ended = program.unwrap().stop();
        assert_eq!(ended.code, 0, "{}", ended.err);
    }
}

#[test]
fn one_sequence_of_kills() {
    killed_at_random(1);
}

#[test]
fn another_sequence_of_kills() {
    killed_at_random(2);
}
