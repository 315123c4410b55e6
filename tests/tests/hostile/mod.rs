//! Broken and hostile peers, records and clients: nothing that comes from outside stops a program, fills its memory, uses up
//! its descriptors or reaches a terminal raw.

mod fakes;
mod kafka;
mod listener;
mod log_floor;
mod poison;
mod registry;
mod secrets;
mod texts;

use std::time::Duration;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
