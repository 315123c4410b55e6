//! Random transactions of one writer on its own keys.

use rand::Rng;
use rand::rngs::StdRng;

use super::ledger::Kind;
use super::token::{LANES, Token};

/// The number of ids of a writer, which deletes and creates them repeatedly.
const IDS: usize = 3_000;
/// Rows of the largest transaction.
const LARGEST: f64 = 10_000.0;
/// Rows of the largest statement.
const STATEMENT: usize = 500;

/// The rows of one writer.
#[derive(Clone)]
pub(crate) struct Rows {
    lane: u64,
    alive: Vec<bool>,
}

/// One transaction: its statements, and the changes that its commit makes.
pub(crate) struct Plan {
    pub(crate) number: u32,
    /// The statements, without BEGIN and the end.
    pub(crate) statements: Vec<String>,
    pub(crate) changes: Vec<(i64, Kind, Token)>,
    /// It ends with ROLLBACK.
    pub(crate) rollback: bool,
    /// The rows after its commit.
    pub(crate) rows: Rows,
}

impl Rows {
    pub(crate) fn new(lane: u64) -> Self {
        Self { lane, alive: vec![false; IDS] }
    }

    fn id(&self, place: usize) -> i64 {
        (place as u64 * LANES + self.lane) as i64
    }

    /// A random place that is in use, or is not; `None` when there is none.
    fn pick(&self, alive: bool, rng: &mut StdRng) -> Option<usize> {
        let start = rng.random_range(0..IDS);
        (start..IDS).chain(0..start).find(|place| self.alive[*place] == alive)
    }
}

impl Plan {
    fn empty(number: u32, rows: &Rows) -> Self {
        Self { number, statements: Vec::new(), changes: Vec::new(), rollback: false, rows: rows.clone() }
    }

    /// Creates a random transaction.
    pub(crate) fn draw(number: u32, rows: &Rows, rng: &mut StdRng) -> Self {
        let mut plan = Self::empty(number, rows);
        // One row is as likely as all larger sizes together, and so on: a few transactions are very large.
        let size = (1.0 / rng.random_range(1.0 / LARGEST..1.0)) as usize;
        plan.fill(size, rng);
        if rng.random_ratio(1, 20) {
            let (changes, rows) = (plan.changes.len(), plan.rows.clone());
            plan.statements.push("SAVEPOINT part".to_owned());
            plan.fill(size.min(100), rng);
            plan.statements.push("ROLLBACK TO SAVEPOINT part".to_owned());
            plan.changes.truncate(changes);
            plan.rows = rows;
            // The numbers of rolled-back rows are not used again.
            plan.fill_numbered(1, 0x80_0000, rng);
        }
        plan.rollback = rng.random_ratio(1, 25);
        plan
    }

    /// A transaction that changes each of these places.
    pub(crate) fn touch(number: u32, rows: &Rows, places: impl IntoIterator<Item = usize>) -> Self {
        let mut plan = Self::empty(number, rows);
        let rows: Vec<_> = places.into_iter().enumerate().map(|(row, place)| plan.set(place, row as u32)).collect();
        plan.statements.push(upsert(&rows));
        plan
    }

    fn fill(&mut self, size: usize, rng: &mut StdRng) {
        self.fill_numbered(size, 0, rng);
    }

    fn fill_numbered(&mut self, size: usize, base: usize, rng: &mut StdRng) {
        let mut left = size;
        while left > 0 {
            let first = (base + self.changes.len()) as u32;
            let many = rng.random_range(1..=left.min(STATEMENT));
            let rows = match rng.random_range(0..100) {
                0..15 => self.delete(many, first, rng),
                15..30 => self.change_key(first, rng),
                30..50 => self.update(first, rng),
                _ => self.upsert(many, first, rng),
            };
            left = left.saturating_sub(rows);
        }
    }

    /// Gives the row at `place` a new state; returns its literals.
    fn set(&mut self, place: usize, row: u32) -> [String; 5] {
        let token = Token::new(self.rows.lane, self.number, row);
        let id = self.rows.id(place);
        let kind = if self.rows.alive[place] { Kind::Update } else { Kind::Create };
        self.rows.alive[place] = true;
        self.changes.push((id, kind, token));
        token.state().literals(id)
    }

