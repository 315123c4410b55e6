//! Waits for transactions of a table that are in the binlog but not visible yet.

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use tokio::time::{Instant, sleep};

use super::connection::{answered, failed, quoted, quoted_in_grant};
use model::error::{Code, Error, Result};

const PATIENCE: Duration = Duration::from_secs(10);

/// What gives the right that a server without GTIDs wants.
pub fn grant_lock_tables(database: &str) -> String {
    format!("GRANT LOCK TABLES ON {}.* TO the user of DB_USER", quoted_in_grant(database))
}

/// Waits until no transaction that wrote to the table is still being committed, by `LOCK TABLES … READ`: the server
/// grants the lock when their metadata locks are released, and it is released at once. For servers without GTIDs, which
/// offer no other way to learn whether a transaction of the binlog is visible.
///
/// # Errors
/// Transient when it takes longer than ten seconds; definite when the user lacks the right `LOCK TABLES`.
pub async fn wait_for_writers(conn: &mut Conn, database: &str, table: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let table = format!("{}.{}", quoted(database), quoted(table));
    let lock = format!("SET SESSION lock_wait_timeout = 1; LOCK TABLES {table} READ; UNLOCK TABLES");
    loop {
        match answered(conn.query_drop(&lock)).await {
            Ok(()) => return Ok(()),
            // 1205: another session's write transaction is open; our lock request blocks it for a second at most.
            Err(mysql_async::Error::Server(e)) if e.code == 1205 && Instant::now() < deadline => {
                sleep(Duration::from_millis(200)).await;
            }
            Err(mysql_async::Error::Server(e)) if e.code == 1205 => {
                return Err(Error::transient(format!(
                    "cannot lock {table} for a moment, as is needed on a server without GTIDs: a transaction that wrote to it has \
                     been open for {} s",
                    PATIENCE.as_secs()
                ))
                .with_remedy(
                    "end it (sys.schema_table_lock_waits names the session); XA RECOVER lists transactions that are prepared and belong to \
                     no session: XA COMMIT or XA ROLLBACK them",
                ));
            }
            Err(e) => {
                let error = failed("lock the table for a moment (the server has no GTIDs)", e);
                let is_denied = error.code() == Code::RightMissing;
                return Err(if is_denied { error.with_remedy(grant_lock_tables(database)) } else { error });
            }
        }
    }
}
