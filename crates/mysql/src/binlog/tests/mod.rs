//! Tests of the decoder with built events (`events`) and with events that a server wrote (`recorded`).

mod events;
mod recorded;

use proptest::prelude::*;

use self::events::{Event, TableMap};
use super::*;

/// The values of the only column of a table, from the bytes of one inserted row.
fn decode(map: &TableMap, stored: &[u8]) -> Result<Option<String>, DecodeError> {
    let body = map.body();
    let layout = TableLayout::parse(&body)?;
    let projection = layout.project_all()?;
    let event = Event::insert(1, &[&[&[0], stored].concat()]).body();
    let changes = RowChanges::parse(30, &event)?;
    let mut rows = changes.rows(&layout, &projection)?;
    let mut row = Row::default();
    assert!(rows.read(&mut row)?);
    assert!(!rows.read(&mut row)?);
    Ok(row.after[0].to_text_protocol().map(|bytes| bytes.escape_ascii().to_string()))
}

#[test]
fn values_of_each_type() {
    let signed = || TableMap::default().signs(&[0]);
    let unsigned = || TableMap::default().signs(&[0x80]);
    let text = |collation| TableMap::default().collations(&[collation]);
    let plain = TableMap::default;
    let (long, many) = ([&[44, 1][..], &[b'x'; 300]].concat(), "x".repeat(300));
    let cases: Vec<(TableMap, &[u8], &str)> = vec![
        (signed().column(1, &[]), &[0x80], "-128"),
        (unsigned().column(1, &[]), &[0xff], "255"),
        (signed().column(2, &[]), &[0xff, 0x7f], "32767"),
        (unsigned().column(2, &[]), &[0xff, 0xff], "65535"),
        (signed().column(9, &[]), &[0xff, 0xff, 0xff], "-1"),
        (signed().column(9, &[]), &[0, 0, 0x80], "-8388608"),
        (unsigned().column(9, &[]), &[0xff, 0xff, 0xff], "16777215"),
        (signed().column(3, &[]), &[0, 0, 0, 0x80], "-2147483648"),
        (unsigned().column(3, &[]), &[0xff, 0xff, 0xff, 0xff], "4294967295"),
        (signed().column(8, &[]), &[0xff; 8], "-1"),
        (unsigned().column(8, &[]), &[0xff; 8], "18446744073709551615"),
        (signed().column(4, &[4]), &[0, 0, 0xc0, 0xbf], "-1.5"),
        (signed().column(5, &[8]), &[0, 0, 0, 0, 0, 0, 0xf8, 0xbf], "-1.5"),
        (signed().column(246, &[10, 2]), &[0x80, 0, 0, 12, 34], "12.34"),
        (unsigned().column(13, &[]), &[0], "0000"),
        (unsigned().column(13, &[]), &[126], "2026"),
        (plain().column(10, &[]), &[0x75, 0xd5, 0x0f], "2026-11-21"),
        (plain().column(11, &[]), &[0x25, 0xd8, 0xff], "-01:02:03"),
        (plain().column(7, &[]), &[0, 0, 0, 0], "0000-00-00 00:00:00"),
        (plain().column(7, &[]), &[1, 0, 0, 0], "1970-01-01 00:00:01"),
        (plain().column(12, &[]), &[0x7a, 0x20, 0xec, 0x68, 0x6d, 0x12, 0, 0], "2026-11-21 04:05:06"),
        (plain().column(17, &[2]), &[0, 0, 0, 1, 50], "1970-01-01 00:00:01.50"),
        (plain().column(18, &[0]), &[0x80, 0, 0, 0, 0], "0000-00-00 00:00:00"),
        (plain().column(19, &[1]), &[0x7f, 0xff, 0xff, 0xf6], "-00:00:00.1"),
        (text(255).column(15, &[20, 0]), &[2, 0xc3, 0xa4], "\\xc3\\xa4"),
        (text(8).column(15, &[44, 1]), &[1, 0, 0xe4], "\\xc3\\xa4"),
        (text(63).column(15, &[20, 0]), &[2, 0, 0xff], "\\x00\\xff"),
        (text(255).column(254, &[254, 20]), &[2, b'o', b'k'], "ok"),
        (text(63).column(254, &[254, 3]), &[1, 7], "\\x07\\x00\\x00"),
        // CHAR(75) in utf8mb4: 300 bytes, so two bits of the length are in the first byte, inverted.
        (text(255).column(254, &[0xee, 44]), &long, &many),
        (text(63).column(252, &[1]), &[1, 9], "\\t"),
        (text(255).column(252, &[4]), &[2, 0, 0, 0, b'o', b'k'], "ok"),
        (plain().labels(6, 255, &["a", "b"]).column(254, &[247, 1]), &[2], "b"),
        (plain().labels(6, 255, &["a", "b"]).column(254, &[247, 1]), &[0], ""),
        (plain().labels(5, 8, &["a", "\u{e4}"]).column(254, &[248, 1]), &[3], "a,\\xc3\\x83\\xc2\\xa4"),
        (plain().column(16, &[1, 1]), &[1, 2], "\\x01\\x02"),
        (plain().column(16, &[0, 8]), &[0xff; 8], "\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff"),
        (plain().column(245, &[4]), &[2, 0, 0, 0, 4, 1], "true"),
        (plain().column(245, &[4]), &[0, 0, 0, 0], "null"),
        (plain().column(255, &[4]), &[1, 0, 0, 0, 5], "\\x05"),
        (plain().column(242, &[4]), &[1, 0, 0, 0, 5], "\\x05"),
    ];
    for (map, stored, want) in cases {
        assert_eq!(decode(&map, stored).map(Option::unwrap_or_default).as_deref(), Ok(want), "{map:?} {stored:?}");
    }
}

