//! What the browsers are told: one text for all of them, and the latest past for a new one.
//!
//! Invariant: nothing here grows with time or with the number of browsers. A browser that does not keep up is cut off.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::json;
use tokio::sync::{broadcast, watch};

use super::happened::Happened;
use super::shown::Shown;
use super::tally::{Counted, Percentiles};
use crate::status::Status;

/// Texts that a browser may be behind, some twenty seconds.
const BEHIND: usize = 128;
/// Browsers at a time.
const BROWSERS: usize = 32;
/// What a new browser gets of the past.
const SECONDS: usize = 600;
const EVENTS: usize = 200;
const CHANGES: usize = 100;

/// A text for the browsers: the name of the event and its JSON.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) name: &'static str,
    pub(super) data: Arc<str>,
}

impl Told {
    fn new(name: &'static str, data: &impl Serialize) -> Self {
        // Texts and numbers always have a JSON form.
        Self { name, data: serde_json::to_string(data).unwrap_or_default().into() }
    }
}

/// The point of the curves for a second; `null` is what is unknown.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Second {
    /// Unix time.
    at: i64,
    /// Changes that were read.
    written: Option<u64>,
    /// Offsets that were written, and that the group has committed.
    offsets: Option<f64>,
    read: Option<f64>,
    lag: Option<i64>,
    #[serde(flatten)]
    latency: Option<Percentiles>,
    source: Option<f64>,
    /// From the commit in MySQL into the logs, in milliseconds.
    log_p50: Option<f64>,
    log_p99: Option<f64>,
}

/// What the page is told once.
#[derive(Clone, Debug)]
pub(super) struct About {
    pub(super) group: String,
    /// Whether the token allows changes.
    pub(super) control: bool,
}

#[derive(Default)]
struct Past {
    seconds: VecDeque<Second>,
    events: VecDeque<Happened>,
    changes: VecDeque<Arc<Shown>>,
    status: Option<Told>,
    /// What the last status gives to the curves.
    latest: Second,
}

/// The state that all browsers share.
pub(super) struct Hub {
    about: About,
    past: Mutex<Past>,
    told: broadcast::Sender<Told>,
    watchers: watch::Sender<usize>,
}

/// A browser that watches, until it is dropped.
pub(super) struct Watcher {
    hub: Arc<Hub>,
    /// What it is told first.
    pub(super) first: VecDeque<Told>,
    pub(super) next: broadcast::Receiver<Told>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.hub.watchers.send_modify(|count| *count = count.saturating_sub(1));
    }
}

fn keep<T>(list: &mut VecDeque<T>, most: usize, item: T) {
    if list.len() == most {
        list.pop_front();
    }
    list.push_back(item);
}

