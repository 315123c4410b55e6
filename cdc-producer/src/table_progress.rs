//! The part of the progress that belongs to one table and its topic: what the topic must look like, and what a start
//! notes.

use kafka::Bounds;
use model::error::{Code, Error, Result};
use model::position::{SnapshotProgress, TableProgress, TableState};
use model::schema::RecordSchema;
use mysql::table::{ColumnPlan, SourceTable};

/// Refuses a topic with another id than the one that was written to, or one that ends before the known end of the
/// written records.
///
/// # Errors
/// Definite, with the partition and both offsets.
pub(crate) fn check_topic(
    progress: &TableProgress,
    bounds: &[Bounds],
    id: Option<&str>,
    (topic, checkpoint_topic): (&str, &str),
) -> Result<()> {
    const REMEDY: &str = "to write the table into it as it is now: `cdc-producer checkpoint reset`";
    if let (Some(written), Some(now)) = (progress.topic_id.as_deref(), id)
        && written != now
    {
        return Err(Error::new(Code::TopicRecreated, format!(
            "topic {} was deleted and created again: its id is {now}, but the position in {} belongs to the one with id {written}",
            topic, checkpoint_topic
        ))
        .with_remedy(REMEDY));
    }
    for ends in noted(progress) {
        for (partition, (end, now)) in ends.iter().zip(bounds).enumerate() {
            if now.end < *end {
                return Err(Error::new(Code::TopicRecreated, format!(
                    "partition {partition} of topic {} ends at offset {}, but the position in {} says that it was written up to \
                     {end}: the topic was deleted and created again, or Kafka has lost records",
                    topic, now.end, checkpoint_topic
                ))
                .with_remedy(REMEDY));
            }
        }
    }
    Ok(())
}

/// By partition, ends of the topic that the progress has noted.
fn noted(progress: &TableProgress) -> impl Iterator<Item = &Vec<i64>> {
    let snapshot = progress.snapshot.as_ref().and_then(|s| s.begin.as_ref());
    [progress.ends.as_ref(), progress.complete.as_ref().map(|c| &c.end), snapshot].into_iter().flatten()
}

/// Refuses a topic whose records were written to another number of partitions, since their keys would move. The topic
/// has the configured number if somebody has raised both.
///
/// # Errors
/// Definite, with both numbers.
pub(crate) fn check_count(progress: Option<&TableProgress>, bounds: &[Bounds], topic: &str) -> Result<()> {
    let was_written = bounds.iter().any(|b| b.end > 0);
    let other = progress.into_iter().flat_map(noted).find(|ends| ends.len() != bounds.len());
    match other.filter(|_| was_written) {
        Some(other) => Err(kafka::recounted(topic, other.len(), bounds.len())),
        None => Ok(()),
    }
}

/// How many partitions retention has cut.
pub(crate) fn cut_partitions(bounds: &[Bounds]) -> usize {
    bounds.iter().filter(|b| b.begin > 0).count()
}

/// Notes the topic's present ends in the progress. A snapshot of a version that did not note where it began is repeated
/// from the first key, since nothing else shows which keys it has written.
pub(crate) fn resume(progress: &mut TableProgress, bounds: &[Bounds]) {
    let ends: Vec<i64> = bounds.iter().map(|b| b.end).collect();
    if let Some(snapshot) = &mut progress.snapshot
        && snapshot.begin.is_none()
    {
        tracing::info!(rows = snapshot.rows, "an earlier version began this snapshot: it is made from the first row");
        *snapshot = SnapshotProgress::new(ends.clone(), snapshot.rows);
    }
    // The number of partitions may differ if nothing was written.
    let snapshot = progress.snapshot.as_mut().and_then(|s| s.begin.as_mut());
    let complete = progress.complete.as_mut().map(|c| [&mut c.begin, &mut c.end]);
    complete.into_iter().flatten().chain(snapshot).for_each(|noted| noted.resize(bounds.len(), 0));
    progress.ends = Some(ends);
}

/// Notes the carried columns. Each keeps its definition, as far as it is known, and a column that is not there any more
/// is noted as gone.
pub(crate) fn note_columns(state: &mut TableState, table: &SourceTable) {
    let names: Vec<String> = table.columns.iter().map(|column| column.name.clone()).collect();
    let place = |name: &String, names: &[String]| {
        let name = name.to_lowercase();
        names.iter().position(|other| other.to_lowercase() == name)
    };
    if state.names.is_empty() {
        if state.columns.len() != names.len() {
            state.columns.clear();
        }
    } else if !state.columns.is_empty() {
        let definition =
            |name| place(name, &state.names).and_then(|at| state.columns.get(at)).cloned().unwrap_or_default();
        state.columns = names.iter().map(definition).collect();
    }
    let is_gone = |name: &&String| place(name, &names).is_none();
    state.gone.extend(state.names.iter().filter(is_gone).map(|name| name.to_lowercase()));
    state.names = names;
    state.key = key_of(table);
}

