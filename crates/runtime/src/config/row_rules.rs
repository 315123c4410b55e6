//! The rules of `rules.*` and the form of the log's lines.

use rules::line::LineForm;
use rules::transform::{Discount, Filter, Rules};

use super::settings::Settings;
use super::yaml::Node;
use model::error::Result;

/// The form of a log's lines: `consumer.line`.
pub fn line_form(settings: &Settings) -> LineForm {
    match settings.text("consumer.line") {
        "nested" => LineForm::Nested,
        _ => LineForm::Flat,
    }
}

/// The rules of `rules.*`. Whether a table has the columns that they name is seen with the table's schema.
///
/// # Errors
/// Usage for a list or map of another form, or a discount that is not from 0 to 100 with at most two decimals.
pub fn rules(settings: &Settings) -> Result<Rules> {
    let mut rules = Rules { discount: discount(settings)?, ..Rules::default() };
    for item in settings.list("rules.capitalise")? {
        let Node::Scalar(column) = item else {
            return Err(settings.wrong("rules.capitalise", "is not a list of column names, e.g. [category]"));
        };
        rules.capitalise.push(column);
    }
    for item in settings.list("rules.drop")? {
        const WANTED: &str = "is not a list of filters, e.g. [{field: category, equals: TEST}]";
        let Node::Map(entries) = item else { return Err(settings.wrong("rules.drop", WANTED)) };
        let get = |key: &str| entries.iter().find(|e| e.key == key).map(|e| &e.node);
        match (get("field"), get("equals"), entries.len()) {
            (Some(Node::Scalar(column)), Some(Node::Scalar(equals)), 2) => {
                rules.drop.push(Filter { column: column.clone(), equals: equals.clone() });
            }
            _ => return Err(settings.wrong("rules.drop", WANTED)),
        }
    }
    Ok(rules)
}

/// The discounted amount; `None` when `rules.discount` is empty.
fn discount(settings: &Settings) -> Result<Option<Discount>> {
    const WANTED: &str = "is not a map of three columns, e.g. {from: price, by: category, column: discount_price}";
    let mut percents = std::collections::BTreeMap::new();
    for (text, percent) in settings.map("rules.discounts")? {
        let hundredths = percent_hundredths(&percent).ok_or_else(|| {
            let reason = "a discount is a percentage from 0 to 100 with at most two decimals";
            settings.wrong("rules.discounts", &format!("gives {text} {percent:?}; {reason}"))
        })?;
        percents.insert(text.to_uppercase(), hundredths);
    }
    let map = settings.map("rules.discount")?;
    if map.is_empty() {
        return Ok(None);
    }
    let get = |key: &str| map.iter().find(|(found, _)| found == key).map(|(_, column)| column.clone());
    match (get("from"), get("by"), get("column"), map.len()) {
        (Some(from), Some(by), Some(column), 3) => Ok(Some(Discount { from, by, column, percents })),
        _ => Err(settings.wrong("rules.discount", WANTED)),
    }
}

/// `12.5` → 1250.
fn percent_hundredths(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |t: &str, most: usize| (1..=most).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole, 3) || !digits(decimals, 2) {
        return None;
    }
    let hundredths = whole.parse::<u16>().ok()? * 100 + format!("{decimals:0<2}").parse::<u16>().ok()?;
    (hundredths <= 10_000).then_some(hundredths)
}
