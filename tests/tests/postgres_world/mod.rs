//! What the tests of the PostgreSQL sink look at: its tables, as the administrator sees them.
#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::BTreeMap;
use std::time::Duration;

use testbed::{TestBed, eventually, postgres};
use tokio_postgres::Client;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The tables as the consumers make them, for a person to change.
pub(crate) const TABLES: &str = "
    CREATE TABLE product (id bigint PRIMARY KEY, name text, category text, price numeric(10,2),
        discount_price numeric(10,2), last_updated timestamptz(6), source_partition int NOT NULL, source_offset bigint NOT NULL);
    CREATE TABLE product_offsets (topic text, partition int, next_offset bigint NOT NULL, PRIMARY KEY (topic, partition));";

pub(crate) async fn connect_to(url: &str) -> Client {
    postgres(url).await.unwrap_or_else(|e| panic!("{url}: {e:#}"))
}

/// The administrator's connection to this world's database.
pub(crate) async fn connect(world: &TestBed) -> Client {
    connect_to(world.get("POSTGRES_URL")).await
}

/// The administrator's connection to this world's database, which is made.
pub(crate) async fn create(world: &TestBed) -> Client {
    let url = world.get("POSTGRES_URL");
    let (server, database) = url.rsplit_once('/').expect("a URL with a database");
    let admin = connect_to(&format!("{server}/postgres")).await;
    admin.batch_execute(&format!("CREATE DATABASE {database}")).await.expect("this world's database");
    connect(world).await
}

pub(crate) async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {:?}", e.as_db_error()));
}

/// Name of each product that PostgreSQL has.
pub(crate) async fn names(client: &Client) -> BTreeMap<i64, String> {
    let rows = client.query("SELECT id, coalesce(name, '') FROM product", &[]).await.expect("the table product");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Key, column and SQLSTATE of the records that are parked now.
pub(crate) async fn parked(client: &Client) -> Vec<(i64, Option<String>, String)> {
    let sql =
        "SELECT id, column_name, sqlstate FROM product_parked WHERE replaced_by IS NULL AND dead_letter ORDER BY id";
    let rows = client.query(sql, &[]).await.expect("the table product_parked");
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

/// Waits until a query gives a number that is wanted.
pub(crate) fn wait_for_count(url: &str, sql: &str, want: i64) {
    let (url, sql) = (url.to_owned(), sql.to_owned());
    eventually(&format!("{want} = {sql}"), PATIENCE, || {
        let ask = async { connect_to(&url).await.query_one(&sql, &[]).await.map(|row| row.get::<_, i64>(0)) };
        let found = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(ask));
        found.is_ok_and(|found| found == want).then_some(())
    });
}
