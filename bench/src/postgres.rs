//! Access to the consumers' database for the cases.

use anyhow::{Context, Result};
use tokio_postgres::{Client, NoTls};

use crate::stand::Stand;

/// A connection to the database of this URL.
///
/// # Errors
/// When it can't be reached.
pub(crate) async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.context("cannot connect to PostgreSQL")?;
    // The connection ends with the client, whose calls return its errors.
    drop(tokio::spawn(connection));
    Ok(client)
}

/// Drops the consumers' database, which they then create again.
///
/// # Errors
/// PostgreSQL's own.
pub(crate) fn forget(stand: &Stand) -> Result<()> {
    let url = stand.stack.postgres.url();
    let (server, database) = url.rsplit_once('/').context("PostgreSQL's address has no database")?;
    stand.runtime.block_on(async {
        let client = connect(&format!("{server}/postgres")).await?;
        client.batch_execute(&format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)")).await?;
        Ok(client.batch_execute("CHECKPOINT").await?)
    })
}