/// The columns of the primary key with their types, if the schema is made from the table.
fn key_of(table: &SourceTable) -> Vec<String> {
    let part = |column: &ColumnPlan| format!("{} {}", column.name, column.kind);
    if table.is_derived { table.key_columns().map(part).collect() } else { Vec::new() }
}

/// Whether the records of the topic have the keys that the table has now.
///
/// # Errors
/// Definite when the primary key has changed: keys of two forms would name one row.
pub(crate) fn check_key(committed: Option<&TableProgress>, table: &SourceTable, topic: &str) -> Result<()> {
    let now = key_of(table);
    let Some(before) = committed.map(|c| &c.state.key).filter(|key| !key.is_empty() && **key != now) else {
        return Ok(());
    };
    Err(Error::new(Code::KeyChanged, format!(
        "{} has the primary key ({}), and the records of topic {topic} were written with the key ({})",
        table.full_name(),
        now.join(", "),
        before.join(", ")
    ))
    .with_remedy(
        "give the table its former key back, then `cdc-producer checkpoint reset`; or name another topic (kafka.topic), which a \
         snapshot fills",
    ))
}

/// Notes the schema that the producer writes with from now on, and its id. Without a note of the offsets from which the
/// list of ids is complete, it is complete from the topic's present ends: earlier records may be from a version that
/// did not note ids.
pub(crate) fn note_schema_id(progress: &mut TableProgress, id: u32, schema: &RecordSchema, bounds: &[Bounds]) {
    progress.schema_ids.get_or_insert_default().insert(id);
    progress.schema_fields.retain(|(noted, _)| *noted != id);
    progress.schema_fields.insert((id, avro::schema::fingerprint(schema)));
    progress.schema_ids_from.get_or_insert_with(|| bounds.iter().map(|b| b.end).collect());
}

#[cfg(test)]
mod tests {
    use model::position::{CompleteSnapshot, KeyBound, KeyPart, ServerPlace};
    use mysql::table::Contract;

    use super::*;

    fn progress(snapshot: Option<SnapshotProgress>) -> TableProgress {
        TableProgress { snapshot, ..TableProgress::default() }
    }

    fn bounds(of: &[(i64, i64)]) -> Vec<Bounds> {
        of.iter().map(|(begin, end)| Bounds { begin: *begin, end: *end }).collect()
    }

    #[test]
    fn a_topic_that_ends_too_early_is_another_one() {
        let topics = ("t", "t.checkpoint");
        let check =
            |progress: &TableProgress, ends: &[(i64, i64)]| check_topic(progress, &bounds(ends), None, topics).is_ok();
        let old = progress(Some(SnapshotProgress { after: None, first: 0, rows: 0, begin: None, sweep: None }));
        assert!(check(&old, &[(0, 0), (0, 0)]), "an earlier version noted nothing");
        let begun = progress(Some(SnapshotProgress::new(vec![0, 7], 0)));
        assert!(check(&begun, &[(0, 0), (7, 7)]) && !check(&begun, &[(0, 9), (0, 6)]));
        let complete = Some(CompleteSnapshot { epoch: 2, begin: vec![0, 0], end: vec![3, 0] });
        let complete = TableProgress { complete, ..progress(None) };
        assert!(check(&complete, &[(0, 3), (0, 0)]) && !check(&complete, &[(0, 2), (0, 5)]));
        let started = TableProgress { ends: Some(vec![5, 5]), ..progress(None) };
        assert!(check(&started, &[(0, 5), (0, 5)]) && !check(&started, &[(0, 5), (0, 4)]));
        // Any records.
        let check =
            |progress: &TableProgress, id| check_topic(progress, &bounds(&[(0, 9), (0, 9)]), id, topics).is_ok();
        assert!(check(&started, Some("A")) && check(&started, None));
        let known = TableProgress { topic_id: Some("A".to_owned()), ..started };
        assert!(check(&known, Some("A")) && check(&known, None) && !check(&known, Some("B")));
    }

    #[test]
    fn records_keep_the_number_of_partitions() {
        let check = |progress: &TableProgress, now: &[(i64, i64)]| {
            let refused = check_count(Some(progress), &bounds(now), "t").err();
            refused.map_or_else(String::new, |e| e.to_string())
        };
        let two = "topic t has 3 partitions, as kafka.partitions says, but its records were written to 2";
        let started = TableProgress { ends: Some(vec![5, 0]), ..progress(None) };
        assert_eq!(check(&started, &[(0, 5), (0, 9)]), "");
        assert_eq!(check(&started, &[(0, 5), (0, 0), (0, 0)]), two);
        assert_eq!(check(&started, &[(5, 5), (0, 0), (0, 0)]), two, "its records have expired");
        assert_eq!(check(&started, &[(0, 0), (0, 0), (0, 0)]), "", "the topic is empty");
        assert_eq!(check(&progress(None), &[(0, 5)]), "", "an earlier version noted nothing");
        let begun = progress(Some(SnapshotProgress::new(vec![0, 7], 0)));
        assert_eq!(check(&begun, &[(0, 1), (0, 7), (0, 0)]), two);
        // A version without this comparison noted the new number at each start.
        let complete = Some(CompleteSnapshot { epoch: 2, begin: vec![0, 0], end: vec![3, 0] });
        let mixed = TableProgress { complete, ends: Some(vec![3, 4, 4]), ..progress(None) };
        assert_eq!(check(&mixed, &[(0, 3), (0, 4), (0, 4)]), two);
        assert!(check_count(None, &bounds(&[(0, 5)]), "t").is_ok());
    }

