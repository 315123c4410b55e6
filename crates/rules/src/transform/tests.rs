//! Rules on rows of a small table.

use model::schema::Field;

use super::*;

fn schema() -> RecordSchema {
    let field = |name: &str, kind, null| Field { name: name.to_owned(), column: name.to_owned(), kind, null };
    RecordSchema {
        name: "shop.Fruit".to_owned(),
        fields: vec![
            field("name", FieldType::Text, Some(0)),
            field("category", FieldType::Text, Some(0)),
            field("price", FieldType::Decimal { precision: 18, scale: 2 }, Some(0)),
            field("id", FieldType::Long, None),
        ],
        key: vec![3],
    }
}

fn rules() -> Rules {
    Rules {
        capitalise: vec!["category".to_owned()],
        discount: Some(Discount {
            from: "price".to_owned(),
            by: "category".to_owned(),
            column: "discount_price".to_owned(),
            percents: [("CAT_5".to_owned(), 2000), ("X".to_owned(), 5000)].into(),
        }),
        drop: Vec::new(),
    }
}

fn row<'a>(category: &'a str, unscaled: i64) -> Vec<Datum<'a>> {
    vec![Datum::Text("mug"), Datum::Text(category), Datum::Decimal { unscaled, scale: 2 }, Datum::Int(1)]
}

fn applied(rules: &Rules, category: &str, unscaled: i64) -> Option<Vec<String>> {
    let transform = rules.compile(&schema()).expect("rules that fit");
    let (mut row, mut capitals) = (row(category, unscaled), Capitals::default());
    transform.apply(&mut row, &mut capitals).then(|| row.iter().map(|datum| format!("{datum:?}")).collect())
}

fn discounted(category: &str, unscaled: i64) -> Option<i64> {
    let transform = rules().compile(&schema()).expect("rules that fit");
    let (mut row, mut capitals) = (row(category, unscaled), Capitals::default());
    assert!(transform.apply(&mut row, &mut capitals));
    assert_eq!((row.len(), row[4]), (5, Datum::Int(1)));
    match row[3] {
        Datum::Decimal { unscaled, scale: 2 } => Some(unscaled),
        other => {
            assert_eq!(other, Datum::Null);
            None
        }
    }
}

#[test]
fn an_amount_is_rounded_half_away_from_zero() {
    for (amount, want) in [
        (1000, 800),
        (1, 1),   // 0.008
        (2, 2),   // 0.016
        (3, 2),   // 0.024
        (-3, -2), // -0.024
        (0, 0),
        (9_999_999_999, 7_999_999_999),
        (999_999_999_999_999_999, 799_999_999_999_999_999),
        (-999_999_999_999_999_999, -799_999_999_999_999_999),
    ] {
        assert_eq!(discounted("cat_5", amount), Some(want), "{amount}");
    }
    for (amount, want) in [(5, 3), (-5, -3), (3, 2), (-3, -2)] {
        assert_eq!(discounted("x", amount), Some(want), "{amount}");
    }
    assert_eq!(discounted("CAT_1", 1000), None);
}

#[test]
fn columns_are_capitalised_by_name() {
    for (category, want) in [("Straße", "STRASSE"), ("CAT_1", "CAT_1"), ("ὀδός", "ὈΔΌΣ"), ("cat_2", "CAT_2")]
    {
        assert_eq!(category.to_uppercase(), want);
        let got = applied(&rules(), category, 999).expect("a row");
        assert_eq!(got[..2], [r#"Text("mug")"#.to_owned(), format!("Text({want:?})")]);
    }
    let name = Rules { capitalise: vec!["name".to_owned()], ..rules() };
    let got = applied(&name, "cat_5", 1000).expect("a row");
    assert_eq!(got[..2], [r#"Text("MUG")"#, r#"Text("cat_5")"#]);
    assert_eq!(got[3], "Decimal { unscaled: 800, scale: 2 }");
    assert_eq!(applied(&Rules::default(), "cat_5", 1).expect("a row").len(), 4);
}

#[test]
fn nulls_stay_and_have_no_discount() {
    let transform = rules().compile(&schema()).expect("rules that fit");
    let mut capitals = Capitals::default();
    let mut row = vec![Datum::Null, Datum::Null, Datum::Null, Datum::Int(1)];
    assert!(transform.apply(&mut row, &mut capitals));
    assert_eq!(row, [Datum::Null, Datum::Null, Datum::Null, Datum::Null, Datum::Int(1)]);
}

#[test]
fn a_filter_leaves_out_what_equals() {
    let drop = vec![Filter { column: "category".to_owned(), equals: "test".to_owned() }];
    let rules = Rules { drop, ..rules() };
    assert_eq!(applied(&rules, "test", 1), None);
    assert!(applied(&rules, "TEST", 1).is_some());
}

#[test]
fn a_new_column_follows_its_source_and_moves_the_key() {
    let transform = rules().compile(&schema()).expect("rules that fit");
    let names: Vec<&str> = transform.columns().iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["name", "category", "price", "discount_price", "id"]);
    assert_eq!((transform.key(), transform.columns()[3].kind), (&[4][..], transform.columns()[2].kind));
}

#[test]
fn a_rule_that_does_not_fit_names_setting_and_column() {
    let discount = |change: fn(&mut Discount)| {
        let mut rules = rules();
        rules.discount.as_mut().map(change);
        rules
    };
    let drop = vec![Filter { column: "colour".to_owned(), equals: "red".to_owned() }];
    for (rules, want) in [
        (
            Rules { capitalise: vec!["colour".to_owned()], ..Rules::default() },
            "rules.capitalise names the column colour, which the records of shop.Fruit do not have",
        ),
        (
            Rules { capitalise: vec!["price".to_owned()], ..Rules::default() },
            "rules.capitalise names the column price, which is decimal(18,2) and must be a string",
        ),
        (
            Rules { drop, ..Rules::default() },
            "rules.drop names the column colour, which the records of shop.Fruit do not have",
        ),
        (
            discount(|d| d.from = "id".to_owned()),
            "rules.discount names the column id, which is long and must be a decimal of at most 18 digits",
        ),
        (
            discount(|d| d.by = "size".to_owned()),
            "rules.discount names the column size, which the records of shop.Fruit do not have",
        ),
        (
            discount(|d| d.column = "name".to_owned()),
            "rules.discount names the column name, which the table has already",
        ),
    ] {
        let error = rules.compile(&schema()).expect_err(want);
        assert_eq!(error.to_string(), want);
        assert!(error.remedy().starts_with(&format!("correct {}", error.setting)));
    }
    let mut keyed = schema();
    keyed.key = vec![1];
    let error = rules().compile(&keyed).expect_err("a key");
    assert_eq!(error.reason, "which is a part of the primary key");
}
