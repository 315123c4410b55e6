//! Attacks by users with few rights: a user of MySQL with rights on another database, or only on the rows of the table;
//! a writer of the topic or of schemas; somebody who reaches a metrics port or the folder of CSV files.
//!
//! The users of MySQL are real ones with just these rights. The harness's Kafka and registry have no logins; the
//! attacker only writes there.

mod beside;
mod mysql;
mod topic;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rdkafka::Message;
use serde::Deserialize;

use crate::{Harness, wait_for};

/// The faults of this family.
pub(super) use beside::FAULTS as BESIDE;
pub(super) use mysql::FAULTS as MYSQL;
pub(super) use topic::FAULTS as TOPIC;

const SOON: Duration = Duration::from_secs(60);

/// The header `origin` of a dead letter.
#[derive(Debug, Deserialize)]
struct Origin {
    reason: String,
    /// Bytes that were cut from the letter, by part: `key`, `value`, `header`.
    #[serde(default)]
    cut: BTreeMap<String, usize>,
}

/// A dead letter.
#[derive(Debug)]
struct Letter {
    origin: Origin,
    /// Bytes of its key and of its value.
    sizes: [usize; 2],
}

/// All dead letters in the order of writing.
fn letters(harness: &Harness) -> Result<Vec<Letter>> {
    let settings = harness.bed.kafka();
    let mut letters = Vec::new();
    kafka::scan(&settings, &format!("{}.dlq", settings.topic), &mut |message| {
        let origin = kafka::header(message, "origin").unwrap_or_default();
        let origin = serde_json::from_slice(origin);
        // The callback can return only errors of the pipeline.
        let origin = origin.unwrap_or_else(|e| Origin { reason: format!("no origin: {e}"), cut: BTreeMap::new() });
        let sizes = [message.key(), message.payload()].map(|part| part.map_or(0, <[u8]>::len));
        letters.push(Letter { origin, sizes });
        Ok(())
    })?;
    Ok(letters)
}

/// Runs `act`, which returns the reasons of the expected dead letters; returns those letters. There must be one for
/// each reason and no other. No program may end, no epoch begin; changes must arrive, and all programs must be ready.
fn withstands(harness: &mut Harness, act: impl FnOnce(&mut Harness) -> Result<Vec<String>>) -> Result<Vec<Letter>> {
    harness.resume_load();
    let (epoch, before) = (harness.epoch()?, letters(harness)?.len());
    let mut missing = act(harness)?;
    let wanted = before + missing.len();
    let parked = wait_for(&format!("{} more dead letters", missing.len()), SOON, || {
        letters(harness).is_ok_and(|letters| letters.len() >= wanted).then_some(())
    });
    if let Err(error) = parked {
        harness.check_running()?;
        let found: Vec<_> = letters(harness)?.into_iter().skip(before).map(|letter| letter.origin.reason).collect();
        return Err(error.context(format!("of {missing:?} there is {found:?}")));
    }
    // Each partition gets a change, so that all earlier records in it have been read.
    harness.settle()?;
    harness.resume_load();
    harness.all_ready()?;
    let letters: Vec<Letter> = letters(harness)?.into_iter().skip(before).collect();
    for letter in &letters {
        let reason = &letter.origin.reason;
        let at = missing.iter().position(|wanted| reason.contains(wanted.as_str()));
        missing.swap_remove(at.with_context(|| format!("a dead letter says {reason:?}, expected are {missing:?}"))?);
    }
    ensure!(missing.is_empty(), "no dead letter says {missing:?}");
    ensure!(harness.epoch()? == epoch, "epoch {} has begun", harness.epoch()?);
    harness.check_running()?;
    Ok(letters)
}
