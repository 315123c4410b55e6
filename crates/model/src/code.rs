//! The code of every error that can end a program: the one policy for its class, exit status and documentation.
//!
//! An error that a person must treat in another way than the existing ones gets its own code. A test writes
//! [`page`] to `docs/errors.md` (`BLESS=1 cargo test -p model page`).

use std::fmt::Write as _;

/// How the program reacts to an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It may heal without a person: try again.
    Transient,
    /// It stays until a person acts: stop.
    Definite,
    /// The command line or the configuration is wrong: stop before doing anything.
    Usage,
}

impl Class {
    /// Exit status: 1 definite, 2 usage, 75 transient (EX_TEMPFAIL of sysexits.h).
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Definite => 1,
            Self::Usage => 2,
            Self::Transient => 75,
        }
    }
}

/// Defines [`Code`]: by subject, each code with its class, its name, its meaning and what to do.
macro_rules! codes {
    ($($subject:literal { $($code:ident, $class:ident, $name:literal, $meaning:literal, $remedy:literal;)* })*) => {
        /// What an error is about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code {
            $($(#[doc = $meaning] $code,)*)*
        }

        impl Code {
            /// All codes, by subject.
            pub const ALL: &[(&str, &[Self])] = &[$(($subject, &[$(Self::$code),*])),*];

            /// How a program reacts to such an error.
            pub fn class(self) -> Class {
                match self {
                    $($(Self::$code => Class::$class,)*)*
                }
            }

            /// Its name: in the last line of a program, in logs and in the documentation. It stays as it is.
            pub fn name(self) -> &'static str {
                match self {
                    $($(Self::$code => $name,)*)*
                }
            }

            /// Its meaning and what to do, for the documentation.
            fn texts(self) -> (&'static str, &'static str) {
                match self {
                    $($(Self::$code => ($meaning, $remedy),)*)*
                }
            }
        }
    };
}