#[test]
fn null_is_no_value() {
    let map = TableMap::default().signs(&[0]).column(3, &[]);
    let layout = TableLayout::parse(&map.body()).unwrap();
    let projection = layout.project_all().unwrap();
    let event = Event::insert(1, &[&[1], &[0, 7, 0, 0, 0]]).body();
    assert_eq!(values(30, &event, &layout, &projection), Ok(vec![vec![Value::Null], vec![Value::Int(7)]]));
}

/// The images of all rows, alternating before and after.
fn values<'a>(
    event_type: u8,
    body: &'a [u8],
    layout: &'a TableLayout,
    projection: &'a Projection,
) -> Result<Vec<Vec<Value<'a>>>, DecodeError> {
    let mut images = Vec::new();
    let mut row = Row::default();
    let changes = RowChanges::parse(event_type, body)?;
    let mut rows = changes.rows(layout, projection)?;
    while rows.read(&mut row)? {
        images.extend([row.before.clone(), row.after.clone()].into_iter().filter(|image| !image.is_empty()));
    }
    Ok(images)
}

/// `id INT, name VARCHAR(20), amount INT UNSIGNED`
fn three_columns() -> TableMap {
    TableMap::default().signs(&[0x40]).collations(&[255]).column(3, &[]).column(15, &[20, 0]).column(3, &[])
}

#[test]
fn updates_and_deletes_of_both_versions() {
    let layout = TableLayout::parse(&three_columns().body()).unwrap();
    let projection = layout.project(&["c", "A"]).unwrap();
    assert_eq!(projection.columns(), [2, 0]);
    let (old, new) = ([0, 1, 0, 0, 0, 1, b'x', 9, 0, 0, 0], [0b010, 2, 0, 0, 0, 255, 255, 255, 255]);
    let before = vec![Value::UInt(9), Value::Int(1)];
    let after = vec![Value::UInt(u32::MAX.into()), Value::Int(2)];
    for (event_type, version) in [(31, 2), (24, 1)] {
        let event =
            Event { version, before: Some(0b111), after: Some(0b111), columns: 3, rows: [&old[..], &new].concat() };
        assert_eq!(values(event_type, &event.body(), &layout, &projection), Ok(vec![before.clone(), after.clone()]));
    }
    for (event_type, version) in [(32, 2), (25, 1)] {
        let event = Event { version, before: Some(0b111), after: None, columns: 3, rows: new.to_vec() };
        assert_eq!(values(event_type, &event.body(), &layout, &projection), Ok(vec![after.clone()]));
        let body = event.body();
        let changes = RowChanges::parse(event_type, &body).unwrap();
        assert_eq!((changes.operation, changes.table_id, changes.ends_statement), (RowOperation::Delete, 1, true));
    }
}

