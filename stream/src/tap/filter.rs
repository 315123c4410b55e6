//! Which changes are shown. Pure.

use model::error::{Code, Error};

use crate::record::{Change, Row};

/// The conditions of a change; all must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    key: Option<String>,
    /// Letters; none is every one.
    ops: Vec<String>,
    /// Column and value.
    columns: Vec<(String, String)>,
}

impl Filter {
    /// From the command line: a key, letters with commas, and conditions `column=value`.
    ///
    /// # Errors
    /// Usage, with the part that is wrong.
    pub fn new<'a>(
        key: Option<&str>,
        ops: Option<&str>,
        columns: impl Iterator<Item = &'a str>,
    ) -> Result<Self, Error> {
        let wrong = |text: String, remedy: &str| Error::new(Code::CommandLine, text).with_remedy(remedy.to_owned());
        let letters: Vec<String> = ops.unwrap_or_default().split(',').map(|op| op.trim().to_owned()).collect();
        let ops: Vec<String> = letters.into_iter().filter(|op| !op.is_empty()).collect();
        if let Some(op) = ops.iter().find(|op| !["c", "u", "d", "r"].contains(&op.as_str())) {
            return Err(wrong(
                format!("--op: {op:?} is no operation"),
                "use c (created), u (updated), d (deleted) or r (read by a snapshot), several with commas",
            ));
        }
        let columns = columns.map(|text| {
            let parts = text.split_once('=').filter(|(column, _)| !column.trim().is_empty());
            let parts = parts.map(|(column, value)| (column.trim().to_owned(), value.to_owned()));
            parts.ok_or_else(|| {
                wrong(format!("--where: {text:?} is no condition"), "write it like category=CAT_5, or name=null")
            })
        });
        let columns = columns.collect::<Result<_, _>>()?;
        Ok(Self { key: key.map(str::to_owned), ops, columns })
    }

    /// Whether it has conditions on columns.
    pub(super) fn has_columns(&self) -> bool {
        !self.columns.is_empty()
    }

    /// The error for a column that is none of these; without any nothing is known.
    pub(super) fn check(&self, known: &[String]) -> Option<Error> {
        let unknown = self.columns.iter().find(|(column, _)| !known.contains(column) && !known.is_empty())?;
        let text = format!("--where: the records have no column {}", unknown.0);
        let mut known = known.to_vec();
        known.dedup();
        Some(Error::new(Code::CommandLine, text).with_remedy(format!("name one of {}", known.join(", "))))
    }

    /// Whether a record with this key may pass.
    pub(super) fn takes_key(&self, key: Option<&[u8]>) -> bool {
        self.key.as_deref().is_none_or(|wanted| key == Some(wanted.as_bytes()))
    }

    /// Whether a change passes; `before` is the row before it. A deleted row is judged by that one.
    pub(super) fn takes(&self, change: &Change, before: Option<&Row>) -> bool {
        let op = change.op.unwrap_or_default();
        let has_op = self.ops.is_empty() || self.ops.iter().any(|wanted| wanted == op);
        let row = change.row.as_ref().or(before);
        has_op && self.columns.iter().all(|(column, value)| row.is_some_and(|row| is(row.get(column), value)))
    }
}

/// Whether a value's JSON text is this text, with or without quotes.
fn is(value: Option<&str>, wanted: &str) -> bool {
    let Some(value) = value else { return false };
    value == wanted || serde_json::from_str::<String>(value).is_ok_and(|text| text == wanted)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A change of the row 9, whose price and name are JSON texts.
    pub(crate) fn change(op: &'static str, values: Option<[&str; 2]>) -> Change {
        let row = |[price, name]: [&str; 2]| {
            Row(vec![
                ("id".to_owned(), "9".to_owned()),
                ("price".to_owned(), price.to_owned()),
                ("name".to_owned(), name.to_owned()),
            ])
        };
        Change {
            table: "shop.p".to_owned(),
            key: "9".to_owned(),
            op: Some(op),
            committed_at: Some("2026-11-30T02:10:11.123456Z".to_owned()),
            position: None,
            row_number: None,
            epoch: None,
            partition: 3,
            offset: 120,
            written_at: None,
            row: values.map(row),
            unreadable: None,
        }
    }

    fn filter(key: Option<&str>, ops: &str, columns: &[&str]) -> Filter {
        Filter::new(key, Some(ops), columns.iter().copied()).expect("a filter")
    }

    #[test]
    fn all_conditions_must_hold() {
        let mug = change("u", Some(["9.99", "\"Mug\""]));
        for (ops, columns, want) in [
            ("", &[][..], true),
            ("c,u", &[], true),
            ("c, d", &[], false),
            ("", &["price=9.99"], true),
            ("", &["price=9.9"], false),
            ("u", &["name=Mug", "id=9"], true),
            ("u", &["name=\"Mug\""], true),
            ("u", &["name=Mug", "id=8"], false),
            ("", &["nothing=x"], false),
        ] {
            assert_eq!(filter(None, ops, columns).takes(&mug, None), want, "{ops} {columns:?}");
        }
        let gone = change("d", None);
        assert!(!filter(None, "", &["name=Mug"]).takes(&gone, None));
        assert!(filter(None, "", &["name=Mug"]).takes(&gone, mug.row.as_ref()), "by the row before");
        let of_key = filter(Some("9"), "", &[]);
        assert_eq!([Some(&b"9"[..]), Some(b"8"), None].map(|key| of_key.takes_key(key)), [true, false, false]);
    }

    #[test]
    fn a_wrong_condition_is_named() {
        let refused = |ops: &str, column: &str| {
            let error = Filter::new(None, Some(ops), [column].into_iter()).expect_err("wrong");
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        };
        assert_eq!(refused("c,x", "a=b"), "--op: \"x\" is no operation");
        assert_eq!(refused("c", "price"), "--where: \"price\" is no condition");
        assert_eq!(refused("c", "=1"), "--where: \"=1\" is no condition");
        let known = ["id".to_owned(), "name".to_owned()];
        assert!(filter(None, "", &["id=1"]).check(&known).is_none());
        let error = filter(None, "", &["prise=1"]).check(&known).expect("unknown");
        assert_eq!(error.remedy(), Some("name one of id, name"));
    }
}
