//! `stream status`: the state of the pipeline now.
//!
//! [`Looker::look`] gathers the facts, [`render`] shows them. A part that gives no answer becomes a fault, and the others
//! are there all the same. Nothing is changed, and the group is not joined.

mod facts;
mod group;
mod latency;
mod programs;
mod render;
mod source;

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use consumer::slot::Holders;
use kafka::Member;

use model::error::Result;
use model::time::Micros;
use sinks::postgres::Target;

use crate::fault::noted;
use crate::pipeline::Pipeline;
pub use facts::{Answer, Consumer, Partition, Producer, Reached, Snapshot, Source, State, Status, Table};
pub use latency::Latency;
pub(crate) use render::fitted;
pub use render::render;

/// Asks all parts. It may be kept and asked again, which is faster.
pub struct Looker {
    pipeline: Pipeline,
    kafka: group::Reader,
    /// Making it takes milliseconds, with the system's certificates 30.
    postgres: Option<Target>,
    /// Members of the group that answered at `/metrics` in an earlier look.
    answered: Mutex<BTreeSet<String>>,
}

impl Looker {
    /// Prepares to ask.
    ///
    /// # Errors
    /// Usage when a setting can't be used.
    pub fn new(pipeline: Pipeline) -> Result<Self> {
        let postgres =
            pipeline.postgres.as_ref().map(|settings| Target::from(settings, "stream status")).transpose()?;
        let answered = Mutex::default();
        Ok(Self { kafka: group::Reader::new(&pipeline)?, postgres, answered, pipeline })
    }

    /// The clients that read topics.
    pub(crate) fn records(&self) -> &kafka::LastRecords {
        &self.kafka.records
    }

    /// Checks that Kafka answers. Blocks.
    ///
    /// # Errors
    /// Transient when it does not; definite when the login or a certificate is refused.
    pub fn reach(&self) -> Result<()> {
        self.kafka.reach()
    }

    /// Asks all parts at once. Call it within a runtime of several threads.
    pub async fn look(&self) -> Status {
        let Pipeline { settings, mysql, kafka, .. } = &self.pipeline;
        let mut faults = Vec::new();
        let topics = async { tokio::task::block_in_place(|| self.kafka.look(&self.pipeline)) };
        let (seen, server, answers, parked) =
            tokio::join!(topics, source::ask(mysql), programs::ask(settings), source::parked(self.postgres.as_ref()),);
        let seen = noted("Kafka", seen, &mut faults);
        let knows_group = seen.is_some();
        let mut group = seen.unwrap_or_default();
        let server = noted("MySQL", server, &mut faults);
        let parked = noted("PostgreSQL", parked, &mut faults).flatten();
        let (answers, unanswered) = answers;
        faults.extend(unanswered);
        let progress = group.progress.take();
        if let (Some(progress), Some(_)) = (&progress, &server) {
            let rows = source::rows(mysql, progress, &mut group.tables, settings).await;
            noted("MySQL", rows, &mut faults);
        }
        if let Some(parked) = &parked {
            group.tables.iter_mut().for_each(|table| table.add_parked(parked));
        }
        let holders = consumer::slot::holders(&settings.path("consumer.logs"));
        let holders = noted("logs folder", holders, &mut faults).flatten();
        let held = noted("time_track", programs::producer(settings, &answers), &mut faults);
        let members = knows_group.then_some(&*group.members);
        let (consumers, free_slots) = self.consumers(members, holders.as_ref(), &answers);
        group.tables.iter_mut().for_each(|table| table.name_holders(&consumers, &kafka.topic));
        let mut status = Status {
            at: Micros::now().to_string(),
            group: kafka.group_id.clone(),
            source: server.map(|server| server.compare(progress.as_ref(), &answers)),
            reached: progress.as_ref().map(Reached::of),
            producer: held.unwrap_or_default(),
            tables: group.tables,
            consumers,
            latency: None,
            free_slots,
            session_timeout: kafka.session_timeout.as_secs_f64(),
            faults,
            taken: Some(Instant::now()),
        };
        status.take_latency();
        status
    }

    /// The consumers and the free slots; remembers the consumers that answer.
    fn consumers(
        &self,
        members: Option<&[Member]>,
        holders: Option<&Holders>,
        answers: &[Answer],
    ) -> (Vec<Consumer>, Vec<String>) {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let (consumers, free_slots) = group::consumers(members, holders, answers, &answered);
        // Those that have left the group are forgotten; without Kafka's answer nobody is known to have left.
        if members.is_some() {
            answered.retain(|name| consumers.iter().any(|consumer| consumer.name == *name));
        }
        let answer = consumers.iter().filter(|consumer| consumer.metrics.is_some());
        answered.extend(answer.map(|consumer| consumer.name.clone()));
        (consumers, free_slots)
    }
}
