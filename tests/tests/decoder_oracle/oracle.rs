//! A database of one test on the real server: what the server says its rows are, and what its binlog says.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use mysql::binlog::{Row, RowChanges, RowOperation, TableLayout, Value};
use mysql_async::{
    BinlogStreamRequest, Conn, OptsBuilder,
    binlog::{EventType, events::Event},
    prelude::Queryable,
};

/// A row as MySQL's text protocol returns it.
pub(crate) type Image = Vec<Option<Vec<u8>>>;

/// One change, as the server tells it or as the binlog does.
#[derive(Debug, PartialEq)]
pub(crate) struct Change {
    pub(crate) table: String,
    pub(crate) operation: RowOperation,
    pub(crate) before: Image,
    pub(crate) after: Image,
}

/// A rows event with its table map, as the server wrote them.
pub(crate) struct Captured {
    pub(crate) table: String,
    pub(crate) table_map: Vec<u8>,
    pub(crate) event_type: u8,
    pub(crate) rows: Vec<u8>,
}

pub(crate) struct Oracle {
    pub(crate) conn: Conn,
    pub(crate) database: String,
    start: (String, u64),
}

impl Oracle {
    /// A new database, a session that takes every value there is, and the binlog's position before all changes.
    pub(crate) async fn open(database: &str) -> Result<Self> {
        let mut conn = Conn::new(options()?).await.context("connect to the MySQL server")?;
        for query in [
            "SET NAMES utf8mb4".to_owned(),
            "SET time_zone = '+00:00', sql_mode = 'ALLOW_INVALID_DATES'".to_owned(),
            format!("DROP DATABASE IF EXISTS {database}"),
            format!("CREATE DATABASE {database}"),
            format!("USE {database}"),
        ] {
            conn.query_drop(query).await?;
        }
        let status: mysql_async::Row =
            conn.query_first("SHOW BINARY LOG STATUS").await?.context("the server writes no binlog")?;
        let file = status.get(0).context("binlog status has a file")?;
        let position = status.get(1).context("binlog status has a position")?;
        Ok(Self { conn, database: database.to_owned(), start: (file, position) })
    }

    pub(crate) async fn run(&mut self, query: &str) -> Result<()> {
        let shown = query.chars().take(2000).collect::<String>();
        self.conn.query_drop(query).await.with_context(|| shown)
    }

    /// The rows that a query returns.
    pub(crate) async fn select(&mut self, query: &str) -> Result<Vec<Image>> {
        let rows: Vec<mysql_async::Row> = self.conn.query(query).await.with_context(|| query.to_owned())?;
        let image = |row: mysql_async::Row| {
            let bytes = |value| match value {
                mysql_async::Value::NULL => Ok(None),
                mysql_async::Value::Bytes(bytes) => Ok(Some(bytes)),
                other => anyhow::bail!("the text protocol returned {other:?}"),
            };
            row.unwrap().into_iter().map(bytes).collect()
        };
        rows.into_iter().map(image).collect()
    }

    /// All rows events of this database since it was made, and whether any came out of a compressed transaction.
    pub(crate) async fn captured(&self) -> Result<(Vec<Captured>, bool)> {
        let conn = Conn::new(options()?).await?;
        let request = BinlogStreamRequest::new(replica_id())
            .with_non_blocking()
            .with_filename(self.start.0.as_bytes())
            .with_pos(self.start.1);
        let mut stream = conn.get_binlog_stream(request).await.context("open the binlog stream")?;
        let mut tables = HashMap::new();
        let (mut captured, mut compressed) = (Vec::new(), false);
        let mut payload_ends = 0;
        while let Some(event) = stream.next().await {
            let event: Event = event.context("read the binlog")?;
            let header = event.header();
            let inner = header.log_pos() == 0 && payload_ends > 0;
            match header.event_type() {
                Ok(EventType::TRANSACTION_PAYLOAD_EVENT) => payload_ends = header.log_pos(),
                Ok(EventType::TABLE_MAP_EVENT) => {
                    let (id, database, table) = TableLayout::name_of(event.data())?;
                    if database == self.database {
                        tables.insert(id, (table.to_owned(), event.data().to_vec()));
                    } else {
                        tables.remove(&id);
                    }
                }
                Ok(EventType::WRITE_ROWS_EVENT | EventType::UPDATE_ROWS_EVENT | EventType::DELETE_ROWS_EVENT) => {
                    let event_type = header.event_type_raw();
                    let changes = RowChanges::parse(event_type, event.data())?;
                    if let Some((table, table_map)) = tables.get(&changes.table_id) {
                        compressed |= inner;
                        captured.push(Captured {
                            table: table.clone(),
                            table_map: table_map.clone(),
                            event_type,
                            rows: event.data().to_vec(),
                        });
                    }
                }
                _ => {}
            }
        }
        Ok((captured, compressed))
    }

    pub(crate) async fn close(mut self) -> Result<()> {
        let database = self.database.clone();
        self.run(&format!("DROP DATABASE {database}")).await?;
        Ok(self.conn.disconnect().await?)
    }
}

impl Captured {
    /// The changes of this event, of these columns or of all.
    pub(crate) fn changes(&self, columns: Option<&[&str]>) -> Result<Vec<Change>> {
        let layout = TableLayout::parse(&self.table_map)?;
        ensure!(layout.is_of(&self.table_map), "a layout is of the bytes it was read from");
        let projection = match columns {
            Some(names) => layout.project(names)?,
            None => layout.project_all()?,
        };
        let changes = RowChanges::parse(self.event_type, &self.rows)?;
        let mut rows = changes.rows(&layout, &projection)?;
        let (mut row, mut read) = (Row::default(), Vec::new());
        while rows.read(&mut row)? {
            read.push(Change {
                table: self.table.clone(),
                operation: changes.operation,
                before: row.before.iter().map(text).collect(),
                after: row.after.iter().map(text).collect(),
            });
        }
        Ok(read)
    }
}

/// FLOAT is asked for as DOUBLE, because MySQL prints it with six digits only.
fn text(value: &Value<'_>) -> Option<Vec<u8>> {
    match value {
        Value::Float(number) => Value::Double(f64::from(*number)).to_text_protocol(),
        value => value.to_text_protocol(),
    }
}

/// A server id that no other reader of the binlog has: two with the same id end each other.
fn replica_id() -> u32 {
    static READERS: AtomicU32 = AtomicU32::new(1);
    0x8000_0000 | std::process::id() << 8 | READERS.fetch_add(1, Ordering::Relaxed)
}

fn options() -> Result<OptsBuilder> {
    let setting = |name: &str| {
        std::env::var(name).with_context(|| format!("{name} is not set; run the tests through `cargo xtask test`"))
    };
    Ok(OptsBuilder::default()
        .ip_or_hostname(setting("DB_HOST")?)
        .tcp_port(setting("DB_PORT")?.parse().context("DB_PORT is no port")?)
        .user(Some(setting("DB_USER")?))
        .pass(Some(setting("DB_PASSWORD")?))
        .prefer_socket(false))
}
