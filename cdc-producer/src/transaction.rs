//! Assigns each event of the binlog to its transaction, and finds the transaction's end.
//!
//! Pure: events go in, their meanings come out. An event of an unlisted type stops the stream, so that no event of a
//! future server is ignored.

use model::error::{Code, Error, Result};
use model::position::LastTransaction;
use model::time::Micros;
use mysql_async::binlog::events::{ExecuteLoadQueryEvent, GtidEvent, QueryEvent};
use mysql_async::binlog::{EventFlags, EventType};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use crate::binlog_error::damaged;
use crate::dump::{Event, HEARTBEAT_V2};
use crate::statement::{self, Effect, Reason, Redefinition, Session, Subject};

/// The content of a GTID event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GtidMark {
    /// Source and number; `None` for an anonymous transaction.
    pub gtid: Option<(String, u64)>,
    /// When the server committed it.
    pub committed_at: Micros,
    /// When it was committed on the server where it originated; the same on every replica.
    pub first_committed_at: Micros,
}

impl GtidMark {
    /// This transaction, with the offset of its beginning in its file.
    pub fn at(&self, begin: u64) -> LastTransaction {
        LastTransaction {
            begin,
            gtid: self.text(),
            committed_at: self.committed_at,
            first_committed_at: Some(self.first_committed_at),
        }
    }

    /// The GTID as MySQL prints it.
    pub fn text(&self) -> Option<String> {
        self.gtid.as_ref().map(|(source, number)| {
            let mut digits = itoa::Buffer::new();
            [source, ":", digits.format(*number)].concat()
        })
    }
}

/// Reads a GTID event, tagged or anonymous; `None` when the event is another one.
///
/// # Errors
/// Definite when it is damaged.
pub fn gtid_mark(event: &Event) -> Result<Option<GtidMark>> {
    let kind = event.header().event_type_raw();
    let anonymous = kind == EventType::ANONYMOUS_GTID_EVENT as u8;
    if !anonymous && kind != EventType::GTID_EVENT as u8 && kind != EventType::GTID_TAGGED_LOG_EVENT as u8 {
        return Ok(None);
    }
    let unreadable = |e: std::io::Error| damaged("GTID", &e);
    let parsed: GtidEvent = if anonymous {
        event.read_event::<mysql_async::binlog::events::AnonymousGtidEvent>().map_err(unreadable)?.0
    } else {
        event.read_event().map_err(unreadable)?
    };
    let gtid = (!anonymous).then(|| {
        let mut text = [0; Hyphenated::LENGTH];
        let uuid = Uuid::from_bytes(parsed.sid()).hyphenated().encode_lower(&mut text);
        let source = match parsed.tag() {
            Some(tag) if !tag.as_str().is_empty() => format!("{uuid}:{}", tag.as_str()),
            _ => uuid.to_owned(),
        };
        (source, parsed.gno())
    });
    let committed_at = match parsed.immediate_commit_timestamp() {
        0 => Micros(i64::from(event.header().timestamp()) * 1_000_000),
        micros => Micros(micros as i64),
    };
    let first_committed_at = match parsed.original_commit_timestamp() {
        0 => committed_at,
        micros => Micros(micros as i64),
    };
    Ok(Some(GtidMark { gtid, committed_at, first_committed_at }))
}

/// Whether [`classify`] or its callers read the whole body of every event of this type, however large it is. The first
/// bytes of a rows event tell whether its rows are needed, and the type suffices for other events.
pub fn body_counts(event: &Event) -> bool {
    use EventType as E;
    matches!(
        event.header().event_type(),
        Ok(E::QUERY_EVENT
            | E::EXECUTE_LOAD_QUERY_EVENT
            | E::TABLE_MAP_EVENT
            | E::GTID_EVENT
            | E::ANONYMOUS_GTID_EVENT
            | E::GTID_TAGGED_LOG_EVENT
            | E::XA_PREPARE_LOG_EVENT)
    )
}

/// What an event is for the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A transaction begins; its GTID event precedes its other events.
    Start(GtidMark),
    /// `BEGIN`: the transaction has rows, and a separate event ends it. With XA, its identity.
    Begin(Option<String>),
    /// Names the table of the rows that follow.
    TableMap,
    /// Rows.
    Rows,
    /// The transaction ends, and its rows are valid.
    Commit,
    /// The transaction ends, and its rows are void.
    Rollback,
    /// Another statement, which ends no transaction of rows; alone it is the whole transaction.
    Statement {
        /// What it does to tables, by their numbers.
        effects: Vec<(usize, TableEffect)>,
        /// It may create a table, or give it another name.
        may_create: bool,
    },
    /// The first phase of a two-phase commit.
    XaPrepare,
    /// The second phase: commits the prepared transaction with this identity.
    XaCommit(String),
    /// The second phase: rolls it back.
    XaRollback(String),
    /// No action.
    Nothing,
}

/// What a statement does to a table without changing its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableEffect {
    /// It creates the table.
    Created,
    /// It changes columns, but no values.
    Redefined(Redefinition),
    /// It was logged as text and writes to another table, whose triggers may write to this one.
    Writes {
        /// The other table's database.
        database: String,
        /// Its name.
        table: String,
        /// The statement, for a message.
        statement: String,
    },
}

