//! Kafka's protocol as far as a transactional producer speaks it: bytes only, without sockets and clocks.
//!
//! Invariant: nothing here allocates for what a frame only claims to have, and no bytes make it panic.
//!
//! Our own, since a library for all messages trusts the counts in a frame, and encodes a batch with allocations for each
//! record; the tests compare with that library
//! (`docs/decisions/0007-kafka-producer.md`).

pub mod answers;
pub mod bytes;
pub mod codes;
pub mod compression;
pub mod frame;
pub mod login;
pub mod record_batch;
pub mod requests;
