//! Makes changes of the table `product` as fast as MySQL accepts them.

use anyhow::{Context, Result, ensure};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use testbed::servers::{ADMIN, DATABASE, MySql};

/// Concurrent writers; each has separate keys.
const WRITERS: u64 = 4;
const KEYS_EACH: u64 = 100_000_000;

/// The prefix of every product's name.
pub(crate) const NAME: &str = "folding garden chair ";

/// The number of changes, and the size of their transactions: of ten rows, five are updated, four inserted, one
/// deleted.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Row changes in all; a few more may be made, as transactions are complete.
    pub changes: u64,
    /// Row changes in a transaction.
    pub per_transaction: u64,
}

/// A connection with all rights.
///
/// # Errors
/// MySQL's own.
pub async fn connect(mysql: &MySql, database: Option<&str>) -> Result<Conn> {
    let options = OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(mysql.port)
        .user(Some(ADMIN.0))
        .pass(Some(ADMIN.1))
        .db_name(database)
        .prefer_socket(false);
    Conn::new(options).await.context("cannot connect to MySQL")
}

/// The columns of the contract, as statements name them: a table may have more.
pub const COLUMNS: &str = "(id, name, category, price, last_updated)";

/// Creates the table again, and makes the server fast but not durable during the load, which is not measured. The load
/// starts in a new binlog file: a replay searches its time from the beginning of the file, and must not read other
/// loads.
///
/// # Errors
/// MySQL's own.
pub async fn prepare(mysql: &MySql) -> Result<()> {
    let mut conn = connect(mysql, None).await?;
    for statement in [
        "SET GLOBAL sync_binlog = 0",
        "SET GLOBAL innodb_flush_log_at_trx_commit = 0",
        "FLUSH BINARY LOGS",
        &format!("DROP DATABASE IF EXISTS {DATABASE}"),
        &format!("CREATE DATABASE {DATABASE}"),
        &format!(
            "CREATE TABLE {DATABASE}.product (id INT PRIMARY KEY, name VARCHAR(300), category VARCHAR(500), \
             price DECIMAL(10,2), last_updated TIMESTAMP(6) NULL)"
        ),
    ] {
        conn.query_drop(statement).await.with_context(|| statement.to_owned())?;
    }
    Ok(())
}

/// Creates the table again, on a server with durable commits, as in production.
///
/// # Errors
/// MySQL's own.
pub async fn prepare_durable(mysql: &MySql) -> Result<()> {
    prepare(mysql).await?;
    let mut conn = connect(mysql, None).await?;
    for setting in ["sync_binlog", "innodb_flush_log_at_trx_commit", "local_infile"] {
        conn.query_drop(format!("SET GLOBAL {setting} = 1")).await.context(setting)?;
    }
    Ok(())
}

impl Load {
    /// Makes the changes; returns their number.
    ///
    /// # Errors
    /// MySQL's own.
    pub async fn run(self, mysql: &MySql) -> Result<u64> {
        let mut writers = Vec::new();
        for number in 0..WRITERS {
            let conn = connect(mysql, Some(DATABASE)).await?;
            writers.push(tokio::spawn(self.write(conn, number)));
        }
        let mut changes = 0;
        for writer in writers {
            changes += writer.await.context("a writer died")??;
        }
        Ok(changes)
    }

    async fn write(self, mut conn: Conn, writer: u64) -> Result<u64> {
        let mut keys = Keys { low: 0, high: 0, next: 0, updates: 0, base: writer * KEYS_EACH };
        let (share, rows) = (self.changes.div_ceil(WRITERS), self.per_transaction);
        let mut done = 0;
        let mut round = 0;
        while done < share {
            let inserts = if rows == 1 { u64::from(round % 10 < 4) } else { rows * 4 / 10 };
            let deletes = if rows == 1 { u64::from(round % 10 == 9) } else { rows / 10 };
            let updates = rows - inserts - deletes;
            let statements: Vec<String> =
                [keys.insert(inserts), keys.update(updates), keys.delete(deletes)].into_iter().flatten().collect();
            if rows > 1 {
                conn.query_drop("BEGIN").await?;
            }
            let mut affected = 0;
            for statement in statements {
                conn.query_drop(statement).await?;
                affected += conn.affected_rows();
            }
            if rows > 1 {
                conn.query_drop("COMMIT").await?;
            }
            ensure!(affected == rows || round < 10, "{affected} rows changed instead of {rows}");
            done += affected;
            round += 1;
        }
        Ok(done)
    }
}

/// The keys of one writer: the rows `low..high` exist.
struct Keys {
    low: u64,
    high: u64,
    /// The next row to update.
    next: u64,
    /// The number of statements that updated rows.
    updates: u64,
    base: u64,
}

impl Keys {
    fn insert(&mut self, count: u64) -> Option<String> {
        let row = |key: u64| {
            let (id, category) = (self.base + key, key % 20);
            let price = (key * 37 % 900_000) as f64 / 100.0;
            format!("({id},'{NAME}{id}','cat_{category}',{price:.2},NOW(6))")
        };
        let rows: Vec<String> = (self.high..self.high + count).map(row).collect();
        self.high += count;
        (count > 0).then(|| format!("INSERT INTO product {COLUMNS} VALUES {}", rows.join(",")))
    }

    fn update(&mut self, count: u64) -> Option<String> {
        if self.next < self.low || self.next + count > self.high {
            self.next = self.low;
        }
        let (from, to) = (self.base + self.next, self.base + self.next + count);
        self.next += count;
        self.updates += u64::from(count > 0);
        let name = format!("CONCAT('{NAME}', id, '#{}')", self.updates);
        let set = format!("UPDATE product SET name = {name}, price = price + 0.01, last_updated = NOW(6)");
        (count > 0).then(|| format!("{set} WHERE id >= {from} AND id < {to}"))
    }

    fn delete(&mut self, count: u64) -> Option<String> {
        let (from, to) = (self.base + self.low, self.base + self.low + count);
        self.low += count;
        (count > 0).then(|| format!("DELETE FROM product WHERE id >= {from} AND id < {to}"))
    }
}
