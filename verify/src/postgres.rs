//! Reads PostgreSQL's table `product` in the order of the id, a block at a time.

use std::collections::VecDeque;
use std::time::Duration;

use model::error::{Error, Result};
use model::product::Price;
use model::time::Micros;
use rules::product::Transformed;
use runtime::config::PostgresSettings;
use sinks::postgres::{Access, Target, failed};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

/// Rows of the table, from one snapshot of it.
pub(crate) struct Rows {
    client: Client,
    block: VecDeque<StoredProduct>,
    /// The block is the last one.
    ended: bool,
    pub(crate) count: u64,
}

/// One row.
#[derive(Debug)]
pub(crate) struct StoredProduct {
    pub(crate) id: i64,
    name: Option<String>,
    category: Option<String>,
    price: Option<String>,
    discount_price: Option<String>,
    last_updated: Option<i64>,
    source: (Option<i32>, Option<i64>),
}

const COLUMNS: &str = "id::bigint, name::text, category::text, price::text, discount_price::text, \
    (EXTRACT(EPOCH FROM last_updated) * 1000000)::bigint, source_partition, source_offset";
const BLOCK: &str = "FETCH 5000 FROM rows";
const UNREAD: &str = "cannot read PostgreSQL's table product";
/// A connection that died silently brings no answer, and the system detects that only after hours.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

impl Rows {
    /// Connects and starts reading. A missing database or table counts as an empty one.
    ///
    /// # Errors
    /// Usage when the URL can't be read; transient when the server can't be reached; definite when it refuses.
    pub(crate) async fn open(settings: &PostgresSettings) -> Result<Option<Self>> {
        let target = Target::from(settings, "verify")?;
        let client = match answered(&target.what(), target.connect()).await? {
            Err(e) if e.code() == Some(&SqlState::INVALID_CATALOG_NAME) => return Ok(None),
            other => other.map_err(|e| failed(&target.what(), e))?,
        };
        let cursor = format!("DECLARE rows NO SCROLL CURSOR FOR SELECT {COLUMNS} FROM product ORDER BY id");
        let begin = format!("{}; {cursor}", target.begin(Access::Read));
        match answered(UNREAD, client.batch_execute(&begin)).await? {
            Err(e) if e.code() == Some(&SqlState::UNDEFINED_TABLE) => return Ok(None),
            other => other.map_err(|e| failed(UNREAD, e))?,
        }
        Ok(Some(Self { client, block: VecDeque::new(), ended: false, count: 0 }))
    }

    /// The next row if its id is at most `id`.
    ///
    /// # Errors
    /// Transient when the connection breaks or does not answer.
    pub(crate) async fn next_up_to(&mut self, id: i64) -> Result<Option<StoredProduct>> {
        if self.block.is_empty() && !self.ended {
            let rows = answered(UNREAD, self.client.query_typed(BLOCK, &[])).await?.map_err(|e| failed(UNREAD, e))?;
            self.ended = rows.is_empty();
            self.block = rows.iter().map(StoredProduct::of).collect::<Result<_, _>>().map_err(other_columns)?;
        }
        if self.block.front().is_none_or(|row| row.id > id) {
            return Ok(None);
        }
        self.count += 1;
        Ok(self.block.pop_front())
    }

    /// Reads the row with this id again, as text for a person.
    ///
    /// # Errors
    /// As [`Rows::next_up_to`].
    pub(crate) async fn describe(&self, id: i64) -> Result<Option<String>> {
        let query = format!("SELECT {COLUMNS} FROM product WHERE id::bigint = $1");
        let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&id, Type::INT8)];
        let row =
            answered(UNREAD, self.client.query_typed_opt(&query, &parameters)).await?.map_err(|e| failed(UNREAD, e))?;
        Ok(match row {
            Some(row) => Some(StoredProduct::of(&row).map_err(other_columns)?.describe()),
            None => None,
        })
    }
}

fn other_columns(error: tokio_postgres::Error) -> Error {
    Error::definite("PostgreSQL's table product has other columns than the consumers make").with_source(error)
}

/// The server's answer, or an error when it does not answer in time.
async fn answered<T>(
    what: &str,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<Result<T, tokio_postgres::Error>> {
    tokio::time::timeout(ANSWER_TIMEOUT, work).await.map_err(|_| {
        Error::transient(format!("{what}: PostgreSQL did not answer within {ANSWER_TIMEOUT:?}"))
            .with_remedy("check that the server runs, and the network to it")
    })
}

impl StoredProduct {
    fn of(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            id: row.try_get(0)?,
            name: row.try_get(1)?,
            category: row.try_get(2)?,
            price: row.try_get(3)?,
            discount_price: row.try_get(4)?,
            last_updated: row.try_get(5)?,
            source: (row.try_get(6)?, row.try_get(7)?),
        })
    }

    /// Partition and offset of the row's record.
    pub(crate) fn place(&self) -> Option<(i32, i64)> {
        self.source.0.zip(self.source.1)
    }

    /// Rows that equal the same transformed product have equal hashes, the [`state_hash`] of that product.
    pub(crate) fn state_hash(&self) -> u64 {
        let price = |text: &Option<String>| {
            let read = text.as_deref().map(|text| Price::parse(text).map(|p| p.to_string()));
            read.map(|read| read.unwrap_or_else(|| "not an amount".to_owned()))
        };
        hash(&text(
            self.name.as_deref(),
            self.category.as_deref(),
            price(&self.price),
            price(&self.discount_price),
            self.last_updated.map(|t| Micros(t).to_string()),
        ))
    }

    /// Whether the row equals the transformed product.
    pub(crate) fn equals(&self, other: &Transformed<'_>) -> bool {
        let price = |text: &Option<String>| text.as_deref().map(Price::parse);
        self.id == other.id
            && self.name.as_deref() == other.name
            && self.category.as_deref() == other.category
            && price(&self.price) == other.price.map(Some)
            && price(&self.discount_price) == other.discount_price.map(Some)
            && self.last_updated.map(Micros) == other.last_updated
    }

    pub(crate) fn describe(&self) -> String {
        let price = |text: &Option<String>| text.clone();
        text(
            self.name.as_deref(),
            self.category.as_deref(),
            price(&self.price),
            price(&self.discount_price),
            self.last_updated.map(|t| Micros(t).to_string()),
        )
    }
}

/// The hash of the expected row of a product.
pub(crate) fn state_hash(product: &Transformed<'_>) -> u64 {
    hash(&describe(product))
}

fn hash(text: &str) -> u64 {
    crate::topic::hash(text.as_bytes())
}

/// A transformed product as text for a person.
pub(crate) fn describe(product: &Transformed<'_>) -> String {
    text(
        product.name,
        product.category,
        product.price.map(|p| p.to_string()),
        product.discount_price.map(|p| p.to_string()),
        product.last_updated.map(|t| t.to_string()),
    )
}

fn text(
    name: Option<&str>,
    category: Option<&str>,
    price: Option<String>,
    discount_price: Option<String>,
    last_updated: Option<String>,
) -> String {
    let quoted = |t: Option<&str>| t.map_or_else(|| "null".to_owned(), |t| format!("{t:?}"));
    let plain = |t: Option<String>| t.unwrap_or_else(|| "null".to_owned());
    format!(
        "name {}, category {}, price {}, discount_price {}, last_updated {}",
        quoted(name),
        quoted(category),
        plain(price),
        plain(discount_price),
        plain(last_updated),
    )
}
