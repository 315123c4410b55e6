//! Fuzz targets for data from a MySQL server, including statements of its users.

use std::collections::BTreeSet;

use bytes::Bytes;
use mysql_async::binlog::events;

use crate::dump::Event;
use crate::statement::{self, Mode, Session, Subject, Written};
use mysql::binlog::{ColumnKind, DecodeError, Projection, Row, RowChanges, TableLayout, Value};

/// The table map's length in 2 bytes, the table map, the event's type, the event: decoding gives values or an error,
/// and a projection returns the same values as the whole row. The oracle test of the decoder writes the seeds.
#[test]
fn rows() {
    fuzzing::check!(fuzzing::seeds("rows"), 4_000, |seed: &[u8]| {
        let Some((len, rest)) = seed.split_first_chunk() else { return };
        let Some((map, rest)) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len))) else { return };
        let Some((event_type, event)) = rest.split_first() else { return };
        let Ok(layout) = TableLayout::parse(map) else { return };
        let known = layout.columns.iter().filter(|column| !matches!(column.kind, ColumnKind::Unsupported { .. }));
        let mut names: Vec<_> = known.map(|column| column.name.as_str()).collect();
        // A repeated name would select its first column twice.
        names.sort_unstable_by_key(|name| name.to_lowercase());
        names.dedup_by_key(|name| name.to_lowercase());
        let Ok(all) = layout.project(&names) else { return };
        let Ok(whole) = images(*event_type, event, &layout, &all) else { return };

        let half: Vec<_> = names.iter().copied().step_by(2).collect();
        let half = layout.project(&half).expect("a part of what could be projected");
        let part = images(*event_type, event, &layout, &half).expect("a part of what was decoded");
        assert_eq!(whole.len(), part.len());
        for (whole, part) in whole.iter().zip(&part) {
            assert!(whole.iter().step_by(2).eq(part), "a value differs in a projection");
        }
    });
}

type Image = Vec<Option<Vec<u8>>>;

fn images(
    event_type: u8,
    event: &[u8],
    layout: &TableLayout,
    projection: &Projection,
) -> Result<Vec<Image>, DecodeError> {
    let (mut row, mut images) = (Row::default(), Vec::new());
    let mut rows = RowChanges::parse(event_type, event)?.rows(layout, projection)?;
    while rows.read(&mut row)? {
        let image = |values: &[Value<'_>]| values.iter().map(Value::to_text_protocol).collect();
        images.extend([image(&row.before), image(&row.after)]);
    }
    Ok(images)
}

/// An event's type and body, parsed as each type that the producer reads.
#[test]
fn events() {
    fuzzing::check!(fuzzing::seeds("events"), 20_000, |input: &[u8]| {
        drop(Event::parse(Bytes::copy_from_slice(input)));
        let Some((kind, body)) = input.split_first() else { return };
        let size = (19 + body.len()) as u32;
        let bytes = [&[0; 4][..], &[*kind], &[1, 0, 0, 0], &size.to_le_bytes(), &[0; 6], body].concat();
        let event = Event::parse(bytes.into()).expect("an event of its size");
        assert_eq!((event.is_whole(), event.data()), (true, body));
        drop(event.read_event::<events::RotateEvent<'_>>());
        drop(event.read_event::<events::GtidEvent>());
        drop(event.read_event::<events::FormatDescriptionEvent<'_>>());
        let Ok(query) = event.read_event::<events::QueryEvent<'_>>() else { return };
        drop(Session::new(query.schema_raw(), query.status_vars_raw()));
    });
}

/// The SQL mode in one byte, the character set in one, the statement: its classification is deterministic, and its
/// digest contains none of the longer texts.
#[test]
fn statements() {
    let seeds = fuzzing::seeds("statements");
    let seeds = seeds.into_iter().flat_map(|text| MODES.map(|mode| [&[mode][..], &text].concat())).collect();
    fuzzing::check!(seeds, 4_000, |input: &[u8]| {
        let Some(([mode, collation], statement)) = input.split_first_chunk() else { return };
        let sql_mode = u64::from(mode & 3) << 2 | u64::from(mode >> 2 & 7) << 20;
        let mode = Mode::new(sql_mode, u16::from(*collation));
        let session = Session { database: "other".into(), mode, written: Written::Unknown };
        let columns =
            ["id int", "name varchar(300)", "category varchar(500)", "amount decimal(10,2)", "t timestamp(6)"];
        let columns = columns.map(str::to_owned);
        let carried = ["id", "name", "category", "amount", "t"].map(str::to_owned);
        let subject = Subject {
            database: "buy_online_db",
            table: "product",
            carried: &carried,
            columns: &columns,
            needed: &[true, false, false, true, false],
            takes_all: collation % 2 == 0,
            gone: &BTreeSet::new(),
            is_generated: false,
            logs_cascades: true,
            is_read_behind: false,
            asked: Some(&BTreeSet::new()),
        };
        let effect = statement::effect(statement, &session, &subject);
        assert_eq!(effect, statement::effect(statement, &session, &subject));
        drop(statement::xa(statement));
        drop(statement::digest(statement, mode));
    });
}

/// `ANSI_QUOTES`, `NO_BACKSLASH_ESCAPES` and the strict modes, each with and without the others.
const MODES: [u8; 16] = [0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29];