    fn clear(&mut self, place: usize, row: u32) -> i64 {
        let id = self.rows.id(place);
        self.rows.alive[place] = false;
        self.changes.push((id, Kind::Delete, Token::new(self.rows.lane, self.number, row)));
        id
    }

    fn upsert(&mut self, rows: usize, first: u32, rng: &mut StdRng) -> usize {
        let rows: Vec<_> = (0..rows).map(|n| self.set(rng.random_range(0..IDS), first + n as u32)).collect();
        self.statements.push(upsert(&rows));
        rows.len()
    }

    fn update(&mut self, first: u32, rng: &mut StdRng) -> usize {
        let Some(place) = self.rows.pick(true, rng) else { return self.upsert(1, first, rng) };
        let [id, name, category, price, time] = self.set(place, first);
        self.statements.push(format!(
            "UPDATE product SET name = {name}, category = {category}, price = {price}, last_updated = {time} \
             WHERE id = {id}"
        ));
        1
    }

    fn delete(&mut self, rows: usize, first: u32, rng: &mut StdRng) -> usize {
        let mut ids = Vec::new();
        for n in 0..rows {
            let Some(place) = self.rows.pick(true, rng) else { break };
            ids.push(self.clear(place, first + n as u32).to_string());
        }
        if ids.is_empty() {
            return self.upsert(1, first, rng);
        }
        self.statements.push(format!("DELETE FROM product WHERE id IN ({})", ids.join(", ")));
        ids.len()
    }

    /// Deletes the old key and creates the new one.
    fn change_key(&mut self, first: u32, rng: &mut StdRng) -> usize {
        let (Some(old), Some(new)) = (self.rows.pick(true, rng), self.rows.pick(false, rng)) else {
            return self.upsert(1, first, rng);
        };
        let old = self.clear(old, first);
        let [id, name, category, price, time] = self.set(new, first + 1);
        self.statements.push(format!(
            "UPDATE product SET id = {id}, name = {name}, category = {category}, price = {price}, \
             last_updated = {time} WHERE id = {old}"
        ));
        2
    }
}

fn upsert(rows: &[[String; 5]]) -> String {
    let rows: Vec<String> = rows.iter().map(|row| format!("({})", row.join(", "))).collect();
    format!(
        "INSERT INTO product (id, name, category, price, last_updated) VALUES {} AS new ON DUPLICATE KEY UPDATE \
         name = new.name, category = new.category, price = new.price, last_updated = new.last_updated",
        rows.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::SeedableRng;

    use super::*;

    #[test]
    fn the_seed_decides_and_tokens_are_never_used_twice() {
        let draw = |seed| {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut rows = Rows::new(2);
            (0..2_000)
                .map(|number| {
                    let plan = Plan::draw(number, &rows, &mut rng);
                    rows = plan.rows.clone();
                    (plan.statements, plan.changes)
                })
                .collect::<Vec<_>>()
        };
        let plans = draw(1);
        assert!(plans == draw(1) && plans != draw(2));
        let mut alive = HashSet::new();
        let mut tokens = HashSet::new();
        for (id, kind, token) in plans.iter().flat_map(|(_, changes)| changes) {
            assert_eq!(*id as u64 % LANES, 2);
            assert!(tokens.insert(*token));
            assert_eq!(*kind != Kind::Create, alive.contains(id));
            if *kind == Kind::Delete {
                alive.remove(id)
            } else {
                alive.insert(*id)
            };
        }
        let sizes: Vec<usize> = plans.iter().map(|(_, changes)| changes.len()).collect();
        assert!(sizes.iter().any(|s| *s > 400) && sizes.iter().filter(|s| **s < 5).count() > 1_000);
        let texts: String = plans.iter().flat_map(|(statements, _)| statements.clone()).collect();
        for part in ["SAVEPOINT", "DELETE", "SET id", "NULL", "🚀"] {
            assert!(texts.contains(part), "{part}");
        }
    }
}
