//! Looks at the pipeline while somebody watches, and rests otherwise.

use std::sync::Arc;
use std::time::Duration;

use avro::registry::Registry;
use model::time::Micros;
use runtime::config::RegistrySettings;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::happened;
use super::hub::Hub;
use super::live::{self, Starts};
use crate::fault::Fault;
use crate::pipeline::Pipeline;
use crate::status::{Looker, Status, Table};

/// The pause between two looks at the state.
const LOOK: Duration = Duration::from_secs(1);
/// Looks between two questions to the registry.
const REGISTRY: u64 = 5;
/// A page that is opened again finds everything going on.
const LINGER: Duration = Duration::from_secs(5);

/// Watches while somebody does, until shutdown.
pub(super) async fn run(hub: Arc<Hub>, pipeline: Pipeline, shutdown: CancellationToken) {
    while shutdown.run_until_cancelled(hub.watched(true)).await.is_some() {
        hub.gap(Micros::now().0 / 1_000_000);
        let stop = shutdown.child_token();
        let (starts, known) = watch::channel(None);
        tokio::join!(
            look(&hub, &pipeline, &starts, &stop),
            read(&hub, &pipeline, known, &stop),
            stop.run_until_cancelled(end(&hub, &stop)),
        );
    }
}

/// Ends the watch when nobody has watched for a while.
async fn end(hub: &Hub, stop: &CancellationToken) {
    loop {
        hub.watched(false).await;
        if tokio::time::timeout(LINGER, hub.watched(true)).await.is_err() {
            return stop.cancel();
        }
    }
}

async fn look(hub: &Hub, pipeline: &Pipeline, starts: &watch::Sender<Option<Starts>>, stop: &CancellationToken) {
    let looker = match Looker::new(pipeline.clone()) {
        Ok(looker) => looker,
        Err(error) => return tracing::error!(code = error.code().name(), "{error}"),
    };
    let (mut before, mut number, mut fault): (Option<Status>, _, _) = (None, 0_u64, None);
    let registry = RegistrySettings::from(&pipeline.settings).and_then(Registry::new);
    while !stop.is_cancelled() {
        let mut now = looker.look().await;
        if number % REGISTRY == 0 {
            fault = match &registry {
                Ok(registry) => registry.has_subject().await.err().map(|error| Fault::new("schema registry", &error)),
                Err(error) => Some(Fault::new("schema registry", error)),
            };
        }
        number += 1;
        now.faults.extend(fault.clone());
        if let Some(before) = &before {
            keep_known(&mut now, before);
            now.compare(before);
        } else {
            // That since the start of the consumers is no point of a curve.
            now.latency = None;
        }
        let happened = before.as_ref().map_or_else(Vec::new, |before| happened::between(before, &now));
        // What Kafka does not say is not new once it answers.
        if !is_away(&now) {
            let ends = |table: &Table| table.partitions.iter().map(|partition| partition.end).collect();
            let found = now.tables.iter().map(|table| (table.topic.as_str(), ends(table)));
            starts.send_modify(|starts| *starts = Some(Starts::add(starts.take(), found)));
        }
        hub.status(&now, happened);
        before = Some(now);
        stop.run_until_cancelled(tokio::time::sleep(LOOK)).await;
    }
}

fn is_away(now: &Status) -> bool {
    now.faults.iter().any(|fault| fault.part == "Kafka")
}

/// While Kafka is away, its last answer is shown.
fn keep_known(now: &mut Status, before: &Status) {
    if is_away(now) {
        now.tables.clone_from(&before.tables);
        now.consumers.clone_from(&before.consumers);
        now.free_slots.clone_from(&before.free_slots);
        now.reached.clone_from(&before.reached);
    }
}

/// Reads the topics.
async fn read(hub: &Arc<Hub>, pipeline: &Pipeline, starts: watch::Receiver<Option<Starts>>, stop: &CancellationToken) {
    let (hub, pipeline, stop) = (Arc::clone(hub), pipeline.clone(), stop.clone());
    let ended = tokio::task::spawn_blocking(move || live::read(pipeline, &hub, starts, &stop)).await;
    if let Err(error) = ended {
        tracing::error!("the reader of the topics has ended: {error}");
    }
}
