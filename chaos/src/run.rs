//! A run: rounds of random faults on one set of servers, each round in a separate test bed, with a verdict at its end.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde::Deserialize;
use testbed::interrupt;

use super::faults::{FAULTS, Fault};
use super::harness::{Harness, Servers};
use super::judge::{Verdict, judge};
use super::report::{Report, Round};

/// The options of a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The seed of the first round; each further round uses the next number.
    pub seed: u64,
    /// The number of faults.
    pub faults: usize,
    /// The time after which no fault begins.
    pub time: Option<Duration>,
    /// Only these faults; if empty, all faults with a weight.
    pub only: Vec<String>,
    /// Changes per second of the load.
    pub rate: u32,
    /// Brokers: 1 or 3.
    pub brokers: usize,
    /// Faults in a round.
    pub round: usize,
    /// Data and logs of the servers.
    pub folder: PathBuf,
}

/// The events of a run, for display.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// The servers are starting.
    Starting,
    /// A round begins, with its number from 1 and its seed.
    Round(usize, u64),
    /// A fault begins: its number in the run, and its name.
    Fault(usize, &'a str),
    /// A change arrives again: the times from the fault's beginning and from its end, and the changes of the round so
    /// far.
    Recovered(&'a str, [Duration; 2], u64),
    /// At the end of a round, everything settles and is checked.
    Judging,
    /// The round's verdict.
    Judged(&'a Round),
}

/// The failure of a run.
#[derive(Debug)]
pub struct Failure {
    /// The seed that may reproduce it.
    pub seed: u64,
    /// The number of the round's faults up to it.
    pub faults: usize,
    /// The fault, or the other step.
    pub doing: String,
    /// The folder with the programs' logs.
    pub bed: PathBuf,
    /// The expected and the observed result.
    pub error: anyhow::Error,
    /// The results up to it, including those of this round.
    pub report: Report,
}

/// The fault of this name.
///
/// # Errors
/// When there is none.
pub fn named(name: &str) -> Result<&'static Fault> {
    let unknown = || anyhow!("there is no fault {name}: `cargo xtask chaos --list` shows them all");
    all().find(|fault| fault.name == name).ok_or_else(unknown)
}

/// Every fault.
pub fn all() -> impl Iterator<Item = &'static Fault> {
    FAULTS.iter().copied().flatten()
}

