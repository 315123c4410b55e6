//! Warns about passwords that a program sends to another host over a connection that does not authenticate the server.

use super::host::{host_of, is_local};
use super::postgres_url::unchecked_password;
use super::settings::Settings;
use super::table::{self, Program};
use super::typed::{MySqlSettings, PostgresSettings, SslMode};

/// One warning for each server whose password a third party on the network could read.
pub(super) fn warnings(settings: &Settings, program: Program) -> Vec<String> {
    let mut found = Vec::new();
    let mut warn = |password: &str, host: &str, why: String, remedy: &str| {
        found.push(format!(
            "{password} goes to {host}, and anyone who can read the network traffic can read it: {why}. What to do: {remedy}"
        ));
    };
    let unchecked = |s: &MySqlSettings| {
        matches!(s.ssl_mode, SslMode::Disabled | SslMode::Preferred | SslMode::Required)
            && s.password.is_some()
            && !is_local(&s.host)
    };
    if table::MYSQL.contains(&program)
        && let Ok(mysql) = MySqlSettings::from(settings)
        && unchecked(&mysql)
    {
        let why = format!("db.ssl_mode {} checks no certificate", settings.text("db.ssl_mode"));
        warn(
            "DB_PASSWORD",
            &mysql.host,
            why,
            "set db.ssl_mode to verify_identity, with db.ssl_ca for a CA of your own",
        );
    }
    if table::KAFKA.contains(&program) {
        let servers = settings.text("kafka.bootstrap_servers");
        let other = servers.split(',').map(|s| host_of(s.trim())).find(|host| !is_local(host));
        let options = settings.map("kafka.librdkafka").unwrap_or_default();
        let off = options.iter().find(|(key, value)| {
            (key == "enable.ssl.certificate.verification" && value == "false")
                || (key == "ssl.endpoint.identification.algorithm" && value == "none")
        });
        let why = match (settings.text("kafka.security_protocol"), off) {
            ("SASL_PLAINTEXT", _) => Some("kafka.security_protocol SASL_PLAINTEXT does not encrypt".to_owned()),
            ("SASL_SSL", Some((key, value))) => Some(format!("kafka.librdkafka has {key}: {value}")),
            _ => None,
        };
        // SCRAM proves that the client knows the password, and does not send it.
        let sends = matches!(settings.optional("kafka.sasl_mechanisms"), Some("PLAIN" | "OAUTHBEARER"));
        if let (Some(host), Some(why), true) = (other, why, sends) {
            warn(
                "kafka.sasl_password",
                host,
                why,
                "set kafka.security_protocol to SASL_SSL and let it check certificates",
            );
        }
    }
    if table::KAFKA.contains(&program) && settings.optional("schema_registry.user").is_some() {
        let url = settings.text("schema_registry.url");
        if let Some(host) = url.strip_prefix("http://").map(host_of).filter(|host| !is_local(host)) {
            warn("schema_registry.secret", host, "http does not encrypt".to_owned(), "use https");
        }
    }
    if table::SINKS.contains(&program)
        && let Ok(Some(postgres)) = PostgresSettings::from(settings)
        && let Some((hosts, mode)) = unchecked_password(postgres.url.expose())
        && let Some(host) = hosts.iter().find(|host| !is_local(host))
    {
        let why = format!("sslmode={mode} checks no certificate");
        warn("the password in postgres.url", host, why, "add sslmode=verify-full and sslrootcert=… to it");
    }
    found
}
