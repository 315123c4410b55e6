//! The events of prepared XA transactions, which are kept until the outcome is known, as far as they are small.

use std::collections::HashMap;

use bytes::Bytes;

use crate::dump::Event;

/// Maximum bytes that are kept of one transaction, and of all prepared ones.
const ONE: usize = 256 * 1024;
const ALL: usize = 4 * 1024 * 1024;

/// Table maps and rows of the table in one transaction.
#[derive(Debug, Default)]
pub(super) struct Kept {
    events: Vec<Event>,
    bytes: usize,
    /// There is more than may be kept.
    is_cut: bool,
}

impl Kept {
    pub(super) fn push(&mut self, event: &Event) {
        self.bytes += event.header().event_size() as usize;
        self.is_cut |= self.bytes > ONE || !event.is_whole();
        if self.is_cut {
            self.events.clear();
        } else {
            // Copied, to release the connection's buffer.
            self.events.push(Event::new(event.header(), Bytes::copy_from_slice(event.data()), 0));
        }
    }

    /// Whether the transaction has rows of the table.
    pub(super) fn has_rows(&self) -> bool {
        self.bytes > 0
    }

    pub(super) fn events(self) -> Option<Vec<Event>> {
        (!self.is_cut).then_some(self.events)
    }
}

/// Prepared transactions, by identity.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    transactions: HashMap<String, Kept>,
    bytes: usize,
}

impl Prepared {
    pub(super) fn insert(&mut self, xa: String, kept: Kept) {
        if !kept.is_cut && self.bytes + kept.bytes <= ALL {
            self.bytes += kept.bytes;
            self.transactions.insert(xa, kept);
        }
    }

    pub(super) fn remove(&mut self, xa: &str) -> Option<Vec<Event>> {
        let kept = self.transactions.remove(xa)?;
        self.bytes -= kept.bytes;
        kept.events()
    }
}
