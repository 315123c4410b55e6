//! Values that a column does not hold, as far as it is known without asking PostgreSQL.

use model::schema::FieldType;

use super::layout::Layout;
use super::store_error::StoreError;
use crate::sql_value::Fields;

/// Known limits of the columns below those of their fields, in the order of the layout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits(pub(super) Vec<(String, Limit)>);

/// A limit of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// The most characters.
    Characters(i32),
    /// It would alter values, for this reason.
    Unfit(String),
}

impl Limits {
    /// Whether a row must be compared with a limit before it is sent.
    pub(super) fn any(&self) -> bool {
        !self.0.is_empty()
    }

    /// The reason why the table can't hold the row, if it can be seen here: a column of another type, a character that
    /// PostgreSQL can't store, or a text that is too long, from which PostgreSQL would silently cut trailing blanks.
    pub(super) fn refusal(&self, layout: &Layout, row: Fields<'_>) -> Option<StoreError> {
        layout.columns.iter().zip(row).find_map(|(column, value)| {
            let refusal = |sqlstate: &str, reason| {
                Some(StoreError { sqlstate: sqlstate.to_owned(), column: Some(column.name.clone()), reason })
            };
            let limit = self.0.iter().find(|(name, _)| *name == column.name).map(|(_, limit)| limit);
            if let Some(Limit::Unfit(reason)) = limit {
                return refusal("42804", format!("the column {reason}"));
            }
            let text = std::str::from_utf8(value?)
                .ok()
                .filter(|_| matches!(column.kind, FieldType::Text | FieldType::Json))?;
            if text.contains('\0') {
                return refusal("22021", "the text has a NUL character, which PostgreSQL can't hold".to_owned());
            }
            let Some(Limit::Characters(limit)) = limit else { return None };
            let limit = usize::try_from(*limit).ok()?;
            // A text has at most as many characters as bytes.
            if text.len() <= limit {
                return None;
            }
            let length = text.chars().count();
            let reason = format!("the text has {length} characters, the column takes {limit}");
            if length > limit { refusal("22001", reason) } else { None }
        })
    }
}
