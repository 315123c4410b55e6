//! `consumer doctor`: checks what a start needs, without creating or changing anything.

use std::fs;
use std::path::Path;

use avro::registry::{Found, Registry};
use kafka::committed_progress;
use kafka::doctor::{self, Check};
use kafka::{LastRecords, Resource, Right, TopicSpec};
use model::error::Result;
use runtime::config::{KafkaSettings, PostgresSettings, RegistrySettings, Settings};

use crate::folder::unwritable;
use crate::schemas;
use crate::sink::check as postgres;
use crate::slot::Slots;
use crate::topics::Topics;
use crate::{log_checkpoint, repair, tables};

/// The names of the checks.
const KAFKA: &str = "Kafka";
const FOLDER: &str = "logs folder";

/// Prints each check with its remedy.
///
/// # Errors
/// Usage when a setting can't be read; definite when a check failed.
pub(crate) async fn run(settings: &Settings) -> Result<()> {
    doctor::conclude(&checks(settings).await?)
}

/// The checks of what a start needs.
///
/// # Errors
/// Usage when a setting can't be read.
pub async fn checks(settings: &Settings) -> Result<Vec<Check>> {
    let kafka = &KafkaSettings::from(settings)?;
    let tables = tokio::task::block_in_place(|| tables::known(settings, kafka, &|| false));
    let (tables, unknown) = match tables {
        Ok(tables) => (tables, None),
        Err(error) => (tables::named(settings)?, Some(error)),
    };
    let topics = Topics::new(&tables);
    let looked = kafka::check_topics(kafka, &wanted(kafka, &topics));
    let all_there = looked.as_ref().is_ok_and(Vec::is_empty);
    let mut checks = match looked {
        Ok(missing) => {
            let mut checks: Vec<Check> = unknown.iter().map(|error| Check::failed(KAFKA, error)).collect();
            for table in &tables {
                checks.extend(of_topics(&table.kafka, &missing).await);
            }
            checks.extend(tokio::task::block_in_place(|| of_rights(kafka, &topics, &missing)));
            checks
        }
        Err(error) => vec![Check::failed(KAFKA, &error)],
    };
    if all_there {
        let looked = tokio::task::block_in_place(|| repair::look(kafka, &topics));
        checks.push(looked.map_or_else(|e| Check::failed("group", &e), |found| Check::good("group", found)));
    }
    let root = settings.path("consumer.logs");
    let looked = tokio::task::block_in_place(|| of_folder(kafka, &topics, &root, all_there));
    checks.extend(looked.unwrap_or_else(|e| vec![Check::failed(FOLDER, &e)]));
    checks.push(match Registry::new(RegistrySettings::from(settings)?)?.check_reading().await {
        Ok(Found::Good(found)) => Check::good("registry", found),
        Ok(Found::Unprotected(found, remedy)) => Check::warning("registry", found, remedy),
        Err(e) => Check::failed("registry", &e),
    });
    match PostgresSettings::from(settings)? {
        Some(postgres) => {
            for table in &tables {
                let layout = schemas::pinned(&table.settings)?.and_then(|plan| plan.layout());
                let of_table = PostgresSettings::from(&table.settings)?.unwrap_or_else(|| postgres.clone());
                checks.extend(postgres::checks(&of_table, layout.as_deref()).await);
            }
        }
        None => checks.push(Check::good("PostgreSQL", "off: postgres.url is not set")),
    }
    Ok(checks)
}

/// The topics that a consumer needs.
pub(crate) fn wanted(kafka: &KafkaSettings, topics: &Topics) -> Vec<TopicSpec> {
    [topics.of_tables(), vec![log_checkpoint::topic(kafka)], topics.of_letters()].concat()
}

async fn of_topics(kafka: &KafkaSettings, missing: &[String]) -> Vec<Check> {
    let mut checks = vec![if missing.is_empty() {
        Check::good(KAFKA, format!("topic {} and the consumers' own are there", kafka.topic))
    } else {
        Check::good(KAFKA, format!("to be created: {}", missing.join(", ")))
    }];
    if missing.contains(&kafka.topic) {
        return checks;
    }
    let known = tokio::task::block_in_place(|| {
        let records = LastRecords::new(kafka)?;
        let partitions = usize::try_from(kafka.partitions).unwrap_or(0);
        Ok((records.bounds(&kafka.topic, partitions)?, committed_progress::look_up(kafka, &|| false)))
    });
    let (bounds, complete) = match known {
        Ok(known) => known,
        Err(error) => {
            checks.push(Check::failed(KAFKA, &error));
            return checks;
        }
    };
    let complete = complete.unwrap_or_else(|error| {
        // While the registry has every schema, the consumer works without it; rows whose records have expired then stay
        // in PostgreSQL.
        checks.push(Check::warning(KAFKA, error.to_string(), error.remedy().unwrap_or_default()));
        None
    });
    let complete = complete.and_then(|progress| progress.main.complete);
    checks.extend(doctor::topics(kafka, &doctor::expired(&bounds, complete.as_ref())).await);
    checks
}

/// Checks the rights on the existing topics that docs/security.md lists for the consumers.
fn of_rights(kafka: &KafkaSettings, topics: &Topics, missing: &[String]) -> Vec<Check> {
    use Right::{Read, Write};
    let mut wanted = vec![(log_checkpoint::topic(kafka).name, &[Read, Write][..])];
    for settings in topics.all().into_values() {
        let letters = TopicSpec::dead_letters(&settings).name;
        wanted.extend([(settings.topic, &[Read][..]), (letters, &[Write])]);
    }
    let there = wanted.into_iter().filter(|(name, _)| !missing.contains(name));
    let mut rights: Vec<_> = there.map(|(name, rights)| (Resource::Topic(name), rights)).collect();
    rights.push((Resource::Group(kafka.group_id.clone()), &[Read]));
    let mut untold = format!("WRITE on the transactional ids {}.consumer_*", kafka.topic);
    if !missing.is_empty() {
        untold = format!("{untold}, CREATE on {}", missing.join(", "));
    }
    doctor::rights(kafka, &rights, &untold)
}

/// Checks that the folder is writable, and that its logs are those that the log checkpoints describe.
fn of_folder(kafka: &KafkaSettings, topics: &Topics, root: &Path, has_checkpoints: bool) -> Result<Vec<Check>> {
    let there = root.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("."));
    let probe = there.join(format!(".doctor-{}", std::process::id()));
    // Never open a file that exists already, not even through a link.
    fs::File::create_new(&probe).and_then(|_| fs::remove_file(&probe)).map_err(|e| unwritable(there, e))?;
    let name = root.display();
    let Some(slots) = Slots::existing(root)? else {
        return Ok(vec![Check::good(FOLDER, format!("{name} is made, or gets its identity, at the first start"))]);
    };
    let (ids, mut held, mut checks) = (slots.ids()?, 0, Vec::new());
    for id in &ids {
        match slots.look(*id)? {
            None => held += 1,
            Some(slot) if has_checkpoints => {
                checks.extend(log_checkpoint::look(kafka, topics, &slot).err().map(|e| Check::failed(FOLDER, &e)));
            }
            Some(_) => {}
        }
    }
    if checks.is_empty() {
        let id = &slots.identity().id;
        checks.push(Check::good(FOLDER, format!("{name} is folder {id}: {} slots, {held} held", ids.len())));
    }
    Ok(checks)
}