codes! {
    "Every program" {
        Setting, Usage, "setting",
            "A setting is unknown, missing, given twice, out of range, or does not fit another one.",
            "Correct the setting that the message names. `--check-config` shows all settings with their origin.";
        CommandLine, Usage, "command-line",
            "An argument of a command is wrong.",
            "Correct the argument. `--help` lists all of them.";
        FileAccess, Definite, "file-access",
            "The program can't read, write or lock a file or a folder.",
            "Give the program's user access to the path in the message, or name another path in the setting.";
        DiskFull, Transient, "disk-full",
            "The disk is full.",
            "Make room. A running program continues without a restart.";
        ListenAddress, Definite, "listen-address",
            "The program can't listen on the address of `metrics.listen`, or of `stream console --listen`.",
            "Name free ports of this machine. A range has one for each program, such as `127.0.0.1:9100-9109`.";
        ChecksFailed, Definite, "checks-failed",
            "`doctor` found faults, and shows each with its remedy; or a replay of a dead letter is refused, with the reason.",
            "Follow the remedies, then run the command again.";
        TryAgain, Transient, "try-again",
            "A server did not give the needed answer in time, or its state changed meanwhile.",
            "A running program tries again. If it has ended, start it again.";
        Fault, Definite, "fault",
            "A fault of the program, or an answer of a server that has no other code.",
            "Report it with the log. Nothing was skipped: the next start continues from the committed position.";
    }
    "Connections" {
        ServerUnreachable, Transient, "server-unreachable",
            "MySQL, Kafka, the schema registry or PostgreSQL does not answer, or a connection broke.",
            "Check that the server runs, and the address in the settings. A running program reconnects.";
        LoginRefused, Definite, "login-refused",
            "A server refuses the user, the password or the method of authentication.",
            "Correct user and password in the settings, or the user's account at the server.";
        CertificateRefused, Definite, "certificate-refused",
            "A server's certificate is not valid for this connection, or the server offers no TLS.",
            "Compare the CA in the settings with that of the certificate, its end, and the host that it names.";
        TokenExpired, Transient, "token-expired",
            "The token in the file `kafka.sasl_token_file` has expired, or the file has none.",
            "Replace the file with a new token. Each login reads it, so a running program continues without a restart.";
        RightMissing, Definite, "right-missing",
            "A server does not allow this user what the program must do.",
            "Grant the right that the message names. [security.md](security.md) has all rights.";
    }
    "The MySQL server and its binlog" {
        ServerSettings, Definite, "server-settings",
            "The server does not write every change of the tables to its binlog: a setting, a filter, or a replica \
             without `log_replica_updates`.",
            "Change the setting that the message names. If changes were left out before: `cdc-producer checkpoint reset`, \
             start.";
        TwoServers, Definite, "two-servers",
            "`DB_HOST` leads to several servers in turn: a proxy or a name distributes the connections.",
            "Set `DB_HOST` to the address of one server.";
        ServerIdTaken, Transient, "server-id-taken",
            "Another reader of the binlog uses the same `producer.server_id`.",
            "Give each reader its own `producer.server_id`.";
        PositionPurged, Definite, "position-purged",
            "The server has deleted binlogs that the producer has not read: it was down for longer than MySQL keeps them.",
            "`cdc-producer checkpoint reset`, start: a snapshot, and tombstones for rows that were deleted meanwhile. \
             Keep binlogs longer.";
        HistoryDiffers, Definite, "history-differs",
            "The position belongs to another history: the binlogs were reset, or the server was restored or replaced.",
            "Connect to the right server, or `cdc-producer checkpoint reset`, start.";
        TimeOutOfRange, Definite, "time-out-of-range",
            "A replay was requested from a time in the future, or before the first binlog.",
            "`cdc-producer checkpoint set TIME` with a time that the binlogs have, or `cdc-producer checkpoint restore`.";
        GtidModeSwitched, Definite, "gtid-mode-switched",
            "A person switched `gtid_mode` before the producer had read everything: MySQL no longer sends the rest.",
            "`SET GLOBAL gtid_mode = ON_PERMISSIVE` (or `OFF_PERMISSIVE`), start, and do the last step of the switch after \
             `verify --wait 60s` has ended.";
        StatementChangesRows, Definite, "statement-changes-rows",
            "A statement changes rows, and the binlog does not show which: TRUNCATE, DROP, RENAME or ALTER TABLE, or any \
             in a session with `binlog_format=STATEMENT`.",
            "`cdc-producer snapshot db.table`, start: the table as it is now, and tombstones for rows that are gone. After \
             `binlog_format=STATEMENT`, use ROW in that session, then `cdc-producer checkpoint reset`, start. If the \
             message names a right, grant it, and start.";
        ForeignKey, Definite, "foreign-key",
            "A foreign key with CASCADE or SET NULL: before MySQL 9.6 the binlog does not have the rows that it changes.",
            "Use RESTRICT or NO ACTION, then `cdc-producer checkpoint reset`, start.";
        XaRowsPurged, Definite, "xa-rows-purged",
            "A prepared XA transaction is committed, and the binlog with its rows was deleted before.",
            "`cdc-producer checkpoint reset`, start. Keep binlogs longer than XA transactions stay prepared.";
        EventTooLarge, Definite, "event-too-large",
            "An event of the binlog is larger than the producer may hold.",
            "Give the producer memory for it, raise `producer.max_event`, start.";
        EventUnreadable, Definite, "event-unreadable",
            "The binlog has an event that the producer does not know or can't read.",
            "Report it with the server's version. To continue behind it: `cdc-producer checkpoint reset`, start.";
        EventsLost, Definite, "events-lost",
            "Events are missing in the binlog: the server reports it, or a transaction has no end.",
            "Check the binlog with `mysqlbinlog`, then `cdc-producer checkpoint reset`, start.";
    }
    "The table and its rows" {
        TableMissing, Definite, "table-missing",
            "The database or the table does not exist, or it is a view; or no table matches `tables`.",
            "Create it, or correct `DB_NAME`, `db.table` or `tables`.";
        TableWithoutKey, Definite, "table-without-key",
            "The table has no primary key, so its rows have no identity.",
            "`ALTER TABLE … ADD my_row_id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT INVISIBLE PRIMARY KEY`, start.";
        KeyRefused, Definite, "key-refused",
            "A record's key can't have the primary key: it has a prefix of a column, an ENUM, a SET, a FLOAT or a DOUBLE.",
            "Make a primary key of whole columns of other types, start.";
        KeyChanged, Definite, "key-changed",
            "The primary key is not the one that the records have: keys of two forms would name one row.",
            "Restore the former key, or write to another topic. Then `cdc-producer checkpoint reset`, start.";
        ColumnMissing, Definite, "column-missing",
            "The table does not have a column that its records need.",
            "Add the column, or name another table in `db.table`.";
        ColumnRefused, Definite, "column-refused",
            "A record can't carry a column without loss: its type, its character set, or its name.",
            "Change the column as the message describes.";
        RowRefused, Definite, "row-refused",
            "A record can't carry a row, and `producer.on_refused` is `stop`.",
            "`producer.on_refused: dead_letter`, start: the change is parked. Then correct the row in the table.";
        RuleRefused, Definite, "rule-refused",
            "A rule of the consumer, or the form of its lines, does not fit the table.",
            "Correct the setting that the message names.";
    }
    "The producer's position" {
        CheckpointFileDamaged, Definite, "checkpoint-file-damaged",
            "A person edited the checkpoint file, and the producer can't follow it. A running producer reports it and \
             continues.",
            "`cdc-producer checkpoint restore` writes the file from the position in Kafka. Or correct the file. Start.";
        CheckpointFileAhead, Definite, "checkpoint-file-ahead",
            "The checkpoint file is ahead of the position in Kafka: another cluster, or the checkpoint topic was deleted.",
            "Connect to the right cluster, or `cdc-producer checkpoint reset`, start.";
        CheckpointFileMounted, Definite, "checkpoint-file-mounted",
            "The checkpoint file is a volume of a container, and such a file can't be replaced.",
            "Mount the folder `time_track/`, not the file.";
        NothingToRestore, Definite, "nothing-to-restore",
            "Kafka has no position of this table.",
            "Connect to the right cluster, or `cdc-producer checkpoint reset`, start.";
        ProgressUnreadable, Definite, "progress-unreadable",
            "The position in Kafka can't be read: a newer version wrote it, or another client.",
            "Use the version of the program that wrote it.";
        AnotherProducer, Definite, "another-producer",
            "Another producer uses the same folder or the same transactional id.",
            "Run one producer for a source. Another source needs its own `producer.time_track` and \
             `kafka.transactional_id`.";
    }
    "Kafka" {
        BrokerVersion, Definite, "broker-version",
            "A broker does not speak the version of a request that the programs need: it is too old.",
            "Upgrade the brokers. [operations.md](operations.md) has the versions that were tried.";
        TopicMissing, Definite, "topic-missing",
            "The topic does not exist, or Kafka does not create it.",
            "Start the producer, which creates the topic, or correct `kafka.topic`. If Kafka does not create it: create it \
             as the message describes, or correct `kafka.replication_factor` or `kafka.cleanup_policy`.";
        TopicGone, Definite, "topic-gone",
            "The topic was deleted: the position in Kafka says that records were written to it.",
            "`cdc-producer checkpoint reset`, start: the table is written into a new topic.";
        TopicRecreated, Definite, "topic-recreated",
            "The topic was deleted and created again (its id has changed, or it ends before what was written or read), \
             or it is another cluster.",
            "The producer: `cdc-producer checkpoint reset`, start. The consumers: a new group (`kafka.group_id`), a new \
             folder (`consumer.logs`), and empty tables in PostgreSQL.";
        PartitionCount, Definite, "partition-count",
            "The number of the topic's partitions is not `kafka.partitions`, or not the one that its records were \
             written to: keys would move.",
            "Kafka can't lower the number: use a new topic, as the message describes.";
        RecordRefused, Definite, "record-refused",
            "Kafka does not take a record: it is too large, or its time is too far from the broker's clock.",
            "Change the limit or the clock that the message names.";
        TransactionTimeout, Definite, "transaction-timeout",
            "A transaction of MySQL takes longer than a transaction of Kafka may be open, or the broker does not allow \
             the timeout.",
            "Raise `kafka.transaction_timeout`; `transaction.max.timeout.ms` of the broker is its limit.";
        TransactionOpen, Transient, "transaction-open",
            "A transaction of a client that is gone stays open. A lone broker of Kafka 4.2 or 4.3 that was killed can \
             leave one open for ever; 4.1.1, which containers and tests use, does not have that fault.",
            "Wait for the transaction's timeout. If it never ends: `kafka-transactions.sh find-hanging`, then `abort` it \
             in every partition it names.";
    }
    "The schema registry" {
        SchemaRefused, Definite, "schema-refused",
            "The registry does not take the schema, or records of it and of an earlier one can't be in one topic: a reader \
             with one of them would be wrong.",
            "Give the column that the message names its former type again, then `cdc-producer snapshot db.table`, start. Or \
             compare the schemas, and delete the subject if nobody needs it, or use another `schema_registry.subject`.";
        SchemaMissing, Transient, "schema-missing",
            "The registry does not have the subject of the records: it lost its schemas, or is another one. The consumers \
             wait.",
            "Restart the producer, which registers its schema, or restore the registry, or correct `schema_registry.url`.";
        NoRegistry, Definite, "no-registry",
            "The server at `schema_registry.url` does not answer as a schema registry does.",
            "Set `schema_registry.url` to the address of the registry itself.";
    }
    "The consumers' logs and offsets" {
        AnotherConsumer, Definite, "another-consumer",
            "Another process uses the same slot, the same member id or the same transactional id.",
            "Stop that process. Look for one with a copy of the logs folder (`consumer.logs`).";
        LogTruncated, Definite, "log-truncated",
            "A person cut, edited or deleted a log: it does not have the committed lines.",
            "Restore the log, or `consumer accept-log consumer_N`: lines that no transaction committed go to \
             `consumer_log.json.cut-…` beside it.";
        LogCheckpointDiffers, Definite, "log-checkpoint-differs",
            "The log's length in Kafka is not the one that its consumer committed: a foreign client wrote to the topic \
             `.slots`, or Kafka was restored from an older state.",
            "`consumer accept-log consumer_N`. After a restore that also set the group's offsets back, follow the message.";
        LogCopied, Definite, "log-copied",
            "The log is an older copy, or its lines belong to another slot or folder: two machines use copies of one \
             folder, or a backup was put back.",
            "Use the newer log and delete this copy with its dot files. The message has the steps.";
        LogUnknown, Definite, "log-unknown",
            "The log has lines, and the group does not know a consumer that wrote them.",
            "Correct `kafka.group_id` or `consumer.logs`, or move the log away. The message has the steps.";
        FolderGone, Definite, "folder-gone",
            "This machine had a logs folder with committed lines, which is gone.",
            "Restore the folder, or `consumer forget-folder` with its identity.";
        OffsetsGone, Definite, "offsets-gone",
            "Kafka has dropped the offsets of the group, which had no member for a week.",
            "Stop all consumers, `consumer restore-offsets`, start them.";
        OffsetsMoved, Definite, "offsets-moved",
            "A person or a tool moved the offsets of the group away from the ends of the logs.",
            "Stop all consumers, `consumer restore-offsets`, start them.";
        RecordsDeleted, Definite, "records-deleted",
            "The topic no longer has records that were not read: retention deleted them while the consumers were down.",
            "`cdc-producer checkpoint reset`. Stop all consumers, `consumer skip-deleted`, start them.";
    }
    "PostgreSQL" {
        PostgresTables, Definite, "postgres-tables",
            "PostgreSQL's tables are not as the consumers need them: a column would round, cut or hide a value, can't be \
             widened, or the tables are in another schema.",
            "Run the statement of the message as the owner of the table, or let the consumers create tables in another \
             `postgres.schema`.";
        PostgresDatabase, Definite, "postgres-database",
            "The database or the schema does not exist, or a pooler does not keep a transaction on one connection.",
            "Create it, or correct `postgres.url`, `postgres.schema` or the pooler's `pool_mode`.";
        PostgresRow, Definite, "postgres-row-refused",
            "PostgreSQL refuses a row because of a value, a constraint or a trigger, and `postgres.on_refused` is `stop`.",
            "Change the table so that it accepts the row, or `postgres.on_refused: dead_letter`, start.";
    }
    "CSV files and `verify`" {
        CsvRefused, Definite, "csv-refused",
            "A row of a CSV file can't be applied, and `--strict` is set; or the table refuses generated rows.",
            "Correct the row and run again, or leave `--strict` out: such rows are then put aside.";
    }
}

