//! The refused tables and the texts of the refusals.

use std::sync::Arc;

use model::row::Datum;
use rules::line::LineForm;
use runtime::config::{self, PINNED_SCHEMA, Program, Settings};

use super::*;
use crate::plan::Planner;
use crate::sql_value::Fields;

fn column(table: &str, name: &str, type_name: &str, modifier: i32) -> Column {
    let (table, name, type_name) = (table.to_owned(), name.to_owned(), type_name.to_owned());
    Column { table, name, type_name, modifier, ..Column::default() }
}

/// The layout of the product's rows.
fn layout() -> Arc<Layout> {
    let rules = config::rules(&Settings::defaults(Program::Consumer)).expect("the default rules");
    let plan = Planner::new(rules, LineForm::Flat, Some(PINNED_SCHEMA)).plan(PINNED_SCHEMA).expect("our schema");
    plan.layout().expect("rules that fit")
}

fn all_wanted() -> Vec<Wanted> {
    wanted("product", Some(&layout()))
}

/// `product` as the consumers make it.
fn product() -> (Table, Vec<Column>) {
    let (name, kind) = ("product".to_owned(), "r".to_owned());
    let table = Table { name, kind, unique: vec!["id".to_owned()], ..Table::default() };
    let all = all_wanted();
    let of_product = all.iter().filter(|w| w.table == "product");
    let modifier = |w: &Wanted| if w.kind.name() == "numeric(10,2)" { 655_366 } else { -1 };
    (table, of_product.map(|w| column("product", &w.column, &w.kind.name(), modifier(w))).collect())
}

fn refused(change: impl FnOnce(&mut Table, &mut Vec<Column>)) -> String {
    let (mut table, mut columns) = product();
    change(&mut table, &mut columns);
    judge("public", &all_wanted(), &[table], &columns, true).err().map(|e| e.to_string()).unwrap_or_default()
}

fn with(name: &str, type_name: &str, modifier: i32) -> String {
    let prefix = "PostgreSQL's tables are not as the consumers need them: ";
    let text = refused(|_, columns| {
        columns.retain(|c| c.name != name);
        columns.push(column("product", name, type_name, modifier));
    });
    text.strip_prefix(prefix).unwrap_or(&text).to_owned()
}

#[test]
fn a_column_that_changes_values_is_refused_with_both_types() {
    for (name, type_name, modifier, want) in [
        ("price", "numeric(10,2)", 655_366, ""),
        ("price", "numeric", -1, ""),
        ("price", "numeric(12,4)", 786_440, ""),
        (
            "price",
            "numeric(10,1)",
            655_365,
            "column price of public.product is numeric(10,1), which rounds, and must be numeric(10,2)",
        ),
        (
            "price",
            "numeric(10,-2)",
            657_410,
            "column price of public.product is numeric(10,-2), which rounds, and must be numeric(10,2)",
        ),
        (
            "price",
            "double precision",
            -1,
            "column price of public.product is double precision, and must be numeric(10,2)",
        ),
        ("name", "character varying(300)", 304, ""),
        ("name", "character(300)", 304, "column name of public.product is character(300), and must be text"),
        ("id", "integer", -1, "column id of public.product is integer, and must be bigint"),
        ("last_updated", "timestamp(6) with time zone", 6, ""),
        (
            "last_updated",
            "timestamp(3) with time zone",
            3,
            "column last_updated of public.product is timestamp(3) with time zone, which rounds, and must be timestamp \
             with time zone",
        ),
        (
            "last_updated",
            "timestamp without time zone",
            -1,
            "column last_updated of public.product is timestamp without time zone, which depends on the session's time \
             zone, and must be timestamp with time zone",
        ),
    ] {
        assert_eq!(with(name, type_name, modifier), want, "{name} {type_name}");
    }
}

