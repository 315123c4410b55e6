//! `stream dlq`: dead letters, and what leads each back.
//!
//! | parked | its truth | what leads it back |
//! |---|---|---|
//! | a row of MySQL that no record can carry | the row in MySQL | a correction of the row, which arrives as any change; `cdc-producer snapshot` for a row that can be carried meanwhile |
//! | a record that PostgreSQL refuses | the record in the topic | `stream dlq retry-parked`, after a change of the table in PostgreSQL |
//! | a record that the consumers could not read | the row in MySQL | if the record can be read now and is still the key's last one: [`replay`]; else `cdc-producer snapshot` |
//!
//! Nothing else is sent again: a record that is made by hand would say what MySQL does not.

mod desk;
mod render;
mod replay;

pub use desk::{Desk, List, Shown, State};
pub use render::{render_letter, render_list, render_sent};
pub use replay::{Sent, replay};
