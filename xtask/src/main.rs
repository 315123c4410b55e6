//! Chores, called by `cargo xtask NAME`. The program builds on a bare machine and then installs and downloads the rest.

mod demo;
mod outputs;
mod picture;
mod tests;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use testbed::programs::Ended;
use testbed::servers::{self, Ports, Stack, StackOptions};
use testbed::{background, cargo, interrupt, kafka_tools, progress};

use crate::demo::{DemoOptions, UpOptions};

/// Chores of the repository
#[derive(Parser)]
#[command(bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Run the whole pipeline once on fresh servers, from CSV files to the logs, and prove that all arrived
    Demo(DemoOptions),
    /// Keep servers and programs running until Ctrl-C
    Up {
        #[command(flatten)]
        options: UpOptions,
        #[command(flatten)]
        place: StackFolder,
    },
    /// Run MySQL, Kafka, the schema registry and PostgreSQL until Ctrl-C, and print the environment for the programs
    Services(Services),
    /// Run one of Kafka's own tools on the running stack: topics, consumer-groups, console-consumer, get-offsets,
    /// configs
    Kafka {
        /// The tool
        tool: String,
        /// Its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Install and fetch what the build and the servers need
    Setup,
    /// Run all tests on real servers of their own
    Test {
        /// Arguments for `cargo test`: a filter, `-p PACKAGE`, `-- --nocapture` …
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Break the pipeline on purpose while it works, and prove that every change still arrives exactly once
    #[command(disable_help_flag = true)]
    Chaos {
        /// Arguments of the harness; see `cargo xtask chaos --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measure the pipeline beside Debezium on separate servers
    #[command(disable_help_flag = true)]
    Bench {
        /// Arguments of the benchmark; see `cargo xtask bench --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Count the instructions that a row costs on each hot path, and compare them with the baseline
    #[command(disable_help_flag = true)]
    Instructions {
        /// Arguments of the program that counts; see `cargo xtask instructions --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Take the pictures of the console and record a terminal, in docs/screenshots
    Screenshots,
    /// Check licences and sources of all libraries by deny.toml
    Deny,
    /// Stop what runs in the background
    Down(StackFolder),
    /// Remove the data of stopped servers
    Clean(StackFolder),
}

#[derive(Args)]
struct Services {
    /// Keep them in the background; `cargo xtask down` stops them
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    place: StackFolder,
    #[command(flatten)]
    ports: Ports,
}

#[derive(Args)]
struct StackFolder {
    /// The folder of data and logs, under target/ by default
    #[arg(long)]
    dir: Option<PathBuf>,
}

impl StackFolder {
    fn dir(&self) -> PathBuf {
        self.dir.clone().unwrap_or_else(|| cargo::target().join("stack"))
    }

    /// The folder asked for, else all of ours with these names.
    fn dirs(&self, ours: &[&str]) -> Vec<PathBuf> {
        match &self.dir {
            Some(dir) => vec![dir.clone()],
            None => ours.iter().map(|name| cargo::target().join(name)).collect(),
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match interrupt::catch().and_then(|()| run(cli.chore)) {
        Ok(code) => code,
        Err(error) if error.is::<interrupt::Interrupted>() => ExitCode::from(130),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(error.downcast_ref::<Ended>().map_or(1, |ended| ended.code))
        }
    }
}

fn run(chore: Chore) -> Result<ExitCode> {
    let code = |status: std::process::ExitStatus| {
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        code.map_or(ExitCode::FAILURE, ExitCode::from)
    };
    match chore {
        Chore::Test { arguments } => return Ok(code(tests::run(&arguments)?)),
        Chore::Chaos { arguments } => return Ok(code(tests::chaos(&arguments)?)),
        Chore::Bench { arguments } => return Ok(code(tests::bench(&arguments)?)),
        Chore::Instructions { arguments } => return Ok(code(tests::instructions(&arguments)?)),
        Chore::Screenshots => return Ok(code(tests::screenshots()?)),
        Chore::Deny => return Ok(code(tests::deny()?)),
        Chore::Demo(options) => demo::demo(&options),
        Chore::Up { options, place } => demo::up(&options, place.dir()),
        Chore::Kafka { tool, arguments } => {
            let stacks = ["stack", "demo-stack"].map(|dir| cargo::target().join(dir));
            kafka_tools::run(&tool, &arguments, &stacks.each_ref().map(PathBuf::as_path))
        }
        Chore::Setup => servers::fetch(),
        Chore::Services(services) if services.detach => {
            let arguments = std::env::args().skip(2).filter(|argument| argument != "--detach").collect::<Vec<_>>();
            background::detach(&services.place.dir(), &arguments)
        }
        Chore::Services(services) => keep_services(&services),
        Chore::Down(place) => {
            let mut any = false;
            for dir in place.dirs(&["stack", "demo-stack"]) {
                any |= background::down(&dir)?;
            }
            if !any {
                progress::note("nothing is running");
            }
            Ok(())
        }
        Chore::Clean(place) => {
            place.dirs(&["stack", "demo-stack", "test-stack"]).iter().try_for_each(|dir| background::clean(dir))?;
            progress::note("no server's data is left");
            Ok(())
        }
    }?;
    Ok(ExitCode::SUCCESS)
}

fn keep_services(services: &Services) -> Result<()> {
    let options = StackOptions { dir: services.place.dir(), ports: services.ports, ..StackOptions::default() };
    let mut stack = Stack::start(&options)?;
    background::announce(&stack, &stack.env())?;
    print!("{}", background::env_lines(&stack.env()));
    progress::note("running until Ctrl-C");
    let mut result = Ok(());
    interrupt::wait_while(|| {
        result = stack.check();
        result.is_ok()
    });
    background::withdraw(stack.dir());
    stack.stop()?;
    result
}