#[test]
fn all_that_is_wrong_is_named_at_once() {
    let text = refused(|table, columns| {
        (table.unlogged, table.row_security, table.rules, table.parent) = (true, true, true, true);
        table.unique = vec!["id, name".to_owned()];
        columns.remove(1);
        columns[0].generated = true;
        columns.push(Column { not_null: true, ..column("product", "tenant", "integer", -1) });
    });
    for part in [
        "public.product is not logged",
        "has row level security",
        "has rules",
        "has tables that inherit from it",
        "has no primary key (id)",
        "has no column name (text)",
        "column id of public.product is generated (bigint)",
        "column tenant of public.product (integer) must not be null and has no default",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(refused(|table, _| table.kind = "v".to_owned()).contains("is a view"));
    assert_eq!(refused(|table, _| table.kind = "p".to_owned()), "");
}

#[test]
fn what_refuses_some_values_is_said() {
    let (mut table, mut columns) = product();
    table.triggers = vec!["audit".to_owned()];
    table.constraints = vec!["product_name_key".to_owned()];
    columns[1] = column("product", "name", "character varying(5)", 9);
    columns[3] = column("product", "price", "numeric(5,2)", 327_686);
    columns[2].not_null = true;
    let look = judge("public", &all_wanted(), &[table], &columns, true).expect("it works");
    assert_eq!(look.limits, Limits(vec![("name".to_owned(), Limit::Characters(5))]));
    assert_eq!(look.warnings.len(), 5, "{:?}", look.warnings);
    let layout = layout();
    let row = |name: &str| {
        let mut row = Vec::new();
        let values = [Datum::Int(1), Datum::Text(name), Datum::Null, Datum::Null, Datum::Null, Datum::Null];
        layout.put_row(&values, &mut row);
        row
    };
    let refusal = |name: &str| {
        look.limits.refusal(&layout, Fields(&row(name))).map(|r| (r.sqlstate, r.column.unwrap_or_default()))
    };
    let of_name = |state: &str| Some((state.to_owned(), "name".to_owned()));
    assert_eq!(refusal("üüüüü"), None);
    // PostgreSQL would cut the blank off.
    assert_eq!((refusal("abcde "), refusal("a\0")), (of_name("22001"), of_name("22021")));
    assert!(!Limits::default().any() && Limits::default().refusal(&layout, Fields(&row("a\0"))).is_some());
}

#[test]
fn rows_of_another_schema_are_refused_by_a_column_that_alters_them() {
    let (table, mut columns) = product();
    columns[3] = column("product", "price", "numeric(10,1)", 655_365);
    let look = judge("public", &all_wanted(), &[table], &columns, false).expect("it works for other schemas");
    let layout = layout();
    let mut row = Vec::new();
    layout.put_row(&[Datum::Int(1), Datum::Null, Datum::Null, Datum::Null, Datum::Null, Datum::Null], &mut row);
    assert!(look.limits.any());
    let refusal = look.limits.refusal(&layout, Fields(&row)).expect("a refusal");
    assert_eq!((refusal.sqlstate.as_str(), refusal.column.as_deref()), ("42804", Some("price")));
    assert_eq!(refusal.reason, "the column is numeric(10,1), which rounds, and must be numeric(10,2)");
}

#[test]
fn a_refusal_has_the_statement_that_changes_the_table() {
    let (table, mut columns) = product();
    columns[3] = column("product", "price", "numeric(10,1)", 655_365);
    columns[0] = column("product", "id", "text", -1);
    let error = judge("public", &all_wanted(), &[table], &columns, true).expect_err("a column that rounds");
    let want = "(ALTER TABLE): ALTER TABLE \"public\".\"product\" ALTER COLUMN \"id\" TYPE bigint USING \"id\"::bigint, \
                ALTER COLUMN \"price\" TYPE numeric(10,2) USING \"price\"::numeric(10,2), or name another schema";
    let remedy = error.remedy().unwrap_or_default();
    assert!(remedy.contains(want), "{remedy}");
}
