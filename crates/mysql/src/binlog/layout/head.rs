//! The mandatory part of a table map event.

use super::super::{cursor::Cursor, error::Fault};

/// What every table map event has: the table's name, and the types of its columns.
pub(super) struct Head<'a> {
    pub(super) table_id: u64,
    pub(super) database: &'a str,
    pub(super) table: &'a str,
    pub(super) types: &'a [u8],
    pub(super) type_metadata: &'a [u8],
    pub(super) nullable: &'a [u8],
}

pub(super) fn parse_name<'a>(body: &mut Cursor<'a>) -> Result<(u64, &'a str, &'a str), Fault> {
    let table_id = body.uint_le(6)?;
    body.take(2)?; // flags
    let mut name = || {
        let name = body.prefixed(1)?;
        match body.u8()? {
            0 => std::str::from_utf8(name).map_err(|_| Fault("a name that is not UTF-8")),
            _ => Err(Fault("a name that does not end")),
        }
    };
    Ok((table_id, name()?, name()?))
}

pub(super) fn parse_head<'a>(body: &mut Cursor<'a>) -> Result<Head<'a>, Fault> {
    let (table_id, database, table) = parse_name(body)?;
    let types = body.lenenc_bytes()?;
    let type_metadata = body.lenenc_bytes()?;
    let nullable = body.take(types.len().div_ceil(8))?;
    Ok(Head { table_id, database, table, types, type_metadata, nullable })
}
