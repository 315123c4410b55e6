//! `consumer`: transforms each change of the topic and writes it exactly once to a log and to PostgreSQL.
//!
//! The head of the module `run` explains how exactly once holds. Public are the decisions without IO, which the models of
//! the protocol call, and what `stream` shows and calls.

mod assignment;
mod batch;
pub mod batch_error;
mod change;
mod command;
mod commit;
pub mod cycle;
mod dead_letter;
pub mod doctor;
mod folder;
mod group;
mod group_state;
mod kept_lines;
pub mod lineage;
mod lineage_error;
mod log_checkpoint;
mod log_file;
mod log_floor;
mod log_sync;
mod metrics;
mod offsets;
pub mod opening;
mod orphaned_partitions;
mod parking;
mod plan;
mod readiness;
mod recover;
mod repair;
pub mod retry_parked;
mod run;
mod schemas;
mod sink;
pub mod slot;
pub mod slot_name;
mod sql_value;
mod stale_rows;
pub mod start_offset;
pub mod tables;
mod topics;

use std::process::ExitCode;

use clap::{Arg, Command};
use runtime::config::Program;
use runtime::program;

/// Runs the program.
pub fn start() -> ExitCode {
    let accept_log = Command::new("accept-log")
        .about("Take a slot's log as it is now for what is committed, after the log or its checkpoint was changed, lost or replaced")
        .arg(Arg::new("slot").required(true).value_name("SLOT").help("the slot, e.g. consumer_1"));
    let restore_offsets = Command::new("restore-offsets").about(
        "Set the group's offsets to what the logs have, after Kafka has dropped them or somebody has moved them",
    );
    let skip_deleted = Command::new("skip-deleted")
        .about("Set the group behind records that the topic no longer has and that nobody has read");
    let forget_folder = Command::new("forget-folder")
        .about("Declare a logs folder of the group lost, after its disk or machine is gone for good")
        .arg(Arg::new("folder").required(true).value_name("ID").help("the folder's identity, e.g. k7x2m9qa"));
    let retry_parked = Command::new("retry-parked")
        .about("Write what is parked for PostgreSQL to it again, after its table was changed so that it takes it");
    let command = Command::new("consumer")
        .about("Transforms each change of the topic and writes it exactly once to a log and to PostgreSQL")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand(
            Command::new("doctor").about("Check Kafka, the logs, the registry and PostgreSQL, and say what to do"),
        )
        .subcommand(accept_log)
        .subcommand(restore_offsets)
        .subcommand(skip_deleted)
        .subcommand(forget_folder)
        .subcommand(retry_parked);
    program::start(Program::Consumer, command, run::run)
}
