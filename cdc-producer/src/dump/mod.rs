//! A dump of the binlog, on a separate connection.
//!
//! `mysql_async` unpacks a compressed transaction as a whole before it hands over the first event, and believes the sizes
//! that come from outside (`docs/decisions/dump-connection.md`). Here no more is held than one event that is wanted.

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

/// Follows the work on the binlog.
pub trait Observer: Debug + Send + Sync {
    /// Bytes of the binlog have come; called ten times a second at most.
    fn heard(&self);

    /// A look-up takes long; `state` says what it does and how far it is.
    fn working(&self, state: &str);
}
