//! The tables that are taken, and the settings that each of them has for itself.
//!
//! The setting `tables` is a list of patterns; `table:` in the configuration file gives the tables of a pattern settings
//! under the same keys as in the file itself. [`Settings::of_table`] is the result: the settings as that table has them.

use std::collections::BTreeSet;
use std::sync::Arc;

use model::error::{Error, Result};
use model::position::{Progress, TableProgress};
use model::table_name::TableName;

use super::pattern::Pattern;
use super::settings::{Origin, Settings};
use super::yaml::Node;

/// The schema that `schema_registry.pinned` names `product`: that of the main table's records by default.
pub const PINNED_SCHEMA: &str = include_str!("../../../../schemas/product_value_avro_schema.json");

/// Makes the default of a table's setting.
type OwnDefault = fn(&TableName) -> String;

/// The settings that a table other than the main one has for itself, with what they are by default.
const OWN: [(&str, OwnDefault); 10] = [
    ("kafka.topic", topic_of),
    ("schema_registry.subject", |name| format!("{}-value", topic_of(name))),
    ("schema_registry.pinned", |_| "none".to_owned()),
    ("db.columns", |_| "all".to_owned()),
    ("consumer.line", |_| "nested".to_owned()),
    ("postgres.table", |name| name.table.clone()),
    ("rules.capitalise", |_| "[]".to_owned()),
    ("rules.discount", |_| "{}".to_owned()),
    ("rules.discounts", |_| "{}".to_owned()),
    ("rules.drop", |_| "[]".to_owned()),
];

/// The settings that a table may have for itself and otherwise has in common with all.
pub(super) const COMMON: [&str; 5] = [
    "kafka.partitions",
    "kafka.replication_factor",
    "kafka.retention",
    "kafka.cleanup_policy",
    "producer.skip_unchanged",
];

/// Whether `table:` may hold this setting.
pub(super) fn is_own(key: &str) -> bool {
    OWN.iter().any(|(own, _)| *own == key) || COMMON.contains(&key)
}

/// The settings that `table:` may hold, for a message.
pub(super) fn own_keys() -> String {
    OWN.iter().map(|(key, _)| *key).chain(COMMON).collect::<Vec<_>>().join(", ")
}

/// What a table other than the main one has by default.
pub(super) fn own_defaults(name: &TableName) -> impl Iterator<Item = (&'static str, String)> {
    OWN.iter().map(|(key, default)| (*key, default(name)))
}

/// `database.table` with each byte that a topic's name can't have as `_xHH_`.
fn topic_of(name: &TableName) -> String {
    let mut topic = String::new();
    for byte in name.to_string().bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' => topic.push(char::from(byte)),
            byte => topic.push_str(&format!("_x{byte:02X}_")),
        }
    }
    topic
}

/// The tables that are taken.
#[derive(Clone, Debug)]
pub struct Tables {
    patterns: Vec<Pattern>,
    is_default: bool,
}

impl Tables {
    /// The patterns in order.
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// Whether `tables` is unset, so that only the main table is taken.
    pub fn is_default(&self) -> bool {
        self.is_default
    }

    /// The pattern that decides about this table: the last one that names it.
    pub fn decides(&self, name: &TableName) -> Option<&Pattern> {
        self.patterns.iter().rev().find(|pattern| pattern.matches(name))
    }

    /// Whether the table is taken.
    pub fn takes(&self, name: &TableName) -> bool {
        self.decides(name).is_some_and(|pattern| !pattern.is_exclusion())
    }

    /// Whether a pattern takes tables that it does not name in full.
    pub fn has_patterns(&self) -> bool {
        self.patterns.iter().any(|pattern| !pattern.is_exclusion() && pattern.exact().is_none())
    }

    /// The tables that are named in full, and those of the progress that the patterns take; `main` is the main table.
    pub fn known(&self, main: &TableName, progress: Option<&Progress>) -> BTreeSet<TableName> {
        let mut names: BTreeSet<TableName> = self.exact().into_iter().collect();
        let Some(progress) = progress else { return names };
        if self.takes(main) && progress.main != TableProgress::default() {
            names.insert(main.clone());
        }
        for text in progress.tables.keys() {
            // A dot may also be in a name.
            let split = |(at, _): (usize, &str)| TableName::new(&text[..at], &text[at + 1..]);
            names.extend(text.match_indices('.').map(split).find(|name| self.takes(name)));
        }
        names
    }

