//! Identifies the change that made a row; the row's columns follow from it (`table.rs`).

/// The number of lanes: a writer owns the ids whose remainder is its number; the last number is that of the probes.
pub(crate) const LANES: u64 = 5;
/// The lane of the probes.
pub(crate) const PROBES: u64 = LANES - 1;

/// Identifies the change that made a row: the writer's lane, its transaction, the row within it. Ordered like a lane's
/// changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Token(u64);

/// Numbers that follow from a token. Any distribution of the bits is good enough.
pub(crate) struct Draws(u64);

impl Token {
    /// The change number `row` of transaction `transaction`.
    pub(crate) fn new(lane: u64, transaction: u32, row: u32) -> Self {
        Self(lane << 56 | u64::from(transaction) << 24 | u64::from(row))
    }

    /// Lane and transaction.
    pub(crate) fn transaction(self) -> u64 {
        self.0 >> 24
    }

    /// The prefix of the row's first column behind the key.
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

    /// The numbers that decide about the row's columns.
    pub(crate) fn draws(self) -> Draws {
        Draws(self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

impl Draws {
    /// The next number below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = (self.0 ^ self.0 >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (self.0 >> 16) % n
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_from_its_text_and_keeps_the_order() {
        let tokens = [Token::new(3, 1, 9), Token::new(3, 2, 0), Token::new(3, 2, 1), Token::new(3, u32::MAX, 9_999)];
        assert!(tokens.is_sorted());
        for token in tokens {
            assert_eq!(Token::of_name(&format!("{} mug", token.text())), Some(token));
        }
        assert_eq!(Token::of_name("mug"), None);
    }
}
