//! The load's own record of its commits: per row, the changes in order.
//!
//! Nothing in it comes from the binlog. A change takes 16 bytes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use super::table::{Table, Tables};
use super::token::Token;

/// The kind of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The key did not exist.
    Create,
    /// The key existed.
    Update,
    /// The key is deleted.
    Delete,
}

/// A row of the load: the table's number, and the row's id in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Row {
    pub(crate) table: usize,
    pub(crate) id: i64,
}

/// A change that a transaction makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) row: Row,
    pub(crate) kind: Kind,
    pub(crate) token: Token,
    /// The number of added columns that it writes.
    pub(crate) extras: u8,
}

/// One committed change of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) token: Token,
    /// The number of its transaction in the ledger.
    pub(crate) at: u32,
    pub(crate) kind: Kind,
    pub(crate) extras: u8,
}

/// Transactions whose changes may be in a topic only as the state of a snapshot.
#[derive(Clone, Debug)]
struct Collapsed {
    /// Only that table's; of all tables without one.
    table: Option<usize>,
    transactions: Range<u32>,
}

/// The committed changes.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// The tables; the main one first.
    pub(crate) tables: Tables,
    pub(crate) rows: HashMap<Row, Vec<Change>>,
    /// The number of the next transaction.
    next: u32,
    changes: BTreeMap<String, u64>,
    collapsed: Vec<Collapsed>,
    /// Epochs that replay everything from this transaction on.
    pub(crate) replays: HashMap<u64, u32>,
    /// The number of snapshots of a table within an epoch, beside the one that it may begin with.
    pub(crate) snapshots: HashMap<(usize, u64), u32>,
    /// Epochs in which a table does not exist: they delete every key.
    pub(crate) emptied: HashSet<(usize, u64)>,
    /// The tables of which records in the topic have expired.
    pub(crate) expired: HashSet<usize>,
    /// By table and partition, the first transaction whose records can't have expired; those of earlier ones may have.
    kept: HashMap<(usize, i32), u32>,
}

impl Ledger {
    /// No change of these tables.
    pub(crate) fn new(tables: Tables) -> Self {
        Self {
            tables,
            rows: HashMap::new(),
            next: 0,
            changes: BTreeMap::new(),
            collapsed: Vec::new(),
            replays: HashMap::new(),
            snapshots: HashMap::new(),
            emptied: HashSet::new(),
            expired: HashSet::new(),
            kept: HashMap::new(),
        }
    }

    /// Adds a committed transaction.
    pub(crate) fn commit(&mut self, changes: &[Planned]) {
        let at = self.next;
        self.next += 1;
        for &Planned { row, kind, token, extras } in changes {
            let of_table = self.changes.entry(self.tables[row.table].name.clone()).or_default();
            *of_table += 1;
            self.rows.entry(row).or_default().push(Change { token, at, kind, extras });
        }
    }

    /// The total number of changes.
    pub fn changes(&self) -> u64 {
        self.changes.values().sum()
    }

    /// The number of changes of each table.
    pub fn changes_by_table(&self) -> &BTreeMap<String, u64> {
        &self.changes
    }

    /// The total number of transactions.
    pub fn transactions(&self) -> u32 {
        self.next
    }

    /// Adds a table, whose first changes may be in its topic only as a snapshot's state, until
    /// [`Ledger::collapse_until_here`].
    pub(crate) fn add_table(&mut self, table: Table) {
        self.collapsed.push(Collapsed { table: Some(self.tables.len()), transactions: 0..u32::MAX });
        self.tables.push(Arc::new(table));
    }

    /// The table is read again within this epoch: until [`Ledger::collapse_until_here`], its changes may be in its topic only
    /// as the state of that snapshot.
    pub(crate) fn read_again(&mut self, table: usize, epoch: u64) {
        *self.snapshots.entry((table, epoch)).or_default() += 1;
        self.collapsed.push(Collapsed { table: Some(table), transactions: self.next..u32::MAX });
    }

    /// The table has one column more, which later transactions write.
    pub(crate) fn add_column(&mut self, table: usize) {
        self.tables[table] = Arc::new(self.tables[table].with_column());
    }

    /// Until [`Ledger::collapse_until_here`], changes of any table from the transaction `from` on may be in the topics
    /// only as a snapshot's state.
    pub(crate) fn collapse_from(&mut self, from: u32) {
        self.collapsed.push(Collapsed { table: None, transactions: from..u32::MAX });
    }

    /// The main topic is created again, or another one is used: what was recorded about its epochs and partitions does not
    /// apply to it, and all changes up to now may be in it only as a snapshot's state. Those of the other tables may be so
    /// from now on.
    pub(crate) fn begin_main_topic(&mut self) {
        self.snapshots.retain(|(table, _), _| *table > 0);
        self.emptied.retain(|(table, _)| *table > 0);
        self.kept.retain(|(table, _), _| *table > 0);
        self.collapsed.push(Collapsed { table: Some(0), transactions: 0..u32::MAX });
        self.collapse_from(self.next);
    }

    /// The next change must be streamed again.
    pub(crate) fn collapse_until_here(&mut self) {
        for collapsed in self.collapsed.iter_mut().filter(|collapsed| collapsed.transactions.end == u32::MAX) {
            collapsed.transactions.end = self.next;
        }
    }

    /// The epoch contains every change from here on.
    pub(crate) fn replay_from_here(&mut self, epoch: u64) {
        self.replays.insert(epoch, self.next);
    }

    /// Whether the change may be in the topic only as a snapshot's state.
    pub(crate) fn may_collapse(&self, row: Row, change: &Change) -> bool {
        let holds = |collapsed: &Collapsed| {
            collapsed.table.is_none_or(|table| table == row.table) && collapsed.transactions.contains(&change.at)
        };
        self.collapsed.iter().any(holds)
    }

    /// All present records of the partition may expire.
    pub(crate) fn expire(&mut self, table: usize, partition: i32) {
        self.expired.insert(table);
        self.kept.insert((table, partition), self.next);
    }

    /// Whether the record of this change of the row may have expired.
    pub(crate) fn may_have_expired(&self, row: Row, change: &Change) -> bool {
        let kept = || self.kept.get(&(row.table, self.tables[row.table].partition(row.id)));
        !self.kept.is_empty() && kept().is_some_and(|kept| change.at < *kept)
    }
}