    /// The tables that are taken by their whole names.
    pub fn exact(&self) -> Vec<TableName> {
        let mut names: Vec<TableName> = Vec::new();
        for name in self.patterns.iter().filter_map(Pattern::exact) {
            if self.takes(&name) && !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}

impl Settings {
    /// The settings of the pipeline, of which these may be those of a table.
    fn base(&self) -> &Self {
        self.base.as_deref().unwrap_or(self)
    }

    /// The table that the pipeline is named after: `DB_NAME` and `db.table`. Its topic is `kafka.topic`.
    pub fn main_table(&self) -> TableName {
        self.base().own_table()
    }

    /// The table of these settings: `DB_NAME` and `db.table`.
    pub fn own_table(&self) -> TableName {
        TableName::new(self.text("DB_NAME"), self.text("db.table"))
    }

    /// The tables that are taken: `tables`, or the main table.
    ///
    /// # Errors
    /// Usage, naming the pattern.
    pub fn tables(&self) -> Result<Tables> {
        if self.optional("tables").is_none() {
            return Ok(Tables { patterns: vec![Pattern::of(&self.main_table())], is_default: true });
        }
        let mut patterns = Vec::new();
        for node in self.list("tables")? {
            let Node::Scalar(text) = node else {
                return Err(self.wrong("tables", "is not a list of names, e.g. [shop.orders, \"crm.*\"]"));
            };
            for text in text.split(',').map(str::trim).filter(|text| !text.is_empty()) {
                let pattern = Pattern::parse(text)
                    .map_err(|reason| self.wrong("tables", &format!("has {text}, which {reason}")))?;
                patterns.push(pattern);
            }
        }
        if patterns.iter().all(Pattern::is_exclusion) {
            return Err(self.wrong("tables", "takes no table").with_remedy("name a table, e.g. shop.orders or shop.*"));
        }
        Ok(Tables { patterns, is_default: false })
    }

    /// The settings as this table has them: `DB_NAME`, `db.table`, its topic, and everything that `table:` gives it.
    pub fn of_table(&self, name: &TableName) -> Self {
        let base = self.base.clone().unwrap_or_else(|| Arc::new(self.clone()));
        let main = base.main_table();
        let mut view = (*base).clone();
        if *name != main {
            let origin = Origin::Default(Some("the table's name"));
            for (key, text) in own_defaults(name) {
                view.put(key, text, origin.clone());
            }
        }
        let subject = base.origin("schema_registry.subject");
        let mut has_subject = main == *name && !matches!(subject, None | Some(Origin::Default(_)));
        for (pattern, values) in &base.own {
            if pattern.matches(name) {
                has_subject |= values.contains_key("schema_registry.subject");
                view.values.extend(values.iter().map(|(key, value)| (*key, value.clone())));
            }
        }
        if !has_subject {
            let text = format!("{}-value", view.text("kafka.topic"));
            view.put("schema_registry.subject", text, Origin::Default(Some("kafka.topic")));
        }
        for (key, text) in [("DB_NAME", &name.database), ("db.table", &name.table)] {
            if view.text(key) != text {
                view.put(key, text.clone(), Origin::Default(Some("tables")));
            }
        }
        view.base = Some(base);
        view
    }

    /// `kafka.topic` of the main table, after which the pipeline's checkpoint topic is named.
    pub fn pipeline_topic(&self) -> &str {
        self.base().text("kafka.topic")
    }

    /// Checks what can be checked without a server: that the tables named in full have topics of their own, and that
    /// `table:` names only tables that are taken.
    pub(super) fn check_tables(&self, check: impl Fn(&Self) -> Result<()>) -> Result<()> {
        let tables = self.tables()?;
        let mut topics: Vec<(String, TableName)> = Vec::new();
        for name in tables.exact() {
            let view = self.of_table(&name);
            check(&view)
                .map_err(|error| if tables.is_default() { error } else { error.at(&format!("table {name}")) })?;
            require_own_topic(&mut topics, view.text("kafka.topic"), &name)?;
        }
        for (pattern, values) in &self.own {
            if let Some(name) = pattern.exact().filter(|name| !tables.takes(name)) {
                let origin = values.values().next().map_or_else(String::new, |value| format!(" ({})", value.origin));
                return Err(Error::usage(format!("table: names {name}, which tables does not take{origin}"))
                    .with_remedy(format!("add {name} to tables, or remove it from table:")));
            }
        }
        Ok(())
    }
}

/// Notes that the table writes to the topic.
///
/// # Errors
/// Usage when another one of `topics` does.
pub fn require_own_topic(topics: &mut Vec<(String, TableName)>, topic: &str, name: &TableName) -> Result<()> {
    // Kafka's metrics have the same name for topics that differ in these characters only, and it refuses the second.
    let folded = topic.replace('.', "_");
    if let Some((_, other)) = topics.iter().find(|(taken, other)| taken.replace('.', "_") == folded && other != name) {
        return Err(Error::usage(format!("the tables {other} and {name} have one topic, {topic}")).with_remedy(format!(
            "give one of them another topic: table: {{{name}: {{kafka: {{topic: …}}}}}}; topics that differ in '.' and '_' only \
             count as one"
        )));
    }
    topics.push((topic.to_owned(), name.clone()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::settings::Environment;
    use super::super::table::Program;
    use super::*;

    fn name(text: &str) -> TableName {
        let (database, table) = text.split_once('.').expect("a dot");
        TableName::new(database, table)
    }

    fn settings(yaml: &str) -> Result<Settings> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config.yaml");
        std::fs::write(&path, yaml).expect("to write");
        let command = super::super::command(Program::CdcProducer, clap::Command::new("test"));
        let flags = command.get_matches_from(["test", "--config", path.to_str().expect("a path")]);
        Settings::load(Program::CdcProducer, &Environment::default(), &flags)
    }

    #[test]
    fn the_last_pattern_that_names_a_table_decides() {
        let settings =
            settings("tables: [shop.*, '!shop.tmp_*', shop.tmp_kept, '`we.ird`.`t*`', 'a?.b']").expect("settings");
        let tables = settings.tables().expect("tables");
        for (table, want) in [
            ("shop.orders", true),
            ("shop.tmp_1", false),
            ("shop.tmp_kept", true),
            ("shopping.orders", false),
            ("ab.b", true),
            ("abc.b", false),
        ] {
            assert_eq!(tables.takes(&name(table)), want, "{table}");
        }
        assert!(tables.takes(&TableName::new("we.ird", "t*")));
        assert_eq!(tables.exact(), [name("shop.tmp_kept"), TableName::new("we.ird", "t*")]);
    }

    #[test]
    fn bad_patterns_and_contradictions_are_refused_by_name() {
        for (yaml, want) in [
            ("tables: [shop]", "shop"),
            ("tables: ['shop.']", "is no name of a table"),
            ("tables: [shop.a.b]", "in backquotes"),
            ("tables: ['`shop.a']", "is no name of a table"),
            ("tables: ['!shop.a']", "takes no table"),
            ("tables: [a.b]\ntable: {a.c: {kafka: {topic: x}}}", "table: names a.c, which tables does not take"),
            ("tables: [a.b]\ntable: {a.b: {kafka: {topics: x}}}", "did you mean kafka.topic"),
            ("tables: [a.b]\ntable: {a.b: {kafka: {group_id: x}}}", "belongs to all tables"),
            ("tables: [a.b, a.c]\ntable: {a.c: {kafka: {topic: a.b}}}", "a.b and a.c have one topic, a.b"),
            ("tables: [a.b, a.c]\ntable: {a.c: {kafka: {topic: a_b}}}", "a.b and a.c have one topic, a_b"),
            ("tables: [a.b]\ntable: {a.b: {kafka: {topic: 'a b'}}}", "table a.b"),
        ] {
            let error = settings(yaml).expect_err(yaml);
            let text = format!("{error} {:?}", error.remedy());
            assert!(text.contains(want), "{yaml}: {text}");
        }
    }

    #[test]
    fn each_table_has_its_own_settings() {
        let yaml = "tables: [buy_online_db.product, 'shop.*']\n\
                    rules: {capitalise: [name]}\n\
                    table:\n  shop.*: {kafka: {partitions: 3}}\n  'shop.o*': {kafka: {topic: orders}}\n";
        let settings = settings(yaml).expect("settings");
        let get = |table: &str, key: &str| settings.of_table(&name(table)).text(key).to_owned();
        for (table, key, want) in [
            ("buy_online_db.product", "kafka.topic", "product_updates"),
            ("buy_online_db.product", "kafka.partitions", "10"),
            ("buy_online_db.product", "rules.capitalise", "[name]"),
            ("buy_online_db.product", "consumer.line", "flat"),
            ("shop.orders", "kafka.topic", "orders"),
            ("shop.orders", "schema_registry.subject", "orders-value"),
            ("shop.orders", "kafka.partitions", "3"),
            ("shop.orders", "rules.capitalise", "[]"),
            ("shop.orders", "DB_NAME", "shop"),
            ("shop.orders", "postgres.table", "orders"),
            ("shop.q ü", "kafka.topic", "shop.q_x20__xC3__xBC_"),
            ("shop.q", "db.columns", "all"),
        ] {
            assert_eq!(get(table, key), want, "{table} {key}");
        }
        let view = settings.of_table(&name("shop.orders"));
        assert_eq!((view.pipeline_topic(), view.main_table()), ("product_updates", name("buy_online_db.product")));
        assert_eq!(view.of_table(&name("shop.q")).text("kafka.topic"), "shop.q");
    }
}
