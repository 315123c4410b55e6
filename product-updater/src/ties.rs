//! Rows of the same product with the same time: the last one wins.
//!
//! For rows that this run wrote, the order of writing decides. A state with the same time from before the run may come
//! from a later row of the same data, applied by an earlier run; earlier rows must not replace it. Only in that case,
//! when data is applied again after a correction, the files are read as a whole.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use model::error::{Error, Result};
use model::time::Micros;

use crate::change::Change;
use crate::csv_file::{CsvFile, Line};
use crate::product_format::ProductFormat;

/// Product → its last time in the data, and the number of the last change with this time.
type Last = HashMap<i32, (Micros, u64)>;

/// Decides between two rows of the same product with the same time.
#[derive(Debug)]
pub(crate) struct Ties {
    files: Vec<PathBuf>,
    /// The format of the files; `None` when there are none.
    format: Option<ProductFormat>,
    /// The last changes in the files, once they were needed.
    last: Option<Last>,
    /// Products that this run has written.
    written: HashSet<i32>,
}

impl Ties {
    /// For these files, which are applied in this order.
    pub(crate) fn of(files: &[PathBuf], format: ProductFormat) -> Self {
        Self { files: files.to_vec(), format: Some(format), last: None, written: HashSet::new() }
    }

    /// For data without ties: times only grow.
    pub(crate) fn none() -> Self {
        Self { files: Vec::new(), format: None, last: Some(HashMap::new()), written: HashSet::new() }
    }

    /// The number of the first change of a file; the other changes of the file are numbered consecutively.
    pub(crate) fn first_number(file: usize) -> u64 {
        (file as u64) << 40
    }

    /// Notes that this run has written this product.
    pub(crate) fn wrote(&mut self, id: i32) {
        self.written.insert(id);
    }

    /// Whether the change with this number may replace a state of the same time; `None` when [`Ties::foresee`] must be
    /// called first.
    pub(crate) fn wins(&self, number: u64, change: &Change) -> Option<bool> {
        if self.written.contains(&change.id) {
            return Some(true);
        }
        let last = self.last.as_ref()?.get(&change.id);
        Some(!last.is_some_and(|(at, last)| *at == change.at && *last > number))
    }

    /// Reads all files and notes the last change of each product.
    ///
    /// # Errors
    /// Definite when one can't be read.
    pub(crate) async fn foresee(&mut self) -> Result<()> {
        let (files, Some(format)) = (self.files.clone(), self.format) else { return Ok(()) };
        let read = tokio::task::spawn_blocking(move || read(&files, format)).await;
        self.last = Some(read.unwrap_or_else(|_| Err(Error::definite("the thread that reads the files has died")))?);
        Ok(())
    }
}

fn read(files: &[PathBuf], format: ProductFormat) -> Result<Last> {
    let mut last = Last::new();
    for (file, path) in files.iter().enumerate() {
        let Ok(mut rows) = CsvFile::open(path, format)? else { continue };
        let mut number = Ties::first_number(file);
        while let Some(line) = rows.next()? {
            if let Line::Change(change) = line {
                note(&mut last, number, &change);
                number += 1;
            }
        }
    }
    Ok(last)
}

fn note(last: &mut Last, number: u64, change: &Change) {
    let last = last.entry(change.id).or_insert((change.at, number));
    if change.at >= last.0 {
        *last = (change.at, number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amount::Amount;
    use crate::change::{Effect, Place, Row, State};

    fn upsert(id: i32, at: i64, name: &str) -> Change {
        let price = Amount::from_hundredths(100).expect("in range");
        Change {
            id,
            at: Micros(at),
            row: Some(Row { name: name.to_owned(), category: "C".to_owned(), price }),
            place: Place::default(),
        }
    }

    fn delete(id: i32, at: i64) -> Change {
        Change { id, at: Micros(at), row: None, place: Place::default() }
    }

    /// Applies the data like one run; returns the effect of each change.
    fn run(table: &mut HashMap<i32, State>, data: &[Change]) -> Vec<Effect> {
        let mut last = Last::new();
        (0..).zip(data).for_each(|(number, change)| note(&mut last, number, change));
        let mut ties = Ties { last: Some(last), ..Ties::none() };
        let mut effects = Vec::new();
        for (number, change) in (0..).zip(data) {
            let state = table.entry(change.id).or_default();
            let effect = state.effect(change, || ties.wins(number, change)).expect("all was foreseen");
            if !matches!(effect, Effect::Unchanged | Effect::Older) {
                *state = State::after(change);
                ties.wrote(change.id);
            }
            effects.push(effect);
        }
        effects
    }

    #[test]
    fn the_first_run_applies_and_the_second_changes_nothing() {
        use Effect::{Delete, Insert, Older, Remember, Unchanged, Update};
        for (data, first) in [
            (vec![upsert(1, 1, "a"), upsert(1, 2, "b")], vec![Insert, Update]),
            (vec![upsert(1, 2, "b"), upsert(1, 1, "a")], vec![Insert, Older]),
            (vec![upsert(1, 1, "a"), delete(1, 2)], vec![Insert, Delete]),
            (vec![delete(1, 2), upsert(1, 1, "a")], vec![Remember, Older]),
            (vec![upsert(1, 1, "a"), delete(1, 2), upsert(1, 3, "c")], vec![Insert, Delete, Insert]),
            (vec![upsert(1, 1, "a"), upsert(1, 1, "b"), upsert(1, 1, "c")], vec![Insert, Update, Update]),
            (vec![upsert(1, 1, "a"), upsert(1, 1, "a")], vec![Insert, Unchanged]),
            (vec![upsert(1, 1, "a"), delete(1, 1)], vec![Insert, Delete]),
            (vec![upsert(1, 1, "a"), delete(1, 1), upsert(1, 1, "a")], vec![Insert, Delete, Insert]),
            (vec![upsert(1, 1, "a"), upsert(1, 1, "b"), delete(1, 2)], vec![Insert, Update, Delete]),
        ] {
            let mut table = HashMap::new();
            assert_eq!(run(&mut table, &data), first, "{data:?}");
            let after = table.clone();
            let second = run(&mut table, &data);
            assert!(second.iter().all(|e| matches!(e, Unchanged | Older)), "{data:?}: {second:?}");
            assert_eq!(table, after);
            // An interrupted run, followed by a complete one, gives the same table.
            for cut in 0..data.len() {
                let mut table = HashMap::new();
                run(&mut table, &data[..cut]);
                run(&mut table, &data);
                assert_eq!(table, after, "{data:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn a_corrected_row_of_the_same_time_is_applied() {
        let mut table = HashMap::new();
        run(&mut table, &[upsert(1, 1, "a")]);
        assert_eq!(run(&mut table, &[upsert(1, 1, "b")]), [Effect::Update]);
    }
}
