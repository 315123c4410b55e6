//! Checks of a server that is a replica: whether its binlog contains the changes that it receives.

use std::collections::BTreeMap;

use kafka::doctor::Check;
use model::error::{Class, Result};
use model::table_name::TableName;
use mysql::table::answered;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value};

use crate::binlog_error::failed;

const NAME: &str = "replica";

/// The fields of one channel in `SHOW REPLICA STATUS`, by column.
type Channel = BTreeMap<String, String>;

/// Checks the settings of a server that replicates from another one; no checks otherwise.
///
/// # Errors
/// Transient when the link breaks; faults of the server are in the checks.
pub(crate) async fn checks(conn: &mut Conn, tables: &[TableName]) -> Result<Vec<Check>> {
    let old = conn.server_version() < (8, 0, 26);
    let (status, logs) = if old {
        ("SHOW SLAVE STATUS", "SELECT @@log_slave_updates")
    } else {
        ("SHOW REPLICA STATUS", "SELECT @@log_replica_updates")
    };
    let rows: Vec<Row> = match answered(conn.query(status)).await {
        Ok(rows) => rows,
        Err(e) => {
            let error = failed("ask whether the server is a replica", e);
            if error.class() == Class::Transient {
                return Err(error);
            }
            let remedy = "GRANT REPLICATION CLIENT ON *.* TO the user of DB_USER";
            return Ok(vec![Check::bad(NAME, error.to_string(), remedy).with_code(error.code())]);
        }
    };
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let logs: Option<u8> = answered(conn.query_first(logs)).await.map_err(|e| failed("read a setting", e))?;
    let channels: Vec<Channel> = rows.into_iter().map(channel).collect();
    Ok(judge(&channels, logs == Some(1), tables))
}

fn channel(row: Row) -> Channel {
    let names: Vec<String> = row.columns_ref().iter().map(|c| c.name_str().into_owned()).collect();
    // Older servers use the old terms.
    let name = |name: String| name.replace("Slave", "Replica").replace("Master", "Source");
    let text = |value: Value| match value {
        Value::NULL => String::new(),
        Value::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        other => other.as_sql(true).trim_matches('\'').to_owned(),
    };
    names.into_iter().map(name).zip(row.unwrap().into_iter().map(text)).collect()
}

fn judge(channels: &[Channel], logs_updates: bool, tables: &[TableName]) -> Vec<Check> {
    let source = |c: &Channel| format!("{}:{}", get(c, "Source_Host"), get(c, "Source_Port"));
    let sources: Vec<String> = channels.iter().map(source).collect();
    let mut checks = Vec::new();
    if !logs_updates {
        let found = format!(
            "this server is a replica of {} with log_replica_updates=OFF: the changes that it receives are not in its binlog",
            sources.join(", ")
        );
        let remedy = format!(
            "set DB_HOST to the source {}, or restart this server with log_replica_updates=ON and then run \
             `cdc-producer checkpoint reset`; if it is no replica any more, RESET REPLICA ALL",
            sources.join(", ")
        );
        let is_at_rest = channels.iter().all(is_stopped);
        checks.push(if is_at_rest { Check::warning(NAME, found, remedy) } else { Check::bad(NAME, found, remedy) });
    }
    for channel in channels {
        for name in tables {
            let Some(filter) = left_out(channel, &name.database, &name.table) else { continue };
            let found = format!("the filter {filter} leaves changes of {name} from {} out", source(channel));
            let remedy = "set DB_HOST to the source, or remove the filter with CHANGE REPLICATION FILTER and copy the table \
                          again; then run `cdc-producer checkpoint reset`, as the position may be behind changes that were \
                          left out; if this server is no replica any more, RESET REPLICA ALL";
            let is_at_rest = is_stopped(channel);
            checks.push(if is_at_rest { Check::warning(NAME, found, remedy) } else { Check::bad(NAME, found, remedy) });
        }
        let stopped =
            ["Replica_IO_Running", "Replica_SQL_Running"].into_iter().find(|name| get(channel, name) != "Yes");
        if let Some(name) = stopped {
            checks.push(Check::warning(
                NAME,
                format!(
                    "replication from {} is not running ({name} is {:?}): later changes do not arrive",
                    source(channel),
                    get(channel, name)
                ),
                "START REPLICA, or set DB_HOST to the source; if this server is no replica any more, RESET REPLICA ALL",
            ));
        }
        let delay = get(channel, "SQL_Delay");
        if !matches!(delay, "" | "0") {
            checks.push(Check::warning(
                NAME,
                format!("replication from {} is delayed by {delay} s", source(channel)),
                "set DB_HOST to the source to have changes at once",
            ));
        }
    }
    if checks.is_empty() {
        checks.push(Check::good(NAME, format!("of {}, log_replica_updates=ON", sources.join(", "))));
    }
    checks
}

/// Whether replication is stopped, as after a failover to this server. If somebody starts it again, the next check
/// notices.
fn is_stopped(channel: &Channel) -> bool {
    ["Replica_IO_Running", "Replica_SQL_Running"].into_iter().all(|name| get(channel, name) == "No")
}