#[test]
fn a_minimal_image_serves_who_needs_no_more() {
    let layout = TableLayout::parse(&three_columns().body()).unwrap();
    // The image before has only the key, the one after only the changed column.
    let event = Event {
        version: 2,
        before: Some(0b001),
        after: Some(0b101),
        columns: 3,
        rows: vec![0, 1, 0, 0, 0, 2, 5, 0, 0, 0],
    };
    let body = event.body();
    let id = layout.project(&["a"]).unwrap();
    assert_eq!(values(31, &body, &layout, &id), Ok(vec![vec![Value::Int(1)], vec![Value::Int(5)]]));
    let name = layout.project(&["a", "b"]).unwrap();
    let error = values(31, &body, &layout, &name).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the binlog's row image leaves out column b of table db.t; what to do: SET PERSIST binlog_row_image=FULL, \
         reconnect the writers, then take a new snapshot"
    );
}

#[test]
fn a_layout_says_what_its_table_is() {
    let map = three_columns().field(9, &[2, 0, 1, 4]).field(12, &[0b1010_0000]).nullable(0b110);
    let body = map.body();
    assert_eq!(TableLayout::name_of(&body), Ok((1, "db", "t")));
    let layout = TableLayout::parse(&body).unwrap();
    assert!(layout.is_of(&body));
    assert_eq!(layout.full_name(), "db.t");
    assert_eq!(layout.primary_key, [KeyColumn { column: 2, prefix: None }, KeyColumn { column: 1, prefix: Some(4) }]);
    let facts = layout.columns.iter().map(|column| (column.name.as_str(), column.nullable, column.visible));
    assert_eq!(facts.collect::<Vec<_>>(), [("a", false, true), ("b", true, false), ("c", true, true)]);
    assert_eq!(layout.columns[1].kind, ColumnKind::Text { charset: Charset::Utf8, max_bytes: 20 });
    let simple = TableLayout::parse(&three_columns().field(8, &[0]).body()).unwrap();
    assert_eq!(simple.primary_key, [KeyColumn { column: 0, prefix: None }]);
}

#[test]
fn a_default_charset_has_exceptions() {
    let text = |map: TableMap| map.column(15, &[20, 0]).column(15, &[20, 0]).column(15, &[20, 0]);
    let layout = TableLayout::parse(&text(TableMap::default()).field(2, &[45, 1, 8]).body()).unwrap();
    let charset = |index: usize| match layout.columns[index].kind {
        ColumnKind::Text { charset, .. } => charset,
        _ => Charset::Binary,
    };
    assert_eq!([charset(0), charset(1), charset(2)], [Charset::Utf8, Charset::Latin1, Charset::Utf8]);
}

