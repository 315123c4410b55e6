//! A model's progress as the producer commits it.

use model::position::{Position, Progress};
use model::time::Micros;

/// The source's table.
pub(crate) const SOURCE: &str = "db.product";

/// The progress of this epoch, begun by the request with this identity, at an offset of the binlog.
pub(crate) fn committed(epoch: u8, identity: Option<u8>, offset: u8) -> Progress {
    let position = Position {
        server_uuid: "server".to_owned(),
        gtid_set: None,
        file: "binlog.000001".to_owned(),
        offset: u64::from(offset),
        committed_at: Micros(0),
        anchor: None,
    };
    let request = identity.map_or_else(String::new, |identity| identity.to_string());
    Progress { request, ..Progress::new(u64::from(epoch), position) }
}
