//! The details of what was found: the topic is read again for them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use model::error::Result;
use rdkafka::Message as _;
use runtime::config::KafkaSettings;

use crate::findings::{Check, Finding, Findings};
use crate::reading::Reader;
use crate::span::Span;
use crate::topic::source_hash;

/// Reads the topic again for the details of the differences: keys, expected lines, and the records that share a place
/// of the source. Blocks.
///
/// # Errors
/// As [`Topic::read`](crate::topic::Topic::read).
pub(crate) fn explain(
    settings: &KafkaSettings,
    span: &Span,
    reader: &mut Reader,
    repeated: &[u64],
    findings: &mut Findings,
) -> Result<()> {
    let places: BTreeSet<(i32, i64)> = findings.first().filter_map(Finding::place).collect();
    if places.is_empty() && repeated.is_empty() {
        return Ok(());
    }
    let mut seen: HashMap<(u64, String, u64), (i32, i64)> = HashMap::new();
    let contract = Arc::clone(&reader.contract);
    kafka::scan(settings, &settings.topic, &mut |message| {
        let (partition, offset) = (message.partition(), message.offset());
        if span.is_later(partition, offset) {
            return Ok(());
        }
        let Ok(change) = reader.read(message)? else { return Ok(()) };
        if repeated.binary_search(&source_hash(&change.source)).is_ok() {
            let source = &change.source;
            let place = (source.epoch, source.pos.clone().into_owned(), source.row);
            if let Some((p, o)) = seen.get(&place).copied() {
                findings.add(Check::Repeated, || {
                    let (epoch, pos, row) = &place;
                    let text = format!(
                        "the change {pos} row {row} of epoch {epoch} is in the topic again; first at partition {p}, offset {o}"
                    );
                    Finding::new(Check::Repeated, text).key(change.key).at(partition, offset)
                });
            } else {
                seen.insert(place, (partition, offset));
            }
        }
        if !places.contains(&(partition, offset)) {
            return Ok(());
        }
        let line = change.line(&contract, partition, offset);
        for finding in findings.first_mut().filter(|f| f.place() == Some((partition, offset))) {
            finding.key.get_or_insert_with(|| change.key.to_owned());
            match finding.check {
                Check::Lost | Check::Elsewhere | Check::Wrong | Check::Parked if finding.expected.is_none() => {
                    finding.expected.clone_from(&line);
                }
                Check::Table if finding.found.is_none() => {
                    finding.found = Some(change.describe(&contract));
                }
                _ => {}
            }
        }
        Ok(())
    })?;
    Ok(())
}
