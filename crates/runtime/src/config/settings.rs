//! The settings in force, each with its origin.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::pattern::Pattern;
use super::table::{self, NAMES, Names, Program, Unset};
use super::value::{self, Kind, Pause, Secret};
use super::yaml::{Entry, Node};
use model::error::{Error, Result};

/// Parts of the names of librdkafka's options that hold passwords and keys.
const SECRET_OPTIONS: [&str; 6] = ["pass", "secret", "pem", "private.key", "oauthbearer.config", "kinit.cmd"];

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The default, which may be derived from other settings; those are named.
    Default(Option<&'static str>),
    /// A line of the configuration file.
    File(PathBuf, usize),
    /// An environment variable.
    Environment(String),
    /// A flag, with its dashes.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default(None) => f.write_str("default"),
            Self::Default(Some(others)) => write!(f, "default, from {others}"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

#[derive(Clone)]
pub(super) struct Value {
    pub(super) text: String,
    pub(super) origin: Origin,
}

pub(super) type Values = BTreeMap<&'static str, Value>;

/// The environment variables, as a value so that tests bring their own.
#[derive(Clone, Debug, Default)]
pub struct Environment(pub(super) BTreeMap<String, String>);

impl Environment {
    /// The environment of this process. A variable that is not UTF-8 is ignored; an empty one counts as unset.
    pub fn of_process() -> Self {
        std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect()
    }

    /// The value of a variable that is set and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

/// The settings in force.
#[derive(Clone)]
pub struct Settings {
    pub(super) program: Program,
    pub(super) values: Values,
    /// What `table:` gives to tables, in the file's order.
    pub(super) own: Vec<(Pattern, Values)>,
    /// The settings of the pipeline, in those of a table.
    pub(super) base: Option<Arc<Settings>>,
    pub(super) warnings: Vec<String>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.report())
    }
}

impl Settings {
    /// The settings of a program when nothing is set.
    pub fn defaults(program: Program) -> Self {
        let mut settings = Self::empty(program);
        settings.fill_in();
        settings
    }

    pub(super) fn empty(program: Program) -> Self {
        Self { program, values: Values::new(), own: Vec::new(), base: None, warnings: Vec::new() }
    }

    /// Warnings about probable mistakes that do not stop a program, e.g. `KAFKA_BOOTSTRAP_SERVER` in the environment.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether they are those of a program that runs until it is stopped.
    pub(crate) fn is_of_service(&self) -> bool {
        self.program.is_service()
    }

    pub(super) fn fill_in(&mut self) {
        for derived in [false, true] {
            for names in NAMES.iter().filter(|n| !self.values.contains_key(n.setting.key)).collect::<Vec<_>>() {
                let (text, origin) = match names.setting.default {
                    Unset::Text(text) if !derived => (text.to_owned(), Origin::Default(None)),
                    Unset::From(others, make) if derived => {
                        (make(&|key| self.text(key)), Origin::Default(Some(others)))
                    }
                    _ => continue,
                };
                self.values.insert(names.setting.key, Value { text, origin });
            }
        }
    }

    pub(super) fn put(&mut self, key: &'static str, text: String, origin: Origin) {
        self.values.insert(key, Value { text, origin });
    }

    /// The value as it was written; empty when unset.
    pub fn text(&self, key: &str) -> &str {
        debug_assert!(table::find(key).is_some(), "no setting {key}");
        self.values.get(key).map_or("", |v| v.text.as_str())
    }

    /// The value, when there is one.
    pub fn optional(&self, key: &str) -> Option<&str> {
        Some(self.text(key)).filter(|t| !t.is_empty())
    }

    /// All values, those of tables too.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        let all = self.own.iter().map(|(_, values)| values).chain([&self.values]);
        all.flat_map(|values| values.values()).map(|value| value.text.as_str())
    }

    /// Where the value came from; `None` when it is unset.
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.values.get(key).map(|v| &v.origin)
    }

    /// A path.
    pub fn path(&self, key: &str) -> PathBuf {
        PathBuf::from(self.text(key))
    }

    /// A path, when it is set.
    pub fn optional_path(&self, key: &str) -> Option<PathBuf> {
        self.optional(key).map(PathBuf::from)
    }

    /// The path of a file that can be read, when it is set.
    pub(super) fn existing_file(&self, key: &str) -> Result<Option<PathBuf>> {
        let Some(path) = self.optional_path(key) else { return Ok(None) };
        match std::fs::File::open(&path) {
            Ok(_) => Ok(Some(path)),
            Err(e) => {
                Err(self.wrong(key, "can't be read").with_source(e).with_remedy("name a file that this user may read"))
            }
        }
    }

    /// A secret, when it is set.
    pub fn secret(&self, key: &str) -> Option<Secret> {
        self.optional(key).map(Secret::new)
    }

    /// A whole number of the type that its bounds in the table allow.
    ///
    /// # Errors
    /// Usage when it is unset or does not fit the type.
    pub fn number<N: TryFrom<i64>>(&self, key: &str) -> Result<N> {
        let number = self.text(key).parse::<i64>().ok().and_then(|n| N::try_from(n).ok());
        number.ok_or_else(|| self.wrong(key, "is not a number in range"))
    }

    /// A time span.
    ///
    /// # Errors
    /// Usage when it is unset.
    pub fn duration(&self, key: &str) -> Result<Duration> {
        value::duration(self.text(key)).ok_or_else(|| self.wrong(key, "is not a time span"))
    }

    /// A time span, when it is set.
    pub fn optional_duration(&self, key: &str) -> Option<Duration> {
        value::duration(self.text(key))
    }

    /// A number of bytes.
    ///
    /// # Errors
    /// Usage when it is unset or too large for this machine.
    pub fn bytes(&self, key: &str) -> Result<usize> {
        let bytes = value::size(self.text(key)).and_then(|n| usize::try_from(n).ok());
        bytes.ok_or_else(|| self.wrong(key, "is not a size"))
    }

    /// A pause between two bounds.
    ///
    /// # Errors
    /// Usage when it is unset.
    pub fn pause(&self, key: &str) -> Result<Pause> {
        Pause::parse(self.text(key)).ok_or_else(|| self.wrong(key, "is not a pause"))
    }

    pub(super) fn list(&self, key: &str) -> Result<Vec<Node>> {
        Node::parse_list(self.text(key)).map_err(|reason| self.wrong(key, &reason))
    }

    pub(super) fn map(&self, key: &str) -> Result<Vec<(String, String)>> {
        Node::parse_map(self.text(key)).map_err(|reason| self.wrong(key, &reason))
    }

    /// A usage error about the value in force, with its origin.
    pub fn wrong(&self, key: &str, reason: &str) -> Error {
        let Some(value) = self.values.get(key) else {
            return Error::usage(format!("{key} is not set"));
        };
        let shown = table::find(key).map_or_else(String::new, |n| shown(n, &value.text));
        Error::usage(format!("{key}: {shown:?} {reason} ({})", value.origin))
    }

    /// The settings in force: one line per setting with its value and origin, secrets hidden.
    pub fn report(&self) -> String {
        let rows: Vec<[String; 3]> = NAMES
            .iter()
            .filter(|n| n.setting.is_of(self.program))
            .map(|names| {
                let key = names.setting.key.to_owned();
                match self.values.get(names.setting.key) {
                    Some(value) => [key, shown(names, &value.text), value.origin.to_string()],
                    None => [key, "-".to_owned(), "unset".to_owned()],
                }
            })
            .collect();
        let width = |i: usize| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0).min(40);
        let (first, second) = (width(0), width(1));
        rows.iter().map(|[key, value, origin]| format!("{key:first$}  {value:second$}  {origin}\n")).collect()
    }
}

fn shown(names: &Names, text: &str) -> String {
    const HIDDEN: &str = "***";
    match names.setting.kind {
        Kind::Secret => HIDDEN.to_owned(),
        // Options of librdkafka may hold passwords and keys.
        Kind::Map => match Node::parse_map(text) {
            Ok(pairs) => {
                let hide = |key: &str| SECRET_OPTIONS.iter().any(|part| key.contains(part));
                let pair = |(key, value): (String, String)| {
                    let node = Node::Scalar(if hide(&key) { HIDDEN.to_owned() } else { value });
                    Entry { key, line: 0, node }
                };
                Node::Map(pairs.into_iter().map(pair).collect()).flow()
            }
            Err(_) => HIDDEN.to_owned(),
        },
        _ => text.to_owned(),
    }
}
