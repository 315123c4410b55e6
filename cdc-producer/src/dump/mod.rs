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

pub use event::Event;
pub use events::Events;
pub use login::DumpConnection;
pub use wire::Observer;

pub(crate) use event::{HEAD, HEARTBEAT_V2};
