//! What a consumer makes of a row: capitals, discounts, filters, and the line of JSON.

pub mod log_line;
pub mod transform;
