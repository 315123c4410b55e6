//! The tables whose topics the group reads: those that `tables` names in full, and those that it takes by a pattern and
//! the producer's progress has.

use std::sync::mpsc::Sender;
use std::time::Duration;

use kafka::{Topic, committed_progress};
use model::error::Result;
use model::position::Progress;
use model::table_name::TableName;
use runtime::config::{KafkaSettings, Settings, require_own_topic};
use tokio_util::sync::CancellationToken;

/// How often to look for new tables.
const EVERY: Duration = Duration::from_secs(3);

/// A table whose topic is read.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Its topic.
    pub topic: Topic,
    /// Its name.
    pub name: TableName,
    /// The settings as this table has them.
    pub settings: Settings,
    /// Those of them about Kafka.
    pub kafka: KafkaSettings,
}

/// The tables that are known without a look at the progress.
///
/// # Errors
/// Usage when a setting can't be used, or two tables have one topic.
pub fn named(settings: &Settings) -> Result<Vec<Taken>> {
    with_progress(settings, None)
}

/// All tables that are known now; `kafka` has the settings of the pipeline. Blocks.
///
/// # Errors
/// As [`named`] and [`committed_progress::look_up`].
pub fn known(settings: &Settings, kafka: &KafkaSettings, stops: &dyn Fn() -> bool) -> Result<Vec<Taken>> {
    if settings.tables()?.has_patterns() {
        with_progress(settings, committed_progress::look_up(kafka, stops)?.as_ref())
    } else {
        named(settings)
    }
}

/// Sends all known tables now and then, until shutdown, if a table can appear. Call it within a runtime.
pub(crate) fn watch(
    settings: Settings,
    kafka: KafkaSettings,
    found: Sender<Vec<Taken>>,
    shutdown: CancellationToken,
) -> Result<()> {
    if settings.tables()?.has_patterns() {
        drop(tokio::spawn(async move {
            shutdown.run_until_cancelled(send_known(settings, kafka, found, shutdown.clone())).await
        }));
    }
    Ok(())
}

async fn send_known(settings: Settings, kafka: KafkaSettings, found: Sender<Vec<Taken>>, shutdown: CancellationToken) {
    loop {
        tokio::time::sleep(EVERY).await;
        let (settings, kafka, stop) = (settings.clone(), kafka.clone(), shutdown.clone());
        let look = move || known(&settings, &kafka, &|| stop.is_cancelled());
        match tokio::task::spawn_blocking(look).await {
            Ok(Ok(tables)) => found.send(tables).unwrap_or_default(),
            Ok(Err(error)) => tracing::debug!("new tables can't be looked for: {error}"),
            // The client logs its panic where it happens; the next look creates another client.
            Err(error) => tracing::debug!(%error, "new tables can't be looked for"),
        }
    }
}

/// The tables that are known with this progress.
///
/// # Errors
/// As [`named`].
pub fn with_progress(settings: &Settings, progress: Option<&Progress>) -> Result<Vec<Taken>> {
    let (selection, main) = (settings.tables()?, settings.pipeline_topic());
    let (mut taken, mut topics) = (Vec::new(), Vec::new());
    for name in selection.known(&settings.main_table(), progress) {
        let settings = settings.of_table(&name);
        let kafka = KafkaSettings::from(&settings)?;
        require_own_topic(&mut topics, &kafka.topic, &name)?;
        taken.push(Taken { topic: Topic::of(&kafka.topic, main), name, settings, kafka });
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::position::{Position, TableProgress};
    use model::time::Micros;

    fn settings(tables: &str) -> Settings {
        let command = runtime::config::command(runtime::config::Program::Consumer, clap::Command::new("test"));
        let flags = command.get_matches_from(["test"]);
        let environment = [("TABLES".to_owned(), tables.to_owned())].into_iter().collect();
        Settings::load(runtime::config::Program::Consumer, &environment, &flags).expect("settings")
    }

    #[test]
    fn names_come_from_the_settings_and_the_progress() {
        let position = Position {
            server_uuid: "s".to_owned(),
            gtid_set: None,
            file: "binlog.000001".to_owned(),
            offset: 4,
            committed_at: Micros(0),
            anchor: None,
        };
        let mut progress = Progress::new(1, position);
        for name in ["shop.orders", "shop.tmp_1", "other.t", "shop.a.b"] {
            progress.tables.insert(name.to_owned(), TableProgress::default());
        }
        let shown = |tables: &str, progress: Option<&Progress>| {
            let taken = with_progress(&settings(tables), progress).expect("tables");
            let shown = |t: &Taken| format!("{} {}", t.name, t.topic.name("main"));
            taken.iter().map(shown).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(shown("", None), "buy_online_db.product main");
        assert_eq!(shown("[shop.*, crm.people]", None), "crm.people crm.people");
        let all = "[shop.*, '!shop.tmp_*', crm.people, buy_online_db.*]";
        assert_eq!(shown(all, Some(&progress)), "crm.people crm.people, shop.a.b shop.a.b, shop.orders shop.orders");
        progress.main.topic_id = Some("x".to_owned());
        assert!(shown(all, Some(&progress)).starts_with("buy_online_db.product main, "));
    }
}
