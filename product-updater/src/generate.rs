//! Random changes: the same seed on the same table gives the same changes, apart from their times.

use model::error::{Error, Result};
use model::time::Micros;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::amount::Amount;
use crate::change::{Change, Place, Row};

const ADJECTIVES: [&str; 12] =
    ["blue", "folding", "wooden", "silent", "spare", "großer", "petit", "warm", "steel", "tiny", "plain", "new"];
const THINGS: [&str; 12] =
    ["mug", "lamp", "desk", "cable", "Schrank", "café set", "kettle", "chair", "rug", "clock", "shelf", "bag"];
/// Categories are `CAT_1` to this one.
const CATEGORIES: u32 = 20;

/// The content of the table before the first random change.
#[derive(Debug)]
pub(crate) struct Stock {
    pub(crate) ids: Vec<i32>,
    /// The highest id that was ever deleted.
    pub(crate) highest: i32,
    /// The latest `last_updated`.
    pub(crate) latest: Micros,
}

/// Shares in percent; the rest are inserts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    pub(crate) updates: u64,
    pub(crate) deletes: u64,
}

/// An endless source of changes; each one builds on the previous ones.
pub(crate) struct Generator {
    rng: StdRng,
    mix: Mix,
    ids: Vec<i32>,
    next_id: i32,
    clock: Micros,
}

impl Generator {
    pub(crate) fn new(seed: u64, mix: Mix, stock: Stock) -> Self {
        let highest = stock.ids.iter().copied().max().unwrap_or(0).max(stock.highest).max(0);
        let next_id = highest.saturating_add(1);
        Self { rng: StdRng::seed_from_u64(seed), mix, ids: stock.ids, next_id, clock: stock.latest }
    }

    /// The next change; its time is `now`, or the previous change's time plus 1 µs if that is later.
    ///
    /// # Errors
    /// Definite when the ids are used up.
    pub(crate) fn next(&mut self, now: Micros) -> Result<Change> {
        self.clock = Micros(now.0.max(self.clock.0 + 1));
        let at = self.clock;
        let draw = self.rng.random_range(0..100);
        if draw < self.mix.deletes && !self.ids.is_empty() {
            let place = self.rng.random_range(0..self.ids.len());
            return Ok(Change { id: self.ids.swap_remove(place), at, row: None, place: Place::default() });
        }
        if draw < self.mix.deletes + self.mix.updates && !self.ids.is_empty() {
            // The smaller of two draws: some products change more often than others, as in a real shop.
            let place = self.rng.random_range(0..self.ids.len()).min(self.rng.random_range(0..self.ids.len()));
            return Ok(Change { id: self.ids[place], at, row: Some(self.row()?), place: Place::default() });
        }
        let id = self.next_id;
        self.next_id = id.checked_add(1).ok_or_else(|| {
            Error::definite("the ids of INT are used up").with_remedy("begin with an empty table, or fewer inserts")
        })?;
        self.ids.push(id);
        Ok(Change { id, at, row: Some(self.row()?), place: Place::default() })
    }

    fn row(&mut self) -> Result<Row> {
        let [adjective, thing] = [ADJECTIVES, THINGS].map(|words| words[self.rng.random_range(0..words.len())]);
        let name = format!("{adjective} {thing} {}", self.rng.random_range(1..10_000));
        let category = format!("CAT_{}", self.rng.random_range(1..=CATEGORIES));
        let price = Amount::from_hundredths(self.rng.random_range(1..1_000_000));
        let price = price.ok_or_else(|| Error::definite("a random price is out of range"))?;
        Ok(Row { name, category, price })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_decides_and_the_mix_is_kept() {
        let stock = || Stock { ids: vec![3, 9], highest: 20, latest: Micros(50) };
        let make = |seed| {
            let mut generator = Generator::new(seed, Mix { updates: 50, deletes: 10 }, stock());
            (0..10_000).map(|_| generator.next(Micros(7)).expect("ids enough")).collect::<Vec<_>>()
        };
        let changes = make(1);
        assert_eq!(changes, make(1));
        assert_ne!(changes, make(2));
        assert!(changes.windows(2).all(|pair| pair[0].at < pair[1].at) && changes[0].at > Micros(50));
        let deletes = changes.iter().filter(|c| c.row.is_none()).count();
        assert!((900..1100).contains(&deletes), "{deletes}");
        let mut alive: std::collections::HashSet<i32> = stock().ids.into_iter().collect();
        let mut inserts = 0;
        for change in &changes {
            match &change.row {
                Some(_) if alive.insert(change.id) => {
                    assert!(change.id > 20);
                    inserts += 1;
                }
                Some(_) => {}
                None => assert!(alive.remove(&change.id), "only what is there is deleted"),
            }
        }
        assert!((3800..4200).contains(&inserts), "{inserts}");
    }
}
