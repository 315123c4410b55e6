//! The command line, made from the table.

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::table::{NAMES, Names, Program, Unset};
use super::value::Kind;

const SOURCES: &str = "Each setting can also stand in conf/config.yaml under its key (kafka.topic), or in the environment \
                       (KAFKA_TOPIC); flags win over the environment, the environment over the file. -h shows the common \
                       settings, --help all. Exit codes: 0 done, 1 a person must act, 2 usage or configuration, 75 try again.";

/// Adds the settings of a program to its command line, and the flags that every program has. `-h` shows the common ones,
/// `--help` all, in sections.
pub fn command(program: Program, command: Command) -> Command {
    let mut command = command
        .version(env!("CARGO_PKG_VERSION"))
        .after_help(SOURCES)
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .global(true)
                .help("Configuration file [default: conf/config.yaml]"),
        )
        .arg(
            Arg::new("check-config")
                .long("check-config")
                .action(ArgAction::SetTrue)
                .global(true)
                .help("Print every setting in force and where it came from, then exit"),
        );
    for names in NAMES.iter().filter(|n| n.setting.is_of(program)) {
        command = command.arg(argument(names));
        if names.setting.is_secret() {
            command = command.arg(
                Arg::new(names.key_file.as_str())
                    .long(names.flag_file.as_str())
                    .value_name("FILE")
                    .global(true)
                    .hide_short_help(true)
                    .help_heading(heading(names.setting.key))
                    .help(format!("File that holds {}", names.setting.key)),
            );
        }
    }
    command
}

fn argument(names: &'static Names) -> Arg {
    let setting = names.setting;
    let help = match setting.default {
        Unset::Text(text) => format!("{} [default: {text}]", setting.help),
        Unset::From(others, _) => format!("{} [default: from {others}]", setting.help),
        Unset::None => setting.help.to_owned(),
    };
    let mut argument = Arg::new(setting.key)
        .long(names.flag.as_str())
        .value_name(value_name(setting.kind))
        .global(true)
        .hide_short_help(!setting.common)
        .allow_negative_numbers(matches!(setting.kind, Kind::Number(..)))
        .help_heading(heading(setting.key))
        .help(help);
    if names.flag != names.long_flag {
        argument = argument.alias(names.long_flag.as_str());
    }
    argument
}

fn value_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Text | Kind::Secret | Kind::LogFilter => "TEXT",
        Kind::Path => "PATH",
        Kind::Url => "URL",
        Kind::Listen => "IP:PORT[-PORT]",
        Kind::Number(..) => "N",
        Kind::Duration(_) => "TIME",
        Kind::Pause => "TIME..TIME",
        Kind::Size => "SIZE",
        Kind::Choice(_) => "WORD",
        Kind::List => "LIST",
        Kind::Map => "MAP",
    }
}

/// The heading of a program's own settings.
const OWN: &str = "What it does";

pub(super) fn heading(key: &str) -> &'static str {
    match key.split(['.', '_']).next().unwrap_or("") {
        "DB" | "db" => "MySQL",
        "kafka" => "Kafka",
        "schema" => "Schema registry",
        "postgres" => "PostgreSQL",
        "rules" => "Rules",
        "metrics" | "log" => "Observing",
        _ => OWN,
    }
}

/// A setting with its value and its file, as far as the command line has them.
type Given<'a> = (&'static Names, Option<&'a str>, Option<&'a str>);

/// The settings of a program that the command line gives.
pub(super) fn flags_given(program: Program, matches: &ArgMatches) -> impl Iterator<Item = Given<'_>> {
    let given = |id: &str| {
        let from_line =
            matches.try_contains_id(id).is_ok() && matches.value_source(id) == Some(ValueSource::CommandLine);
        from_line.then(|| matches.get_one::<String>(id).map(String::as_str)).flatten()
    };
    NAMES.iter().filter(move |n| n.setting.is_of(program)).map(move |names| {
        let file = names.setting.is_secret().then(|| given(&names.key_file)).flatten();
        (names, given(names.setting.key), file)
    })
}
