//! The columns of a table map event: their types and metadata.

use super::super::{
    charset::Charset,
    column::{Column, ColumnKind, Storage},
    cursor::Cursor,
    decimal,
    error::Fault,
    metadata::{Metadata, bit},
    temporal::fraction_len,
};
use super::head::Head;

const CONVERT: &str = "convert the column to utf8mb4 (ALTER TABLE … MODIFY … CHARACTER SET utf8mb4)";
const LEAVE_OUT: &str = "change the column's type, or leave the column out of what is read";

/// Positions in the parts of the metadata that have one entry for each column of a group.
struct Groups<'m, 'a> {
    metadata: &'m Metadata<'a>,
    numeric: usize,
    text: usize,
    labelled: usize,
    enums: usize,
    sets: usize,
    geometries: usize,
    vectors: usize,
}

/// All columns, in the order of the table.
pub(super) fn columns(head: &Head<'_>, metadata: &Metadata<'_>) -> Result<Vec<Column>, Fault> {
    if metadata.names.len() != head.types.len() {
        return Err(Fault("not as many names as columns"));
    }
    let mut types = Cursor::new(head.type_metadata);
    let mut groups =
        Groups { metadata, numeric: 0, text: 0, labelled: 0, enums: 0, sets: 0, geometries: 0, vectors: 0 };
    let mut columns = Vec::with_capacity(head.types.len());
    for (index, (column_type, name)) in head.types.iter().zip(&metadata.names).enumerate() {
        let (kind, storage) = groups.column(*column_type, &mut types)?;
        columns.push(Column {
            name: String::from_utf8(name.to_vec()).map_err(|_| Fault("a column name that is not UTF-8"))?,
            kind,
            nullable: head.nullable[index / 8] >> (index % 8) & 1 == 1,
            visible: metadata.visibility.is_none_or(|bits| bit(bits, index).unwrap_or(true)),
            storage,
        });
    }
    if !types.is_empty() {
        return Err(Fault("more type metadata than columns"));
    }
    Ok(columns)
}

impl Groups<'_, '_> {
    /// The type codes are those of `enum_field_types` (`field_types.h`).
    fn column(&mut self, column_type: u8, types: &mut Cursor<'_>) -> Result<(ColumnKind, Storage), Fault> {
        use Storage::{Fixed, Prefixed};
        Ok(match column_type {
            1 => self.int(1)?,
            2 => self.int(2)?,
            9 => self.int(3)?,
            3 => self.int(4)?,
            8 => self.int(8)?,
            4 => {
                types.u8()?;
                self.unsigned()?;
                (ColumnKind::Float, Fixed(4))
            }
            5 => {
                types.u8()?;
                self.unsigned()?;
                (ColumnKind::Double, Fixed(8))
            }
            13 => {
                self.unsigned()?;
                (ColumnKind::Year, Fixed(1))
            }
            246 => {
                let (precision, scale) = (types.u8()?, types.u8()?);
                if !decimal::valid(precision, scale) {
                    return Err(Fault("a DECIMAL of impossible size"));
                }
                self.unsigned()?;
                (ColumnKind::Decimal { precision, scale }, Fixed(decimal::storage_len(precision, scale) as u16))
            }
            10 | 14 => (ColumnKind::Date, Fixed(3)),
            11 => (ColumnKind::OldTime, Fixed(3)),
            12 => (ColumnKind::OldDateTime, Fixed(8)),
            7 => (ColumnKind::OldTimestamp, Fixed(4)),
            17 => temporal(4, types, |fsp| ColumnKind::Timestamp { fsp })?,
            18 => temporal(5, types, |fsp| ColumnKind::DateTime { fsp })?,
            19 => temporal(3, types, |fsp| ColumnKind::Time { fsp })?,
            15 | 253 => {
                let max_bytes = types.u16()?;
                (self.text(u64::from(max_bytes))?, Prefixed(if max_bytes > 255 { 2 } else { 1 }))
            }
            247 | 248 | 254 => self.string(types)?,
            249..=252 => {
                let length_bytes = length_bytes(types)?;
                let max_bytes = (1_u64 << (8 * length_bytes)) - 1;
                (self.text(max_bytes)?, Prefixed(length_bytes))
            }
            16 => {
                let (bits, bytes) = (types.u8()?, types.u8()?);
                let width = u16::from(bytes) * 8 + u16::from(bits);
                if bits > 7 || !(1..=64).contains(&width) {
                    return Err(Fault("a BIT of impossible width"));
                }
                (ColumnKind::Bit { width: width as u8 }, Fixed(width.div_ceil(8)))
            }
            245 => (ColumnKind::Json, Prefixed(length_bytes(types)?)),
            255 => {
                let geometry_type = next(&self.metadata.geometry_types, &mut self.geometries).unwrap_or(0);
                (ColumnKind::Geometry { geometry_type }, Prefixed(length_bytes(types)?))
            }
            242 => {
                let dimensions = next(&self.metadata.dimensions, &mut self.vectors);
                (ColumnKind::Vector { dimensions }, Prefixed(length_bytes(types)?))
            }
            // MariaDB's compressed columns; the metadata treats them as text columns.
            140 => {
                self.text += 1;
                (unsupported("it is a compressed BLOB or TEXT", LEAVE_OUT), Prefixed(length_bytes(types)?))
            }
            141 => {
                self.text += 1;
                let max_bytes = types.u16()?;
                let storage = Prefixed(if max_bytes > 255 { 2 } else { 1 });
                (unsupported("it is a compressed VARCHAR", LEAVE_OUT), storage)
            }
            // Without its length no later column can be located.
            20 => return Err(Fault("a column of type 20 (array), which is not decoded")),
            _ => return Err(Fault("a column of unknown type")),
        })
    }

