//! How our rate and memory change with more changes, columns and partitions.

use anyhow::Result;
use mysql_async::prelude::Queryable;
use testbed::servers::DATABASE;

use crate::backlog::{Backlog, Run};
use crate::lab::Lab;
use crate::load::{self, Load};
use crate::report::{Better, Figure};
use crate::size::Size;
use crate::{drain, topic};

/// Numbers of table columns; a row image has all of them, the topic only the contract's five.
const COLUMNS: [u64; 3] = [5, 10, 50];
const PARTITIONS: [i32; 3] = [1, 10, 100];

/// The case.
///
/// # Errors
/// When a program fails, makes no progress, or does not deliver everything exactly once.
pub fn case(lab: &mut Lab, size: &Size, say: &dyn Fn(String)) -> Result<Vec<Figure>> {
    Ok([changes(lab, size, say)?, columns(lab, size, say)?, partitions(lab, size, say)?].concat())
}

fn changes(lab: &mut Lab, size: &Size, say: &dyn Fn(String)) -> Result<Vec<Figure>> {
    let case = "Growth of the backlog";
    let mut steps = Vec::new();
    let mut largest = None;
    for changes in [size.changes / 10, size.changes, size.changes * 10] {
        let backlog = Backlog::make(lab, Load { changes, per_transaction: 500 }, false)?;
        let name = format!("{} changes", backlog.changes);
        steps.push(runs(lab, &backlog, &name, size.runs, topic::settings("", "")?.partitions, say)?);
        largest = steps.last().and_then(|(_, runs)| runs.last()).map(|run| run.topic.clone());
    }
    let mut figures = compared(case, &steps);
    if let (Some((name, runs)), Some(topic)) = (steps.last(), largest) {
        let records = runs.last().map_or(0, |run| run.arrival.records);
        let drained = drain::consumers(lab, &topic, records, "")?;
        say(format!("  {drained:?}"));
        let mut flat = |who: &str, goal: &str, most: Vec<f64>, early: Vec<f64>| {
            let measure = format!("most resident of {who}, {name}");
            figures.push(Figure::new([case, &measure, "MB", "in the first tenth", goal], Better::Less, most, early));
        };
        let (most, early) = runs.iter().map(|run| (run.usage.peak_rss_mb, run.early_peak_mb())).unzip();
        flat("the producer", "≤ 40 MB, ≥ 0.9 ×", most, early);
        flat("a consumer", "≤ 48 MB, ≥ 0.9 ×", vec![drained.peak_rss_mb], vec![drained.early_peak_mb]);
    }
    Ok(figures)
}

fn columns(lab: &mut Lab, size: &Size, say: &dyn Fn(String)) -> Result<Vec<Figure>> {
    let mut steps = Vec::new();
    for columns in COLUMNS {
        let load = Load { changes: size.changes, per_transaction: 500 };
        let backlog = Backlog::of(lab, false, async |mysql| {
            let mut conn = load::connect(mysql, Some(DATABASE)).await?;
            for more in 5..columns {
                let kind = ["VARCHAR(40) DEFAULT 'stackable'", "INT DEFAULT 7", "DECIMAL(10,2) DEFAULT 1.5"]
                    [more as usize % 3];
                conn.query_drop(format!("ALTER TABLE product ADD COLUMN more_{more} {kind}")).await?;
            }
            load.run(mysql).await
        })?;
        let name = format!("{columns} columns");
        steps.push(runs(lab, &backlog, &name, size.runs, topic::settings("", "")?.partitions, say)?);
    }
    Ok(compared("Growth of the table's columns", &steps))
}

fn partitions(lab: &mut Lab, size: &Size, say: &dyn Fn(String)) -> Result<Vec<Figure>> {
    let backlog = Backlog::make(lab, Load { changes: size.changes, per_transaction: 500 }, false)?;
    let mut steps = Vec::new();
    for partitions in PARTITIONS {
        let name = format!("{partitions} partition{}", if partitions == 1 { "" } else { "s" });
        steps.push(runs(lab, &backlog, &name, size.runs, partitions, say)?);
    }
    let case = "Growth of the partitions";
    let mut figures = compared(case, &steps);
    if let [.., (fewer, base), (more, runs)] = &steps[..] {
        let of = |runs: &[Run]| runs.iter().map(|run| run.arrival.steady_rate()).collect();
        let measure = format!("rate, {more} beside {fewer}");
        figures.push(Figure::new([case, &measure, "records/s", fewer, "≥ 0.75 ×"], Better::More, of(runs), of(base)));
    }
    Ok(figures)
}

type Step = (String, Vec<Run>);

fn runs(
    lab: &mut Lab,
    backlog: &Backlog,
    name: &str,
    count: u32,
    partitions: i32,
    say: &dyn Fn(String),
) -> Result<Step> {
    let mut runs = Vec::new();
    for _ in 0..count {
        let mut settings = topic::settings(&lab.kafka(), &lab.fresh_name("growth"))?;
        settings.partitions = partitions;
        let run = backlog.ours_into(lab, &settings)?;
        say(format!(
            "  {name}: {:.0}/s, {:.2} CPU-s per million, {:.1} MB, {:.1} MB in the first tenth",
            run.arrival.steady_rate(),
            run.cpu_per_million(),
            run.usage.peak_rss_mb,
            run.early_peak_mb()
        ));
        runs.push(run);
    }
    Ok((name.to_owned(), runs))
}

/// Compares each step with the first.
fn compared(case: &str, steps: &[Step]) -> Vec<Figure> {
    let Some(((first, base), others)) = steps.split_first() else { return vec![] };
    let mut figures = Vec::new();
    let mut each = |names: [&str; 3], better, value: fn(&Run) -> f64| {
        let [measure, unit, goal] = names;
        for (name, runs) in others {
            let of = |runs: &[Run]| runs.iter().map(value).collect();
            let measure = format!("{measure}, {name}");
            figures.push(Figure::new([case, &measure, unit, first, goal], better, of(runs), of(base)));
        }
    };
    each(["rate", "records/s", "≥ 0.9 ×"], Better::More, |run| run.arrival.steady_rate());
    each(["most resident of the producer", "MB", "≤ 40 MB"], Better::Less, |run| run.usage.peak_rss_mb);
    figures
}
