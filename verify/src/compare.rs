//! The table against the topic's last states, and PostgreSQL against the table: one pass over the table in key order.

use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use pipeline::error::Result;
use pipeline::record::{Micros, Price, Product};
use pipeline::table::{self, SourceTable};
use pipeline::transform::{Capitals, Rules, Transformed};

use crate::findings::{Check, Finding, Findings};
use crate::postgres::{self, Rows, StoredProduct};
use crate::reading::describe;
use crate::status::Status;
use crate::topic::{Topic, state_hash};

/// Rows read at once.
const CHUNK: usize = 5000;

/// A row of the table.
struct OwnedProduct {
    id: i64,
    name: Option<String>,
    category: Option<String>,
    price: Option<Price>,
    last_updated: Option<Micros>,
}

impl OwnedProduct {
    fn of(p: &Product<'_>) -> Self {
        Self {
            id: p.id,
            name: p.name.map(str::to_owned),
            category: p.category.map(str::to_owned),
            price: p.price,
            last_updated: p.last_updated,
        }
    }

    fn borrow(&self) -> Product<'_> {
        Product {
            id: self.id,
            name: self.name.as_deref(),
            category: self.category.as_deref(),
            price: self.price,
            last_updated: self.last_updated,
        }
    }
}

/// Opens one snapshot of the table for all that follows on this connection.
///
/// # Errors
/// As [`table::failed`].
pub(crate) async fn begin(conn: &mut Conn) -> Result<()> {
    table::answered(conn.query_drop("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"))
        .await
        .map_err(|e| table::failed("begin a read-only transaction", e))
}

/// Compares; returns the number of the table's rows. `first_offsets` are those of the partitions: what is before them may
/// have held a key's last record.
///
/// # Errors
/// As [`table::each_row`] and [`Rows::next_up_to`].
pub(crate) async fn compare(
    conn: &mut Conn,
    source: &SourceTable,
    topic: &mut Topic,
    first_offsets: &[i64],
    mut stored: Option<&mut Rows>,
    rules: &Rules,
    findings: &mut Findings,
) -> Result<u64> {
    let (mut count, mut after, mut scratch) = (0, None, Vec::new());
    let mut status = Status::new("rows compared");
    loop {
        let mut chunk = Vec::new();
        table::each_row(conn, source, after, Some(CHUNK), |product| {
            chunk.push(OwnedProduct::of(product));
            Ok(())
        })
        .await?;
        for row in &chunk {
            let product = row.borrow();
            with_topic(&product, topic, first_offsets, &mut scratch, findings);
            if let Some(stored) = stored.as_deref_mut() {
                with_postgres(row.id, rules.apply(&product, &mut Capitals::default()).as_ref(), stored, findings)
                    .await?;
            }
            status.one_more();
        }
        count += chunk.len() as u64;
        after = chunk.last().map(|row| row.id);
        if chunk.len() < CHUNK {
            break;
        }
    }
    if let Some(stored) = stored {
        with_postgres(i64::MAX, None, stored, findings).await?;
    }
    left_over(topic, findings);
    Ok(count)
}

fn with_topic(
    product: &Product<'_>,
    topic: &mut Topic,
    first_offsets: &[i64],
    scratch: &mut Vec<u8>,
    findings: &mut Findings,
) {
    let id = product.id;
    let Some(key) = topic.keys.get_mut(&id) else {
        let home = crate::partitioner::partition_of(id.to_string().as_bytes(), topic.partitions.len());
        if first_offsets.get(home).is_none_or(|first| *first == 0) {
            findings.add(Check::Table, || {
                let text = "the row is in the table, but no record of it is in the topic";
                Finding::new(Check::Table, text).key(id).expected(describe(product)).found("nothing")
            });
        }
        return;
    };
    key.in_table = true;
    let reason = match key.state {
        None => "the row is in the table, but its last record is a delete",
        Some(state) if state != state_hash(product, scratch) => "the row differs from its last record",
        Some(_) => return,
    };
    let (partition, offset) = (key.partition, key.offset);
    findings.add(Check::Table, || {
        Finding::new(Check::Table, reason).key(id).at(partition, offset).expected(describe(product))
    });
}

/// Keys that are alive in the topic and not in the table.
fn left_over(topic: &Topic, findings: &mut Findings) {
    let mut keys: Vec<_> = topic.keys.iter().filter(|(_, key)| key.state.is_some() && !key.in_table).collect();
    keys.sort_unstable_by_key(|(id, _)| **id);
    for (id, key) in keys {
        findings.add(Check::Table, || {
            let text = "the table has no such row, but its last record is no delete";
            Finding::new(Check::Table, text).key(*id).at(key.partition, key.offset).expected("nothing")
        });
    }
}

/// Takes PostgreSQL's rows up to `id`, of which `expected` is the row with this id.
async fn with_postgres(
    id: i64,
    expected: Option<&Transformed<'_>>,
    stored: &mut Rows,
    findings: &mut Findings,
) -> Result<()> {
    let mut met: Option<StoredProduct> = None;
    while let Some(row) = stored.next_up_to(id).await? {
        if row.id == id && expected.is_some() {
            met = Some(row);
            break;
        }
        findings.add(Check::Postgres, || {
            let text = "PostgreSQL has a row that it should not have";
            Finding::new(Check::Postgres, text).key(row.id).expected("nothing").found(row.describe())
        });
    }
    let Some(expected) = expected else { return Ok(()) };
    match met {
        Some(row) if row.equals(expected) => {}
        Some(row) => findings.add(Check::Postgres, || {
            let text = "PostgreSQL's row differs from the table's after the rules";
            Finding::new(Check::Postgres, text).key(id).expected(postgres::describe(expected)).found(row.describe())
        }),
        None => findings.add(Check::Postgres, || {
            let text = "PostgreSQL lacks the row";
            Finding::new(Check::Postgres, text).key(id).expected(postgres::describe(expected)).found("nothing")
        }),
    }
    Ok(())
}
