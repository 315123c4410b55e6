//! The sections of code that each change passes, each over the same thousand rows: `cargo bench -p bench` times
//! them and `cargo xtask instructions` counts them. They call the programs' own functions; nothing is copied here.

mod binlog_table;
pub mod rows;
pub mod wide;

use std::hint::black_box;

use anyhow::{Context, Result, ensure};
use avro::Decoder;
use cdc_producer::batch::{Batch, Change};
use cdc_producer::dump::Event;
use cdc_producer::plan::{Encoder, Plan, RowChange};
use model::change::{Op, Source};
use model::row::{Datum, recycle};
use model::row_key::is_key_of;
use model::time::Micros;
use rules::line::{Line, LineForm, Origin};
use rules::transform::{Capitals, Rules, Transform};
use runtime::config::{self, PINNED_SCHEMA, Program, Settings};

use self::rows::{ROWS, Rows};

/// A stretch of code by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum HotPath {
    /// Rows events of the binlog to records: key and Avro value
    Decode,
    /// Records to the producer's batch, with the header `source`
    Encode,
    /// Values and headers as a consumer polls them to transformed rows
    Transform,
    /// Transformed rows to lines of the log
    Line,
    /// Rows events of 50 columns to records
    WideDecode,
    /// Records of 50 columns to lines of the log
    WideLine,
}

/// The rows of all paths.
pub struct Input {
    /// Products.
    pub product: Rows,
    /// Rows of 50 columns.
    pub wide: wide::Rows,
}

impl Input {
    /// Creates them.
    ///
    /// # Errors
    /// When an event is not valid.
    pub fn make() -> Result<Self> {
        Ok(Self { product: Rows::make()?, wide: wide::Rows::make()? })
    }
}

/// Passes all rows over a path once, and returns their number.
pub type Pass<'a> = Box<dyn FnMut() -> Result<usize> + 'a>;

impl HotPath {
    /// All paths, in the order in which a change passes them.
    pub const ALL: [Self; 6] =
        [Self::Decode, Self::Encode, Self::Transform, Self::Line, Self::WideDecode, Self::WideLine];

    /// Its name in commands and in the baseline.
    pub fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Encode => "encode",
            Self::Transform => "transform",
            Self::Line => "line",
            Self::WideDecode => "wide-decode",
            Self::WideLine => "wide-line",
        }
    }

    /// Prepares the input of the path. Memory that the programs reuse is also reused by the next pass.
    ///
    /// # Errors
    /// When the rows can't be prepared, or when a pass does not carry a row.
    pub fn pass(self, input: &Input) -> Result<Pass<'_>> {
        let Input { product: rows, wide } = input;
        Ok(match self {
            Self::Decode => decode(&rows.table_map, &rows.events, &rows.encoder)?,
            Self::Encode => {
                let mut batch = Batch::default();
                Box::new(move || {
                    batch.clear();
                    encode(rows, &mut batch);
                    Ok(black_box(&batch).len())
                })
            }
            Self::Transform => {
                let mut batch = Batch::default();
                encode(rows, &mut batch);
                let (decoder, transform) = transform()?;
                let (mut buffer, mut key, mut capitals) =
                    (Vec::<Datum<'static>>::new(), Vec::new(), Capitals::default());
                Box::new(move || {
                    let mut count = 0;
                    for record in batch.iter() {
                        let (_, value) = avro::split(record.value.context("a record without a value")?)?;
                        black_box(Source::parse(record.header)?);
                        let mut row: Vec<Datum<'_>> = recycle(std::mem::take(&mut buffer));
                        decoder.decode(value, &mut row)?;
                        ensure!(is_key_of(decoder.schema(), &row, record.key, &mut key), "another key");
                        count += usize::from(transform.apply(&mut row, &mut capitals));
                        black_box(&row);
                        buffer = recycle(row);
                    }
                    Ok(count)
                })
            }
            Self::Line => {
                let mut batch = Batch::default();
                encode(rows, &mut batch);
                // The values and the text in capitals are kept for the whole run.
                let (batch, (decoder, transform)) = (&*Box::leak(Box::new(batch)), transform()?);
                let line = Line::new(LineForm::Flat, "shop.product", &transform)?;
                let mut transformed: Vec<Vec<Datum<'_>>> = Vec::new();
                for record in batch.iter() {
                    let (_, value) = avro::split(record.value.context("a record without a value")?)?;
                    let mut row = Vec::new();
                    decoder.decode(value, &mut row)?;
                    transform.apply(&mut row, Box::leak(Box::<Capitals>::default()));
                    transformed.push(row);
                }
                let mut lines = Vec::new();
                Box::new(move || {
                    lines.clear();
                    for (offset, row) in (1_000_000..).zip(&transformed) {
                        let origin = Origin { op: Op::Update, partition: 7, offset, source_ts: rows::COMMITTED_AT };
                        line.write(row, origin, &mut lines);
                    }
                    black_box(&lines);
                    Ok(transformed.len())
                })
            }
            Self::WideDecode => decode(&wide.table_map, &wide.events, &wide.encoder)?,
            Self::WideLine => wide_line(wide)?,
        })
    }
}

