//! Cut, stalled, slow and half-open links.
//!
//! While a link is broken, each program that needs it must report it (`/ready`, with the name of the server). When the
//! link works again, the program must continue without help, even where an old connection never ends.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::Rng;

use super::fault::Fault;
use crate::cluster::Cluster;
use crate::harness::{Harness, Servers, wait_for};
use testbed::{Direction, Link, Proxy, Running};

/// The time limit for a program to report a broken link: the longest request deadline and some more.
const NOTICED: Duration = Duration::from_secs(60);
/// The time limit for working again: an old connection may wait for a deadline, and a retry pause may be running.
const MENDED: Duration = Duration::from_secs(60);
/// The time limit for ending after a signal, in any state of Kafka, including a second for a busy machine.
const PRODUCER_STOPS: Duration = Duration::from_secs(12);
const CONSUMER_STOPS: Duration = Duration::from_secs(27);
/// An intercontinental link.
const SLOW: Link = Link::Slow { latency: Duration::from_millis(100), bytes_per_second: 512 * 1024 };

/// The faults of this family.
pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "link-cut-mysql",
        expects: "connections to MySQL are reset: the producer says so and continues when it can",
        weight: 4,
        quick: true,
        run: |harness| broken(harness, To::MySql, Link::Cut),
    },
    Fault {
        name: "link-cut-kafka",
        expects: "connections to all brokers are reset: all programs say so and continue",
        weight: 0,
        quick: false,
        run: |harness| broken(harness, To::Kafka, Link::Cut),
    },
    Fault {
        name: "link-cut-broker",
        expects: "one broker can't be reached, though it lives: the producer says so and continues",
        weight: 0,
        quick: false,
        run: |harness| broken(harness, To::Broker, Link::Cut),
    },
    Fault {
        name: "link-cut-registry",
        expects: "producer and a consumer start without a registry: they say so and begin when it is there",
        weight: 2,
        quick: true,
        run: |harness| broken(harness, To::Registry, Link::Cut),
    },
    Fault {
        name: "link-cut-postgres",
        expects: "connections to PostgreSQL are reset: the consumers say so, hold their batches and continue",
        weight: 4,
        quick: true,
        run: |harness| broken(harness, To::Postgres, Link::Cut),
    },
    Fault {
        name: "link-cut-mid-packet-mysql",
        expects: "connections to MySQL end in the middle of an event, again and again",
        weight: 4,
        quick: true,
        run: |harness| cut_in_mid_packet(harness, To::MySql),
    },
    Fault {
        name: "link-cut-mid-packet-kafka",
        expects: "connections to the brokers end in the middle of a request or an answer, again and again",
        weight: 4,
        quick: true,
        run: |harness| cut_in_mid_packet(harness, To::Kafka),
    },
    Fault {
        name: "link-cut-mid-packet-registry",
        expects: "the registry's answers to a starting producer and consumer break off",
        weight: 2,
        quick: true,
        run: |harness| cut_in_mid_packet(harness, To::Registry),
    },
    Fault {
        name: "link-cut-mid-packet-postgres",
        expects: "connections to PostgreSQL end in the middle of a statement, some in the middle of COMMIT",
        weight: 4,
        quick: true,
        run: |harness| cut_in_mid_packet(harness, To::Postgres),
    },
    Fault {
        name: "link-stalled-mysql",
        expects: "nothing comes from MySQL, not even a heartbeat: the producer says so and continues",
        weight: 1,
        quick: false,
        run: |harness| broken(harness, To::MySql, Link::Stalled),
    },
    Fault {
        name: "link-stalled-kafka",
        expects: "no broker answers: all programs say so, throw their transactions away and continue",
        weight: 0,
        quick: false,
        run: |harness| broken(harness, To::Kafka, Link::Stalled),
    },
    Fault {
        name: "link-stalled-kafka-sigterm",
        expects: "producer and a consumer are told to stop while no broker answers: they end in time, exit 0, and continue later",
        weight: 1,
        quick: false,
        run: stop_over_a_stalled_link,
    },
    Fault {
        name: "link-stalled-broker",
        expects: "one broker does not answer: the producer says so and continues",
        weight: 1,
        quick: false,
        run: |harness| broken(harness, To::Broker, Link::Stalled),
    },
    Fault {
        name: "link-stalled-registry",
        expects: "producer and a consumer start, and the registry does not answer: they say so and begin when it does",
        weight: 0,
        quick: false,
        run: |harness| broken(harness, To::Registry, Link::Stalled),
    },
    Fault {
        name: "link-stalled-postgres",
        expects: "PostgreSQL does not answer: the consumers say so, stay in their group, and continue",
        weight: 0,
        quick: false,
        run: |harness| broken(harness, To::Postgres, Link::Stalled),
    },
    Fault {
        name: "link-slow-mysql",
        expects: "the link to MySQL is slow: changes arrive late, everything stays ready",
        weight: 2,
        quick: true,
        run: |harness| slow(harness, To::MySql),
    },
    Fault {
        name: "link-slow-kafka",
        expects: "the links to the brokers are slow: changes arrive late, everything stays ready",
        weight: 2,
        quick: true,
        run: |harness| slow(harness, To::Kafka),
    },
    Fault {
        name: "link-slow-registry",
        expects: "producer and a consumer start over a slow link to the registry",
        weight: 1,
        quick: true,
        run: |harness| slow(harness, To::Registry),
    },
    Fault {
        name: "link-slow-postgres",
        expects: "the link to PostgreSQL is slow: lines are late, everything stays ready",
        weight: 2,
        quick: true,
        run: |harness| slow(harness, To::Postgres),
    },
    Fault {
        name: "link-half-open-mysql",
        expects: "MySQL vanishes and closes no connection: the producer notices by the heartbeats, and reconnects",
        weight: 0,
        quick: false,
        run: |harness| half_open(harness, To::MySql),
    },
    Fault {
        name: "link-half-open-kafka",
        expects: "the brokers vanish and close no connection: all programs say so, and reconnect",
        weight: 0,
        quick: false,
        run: |harness| half_open(harness, To::Kafka),
    },
    Fault {
        name: "link-half-open-registry",
        expects: "the registry vanishes while producer and a consumer start",
        weight: 0,
        quick: false,
        run: |harness| half_open(harness, To::Registry),
    },
    Fault {
        name: "link-half-open-postgres",
        expects: "consumers vanish for PostgreSQL in the middle of transactions: it lets go of their locks, and they continue",
        weight: 0,
        quick: false,
        run: |harness| half_open(harness, To::Postgres),
    },
    Fault {
        name: "link-cut-one-consumer",
        expects: "one consumer alone can't reach PostgreSQL: it says so, its neighbours stay ready, and it continues",
        weight: 2,
        quick: true,
        run: one_consumer_alone,
    },
    Fault {
        name: "link-flapping",
        expects: "one of the links comes and goes many times in a few seconds",
        weight: 4,
        quick: true,
        run: flapping,
    },
];