    #[test]
    fn a_topic_without_records_may_get_more_partitions() {
        let complete = Some(CompleteSnapshot { epoch: 2, begin: vec![0], end: vec![0] });
        let mut resumed =
            TableProgress { complete, ends: Some(vec![0]), ..progress(Some(SnapshotProgress::new(vec![0], 0))) };
        resume(&mut resumed, &bounds(&[(0, 0), (0, 0)]));
        assert!(check_count(Some(&resumed), &bounds(&[(0, 5), (0, 5)]), "t").is_ok());
        assert_eq!(resumed.snapshot, Some(SnapshotProgress::new(vec![0, 0], 0)));
    }

    #[test]
    fn partitions_that_retention_has_cut_are_counted() {
        assert_eq!(cut_partitions(&bounds(&[(0, 5), (2, 5), (9, 9)])), 2);
    }

    fn key(id: i64) -> KeyBound {
        KeyBound::One(KeyPart::Signed(id))
    }

    #[test]
    fn a_snapshot_whose_beginning_is_unknown_is_made_again() {
        let (old, now) =
            (SnapshotProgress { after: Some(key(9)), first: 0, rows: 9, begin: None, sweep: None }, [(0, 5), (0, 8)]);
        let mut resumed = progress(Some(old));
        resume(&mut resumed, &bounds(&now));
        assert_eq!(resumed.snapshot, Some(SnapshotProgress::new(vec![5, 8], 9)));
        let known = SnapshotProgress { after: Some(key(9)), ..SnapshotProgress::new(vec![1, 2], 9) };
        let mut resumed = progress(Some(known.clone()));
        resume(&mut resumed, &bounds(&now));
        assert_eq!((resumed.snapshot, resumed.ends), (Some(known), Some(vec![5, 8])));
    }

    #[test]
    fn a_column_keeps_its_definition_wherever_it_moves() {
        let contract = Contract::new(runtime::config::PINNED_SCHEMA, false).expect("the product's schema");
        let mut table = SourceTable::expected("shop", "product", &contract);
        table.is_derived = true;
        let mut resumed = progress(None);
        // A version that did not note the names.
        resumed.state.columns = ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec();
        note_columns(&mut resumed.state, &table);
        assert_eq!(resumed.state.columns, ["a", "b", "c", "d", "e"]);
        assert!(check_key(Some(&resumed), &table, "t").is_ok());
        table.columns.swap(1, 2);
        note_columns(&mut resumed.state, &table);
        assert_eq!(resumed.state.columns, ["a", "c", "b", "d", "e"]);
        assert!(resumed.state.gone.is_empty());
        // Spelled in another way, dropped, and added.
        "Price".clone_into(&mut table.columns[3].name);
        "sku".clone_into(&mut table.columns[1].name);
        note_columns(&mut resumed.state, &table);
        assert_eq!(resumed.state.columns, ["a", "", "b", "d", "e"]);
        assert_eq!(resumed.state.gone, ["category".to_owned()].into());
        table.columns.swap(0, 1);
        let refused = check_key(Some(&resumed), &table, "t").expect_err("another key").to_string();
        assert!(refused.contains("shop.product has the primary key (sku "), "{refused}");
        assert!(check_key(None, &table, "t").is_ok());
        // A snapshot writes each row as it is.
        let from = ServerPlace { server_uuid: String::new(), file: String::new(), offset: 0 };
        resumed.begin_snapshot(vec![0], from);
        assert!(resumed.state.gone.is_empty());
    }

    #[test]
    fn schema_ids_are_complete_from_the_first_note() {
        let contract = Contract::new(runtime::config::PINNED_SCHEMA, false).expect("the product's schema");
        let schema = &contract.schema;
        let mut noting = progress(None);
        note_schema_id(&mut noting, 4, schema, &bounds(&[(0, 5), (8, 8)]));
        note_schema_id(&mut noting, 6, schema, &bounds(&[(0, 9), (8, 9)]));
        assert_eq!((noting.schema_ids, noting.schema_ids_from), (Some([4, 6].into()), Some(vec![5, 8])));
        let fields = avro::schema::fingerprint(schema);
        assert_eq!(noting.schema_fields, [(4, fields), (6, fields)].into());
        // A version that noted ids, but not from which offsets.
        let mut noting = TableProgress { schema_ids: Some([4].into()), ..progress(None) };
        note_schema_id(&mut noting, 4, schema, &bounds(&[(0, 5)]));
        assert_eq!((noting.schema_ids, noting.schema_ids_from), (Some([4].into()), Some(vec![5])));
    }
}
