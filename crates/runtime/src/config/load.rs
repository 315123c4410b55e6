//! Reads the settings from their sources: defaults, file, environment, flags.

use std::path::{Path, PathBuf};

use clap::ArgMatches;

use super::flags::flags_given;
use super::pattern::Pattern;
use super::settings::{Environment, Origin, Settings, Value};
use super::table::{self, NAMES, Names, Program};
use super::value::{self, Kind};
use super::yaml::{Entry, Node};
use super::{client_options, tables, transport, typed};
use model::error::{Error, Result};

/// Path of the configuration file unless a flag or the environment names another one.
pub const DEFAULT_FILE: &str = "conf/config.yaml";
/// The setting whose value may hold secrets among its options.
const LIBRDKAFKA: &str = "kafka.librdkafka";

impl Settings {
    /// Merges the sources: defaults, file, environment, flags.
    ///
    /// # Errors
    /// Usage, naming setting, value and origin: for an unknown key, a value of the wrong form, a secret given twice, a
    /// file that can't be read.
    pub fn load(program: Program, environment: &Environment, flags: &ArgMatches) -> Result<Self> {
        let mut settings = Self::empty(program);
        let named = flags.get_one::<PathBuf>("config").cloned();
        let named = named.or_else(|| environment.get("CONFIG").map(PathBuf::from));
        settings.read_file(named)?;
        settings.read_environment(environment)?;
        settings.read_flags(flags)?;
        settings.fill_in();
        typed::check(&settings, program)?;
        settings.check_tables(|table| typed::check(table, program))?;
        settings.warnings.extend(transport::warnings(&settings, program));
        if table::KAFKA.contains(&program) {
            let found: Vec<String> = client_options::warnings(&settings).collect();
            settings.warnings.extend(found);
        }
        Ok(settings)
    }

    fn read_file(&mut self, named: Option<PathBuf>) -> Result<()> {
        let path = named.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if named.is_none() && e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => {
                return Err(Error::usage(format!("cannot read the configuration file {}", path.display()))
                    .with_source(e)
                    .with_remedy(
                        "name an existing file with --config or CONFIG; conf/config.example.yaml is one to copy",
                    ));
            }
        };
        let at = |line: usize| format!("{}:{line}", path.display());
        let root = Node::parse(text.trim_start_matches('\u{feff}')).map_err(|fault| {
            Error::usage(format!("{}: {}", at(fault.line), fault.reason)).with_remedy("correct the YAML of this line")
        })?;
        match root {
            Node::Null => Ok(()),
            Node::Map(entries) => self.read_entries(&path, "", entries),
            _ => Err(Error::usage(format!("{}: settings are wanted here, e.g. kafka.topic: products", at(1)))),
        }
    }

    fn read_entries(&mut self, path: &Path, prefix: &str, entries: Vec<Entry>) -> Result<()> {
        for Entry { key, line, node } in entries {
            let key = format!("{prefix}{key}");
            let origin = Origin::File(path.to_owned(), line);
            if key == "table" {
                self.read_tables(path, node, &origin)?;
            } else if let Some(names) = table::find(&key) {
                let text = match (names.setting.kind, node) {
                    (_, Node::Null) => continue,
                    (Kind::List | Kind::Map, node) => node.flow(),
                    (_, Node::Scalar(text)) => text,
                    _ => {
                        return Err(Error::usage(format!(
                            "{origin}: {key} must be a single text, not a list or a map"
                        )));
                    }
                };
                self.set(names, text, origin)?;
            } else if let Some(names) = NAMES.iter().find(|n| n.setting.is_secret() && n.key_file == key) {
                match node {
                    Node::Null => {}
                    Node::Scalar(file) => self.set_from_file(names, &file, origin)?,
                    _ => return Err(Error::usage(format!("{origin}: {key} must be the path of a file"))),
                }
            } else {
                let section = format!("{key}.");
                match node {
                    Node::Map(inner) if is_section(&section) => self.read_entries(path, &section, inner)?,
                    Node::Null if is_section(&section) => {}
                    _ => return Err(unknown_key(&key, &origin)),
                }
            }
        }
        Ok(())
    }

    /// Reads `table:`, the settings of single tables by pattern.
    fn read_tables(&mut self, path: &Path, node: Node, origin: &Origin) -> Result<()> {
        let Node::Map(entries) = node else {
            return Err(Error::usage(format!("{origin}: table must be a map from a table's name to its settings")));
        };
        for Entry { key, line, node } in entries {
            let origin = Origin::File(path.to_owned(), line);
            let pattern = Pattern::parse(&key).map_err(|reason| Error::usage(format!("{origin}: {key} {reason}")))?;
            let Node::Map(settings) = node else {
                return Err(Error::usage(format!(
                    "{origin}: {key} must be a map of settings, e.g. {{kafka: {{topic: t}}}}"
                )));
            };
            let mut of_table = Self::empty(self.program);
            of_table.read_entries(path, "", settings)?;
            for (key, value) in &of_table.values {
                if !tables::is_own(key) {
                    let text = format!("{}: {key} belongs to all tables, not to {}", value.origin, pattern.text());
                    return Err(Error::usage(text).with_remedy(format!("a table may have {}", tables::own_keys())));
                }
            }
            self.own.push((pattern, of_table.values));
        }
        Ok(())
    }

    fn read_environment(&mut self, environment: &Environment) -> Result<()> {
        for names in NAMES.iter() {
            let text = environment.get(&names.env);
            let file = environment.get(&names.env_file).filter(|_| names.setting.is_secret());
            self.read_pair(names, text, file, |is_file| {
                Origin::Environment(if is_file { &names.env_file } else { &names.env }.clone())
            })?;
        }
        for name in environment.0.keys() {
            if let Some(right) = nearest_variable(name) {
                self.warnings.push(format!(
                    "the environment variable {name} is not known and has no effect; did you mean {right}?"
                ));
            }
        }
        Ok(())
    }

    fn read_flags(&mut self, flags: &ArgMatches) -> Result<()> {
        for (names, text, file) in flags_given(self.program, flags) {
            self.read_pair(names, text, file, |is_file| {
                Origin::Flag(format!("--{}", if is_file { &names.flag_file } else { &names.flag }))
            })?;
        }
        Ok(())
    }

    /// Takes a value, or the name of the file that holds it, from one source.
    fn read_pair(
        &mut self,
        names: &'static Names,
        text: Option<&str>,
        file: Option<&str>,
        origin: impl Fn(bool) -> Origin,
    ) -> Result<()> {
        match (text, file) {
            (None, None) => Ok(()),
            // A stronger source may override the value with the file form or the reverse; one source must not give
            // both.
            (Some(_), Some(_)) => Err(given_twice(names, &origin(false), &origin(true))),
            (Some(text), None) => {
                self.values.remove(names.setting.key);
                self.set(names, text.to_owned(), origin(false))
            }
            (None, Some(file)) => {
                self.values.remove(names.setting.key);
                self.set_from_file(names, file, origin(true))
            }
        }
    }

    fn set_from_file(&mut self, names: &'static Names, file: &str, origin: Origin) -> Result<()> {
        let text = std::fs::read_to_string(file).map_err(|e| {
            Error::usage(format!("cannot read the file {file} that holds {} ({origin})", names.setting.key))
                .with_source(e)
                .with_remedy("make it readable for this user, or name another file")
        })?;
        self.set(names, text.trim_end_matches(['\r', '\n']).to_owned(), origin)
    }

    fn set(&mut self, names: &'static Names, text: String, origin: Origin) -> Result<()> {
        let setting = names.setting;
        if let Some(earlier) = self.values.get(setting.key) {
            let same_file = |a: &Origin, b: &Origin| matches!((a, b), (Origin::File(..), Origin::File(..)));
            if same_file(&earlier.origin, &origin) {
                return Err(given_twice(names, &earlier.origin, &origin));
            }
        }
        if text.is_empty() {
            return Ok(());
        }
        if let Err(reason) = setting.kind.check(&text) {
            let hidden = setting.is_secret()
                || setting.key == LIBRDKAFKA
                || (matches!(setting.kind, Kind::Url) && text.contains('@'));
            let shown = if hidden { "***".to_owned() } else { format!("{text:?}") };
            return Err(Error::usage(format!("{}: {shown} {reason} ({origin})", setting.key))
                .with_remedy(format!("correct it: {}", setting.help)));
        }
        let text = match setting.kind {
            Kind::Choice(words) => value::choice(&text, words).map_or(text, str::to_owned),
            _ => text,
        };
        self.values.insert(setting.key, Value { text, origin });
        Ok(())
    }
}

