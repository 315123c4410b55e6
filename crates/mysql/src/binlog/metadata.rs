//! The optional metadata of a table map event (`rows_event.h`, `Table_map_event::Optional_metadata_field_type`).

use super::{column::KeyColumn, cursor::Cursor, error::Fault};

/// The fields of the metadata, not yet matched with their columns.
#[derive(Debug, Default)]
pub(super) struct Metadata<'a> {
    /// One bit a numeric column, highest first; set is unsigned.
    pub(super) signedness: Option<&'a [u8]>,
    /// Collations of the text columns.
    pub(super) collations: Collations,
    /// Collations of the ENUM and SET columns.
    pub(super) label_collations: Collations,
    pub(super) names: Vec<&'a [u8]>,
    /// The labels of each ENUM column.
    pub(super) enum_labels: Vec<Vec<&'a [u8]>>,
    /// The labels of each SET column.
    pub(super) set_labels: Vec<Vec<&'a [u8]>>,
    pub(super) geometry_types: Vec<u64>,
    pub(super) dimensions: Vec<u64>,
    pub(super) primary_key: Vec<KeyColumn>,
    /// One bit a column, highest first.
    pub(super) visibility: Option<&'a [u8]>,
}

/// Collations of a group of columns, by their index in that group.
#[derive(Debug, Default)]
pub(super) enum Collations {
    #[default]
    Absent,
    /// The default, and the exceptions by column.
    Default {
        collation: u64,
        exceptions: Vec<(u64, u64)>,
    },
    Each(Vec<u64>),
}

impl Collations {
    pub(super) fn get(&self, place: usize) -> Option<u64> {
        match self {
            Self::Absent => None,
            Self::Default { collation, exceptions } => {
                let exception = exceptions.iter().find(|(at, _)| *at == place as u64);
                Some(exception.map_or(*collation, |(_, collation)| *collation))
            }
            Self::Each(collations) => collations.get(place).copied(),
        }
    }

    fn with_default(mut field: Cursor<'_>) -> Result<Self, Fault> {
        let collation = field.lenenc()?;
        let exceptions = pairs(field)?;
        Ok(Self::Default { collation, exceptions })
    }
}

impl<'a> Metadata<'a> {
    pub(super) fn parse(mut bytes: Cursor<'a>) -> Result<Self, Fault> {
        let mut metadata = Self::default();
        while !bytes.is_empty() {
            let kind = bytes.u8()?;
            let field = bytes.lenenc_bytes()?;
            let values = Cursor::new(field);
            match kind {
                1 => metadata.signedness = Some(field),
                2 => metadata.collations = Collations::with_default(values)?,
                3 => metadata.collations = Collations::Each(numbers(values)?),
                4 => metadata.names = strings(values)?,
                5 => metadata.set_labels = labels(values)?,
                6 => metadata.enum_labels = labels(values)?,
                7 => metadata.geometry_types = numbers(values)?,
                8 => {
                    let columns = numbers(values)?.into_iter();
                    metadata.primary_key = columns.map(|column| KeyColumn::new(column, 0)).collect();
                }
                9 => {
                    let columns = pairs(values)?.into_iter();
                    metadata.primary_key = columns.map(|(column, prefix)| KeyColumn::new(column, prefix)).collect();
                }
                10 => metadata.label_collations = Collations::with_default(values)?,
                11 => metadata.label_collations = Collations::Each(numbers(values)?),
                12 => metadata.visibility = Some(field),
                13 => metadata.dimensions = numbers(values)?,
                _ => {} // a newer server's field, which may be left unread: it can't change how values are stored
            }
        }
        Ok(metadata)
    }
}

/// Whether the bit at index `place` is set, counted from each byte's highest; None past the end.
pub(super) fn bit(bytes: &[u8], place: usize) -> Option<bool> {
    bytes.get(place / 8).map(|byte| byte << (place % 8) & 0x80 != 0)
}

fn numbers(mut field: Cursor<'_>) -> Result<Vec<u64>, Fault> {
    let mut numbers = Vec::new();
    while !field.is_empty() {
        numbers.push(field.lenenc()?);
    }
    Ok(numbers)
}

fn pairs(mut field: Cursor<'_>) -> Result<Vec<(u64, u64)>, Fault> {
    let mut pairs = Vec::new();
    while !field.is_empty() {
        pairs.push((field.lenenc()?, field.lenenc()?));
    }
    Ok(pairs)
}

fn strings<'a>(mut field: Cursor<'a>) -> Result<Vec<&'a [u8]>, Fault> {
    let mut strings = Vec::new();
    while !field.is_empty() {
        strings.push(field.lenenc_bytes()?);
    }
    Ok(strings)
}

fn labels<'a>(mut field: Cursor<'a>) -> Result<Vec<Vec<&'a [u8]>>, Fault> {
    let mut columns = Vec::new();
    while !field.is_empty() {
        let count = field.lenenc()?;
        columns.push((0..count).map(|_| field.lenenc_bytes()).collect::<Result<_, _>>()?);
    }
    Ok(columns)
}
