//! The console in a real browser, on real servers.

mod browser;
mod guard;
mod keyboard;
mod letters;
mod load;
mod outages;
mod pictures;
mod stage;
mod views;
