//! What a consumer does to each record: capitals, discounts, filters.
//!
//! Pure: a product goes in, the transformed one comes out. `verify` applies the same rules to check the result.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::record::{Price, Product};

/// A text column that a rule may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextField {
    /// `name`
    Name,
    /// `category`
    Category,
}

/// Leaves out the records whose field has exactly this text (before capitals).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The field that is compared.
    pub field: TextField,
    /// What it must equal.
    pub equals: String,
}

/// The configured rules; [`Rules::default`] capitalises the category and takes 20 % off `CAT_5`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The fields that are put in capitals.
    pub capitalise: Vec<TextField>,
    /// Category in capitals → discount in hundredths of a percent (2000 is 20 %), 0 to 10,000.
    pub discounts: BTreeMap<String, u16>,
    /// Records that are left out of logs and of PostgreSQL.
    pub drop: Vec<Filter>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            capitalise: vec![TextField::Category],
            discounts: BTreeMap::from([("CAT_5".to_owned(), 2000)]),
            drop: Vec::new(),
        }
    }
}

/// A product after the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transformed<'a> {
    /// Primary key.
    pub id: i64,
    /// Name.
    pub name: Option<Cow<'a, str>>,
    /// Category.
    pub category: Option<Cow<'a, str>>,
    /// Price, unchanged.
    pub price: Option<Price>,
    /// The price less the category's discount, where it has one.
    pub discount_price: Option<Price>,
    /// When the shop last touched the product.
    pub last_updated: Option<crate::record::Micros>,
}

impl Rules {
    /// Applies the rules; `None` when a filter leaves the record out.
    pub fn apply<'a>(&self, product: &Product<'a>) -> Option<Transformed<'a>> {
        let text = |field| match field {
            TextField::Name => product.name,
            TextField::Category => product.category,
        };
        if self.drop.iter().any(|f| text(f.field) == Some(f.equals.as_str())) {
            return None;
        }
        let capitals = |field| {
            let text = text(field)?;
            Some(if self.capitalise.contains(&field) { upper(text) } else { Cow::Borrowed(text) })
        };
        let discount = product.category.and_then(|c| self.discounts.get(upper(c).as_ref()));
        Some(Transformed {
            id: product.id,
            name: capitals(TextField::Name),
            category: capitals(TextField::Category),
            price: product.price,
            discount_price: discount.and_then(|d| product.price.map(|p| less(p, *d))),
            last_updated: product.last_updated,
        })
    }
}

fn upper(text: &str) -> Cow<'_, str> {
    if text.chars().any(|c| !c.is_ascii() || c.is_ascii_lowercase()) {
        Cow::Owned(text.to_uppercase())
    } else {
        Cow::Borrowed(text)
    }
}

/// The price less `discount` hundredths of a percent, rounded half away from zero to hundredths.
fn less(price: Price, discount: u16) -> Price {
    let scaled = i128::from(price.hundredths()) * i128::from(10_000 - discount.min(10_000));
    let half = if scaled < 0 { -5_000 } else { 5_000 };
    let rounded = (scaled + half) / 10_000;
    // A discount never makes an amount larger, so it stays in range.
    i64::try_from(rounded).ok().and_then(Price::from_hundredths).unwrap_or(price)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product<'a>(category: &'a str, hundredths: i64) -> Product<'a> {
        Product {
            id: 1,
            name: Some("mug"),
            category: Some(category),
            price: Price::from_hundredths(hundredths),
            last_updated: None,
        }
    }

    #[test]
    fn cat_5_gets_a_fifth_off_rounded_half_away_from_zero() {
        for (price, want) in [
            (1000, Some(800)),
            (1, Some(1)),   // 0.008
            (2, Some(2)),   // 0.016
            (3, Some(2)),   // 0.024
            (-3, Some(-2)), // -0.024
            (0, Some(0)),
            (Price::MAX, Some(7_999_999_999)),
        ] {
            let got = Rules::default().apply(&product("cat_5", price)).and_then(|t| t.discount_price);
            assert_eq!(got.map(Price::hundredths), want, "{price}");
        }
        let exact_half = Rules { discounts: BTreeMap::from([("X".to_owned(), 5000)]), ..Rules::default() };
        for (price, want) in [(5, 3), (-5, -3), (3, 2), (-3, -2)] {
            let got = exact_half.apply(&product("x", price)).and_then(|t| t.discount_price);
            assert_eq!(got.map(Price::hundredths), Some(want), "{price}");
        }
    }

    #[test]
    fn others_are_only_capitalised() {
        let got = Rules::default().apply(&product("Straße", 999));
        let got = got.as_ref().map(|t| (t.category.as_deref(), t.name.as_deref(), t.discount_price));
        assert_eq!(got, Some((Some("STRASSE"), Some("mug"), None)));
    }

    #[test]
    fn a_filter_leaves_out_what_equals() {
        let rules =
            Rules { drop: vec![Filter { field: TextField::Category, equals: "test".to_owned() }], ..Rules::default() };
        assert_eq!(rules.apply(&product("test", 1)), None);
        assert!(rules.apply(&product("TEST", 1)).is_some());
    }
}