/// The server of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    MySql,
    /// Every broker.
    Kafka,
    /// A single broker.
    Broker,
    Registry,
    Postgres,
}

/// The links of one fault.
struct Links {
    to: To,
    /// The brokers concerned.
    brokers: std::ops::Range<usize>,
}

impl Links {
    /// Chooses the links; a single broker is one that leads a partition of the topic, so that its loss is noticed.
    fn choose(harness: &mut Harness, to: To) -> Result<Self> {
        let brokers = if to == To::Broker {
            let partition = harness.rng.random_range(0..10);
            let leader = Cluster::new(&harness.bed.kafka())?.leader(harness.bed.get("KAFKA_TOPIC"), partition)?;
            let leader = leader.with_context(|| format!("partition {partition} has no leader"))?;
            leader..leader + 1
        } else {
            0..harness.servers.to_kafka.len()
        };
        Ok(Self { to, brokers })
    }

    fn proxies<'a>(&self, servers: &'a Servers) -> &'a [Proxy] {
        let one = std::slice::from_ref;
        match self.to {
            To::MySql => one(&servers.to_mysql),
            To::Kafka | To::Broker => &servers.to_kafka[self.brokers.clone()],
            To::Registry => one(&servers.to_registry),
            To::Postgres => one(&servers.to_postgres),
        }
    }

    fn set(&self, harness: &Harness, link: Link) {
        self.proxies(&harness.servers).iter().for_each(|proxy| proxy.set(link));
    }

    fn accepted(&self, harness: &Harness) -> u64 {
        self.proxies(&harness.servers).iter().map(Proxy::accepted).sum()
    }

    /// Restarts programs: they ask the registry only at a start.
    fn bring_into_use(&self, harness: &mut Harness) {
        if self.to == To::Registry {
            restart_a_consumer(harness);
            restart_the_producer(harness);
        }
    }

    /// Waits until the programs that need the link report that they wait for it.
    fn must_be_missed(&self, harness: &mut Harness) -> Result<()> {
        if self.to == To::Registry {
            // A consumer asks at the first record, so the producer must still be working.
            let consumer = restart_a_consumer(harness);
            missed_by(harness.consumers[consumer].as_ref().context("the consumer runs")?, &["registry"])?;
            restart_the_producer(harness);
        }
        let producer = harness.producer.as_ref().context("the producer runs")?;
        let consumers: Vec<&Running> = harness.consumers.iter().flatten().collect();
        match self.to {
            To::MySql => missed_by(producer, &["MySQL", "binlog"]),
            To::Broker => missed_by(producer, &[]),
            To::Kafka => {
                missed_by(producer, &[])?;
                consumers.into_iter().try_for_each(|consumer| missed_by(consumer, &[]))
            }
            To::Registry => missed_by(producer, &["registry"]),
            To::Postgres => consumers.into_iter().try_for_each(|consumer| missed_by(consumer, &["PostgreSQL"])),
        }
    }
}

