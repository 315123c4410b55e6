//! Random transactions of one writer on its own keys, each with rows of several tables.

use rand::Rng;
use rand::rngs::StdRng;

use super::ledger::{Kind, Planned, Row};
use super::table::{Cell, Table, Tables};
use super::token::{LANES, Token};

/// The number of ids of a writer in a table, which deletes and creates them repeatedly.
pub(crate) const IDS: usize = 3_000;
/// Rows of the largest transaction.
const LARGEST: f64 = 10_000.0;
/// Rows of the largest statement.
const STATEMENT: usize = 500;

/// The rows of one writer.
#[derive(Clone)]
pub(crate) struct Rows {
    lane: u64,
    /// By table and place.
    alive: Vec<Vec<bool>>,
}

/// A row of the writer: the table's number, and the row's place in it.
pub(crate) type Place = (usize, usize);

/// One transaction: its statements, and the changes that its commit makes.
pub(crate) struct Plan<'a> {
    pub(crate) number: u32,
    tables: &'a Tables,
    /// The statements, without BEGIN and the end.
    pub(crate) statements: Vec<String>,
    pub(crate) changes: Vec<Planned>,
    /// It ends with ROLLBACK.
    pub(crate) rollback: bool,
    /// The rows after its commit.
    pub(crate) rows: Rows,
}

/// The id of a lane's row at this place of a table.
pub(crate) fn id(lane: u64, place: usize) -> i64 {
    (place as u64 * LANES + lane) as i64
}

impl Rows {
    pub(crate) fn new(lane: u64) -> Self {
        Self { lane, alive: Vec::new() }
    }

    /// A random place of the table that is in use, or is not; `None` when there is none.
    fn pick(&self, table: usize, alive: bool, rng: &mut StdRng) -> Option<Place> {
        let start = rng.random_range(0..IDS);
        let place = (start..IDS).chain(0..start).find(|place| self.alive[table][*place] == alive);
        place.map(|place| (table, place))
    }
}

impl<'a> Plan<'a> {
    fn empty(number: u32, rows: &Rows, tables: &'a Tables) -> Self {
        let mut rows = rows.clone();
        rows.alive.resize_with(tables.len(), || vec![false; IDS]);
        Self { number, tables, statements: Vec::new(), changes: Vec::new(), rollback: false, rows }
    }

    /// Creates a random transaction.
    pub(crate) fn draw(number: u32, rows: &Rows, tables: &'a Tables, rng: &mut StdRng) -> Self {
        let mut plan = Self::empty(number, rows, tables);
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
    pub(crate) fn touch(number: u32, rows: &Rows, tables: &'a Tables, places: &[Place]) -> Self {
        let mut plan = Self::empty(number, rows, tables);
        for (row, &(table, place)) in (0..).zip(places) {
            let values = plan.set((table, place), row);
            plan.statements.push(upsert(&tables[table], &[values]));
        }
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
            // Half of the statements are about the main table.
            let table = if rng.random() { 0 } else { rng.random_range(1..self.tables.len()) };
            let rows = match rng.random_range(0..100) {
                0..15 => self.delete(table, many, first, rng),
                15..30 => self.change_key(table, first, rng),
                30..50 => self.update(table, first, rng),
                _ => self.upsert(table, many, first, rng),
            };
            left = left.saturating_sub(rows);
        }
    }

    fn add(&mut self, (table, place): Place, kind: Kind, row: u32) -> Planned {
        self.rows.alive[table][place] = kind != Kind::Delete;
        let token = Token::new(self.rows.lane, self.number, row);
        let row = Row { table, id: id(self.rows.lane, place) };
        let planned = Planned { row, kind, token, extras: self.tables[table].extras };
        self.changes.push(planned);
        planned
    }

    /// Gives the row at `place` a new state; returns its literals, key first.
    fn set(&mut self, place: Place, row: u32) -> Vec<String> {
        let kind = if self.rows.alive[place.0][place.1] { Kind::Update } else { Kind::Create };
        let Planned { row, token, extras, .. } = self.add(place, kind, row);
        let table = &self.tables[row.table];
        table.key(row.id).iter().chain(&table.cells(token, extras)).map(Cell::literal).collect()
    }

    /// Deletes the row at `place`; returns the literals of its key.
    fn clear(&mut self, place: Place, row: u32) -> Vec<String> {
        let row = self.add(place, Kind::Delete, row).row;
        self.tables[row.table].key(row.id).iter().map(Cell::literal).collect()
    }

    fn upsert(&mut self, table: usize, rows: usize, first: u32, rng: &mut StdRng) -> usize {
        let rows: Vec<_> = (0..rows).map(|n| self.set((table, rng.random_range(0..IDS)), first + n as u32)).collect();
        self.statements.push(upsert(&self.tables[table], &rows));
        rows.len()
    }

