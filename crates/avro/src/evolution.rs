//! Whether records of a new schema may follow those of earlier ones in a topic, for readers that use one of them for all.
//! Pure.
//!
//! A registry compares less: to it a `decimal` is bytes and a timestamp a `long`, so that a reader with a fixed schema
//! reads numbers of another scale, or times of another unit, without an error. So this comparison holds with any rule of
//! the registry.

use model::schema::{Field, FieldType, RecordSchema};

/// A schema of a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its number in the subject.
    pub number: u64,
    /// Its fields.
    pub schema: RecordSchema,
    /// Its JSON text.
    pub text: String,
}

/// A schema that may not follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incompatible {
    /// The key has other columns: keys of two forms would name one row.
    Key(String),
    /// Another reason.
    Other(String),
}

/// Compares a schema with the subject's earlier versions, the first one first: the record's name and key with the last
/// one's, each field with the last one that has it.
///
/// # Errors
/// The field and the reason, for a person.
pub fn check(earlier: &[Version], new: &RecordSchema) -> Result<(), Incompatible> {
    let Some(last) = earlier.last() else { return Ok(()) };
    let number = last.number;
    if last.schema.name != new.name {
        let text = format!("the records are {} in version {number}, and would be {}", last.schema.name, new.name);
        return Err(Incompatible::Other(text));
    }
    let (before, now) = (key_of(&last.schema), key_of(new));
    // Whoever has written the records judges the order.
    if before.iter().any(|name| !now.contains(name)) || before.len() != now.len() {
        let (before, now) = (before.join(", "), now.join(", "));
        return Err(Incompatible::Key(format!("the key is ({before}) in version {number}, and would be ({now})")));
    }
    for field in &new.fields {
        let of_version = |version: &Version| {
            version.schema.fields.iter().find(|f| f.name == field.name).cloned().map(|f| (version.number, f))
        };
        let Some((number, before)) = earlier.iter().rev().find_map(of_version) else { continue };
        if let Some(reason) = difference(&before, field) {
            let Field { column, kind, .. } = field;
            let before = before.kind;
            let text = format!("column {column} is {before} in version {number}, and would be {kind}: {reason}");
            return Err(Incompatible::Other(text));
        }
    }
    Ok(())
}

fn key_of(schema: &RecordSchema) -> Vec<&str> {
    schema.key.iter().map(|index| schema.fields[*index].name.as_str()).collect()
}

/// Why a field may not follow an earlier one of its name.
fn difference(before: &Field, now: &Field) -> Option<String> {
    use FieldType as T;
    let is_time = |kind: T| matches!(kind, T::Date | T::LocalTimestamp | T::Timestamp | T::TimeOfDay | T::Duration);
    Some(match (before.kind, now.kind) {
        _ if before.is_nullable() && !now.is_nullable() => "earlier values may be null".to_owned(),
        (a, b) if a == b => return None,
        (T::Int, T::Long) | (T::Float, T::Double) => return None,
        (T::Long, T::Int) | (T::Double, T::Float) => "earlier values may not fit".to_owned(),
        (T::Decimal { scale: a, .. }, T::Decimal { scale: b, .. }) if a != b => {
            let places = a.abs_diff(b);
            format!("a reader with one schema for all would read numbers that are wrong by a factor of 1e{places}")
        }
        (T::Decimal { precision: a, .. }, T::Decimal { precision: b, .. }) if a <= b => return None,
        (T::Decimal { .. }, T::Decimal { .. }) => "earlier values may not fit".to_owned(),
        (a, b) if is_time(a) && is_time(b) => "a reader with one schema for all would read other times".to_owned(),
        _ => "a reader with one schema for all could not read both".to_owned(),
    })
}