/// Executes the run. The inner error is a failure of the pipeline; the outer one means that the servers don't start.
///
/// # Errors
/// When the servers don't start or a name is unknown.
#[allow(clippy::type_complexity, reason = "one use")]
pub fn run(options: &Options, watch: &mut dyn FnMut(Event<'_>)) -> Result<Result<Report, Box<Failure>>> {
    let chosen = options.only.iter().map(|name| named(name)).collect::<Result<Vec<_>>>()?;
    let mut report = Report::begin(options.brokers);
    let started = Instant::now();
    watch(Event::Starting);
    let mut servers = Servers::start(&options.folder, options.brokers)?;
    report.versions = servers.versions();
    let over = || interrupt::asked() || options.time.is_some_and(|time| started.elapsed() >= time);
    let mut number = 0;
    while report.faults_done() < options.faults && !over() {
        let seed = options.seed + number as u64;
        number += 1;
        watch(Event::Round(number, seed));
        let many = options.round.min(options.faults - report.faults_done());
        let mut rng = StdRng::seed_from_u64(seed);
        let mut next = || draw(&chosen, &mut rng);
        let mut harness = Harness::new(servers, "chaos", seed)?;
        harness.load.set_rate(options.rate);
        let done = report.faults_done();
        let outcome = round(&mut harness, seed, done, many, &mut next, &over, watch);
        let minutes = started.elapsed().as_secs_f64() / 60.0;
        match outcome {
            Ok((round, None)) => report.add(round, minutes),
            Ok((round, Some(error))) => {
                let faults = round.recoveries.values().map(Vec::len).sum();
                report.add(round, minutes);
                let bed = harness.bed.folder.clone();
                drop(harness.end());
                let doing = "the judgement".to_owned();
                return Ok(Err(Box::new(Failure { seed, faults, doing, bed, error, report })));
            }
            // The programs got the signal too, so this round has no verdict.
            Err(_) if interrupt::asked() => {
                let bed = harness.bed.folder.clone();
                drop(harness.end());
                std::fs::remove_dir_all(&bed).with_context(|| format!("cannot remove {}", bed.display()))?;
                return Ok(Ok(report));
            }
            Err((faults, doing, error)) => {
                let bed = harness.bed.folder.clone();
                drop(harness.end());
                return Ok(Err(Box::new(Failure { seed, faults, doing, bed, error, report })));
            }
        }
        let bed = harness.bed.folder.clone();
        servers = harness.end();
        std::fs::remove_dir_all(&bed).with_context(|| format!("cannot remove {}", bed.display()))?;
    }
    Ok(Ok(report))
}

/// Runs each of these faults once, in one harness, in the order that the seed gives.
///
/// # Errors
/// The first failure, with the step that failed.
pub fn each(
    servers: Servers,
    faults: &[&'static Fault],
    seed: u64,
    watch: &mut dyn FnMut(Event<'_>),
) -> Result<Servers> {
    let mut order = faults.to_vec();
    order.shuffle(&mut StdRng::seed_from_u64(seed));
    let mut order = order.into_iter().cycle();
    let mut harness = Harness::new(servers, "chaos", seed)?;
    let bed = harness.bed.folder.clone();
    let mut next = || order.next().context("no fault");
    let outcome = round(&mut harness, seed, 0, faults.len(), &mut || next().expect("a fault"), &|| false, watch);
    let (_, finding) =
        outcome.map_err(|(_, doing, error)| error.context(format!("{doing}; logs in {}", bed.display())))?;
    finding.map_or(Ok(()), |finding| Err(finding.context(format!("logs in {}", bed.display()))))?;
    Ok(harness.end())
}

fn draw(chosen: &[&'static Fault], rng: &mut StdRng) -> &'static Fault {
    if !chosen.is_empty() {
        return chosen[rng.random_range(0..chosen.len())];
    }
    let weights: u32 = all().map(|fault| fault.weight).sum();
    let mut draw = rng.random_range(0..weights.max(1));
    let mut faults = all();
    loop {
        match faults.next() {
            Some(fault) if draw < fault.weight => return fault,
            Some(fault) => draw -= fault.weight,
            None => unreachable!("the draw is below the sum of all weights"),
        }
    }
}

/// Runs one round and returns the verdict; an error has the number of faults up to it and the step that failed.
fn round(
    harness: &mut Harness,
    seed: u64,
    done: usize,
    many: usize,
    next: &mut dyn FnMut() -> &'static Fault,
    over: &dyn Fn() -> bool,
    watch: &mut dyn FnMut(Event<'_>),
) -> Result<(Round, Option<anyhow::Error>), (usize, String, anyhow::Error)> {
    let mut recoveries: BTreeMap<String, Vec<[u64; 2]>> = BTreeMap::new();
    caught(|| harness.begin()).map_err(|e| (0, "the beginning of the round".to_owned(), e))?;
    let mut faults = 0;
    while faults < many && !over() {
        let fault = next();
        faults += 1;
        watch(Event::Fault(done + faults, fault.name));
        let begun = Instant::now();
        let recovery = caught(|| {
            (fault.run)(harness)?;
            ensure!(!harness.load.is_paused(), "the fault left the load paused");
            let recovery = harness.probe().context("after the fault")?;
            let all = begun.elapsed();
            harness.all_ready().context("after the fault")?;
            Ok([all, recovery])
        });
        let recovery = recovery.map_err(|e| (faults, format!("fault {}", fault.name), e))?;
        watch(Event::Recovered(fault.name, recovery, harness.load.ledger().changes()));
        recoveries.entry(fault.name.to_owned()).or_default().push(recovery.map(|time| time.as_millis() as u64));
    }
    interrupt::check().map_err(|e| (faults, "a fault".to_owned(), e))?;
    watch(Event::Judging);
    let (verified, verdict) = caught(|| conclude(harness)).map_err(|e| (faults, "the judgement".to_owned(), e))?;
    let ledger = harness.load.ledger();
    let round = Round {
        seed,
        recoveries,
        changes: ledger.changes_by_table().clone(),
        transactions: ledger.transactions(),
        records: verdict.records,
        lost: verified.sum(|table| table.lost).max(verdict.lost),
        doubled: verified.sum(|table| table.doubled).max(verdict.doubled),
        out_of_order: verified.sum(|table| table.out_of_order).max(verdict.out_of_order),
        torn: verified.sum(|table| table.torn) + verdict.torn,
    };
    // Lines of expired records can't be compared with the topic any more; everything else must agree.
    let expired = |table: &VerifiedTable| ledger.expired.iter().any(|n| table.is(&ledger.tables[*n].name));
    let agrees = |table: &VerifiedTable| table.agree || (table.verdict == "agree_as_far_as_compared" && expired(table));
    let has_all = ledger.tables.iter().all(|table| verified.tables.iter().any(|verified| verified.is(&table.name)));
    let finding = (!has_all || !verified.tables.iter().all(agrees) || !verdict.is_clean()).then(|| {
        let tables: String = verified.tables.iter().map(VerifiedTable::describe).collect();
        anyhow!("verify: {}\n{tables}ledger: {verdict:#?}", verified.verdict)
    });
    if finding.is_none() {
        watch(Event::Judged(&round));
    }
    Ok((round, finding))
}

/// The needed fields of `verify --json` for several tables.
#[derive(Deserialize)]
struct Verified {
    verdict: String,
    tables: Vec<VerifiedTable>,
}

#[derive(Deserialize)]
struct VerifiedTable {
    /// `database.table`
    table: String,
    verdict: String,
    agree: bool,
    lost: u64,
    doubled: u64,
    out_of_order: u64,
    torn: u64,
    counts: BTreeMap<String, u64>,
    differences: Vec<serde_json::Value>,
}

impl Verified {
    fn sum(&self, count: impl Fn(&VerifiedTable) -> u64) -> u64 {
        self.tables.iter().map(count).sum()
    }
}

impl VerifiedTable {
    fn is(&self, name: &str) -> bool {
        self.table.split_once('.').is_some_and(|(_, own)| own == name)
    }

    fn describe(&self) -> String {
        let differences = serde_json::to_string_pretty(&self.differences).unwrap_or_default();
        format!("{}: {} {:?} {differences}\n", self.table, self.verdict, self.counts)
    }
}

/// Waits until everything has arrived, and asks both judges.
fn conclude(harness: &mut Harness) -> Result<(Verified, Verdict)> {
    harness.servers.heal_links();
    harness.settle()?;
    let ended = harness.verify(&["--json"]);
    let verified: Verified = serde_json::from_str(&ended.out)
        .with_context(|| format!("verify ended with {} and prints no report:\n{}", ended.code, ended.err))?;
    let verdict = judge(&harness.load.ledger(), &harness.bed)?;
    Ok((verified, verdict))
}

/// Converts a panic into an error: the tests' own helpers fail by panicking.
fn caught<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(anyhow!("{}", said(panic.as_ref()))))
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic")
}