    fn update(&mut self, table: usize, first: u32, rng: &mut StdRng) -> usize {
        let Some(place) = self.rows.pick(table, true, rng) else { return self.upsert(table, 1, first, rng) };
        let values = self.set(place, first);
        let of_key = self.tables[table].key_columns().len();
        self.statements.push(update(&self.tables[table], &values[..of_key], &values));
        1
    }

    fn delete(&mut self, table: usize, rows: usize, first: u32, rng: &mut StdRng) -> usize {
        let mut keys = Vec::new();
        for n in 0..rows {
            let Some(place) = self.rows.pick(table, true, rng) else { break };
            keys.push(format!("({})", self.clear(place, first + n as u32).join(", ")));
        }
        if keys.is_empty() {
            return self.upsert(table, 1, first, rng);
        }
        let table = &self.tables[table];
        let (name, columns) = (&table.name, table.key_columns().join(", "));
        self.statements.push(format!("DELETE FROM {name} WHERE ({columns}) IN ({})", keys.join(", ")));
        keys.len()
    }

    /// Deletes the old key and creates the new one.
    fn change_key(&mut self, table: usize, first: u32, rng: &mut StdRng) -> usize {
        let (Some(old), Some(new)) = (self.rows.pick(table, true, rng), self.rows.pick(table, false, rng)) else {
            return self.upsert(table, 1, first, rng);
        };
        let old = self.clear(old, first);
        let values = self.set(new, first + 1);
        self.statements.push(update(&self.tables[table], &old, &values));
        2
    }
}

/// The columns of a table, key first.
fn columns(table: &Table) -> Vec<String> {
    table.key_columns().iter().map(|name| (*name).to_owned()).chain(table.columns()).collect()
}

/// Gives the row with this key all these values.
fn update(table: &Table, key: &[String], values: &[String]) -> String {
    let equal = |(column, value): (String, &String)| format!("{column} = {value}");
    let key: Vec<String> = columns(table).into_iter().zip(key).map(equal).collect();
    let set: Vec<String> = columns(table).into_iter().zip(values).map(equal).collect();
    format!("UPDATE {} SET {} WHERE {}", table.name, set.join(", "), key.join(" AND "))
}

fn upsert(table: &Table, rows: &[Vec<String>]) -> String {
    let rows: Vec<String> = rows.iter().map(|row| format!("({})", row.join(", "))).collect();
    let set: Vec<String> = table.columns().iter().map(|column| format!("{column} = new.{column}")).collect();
    format!(
        "INSERT INTO {} ({}) VALUES {} AS new ON DUPLICATE KEY UPDATE {}",
        table.name,
        columns(table).join(", "),
        rows.join(", "),
        set.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use rand::SeedableRng;

    use super::super::table::at_first;
    use super::*;

    #[test]
    fn the_seed_decides_and_tokens_are_never_used_twice() {
        let draw = |seed| {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut rows = Rows::new(2);
            let mut tables = at_first();
            (0..2_000)
                .map(|number| {
                    if number == 1_000 {
                        tables[1] = Arc::new(tables[1].with_column());
                        tables.push(Arc::new(Table::lines("line_2")));
                    }
                    let plan = Plan::draw(number, &rows, &tables, &mut rng);
                    rows = plan.rows.clone();
                    (plan.statements, plan.changes)
                })
                .collect::<Vec<_>>()
        };
        let plans = draw(1);
        assert!(plans == draw(1) && plans != draw(2));
        let mut alive = HashSet::new();
        let mut tokens = HashSet::new();
        for Planned { row, kind, token, .. } in plans.iter().flat_map(|(_, changes)| changes) {
            assert_eq!(row.id as u64 % LANES, 2);
            assert!(tokens.insert(*token));
            assert_eq!(*kind != Kind::Create, alive.contains(row));
            if *kind == Kind::Delete {
                alive.remove(row)
            } else {
                alive.insert(*row)
            };
        }
        let sizes: Vec<usize> = plans.iter().map(|(_, changes)| changes.len()).collect();
        assert!(sizes.iter().any(|s| *s > 400) && sizes.iter().filter(|s| **s < 5).count() > 1_000);
        let several =
            |changes: &[Planned]| changes.iter().map(|planned| planned.row.table).collect::<HashSet<_>>().len();
        assert!(plans.iter().filter(|(_, changes)| several(changes) > 1).count() > 200);
        assert!(plans[..1_000].iter().all(|(_, changes)| several(changes) < 3));
        let texts: String = plans.iter().flat_map(|(statements, _)| statements.clone()).collect();
        for part in ["SAVEPOINT", "DELETE", "SET id", "SET order_no", "NULL", "🚀", "x'", "extra_1", "line_2"] {
            assert!(texts.contains(part), "{part}");
        }
    }
}
