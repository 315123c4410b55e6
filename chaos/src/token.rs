//! The columns of a row of the load: all of them follow from a token, so a reader of the row can tell which change made
//! it and whether every column is right.

use model::time::Micros;
use testbed::{Price, Product};

/// The number of lanes: a writer owns the ids whose remainder is its number; the last number is that of the probes.
pub(crate) const LANES: u64 = 5;
/// The lane of the probes.
pub(crate) const PROBES: u64 = LANES - 1;

/// Identifies the change that made a row: the writer's lane, its transaction, the row within it. Ordered like a lane's
/// changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Token(u64);

const NAMES: [&str; 6] =
    ["", " mug", " großer Schrank 'nº 1'", " 日本語 🚀", " \"quoted\", back\\slash", " tab\tand line\nbreak"];
const CATEGORIES: [Option<&str>; 7] =
    [None, Some("CAT_5"), Some("CAT_1"), Some(""), Some("straße"), Some("ǆ ﬁ ß"), Some("cat_5")];

/// The columns of a row without its id.
pub(crate) struct State {
    pub(crate) name: String,
    pub(crate) category: Option<&'static str>,
    pub(crate) price: Option<Price>,
    pub(crate) last_updated: Option<Micros>,
}

impl Token {
    /// The change number `row` of transaction `transaction`.
    pub(crate) fn new(lane: u64, transaction: u32, row: u32) -> Self {
        Self(lane << 56 | u64::from(transaction) << 24 | u64::from(row))
    }

    /// The prefix of a row's name.
    pub(crate) fn text(self) -> String {
        format!("<{}-{}-{}>", self.0 >> 56, self.0 >> 24 & 0xffff_ffff, self.0 & 0xff_ffff)
    }

    /// The token of a row with this name.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        let (token, _) = name.strip_prefix('<')?.split_once('>')?;
        let mut numbers = token.split('-').map(|n| n.parse::<u64>().ok());
        let (lane, transaction, row) = (numbers.next()??, numbers.next()??, numbers.next()??);
        Some(Self::new(lane, transaction.try_into().ok()?, row.try_into().ok()?))
    }

    /// The row that this change leaves.
    pub(crate) fn state(self) -> State {
        // Any distribution of the bits is good enough.
        let mut bits = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut draw = |n: u64| {
            bits = (bits ^ bits >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (bits >> 16) % n
        };
        let name = format!("{}{}", self.text(), NAMES[draw(NAMES.len() as u64) as usize]);
        let category = CATEGORIES[draw(CATEGORIES.len() as u64) as usize];
        let price = match draw(8) {
            0 => None,
            1 => Price::from_hundredths(Price::MAX),
            2 => Price::from_hundredths(-(draw(100_000) as i64)),
            _ => Price::from_hundredths(draw(1_000_000) as i64),
        };
        let last_updated = (draw(8) > 0).then(|| Micros(1_600_000_000_000_000 + draw(400_000_000_000_000) as i64));
        State { name, category, price, last_updated }
    }
}

impl State {
    /// The row as a list of SQL literals: id, name, category, price, last_updated.
    pub(crate) fn literals(&self, id: i64) -> [String; 5] {
        let text = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"));
        let null = || "NULL".to_owned();
        let time = |t: Micros| text(t.to_string().replace('T', " ").trim_end_matches('Z'));
        [
            id.to_string(),
            text(&self.name),
            self.category.map_or_else(null, text),
            self.price.map_or_else(null, |p| p.to_string()),
            self.last_updated.map_or_else(null, time),
        ]
    }

    /// Whether a record's value is this row.
    pub(crate) fn is(&self, product: &Product<'_>) -> bool {
        product.name == Some(self.name.as_str())
            && product.category == self.category
            && product.price == self.price
            && product.last_updated == self.last_updated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_from_the_name_and_keeps_the_order() {
        let tokens = [Token::new(3, 1, 9), Token::new(3, 2, 0), Token::new(3, 2, 1), Token::new(3, u32::MAX, 9_999)];
        assert!(tokens.is_sorted());
        for token in tokens {
            assert_eq!(Token::of_name(&token.state().name), Some(token));
        }
        assert_eq!(Token::of_name("mug"), None);
    }
}
