//! The durable steps of the programs, by name: a crash may come between any two of them.
//!
//! Each step is a [failpoint](crate::failpoint), a fault of the harness (`kill-producer-sent`), and is named in a crash
//! table of `docs/architecture/exactly-once.md`.
//!
//! `product-updater` has none: its only durable step is the commit of a chunk in MySQL. It keeps no position, since a
//! file that is applied again has the effect of one.

use std::fmt;

/// A durable step of a program.
pub trait DurableStep: Copy {
    /// Its name: `producer.sent`.
    fn name(self) -> &'static str;

    /// A value of `FAILPOINTS` with these actions at the step: `producer.sent=1*return(kill)`.
    fn failpoint(self, actions: &str) -> String {
        format!("{}={actions}", self.name())
    }
}

macro_rules! steps {
    ($about:literal, $program:ident, $prefix:literal, $($step:ident $name:literal $doc:literal,)*) => {
        #[doc = $about]
        #[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $program {
            $(#[doc = $doc] $step,)*
        }

        impl $program {
            /// All steps.
            pub const ALL: &[Self] = &[$(Self::$step,)*];

            /// The fault of the harness that kills the program there: `kill-producer-sent`.
            pub const fn kill(self) -> &'static str {
                match self {
                    $(Self::$step => concat!("kill-", $prefix, "-", $name),)*
                }
            }

            /// The fault that stops it there past a timeout: `stop-producer-sent`.
            pub const fn stop(self) -> &'static str {
                match self {
                    $(Self::$step => concat!("stop-", $prefix, "-", $name),)*
                }
            }
        }

        impl DurableStep for $program {
            fn name(self) -> &'static str {
                match self {
                    $(Self::$step => concat!($prefix, ".", $name),)*
                }
            }
        }

        impl fmt::Display for $program {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

steps! {
    "Steps of `cdc-producer`.", ProducerStep, "producer",
    Initialised "initialised" "`init_transactions` is done, the progress is not read back.",
    Begun "begun" "A Kafka transaction has begun.",
    Sending "sending" "Half of a batch of the stream is sent.",
    ChunkSending "chunk-sending" "Half of a chunk of a snapshot is sent.",
    SweepSending "sweep-sending" "Half of the tombstones of a pass of the sweep are sent.",
    Sent "sent" "Records and progress are sent, the commit is not.",
    Committed "committed" "The transaction is committed, the checkpoint file does not have it.",
    FileSynced "file-synced" "The new checkpoint file is durable under another name.",
    FileRenamed "file-renamed" "The checkpoint file is replaced, its folder is not synced.",
    Identified "identified" "A reset has its identity in the file, the new epoch is not committed.",
    EpochCommitted "epoch-committed" "The new epoch is committed, the file still has the request.",
    ChunkRead "chunk-read" "A chunk of a snapshot is read and not sent.",
    SweepCollected "sweep-collected" "The keys of a pass of the sweep that may be gone are known.",
    SweepCompared "sweep-compared" "The keys that are gone are known, no tombstone is sent.",
}

steps! {
    "Steps of `consumer`.", ConsumerStep, "consumer",
    Initialised "initialised" "`init_transactions` is done, the log's committed length is not read.",
    Polled "polled" "A batch is in memory.",
    RowsCommitted "rows-committed" "PostgreSQL has committed the batch, the log does not have it.",
    Appending "appending" "Half of the lines are appended.",
    Appended "appended" "All lines are appended and not synced, the Kafka transaction has not begun.",
    Marked "marked" "The log's length is sent, the offsets are not.",
    OffsetsSent "offsets-sent" "Length and offsets are sent, the lines need not be durable yet.",
    Synced "synced" "Length and offsets are sent, the lines are durable, the commit is not sent.",
    Committed "committed" "The transaction is committed.",
    Recovering "recovering" "The slot of a neighbour is fenced, its log is not cut.",
    Recovered "recovered" "The log of a neighbour is cut, the slot does not say so.",
    Revoking "revoking" "A partition is being taken away.",
}
