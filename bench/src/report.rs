//! The results, as JSON for machines and as a page with tables and charts for people.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use plotters::prelude::*;
use serde::{Deserialize, Serialize};

/// Whether more or less of a measure is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// A rate.
    More,
    /// A time, CPU, memory.
    Less,
}

/// One measure of one case: our value beside a reference.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Figure {
    /// The case, such as `backlog, transactions of 500`.
    pub case: String,
    /// What was measured.
    pub measure: String,
    /// Its unit.
    pub unit: String,
    /// Median of our runs.
    pub ours: f64,
    /// Median of the reference's runs, or the limit itself; `None` when there is nothing to compare with.
    pub reference: Option<f64>,
    /// What the reference is.
    pub reference_name: Option<String>,
    /// How many times better ours is than the reference.
    pub ratio: Option<f64>,
    /// The target.
    pub goal: String,
    /// The measured commit, and whether files had been changed since; empty before a report is written.
    #[serde(default)]
    pub commit: String,
    /// The command; empty before a report is written.
    #[serde(default)]
    pub command: String,
    /// Each run in order of execution, ours and the reference's in turns.
    pub runs: Runs,
}

/// The runs behind a figure.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Runs {
    /// Ours.
    pub ours: Vec<f64>,
    /// The reference's.
    pub reference: Vec<f64>,
}

impl Figure {
    /// From the runs; `names` are case, measure, unit, reference and goal.
    pub fn new(names: [&str; 5], better: Better, ours: Vec<f64>, reference: Vec<f64>) -> Self {
        let [case, measure, unit, reference_name, goal] = names;
        let compared = (!reference.is_empty()).then(|| median(&reference));
        let mine = median(&ours);
        let ratio = compared.map(|theirs| if better == Better::More { mine / theirs } else { theirs / mine });
        Self {
            case: case.to_owned(),
            measure: measure.to_owned(),
            unit: unit.to_owned(),
            ours: mine,
            reference: compared,
            reference_name: compared.map(|_| reference_name.to_owned()),
            ratio,
            goal: goal.to_owned(),
            commit: String::new(),
            command: String::new(),
            runs: Runs { ours, reference },
        }
    }

    /// Whether the goal is met. Each part of a goal is a bound on our value or, with `×`, on the ratio: `≤ 40 ms, ≥ 5
    /// ×`. `None` without a goal, or without a value to compare.
    fn meets_its_goal(&self) -> Option<bool> {
        let part = |part: &str| {
            let (sign, bound) = part.split_once(' ')?;
            let (bound, unit) = bound.split_once(' ')?;
            let bound: f64 = bound.parse().ok()?;
            let value = if unit == "×" { self.ratio? } else { self.ours };
            Some(if sign == "≤" { value <= bound } else { value >= bound })
        };
        self.goal.split(", ").map(part).try_fold(true, |all, this| Some(all & this?))
    }
}

/// The middle value, or the mean of the two middle ones; 0 for an empty list.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => 0.0,
        (n, middle) if n % 2 == 1 => sorted[middle],
        (_, middle) => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

/// A number with three significant digits and separated thousands.
pub fn shown(value: f64) -> String {
    if value.abs() >= 1_000.0 {
        let digits = format!("{:.0}", value);
        let mut text = String::new();
        for (i, digit) in digits.chars().enumerate() {
            if i > 0 && (digits.len() - i).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        return text;
    }
    let decimals = if value.abs() >= 100.0 {
        0
    } else if value.abs() >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.decimals$}")
}

/// How far runs of ours are apart, as a line; empty with one run.
fn ours_against_ours(of_case: &[&Figure]) -> String {
    let apart = of_case.iter().filter_map(|figure| {
        let (least, most) = extremes(&figure.runs.ours);
        (figure.runs.ours.len() > 1 && least > 0.0).then(|| most / least)
    });
    let apart: Vec<f64> = apart.collect();
    if apart.is_empty() {
        return String::new();
    }
    let (middle, most) = (shown(median(&apart)), shown(extremes(&apart).1));
    format!("Ours against ours: {middle} × from the least run to the most, {most} × in the figure that differs most\n")
}

fn extremes(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::MAX, f64::MIN), |(least, most), value| (least.min(*value), most.max(*value)))
}

fn spread(values: &[f64]) -> String {
    let (least, most) = extremes(values);
    match values.len() {
        0 => "–".to_owned(),
        1 => shown(values[0]),
        _ => format!("{} ({} to {})", shown(median(values)), shown(least), shown(most)),
    }
}

