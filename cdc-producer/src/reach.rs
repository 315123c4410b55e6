//! Decides whether a statement that was logged as text and wrote to another table can have changed our table: asks the
//! server whether the other table is a base table, and whether it has triggers.
//!
//! Only a user with the right TRIGGER sees triggers. Without it an empty answer does not prove that there are none, so
//! the error asks for the right.

use kafka::doctor::Check;
use model::error::{Code, Error, Result};
use mysql::table::{answered, grant_lock_tables};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::binlog_error::failed;
use crate::statement::{Mode, Words};

/// A right on a single table names that table; only `*` matches this name.
const NO_TABLE: &str = "";

/// The server's facts about a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// `BASE TABLE`, `VIEW`; `None` when there is no such table that this user may see.
    pub(crate) kind: Option<String>,
    /// The name of one of its triggers.
    pub(crate) trigger: Option<String>,
    /// This user sees its triggers.
    pub(crate) sees_triggers: bool,
}

/// Asks the server about a table.
///
/// # Errors
/// As [`mysql::table::failed`].
pub(crate) async fn ask(conn: &mut Conn, database: &str, table: &str) -> Result<Facts> {
    let asking = |e| failed(&format!("look up the table {database}.{table}"), e);
    let kind = "SELECT table_type FROM information_schema.tables WHERE table_schema = ? AND table_name = ?";
    let kind = answered(conn.exec_first(kind, (database, table))).await.map_err(asking)?;
    let trigger = "SELECT trigger_name FROM information_schema.triggers \
                   WHERE event_object_schema = ? AND event_object_table = ? LIMIT 1";
    let trigger = answered(conn.exec_first(trigger, (database, table))).await.map_err(asking)?;
    let sees_triggers = sees_triggers(&grants(conn).await?, database, table);
    Ok(Facts { kind, trigger, sees_triggers })
}

/// Check of the right to see triggers, with its purpose for `doctor`.
///
/// # Errors
/// Transient when the link breaks.
pub(crate) async fn right(conn: &mut Conn, database: &str) -> Result<Check> {
    Ok(if sees_triggers(&grants(conn).await?, database, NO_TABLE) {
        Check::good(
            "TRIGGER",
            "granted: a statement that a session logs as text is passed over when it leaves the table alone",
        )
    } else {
        let found = format!(
            "not granted, nor needed while every session logs rows: a statement on another table of {database} that a session logs \
             as text (binlog_format = STATEMENT, as pt-heartbeat does) stops the producer, and with GRANT TRIGGER ON {}.* it \
             is passed over",
            mysql::table::quoted_in_grant(database)
        );
        Check::note("TRIGGER", found)
    })
}

async fn grants(conn: &mut Conn) -> Result<Vec<String>> {
    answered(conn.query("SHOW GRANTS")).await.map_err(|e| failed("look up this user's rights", e))
}

/// Check of the right to lock tables, which a snapshot uses on a server without GTIDs. The grants may hide a right that
/// this user has, as by a pattern of names, so a missing one is no failure yet.
///
/// # Errors
/// Transient when the link breaks.
pub(crate) async fn lock_right(conn: &mut Conn, database: &str) -> Result<Check> {
    const NAME: &str = "LOCK TABLES";
    Ok(if holds(&grants(conn).await?, "LOCK", database, NO_TABLE) {
        Check::good(NAME, "granted")
    } else {
        let found = format!("SHOW GRANTS names no such right on {database}: without GTIDs a snapshot stops without it");
        Check::warning(NAME, found, grant_lock_tables(database))
    })
}

/// Whether these grants hold the right TRIGGER on the table.
pub(crate) fn sees_triggers(grants: &[String], database: &str, table: &str) -> bool {
    holds(grants, "TRIGGER", database, table)
}

/// Whether these grants (`GRANT … ON … TO …`) hold the right with this word on the table.
fn holds(grants: &[String], right: &str, database: &str, table: &str) -> bool {
    let holds = |grant: &&String| {
        let words: Vec<_> = Words::new(grant.as_bytes(), Mode::default()).collect();
        let Some(on) = words.iter().position(|w| w.is("ON")) else { return false };
        let is_named = words[..on].iter().any(|w| w.is(right) || w.is("ALL"));
        let part =
            |i: usize, name: &str| words.get(on + i).is_some_and(|w| w.symbol('*') || w.text.replace('\\', "") == name);
        is_named && part(1, database) && part(3, table)
    };
    let revokes = |grant: &&String| grant.starts_with("REVOKE");
    grants.iter().filter(|g| !revokes(g)).any(|g| holds(&g)) && !grants.iter().filter(revokes).any(|g| holds(&g))
}

