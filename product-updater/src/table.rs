//! Any table as the server describes it: which columns a file may have, the values of a row, and its statements. Pure.
//!
//! Values are sent as text, apart from whole numbers, and the server converts them in a strict session, so it refuses
//! what does not fit. What it would change without an error is refused here: decimals that the column does not hold, and
//! the number of a label where the label is meant.

use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mysql::table::quoted;
use mysql_async::{Params, Value};

use crate::change::Place;
use crate::csv_file::{Fault, Fields, Format, OP, shortened};

/// A column as the server describes it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// Its type without sizes: `decimal`.
    pub(crate) data_type: String,
    /// Its full type: `decimal(10,2)`.
    pub(crate) full_type: String,
    pub(crate) is_nullable: bool,
    pub(crate) is_generated: bool,
    /// Whether it is part of the primary key.
    pub(crate) is_key: bool,
}

impl Column {
    fn is_text(&self) -> bool {
        matches!(&*self.data_type, "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" | "set")
    }

    fn is_binary(&self) -> bool {
        self.data_type.ends_with("binary") || self.data_type.ends_with("blob")
    }

    /// The value of a field; an empty field is NULL where the column may be NULL.
    fn value(&self, text: &str) -> Result<Value, String> {
        let text = if self.is_text() { text } else { text.trim() };
        if text.is_empty() {
            return match (self.is_nullable, self.is_text() || self.is_binary()) {
                (true, _) => Ok(Value::NULL),
                (false, true) => Ok(Value::Bytes(Vec::new())),
                (false, false) => Err(format!("the field is empty, and the column {} is NOT NULL", self.full_type)),
            };
        }
        if self.is_binary() {
            let bytes = STANDARD.decode(text).map_err(|_| format!("{:?} is not base64", shortened(text)))?;
            return Ok(Value::Bytes(bytes));
        }
        match &*self.data_type {
            "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "bit" => {
                let value = text.parse().map(Value::Int).or_else(|_| text.parse().map(Value::UInt));
                value.map_err(|_| format!("{:?} is not a whole number of {}", shortened(text), self.full_type))
            }
            "decimal" => self.places_fit(text, |size| size.split_once(',').map_or("0", |(_, scale)| scale)),
            // The session is in UTC.
            "timestamp" => self.places_fit(text.strip_suffix('Z').unwrap_or(text), |size| size),
            "datetime" | "time" => self.places_fit(text, |size| size),
            "enum" | "set" => self.label(text),
            _ => Ok(Value::from(text)),
        }
    }

    /// The number or time, if the column holds all of its decimals; `places` is what the column's size says of them.
    fn places_fit(&self, text: &str, places: impl Fn(&str) -> &str) -> Result<Value, String> {
        let places = self.size().map_or(0, |size| places(size).parse().unwrap_or(0));
        let fraction = text.split_once('.').map_or("", |(_, fraction)| fraction);
        let fraction = fraction.split(|c: char| !c.is_ascii_digit()).next().unwrap_or("").trim_end_matches('0');
        if self.data_type == "decimal" && text.contains(|c: char| !c.is_ascii_digit() && !"+-.".contains(c)) {
            return Err(format!("{:?} is not a decimal number such as 12.30", shortened(text)));
        }
        if fraction.len() > places {
            let (text, count) = (shortened(text), fraction.len());
            return Err(format!(
                "{text} has {count} decimals; {} holds {places}, and nothing is rounded",
                self.full_type
            ));
        }
        Ok(Value::from(text))
    }

    /// A label; the server would take a number as the place of one.
    fn label(&self, text: &str) -> Result<Value, String> {
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        if is_number && !self.full_type.contains(&format!("'{text}'")) {
            return Err(format!("{:?} is no label of {}", shortened(text), self.full_type));
        }
        Ok(Value::from(text))
    }

    /// What is in the brackets of the full type.
    fn size(&self) -> Option<&str> {
        Some(self.full_type.split_once('(')?.1.split_once(')')?.0)
    }

    /// The expression that a key column is compared with: of the column's type, as two texts of one number differ.
    fn compared(&self) -> String {
        let sized =
            |name: &str| format!("CAST(? AS {name}{})", self.size().map_or_else(String::new, |s| format!("({s})")));
        match &*self.data_type {
            "timestamp" => sized("DATETIME"),
            name @ ("decimal" | "date" | "datetime" | "time" | "binary") => sized(name),
            name @ ("float" | "double") => format!("CAST(? AS {name})"),
            _ => "?".to_owned(),
        }
    }
}

/// A table with a primary key.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) database: String,
    pub(crate) table: String,
    pub(crate) columns: Vec<Column>,
}

/// The files of a table.
#[derive(Clone)]
pub(crate) struct TableFormat {
    pub(crate) table: Arc<Table>,
    pub(crate) row_bytes: usize,
}

/// A row that is written, or deleted by its key.
pub(crate) struct RowChange {
    place: Place,
    pub(crate) is_delete: bool,
    /// The value of each of the table's columns that the file has.
    values: Vec<Option<Value>>,
}

impl Format for TableFormat {
    type Change = RowChange;

    fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.table.columns.iter().map(|column| column.name.to_lowercase()).collect();
        if !names.iter().any(|name| name == OP) {
            names.push(OP.to_owned());
        }
        names
    }

    fn header(&self) -> String {
        let key: Vec<&str> = self.table.key().map(|column| column.name.as_str()).collect();
        format!("have the primary key of {}: {}", self.table.full_name(), key.join(","))
    }

    fn is_required(&self, column: usize) -> bool {
        self.table.columns.get(column).is_some_and(|column| column.is_key)
    }

    fn refused(&self, column: usize) -> Option<String> {
        const NOT_READ: [&str; 9] = [
            "geometry",
            "point",
            "linestring",
            "polygon",
            "multipoint",
            "multilinestring",
            "multipolygon",
            "geomcollection",
            "vector",
        ];
        let column = self.table.columns.get(column)?;
        if column.is_generated {
            return Some("the table computes this column; leave it out".to_owned());
        }
        NOT_READ
            .contains(&&*column.data_type)
            .then(|| format!("a file can't hold a {}; leave it out", column.data_type))
    }

    fn change(&self, fields: &Fields<'_>) -> Result<RowChange, Fault> {
        let columns = &self.table.columns;
        let has_op = !columns.iter().any(|column| column.name.to_lowercase() == OP);
        let is_delete = has_op && fields.is_delete(columns.len())?;
        let value = |(index, column): (usize, &Column)| {
            if !fields.has(index) || is_delete && !column.is_key {
                return Ok(None);
            }
            let value = column.value(fields.text(index)?).map_err(|reason| fields.fault(index, reason))?;
            Ok(Some(value))
        };
        let values = columns.iter().enumerate().map(value).collect::<Result<_, Fault>>()?;
        Ok(RowChange { place: fields.place(), is_delete, values })
    }

    fn place(change: &RowChange) -> Place {
        change.place
    }
}

impl Table {
    fn key(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| column.is_key)
    }

    /// `database.table`
    pub(crate) fn full_name(&self) -> String {
        format!("{}.{}", self.database, self.table)
    }

    fn quoted(&self) -> String {
        format!("{}.{}", quoted(&self.database), quoted(&self.table))
    }

    /// The columns that the change has, with their values; those of the key or the others.
    fn parts<'a>(&'a self, change: &'a RowChange, key: bool) -> impl Iterator<Item = (&'a Column, Value)> {
        let parts = self.columns.iter().zip(&change.values).filter(move |(column, _)| column.is_key == key);
        parts.filter_map(|(column, value)| Some((column, value.clone()?)))
    }

    /// Locks the row with the change's key.
    pub(crate) fn find(&self, change: &RowChange) -> (String, Params) {
        let mut values = Vec::new();
        let condition = self.condition(change, &mut values);
        (format!("SELECT 1 FROM {} WHERE {condition} FOR UPDATE", self.quoted()), Params::Positional(values))
    }

    pub(crate) fn insert(&self, change: &RowChange) -> (String, Params) {
        let (mut names, mut places, mut values) = (String::new(), String::new(), Vec::new());
        for (column, value) in self.parts(change, true).chain(self.parts(change, false)) {
            let comma = if values.is_empty() { "" } else { ", " };
            _ = write!(names, "{comma}{}", quoted(&column.name));
            _ = write!(places, "{comma}?");
            values.push(value);
        }
        (format!("INSERT INTO {} ({names}) VALUES ({places})", self.quoted()), Params::Positional(values))
    }

    /// `None` when the change has only the key.
    pub(crate) fn update(&self, change: &RowChange) -> Option<(String, Params)> {
        let (mut set, mut values) = (String::new(), Vec::new());
        for (column, value) in self.parts(change, false) {
            let comma = if values.is_empty() { "" } else { ", " };
            _ = write!(set, "{comma}{} = ?", quoted(&column.name));
            values.push(value);
        }
        if values.is_empty() {
            return None;
        }
        let condition = self.condition(change, &mut values);
        Some((format!("UPDATE {} SET {set} WHERE {condition}", self.quoted()), Params::Positional(values)))
    }

    pub(crate) fn delete(&self, change: &RowChange) -> (String, Params) {
        let mut values = Vec::new();
        let condition = self.condition(change, &mut values);
        (format!("DELETE FROM {} WHERE {condition}", self.quoted()), Params::Positional(values))
    }

    fn condition(&self, change: &RowChange, values: &mut Vec<Value>) -> String {
        let mut condition = String::new();
        for (column, value) in self.parts(change, true) {
            let and = if condition.is_empty() { "" } else { " AND " };
            _ = write!(condition, "{and}{} = {}", quoted(&column.name), column.compared());
            values.push(value);
        }
        condition
    }
}

/// Reads `table` or `database.table`, each part in backquotes where it has a dot; without a database it is the given one.
pub(crate) fn name(text: &str, database: &str) -> Result<(String, String), &'static str> {
    const WANTED: &str = "is no name of a table, e.g. shop.orders; write a name that has a dot in backquotes";
    let parts: Vec<&str> = match text.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')) {
        Some(inner) => inner.split("`.`").collect(),
        None => text.split('.').collect(),
    };
    let (database, table) = match parts[..] {
        [table] => (database, table),
        [database, table] => (database, table),
        _ => return Err(WANTED),
    };
    if database.is_empty() || table.is_empty() {
        return Err(WANTED);
    }
    Ok((database.to_owned(), table.to_owned()))
}

#[cfg(test)]
mod tests;