/// All figures of a run, with its environment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Machine, versions, settings, by name.
    pub setting: BTreeMap<String, String>,
    /// The measured commit.
    pub commit: String,
    /// The command of the measurement.
    pub command: String,
    /// The figures.
    pub figures: Vec<Figure>,
}

impl Report {
    /// Writes `benchmarks.json` (the figures), `benchmarks.md` and the charts into the folder. Existing figures of
    /// other cases stay.
    ///
    /// # Errors
    /// When a file can't be written, or an existing one can't be read.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let json = folder.join("benchmarks.json");
        let mut figures: Vec<Figure> = match fs::read_to_string(&json) {
            Ok(text) => serde_json::from_str(&text).with_context(|| json.display().to_string())?,
            Err(_) => Vec::new(),
        };
        figures.retain(|old| !self.figures.iter().any(|new| new.case == old.case));
        let measured =
            |figure: &Figure| Figure { commit: self.commit.clone(), command: self.command.clone(), ..figure.clone() };
        figures.extend(self.figures.iter().map(measured));
        figures.sort_by(|a, b| a.case.cmp(&b.case));
        fs::write(&json, serde_json::to_string_pretty(&figures)? + "\n")?;
        let mut page = String::from(
            "# Benchmarks\n\nMade by `cargo xtask bench`; every figure with its runs is in [benchmarks.json](benchmarks.json). \
             Exactly once is on in all of ours: transactions, `acks=all`, idempotence. A median, with the least and the most \
             of the runs; the ratio says how many times better ours is, ✓ and ✗ whether the goal is met. A ratio that is no larger \
             than ours against ours, which is the most by the least of our own runs in the median of a case's figures, shows no difference. Ratios count: the figures themselves are of this \
             machine, on which servers and programs share the cores. Rates are from the first record to the last, by the broker's time of each append or the logs' \
             last write. What was measured was whole: each topic holds every change once and each row's last state, or \
             `verify` found topic, logs and tables equal.\n\n",
        );
        for (name, value) in &self.setting {
            page.push_str(&format!("- {name}: {value}\n"));
        }
        let mut cases: Vec<&str> = figures.iter().map(|f| f.case.as_str()).collect();
        cases.dedup();
        for case in cases {
            let of_case: Vec<&Figure> = figures.iter().filter(|f| f.case == case).collect();
            page.push_str(&format!("\n## {case}\n"));
            if let Some(Figure { commit, command, runs, .. }) = of_case.first() {
                let runs = match runs.ours.len() {
                    1 => "1 run".to_owned(),
                    more => format!("{more} runs"),
                };
                let differ = ours_against_ours(&of_case);
                page.push_str(&format!("\n{runs} of `{command}` at commit {commit}\n{differ}"));
            }
            page.push_str("\n| measure | ours | reference | ratio | goal |\n|---|---:|---:|---:|---|\n");
            for figure in &of_case {
                let name = figure.reference_name.as_deref().unwrap_or_default();
                page.push_str(&format!(
                    "| {}, {} | {} | {} {name} | {} | {} |\n",
                    figure.measure,
                    figure.unit,
                    spread(&figure.runs.ours),
                    spread(&figure.runs.reference),
                    figure.ratio.map(shown).unwrap_or_default(),
                    match figure.meets_its_goal() {
                        Some(true) => format!("✓ {}", figure.goal),
                        Some(false) => format!("✗ {}", figure.goal),
                        None => figure.goal.clone(),
                    }
                ));
            }
            if let Some(first) = of_case.iter().find(|f| f.reference.is_some()) {
                let words: Vec<&str> =
                    case.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()).collect();
                let file = format!("benchmarks-{}.svg", words.join("-").to_lowercase());
                chart(first, &folder.join(&file))?;
                page.push_str(&format!("\n![{case}: {}]({file})\n", first.measure));
            }
        }
        Ok(fs::write(folder.join("benchmarks.md"), page)?)
    }
}

