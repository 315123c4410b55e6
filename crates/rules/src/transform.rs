//! The rules that a consumer applies to each record: capitals, discounts, filters.
//!
//! Pure: a product goes in, the transformed one comes out. `verify` applies the same rules to check the result.

use std::collections::BTreeMap;

use model::product::{Price, Product};

/// A text column that a rule may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextField {
    /// `name`
    Name,
    /// `category`
    Category,
}

/// Excludes the records whose field has exactly this text (before capitals).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The field that is compared.
    pub field: TextField,
    /// The text that excludes a record.
    pub equals: String,
}

/// The configured rules; [`Rules::default`] capitalises the category and takes 20 % off `CAT_5`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The fields that are put in capitals.
    pub capitalise: Vec<TextField>,
    /// Category in capitals → discount in hundredths of a percent (2000 is 20 %), 0 to 10,000.
    pub discounts: BTreeMap<String, u16>,
    /// Filters of records that neither the logs nor PostgreSQL get.
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
        let text = |field| match field {
            TextField::Name => product.name,
            TextField::Category => product.category,
        };
        if self.drop.iter().any(|f| text(f.field) == Some(f.equals.as_str())) {
            return None;
        }
        let capitalise = |field| self.capitalise.contains(&field);
        let name = match product.name {
            Some(name) if capitalise(TextField::Name) => Some(upper(name, &mut capitals.name)),
            name => name,
        };
        let upper_category = product.category.map(|category| upper(category, &mut capitals.category));
        let discount = upper_category.and_then(|category| self.discounts.get(category));
        Some(Transformed {
            id: product.id,
            name,
            category: if capitalise(TextField::Category) { upper_category } else { product.category },
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
            let mut capitals = Capitals::default();
            let got = Rules::default().apply(&product("cat_5", price), &mut capitals).and_then(|t| t.discount_price);
            assert_eq!(got.map(Price::hundredths), want, "{price}");
        }
        let exact_half = Rules { discounts: BTreeMap::from([("X".to_owned(), 5000)]), ..Rules::default() };
        for (price, want) in [(5, 3), (-5, -3), (3, 2), (-3, -2)] {
            let mut capitals = Capitals::default();
            let got = exact_half.apply(&product("x", price), &mut capitals).and_then(|t| t.discount_price);
            assert_eq!(got.map(Price::hundredths), Some(want), "{price}");
        }
    }

    #[test]
    fn others_are_only_capitalised() {
        let mut capitals = Capitals::default();
        for (category, want) in [("Straße", "STRASSE"), ("CAT_1", "CAT_1"), ("ὀδός", "ὈΔΌΣ"), ("cat_2", "CAT_2")]
        {
            assert_eq!(category.to_uppercase(), want);
            let got = Rules::default().apply(&product(category, 999), &mut capitals);
            let got = got.map(|t| (t.category, t.name, t.discount_price));
            assert_eq!(got, Some((Some(want), Some("mug"), None)));
        }
        let all = Rules { capitalise: vec![TextField::Name], ..Rules::default() };
        let got = all.apply(&product("cat_5", 1000), &mut capitals).map(|t| (t.category, t.name, t.discount_price));
        assert_eq!(got, Some((Some("cat_5"), Some("MUG"), Price::from_hundredths(800))));
    }

    #[test]
    fn a_filter_leaves_out_what_equals() {
        let rules =
            Rules { drop: vec![Filter { field: TextField::Category, equals: "test".to_owned() }], ..Rules::default() };
        assert_eq!(rules.apply(&product("test", 1), &mut Capitals::default()), None);
        assert!(rules.apply(&product("TEST", 1), &mut Capitals::default()).is_some());
    }
}
