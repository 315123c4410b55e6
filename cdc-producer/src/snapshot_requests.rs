//! Requests for a snapshot of single tables: `cdc-producer snapshot db.table` writes them into a file beside the
//! checkpoint file, and the producer carries each out once.
//!
//! A request has an identity, which the progress of the table has from the commit on with which its snapshot begins.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use model::error::{Code, Error, Result};
use model::table_name::TableName;
use uuid::Uuid;

use crate::checkpoint;

/// Name of the file.
const FILE: &str = "snapshot_requests.json";

/// By `database.table`, the identity of its last request.
pub(crate) type Requests = BTreeMap<String, String>;

/// The file of the requests.
pub(crate) fn path(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

/// The requests so far; none when the file or its folder does not exist.
///
/// # Errors
/// Definite when the file can't be read.
pub(crate) fn read(folder: &Path) -> Result<Requests> {
    let path = path(folder);
    if !folder.is_dir() {
        return Ok(Requests::new());
    }
    let Some(text) = checkpoint::text(&path)? else { return Ok(Requests::new()) };
    serde_json::from_str(&text).map_err(|e| {
        Error::new(Code::CheckpointFileDamaged, format!("{} is damaged: {e}", path.display())).with_remedy(
            "remove the file, and ask again with `cdc-producer snapshot`; requests that were carried out are not needed",
        )
    })
}

/// Asks for a snapshot of the table.
///
/// # Errors
/// Definite when the file can't be read or written.
pub fn ask(folder: &Path, name: &TableName) -> Result<()> {
    let mut requests = read(folder)?;
    requests.insert(name.to_string(), Uuid::new_v4().to_string());
    let text = serde_json::to_string_pretty(&requests).unwrap_or_default() + "\n";
    checkpoint::replace(&path(folder), &text, || Ok(true)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_has_its_own_identity() {
        let folder = tempfile::tempdir().expect("a folder");
        let (orders, lines) = (TableName::new("shop", "orders"), TableName::new("shop", "lines"));
        assert!(read(folder.path()).expect("no file").is_empty());
        ask(folder.path(), &orders).expect("a request");
        let first = read(folder.path()).expect("the file");
        ask(folder.path(), &lines).expect("a request");
        ask(folder.path(), &orders).expect("a request");
        let second = read(folder.path()).expect("the file");
        assert_eq!(second.keys().collect::<Vec<_>>(), ["shop.lines", "shop.orders"]);
        assert_ne!(first.get("shop.orders"), second.get("shop.orders"));
        std::fs::write(path(folder.path()), "{").expect("to write");
        assert!(read(folder.path()).expect_err("damaged").to_string().contains("is damaged"));
    }
}