/// Checks that a plain statement that wrote to the table changed no other table.
///
/// # Errors
/// Definite when it may have changed another, or when this user can't see that; the error has the remedy.
pub(crate) fn require_alone(facts: &Facts, name: &str, ours: &str, statement: &str) -> Result<()> {
    let stop = |reason: String, first: String| {
        Err(Error::new(Code::StatementChangesRows, format!(
            "a statement that was logged as text (binlog_format is not ROW) wrote to {name} and may have changed rows of \
             {ours}, as {reason}: {statement}"
        ))
        .with_remedy(first))
    };
    let reset = "let every session that writes use binlog_format = ROW; to continue behind it with the table as it is now: \
                 `cdc-producer checkpoint reset`, then start again";
    let (database, table) = name.split_once('.').unwrap_or_default();
    let quoted = |name: &str| mysql::table::quoted(name);
    let grant = |object: &str| {
        format!("GRANT SELECT, TRIGGER ON {object} TO the user of DB_USER, then start again; or {reset}")
    };
    match facts {
        Facts { kind: None, .. } => stop(
            "there is no such table, or this user may not see it".to_owned(),
            grant(&format!("{}.{}", quoted(database), quoted(table))),
        ),
        Facts { kind: Some(kind), .. } if kind != "BASE TABLE" => {
            stop(format!("it is a {}", kind.to_lowercase()), reset.to_owned())
        }
        Facts { trigger: Some(trigger), .. } => stop(format!("it has the trigger {trigger}"), reset.to_owned()),
        Facts { sees_triggers: false, .. } => stop(
            "this user may not see whether it has triggers".to_owned(),
            grant(&format!("{}.*", mysql::table::quoted_in_grant(database))),
        ),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_to_see_triggers() {
        for (grants, want) in [
            (&["GRANT SELECT, TRIGGER ON `my\\_shop`.* TO `cdc`@`%`"][..], true),
            (&["GRANT USAGE ON *.* TO `cdc`@`%`", "GRANT ALL PRIVILEGES ON `my_shop`.* TO `cdc`@`%`"], true),
            (&["GRANT SELECT, TRIGGER ON *.* TO `cdc`@`%`"], true),
            (&["GRANT TRIGGER ON `my_shop`.`beat` TO `cdc`@`%`"], true),
            (&["GRANT TRIGGER ON `my_shop`.`other` TO `cdc`@`%`"], false),
            (&["GRANT SELECT ON `my_shop`.* TO `cdc`@`%`", "GRANT TRIGGER ON `other`.* TO `cdc`@`%`"], false),
            (&["GRANT TRIGGER ON *.* TO `cdc`@`%`", "REVOKE TRIGGER ON `my_shop`.* FROM `cdc`@`%`"], false),
            (&["GRANT SELECT ON *.* TO `TRIGGER`@`%`", "GRANT `role`@`%` TO `cdc`@`%`"], false),
            (&[], false),
        ] {
            let grants: Vec<String> = grants.iter().map(|g| (*g).to_owned()).collect();
            assert_eq!(sees_triggers(&grants, "my_shop", "beat"), want, "{grants:?}");
        }
        let on = |what: &str| [format!("GRANT TRIGGER ON {what} TO `cdc`@`%`")];
        assert!(sees_triggers(&on("`shop`.*"), "shop", "") && !sees_triggers(&on("`shop`.`beat`"), "shop", ""));
    }

    #[test]
    fn only_a_table_that_is_seen_to_have_no_triggers_is_passed_over() {
        let facts = |kind: Option<&str>, trigger: Option<&str>, sees_triggers| Facts {
            kind: kind.map(str::to_owned),
            trigger: trigger.map(str::to_owned),
            sees_triggers,
        };
        for (facts, want) in [
            (facts(Some("BASE TABLE"), None, true), None),
            (facts(Some("BASE TABLE"), None, false), Some("TRIGGER ON `shop`.* TO")),
            (facts(Some("BASE TABLE"), Some("t"), true), Some("checkpoint reset")),
            (facts(Some("VIEW"), None, true), Some("checkpoint reset")),
            (facts(None, None, true), Some("ON `shop`.`beat` TO")),
        ] {
            let remedy = require_alone(&facts, "shop.beat", "shop.product", "REPLACE").err().map(|e| format!("{e:?}"));
            assert_eq!(remedy.is_none(), want.is_none(), "{facts:?}");
            assert!(want.is_none_or(|want| remedy.is_some_and(|text| text.contains(want))), "{facts:?}");
        }
    }
}
