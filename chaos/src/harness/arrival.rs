//! Waits until changes arrive.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rand::Rng;

use super::{ARRIVAL, Harness};
use crate::plan::{IDS, Place, id};
use crate::probe::Tail;
use crate::token::{PROBES, Token};

impl Harness {
    /// Commits a change and waits until its line is in a log; returns the time that this took.
    ///
    /// # Errors
    /// When it does not arrive within 90 s; the error has the ends of the programs' logs.
    pub fn probe(&mut self) -> Result<Duration> {
        let places = self.places();
        let place = self.rng.random_range(0..places.len());
        self.arrive(&[places[place]])
    }

    /// Pauses the load and waits until all committed changes are in the topics and in the logs. The load stays paused.
    ///
    /// # Errors
    /// When a change does not arrive within 90 s.
    pub fn settle(&mut self) -> Result<()> {
        self.pause_load()?;
        // The producer keeps MySQL's order, and a partition keeps its own: a change that is last in each partition has
        // all others before it.
        let places = self.places();
        self.arrive(&places).map(drop)
    }

    /// For each partition of each table's topic, a place whose key is in it.
    fn places(&self) -> Vec<Place> {
        let tables = self.load.ledger().tables.clone();
        let of_table = |(number, table): (usize, &std::sync::Arc<crate::table::Table>)| {
            let place = |partition| (0..IDS).find(|place| table.partition(id(PROBES, *place)) == partition);
            let places: Vec<usize> = (0..table.partitions).filter_map(place).collect();
            places.into_iter().map(move |place| (number, place))
        };
        tables.iter().enumerate().flat_map(of_table).collect()
    }

    fn arrive(&mut self, places: &[Place]) -> Result<Duration> {
        let started = Instant::now();
        let deadline = started + ARRIVAL;
        let mut tail = Tail::new(self.logs());
        let number = self.runtime.block_on(self.prober.probe(places, deadline))?;
        let token = |row| format!("\":\"{}", Token::new(PROBES, number, row).text());
        let mut missing: Vec<String> = (0..places.len() as u32).map(token).collect();
        loop {
            tail.read(|line| missing.retain(|token| !line.contains(token)))?;
            if missing.is_empty() {
                return Ok(started.elapsed());
            }
            self.check_running()?;
            if Instant::now() > deadline {
                bail!("{} of {} changes are in no log after {ARRIVAL:?}\n{}", missing.len(), places.len(), self.ends());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
