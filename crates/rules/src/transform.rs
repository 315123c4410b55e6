//! The rules that a consumer applies to each row: filters, capitals, and a column with a discounted amount.
//!
//! Rules name columns. [`Transform`] has their places in the records of one schema. Pure.

use std::collections::BTreeMap;

use model::row::Datum;
use model::schema::{FieldType, RecordSchema};

/// The configured rules of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Columns that are put in capitals.
    pub capitalise: Vec<String>,
    /// The column with a discounted amount.
    pub discount: Option<Discount>,
    /// Filters of records that neither the logs nor PostgreSQL get.
    pub drop: Vec<Filter>,
}

/// Adds a column: an amount less the discount of its row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discount {
    /// The column with the amount, a decimal; the new column follows it and has its type.
    pub from: String,
    /// The text column that has the row's discount, in capitals.
    pub by: String,
    /// Name of the new column; it is null where the row has no discount.
    pub column: String,
    /// By text in capitals, the discount in hundredths of a percent (2000 is 20 %), 0 to 10,000.
    pub percents: BTreeMap<String, u16>,
}

/// Excludes the records whose column has exactly this text (before capitals).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The column that is compared.
    pub column: String,
    /// The text that excludes a record.
    pub equals: String,
}

/// A rule that does not fit the records of a schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} names the column {column}, {reason}")]
pub struct RuleError {
    /// The setting with the rule.
    pub setting: &'static str,
    /// The column that it names.
    pub column: String,
    /// Why the rule can't use the column.
    pub reason: String,
}

impl RuleError {
    /// An imperative sentence.
    pub fn remedy(&self) -> String {
        format!("correct {}, or give the table the column {} as the rule needs it", self.setting, self.column)
    }
}

/// A column of a transformed row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name in the table.
    pub name: String,
    /// The type of its values.
    pub kind: FieldType,
}

/// The rules by places in the records of one schema.
#[derive(Clone, Debug)]
pub struct Transform {
    columns: Vec<Column>,
    key: Vec<usize>,
    key_before: Vec<usize>,
    drop: Vec<(usize, String)>,
    capitalise: Vec<usize>,
    discount: Option<Placed>,
}

/// A discount by places.
#[derive(Clone, Debug)]
struct Placed {
    from: usize,
    by: usize,
    percents: BTreeMap<String, u16>,
}

/// Buffers for a row's text in capitals, reused for the next row.
#[derive(Clone, Debug, Default)]
pub struct Capitals(Vec<String>);

/// The largest precision of an amount whose discount is computed with 128 bits.
const MOST_DIGITS: u32 = 18;

impl Rules {
    /// Finds the columns that the rules name.
    ///
    /// # Errors
    /// When the schema does not have a column, or a column has a type that the rule does not take.
    pub fn compile(&self, schema: &RecordSchema) -> Result<Transform, RuleError> {
        let find = |setting, column: &str, wanted: &str, takes: fn(FieldType) -> bool| {
            let fault = |reason: String| RuleError { setting, column: column.to_owned(), reason };
            let place = schema.fields.iter().position(|field| field.column == column);
            let place = place.ok_or_else(|| fault(format!("which the records of {} do not have", schema.name)))?;
            let kind = schema.fields[place].kind;
            if takes(kind) { Ok(place) } else { Err(fault(format!("which is {kind} and must be {wanted}"))) }
        };
        let is_text = |kind| kind == FieldType::Text;
        let mut capitalise = Vec::new();
        for column in &self.capitalise {
            let place = find("rules.capitalise", column, "a string", is_text)?;
            if schema.key.contains(&place) {
                let reason = "which is a part of the primary key".to_owned();
                return Err(RuleError { setting: "rules.capitalise", column: column.clone(), reason });
            }
            capitalise.push(place);
        }
        let drop = self
            .drop
            .iter()
            .map(|filter| Ok((find("rules.drop", &filter.column, "a string", is_text)?, filter.equals.clone())));
        let drop = drop.collect::<Result<_, _>>()?;
        let mut columns: Vec<Column> =
            schema.fields.iter().map(|field| Column { name: field.column.clone(), kind: field.kind }).collect();
        let mut key = schema.key.clone();
        let discount = match &self.discount {
            None => None,
            Some(discount) => {
                let takes = |kind| matches!(kind, FieldType::Decimal { precision, .. } if precision <= MOST_DIGITS);
                let from = find("rules.discount", &discount.from, "a decimal of at most 18 digits", takes)?;
                let by = find("rules.discount", &discount.by, "a string", is_text)?;
                if columns.iter().any(|column| column.name == discount.column) {
                    let (column, reason) = (discount.column.clone(), "which the table has already".to_owned());
                    return Err(RuleError { setting: "rules.discount", column, reason });
                }
                columns.insert(from + 1, Column { name: discount.column.clone(), kind: columns[from].kind });
                key.iter_mut().filter(|place| **place > from).for_each(|place| *place += 1);
                Some(Placed { from, by, percents: discount.percents.clone() })
            }
        };
        Ok(Transform { columns, key, key_before: schema.key.clone(), drop, capitalise, discount })
    }
}

