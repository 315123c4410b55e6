//! The frame of every program: command line, configuration, log, signals, one error report at the end, exit code.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgMatches, Command};
use tokio_util::sync::CancellationToken;

use crate::certificates;
use crate::config::{self, Environment, Program, Settings};
use crate::shutdown;
use crate::telemetry::{self, Health, Metrics};
use model::error::{Error, Result};
use model::escape;

/// Time without progress after which a program is unhealthy, unless it sets another one.
const HEALTH_DEADLINE: Duration = Duration::from_secs(60);

/// The inputs of a program's `run`.
#[derive(Clone, Debug)]
pub struct Context {
    /// The settings in force.
    pub settings: Settings,
    /// The command line: the program's own flags and subcommands.
    pub arguments: ArgMatches,
    /// Cancelled by SIGINT and SIGTERM.
    pub shutdown: CancellationToken,
    /// Its metrics.
    pub metrics: Metrics,
    /// Its health.
    pub health: Health,
}

/// Runs a program from its command line to its exit code. `command` defines the program's own flags and subcommands;
/// this function adds the settings. An error is printed once with its causes and its remedy.
pub fn start<F>(program: Program, command: Command, run: impl FnOnce(Context) -> F) -> ExitCode
where
    F: Future<Output = Result<()>>,
{
    #[cfg(all(feature = "failpoints", debug_assertions))]
    let _failpoints = match crate::failpoint::start() {
        Ok(failpoints) => failpoints,
        Err(error) => return report(&error, false),
    };
    // clap prints help and usage errors; its exit code for the latter is 2.
    let arguments = config::command(program, command).get_matches();
    let environment = Environment::of_process();
    let settings = match Settings::load(program, &environment, &arguments) {
        Ok(settings) => settings,
        Err(error) => return report(&error, false),
    };
    if arguments.get_flag("check-config") {
        print!("{}", settings.report());
        for warning in settings.warnings() {
            eprintln!("warning: {}", escape::shown(warning));
        }
        return ExitCode::SUCCESS;
    }
    certificates::leave_unread(&settings);
    let as_json = settings.text("log.format") == "json";
    match run_to_end(settings, &environment, arguments, run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error, as_json),
    }
}

fn run_to_end<F>(
    settings: Settings,
    environment: &Environment,
    arguments: ArgMatches,
    run: impl FnOnce(Context) -> F,
) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    telemetry::start_log(&settings, environment)?;
    for warning in settings.warnings() {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Error::definite("cannot start the runtime's threads").with_source(e))?;
    let result = runtime.block_on(async {
        let shutdown = shutdown::on_signal()?;
        let (metrics, health) = (Metrics::default(), Health::new(HEALTH_DEADLINE));
        let (ready, alive, silent) = (health.clone(), health.clone(), health.clone());
        let flag = |fine: bool| Some(if fine { 1.0 } else { 0.0 });
        metrics
            .computed("pipeline_ready", "1 while /ready answers 200, else 0.", move || flag(ready.unready().is_none()));
        metrics.computed("pipeline_healthy", "1 while /health answers 200, else 0.", move || {
            flag(alive.unhealthy().is_none())
        });
        metrics.computed("pipeline_progress_age_seconds", "Time since the last real progress.", move || {
            Some(silent.silent_for().as_secs_f64())
        });
        if let Some(address) = settings.optional("metrics.listen").filter(|_| settings.is_of_service()) {
            let bound = telemetry::serve(address, metrics.clone(), health.clone(), shutdown.clone()).await?;
            tracing::info!("metrics, health and readiness on http://{bound}");
        }
        run(Context { settings, arguments, shutdown, metrics, health }).await
    });
    // A hanging call of a client must not keep the process alive.
    runtime.shutdown_timeout(Duration::from_secs(5));
    result
}

fn report(error: &Error, as_json: bool) -> ExitCode {
    if as_json {
        tracing::error!(code = error.code().name(), what_to_do = error.remedy(), "{error}");
    } else {
        eprintln!("{error:?}");
    }
    ExitCode::from(error.exit_code())
}