    /// The next numeric column's sign. FLOAT, DOUBLE, DECIMAL and YEAR have one as well, which does not change their
    /// form.
    fn unsigned(&mut self) -> Result<bool, Fault> {
        let bits = self.metadata.signedness.ok_or(Fault("no signs for numeric columns"))?;
        let unsigned = bit(bits, self.numeric).ok_or(Fault("not as many signs as numeric columns"))?;
        self.numeric += 1;
        Ok(unsigned)
    }

    fn int(&mut self, bytes: u8) -> Result<(ColumnKind, Storage), Fault> {
        let unsigned = self.unsigned()?;
        Ok((ColumnKind::Int { bytes, unsigned }, Storage::Fixed(u16::from(bytes))))
    }

    fn text(&mut self, max_bytes: u64) -> Result<ColumnKind, Fault> {
        let collation = self.metadata.collations.get(self.text).ok_or(Fault("not as many charsets as text columns"))?;
        self.text += 1;
        Ok(match Charset::of_collation(collation) {
            Ok(Charset::Binary) => ColumnKind::Bytes { max_bytes },
            Ok(charset) => ColumnKind::Text { charset, max_bytes },
            Err(name) => unsupported_charset(name, collation),
        })
    }

    /// MYSQL_TYPE_STRING, which is CHAR, BINARY, ENUM or SET: its first byte of metadata has the real type, and two
    /// bits of the length.
    fn string(&mut self, types: &mut Cursor<'_>) -> Result<(ColumnKind, Storage), Fault> {
        let (real_type, length) = (types.u8()?, types.u8()?);
        let pack_length = u16::from(length);
        match real_type {
            247 if matches!(length, 1 | 2) => {
                let labels = next(&self.metadata.enum_labels, &mut self.enums);
                Ok((self.labelled(labels, |labels| ColumnKind::Enum { labels })?, Storage::Fixed(pack_length)))
            }
            248 if matches!(length, 1..=4 | 8) => {
                let labels = next(&self.metadata.set_labels, &mut self.sets);
                Ok((self.labelled(labels, |labels| ColumnKind::Set { labels })?, Storage::Fixed(pack_length)))
            }
            247 | 248 => Err(Fault("an ENUM or SET of impossible size")),
            _ if real_type | 0x30 == 254 => {
                let length = pack_length | (u16::from(real_type & 0x30) ^ 0x30) << 4;
                let kind = match self.text(u64::from(length))? {
                    ColumnKind::Bytes { .. } => ColumnKind::Binary { length },
                    text => text,
                };
                Ok((kind, Storage::Prefixed(if length > 255 { 2 } else { 1 })))
            }
            _ => Err(Fault("a string column of unknown type")),
        }
    }

    fn labelled(
        &mut self,
        labels: Option<Vec<&[u8]>>,
        kind: impl FnOnce(Vec<String>) -> ColumnKind,
    ) -> Result<ColumnKind, Fault> {
        let labels = labels.ok_or(Fault("an ENUM or SET without labels"))?;
        let collation = self.metadata.label_collations.get(self.labelled);
        let collation = collation.ok_or(Fault("not as many charsets as ENUM and SET columns"))?;
        self.labelled += 1;
        Ok(match Charset::of_collation(collation) {
            Ok(charset) => {
                let decode = |label| charset.decode(label).map(String::from);
                match labels.into_iter().map(decode).collect::<Result<_, _>>() {
                    Ok(labels) => kind(labels),
                    Err(Fault(reason)) => unsupported(&format!("one of its labels holds {reason}"), LEAVE_OUT),
                }
            }
            Err(name) => unsupported_charset(name, collation),
        })
    }
}

fn next<T: Clone>(values: &[T], place: &mut usize) -> Option<T> {
    let value = values.get(*place).cloned();
    *place += 1;
    value
}

fn temporal(
    whole: u16,
    types: &mut Cursor<'_>,
    kind: impl FnOnce(u8) -> ColumnKind,
) -> Result<(ColumnKind, Storage), Fault> {
    match types.u8()? {
        fsp @ 0..=6 => Ok((kind(fsp), Storage::Fixed(whole + fraction_len(fsp) as u16))),
        _ => Err(Fault("more than 6 places after the seconds")),
    }
}

fn length_bytes(types: &mut Cursor<'_>) -> Result<u8, Fault> {
    match types.u8()? {
        bytes @ 1..=4 => Ok(bytes),
        _ => Err(Fault("a length of impossible size")),
    }
}

fn unsupported(reason: &str, remedy: &'static str) -> ColumnKind {
    ColumnKind::Unsupported { reason: reason.to_owned(), remedy }
}

fn unsupported_charset(name: &str, collation: u64) -> ColumnKind {
    unsupported(&format!("its charset is {name} (collation {collation}), which is not converted"), CONVERT)
}