#[test]
fn refusals_name_the_object_and_the_remedy() {
    let japanese = TableMap::default().collations(&[95, 255]).column(15, &[20, 0]).column(15, &[20, 0]);
    let layout = TableLayout::parse(&japanese.body()).unwrap();
    assert!(layout.project(&["b"]).is_ok(), "a column nobody wants does not matter");
    let plain = TableMap::default().signs(&[0]).column(3, &[]);
    let cases: [(DecodeError, &str); 8] = [
        (
            layout.project_all().unwrap_err(),
            "column a of table db.t can't be decoded: its charset is cp932 (collation 95), which is not converted; what \
             to do: convert the column to utf8mb4 (ALTER TABLE … MODIFY … CHARACTER SET utf8mb4)",
        ),
        (layout.project(&["x"]).unwrap_err(), "table db.t has no column x; its columns are a, b"),
        (
            TableLayout::parse(&plain.clone().without_names().body()).unwrap_err(),
            "the binlog has no column names for table db.t; what to do: SET PERSIST binlog_row_metadata=FULL, then take \
             a new snapshot",
        ),
        (
            TableLayout::parse(&plain.clone().column(99, &[]).body()).unwrap_err(),
            "damaged table map of db.t in the binlog: a column of unknown type",
        ),
        (
            TableLayout::parse(&plain.clone().column(20, &[]).body()).unwrap_err(),
            "damaged table map of db.t in the binlog: a column of type 20 (array), which is not decoded",
        ),
        (
            RowChanges::parse(39, &[]).unwrap_err(),
            "binlog event type 39 can't be decoded: it holds partial JSON updates;",
        ),
        (RowChanges::parse(166, &[]).unwrap_err(), "binlog event type 166 can't be decoded: it holds MariaDB's"),
        (
            decode(&TableMap::default().labels(6, 255, &["a"]).column(254, &[247, 1]), &[2]).unwrap_err(),
            "damaged column a of table db.t in the binlog: an ENUM value without a label at byte 14; what to do: check",
        ),
    ];
    for (error, want) in cases {
        assert!(error.to_string().starts_with(want), "{error}");
    }
}

#[test]
fn an_event_of_another_layout_is_refused() {
    let layout = TableLayout::parse(&three_columns().body()).unwrap();
    let projection = layout.project_all().unwrap();
    let other = TableLayout::parse(&three_columns().signs(&[0]).column(3, &[]).body()).unwrap();
    let event = Event::insert(3, &[]).body();
    let changes = RowChanges::parse(30, &event).unwrap();
    assert!(changes.rows(&layout, &projection).is_ok());
    assert!(changes.rows(&other, &projection).is_err());
    assert!(changes.rows(&layout, &other.project_all().unwrap()).is_err());
}

#[test]
fn bytes_behind_the_last_row_are_damage() {
    let layout = TableLayout::parse(&three_columns().body()).unwrap();
    let projection = layout.project_all().unwrap();
    let row = [0, 1, 0, 0, 0, 1, b'x', 9, 0, 0, 0];
    for more in 1..row.len() {
        let event = Event::insert(3, &[&row, &row[..more]]).body();
        assert!(values(30, &event, &layout, &projection).is_err(), "{more} bytes");
    }
}

#[test]
fn rows_of_no_bytes_do_not_go_on_for_ever() {
    let layout = TableLayout::parse(&three_columns().body()).unwrap();
    let nothing = layout.project(&[]).unwrap();
    let event = Event { version: 2, before: None, after: Some(0), columns: 3, rows: vec![0] };
    let error = values(30, &event.body(), &layout, &nothing).unwrap_err().to_string();
    assert!(error.starts_with("damaged rows event of table db.t in the binlog: a row of no bytes"), "{error}");
}

#[test]
fn a_year_has_a_sign_bit_like_a_number() {
    let map = TableMap::default().signs(&[0b1010_0000]).column(13, &[]).column(1, &[]).column(1, &[]);
    let layout = TableLayout::parse(&map.body()).unwrap();
    let int = |unsigned| ColumnKind::Int { bytes: 1, unsigned };
    assert_eq!(
        layout.columns.iter().map(|column| &column.kind).collect::<Vec<_>>(),
        [&ColumnKind::Year, &int(false), &int(true)]
    );
}

proptest! {
    #[test]
    fn chance_bytes_never_panic(
        event_type in prop::sample::select(vec![23_u8, 24, 25, 30, 31, 32]),
        map in prop::collection::vec(any::<u8>(), 0..300),
        event in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let _layout = TableLayout::parse(&map);
        let layout = TableLayout::parse(&three_columns().body()).unwrap();
        let projection = layout.project_all().unwrap();
        let _values = values(event_type, &event, &layout, &projection);
        // The same behind a head that is sound.
        let sound = Event { version: 2, before: Some(7), after: Some(7), columns: 3, rows: event };
        let _values = values(31, &sound.body(), &layout, &projection);
        let map = TableMap::default().tail(&map);
        let _layout = TableLayout::parse(&map.body());
    }
}
