//! Dead letters, and that the pipeline withstands an attack.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rdkafka::Message;
use serde::Deserialize;

use crate::harness::{Harness, wait_for};

pub(super) const SOON: Duration = Duration::from_secs(60);

/// The header `origin` of a dead letter.
#[derive(Debug, Deserialize)]
pub(super) struct Origin {
    pub(super) reason: String,
    /// Bytes that were cut from the letter, by part: `key`, `value`, `header`.
    #[serde(default)]
    pub(super) cut: BTreeMap<String, usize>,
}

/// A dead letter.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) origin: Origin,
    /// Bytes of its key and of its value.
    pub(super) sizes: [usize; 2],
}

/// All dead letters in the order of writing.
pub(super) fn letters(harness: &Harness) -> Result<Vec<Letter>> {
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
pub(super) fn withstands(
    harness: &mut Harness,
    act: impl FnOnce(&mut Harness) -> Result<Vec<String>>,
) -> Result<Vec<Letter>> {
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