/// Draws two bars: our value and the reference.
fn chart(figure: &Figure, path: &Path) -> Result<()> {
    let bars =
        [("ours", figure.ours), (figure.reference_name.as_deref().unwrap_or(""), figure.reference.unwrap_or(0.0))];
    let most = bars.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    let root = SVGBackend::new(path, (720, 120)).into_drawing_area();
    let drawn = || -> Result<(), Box<dyn std::error::Error>> {
        root.fill(&WHITE)?;
        let style = ("sans-serif", 14).into_font();
        let title = format!("{}: {} ({})", figure.case, figure.measure, figure.unit);
        root.draw(&Text::new(title, (10, 10), style.clone()))?;
        for (i, (name, value)) in bars.iter().enumerate() {
            let top = 40 + 36 * i as i32;
            let width = (value / most * 430.0).max(1.0) as i32;
            let color = if i == 0 { RGBColor(0, 98, 155) } else { RGBColor(160, 160, 160) };
            root.draw(&Text::new((*name).to_owned(), (10, top + 6), style.clone()))?;
            root.draw(&Rectangle::new([(190, top), (190 + width, top + 26)], color.filled()))?;
            root.draw(&Text::new(shown(*value), (196 + width, top + 6), style.clone()))?;
        }
        Ok(root.present()?)
    };
    drawn().map_err(|e| anyhow::anyhow!("cannot draw {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_above_one_is_better_either_way() {
        let rate = Figure::new(["c", "m", "1/s", "r", ""], Better::More, vec![30.0, 10.0, 20.0], vec![5.0, 10.0, 15.0]);
        assert_eq!((rate.ours, rate.reference, rate.ratio), (20.0, Some(10.0), Some(2.0)));
        let time = Figure::new(["c", "m", "s", "r", ""], Better::Less, vec![2.0], vec![10.0, 20.0]);
        assert_eq!(time.ratio, Some(7.5));
        assert_eq!(Figure::new(["c", "m", "s", "r", ""], Better::Less, vec![2.0], vec![]).reference_name, None);
    }

    #[test]
    fn each_part_of_a_goal_counts() {
        let met = |goal: &str, theirs: Vec<f64>| {
            Figure::new(["c", "m", "ms", "r", goal], Better::Less, vec![30.0], theirs).meets_its_goal()
        };
        assert_eq!(met("≤ 40 ms", vec![]), Some(true));
        assert_eq!(met("≤ 20 ms", vec![]), Some(false));
        assert_eq!(met("≤ 40 ms, ≥ 5 ×", vec![300.0]), Some(true));
        assert_eq!(met("≤ 40 ms, ≥ 5 ×", vec![60.0]), Some(false));
        assert_eq!((met("≥ 5 ×", vec![]), met("", vec![])), (None, None));
    }

    #[test]
    fn ours_against_ours_needs_two_runs() {
        let figure = |ours: &[f64]| Figure::new(["c", "m", "ms", "", ""], Better::Less, ours.to_vec(), vec![]);
        let figures = [figure(&[10.0, 11.0, 10.5]), figure(&[4.0, 2.0]), figure(&[5.0, 6.0]), figure(&[3.0])];
        let line = "Ours against ours: 1.20 × from the least run to the most, 2.00 × in the figure that differs most\n";
        assert_eq!(ours_against_ours(&figures.iter().collect::<Vec<_>>()), line);
        assert_eq!(ours_against_ours(&[&figure(&[3.0]), &figure(&[0.0, 0.0])]), "");
    }

    #[test]
    fn a_part_of_the_cases_takes_the_place_of_their_older_figures() -> Result<()> {
        let folder = std::env::temp_dir().join(format!("bench-report-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let write = |case: &str, value: f64, commit: &str| {
            let figure = Figure::new([case, "m", "s", "", ""], Better::Less, vec![value], vec![]);
            let command = format!("bench {case}");
            Report { figures: vec![figure], commit: commit.to_owned(), command, ..Report::default() }.write(&folder)
        };
        write("b", 1.0, "one")?;
        write("a", 2.0, "one")?;
        write("b", 3.0, "two")?;
        let page = fs::read_to_string(folder.join("benchmarks.md"))?;
        let figures: Vec<Figure> = serde_json::from_str(&fs::read_to_string(folder.join("benchmarks.json"))?)?;
        let figures: Vec<_> = figures.iter().map(|f| (f.case.as_str(), f.ours, f.commit.as_str())).collect();
        assert_eq!(figures, [("a", 2.0, "one"), ("b", 3.0, "two")]);
        assert!(page.contains("## a\n\n1 run of `bench a` at commit one\n"), "{page}");
        assert!(page.contains("## b\n\n1 run of `bench b` at commit two\n"), "{page}");
        Ok(fs::remove_dir_all(folder)?)
    }

    #[test]
    fn numbers_are_short() {
        let texts = [0.0, 0.123_4, 12.34, 123.4, 1_234.5, 1_234_567.0].map(shown);
        assert_eq!(texts, ["0.00", "0.12", "12.3", "123", "1,234", "1,234,567"]);
    }
}