impl Hub {
    pub(super) fn new(about: About) -> Arc<Self> {
        let past = Mutex::new(Past::default());
        Arc::new(Self { about, past, told: broadcast::Sender::new(BEHIND), watchers: watch::Sender::new(0) })
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new browser; `None` when there are too many.
    pub(super) fn join(self: &Arc<Self>) -> Option<Watcher> {
        let mut is_taken = false;
        self.watchers.send_if_modified(|count| {
            is_taken = *count < BROWSERS;
            *count += usize::from(is_taken);
            is_taken
        });
        if !is_taken {
            return None;
        }
        // Under one lock, so that nothing is told between the past and what comes.
        let past = self.past();
        let hello = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "group": self.about.group,
            "control": self.about.control,
            "seconds": past.seconds,
            "events": past.events,
            "changes": past.changes.iter().map(Arc::as_ref).collect::<Vec<_>>(),
        });
        let first = std::iter::once(Told::new("hello", &hello)).chain(past.status.clone()).collect();
        Some(Watcher { hub: Arc::clone(self), first, next: self.told.subscribe() })
    }

    /// Waits until somebody watches, or nobody does.
    pub(super) async fn watched(&self, is_watched: bool) {
        let mut count = self.watchers.subscribe();
        // The sender lives as long as this.
        drop(count.wait_for(|count| (*count > 0) == is_watched).await);
    }

    fn tell(&self, told: Told) {
        // Without a browser nobody receives it.
        drop(self.told.send(told));
    }

    /// Tells what was counted in a tick, and the changes that are shown of it.
    pub(super) fn flow(&self, counted: Counted, shown: Vec<Shown>) {
        #[derive(Serialize)]
        struct Flow<'a> {
            #[serde(flatten)]
            counted: Counted,
            shown: Vec<&'a Shown>,
        }
        let shown: Vec<Arc<Shown>> = shown.into_iter().map(Arc::new).collect();
        let mut past = self.past();
        self.tell(Told::new("flow", &Flow { counted, shown: shown.iter().map(Arc::as_ref).collect() }));
        shown.into_iter().for_each(|change| keep(&mut past.changes, CHANGES, change));
    }

    /// Tells the point of the curves.
    pub(super) fn second(&self, at: i64, written: u64, latency: Option<Percentiles>) {
        let mut past = self.past();
        let second = Second { at, written: Some(written), latency, ..past.latest };
        self.tell(Told::new("second", &second));
        keep(&mut past.seconds, SECONDS, second);
    }

    /// Leaves a gap in the curves: nobody has watched.
    pub(super) fn gap(&self, at: i64) {
        let mut past = self.past();
        past.latest = Second::default();
        if !past.seconds.is_empty() {
            keep(&mut past.seconds, SECONDS, Second { at, ..Second::default() });
        }
    }

    /// Tells the state, and what has happened since the one before.
    pub(super) fn status(&self, status: &Status, happened: Vec<Happened>) {
        let partitions = || status.tables.iter().flat_map(|table| &table.partitions);
        let latest = Second {
            offsets: partitions().map(|partition| partition.written_per_second).sum(),
            read: partitions().map(|partition| partition.read_per_second).sum(),
            // The last offset is always the marker of a transaction.
            lag: Some(partitions().map(|partition| (partition.lag - 1).max(0)).sum()),
            source: status.source.as_ref().and_then(|source| source.behind_seconds),
            log_p50: status.latency.map(|latency| latency.p50_seconds * 1_000.0),
            log_p99: status.latency.map(|latency| latency.p99_seconds * 1_000.0),
            ..Second::default()
        };
        let told = Told::new("status", status);
        let mut past = self.past();
        past.latest = latest;
        past.status = Some(told.clone());
        self.tell(told);
        for event in happened {
            self.tell(Told::new("event", &event));
            keep(&mut past.events, EVENTS, event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub() -> Arc<Hub> {
        Hub::new(About { group: "g".to_owned(), control: false })
    }

    #[tokio::test]
    async fn the_past_is_bounded_and_a_slow_browser_is_cut_off() {
        let hub = hub();
        let mut watcher = hub.join().expect("room");
        for at in 0..2_000 {
            hub.second(at, 1, None);
        }
        let outcome = watcher.next.recv().await;
        assert!(matches!(outcome, Err(broadcast::error::RecvError::Lagged(_))), "{outcome:?}");
        let hello = hub.join().expect("room").first.pop_front().expect("a first text");
        let hello: serde_json::Value = serde_json::from_str(&hello.data).expect("JSON");
        let seconds = hello["seconds"].as_array().expect("a list");
        assert_eq!((seconds.len(), &seconds[0]["at"]), (SECONDS, &json!(2_000 - SECONDS)));
    }

    #[tokio::test]
    async fn it_knows_whether_somebody_watches() {
        let hub = hub();
        hub.watched(false).await;
        let watchers: Vec<Watcher> = (0..BROWSERS).map(|_| hub.join().expect("room")).collect();
        assert!(hub.join().is_none(), "one too many");
        hub.watched(true).await;
        drop(watchers);
        hub.watched(false).await;
    }
}
