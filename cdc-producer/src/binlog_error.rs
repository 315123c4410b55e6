//! The errors of the binlog: of the server that sends it, of the link, and of its bytes.

use model::error::{Code, Error};

/// Classifies an error of the server or the link.
pub(crate) fn failed(what: &str, error: mysql_async::Error) -> Error {
    const MASTER_FATAL_ERROR_READING_BINLOG: u16 = 1236;
    let reset = "ask for a new snapshot: `cdc-producer checkpoint reset`";
    match error {
        mysql_async::Error::Server(e) if e.code == MASTER_FATAL_ERROR_READING_BINLOG => {
            // Only the server's text distinguishes permanent errors from transient ones (a second reader with the same
            // id).
            let text = e.message.to_lowercase();
            if text.contains("purged") || text.contains("could not find") {
                return Error::new(
                    Code::PositionPurged,
                    format!("cannot {what}: the server no longer has that part of its binlog: {}", e.message),
                )
                .with_remedy(format!("{reset}; and keep binlogs longer (binlog_expire_logs_seconds)"));
            }
            if text.contains("impossible position") || text.contains("position > file size") {
                return Error::new(
                    Code::HistoryDiffers,
                    format!("cannot {what}: the binlog ends before: the binlogs were reset or restored: {}", e.message),
                )
                .with_remedy(reset);
            }
            if gtid_mode_refuses(&e.message) {
                let mode = if text.contains("anonymous") { "ON" } else { "OFF" };
                let found = format!("cannot {what} while gtid_mode is {mode}: {}", e.message);
                return Error::new(Code::GtidModeSwitched, found).with_remedy(format!(
                    "SET GLOBAL gtid_mode = {mode}_PERMISSIVE, start the producer, and SET GLOBAL gtid_mode = {mode} when it has \
                     read everything, as `verify --wait 60s` shows; nothing is lost by that. Or {reset}"
                ));
            }
            if text.contains("same server_uuid") || text.contains("same server_id") {
                return Error::new(
                    Code::ServerIdTaken,
                    format!("cannot {what}: another reader uses this server_id: {}", e.message),
                )
                .with_remedy("give each reader its own producer.server_id");
            }
            Error::definite(format!("cannot {what}: {}", e.message)).with_remedy(reset)
        }
        error => mysql::table::failed(what, error),
    }
}

/// Whether the server refuses to send a transaction, because its `gtid_mode` is ON and the transaction has no GTID, or
/// it is OFF and the transaction has one.
pub(crate) fn gtid_mode_refuses(message: &str) -> bool {
    let text = message.to_lowercase();
    text.contains("cannot replicate") && text.contains("gtid_mode")
}

/// The error for an event that can't be parsed.
pub(crate) fn damaged(kind: &str, error: &dyn std::fmt::Display) -> Error {
    Error::new(Code::EventUnreadable, format!("a {kind} event of the binlog can't be read: {error}"))
        .with_remedy("report it with the server's version; to continue after it: `cdc-producer checkpoint reset`")
}
