//! The whole pipeline on fresh servers: `demo` runs it once and proves that all changes arrived, `up` keeps it running.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::outputs::Outputs;
use crate::picture::{Picture, settled};
use testbed::machine::Need;
use testbed::programs::{CONSUMERS, Ended, Program, Programs};
use testbed::servers::{Ports, Stack, StackOptions, needs};
use testbed::{background, cargo, interrupt, machine, progress};

/// How long verify may wait for the last change; a program that ends stops the wait at once.
const ARRIVAL: &str = "300s";
/// The owner of a demo's files: no stack, so `up` does not continue with them.
const OWNER: &str = "demo";
/// Where the programs of `up` answer at /metrics, which the console asks.
const METRICS: &str = "127.0.0.1:9100-9119";
const PRODUCER_READY: Duration = Duration::from_secs(90);

/// What a demo is told.
#[derive(Debug, clap::Args)]
pub(crate) struct DemoOptions {
    /// Your own CSV files
    #[arg(long, value_name = "DIR", default_value_os_t = cargo::root().join("data"), hide_default_value = true)]
    data: PathBuf,
    /// Keep servers and programs running afterwards, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Delete what consumer_logs/ and time_track/ hold, whoever wrote it
    #[arg(long)]
    fresh: bool,
    #[command(flatten)]
    ports: Ports,
}

/// What `up` is told.
#[derive(Debug, clap::Args)]
pub(crate) struct UpOptions {
    /// The folder of CSV files; it is watched for new ones
    #[arg(long, value_name = "DIR", default_value_os_t = cargo::root().join("data"), hide_default_value = true)]
    data: PathBuf,
    /// Delete what consumer_logs/ and time_track/ hold, whoever wrote it, and start with empty servers
    #[arg(long)]
    fresh: bool,
    /// The folder in which the programs are started, which gets consumer_logs/ and time_track/: the checkout by default
    #[arg(long, value_name = "DIR", default_value_os_t = cargo::root(), hide_default_value = true)]
    work: PathBuf,
    #[command(flatten)]
    ports: Ports,
}

/// The running programs. Dropping it, as after an error, kills them.
struct Running {
    /// The producer is the first one.
    programs: Vec<Program>,
    /// The address of the console, if it runs.
    console: Option<String>,
    /// Keep the other programs running when one ends; its error is shown, and the user may start it again.
    keeps_on: bool,
    claim: Claim,
}

/// The files that a run writes are its owner's: even a run that is killed leaves a list of them.
struct Claim {
    outputs: Outputs,
    owner: String,
    /// When the list was written.
    at: Instant,
}

impl Claim {
    fn renew(&mut self) -> Result<()> {
        if self.at.elapsed() > Duration::from_secs(1) {
            self.outputs.claim(&self.owner)?;
            self.at = Instant::now();
        }
        Ok(())
    }
}

impl Running {
    fn check(&mut self) -> Result<()> {
        self.claim.renew()?;
        if !self.keeps_on {
            return self.programs.iter_mut().try_for_each(Program::check);
        }
        for program in &mut self.programs {
            for error in program.new_errors() {
                progress::note(&format!("{}: {error}", program.name()));
            }
            if let Some(error) = program.newly_ended()? {
                show(&error);
            }
        }
        if interrupt::asked_to_start_again() {
            for program in &mut self.programs {
                if program.start_again()? {
                    progress::note(&format!("{} is started again", program.name()));
                }
            }
        }
        Ok(())
    }

    /// Says where to look until Ctrl-C.
    fn say_where(&self) {
        let console = self.console.as_deref().unwrap_or("there is none, see above");
        progress::note(&format!("the console: {console}"));
    }

    /// Whether all programs are running; shows any that has ended.
    fn all_run(&mut self) -> bool {
        self.programs.iter_mut().all(|program| program.check().is_ok())
    }

