//! Every fault that takes seconds, and a short run of random faults: nothing is lost, doubled, or out of order.

use std::fs;
use std::sync::{Mutex, PoisonError};

use chaos::{Event, Fault, Options, Servers};
use testbed::scratch;

/// One after the other: each starts separate servers.
static TURN: Mutex<()> = Mutex::new(());

fn tell(event: &Event<'_>) {
    match event {
        Event::Fault(number, name) => println!("{number} {name}"),
        Event::Recovered(_, times, changes) => println!("  {times:?}, {changes} changes"),
        _ => {}
    }
}

#[test]
fn every_quick_fault_once() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = scratch::folder("quick");
    let servers = Servers::start(&folder, 1).unwrap();
    let quick: Vec<&Fault> = chaos::all().filter(|fault| fault.quick).collect();
    let servers = chaos::each(servers, &quick, 1, &mut |event| tell(&event)).unwrap();
    drop(servers);
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn random_faults() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = scratch::folder("random");
    let options = Options {
        seed: 20,
        faults: 8,
        time: None,
        only: chaos::all().filter(|fault| fault.quick).map(|fault| fault.name.to_owned()).collect(),
        rate: 500,
        brokers: 1,
        round: 8,
        folder: folder.clone(),
    };
    let report = chaos::run(&options, &mut |event| tell(&event)).unwrap();
    let report = report.unwrap_or_else(|failure| panic!("{failure:#?}"));
    assert_eq!(report.faults_done(), 8);
    assert!(report.changes > 2_000, "{report:?}");
    fs::remove_dir_all(&folder).unwrap();
}
