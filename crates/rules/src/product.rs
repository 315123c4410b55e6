//! The rules on a product and its line, as `verify` and tests compute them.

use model::product::{Price, Product};

use crate::transform::Rules;

/// A product after the rules; its text is borrowed from the product, or from [`Capitals`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transformed<'a> {
    /// Primary key.
    pub id: i64,
    /// Name.
    pub name: Option<&'a str>,
    /// Category.
    pub category: Option<&'a str>,
    /// Price, unchanged.
    pub price: Option<Price>,
    /// The price less the category's discount, where it has one.
    pub discount_price: Option<Price>,
    /// When the shop last changed the product.
    pub last_updated: Option<model::time::Micros>,
}

/// Buffers for a product's text in capitals, reused for the next product.
#[derive(Clone, Debug, Default)]
pub struct Capitals {
    name: String,
    category: String,
}

impl Rules {
    /// Applies the rules; `None` when a filter excludes the record.
    pub fn apply<'a>(&self, product: &Product<'a>, capitals: &'a mut Capitals) -> Option<Transformed<'a>> {
        let text = |column: &str| if column == "name" { product.name } else { product.category };
        if self.drop.iter().any(|f| text(&f.column) == Some(f.equals.as_str())) {
            return None;
        }
        let capitalise = |column: &str| self.capitalise.iter().any(|c| c == column);
        let name = match product.name {
            Some(name) if capitalise("name") => Some(upper(name, &mut capitals.name)),
            name => name,
        };
        let upper_category = product.category.map(|category| upper(category, &mut capitals.category));
        let discount =
            upper_category.zip(self.discount.as_ref()).and_then(|(category, discount)| discount.percents.get(category));
        Some(Transformed {
            id: product.id,
            name,
            category: if capitalise("category") { upper_category } else { product.category },
            price: product.price,
            discount_price: discount.and_then(|d| product.price.map(|p| less(p, *d))),
            last_updated: product.last_updated,
        })
    }
}

fn upper<'a>(text: &'a str, room: &'a mut String) -> &'a str {
    if !text.bytes().any(|b| b >= 0x80 || b.is_ascii_lowercase()) {
        return text;
    }
    room.clear();
    if text.is_ascii() {
        room.push_str(text);
        room.make_ascii_uppercase();
    } else {
        room.extend(text.chars().flat_map(char::to_uppercase));
    }
    room
}

/// The price less `discount` hundredths of a percent, rounded half away from zero to hundredths.
fn less(price: Price, discount: u16) -> Price {
    // At most ten digits by five: it fits.
    let scaled = price.hundredths() * i64::from(10_000 - discount.min(10_000));
    let half = if scaled < 0 { -5_000 } else { 5_000 };
    // A discount never makes an amount larger, so it stays in range.
    Price::from_hundredths((scaled + half) / 10_000).unwrap_or(price)
}