    fn stop(&mut self) -> Result<()> {
        self.programs.iter().for_each(Program::ask_to_stop);
        self.programs.iter_mut().try_for_each(Program::stop)
    }
}

/// Runs the demo.
///
/// # Errors
/// When a change does not arrive exactly once.
pub(crate) fn demo(options: &DemoOptions) -> Result<()> {
    let started = Instant::now();
    let data = checked_data(&options.data)?;
    let dir = cargo::target().join("demo-stack");
    let outputs = Outputs::default();
    let _held = outputs.hold()?;
    // The logs and the servers that `up` continues with belong together; a demo must not delete one of them.
    let kept = fs::read_to_string(cargo::target().join("stack/id")).ok();
    if kept.is_some() && kept == outputs.owner() && !options.fresh {
        bail!(
            "consumer_logs/ and time_track/ belong to the servers of `cargo xtask up`, whose data is kept\n  \
             what to do: `cargo xtask up` continues with both; `cargo xtask clean` deletes the servers' data, after which a \
             demo may begin"
        );
    }
    outputs.check(options.fresh)?;
    let programs_folder = prepared()?;
    background::clean(&dir)?;
    outputs.empty(options.fresh)?;
    let mut stack = Stack::start(&StackOptions { dir: dir.clone(), ports: options.ports, ..StackOptions::default() })?;
    background::announce(&stack, &stack.env())?;
    // Use an empty settings file: the user's own file may name other servers.
    let settings = stack.dir().join("config.yaml");
    fs::write(&settings, "{}\n")?;
    let programs = Programs::new(programs_folder, &stack).with("CONFIG", &settings.display().to_string());

    let result = shown(options, &mut stack, &programs, &data, started);
    background::withdraw(&dir);
    stack.kill()?;
    outputs.claim(OWNER)?;
    result
}

fn shown(options: &DemoOptions, stack: &mut Stack, programs: &Programs, data: &Path, started: Instant) -> Result<()> {
    let claim = Claim { outputs: Outputs::default(), owner: OWNER.to_owned(), at: Instant::now() };
    let mut running = start_programs(programs, stack, claim, false)?;
    let step = progress::step("updater", "writing the CSV files to MySQL");
    let mut updater = programs.updater(&["--data", &data.display().to_string(), "--no-pause"])?;
    updater.wait(|| running.check())?;
    step.done("all CSV files are in MySQL");
    let step = progress::step("verify", "waiting until every change has arrived, then comparing");
    let mut verify = programs.verify(&["--wait", ARRIVAL, "--json"])?;
    let verdict = verify.wait(|| running.check());
    if verdict.is_err() {
        print!("{}", programs.output("verify").unwrap_or_default());
    }
    verdict?;
    let picture = Picture::of(stack, &programs.output("verify")?)?;
    if picture.changes() == 0 {
        drop(step);
        print!("{}", programs.output("product-updater")?);
        bail!(
            "no row of {} applied, so there was nothing to arrive\n  what to do: see why in {}",
            data.display(),
            programs.logs().join("product-updater.log").display()
        );
    }
    step.done("table, topic, logs and PostgreSQL agree: every change arrived exactly once");
    println!("\n{}", programs.output("product-updater")?.trim_end());
    println!("\n{}", picture.text());
    println!("{}", hints(stack, programs, options.keep));
    progress::note(&format!("  the whole demo took {:.1} s", started.elapsed().as_secs_f64()));
    if options.keep {
        running.say_where();
        progress::note("running until Ctrl-C");
        watch(|| stack.check().and_then(|()| running.check()))?;
    }
    let step = progress::step("stop", "stopping programs and servers");
    running.stop()?;
    stack.kill()?;
    step.done("nothing is left running");
    Ok(())
}