fn get<'a>(channel: &'a Channel, name: &str) -> &'a str {
    channel.get(name).map_or("", String::as_str)
}

/// The replication filter of the channel that may exclude changes of the table.
fn left_out(channel: &Channel, database: &str, table: &str) -> Option<String> {
    let list = |name: &str| -> Vec<String> {
        get(channel, name)
            .split(',')
            .map(|item| item.trim().trim_matches('`').to_owned())
            .filter(|i| !i.is_empty())
            .collect()
    };
    let full = format!("{database}.{table}");
    let names_it = |name: &str| list(name).iter().any(|item| item.replace('`', "") == full);
    let matches_it =
        |name: &str| list(name).iter().any(|pattern| matches(pattern.replace('`', "").as_bytes(), full.as_bytes()));
    let (only, only_like) = ("Replicate_Do_Table", "Replicate_Wild_Do_Table");
    let is_only = (!list(only).is_empty() || !list(only_like).is_empty()) && !names_it(only) && !matches_it(only_like);
    let databases = list("Replicate_Do_DB");
    let filters = [
        ("Replicate_Do_DB", !databases.is_empty() && !databases.iter().any(|d| d == database)),
        ("Replicate_Ignore_DB", databases.is_empty() && list("Replicate_Ignore_DB").iter().any(|d| d == database)),
        (if list(only).is_empty() { only_like } else { only }, is_only),
        ("Replicate_Ignore_Table", names_it("Replicate_Ignore_Table")),
        ("Replicate_Wild_Ignore_Table", matches_it("Replicate_Wild_Ignore_Table")),
    ];
    filters.into_iter().find(|(_, leaves_out)| *leaves_out).map(|(name, _)| format!("{name}={}", get(channel, name)))
}

/// LIKE with `%`, `_` and `\`.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'%', rest @ ..] => (0..=text.len()).any(|i| matches(rest, &text[i..])),
        [b'_', rest @ ..] => !text.is_empty() && matches(rest, &text[1..]),
        [b'\\', c, rest @ ..] | [c, rest @ ..] => text.first() == Some(c) && matches(rest, &text[1..]),
    }
}

#[cfg(test)]
mod tests {
    use kafka::doctor::Outcome;

    use super::*;

    fn judged(fields: &[(&str, &str)], logs_updates: bool) -> Vec<(Outcome, String)> {
        let running = [
            ("Source_Host", "db1"),
            ("Source_Port", "3306"),
            ("Replica_IO_Running", "Yes"),
            ("Replica_SQL_Running", "Yes"),
        ];
        let channel = running.iter().chain(fields).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        judge(&[channel], logs_updates, &[TableName::new("shop", "product")])
            .into_iter()
            .map(|c| (c.outcome, c.found))
            .collect()
    }

    #[test]
    fn what_a_replica_leaves_out_is_refused() {
        use Outcome::{Bad, Good, Warning};
        for (fields, logs_updates, want, text) in [
            (&[][..], true, Good, "log_replica_updates=ON"),
            (&[], false, Bad, "log_replica_updates=OFF"),
            (&[("Replicate_Do_DB", "a,b")], true, Bad, "Replicate_Do_DB=a,b"),
            (&[("Replicate_Do_DB", "a,shop")], true, Good, ""),
            (&[("Replicate_Ignore_DB", "shop")], true, Bad, "Replicate_Ignore_DB=shop"),
            (&[("Replicate_Do_Table", "shop.other")], true, Bad, "Replicate_Do_Table"),
            (&[("Replicate_Do_Table", "shop.other"), ("Replicate_Wild_Do_Table", "shop.prod%")], true, Good, ""),
            (&[("Replicate_Wild_Do_Table", "sh\\_p.%")], true, Bad, "Replicate_Wild_Do_Table"),
            (&[("Replicate_Ignore_Table", "shop.product")], true, Bad, "Replicate_Ignore_Table"),
            (&[("Replicate_Wild_Ignore_Table", "sh_p.%")], true, Bad, "Replicate_Wild_Ignore_Table"),
            (&[("Replicate_Wild_Ignore_Table", "shop.tmp%")], true, Good, ""),
            (&[("Replica_SQL_Running", "No")], true, Warning, "Replica_SQL_Running"),
            (&[("SQL_Delay", "3600")], true, Warning, "delayed by 3600 s"),
            // MySQL ignores Replicate_Ignore_DB then.
            (&[("Replicate_Do_DB", "shop"), ("Replicate_Ignore_DB", "shop")], true, Good, ""),
        ] {
            let checks = judged(fields, logs_updates);
            assert!(checks.len() == 1 && checks[0].0 == want && checks[0].1.contains(text), "{fields:?}: {checks:?}");
        }
    }

    #[test]
    fn a_promoted_replica_with_its_old_channel_is_a_warning() {
        let stopped = [("Replica_IO_Running", "No"), ("Replica_SQL_Running", "No"), ("Replicate_Ignore_DB", "shop")];
        let checks = judged(&stopped, false);
        assert!(checks.len() == 3 && checks.iter().all(|(outcome, _)| *outcome == Outcome::Warning), "{checks:?}");
    }
}