fn is_section(section: &str) -> bool {
    NAMES.iter().any(|n| n.setting.key.starts_with(section))
}

fn given_twice(names: &Names, one: &Origin, other: &Origin) -> Error {
    Error::usage(format!("{} is given twice: {one} and {other}", names.setting.key)).with_remedy("keep one of the two")
}

fn unknown_key(key: &str, origin: &Origin) -> Error {
    let known = NAMES.iter().flat_map(|n| {
        let file = n.setting.is_secret().then_some(n.key_file.as_str());
        [Some(n.setting.key), file].into_iter().flatten()
    });
    let near = known.map(|k| (strsim::damerau_levenshtein(&k.to_lowercase(), &key.to_lowercase()), k)).min();
    // Earlier users write the last part under other sections, e.g. `kafka.url`; then no known name is near.
    let near = near.filter(|(distance, k)| *distance <= k.len().max(key.len()) / 2).map(|(_, k)| k);
    let remedy = match near {
        Some(near) => format!("did you mean {near}? Every setting is in conf/config.example.yaml"),
        None => "every setting is in conf/config.example.yaml".to_owned(),
    };
    Error::usage(format!("{origin}: unknown setting {key}")).with_remedy(remedy)
}

/// The known variable that an unknown one is nearly spelt like.
fn nearest_variable(name: &str) -> Option<&'static str> {
    let known = || {
        NAMES.iter().flat_map(|n| {
            let file = n.setting.is_secret().then_some(n.env_file.as_str());
            [Some(n.env.as_str()), file].into_iter().flatten()
        })
    };
    if !name.contains('_') || known().any(|k| k == name) {
        return None;
    }
    let near = known().map(|k| (strsim::damerau_levenshtein(k, name), k)).min()?;
    (near.0 <= 2).then_some(near.1)
}