/// Keeps servers and programs running until Ctrl-C. The error of a program that ends is shown, and the others continue.
///
/// # Errors
/// When something cannot be started, or a server ends.
pub(crate) fn up(options: &UpOptions, dir: PathBuf) -> Result<()> {
    let data = checked_data(&options.data)?;
    let work = &options.work;
    let work = work.canonicalize().with_context(|| format!("there is no folder {}", work.display()))?;
    let outputs = Outputs::of(&work);
    let _held = outputs.hold()?;
    let known = dir.join("id");
    let id = fs::read_to_string(&known).ok();
    // Logs and servers belong together: keep both, or start with both empty.
    let goes_on = !options.fresh && id.is_some() && outputs.owner() == id;
    if !goes_on {
        outputs.check(options.fresh)?;
        if dir.join("mysql").exists() && !options.fresh {
            bail!(
                "the servers' data in {} and the logs in consumer_logs/ are not of the same run\n  \
                 what to do: `--fresh` deletes both and starts from the beginning",
                dir.display()
            );
        }
    }
    let programs_folder = prepared()?;
    let id = if goes_on { id.unwrap_or_default() } else { new_id() };
    if !goes_on {
        background::clean(&dir)?;
        outputs.empty(options.fresh)?;
        fs::create_dir_all(&dir)?;
        fs::write(&known, &id)?;
    }
    outputs.claim(&id)?;
    let mut stack = Stack::start(&StackOptions { dir: dir.clone(), ports: options.ports, ..StackOptions::default() })?;
    // All programs share the address, so it must be a range of ports; otherwise their error says so.
    let metrics = std::env::var("METRICS_LISTEN").unwrap_or_else(|_| METRICS.to_owned());
    let programs = Programs::new(programs_folder, &stack).within(&work).with("METRICS_LISTEN", &metrics);
    // `stream` asks the programs there.
    let env = [stack.env(), vec![("STREAM_METRICS".to_owned(), metrics)]].concat();
    let claim = Claim { outputs: Outputs::of(&work), owner: id.clone(), at: Instant::now() };
    let result = kept_up(&mut stack, &programs, &data, claim, &env);
    background::withdraw(&dir);
    stack.stop()?;
    outputs.claim(&id)?;
    result
}

fn kept_up(stack: &mut Stack, programs: &Programs, data: &Path, claim: Claim, env: &[(String, String)]) -> Result<()> {
    interrupt::catch_start_again()?;
    let mut running = start_programs(programs, stack, claim, true)?;
    running.programs.push(programs.updater(&["--data", &data.display().to_string(), "--no-pause", "--watch"])?);
    background::announce(stack, env)?;
    print!("{}", background::env_lines(env));
    progress::note(&format!("logs of the programs: {}", programs.logs().display()));
    progress::note("a CSV file put into the data folder is taken in");
    running.say_where();
    progress::note("running until Ctrl-C");
    watch(|| {
        stack.check()?;
        running.check()
    })?;
    let step = progress::step("stop", "stopping programs and servers");
    running.stop()?;
    stack.stop()?;
    step.done("nothing is left running");
    Ok(())
}

