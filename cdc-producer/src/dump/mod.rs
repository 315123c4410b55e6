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

pub use event::Event;
pub use events::Events;
pub use login::DumpConnection;