/// `docs/errors.md`.
pub fn page() -> String {
    let mut page = String::from(HEAD);
    for (subject, codes) in Code::ALL {
        write!(page, "\n## {subject}\n\n| code | exit status | meaning | what to do |\n|---|---|---|---|\n")
            .unwrap_or_default();
        for code in *codes {
            let (name, status, (meaning, remedy)) = (code.name(), code.class().exit_code(), code.texts());
            writeln!(page, "| <a id=\"{name}\"></a>`{name}` | {status} | {meaning} | {remedy} |").unwrap_or_default();
        }
    }
    page
}

const HEAD: &str = "\
# Errors

<!-- Written by `BLESS=1 cargo test -p model page` from crates/model/src/code.rs. -->

A program that ends with an error prints its code, the object and the reason, and what to do:

```
error[topic-gone]: topic product_updates is gone, but the position in product_updates.checkpoint says that it was written
  what to do: to write the table into a new one: `cdc-producer checkpoint reset`
  see docs/errors.md#topic-gone
```

With `log.format: json` the last record has the fields `code` and `what_to_do`. The code decides the exit status: 1, a
person must act; 2, the command line or the configuration is wrong; 75, try again. A program that was ready before tries
again without an end, and logs each attempt as a warning with its code.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = Code> {
        Code::ALL.iter().flat_map(|(_, codes)| codes.iter().copied())
    }

    #[test]
    fn the_page_is_that_of_the_codes() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors.md");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, page()).expect("docs/errors.md can be written");
        }
        let text = std::fs::read_to_string(&path).expect("docs/errors.md exists");
        assert!(text == page(), "docs/errors.md is outdated: BLESS=1 cargo test -p model page");
    }

    #[test]
    fn a_name_is_used_once_and_each_text_is_sentences() {
        let mut names: Vec<&str> = all().map(Code::name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!((names.len(), count <= 64), (count, true));
        for code in all() {
            assert!(code.name().bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{code:?}");
            let (meaning, remedy) = code.texts();
            assert!([meaning, remedy].iter().all(|t| t.ends_with('.') && !t.contains('|')), "{code:?}");
        }
    }
}