fn restart_a_consumer(harness: &mut Harness) -> usize {
    let consumer = harness.rng.random_range(0..harness.consumers.len());
    harness.consumers[consumer].take().map(Running::kill).unwrap_or_default();
    harness.start_all();
    consumer
}

fn restart_the_producer(harness: &mut Harness) {
    harness.producer.take().map(Running::kill).unwrap_or_default();
    harness.start_all();
}

fn missed_by(program: &Running, words: &[&str]) -> Result<()> {
    let mut last = None;
    let noticed = wait_for(&format!("{} says that it waits for {words:?}", program.name()), NOTICED, || {
        last = program.http("/ready");
        let (status, body) = last.as_ref()?;
        let names_it = words.is_empty() || words.iter().any(|word| body.contains(word));
        (*status == 503 && names_it).then_some(())
    });
    noticed.with_context(|| format!("/ready last: {last:?}\n{}", program.log_end()))
}

/// Waits until every program is ready again.
fn must_go_on(harness: &mut Harness) -> Result<()> {
    for program in harness.consumers.iter().chain([&harness.producer]).flatten() {
        let mut last = None;
        let ready = wait_for(&format!("{} is ready", program.name()), MENDED, || {
            last = program.http("/ready");
            last.as_ref().filter(|(status, _)| *status == 200).map(drop)
        });
        ready.with_context(|| format!("/ready last: {last:?}\n{}", program.log_end()))?;
    }
    harness.check_running()
}

/// Breaks the link until the programs report it, and a little longer.
fn broken(harness: &mut Harness, to: To, link: Link) -> Result<()> {
    let links = Links::choose(harness, to)?;
    links.set(harness, link);
    links.must_be_missed(harness)?;
    sleep(Duration::from_millis(harness.rng.random_range(0..1_000)));
    links.set(harness, Link::Open);
    must_go_on(harness)
}

/// Ends each connection after a few bytes, several times.
fn cut_in_mid_packet(harness: &mut Harness, to: To) -> Result<()> {
    let links = Links::choose(harness, to)?;
    let before = links.accepted(harness);
    let limit = harness.rng.random_range(1..if to == To::Registry { 200 } else { 5_000 });
    links.set(harness, Link::CutAfter(limit));
    links.bring_into_use(harness);
    wait_for("two new connections", NOTICED, || (links.accepted(harness) >= before + 2).then_some(()))?;
    links.set(harness, Link::Open);
    must_go_on(harness)
}

/// Stops programs that hang on the link, as a container engine does.
fn stop_over_a_stalled_link(harness: &mut Harness) -> Result<()> {
    let links = Links::choose(harness, To::Kafka)?;
    let consumer = harness.rng.random_range(0..harness.consumers.len());
    links.set(harness, Link::Stalled);
    sleep(Duration::from_millis(harness.rng.random_range(0..3_000)));
    let programs = [(harness.producer.take(), PRODUCER_STOPS), (harness.consumers[consumer].take(), CONSUMER_STOPS)];
    for (program, limit) in programs {
        let program = program.context("it runs")?;
        let (name, begun) = (program.name().to_owned(), Instant::now());
        let ended = program.stop();
        let took = begun.elapsed();
        ensure!(ended.code == 0 && took < limit, "{name} ended with {} after {took:?}:\n{}", ended.code, ended.err);
    }
    harness.start_all();
    links.set(harness, Link::Open);
    must_go_on(harness)
}

