//! `docs/configuration.md`, made from the table of settings; `BLESS=1 cargo test -p runtime document` writes it.

use std::path::Path;

use model::table_name::TableName;

use super::DEFAULT_FILE;
use super::client_options::{OF_PRODUCER, WITHOUT_EFFECT};
use super::flags::heading;
use super::table::{NAMES, Names, Unset};
use super::tables;
use super::value::Kind;

const HEAD: &str = "# Configuration\n\n\
    All settings, made from the table in `crates/runtime/src/config/table.rs`. A value comes from its default, the\n\
    configuration file, the environment or a flag; the later one wins. `--check-config` shows every value in force and where\n\
    it came from. An unknown setting is refused, with the nearest known one.\n\n\
    A secret can be read from a file instead: with `_FILE` behind the variable, `_file` behind the key, `-file` behind the\n\
    flag.\n";

const OF_TABLES: &str = "\n## Settings of single tables\n\n\
    `tables` takes several tables. `table:` in the configuration file, a map from a name or a pattern to settings under the\n\
    keys of the file itself, gives them their own values. The table `DB_NAME.db.table` has the values of the file, and\n\
    another table, `database.table`, these:\n\n\
    | setting | default of another table |\n|---|---|\n";

const OF_CLIENTS: &str = "\n## Options of `kafka.librdkafka`\n\n\
    The clients that read, and those that create topics, are librdkafka's and take every option. The programs' own producer\n\
    follows some; an option that has a setting, or that exactly once depends on, is refused.\n\n\
    | option | reaches |\n|---|---|\n";

/// The document.
fn markdown() -> String {
    let mut text = format!("{HEAD}The configuration file is `{DEFAULT_FILE}`, or the one of `--config`.\n");
    let mut section = "";
    for names in NAMES.iter() {
        let of = match names.setting.key.split('.').next().unwrap_or_default() {
            "updater" => "product-updater",
            "producer" => "cdc-producer",
            program @ ("consumer" | "verify" | "stream") => program,
            _ => heading(names.setting.key),
        };
        if of != section {
            section = of;
            text.push_str(&format!(
                "\n## {section}\n\n| setting | environment | flag | value | default | programs | what it is |\n\
                 |---|---|---|---|---|---|---|\n"
            ));
        }
        text.push_str(&row(names));
    }
    let options = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    text.push_str(OF_CLIENTS);
    text.push_str(&format!("| {} | all clients |\n", options(OF_PRODUCER)));
    text.push_str("| others of `ssl`, `sasl`, `https` | refused: they would not protect the producer |\n");
    text.push_str(&format!("| {} | none: a warning says so |\n", options(WITHOUT_EFFECT)));
    text.push_str("| any other | librdkafka's clients, not the producer |\n");
    text.push_str(OF_TABLES);
    for (key, default) in tables::own_defaults(&TableName::new("database", "table")) {
        text.push_str(&format!("| `{key}` | `{default}` |\n"));
    }
    for key in tables::COMMON {
        text.push_str(&format!("| `{key}` | as in the file |\n"));
    }
    text
}

fn row(names: &Names) -> String {
    let setting = names.setting;
    let default = match setting.default {
        Unset::None => "–".to_owned(),
        Unset::Text(text) => format!("`{text}`"),
        Unset::From(others, _) => format!("from {others}"),
    };
    let programs: Vec<&str> = setting.programs.iter().map(|program| program.name()).collect();
    let Names { env, flag, .. } = names;
    let (key, help, value, programs) = (setting.key, setting.help, value(setting.kind), programs.join(", "));
    format!("| `{key}` | `{env}` | `--{flag}` | {value} | {default} | {programs} | {help} |\n")
}

fn value(kind: Kind) -> String {
    match kind {
        Kind::Text => "text".to_owned(),
        Kind::Secret => "secret".to_owned(),
        Kind::Path => "path".to_owned(),
        Kind::Url => "URL".to_owned(),
        Kind::Listen => "IP address and port, or a range of ports".to_owned(),
        Kind::Number(from, to) => format!("{from} to {to}"),
        Kind::Duration(0) => "time span".to_owned(),
        Kind::Duration(least) => format!("time span, at least {least} ms"),
        Kind::Pause => "one or two time spans".to_owned(),
        Kind::Size => "size".to_owned(),
        Kind::LogFilter => "levels".to_owned(),
        Kind::Choice(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
        Kind::List => "list".to_owned(),
        Kind::Map => "map".to_owned(),
    }
}

#[test]
fn the_document_has_every_setting() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let text = markdown();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &text).expect("to write the document");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == text, "{} is not up to date: BLESS=1 writes it", path.display());
}