impl Transform {
    /// The columns of a transformed row.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The places of the primary key's columns among [`Transform::columns`], in the order of the key.
    pub fn key(&self) -> &[usize] {
        &self.key
    }

    /// The places of the primary key's columns in a row before the rules, in the order of the key.
    pub fn key_before(&self) -> &[usize] {
        &self.key_before
    }

    /// Applies the rules to a row in the order of the schema's fields, which then has the values of
    /// [`Transform::columns`]; `false` when a filter excludes the record.
    #[inline]
    pub fn apply<'a>(&self, row: &mut Vec<Datum<'a>>, capitals: &'a mut Capitals) -> bool {
        if self.drop.iter().any(|(place, equals)| row[*place] == Datum::Text(equals)) {
            return false;
        }
        capitals.0.resize_with(self.capitalise.len() + 1, String::new);
        let mut buffers = capitals.0.iter_mut();
        for (place, buffer) in self.capitalise.iter().zip(&mut buffers) {
            if let Datum::Text(text) = row[*place] {
                row[*place] = Datum::Text(upper(text, buffer));
            }
        }
        if let (Some(discount), Some(buffer)) = (&self.discount, buffers.next()) {
            row.insert(discount.from + 1, discount.amount(row, buffer));
        }
        true
    }
}

impl Placed {
    #[inline]
    fn amount(&self, row: &[Datum<'_>], buffer: &mut String) -> Datum<'static> {
        let (Datum::Decimal { unscaled, scale }, Datum::Text(text)) = (row[self.from], row[self.by]) else {
            return Datum::Null;
        };
        match self.percents.get(upper(text, buffer)) {
            Some(percent) => Datum::Decimal { unscaled: less(unscaled, *percent), scale },
            None => Datum::Null,
        }
    }
}

fn upper<'a>(text: &'a str, buffer: &'a mut String) -> &'a str {
    if !text.bytes().any(|b| b >= 0x80 || b.is_ascii_lowercase()) {
        return text;
    }
    buffer.clear();
    if text.is_ascii() {
        buffer.push_str(text);
        buffer.make_ascii_uppercase();
    } else {
        buffer.extend(text.chars().flat_map(char::to_uppercase));
    }
    buffer
}

/// The amount less `discount` hundredths of a percent, rounded half away from zero to its last place.
fn less(amount: i64, discount: u16) -> i64 {
    let kept = 10_000 - discount.min(10_000);
    let half = if amount < 0 { -5_000 } else { 5_000 };
    // A discount never makes an amount larger, so the result fits as the amount did.
    match amount.checked_mul(i64::from(kept)).and_then(|scaled| scaled.checked_add(half)) {
        Some(scaled) => scaled / 10_000,
        None => ((i128::from(amount) * i128::from(kept) + i128::from(half)) / 10_000) as i64,
    }
}

#[cfg(test)]
mod tests;