fn decode<'a>(table_map: &Event, events: &'a [Event], encoder: &Encoder) -> Result<Pass<'a>> {
    let plan = Plan::new(table_map, encoder.clone())?;
    Ok(Box::new(move || {
        let mut count = 0;
        for event in events {
            plan.each_row(event, |change| {
                black_box(change);
                count += 1;
                Ok(())
            })?;
        }
        Ok(count)
    }))
}

fn wide_line(rows: &wide::Rows) -> Result<Pass<'_>> {
    let plan = Plan::new(&rows.table_map, rows.encoder.clone())?;
    let mut values = Vec::new();
    for event in &rows.events {
        plan.each_row(event, |change| {
            if let RowChange::Created(_, value) | RowChange::Updated(_, _, value) = change {
                values.push(value.to_vec());
            }
            Ok(())
        })?;
    }
    let decoder = Decoder::new(&rows.schema).map_err(anyhow::Error::msg)?;
    let transform = Rules::default().compile(decoder.schema())?;
    let line = Line::new(LineForm::Nested, "shop.wide", &transform)?;
    let (mut buffer, mut lines) = (Vec::<Datum<'static>>::new(), Vec::new());
    Ok(Box::new(move || {
        lines.clear();
        for (offset, value) in (1_000_000..).zip(&values) {
            let (_, value) = avro::split(value)?;
            let mut row: Vec<Datum<'_>> = recycle(std::mem::take(&mut buffer));
            decoder.decode(value, &mut row)?;
            let origin = Origin { op: Op::Update, partition: 7, offset, source_ts: rows::COMMITTED_AT };
            line.write(&row, origin, &mut lines);
            buffer = recycle(row);
        }
        black_box(&lines);
        Ok(values.len())
    }))
}

/// The decoder of a product and the default rules.
fn transform() -> Result<(Decoder, Transform)> {
    let decoder = Decoder::new(PINNED_SCHEMA).map_err(anyhow::Error::msg)?;
    let rules = config::rules(&Settings::defaults(Program::Consumer))?;
    let transform = rules.compile(decoder.schema())?;
    Ok((decoder, transform))
}

fn encode(rows: &Rows, batch: &mut Batch) {
    let Micros(ts_us) = rows::COMMITTED_AT;
    let pos = "3e11fa47-71ca-11e1-9e33-c80aa9429562:1000023";
    for (row, (key, value)) in (0..).zip(&rows.records) {
        let source = Source { op: Op::Update, ts_us, pos: pos.into(), row, epoch: 1 };
        batch.push(0, Change::State(key, value), &source);
    }
}

/// Runs a path so many times, and checks that every row went through.
///
/// # Errors
/// When a row did not.
pub fn run(path: HotPath, passes: usize) -> Result<()> {
    let input = Input::make()?;
    let mut pass = path.pass(&input)?;
    for _ in 0..passes {
        let count = pass()?;
        ensure!(count == ROWS, "{} of {ROWS} rows came through {}", count, path.name());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_goes_through_every_path() {
        for path in HotPath::ALL {
            run(path, 2).unwrap();
        }
    }

    #[test]
    fn the_events_hold_the_rows() {
        let rows = Rows::make().unwrap();
        let plan = Plan::new(&rows.table_map, rows.encoder.clone()).unwrap();
        let mut records = rows.records.iter();
        let (mut created, mut updated) = (0, 0);
        for event in &rows.events {
            plan.each_row(event, |change| {
                let (RowChange::Created(key, value) | RowChange::Updated(_, key, value)) = change else {
                    unreachable!()
                };
                assert_eq!(Some(&(key.to_vec(), value.to_vec())), records.next());
                if matches!(change, RowChange::Created(..)) {
                    created += 1
                } else {
                    updated += 1
                }
                Ok(())
            })
            .unwrap();
        }
        assert_eq!((records.next(), created, updated), (None, ROWS / 2, ROWS / 2));
    }
}
