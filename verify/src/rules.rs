//! The consumers' rules, applied to canonical texts: a second implementation, so that the consumer is not checked by its
//! own code.

use std::collections::BTreeMap;

use model::error::Result;
use model::schema::FieldType;
use runtime::config::{self, Settings};

use crate::canonical::with_point;

/// The rules of a table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    /// Columns in capitals.
    capitalise: Vec<String>,
    /// A row is left out if one of these columns has exactly this text, before capitals.
    drop: Vec<(String, String)>,
    discount: Option<Discount>,
}

/// A derived column: an amount less a percentage that depends on the text of another column.
#[derive(Clone, Debug)]
struct Discount {
    column: String,
    from: String,
    by: String,
    /// Text in capitals → hundredths of a percent.
    percent: BTreeMap<String, u16>,
}

/// The rules of the settings.
///
/// # Errors
/// As [`config::rules`].
pub(crate) fn of(settings: &Settings) -> Result<Rules> {
    let found = config::rules(settings)?;
    let discount = found.discount.map(|d| Discount { column: d.column, from: d.from, by: d.by, percent: d.percents });
    let drop = found.drop.into_iter().map(|filter| (filter.column, filter.equals)).collect();
    Ok(Rules { capitalise: found.capitalise, drop, discount })
}

/// A column of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: FieldType,
}

/// The rules for rows of certain columns.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The columns after the rules.
    pub(crate) columns: Vec<Column>,
    capitalise: Vec<usize>,
    drop: Vec<(usize, String)>,
    discount: Option<(usize, usize, u32, BTreeMap<String, u16>)>,
}

impl Plan {
    /// A derived column follows the one that it is computed from.
    pub(crate) fn new(rules: &Rules, mut columns: Vec<Column>) -> Self {
        let place = |columns: &[Column], name: &str| columns.iter().position(|c| c.name.eq_ignore_ascii_case(name));
        let capitalise = rules.capitalise.iter().filter_map(|name| place(&columns, name)).collect();
        let drop = rules.drop.iter().filter_map(|(name, text)| Some((place(&columns, name)?, text.clone()))).collect();
        let discount = rules.discount.as_ref().and_then(|discount| {
            let (from, by) = (place(&columns, &discount.from)?, place(&columns, &discount.by)?);
            let FieldType::Decimal { scale, .. } = columns[from].kind else { return None };
            let derived = Column { name: discount.column.clone(), kind: columns[from].kind };
            columns.insert(from + 1, derived);
            Some((from, by, scale, discount.percent.clone()))
        });
        Self { columns, capitalise, drop, discount }
    }

    /// The row after the rules; `None` when a rule leaves it out.
    pub(crate) fn apply(&self, row: &[Option<String>]) -> Option<Vec<Option<String>>> {
        if self.drop.iter().any(|(i, text)| row[*i].as_ref() == Some(text)) {
            return None;
        }
        let mut after = row.to_vec();
        for i in &self.capitalise {
            after[*i] = row[*i].as_ref().map(|text| text.to_uppercase());
        }
        if let Some((from, by, scale, percent)) = &self.discount {
            let percent = row[*by].as_ref().and_then(|text| percent.get(&text.to_uppercase()));
            let derived = percent.zip(row[*from].as_ref()).map(|(percent, amount)| less(amount, *percent, *scale));
            after.insert(from + 1, derived);
        }
        Some(after)
    }
}

/// A decimal less hundredths of a percent, rounded half away from zero to its scale.
fn less(amount: &str, percent: u16, scale: u32) -> String {
    let (sign, digits) = amount.strip_prefix('-').map_or(("", amount), |digits| ("-", digits));
    let mut carry = 0;
    let mut product = Vec::new();
    for digit in digits.bytes().rev().filter(u8::is_ascii_digit) {
        carry += u32::from(digit - b'0') * u32::from(10_000 - percent.min(10_000));
        product.push((carry % 10) as u8);
        carry /= 10;
    }
    while carry > 0 {
        product.push((carry % 10) as u8);
        carry /= 10;
    }
    product.resize(product.len().max(5), 0);
    // The lowest four digits are dropped.
    let mut up = product[3] >= 5;
    let mut kept = product.split_off(4);
    for digit in &mut kept {
        *digit += u8::from(up);
        up = *digit == 10;
        *digit %= 10;
    }
    if up {
        kept.push(1);
    }
    let text: String = kept.iter().rev().map(|digit| char::from(b'0' + digit)).collect();
    let text = text.trim_start_matches('0');
    with_point(if text.is_empty() { "" } else { sign }, text, scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let discount = Discount {
            column: "less".to_owned(),
            from: "amount".to_owned(),
            by: "kind".to_owned(),
            percent: BTreeMap::from([("X".to_owned(), 2000), ("HALF".to_owned(), 5000)]),
        };
        let rules = Rules {
            capitalise: vec!["KIND".to_owned()],
            drop: vec![("kind".to_owned(), "test".to_owned())],
            discount: Some(discount),
        };
        let column = |name: &str, kind| Column { name: name.to_owned(), kind };
        let amount = FieldType::Decimal { precision: 10, scale: 2 };
        Plan::new(&rules, vec![column("amount", amount), column("kind", FieldType::Text)])
    }

    #[test]
    fn an_amount_is_reduced_and_rounded_half_away_from_zero() {
        for (amount, kind, want) in [
            ("10.00", "x", Some("8.00")),
            ("0.01", "x", Some("0.01")),
            ("0.03", "x", Some("0.02")),
            ("-0.03", "x", Some("-0.02")),
            ("0.00", "x", Some("0.00")),
            ("99999999.99", "x", Some("79999999.99")),
            ("0.05", "half", Some("0.03")),
            ("-0.05", "half", Some("-0.03")),
            ("19.99", "half", Some("10.00")),
            ("-0.03", "half", Some("-0.02")),
            ("1.00", "other", None),
        ] {
            let row = [Some(amount.to_owned()), Some(kind.to_owned())];
            let after = plan().apply(&row).expect("a row that is kept");
            assert_eq!(after[1].as_deref(), want, "{amount} {kind}");
            assert_eq!(after[2].as_deref(), Some(kind.to_uppercase().as_str()));
        }
    }

    #[test]
    fn a_row_is_left_out_by_its_text_before_capitals() {
        assert_eq!(plan().apply(&[None, Some("test".to_owned())]), None);
        assert!(plan().apply(&[None, Some("TEST".to_owned())]).is_some());
        assert_eq!(plan().apply(&[None, None]), Some(vec![None, None, None]));
        let names: Vec<String> = plan().columns.into_iter().map(|column| column.name).collect();
        assert_eq!(names, ["amount", "less", "kind"]);
    }
}
