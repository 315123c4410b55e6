//! A second MySQL that replicates the first one by GTID and can replace it.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use testbed::servers::{ADMIN, MySql, MySqlOptions, follow};

use super::harness::Harness;
use super::load::connect;

/// The time limit for catching up with the primary.
const CATCH_UP: Duration = Duration::from_secs(60);

/// A server that replicates `harness.servers.mysql`.
pub(crate) struct Replica {
    mysql: MySql,
}

impl Replica {
    /// Copies the running primary (CLONE INSTANCE) and starts replication.
    ///
    /// # Errors
    /// When the server does not start or does not replicate.
    pub(crate) fn start(harness: &Harness) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(2);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let primary = &harness.servers.mysql;
        let here = primary.server.log().parent().and_then(std::path::Path::parent).context("a folder above MySQL's")?;
        let options = MySqlOptions {
            folder: here.join(format!("mysql-{number}")),
            port: None,
            flags: vec![format!("--server-id={number}"), "--relay-log=relay".to_owned()],
        };
        let mut mysql = MySql::start(&options, &|_| {})?;
        let (donor, copy) = (primary.port, mysql.port);
        harness.block_on(clone(donor, copy))?;
        // No supervisor runs it, so it ends instead of restarting itself.
        mysql.server.wait()?;
        mysql.start_again()?;
        let replica = Self { mysql };
        replica.run(harness, &[&follow(donor), "SET GLOBAL super_read_only = ON", "START REPLICA"])?;
        Ok(replica)
    }

    /// Waits until it has executed all transactions of the primary.
    ///
    /// # Errors
    /// When that takes longer than a minute.
    pub(crate) fn catch_up(&self, harness: &Harness) -> Result<()> {
        let (primary, copy) = (harness.servers.mysql.port, self.mysql.port);
        harness.block_on(async {
            let mut conn = connect(primary, None).await?;
            let set: Option<String> = conn.query_first("SELECT @@GLOBAL.gtid_executed").await?;
            let mut conn = connect(copy, None).await?;
            let query = format!("SELECT WAIT_FOR_EXECUTED_GTID_SET('{}', {})", set.unwrap_or_default(), CATCH_UP.as_secs());
            let late: Option<i64> = conn.query_first(query).await?;
            if late != Some(0) {
                let why = "SELECT CONCAT_WS(' ', LAST_ERROR_MESSAGE) FROM performance_schema.replication_connection_status \
                           UNION SELECT LAST_ERROR_MESSAGE FROM performance_schema.replication_applier_status_by_worker";
                let why: Vec<String> = conn.query(why).await?;
                bail!("the replica does not catch up within {CATCH_UP:?}: {}", why.join(" "));
            }
            Ok(())
        })
    }

    /// Makes it a primary in place of the harness's primary, whose data is removed.
    ///
    /// # Errors
    /// When a statement fails.
    pub(crate) fn take_over(self, harness: &mut Harness) -> Result<()> {
        let statements = ["STOP REPLICA", "RESET REPLICA ALL", "SET GLOBAL super_read_only = OFF, read_only = OFF"];
        self.run(harness, &statements)?;
        harness.servers.to_mysql.redirect(self.mysql.port);
        remove(std::mem::replace(&mut harness.servers.mysql, self.mysql))
    }

    /// Its port on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.mysql.port
    }

    /// Stops it, and removes its data.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub(crate) fn remove(self) -> Result<()> {
        remove(self.mysql)
    }

    fn run(&self, harness: &Harness, statements: &[&str]) -> Result<()> {
        harness.block_on(async {
            let mut conn = connect(self.mysql.port, None).await?;
            for statement in statements {
                conn.query_drop(*statement).await.with_context(|| (*statement).to_owned())?;
            }
            Ok(())
        })
    }
}

fn remove(mut mysql: MySql) -> Result<()> {
    mysql.server.kill()?;
    if let Some(folder) = mysql.server.log().parent() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

/// Makes the server on the port `copy` a copy of the one on `donor`; the copy ends then.
async fn clone(donor: u16, copy: u16) -> Result<()> {
    let mut from = connect(donor, None).await?;
    let mut to = connect(copy, None).await?;
    for conn in [&mut from, &mut to] {
        let has: Option<i64> =
            conn.query_first("SELECT COUNT(*) FROM information_schema.plugins WHERE plugin_name = 'clone'").await?;
        if has == Some(0) {
            install(conn).await?;
        }
    }
    let (user, password) = ADMIN;
    to.query_drop(format!("SET GLOBAL clone_valid_donor_list = '127.0.0.1:{donor}'")).await?;
    let order = format!("CLONE INSTANCE FROM '{user}'@'127.0.0.1':{donor} IDENTIFIED BY '{password}'");
    let Err(ended) = to.query_drop(order).await else { bail!("the copy does not restart") };
    // 3707: the copy is complete, and the server can't restart itself.
    let complete = matches!(&ended, mysql_async::Error::Server(e) if e.code == 3707);
    ensure!(complete || matches!(ended, mysql_async::Error::Io(_)), "the copy of MySQL failed: {ended}");
    Ok(())
}

async fn install(conn: &mut Conn) -> Result<()> {
    // Keep this out of the binlog: the copy has the plugin because it is a copy.
    conn.query_drop("SET sql_log_bin = 0").await?;
    conn.query_drop("INSTALL PLUGIN clone SONAME 'mysql_clone.so'").await?;
    conn.query_drop("SET sql_log_bin = 1").await?;
    Ok(())
}
