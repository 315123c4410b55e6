//! How the columns of a table are stored, from a table map event with `binlog_row_metadata=FULL`.

use super::{
    charset::Charset,
    cursor::Cursor,
    decimal,
    error::{DecodeError, Fault},
    metadata::{Metadata, bit},
    temporal::fraction_len,
};

const CONVERT: &str = "convert the column to utf8mb4 (ALTER TABLE … MODIFY … CHARACTER SET utf8mb4)";
const LEAVE_OUT: &str = "change the column's type, or leave the column out of what is read";

/// A table as its table map event describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableLayout {
    /// The number by which rows events refer to this layout.
    pub table_id: u64,
    /// The database's name.
    pub database: String,
    /// The table's name.
    pub table: String,
    /// In the table's order.
    pub columns: Vec<Column>,
    /// Empty where the table has none.
    pub primary_key: Vec<KeyColumn>,
    body: Box<[u8]>,
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The column's name.
    pub name: String,
    /// What its values are.
    pub kind: ColumnKind,
    /// Whether it may hold NULL.
    pub nullable: bool,
    /// False for an INVISIBLE column, which `SELECT *` leaves out.
    pub visible: bool,
    pub(super) storage: Storage,
}

/// A column of a primary key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyColumn {
    /// Its index in [`TableLayout::columns`].
    pub column: usize,
    /// Length of the indexed prefix in characters; None when the whole column is indexed.
    pub prefix: Option<u64>,
}

/// The type of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "MySQL's names; what is not is documented")]
pub enum ColumnKind {
    /// TINYINT to BIGINT.
    Int {
        bytes: u8,
        unsigned: bool,
    },
    Float,
    Double,
    Decimal {
        precision: u8,
        scale: u8,
    },
    /// CHAR, VARCHAR and the TEXT types.
    Text {
        charset: Charset,
        /// The longest value in bytes of its charset.
        max_bytes: u64,
    },
    /// VARBINARY and the BLOB types.
    Bytes {
        max_bytes: u64,
    },
    /// BINARY(length), at most 255.
    Binary {
        length: u16,
    },
    Date,
    Time {
        fsp: u8,
    },
    DateTime {
        fsp: u8,
    },
    Timestamp {
        fsp: u8,
    },
    /// TIME in a table made before MySQL 5.6.
    OldTime,
    /// DATETIME in a table made before MySQL 5.6.
    OldDateTime,
    /// TIMESTAMP in a table made before MySQL 5.6.
    OldTimestamp,
    Year,
    Enum {
        labels: Vec<String>,
    },
    Set {
        labels: Vec<String>,
    },
    Bit {
        width: u8,
    },
    Json,
    Geometry {
        /// As in well-known binary; 0 is any.
        geometry_type: u64,
    },
    Vector {
        dimensions: Option<u64>,
    },
    /// Its values can be skipped but not decoded.
    Unsupported {
        /// The type or charset.
        reason: String,
        /// How to go on.
        remedy: &'static str,
    },
}

/// How many bytes a value takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Storage {
    Fixed(u16),
    /// So many bytes of length, little-endian, stand before the value.
    Prefixed(u8),
}

/// Which columns of a table to decode, and in which order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projection {
    /// For each column of the table its place among the values.
    pub(super) slots: Vec<Option<usize>>,
    /// The columns' indexes, by place.
    columns: Vec<usize>,
}

impl Projection {
    /// For each value its column's index in [`TableLayout::columns`].
    pub fn columns(&self) -> &[usize] {
        &self.columns
    }
}

impl KeyColumn {
    pub(super) fn new(column: u64, prefix: u64) -> Self {
        Self { column: usize::try_from(column).unwrap_or(usize::MAX), prefix: (prefix > 0).then_some(prefix) }
    }
}

impl TableLayout {
    /// Table id, database and table of a table map event, from its body without the checksum (`Event::data`): enough to
    /// tell whether the table is wanted at all.
    pub fn name_of(body: &[u8]) -> Result<(u64, &str, &str), DecodeError> {
        let mut cursor = Cursor::new(body);
        parse_name(&mut cursor).map_err(|fault| damaged(body, cursor, fault))
    }

