//! The session of a statement in the binlog, from the status variables of its event.
//!
//! Source: `libs/mysql/binlog/event/statement_events.h`, `Query_event::Query_event_status_vars`. Their order is fixed;
//! the reading ends at the first unknown one, as its length is unknown too.

use std::borrow::Cow;

use super::names::same;
use super::words::Mode;

/// A session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session<'a> {
    /// Its default database; empty when it has none.
    pub database: Cow<'a, str>,
    /// The settings that decide how its statements are parsed.
    pub mode: Mode,
    /// The databases that the statement wrote to, according to the server.
    pub written: Written<'a>,
}

/// The databases that a statement wrote to, directly or through a view, a trigger or a function. The server's own
/// parallel replicas depend on this list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written<'a> {
    /// Only these databases.
    To(Vec<Cow<'a, str>>),
    /// The list is missing, because it is too long or foreign keys are involved.
    Unknown,
}

impl<'a> Session<'a> {
    /// From a QUERY event's default database and status variables.
    pub fn new(database: &'a [u8], status: &'a [u8]) -> Self {
        let (mut sql_mode, mut collation, mut written) = (0, 0, Written::Unknown);
        let mut rest = status;
        while let Some(variable) = Variable::read(&mut rest) {
            match variable {
                Variable::SqlMode(mode) => sql_mode = mode,
                Variable::Charset(client) => collation = client,
                Variable::Databases(names) => written = names.map_or(Written::Unknown, Written::To),
                Variable::Other => {}
            }
        }
        Self { database: String::from_utf8_lossy(database), mode: Mode::new(sql_mode, collation), written }
    }

    /// Whether the statement may have written to this database.
    pub fn may_write_to(&self, database: &str) -> bool {
        match &self.written {
            Written::To(databases) => databases.iter().any(|name| same(name, database)),
            Written::Unknown => true,
        }
    }
}

enum Variable<'a> {
    SqlMode(u64),
    Charset(u16),
    Databases(Option<Vec<Cow<'a, str>>>),
    Other,
}

impl<'a> Variable<'a> {
    fn read(rest: &mut &'a [u8]) -> Option<Self> {
        /// A count above the maximum, which marks a list that is too long.
        const TOO_MANY: usize = 254;
        let mut take = |length: usize| {
            let (taken, left) = rest.split_at_checked(length)?;
            *rest = left;
            Some(taken)
        };
        let code = take(1)?[0];
        Some(match code {
            1 => Self::SqlMode(u64::from_le_bytes(take(8)?.try_into().ok()?)),
            4 => {
                let client = take(6)?;
                Self::Charset(u16::from_le_bytes([client[0], client[1]]))
            }
            12 => {
                let count = usize::from(take(1)?[0]);
                if count == TOO_MANY {
                    return Some(Self::Databases(None));
                }
                let mut names = Vec::with_capacity(count);
                for _ in 0..count {
                    let end = rest.iter().position(|b| *b == 0)?;
                    names.push(String::from_utf8_lossy(&rest[..end]));
                    *rest = &rest[end + 1..];
                }
                Self::Databases(Some(names))
            }
            0 | 3 | 10 => Self::skip(take(4)?),
            7 | 8 | 18 => Self::skip(take(2)?),
            9 | 17 => Self::skip(take(8)?),
            13 => Self::skip(take(3)?),
            16 | 19 | 20 => Self::skip(take(1)?),
            2 => {
                let length = usize::from(take(1)?[0]);
                Self::skip(take(length + 1)?)
            }
            5 | 6 => {
                let length = usize::from(take(1)?[0]);
                Self::skip(take(length)?)
            }
            11 => {
                let user = usize::from(take(1)?[0]);
                take(user)?;
                let host = usize::from(take(1)?[0]);
                Self::skip(take(host)?)
            }
            _ => return None,
        })
    }

    fn skip(_: &[u8]) -> Self {
        Self::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_a_server_wrote_it() {
        let mut status = vec![0, 0, 0, 0, 0, 1];
        status.extend((1_u64 << 20 | 1 << 21).to_le_bytes());
        status.extend(b"\x06\x03std\x04");
        status.extend([28, 0, 28, 0, 255, 0]);
        status.extend(b"\x0c\x02other\0shop\0");
        status.extend([21, 1, 2, 3]);
        let session = Session::new(b"other", &status);
        assert_eq!(session.database, "other");
        assert!(session.mode.no_backslash_escapes && session.mode.strict && !session.mode.ansi_quotes);
        assert_eq!(session.written, Written::To(vec!["other".into(), "shop".into()]));
        assert!(session.may_write_to("Shop") && !session.may_write_to("shop2"));
        for status in [&b"\x0c\xfe"[..], b"", b"\x0c\x02other\0", b"\x63"] {
            assert!(Session::new(b"", status).may_write_to("shop"), "{status:?}");
        }
        assert!(!Session::new(b"", b"\x0c\x00").may_write_to("shop"));
    }
}
