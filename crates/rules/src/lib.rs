//! What a consumer makes of a row: filters, capitals, a discounted amount, and the line of JSON.

pub mod line;
pub mod transform;
