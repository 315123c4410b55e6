//! `stream console`: the pipeline as a page in a browser.
//!
//! It reads while a browser watches, and rests otherwise: one look at the state a second, and one reader of the topics'
//! ends, which counts every change and passes on a sample. The page and its libraries are part of the program.

mod asking;
mod assets;
mod earlier;
mod guard;
mod happened;
mod hub;
mod live;
mod replay;
mod server;
mod shown;
mod tally;
mod values;
mod watching;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use model::error::{Error, Result};
use runtime::config::listen_addresses;
use runtime::program::Context;

use self::asking::Answerer;
use self::guard::Guard;
use self::hub::{About, Hub};
use self::server::Shared;
use crate::pipeline::Pipeline;
use crate::text;

/// The command line.
pub(crate) fn command() -> Command {
    Command::new("console")
        .about("Show the pipeline live in a browser")
        .arg(
            Arg::new("listen")
                .long("listen")
                .value_name("IP:PORT")
                .default_value("127.0.0.1:8080")
                .help("Where to answer; the first free port of IP:PORT-PORT"),
        )
        .arg(
            Arg::new("name")
                .long("name")
                .value_name("HOST")
                .action(ArgAction::Append)
                .help("A name by which browsers know this server, beside its addresses and localhost"),
        )
        .arg(
            Arg::new("allow-control")
                .long("allow-control")
                .action(ArgAction::SetTrue)
                .requires("token-file")
                .help("Allow replays to whoever has the token; else the console only reads"),
        )
        .arg(
            Arg::new("token-file")
                .long("token-file")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("File with the token, of 16 characters or more"),
        )
}

/// Where browsers find it. Pure.
fn place(bound: SocketAddr) -> String {
    if bound.ip().is_unspecified() {
        format!("port {} of every address of this machine", bound.port())
    } else {
        format!("http://{bound}")
    }
}

/// Serves the page until shutdown.
///
/// # Errors
/// Usage when a flag can't be used; definite when the address is taken.
pub(crate) async fn run(context: &Context, arguments: &ArgMatches) -> Result<()> {
    let pipeline = Pipeline::new(&context.settings)?;
    let listen = arguments.get_one::<String>("listen").map_or("", String::as_str);
    let addresses: Vec<SocketAddr> = listen_addresses(listen)
        .ok_or_else(|| {
            Error::usage(format!("--listen: {listen:?} is no address"))
                .with_remedy("write it like 127.0.0.1:8080, or 127.0.0.1:8080-8089 for the first free port")
        })?
        .collect();
    let token = match arguments.get_one::<PathBuf>("token-file") {
        Some(path) if arguments.get_flag("allow-control") => Some(guard::token(path)?),
        _ => None,
    };
    let names = arguments.get_many::<String>("name").into_iter().flatten().cloned().collect();
    let about = About { group: pipeline.kafka.group_id.clone(), control: token.is_some() };
    let (listener, bound) = server::bind(&addresses, listen).await?;
    let shared = Shared {
        hub: Hub::new(about),
        answerer: Arc::new(Answerer::new(pipeline.clone())),
        guard: Arc::new(Guard { names, token }),
        pipeline: Arc::new(pipeline.clone()),
        shutdown: context.shutdown.clone(),
    };
    text::write(&format!("console on {}\n", place(bound)))?;
    if !bound.ip().is_loopback() {
        tracing::warn!(%bound, "whoever reaches this address sees the rows of all tables; the console has no login");
    }
    let hub = Arc::clone(&shared.hub);
    tokio::join!(server::serve(listener, shared), watching::run(hub, pipeline, context.shutdown.clone()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_of_a_browser_is_not_shown_as_one() {
        for (bound, want) in [
            ("127.0.0.1:8081", "http://127.0.0.1:8081"),
            ("[::1]:80", "http://[::1]:80"),
            ("0.0.0.0:8080", "port 8080 of every address of this machine"),
            ("[::]:8080", "port 8080 of every address of this machine"),
        ] {
            assert_eq!(place(bound.parse().expect("an address")), want);
        }
    }
}
