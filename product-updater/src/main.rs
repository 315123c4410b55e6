//! Applies CSV files to the table `product`, or to any other: in chunks, one transaction each, safe to run again.

mod amount;
mod change;
mod csv_file;
mod doctor;
#[cfg(test)]
mod fuzz;
mod generate;
mod outcome;
mod plan;
mod precision;

mod product_format;
mod progress;
mod records;
mod rejects;
mod row_error;
mod run;
mod store;
mod table;
mod table_store;
mod target;
mod ties;
mod watch;

use std::process::ExitCode;

use clap::{Arg, ArgAction, Command, value_parser};
use runtime::config::Program;

fn main() -> ExitCode {
    runtime::program::start(Program::ProductUpdater, command(), run::run)
}

fn command() -> Command {
    let flag = |name: &'static str, help| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    let number = |name: &'static str, help| {
        Arg::new(name).long(name).value_name("N").value_parser(value_parser!(u64)).requires("generate").help(help)
    };
    let percent = |name, help| number(name, help).value_name("PERCENT").value_parser(value_parser!(u64).range(0..=100));
    Command::new("product-updater")
        .about("Applies the CSV files of a folder to the table product or another one, in the order of their names")
        .long_about(
            "Applies the CSV files of a folder to the table product, in the order of their names.\n\n\
             Columns: id,name,category,price,last_updated and optionally op (upsert or delete). A row that is older than \
             the table's by last_updated is skipped, so running again changes nothing; for that, deleted products are \
             remembered in a table product_deleted. A bad row is reported, written to \
             the rejects folder, and the rest is applied.\n\n\
             With --table the files belong to any table with a primary key. The first line names columns of the table, \
             at least those of the key, and optionally op; columns that it does not name keep their values. Rows are \
             applied in the order of the data. An empty field is NULL, or the empty text where the column is NOT NULL. \
             Times are in UTC, binary columns are base64 as in the log lines, BIT is a whole number.",
        )
        .subcommand(Command::new("doctor").about("Check MySQL, the table and the rights on it, and say what to do"))
        .arg(flag("no-pause", "No pause between two chunks").conflicts_with("updater.pause"))
        .arg(flag("strict", "Stop at the first bad row"))
        .arg(flag("watch", "Go on with files that appear or change, until stopped").conflicts_with("generate"))
        .arg(
            Arg::new("generate")
                .long("generate")
                .value_name("N")
                .value_parser(value_parser!(u64))
                .help("Make N random changes instead of reading files"),
        )
        .arg(number("rate", "Changes a second; as fast as possible when left out").value_parser(value_parser!(u64).range(1..)))
        .arg(number("seed", "Seed of the random changes").default_value("1"))
        .arg(percent("updates", "Share of updates").default_value("50"))
        .arg(percent("deletes", "Share of deletes; what is left are inserts").default_value("10"))
}