/// Spells the fields as the last earlier schema that has them: MySQL's column names do not differ by case.
pub fn keep_spelling<'a>(new: &mut RecordSchema, earlier: impl DoubleEndedIterator<Item = &'a RecordSchema> + Clone) {
    for field in &mut new.fields {
        let column = field.column.to_lowercase();
        let is_it = |before: &&Field| before.column.to_lowercase() == column;
        if let Some(before) = earlier.clone().rev().find_map(|schema| schema.fields.iter().find(is_it)) {
            field.name.clone_from(&before.name);
            field.column.clone_from(&before.column);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, kind: FieldType, null: Option<u8>) -> Field {
        Field { name: name.to_owned(), column: name.to_owned(), kind, null }
    }

    fn schema(fields: Vec<Field>) -> RecordSchema {
        let id = field("id", FieldType::Int, None);
        RecordSchema { name: "shop.t".to_owned(), fields: [vec![id], fields].concat(), key: vec![0] }
    }

    fn versions(schemas: Vec<RecordSchema>) -> Vec<Version> {
        (1..).zip(schemas).map(|(number, schema)| Version { number, schema, text: String::new() }).collect()
    }

    fn decimal(precision: u32, scale: u32) -> FieldType {
        FieldType::Decimal { precision, scale }
    }

    #[test]
    fn a_type_may_follow_another_if_no_reader_is_wrong() {
        use FieldType as T;
        let all = [T::Boolean, T::Int, T::Long, T::Float, T::Double, T::Text, T::Bytes, T::Uuid, T::Date];
        let times = [T::LocalTimestamp, T::Timestamp, T::TimeOfDay, T::Duration, T::Geometry, T::Vector];
        let decimals = [decimal(10, 2), decimal(12, 2), decimal(12, 4), decimal(8, 2)];
        let all: Vec<T> = all.into_iter().chain(times).chain(decimals).collect();
        let may_follow = |a: T, b: T| {
            let earlier = versions(vec![schema(vec![field("x", a, Some(0))])]);
            check(&earlier, &schema(vec![field("x", b, Some(0))])).is_ok()
        };
        let mut follow = Vec::new();
        for a in &all {
            for b in &all {
                if may_follow(*a, *b) && a != b {
                    follow.push(format!("{a} {b}"));
                }
            }
        }
        let want = [
            "int long",
            "float double",
            "decimal(10,2) decimal(12,2)",
            "decimal(8,2) decimal(10,2)",
            "decimal(8,2) decimal(12,2)",
        ];
        assert_eq!(follow, want);
        assert!(all.iter().all(|kind| may_follow(*kind, *kind)));
    }

    #[test]
    fn a_refusal_names_column_version_and_reason() {
        use FieldType as T;
        let earlier = versions(vec![
            schema(vec![field("amount", decimal(10, 2), Some(0)), field("at", T::Timestamp, Some(0))]),
            schema(vec![field("amount", decimal(12, 2), Some(0))]),
        ]);
        let refused = |fields| match check(&earlier, &schema(fields)) {
            Err(Incompatible::Other(text)) => text,
            other => format!("{other:?}"),
        };
        assert_eq!(
            refused(vec![field("amount", decimal(14, 4), Some(0))]),
            "column amount is decimal(12,2) in version 2, and would be decimal(14,4): a reader with one schema for all \
             would read numbers that are wrong by a factor of 1e2"
        );
        // A column that comes back meets the records of before it went.
        assert_eq!(
            refused(vec![field("at", T::LocalTimestamp, Some(0))]),
            "column at is timestamp-micros in version 1, and would be local-timestamp-micros: a reader with one schema \
             for all would read other times"
        );
        assert!(refused(vec![field("amount", decimal(12, 2), None)]).ends_with("earlier values may be null"));
        assert!(refused(vec![field("amount", decimal(11, 2), Some(0))]).ends_with("earlier values may not fit"));
        assert_eq!(check(&earlier, &schema(vec![field("new", T::Int, Some(0))])), Ok(()), "others went");
        let other = RecordSchema { name: "shop.u".to_owned(), ..schema(vec![]) };
        let Err(Incompatible::Other(text)) = check(&earlier, &other) else { panic!("another record") };
        assert_eq!(text, "the records are shop.t in version 2, and would be shop.u");
        let other = RecordSchema { key: vec![0, 1], ..schema(vec![field("amount", decimal(12, 2), None)]) };
        let Err(Incompatible::Key(text)) = check(&earlier, &other) else { panic!("another key") };
        assert_eq!(text, "the key is (id) in version 2, and would be (id, amount)");
        assert_eq!(check(&[], &other), Ok(()));
    }

    #[test]
    fn a_field_keeps_its_spelling() {
        let earlier = [
            schema(vec![field("Amount", FieldType::Int, Some(0)), field("note", FieldType::Text, Some(0))]),
            schema(vec![field("amount", FieldType::Int, Some(0))]),
        ];
        let mut new = schema(vec![field("AMOUNT", FieldType::Int, Some(0)), field("Note", FieldType::Text, Some(0))]);
        keep_spelling(&mut new, earlier.iter());
        let names: Vec<&str> = new.fields.iter().map(|field| field.name.as_str()).collect();
        assert_eq!(names, ["id", "amount", "note"]);
    }
}