fn slow(harness: &mut Harness, to: To) -> Result<()> {
    let links = Links::choose(harness, to)?;
    links.set(harness, SLOW);
    links.bring_into_use(harness);
    let took = harness.probe()?;
    must_go_on(harness)?;
    ensure!(
        to == To::Registry || took >= Duration::from_millis(100),
        "a change took {took:?} over a slow link to {to:?}"
    );
    links.set(harness, Link::Open);
    Ok(())
}

/// Loses the bytes in one direction or in both; afterwards new connections work, and old ones never end.
fn half_open(harness: &mut Harness, to: To) -> Result<()> {
    let links = Links::choose(harness, to)?;
    // A running binlog stream needs no requests.
    let directions = [Direction::Answers, Direction::Both, Direction::Requests];
    let direction = directions[harness.rng.random_range(0..if to == To::MySql { 2 } else { 3 })];
    if to == To::Postgres {
        links.set(harness, SLOW);
        until_a_batch_has_locks(harness)?;
    }
    links.set(harness, Link::HalfOpen(direction));
    links.must_be_missed(harness).with_context(|| format!("{direction:?} are lost"))?;
    links.set(harness, Link::Open);
    must_go_on(harness).with_context(|| format!("{direction:?} were lost"))?;
    harness.probe()?;
    links.proxies(&harness.servers).iter().for_each(Proxy::bury);
    Ok(())
}

/// Gives one consumer a separate link.
fn one_consumer_alone(harness: &mut Harness) -> Result<()> {
    let number = harness.rng.random_range(0..harness.consumers.len());
    let own = Proxy::start(harness.servers.postgres.port);
    let (shared, own_port) = (format!(":{}/", harness.servers.to_postgres.port()), format!(":{}/", own.port()));
    let url = harness.bed.get("POSTGRES_URL").replace(&shared, &own_port);
    harness.consumers[number].take().context("the consumer runs")?.kill();
    harness.start_consumer_with(number, &[("POSTGRES_URL", &url)]);
    must_go_on(harness)?;
    ensure!(own.accepted() > 0, "the consumer does not use its own link");
    own.set(Link::Cut);
    missed_by(harness.consumers[number].as_ref().context("the consumer runs")?, &["PostgreSQL"])?;
    for (i, consumer) in harness.consumers.iter().enumerate().filter_map(|(i, c)| Some((i, c.as_ref()?))) {
        let answer = consumer.http("/ready");
        ensure!(i == number || answer.as_ref().is_some_and(|(status, _)| *status == 200), "a neighbour: {answer:?}");
    }
    own.set(Link::Open);
    must_go_on(harness)?;
    harness.consumers[number].take().context("the consumer runs")?.kill();
    harness.start_all();
    must_go_on(harness)
}

/// Waits until PostgreSQL waits for a consumer's next statement in a transaction that holds locks.
fn until_a_batch_has_locks(harness: &Harness) -> Result<()> {
    const HELD: &str = "SELECT 1 FROM pg_stat_activity WHERE datname = $1 AND application_name = 'consumer' \
                        AND state = 'idle in transaction' AND query LIKE '%FOR UPDATE%'";
    let url = harness.servers.postgres.url();
    let direct = format!("{}/postgres", url.rsplit_once('/').context("a URL with a database")?.0);
    harness.block_on(async {
        let client = testbed::postgres(&direct).await?;
        let deadline = Instant::now() + NOTICED;
        while client.query(HELD, &[&harness.bed.name]).await?.is_empty() {
            ensure!(Instant::now() < deadline, "no consumer is in the middle of a transaction within {NOTICED:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    })
}

fn flapping(harness: &mut Harness) -> Result<()> {
    let to = [To::MySql, To::Kafka, To::Broker, To::Postgres][harness.rng.random_range(0..4)];
    let links = Links::choose(harness, to)?;
    let before = links.accepted(harness);
    for _ in 0..8 {
        links.set(harness, Link::Cut);
        sleep(Duration::from_millis(harness.rng.random_range(20..200)));
        links.set(harness, Link::Open);
        sleep(Duration::from_millis(harness.rng.random_range(100..600)));
    }
    must_go_on(harness).with_context(|| format!("{to:?}"))?;
    ensure!(links.accepted(harness) > before, "nobody connected again to {to:?}");
    Ok(())
}
