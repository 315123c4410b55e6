//! Chores, called by `cargo xtask NAME`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use xtask::services::{Ports, Stack, StackOptions};
use xtask::{background, interrupt, progress};

/// Chores of the repository
#[derive(Parser)]
#[command(bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Run MySQL, Kafka, the schema registry and PostgreSQL until Ctrl-C, and print the environment for the programs
    Services(Services),
    /// Stop what runs in the background
    Down(Place),
    /// Remove the data of stopped servers
    Clean(Place),
}

#[derive(Args)]
struct Services {
    /// Keep them in the background; `cargo xtask down` stops them
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    ports: Ports,
}

#[derive(Args)]
struct Place {
    /// The folder of data and logs [default: target/stack]
    #[arg(long)]
    dir: Option<PathBuf>,
}

impl Place {
    fn dir(&self) -> PathBuf {
        self.dir.clone().unwrap_or_else(|| background::root().join("target/stack"))
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match interrupt::catch().and_then(|()| run(cli.chore)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<interrupt::Interrupted>() => ExitCode::from(130),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(chore: Chore) -> Result<()> {
    match chore {
        Chore::Services(services) if services.detach => {
            let arguments = std::env::args().skip(2).filter(|argument| argument != "--detach").collect::<Vec<_>>();
            background::detach(&services.place.dir(), &arguments)
        }
        Chore::Services(services) => keep_services(&services),
        Chore::Down(place) => {
            if !background::down(&place.dir())? {
                progress::note("nothing is running");
            }
            Ok(())
        }
        Chore::Clean(place) => background::clean(&place.dir()),
    }
}

fn keep_services(services: &Services) -> Result<()> {
    let options = StackOptions { dir: services.place.dir(), ports: services.ports, mysql_flags: vec![] };
    let mut stack = Stack::start(&options)?;
    background::announce(&stack)?;
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
