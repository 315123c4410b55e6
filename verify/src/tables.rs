//! The tables that are compared, and the verdict on all of them.

use kafka::committed_progress;
use model::error::{Code, Error, Result};
use model::table_name::TableName;
use runtime::config::{KafkaSettings, Pattern, Settings};

use crate::report::{Report, Verdict};

/// The tables: those that `tables` names in full, and those that it takes by a pattern and the producer's progress has.
/// The main table is first. Blocks.
///
/// # Errors
/// Errors of the look into Kafka; definite when there is none.
pub(crate) fn taken(settings: &Settings) -> Result<Vec<TableName>> {
    let selection = settings.tables()?;
    let progress = if selection.has_patterns() {
        committed_progress::look_up(&KafkaSettings::from(settings)?, &|| false)?
    } else {
        None
    };
    let main = settings.main_table();
    let mut names: Vec<TableName> = selection.known(&main, progress.as_ref()).into_iter().collect();
    names.sort_by_key(|name| *name != main);
    if names.is_empty() {
        return Err(Error::new(Code::TableMissing, "the producer has taken no table that matches tables yet")
            .with_remedy("start it; `cdc-producer tables` lists what it will take"));
    }
    Ok(names)
}

/// The place of the table of `--table` among those that are taken.
///
/// # Errors
/// Usage when it is none of them.
pub(crate) fn place(taken: &[TableName], text: &str) -> Result<usize> {
    let name = Pattern::parse(text).ok().and_then(|pattern| pattern.exact());
    taken.iter().position(|taken| Some(taken) == name.as_ref()).ok_or_else(|| {
        let names = taken.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Error::new(Code::CommandLine, format!("{text} is not taken")).with_remedy(format!("name one of {names}"))
    })
}

/// The verdict on several tables: the worst one.
pub(crate) fn worst(reports: &[Report]) -> Verdict {
    let rank = |verdict: &Verdict| match verdict {
        Verdict::Agree => 0,
        Verdict::AgreeAsFarAsCompared => 1,
        Verdict::NothingCompared => 2,
        Verdict::Behind => 3,
        Verdict::Different => 4,
    };
    reports.iter().map(|report| report.verdict).max_by_key(rank).unwrap_or_default()
}

/// The last line of the report on several tables.
pub(crate) fn summary(reports: &[Report]) -> String {
    let head = |verdict| match verdict {
        Verdict::Agree => "OK",
        Verdict::AgreeAsFarAsCompared => "AS FAR AS COMPARED",
        Verdict::NothingCompared => "NOTHING COMPARED",
        Verdict::Behind => "BEHIND",
        Verdict::Different => "DIFFERENT",
    };
    let worst = worst(reports);
    let of = |verdict| reports.iter().filter(move |report| report.verdict == verdict);
    if worst == Verdict::Agree {
        return format!("OK: {} tables agree", reports.len());
    }
    let names: Vec<&str> = of(worst).map(|report| report.table.as_str()).collect();
    format!("{}: {}; {} of {} tables agree", head(worst), names.join(", "), of(Verdict::Agree).count(), reports.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_table_decides() {
        let report = |table: &str, verdict| Report { table: table.to_owned(), verdict, ..Report::default() };
        for (verdicts, want) in [
            (&[Verdict::Agree, Verdict::Agree][..], "OK: 2 tables agree"),
            (&[Verdict::Agree, Verdict::Behind], "BEHIND: t1; 1 of 2 tables agree"),
            (
                &[Verdict::Different, Verdict::Behind, Verdict::AgreeAsFarAsCompared],
                "DIFFERENT: t0; 0 of 3 tables agree",
            ),
        ] {
            let reports: Vec<Report> =
                verdicts.iter().enumerate().map(|(n, verdict)| report(&format!("t{n}"), *verdict)).collect();
            assert_eq!(summary(&reports), want);
        }
    }
}