/// Classifies an event; `subjects` are the tables that are read, which only a statement needs.
///
/// # Errors
/// Definite for an event that changes a table's rows without row events, or is of an unknown type.
pub fn classify<'a>(event: &Event, subjects: impl Iterator<Item = Subject<'a>>) -> Result<EventKind> {
    use EventType as E;
    let header = event.header();
    let Ok(kind) = header.event_type() else {
        return unknown(event);
    };
    Ok(match kind {
        E::GTID_EVENT | E::ANONYMOUS_GTID_EVENT | E::GTID_TAGGED_LOG_EVENT => match gtid_mark(event)? {
            Some(mark) => EventKind::Start(mark),
            None => EventKind::Nothing,
        },
        E::TABLE_MAP_EVENT => EventKind::TableMap,
        E::WRITE_ROWS_EVENT
        | E::UPDATE_ROWS_EVENT
        | E::DELETE_ROWS_EVENT
        | E::WRITE_ROWS_EVENT_V1
        | E::UPDATE_ROWS_EVENT_V1
        | E::DELETE_ROWS_EVENT_V1
        | E::PARTIAL_UPDATE_ROWS_EVENT => EventKind::Rows,
        E::XID_EVENT => EventKind::Commit,
        E::XA_PREPARE_LOG_EVENT => match event.data().first() {
            // XA COMMIT … ONE PHASE
            Some(1) => EventKind::Commit,
            _ => EventKind::XaPrepare,
        },
        E::QUERY_EVENT => {
            let query: QueryEvent<'_> = event.read_event().map_err(|e| damaged("QUERY", &e))?;
            // Short, and by far the most frequent statement.
            if query.query_raw() == b"BEGIN" {
                return Ok(EventKind::Begin(None));
            }
            statement(query.query_raw(), query.schema_raw(), query.status_vars_raw(), subjects)?
        }
        // LOAD DATA as a statement; its data precede it.
        E::EXECUTE_LOAD_QUERY_EVENT => {
            let query: ExecuteLoadQueryEvent<'_> = event.read_event().map_err(|e| damaged("EXECUTE_LOAD_QUERY", &e))?;
            statement(query.query_raw(), query.schema_raw(), query.status_vars_raw(), subjects)?
        }
        // Text for people, context of statements (the statements themselves are classified), group replication, and the
        // container of a compressed transaction, whose events follow one by one.
        E::ROTATE_EVENT
        | E::FORMAT_DESCRIPTION_EVENT
        | E::PREVIOUS_GTIDS_EVENT
        | E::STOP_EVENT
        | E::HEARTBEAT_EVENT
        | E::IGNORABLE_EVENT
        | E::ROWS_QUERY_EVENT
        | E::INTVAR_EVENT
        | E::RAND_EVENT
        | E::USER_VAR_EVENT
        | E::TRANSACTION_CONTEXT_EVENT
        | E::VIEW_CHANGE_EVENT
        | E::BEGIN_LOAD_QUERY_EVENT
        | E::APPEND_BLOCK_EVENT
        | E::DELETE_FILE_EVENT
        | E::TRANSACTION_PAYLOAD_EVENT => EventKind::Nothing,
        E::INCIDENT_EVENT => {
            return Err(Error::new(Code::EventsLost, "the server says that its binlog lost events (INCIDENT)")
                .with_remedy("ask for a new snapshot: `cdc-producer checkpoint reset`"));
        }
        _ => return unknown(event),
    })
}

fn statement<'a>(
    text: &[u8],
    database: &[u8],
    status: &[u8],
    subjects: impl Iterator<Item = Subject<'a>>,
) -> Result<EventKind> {
    let session = Session::new(database, status);
    let digest = || statement::digest(text, session.mode);
    let mut effects = Vec::new();
    for (number, subject) in subjects.enumerate() {
        let effect = match statement::effect(text, &session, &subject) {
            // The same for each table.
            Effect::Begin(xa) => return Ok(EventKind::Begin(xa)),
            Effect::XaCommit(xa) => return Ok(EventKind::XaCommit(xa)),
            Effect::XaRollback(xa) => return Ok(EventKind::XaRollback(xa)),
            Effect::Commit => return Ok(EventKind::Commit),
            Effect::Rollback => return Ok(EventKind::Rollback),
            Effect::None => continue,
            _ if subject.is_read_behind => continue,
            Effect::Created => TableEffect::Created,
            Effect::Redefined(after) => TableEffect::Redefined(after),
            Effect::Writes(database, table) => TableEffect::Writes { database, table, statement: digest() },
            Effect::RollbackToSavepoint => {
                let what = "ROLLBACK TO SAVEPOINT in the binlog".to_owned();
                return Err(unreadable(&Reason { what, is_certain: true, prevent: "" }, &digest(), &subject));
            }
            Effect::Unreadable(reason) => return Err(unreadable(&reason, &digest(), &subject)),
        };
        effects.push((number, effect));
    }
    Ok(EventKind::Statement { effects, may_create: statement::may_create(text, session.mode) })
}

fn unreadable(reason: &Reason, statement: &str, subject: &Subject<'_>) -> Error {
    let Reason { what, is_certain, prevent } = reason;
    let change = if *is_certain { "changes" } else { "may change" };
    let separator = if prevent.is_empty() { "" } else { "; " };
    Error::new(
        Code::StatementChangesRows,
        format!(
            "{what} {change} the rows of {}.{}, and the binlog does not say which: {statement}",
            subject.database, subject.table
        ),
    )
    .with_remedy(format!(
        "{prevent}{separator}to continue behind it with the table as it is now, and tombstones for what is gone: \
         `cdc-producer snapshot {}.{}`, or for all tables `cdc-producer checkpoint reset`, then start again",
        subject.database, subject.table
    ))
}

fn unknown(event: &Event) -> Result<EventKind> {
    let header = event.header();
    if header.event_type_raw() == HEARTBEAT_V2 || header.flags().contains(EventFlags::LOG_EVENT_IGNORABLE_F) {
        return Ok(EventKind::Nothing);
    }
    Err(Error::new(
        Code::EventUnreadable,
        format!("the binlog has an event of the unknown type {}", header.event_type_raw()),
    )
    .with_remedy("it may carry changes, so it is not passed over: report it with the server's version"))
}