fn hints(stack: &Stack, programs: &Programs, kept: bool) -> String {
    let root = cargo::root();
    let short = |path: &Path| path.strip_prefix(&root).unwrap_or(path).display().to_string();
    let (dir, logs, bin) = (short(stack.dir()), short(programs.logs()), short(programs.folder()));
    let look = if kept {
        format!("    . {dir}/env; {bin}/stream status    what runs, and how far everything is\n")
    } else {
        "    cargo xtask demo --keep             the same, and console, servers and programs stay up to be looked at\n"
            .to_owned()
    };
    format!(
        "  where to look
    consumer_logs/*/consumer_log.json   each change, transformed, in exactly one log
    time_track/last_read_timestamp.json  how far the producer has come
    {logs}              the programs' own logs
{look}
  what to try next
    cargo xtask up                      keep all running, and follow the ten steps of docs/tutorial.md
    cargo xtask demo --data DIR         the same with your own CSV files (id,name,category,price,last_updated)
"
    )
}

/// Waits for Ctrl-C or for the first error.
fn watch(mut check: impl FnMut() -> Result<()>) -> Result<()> {
    let mut result = Ok(());
    interrupt::wait_while(|| {
        result = check();
        result.is_ok()
    });
    result
}

fn new_id() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{}-{}", std::process::id(), now.as_nanos())
}

fn checked_data(data: &Path) -> Result<PathBuf> {
    let data = data.canonicalize().with_context(|| format!("there is no folder {}", data.display()))?;
    let entries =
        fs::read_dir(&data).with_context(|| format!("{} is not a folder that can be read", data.display()))?;
    if !entries.flatten().any(|entry| entry.path().extension().is_some_and(|extension| extension == "csv")) {
        bail!("{} holds no .csv file\n  what to do: give the folder of your CSV files by --data", data.display());
    }
    Ok(data)
}

/// Installs and builds everything; returns the programs' folder. Tests name one with programs that are built already.
fn prepared() -> Result<PathBuf> {
    if let Some(built) = std::env::var_os("PIPELINE_BIN_DIR") {
        machine::ensure(&needs()?)?;
        return Ok(PathBuf::from(built));
    }
    machine::ensure(&[&[Need::Compiler, Need::Libraries], needs()?.as_slice()].concat())?;
    let step = progress::step("build", "the programs, optimised: minutes at the first time");
    let folder = cargo::build_programs(cargo::Build::Release)?;
    step.done("the programs are built");
    Ok(folder)
}

/// Starts the console and says where it is; without it, e.g. when no port is free, the pipeline works all the same.
fn console(programs: &Programs) -> Result<Option<(Program, String)>> {
    match programs.console() {
        Ok((console, address)) => {
            progress::note(&format!("  the console is on {address} while this runs: look at all of it there"));
            Ok(Some((console, address)))
        }
        Err(error) if error.is::<Ended>() => {
            progress::note(&format!("  there is no console: {error:#}"));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Shows why a program has ended, and how to start it again.
fn show(error: &anyhow::Error) {
    progress::note(&format!(
        "{error:#}\n  what to do: the servers and the other programs continue; when the cause is gone, start it again with \
         `kill -USR1 {}`",
        std::process::id()
    ));
}

/// Starts the producer and the consumers before the first change, so that the user sees each change arrive. With
/// `keeps_on`, a program that ends does not stop the others.
fn start_programs(programs: &Programs, stack: &mut Stack, claim: Claim, keeps_on: bool) -> Result<Running> {
    let step = progress::step("programs", "creating the table");
    let nothing = stack.dir().join("no-data");
    fs::create_dir_all(&nothing)?;
    match programs.updater(&["--data", &nothing.display().to_string(), "--no-pause"])?.wait(|| Ok(())) {
        Err(error) if keeps_on && error.is::<Ended>() => show(&error),
        created => created?,
    }
    let (console, address) = console(programs)?.unzip();
    step.say("starting the producer and five consumers");
    let started = std::iter::once(programs.producer()).chain((1..=CONSUMERS).map(|number| programs.consumer(number)));
    let mut running =
        Running { programs: started.chain(console.map(Ok)).collect::<Result<_>>()?, console: address, keeps_on, claim };
    let since = Instant::now();
    while !(running.programs[0].has_logged(" reading ") && settled(stack, CONSUMERS)?) {
        interrupt::check()?;
        running.check()?;
        if !running.all_run() {
            step.done("not all of them run");
            return Ok(running);
        }
        stack.check()?;
        if since.elapsed() > PRODUCER_READY {
            bail!(
                "the producer does not read, or the five consumers do not share the partitions, after {} s: see {}",
                since.elapsed().as_secs(),
                programs.logs().display()
            );
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    step.done("one producer and five consumers are running, two partitions each");
    Ok(running)
}
