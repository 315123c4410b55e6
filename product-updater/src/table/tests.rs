use super::*;

fn column(name: &str, full_type: &str, is_nullable: bool, is_key: bool) -> Column {
    let data_type = full_type.split(['(', ' ']).next().unwrap_or_default().to_owned();
    Column {
        name: name.to_owned(),
        data_type,
        full_type: full_type.to_owned(),
        is_nullable,
        is_key,
        ..Column::default()
    }
}

fn value(full_type: &str, is_nullable: bool, text: &str) -> Result<String, String> {
    column("c", full_type, is_nullable, false).value(text).map(|value| value.as_sql(true))
}

#[test]
fn a_field_is_a_value_or_refused() {
    for (full_type, is_nullable, text, want) in [
        ("int", true, "", Ok("NULL")),
        ("int", true, " ", Ok("NULL")),
        ("int", false, "", Err("the field is empty, and the column int is NOT NULL")),
        ("int", false, " 012 ", Ok("12")),
        ("int", false, "1.5", Err("\"1.5\" is not a whole number of int")),
        ("bigint unsigned", false, "18446744073709551615", Ok("18446744073709551615")),
        ("decimal(6,2)", false, "-1.050", Ok("'-1.050'")),
        ("decimal(6,2)", false, "1.005", Err("1.005 has 3 decimals; decimal(6,2) holds 2, and nothing is rounded")),
        ("decimal(6,2)", false, "1e3", Err("\"1e3\" is not a decimal number such as 12.30")),
        ("varchar(9)", true, "", Ok("NULL")),
        ("varchar(9)", false, "", Ok("''")),
        ("varchar(9)", false, " a ", Ok("' a '")),
        ("set('a','b')", false, "", Ok("''")),
        ("set('a','b')", false, "3", Err("\"3\" is no label of set('a','b')")),
        ("enum('card','7')", false, "7", Ok("'7'")),
        ("enum('card','7')", false, "1", Err("\"1\" is no label of enum('card','7')")),
        ("varbinary(9)", false, "", Ok("''")),
        ("varbinary(9)", true, "", Ok("NULL")),
        ("binary(2)", false, "/+8=", Ok("0xFFEF")),
        ("blob", false, "not base64", Err("\"not base64\" is not base64")),
        (
            "datetime",
            false,
            "2026-01-01 00:00:00.500",
            Err("2026-01-01 00:00:00.500 has 1 decimals; datetime holds 0, and nothing is rounded"),
        ),
        ("datetime(3)", false, "2026-01-01T00:00:00.500000", Ok("'2026-01-01T00:00:00.500000'")),
        ("timestamp(6)", false, "2026-01-01T00:00:00.000001Z", Ok("'2026-01-01T00:00:00.000001'")),
        ("timestamp", false, "2026-01-01 00:00:00.0+02:00", Ok("'2026-01-01 00:00:00.0+02:00'")),
        ("time", false, "-838:59:59", Ok("'-838:59:59'")),
    ] {
        let got = value(full_type, is_nullable, text);
        assert_eq!(got.as_deref().map_err(String::as_str), want, "{full_type} {text:?}");
    }
}

#[test]
fn a_statement_has_the_columns_of_the_file_and_the_type_of_the_key() {
    let columns = vec![
        column("vendor", "varchar(10)", false, true),
        column("at", "timestamp(3)", false, true),
        column("no", "int unsigned", false, true),
        column("fare", "decimal(8,2)", true, false),
        column("flags", "bit(4)", true, false),
        column("note", "json", true, false),
    ];
    let table = Table { database: "d`b".to_owned(), table: "rides".to_owned(), columns };
    let text = |text: &str| Some(Value::from(text));
    let change = |values| RowChange { place: Place::default(), is_delete: false, values };
    let all = change(vec![text("a"), text("b"), text("1"), text("2"), text("3"), None]);
    let shown = |(query, values): (String, Params)| {
        let Params::Positional(values) = values else { return query };
        format!("{query} {}", values.iter().map(|value| value.as_sql(true)).collect::<Vec<_>>().join(" "))
    };
    let key = "`vendor` = ? AND `at` = CAST(? AS DATETIME(3)) AND `no` = ?";
    assert_eq!(shown(table.find(&all)), format!("SELECT 1 FROM `d``b`.`rides` WHERE {key} FOR UPDATE 'a' 'b' '1'"));
    assert_eq!(
        shown(table.insert(&all)),
        "INSERT INTO `d``b`.`rides` (`vendor`, `at`, `no`, `fare`, `flags`) VALUES (?, ?, ?, ?, ?) \
         'a' 'b' '1' '2' '3'"
    );
    assert_eq!(
        table.update(&all).map(shown),
        Some(format!("UPDATE `d``b`.`rides` SET `fare` = ?, `flags` = ? WHERE {key} '2' '3' 'a' 'b' '1'"))
    );
    assert_eq!(shown(table.delete(&all)), format!("DELETE FROM `d``b`.`rides` WHERE {key} 'a' 'b' '1'"));
    let of_key = change(vec![text("a"), text("b"), text("1"), None, None, None]);
    assert_eq!(table.update(&of_key).map(shown), None);
}

#[test]
fn a_name_has_one_or_two_parts() {
    let of = |database: &str, table: &str| Ok((database.to_owned(), table.to_owned()));
    for (text, want) in [
        ("rides", of("shop", "rides")),
        ("other.rides", of("other", "rides")),
        ("`a.b`.`c.d`", of("a.b", "c.d")),
        ("`a.b`", of("shop", "a.b")),
    ] {
        assert_eq!(name(text, "shop"), want, "{text}");
    }
    for text in ["a.b.c", "", ".a", "a."] {
        assert!(name(text, "shop").is_err(), "{text}");
    }
}
