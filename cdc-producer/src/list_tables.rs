//! `cdc-producer tables`: which of the server's tables are taken and how, and why one is not.

use model::error::{Code, Error, Result};
use model::escape;
use model::table_name::TableName;
use mysql::table::{SourceTable, quoted};
use mysql_async::Conn;
use runtime::config::MySqlSettings;
use serde::{Serialize, Serializer};
use serde_json::json;

use crate::endpoint::Endpoint;
use crate::settings::ProducerSettings;
use crate::taken;

/// What is printed of one table.
#[derive(Debug, PartialEq, Eq)]
struct Listed {
    name: String,
    /// The pattern that decides, if one names the table.
    pattern: String,
    found: Found,
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// It is taken like this: topic, and what its records have.
    Taken(String, String),
    /// It is to be taken, and can't be.
    Refused(String),
    NotTaken,
}

/// Prints each table of the server and each table that is named in full.
///
/// # Errors
/// Errors of the queries; definite when a table is to be taken and can't be.
pub(crate) async fn print(settings: &ProducerSettings, is_json: bool) -> Result<()> {
    let endpoint = Endpoint::new(settings.mysql.clone());
    let mut conn = endpoint.begin().await?;
    let mut names = taken::all(&mut conn).await?;
    let missing: Vec<TableName> = settings.tables.exact().into_iter().filter(|name| !names.contains(name)).collect();
    names.extend(missing);
    let mut listed = Vec::new();
    for name in names {
        let pattern = settings.tables.decides(&name).map_or_else(String::new, |pattern| pattern.text().to_owned());
        let found =
            if settings.tables.takes(&name) { look(settings, &name, &mut conn).await? } else { Found::NotTaken };
        listed.push(Listed { name: name.to_string(), pattern, found });
    }
    if is_json {
        println!("{}", escape::escaped(&json!({ "tables": listed }).to_string()));
    } else {
        print!("{}", text(&listed));
    }
    if listed.iter().all(|table| table.found == Found::NotTaken) {
        return Err(taken::nothing_taken(settings));
    }
    let refused = listed.iter().filter(|table| matches!(table.found, Found::Refused(_))).count();
    if refused > 0 {
        return Err(Error::new(Code::ChecksFailed, format!("{refused} of the tables that tables takes can't be read"))
            .with_remedy("follow what the list says, or leave the table out with a pattern such as !shop.orders"));
    }
    Ok(())
}

async fn look(settings: &ProducerSettings, name: &TableName, conn: &mut Conn) -> Result<Found> {
    let of_table = settings.of_table(name)?;
    let MySqlSettings { database, table, .. } = &of_table.mysql;
    let found = match SourceTable::inspect(conn, database, table, &of_table.contract).await {
        Ok(found) => found,
        Err(error) if error.is_transient() => return Err(error),
        Err(error) => {
            let remedy = error.remedy().map_or_else(String::new, |remedy| format!("; {remedy}"));
            return Ok(Found::Refused(format!("{error}{remedy}")));
        }
    };
    let left_out = match found.left_out(conn).await?.as_slice() {
        [] => String::new(),
        names => format!(", without {}", names.join(", ")),
    };
    let key: Vec<String> = found.key_columns().map(|column| quoted(&column.name).replace('`', "")).collect();
    let form = format!("key ({}), {} columns{left_out}", key.join(", "), found.columns.len());
    Ok(Found::Taken(of_table.kafka.topic, form))
}

impl Serialize for Listed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (topic, records, refused) = match &self.found {
            Found::Taken(topic, form) => (Some(topic), Some(form), None),
            Found::Refused(reason) => (None, None, Some(reason)),
            Found::NotTaken => (None, None, None),
        };
        let pattern = Some(&self.pattern).filter(|pattern| !pattern.is_empty());
        json!({ "table": self.name, "pattern": pattern, "topic": topic, "records": records, "refused": refused })
            .serialize(serializer)
    }
}

/// The list: a line for each table, in columns.
fn text(listed: &[Listed]) -> String {
    let width = |of: &dyn Fn(&Listed) -> usize| listed.iter().map(of).max().unwrap_or(0).min(60);
    let name_width = width(&|table| table.name.chars().count());
    let pattern_width = width(&|table| table.pattern.chars().count().max(7));
    let topic_width = width(&|table| match &table.found {
        Found::Taken(topic, _) => topic.chars().count(),
        _ => 5,
    });
    let mut out = format!("{:name_width$}  {:pattern_width$}  {:topic_width$}  records\n", "table", "pattern", "topic");
    for Listed { name, pattern, found } in listed {
        let (topic, form) = match found {
            Found::Taken(topic, form) => (topic.as_str(), form.as_str()),
            Found::Refused(reason) => ("-", reason.as_str()),
            Found::NotTaken => ("-", "not taken"),
        };
        let pattern = if pattern.is_empty() { "-" } else { pattern };
        out.push_str(&format!("{name:name_width$}  {pattern:pattern_width$}  {topic:topic_width$}  {form}\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_table() {
        let listed = |name: &str, pattern: &str, found| Listed { name: name.into(), pattern: pattern.into(), found };
        let shown = text(&[
            listed("shop.orders", "shop.*", Found::Taken("orders".into(), "key (id), 3 columns".into())),
            listed("shop.tmp", "!shop.tmp", Found::NotTaken),
            listed("shop.log", "shop.*", Found::Refused("shop.log has no primary key".into())),
            listed("crm.a", "", Found::NotTaken),
        ]);
        let want = "table        pattern    topic   records\n\
                    shop.orders  shop.*     orders  key (id), 3 columns\n\
                    shop.tmp     !shop.tmp  -       not taken\n\
                    shop.log     shop.*     -       shop.log has no primary key\n\
                    crm.a        -          -       not taken\n";
        assert_eq!(shown, want);
    }
}
