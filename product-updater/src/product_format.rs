//! The files of the table `product`: its columns, and the conversion and limits of each.

use model::time::Micros;

use crate::amount::Amount;
use crate::change::{Change, Place, Row};
use crate::csv_file::{Fault, Fields, Format, OP, shortened};
use crate::precision::Precision;

/// The first and the last time that `TIMESTAMP(6)` holds (reference manual, "The DATE, DATETIME, and TIMESTAMP Types").
const TIMES: [Micros; 2] = [Micros(1_000_000), Micros(2_147_483_647_499_999)];
const NAME_CHARS: usize = 300;
const CATEGORY_CHARS: usize = 500;
/// Replaces an empty category.
const NO_CATEGORY: &str = "Uncategorized";

const COLUMNS: [&str; 6] = ["id", "name", "category", "price", "last_updated", OP];

/// The limits and formats of rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProductFormat {
    /// Maximum bytes of a row.
    pub(crate) row_bytes: usize,
    /// The precision of `last_updated` in the table.
    pub(crate) precision: Precision,
}

impl Format for ProductFormat {
    type Change = Change;

    fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    fn names(&self) -> Vec<String> {
        COLUMNS.map(str::to_owned).into()
    }

    fn header(&self) -> String {
        format!("be {}", COLUMNS[..5].join(","))
    }

    fn is_required(&self, column: usize) -> bool {
        column < 5
    }

    fn refused(&self, _column: usize) -> Option<String> {
        None
    }

    fn change(&self, fields: &Fields<'_>) -> Result<Change, Fault> {
        let id = fields.text(0)?.trim();
        let id = id.parse::<i32>().map_err(|_| {
            fields.fault(0, format!("{:?} is not a whole number from {} to {}", shortened(id), i32::MIN, i32::MAX))
        })?;
        let at = timestamp(fields.text(4)?.trim()).map_err(|reason| fields.fault(4, reason))?;
        let at = self.precision.stored(at);
        let place = fields.place();
        if fields.is_delete(5)? {
            return Ok(Change { id, at, row: None, place });
        }
        let limited = |column: usize, most: usize| {
            let value = fields.text(column)?;
            match value.chars().count() {
                n if n > most => Err(fields.fault(column, format!("{n} characters; at most {most} fit"))),
                _ => Ok(value.to_owned()),
            }
        };
        let name = limited(1, NAME_CHARS)?;
        let mut category = limited(2, CATEGORY_CHARS)?;
        if category.trim().is_empty() {
            NO_CATEGORY.clone_into(&mut category);
        }
        let price = price(fields.text(3)?.trim()).map_err(|reason| fields.fault(3, reason))?;
        Ok(Change { id, at, row: Some(Row { name, category, price }), place })
    }

    fn place(change: &Change) -> Place {
        change.place
    }
}

fn price(text: &str) -> Result<Amount, String> {
    if let Some(price) = Amount::parse(text) {
        return Ok(price);
    }
    let shown = shortened(text);
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let plain =
        digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') && digits.bytes().filter(|b| *b == b'.').count() <= 1;
    if !plain || !digits.bytes().any(|b| b.is_ascii_digit()) {
        return Err(format!("{shown:?} is not a decimal number such as 12.30"));
    }
    let decimals = digits.split_once('.').map_or(0, |(_, d)| d.trim_end_matches('0').len());
    Err(match decimals {
        0..=2 => format!("{shown} is out of range: DECIMAL(10,2) ends at 99999999.99"),
        n => format!("{shown} has {n} decimals; DECIMAL(10,2) holds 2, and nothing is rounded"),
    })
}

fn timestamp(text: &str) -> Result<Micros, String> {
    let Some(time) = Micros::parse(text) else {
        return Err(format!(
            "{:?} is not a time such as 2026-11-21T08:00:00.123456Z or 2026-11-21 08:00:00 (UTC), with at most 6 decimals",
            shortened(text)
        ));
    };
    if (TIMES[0]..=TIMES[1]).contains(&time) {
        return Ok(time);
    }
    Err(format!("{time} is out of range: TIMESTAMP holds {} to {}", TIMES[0], TIMES[1]))
}
