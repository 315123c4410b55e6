//! A dump of the binlog, on a separate connection.
//!
//! `mysql_async` unpacks a compressed transaction as a whole before it hands over the first event, and trusts the sizes
//! in the packets (`docs/decisions/0002-dump-connection.md`). This module holds at most one requested event.

mod event;
mod events;
mod fault;
mod login;
mod payload;
mod request;
mod wire;

use std::fmt::Debug;

pub use event::Event;
pub use events::Events;
pub use login::DumpConnection;

/// Observes the work on the binlog.
pub trait Observer: Debug + Send + Sync {
    /// Bytes of the binlog were received; called ten times a second at most.
    fn received(&self);

    /// A search takes long; `state` describes its purpose and its place.
    fn working(&self, state: &str);
}
