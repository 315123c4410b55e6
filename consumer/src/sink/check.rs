//! The PostgreSQL checks of `consumer doctor`: those of [`Session::open`](super::session::Session::open), without
//! creating anything.

use kafka::doctor::Check;
use model::error::{Error, Result};
use runtime::config::PostgresSettings;
use sinks::postgres::{Access, Target, failed};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, types::Type};

use super::tables;
use super::{Layout, quoted};

const SERVER: &str = "PostgreSQL";
const TABLES: &str = "PostgreSQL tables";

/// For the schema: whether this user may use it and may create tables in it.
const SCHEMA_RIGHTS: &str =
    "SELECT current_user::text, has_schema_privilege($1, 'USAGE'), has_schema_privilege($1, 'CREATE')";

/// The rights on existing tables that this user lacks.
const LACKING: &str = "SELECT string_agg(r.name, ', ' ORDER BY r.name), c.relname::text
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
        unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS r (name)
    WHERE n.nspname = $1 AND c.relname = ANY ($2) AND NOT has_table_privilege(c.oid, r.name) GROUP BY c.relname ORDER BY 2";

/// Checks the server, the database, its tables and this user's rights.
pub(crate) async fn checks(settings: &PostgresSettings, layout: Option<&Layout>) -> Vec<Check> {
    match look(settings, layout).await {
        Ok(checks) => checks,
        Err(error) => vec![Check::failed(SERVER, &error)],
    }
}

async fn look(settings: &PostgresSettings, layout: Option<&Layout>) -> Result<Vec<Check>> {
    let target = Target::from(settings, "consumer doctor")?;
    let client = match target.connect().await {
        Err(e) if e.code() == Some(&SqlState::INVALID_CATALOG_NAME) => return Ok(vec![database(&target).await?]),
        connected => connected.map_err(|e| failed(&target.what(), e))?,
    };
    client.batch_execute(&target.begin(Access::Write)).await.map_err(|e| failed("cannot begin to write", e))?;
    let mut checks = vec![Check::good(SERVER, format!("database {}, schema {}", target.database(), target.schema()))];
    match tables::missing(&client, &target, &settings.table).await {
        Ok(missing) => {
            checks.extend(rights(&client, &target, &settings.table, &missing).await?);
            match tables::look(&client, target.schema(), &settings.table, layout, true).await {
                Ok(look) => {
                    checks.extend(look.found.into_iter().map(|found| Check::good(TABLES, found)));
                    let known = "records that it refuses are parked (postgres.on_refused): change the table if they must not be";
                    checks.extend(look.warnings.into_iter().map(|warning| Check::warning(TABLES, warning, known)));
                }
                Err(error) => checks.push(Check::failed(TABLES, &error)),
            }
        }
        Err(error) => checks.push(Check::failed(TABLES, &error)),
    }
    Ok(checks)
}

/// For a missing database: checks whether this user may create it.
async fn database(target: &Target) -> Result<Check> {
    let client = target.with_database("postgres").connect().await.map_err(|e| failed(&target.what(), e))?;
    let may = "SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user";
    let may = client.query_typed(may, &[]).await.map_err(|e| failed("cannot look up this user's rights", e))?;
    let name = target.database();
    Ok(if may.first().is_some_and(|row| row.get(0)) {
        Check::good(SERVER, format!("database {name} is to be created, with its tables"))
    } else {
        Check::bad(
            SERVER,
            format!("there is no database {name}, and this user may not create it"),
            format!("CREATE DATABASE {}, or give the user of postgres.url the right CREATEDB", quoted(name)),
        )
    })
}

async fn rights(client: &Client, target: &Target, table: &str, missing: &[&str]) -> Result<Vec<Check>> {
    let schema = target.schema();
    let failed = |e| failed(&format!("cannot look up this user's rights on schema {schema}"), e);
    let found = client.query_typed(SCHEMA_RIGHTS, &[(&schema, Type::TEXT)]).await.map_err(failed)?;
    let Some(found) = found.first() else { return Err(Error::transient("PostgreSQL gives no answer")) };
    let (user, uses, creates): (String, bool, bool) = (found.get(0), found.get(1), found.get(2));
    let mut checks = Vec::new();
    let grant = |right: &str, on: &str| format!("GRANT {right} ON {on} TO {}", quoted(&user));
    if !uses {
        let remedy = grant("USAGE", &format!("SCHEMA {}", quoted(schema)));
        checks.push(Check::bad(TABLES, format!("user {user} may not use schema {schema}"), remedy));
    }
    let names = missing.join(", ");
    if !missing.is_empty() && creates {
        checks.push(Check::good(TABLES, format!("to be created in schema {schema}: {names}")));
    } else if !missing.is_empty() {
        let remedy = grant("CREATE", &format!("SCHEMA {}", quoted(schema)));
        checks.push(Check::bad(
            TABLES,
            format!("schema {schema} lacks {names}, and user {user} may not create them"),
            format!("{remedy}; or make them as docs/security.md says"),
        ));
    }
    let names = tables::names(table);
    let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
        [(&schema, Type::TEXT), (&names.as_slice(), Type::TEXT_ARRAY)];
    for row in client.query_typed(LACKING, &parameters).await.map_err(failed)? {
        let (rights, table): (String, String) = (row.get(0), row.get(1));
        let remedy = grant(&rights, &format!("{}.{}", quoted(schema), quoted(&table)));
        checks.push(Check::bad(TABLES, format!("user {user} has no {rights} on {schema}.{table}"), remedy));
    }
    Ok(checks)
}
