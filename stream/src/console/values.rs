//! What the rows of a table have: by column, the values and how many rows have each. Pure.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::record::Row;

/// Values of a column that are counted one by one, and of those, the ones that are shown.
const COUNTED: usize = 5_000;
const SHOWN: usize = 12;
/// Columns that are looked at.
const COLUMNS: usize = 60;
/// Bytes of a value that is counted; a longer one is counted by its begin.
const LONGEST: usize = 200;

/// A value and the rows that have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Count {
    /// JSON text.
    value: String,
    count: u64,
}

/// A column.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Column {
    name: String,
    /// The number of values; at least, if `is_capped`.
    distinct: usize,
    is_capped: bool,
    top: Vec<Count>,
    /// Rows with other values than those.
    others: u64,
    /// Of a column of numbers, as JSON text.
    least: Option<String>,
    greatest: Option<String>,
    mean: Option<String>,
}

#[derive(Default)]
struct Values {
    counts: HashMap<String, u64>,
    rows: u64,
    is_capped: bool,
}

/// The columns of these rows, in the order of the first row that has them.
pub(super) fn columns<'a>(rows: impl Iterator<Item = &'a Row>) -> Vec<Column> {
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    let mut all: Vec<(&str, Values)> = Vec::new();
    for (name, json) in rows.flat_map(|row| &row.0) {
        let next = places.len();
        let place = *places.entry(name).or_insert(next);
        if place >= COLUMNS {
            continue;
        }
        if place == all.len() {
            all.push((name, Values::default()));
        }
        if let Some((_, values)) = all.get_mut(place) {
            values.add(json);
        }
    }
    all.into_iter().map(|(name, values)| values.column(name)).collect()
}

impl Values {
    fn add(&mut self, json: &str) {
        self.rows += 1;
        let value = begin(json);
        if let Some(count) = self.counts.get_mut(&*value) {
            *count += 1;
        } else if self.counts.len() < COUNTED {
            self.counts.insert(value.into_owned(), 1);
        } else {
            self.is_capped = true;
        }
    }

    fn column(self, name: &str) -> Column {
        let numbers = if self.is_capped { None } else { numbers(&self.counts) };
        let distinct = self.counts.len();
        let mut top: Vec<Count> = self.counts.into_iter().map(|(value, count)| Count { value, count }).collect();
        top.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.value.cmp(&b.value)));
        top.truncate(SHOWN);
        let others = self.rows - top.iter().map(|value| value.count).sum::<u64>();
        let (least, greatest, mean) = numbers.map_or((None, None, None), |(a, b, c)| (Some(a), Some(b), Some(c)));
        Column { name: name.to_owned(), distinct, is_capped: self.is_capped, top, others, least, greatest, mean }
    }
}

/// The value, or the JSON text of the begin of a long one.
fn begin(json: &str) -> std::borrow::Cow<'_, str> {
    if json.len() <= LONGEST {
        return json.into();
    }
    let text = serde_json::from_str::<String>(json).unwrap_or_else(|_| json.to_owned());
    let text: String = text.chars().take(LONGEST / 4).chain(['…']).collect();
    serde_json::Value::String(text).to_string().into()
}

/// The least, the greatest and the mean, if all values but null are numbers.
fn numbers(counts: &HashMap<String, u64>) -> Option<(String, String, String)> {
    let values = counts.iter().filter(|(json, _)| *json != "null");
    let values: Vec<(f64, &str, u64)> = values
        .map(|(json, count)| json.parse::<f64>().ok().map(|number| (number, json.as_str(), *count)))
        .collect::<Option<_>>()?;
    let (_, least, _) = values.iter().min_by(|a, b| a.0.total_cmp(&b.0))?;
    let (_, greatest, _) = values.iter().max_by(|a, b| a.0.total_cmp(&b.0))?;
    let rows: u64 = values.iter().map(|(.., count)| count).sum();
    let sum: f64 = values.iter().map(|(number, _, count)| number * *count as f64).sum();
    Some(((*least).to_owned(), (*greatest).to_owned(), format!("{:.2}", sum / rows as f64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(price: &str, category: &str) -> Row {
        let cell = |name: &str, json: &str| (name.to_owned(), json.to_owned());
        Row(vec![cell("price", price), cell("category", category)])
    }

    #[test]
    fn values_are_counted_by_column() {
        let rows = [row("9.90", "\"Toys\""), row("10.00", "\"Toys\""), row("null", "\"Books\""), row("10.00", "null")];
        let found = columns(rows.iter());
        let shown = |column: &Column| -> Vec<String> {
            column.top.iter().map(|count| format!("{} {}", count.value, count.count)).collect()
        };
        let [price, category] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(shown(price), ["10.00 2", "9.90 1", "null 1"]);
        let range = [&price.least, &price.greatest, &price.mean].map(|text| text.as_deref().expect("numbers"));
        assert_eq!(range, ["9.90", "10.00", "9.97"]);
        assert_eq!((category.name.as_str(), &category.least), ("category", &None));
        assert_eq!(shown(category), ["\"Toys\" 2", "\"Books\" 1", "null 1"]);
    }

    #[test]
    fn many_and_long_values_are_bounded() {
        let rows: Vec<Row> =
            (0..COUNTED + 10).map(|n| row(&n.to_string(), &format!("\"{}\"", "é\\n".repeat(n % 2 * 900)))).collect();
        let found = columns(rows.iter());
        assert_eq!((found[0].distinct, found[0].is_capped, found[0].top.len()), (COUNTED, true, SHOWN));
        assert_eq!(found[0].others, (COUNTED + 10 - SHOWN) as u64);
        assert!(found[1].top.iter().all(|count| serde_json::from_str::<String>(&count.value).is_ok()));
    }
}
