//! Access to the consumers' database for the cases.

use anyhow::{Context, Result};

use crate::lab::Lab;

/// Drops the consumers' database, which they then create again.
///
/// # Errors
/// PostgreSQL's own.
pub(crate) fn forget(lab: &Lab) -> Result<()> {
    let url = lab.stack.postgres.url();
    let (server, database) = url.rsplit_once('/').context("PostgreSQL's address has no database")?;
    lab.runtime.block_on(async {
        let client = testbed::postgres(&format!("{server}/postgres")).await?;
        client.batch_execute(&format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)")).await?;
        Ok(client.batch_execute("CHECKPOINT").await?)
    })
}
