//! The rules on a product and its line in a log, computed apart from the consumer's code.

use std::fmt::Write as _;

use model::time::Micros;
use rules::line::Origin;
use rules::transform::Rules;
use testbed::{Price, Product};

/// A product after the rules.
pub struct Transformed {
    /// Primary key.
    pub id: i64,
    /// Name.
    pub name: Option<String>,
    /// Category.
    pub category: Option<String>,
    /// Price, unchanged.
    pub price: Option<Price>,
    /// The price less the category's discount, where it has one.
    pub discount_price: Option<Price>,
    /// When the shop last changed the product.
    pub last_updated: Option<Micros>,
}

/// Applies the rules; `None` when a filter excludes the record.
pub fn transform(rules: &Rules, product: &Product<'_>) -> Option<Transformed> {
    let text = |column: &str| if column == "name" { product.name } else { product.category };
    if rules.drop.iter().any(|filter| text(&filter.column) == Some(&filter.equals)) {
        return None;
    }
    let shown = |column: &str| {
        let is_upper = rules.capitalise.iter().any(|c| c == column);
        text(column).map(|text| if is_upper { text.to_uppercase() } else { text.to_owned() })
    };
    let percents = product.category.zip(rules.discount.as_ref());
    let percent = percents.and_then(|(category, discount)| discount.percents.get(&category.to_uppercase()));
    Some(Transformed {
        id: product.id,
        name: shown("name"),
        category: shown("category"),
        price: product.price,
        discount_price: product.price.zip(percent).and_then(|(price, percent)| less(price, *percent)),
        last_updated: product.last_updated,
    })
}

/// The price less `discount` hundredths of a percent, rounded half away from zero to hundredths.
fn less(price: Price, discount: u16) -> Option<Price> {
    let scaled = price.hundredths() * i64::from(10_000 - discount.min(10_000));
    let half = if scaled < 0 { -5_000 } else { 5_000 };
    Price::from_hundredths((scaled + half) / 10_000)
}

/// The line of a product, with its newline.
pub fn line(product: &Transformed, origin: Origin) -> String {
    let mut line = format!("{{\"id\":{}", product.id);
    let texts = [("name", &product.name), ("category", &product.category)];
    let texts = texts.map(|(key, text)| (key, serde_json::json!(text).to_string()));
    let prices = [("price", product.price), ("discount_price", product.discount_price)];
    let prices = prices.map(|(key, price)| (key, price.map_or("null".to_owned(), |price| price.to_string())));
    let time = product.last_updated.map_or("null".to_owned(), |time| format!("\"{time}\""));
    for (key, value) in texts.into_iter().chain(prices).chain([("last_updated", time)]) {
        write!(line, ",\"{key}\":{value}").expect("to write to memory");
    }
    let Origin { op, partition, offset, source_ts } = origin;
    let op = op.letter();
    line + &format!(",\"op\":\"{op}\",\"partition\":{partition},\"offset\":{offset},\"source_ts\":\"{source_ts}\"}}\n")
}

/// The line of a deleted product, with its newline.
pub fn delete_line(id: i64, origin: Origin) -> String {
    let none = Transformed { id, name: None, category: None, price: None, discount_price: None, last_updated: None };
    line(&none, origin)
}