    /// Reads a table map event's body without the checksum (`Event::data`).
    ///
    /// # Errors
    /// [`DecodeError::NoColumnNames`] without `binlog_row_metadata=FULL`, [`DecodeError::Damaged`]. A column that can't
    /// be decoded is an error only for a projection that wants it.
    pub fn parse(body: &[u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(body);
        let head = parse_head(&mut cursor).map_err(|fault| damaged(body, cursor, fault))?;
        let metadata = Metadata::parse(cursor).map_err(|fault| damaged(body, cursor, fault))?;
        if metadata.names.is_empty() && !head.types.is_empty() {
            return Err(DecodeError::NoColumnNames { table: format!("{}.{}", head.database, head.table) });
        }
        let columns = columns(&head, &metadata).map_err(|fault| damaged(body, cursor, fault))?;
        if metadata.primary_key.iter().any(|key| key.column >= columns.len()) {
            return Err(damaged(body, cursor, Fault("a key column that the table does not have")));
        }
        Ok(Self {
            table_id: head.table_id,
            database: head.database.to_owned(),
            table: head.table.to_owned(),
            columns,
            primary_key: metadata.primary_key,
            body: body.into(),
        })
    }

    /// Whether this layout was read from the same bytes, and so need not be read again.
    pub fn is_of(&self, body: &[u8]) -> bool {
        *self.body == *body
    }

    /// `database.table`
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.database, self.table)
    }

    /// The projection to the columns of these names (letter case is MySQL's: it does not matter), in this order.
    ///
    /// # Errors
    /// [`DecodeError::NoSuchColumn`], [`DecodeError::Unsupported`].
    pub fn project(&self, names: &[&str]) -> Result<Projection, DecodeError> {
        let find = |name: &&str| {
            let wanted = name.to_lowercase();
            let same = |column: &Column| column.name.to_lowercase() == wanted;
            self.columns.iter().position(same).ok_or_else(|| DecodeError::NoSuchColumn {
                table: self.full_name(),
                column: (*name).to_owned(),
                columns: self.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", "),
            })
        };
        self.projection(names.iter().map(find).collect::<Result<_, _>>()?)
    }

    /// The projection to all columns.
    ///
    /// # Errors
    /// [`DecodeError::Unsupported`].
    pub fn project_all(&self) -> Result<Projection, DecodeError> {
        self.projection((0..self.columns.len()).collect())
    }

    fn projection(&self, columns: Vec<usize>) -> Result<Projection, DecodeError> {
        let mut slots = vec![None; self.columns.len()];
        for (slot, index) in columns.iter().enumerate() {
            let column = &self.columns[*index];
            if let ColumnKind::Unsupported { reason, remedy } = &column.kind {
                return Err(DecodeError::Unsupported {
                    table: self.full_name(),
                    column: column.name.clone(),
                    reason: reason.clone(),
                    remedy,
                });
            }
            slots[*index] = Some(slot);
        }
        Ok(Projection { slots, columns })
    }
}

fn damaged(body: &[u8], cursor: Cursor<'_>, Fault(reason): Fault) -> DecodeError {
    let mut name = Cursor::new(body);
    let object = match parse_name(&mut name) {
        Ok((_, database, table)) => format!("table map of {database}.{table}"),
        Err(_) => "table map".to_owned(),
    };
    DecodeError::Damaged { object, reason, at: body.len() - cursor.len() }
}

/// The part of a table map event that is always there.
struct Head<'a> {
    table_id: u64,
    database: &'a str,
    table: &'a str,
    types: &'a [u8],
    type_metadata: &'a [u8],
    nullable: &'a [u8],
}

fn parse_name<'a>(body: &mut Cursor<'a>) -> Result<(u64, &'a str, &'a str), Fault> {
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

fn parse_head<'a>(body: &mut Cursor<'a>) -> Result<Head<'a>, Fault> {
    let (table_id, database, table) = parse_name(body)?;
    let types = body.lenenc_bytes()?;
    let type_metadata = body.lenenc_bytes()?;
    let nullable = body.take(types.len().div_ceil(8))?;
    Ok(Head { table_id, database, table, types, type_metadata, nullable })
}

/// Hands out the parts of the metadata that stand there once for each column of a group.
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

fn columns(head: &Head<'_>, metadata: &Metadata<'_>) -> Result<Vec<Column>, Fault> {
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
            // MariaDB's compressed columns, which are text columns to its metadata.
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
            // Without its length no column behind it can be found.
            20 => return Err(Fault("a column of type 20 (array), which is not decoded")),
            _ => return Err(Fault("a column of unknown type")),
        })
    }

    /// The next numeric column's sign. FLOAT, DOUBLE, DECIMAL and YEAR have one as well, without effect on their form.
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

    /// MYSQL_TYPE_STRING, which is CHAR, BINARY, ENUM and SET: its first byte of metadata says which, and lends two bits
    /// to the length.
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
