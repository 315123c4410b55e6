//! `consumer doctor`: checks what a start needs, without creating or changing anything.

use std::fs;
use std::path::Path;

use avro::registry::{Found, Registry};
use kafka::committed_progress;
use kafka::doctor::{self, Check};
use kafka::{LastRecords, Resource, Right, TopicSpec};
use model::error::Result;
use runtime::config::{KafkaSettings, PostgresSettings, RegistrySettings, Settings};

use crate::schemas;
use crate::sink::check as postgres;
use crate::slot::{Slots, unwritable};
use crate::{log_checkpoint, repair};

/// The names of the checks.
const KAFKA: &str = "Kafka";
const FOLDER: &str = "logs folder";

/// Prints each check with its remedy.
///
/// # Errors
/// Usage when a setting can't be read; definite when a check failed.
pub(crate) async fn run(settings: &Settings, kafka: &KafkaSettings) -> Result<()> {
    let topics = kafka::check_topics(kafka, &wanted(kafka));
    let all_there = topics.as_ref().is_ok_and(Vec::is_empty);
    let mut checks = match topics {
        Ok(missing) => {
            let mut checks = of_topics(kafka, &missing).await;
            checks.extend(tokio::task::block_in_place(|| of_rights(kafka, &missing)));
            checks
        }
        Err(error) => vec![Check::failed(KAFKA, &error)],
    };
    if all_there {
        let looked = tokio::task::block_in_place(|| repair::look(kafka));
        checks.push(looked.map_or_else(|e| Check::failed("group", &e), |found| Check::good("group", found)));
    }
    let root = settings.path("consumer.logs");
    let looked = tokio::task::block_in_place(|| of_folder(kafka, &root, all_there));
    checks.extend(looked.unwrap_or_else(|e| vec![Check::failed(FOLDER, &e)]));
    checks.push(match Registry::new(RegistrySettings::from(settings)?)?.check_reading().await {
        Ok(Found::Good(found)) => Check::good("registry", found),
        Ok(Found::Unprotected(found, remedy)) => Check::warning("registry", found, remedy),
        Err(e) => Check::failed("registry", &e),
    });
    match PostgresSettings::from(settings)? {
        Some(postgres) => {
            let layout = schemas::pinned(settings)?.and_then(|plan| plan.layout());
            checks.extend(postgres::checks(&postgres, layout.as_deref()).await);
        }
        None => checks.push(Check::good("PostgreSQL", "off: postgres.url is not set")),
    }
    doctor::conclude(&checks)
}

/// The topics that a consumer needs.
pub(crate) fn wanted(kafka: &KafkaSettings) -> [TopicSpec; 3] {
    [TopicSpec::products(kafka), log_checkpoint::topic(kafka), TopicSpec::dead_letters(kafka)]
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
fn of_rights(kafka: &KafkaSettings, missing: &[String]) -> Vec<Check> {
    use Right::{Read, Write};
    let [topic, slots, letters] = wanted(kafka).map(|topic| topic.name);
    let topics = [(topic, &[Read][..]), (slots, &[Read, Write]), (letters, &[Write])];
    let there = topics.into_iter().filter(|(name, _)| !missing.contains(name));
    let mut rights: Vec<_> = there.map(|(name, rights)| (Resource::Topic(name), rights)).collect();
    rights.push((Resource::Group(kafka.group_id.clone()), &[Read]));
    let mut untold = format!("WRITE on the transactional ids {}.consumer_*", kafka.topic);
    if !missing.is_empty() {
        untold = format!("{untold}, CREATE on {}", missing.join(", "));
    }
    doctor::rights(kafka, &rights, &untold)
}

/// Checks that the folder is writable, and that its logs are those that the log checkpoints describe.
fn of_folder(kafka: &KafkaSettings, root: &Path, has_checkpoints: bool) -> Result<Vec<Check>> {
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
                checks.extend(log_checkpoint::look(kafka, &slot).err().map(|e| Check::failed(FOLDER, &e)));
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
