//! The log line for rows that a record can't carry. The metric `producer_parked_rows_total` counts them.

use std::sync::atomic::{AtomicI64, Ordering};

use model::time::Micros;
use mysql::refused_row::{Letters, RefusedRow};

use crate::batch::Batch;

/// Logs a parked row, at most once a second: the metric counts them all.
pub(crate) fn warn_of_first(batch: &Batch, letters: &Letters, row: &RefusedRow) {
    static LAST: AtomicI64 = AtomicI64::new(0);
    let now = Micros::now().0 / 1_000_000;
    if batch.parked() == 1 && LAST.swap(now, Ordering::Relaxed) != now {
        tracing::warn!(
            row = %row.key(),
            column = letters.field(row.field),
            reason = row.refusal.reason,
            what_to_do = &*row.refusal.remedy,
            "a row can't be carried: it is parked in the dead letters"
        );
    }
}
