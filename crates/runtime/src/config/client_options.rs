//! The options of Kafka's clients: `kafka.librdkafka`, and those that other settings stand for.
//!
//! Two kinds of clients take them. The readers, and the clients that look after topics, are librdkafka's and take every
//! option. The programs' transactional producer is not: it follows [`OF_PRODUCER`]. An option that protects a connection
//! must not reach one kind only, so another one of TLS and logins is refused.

use std::collections::BTreeMap;
use std::fmt;

use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

use super::settings::Settings;
use model::error::{Error, Result};

/// Options for librdkafka; `Debug` shows their names only.
#[derive(Clone, Default)]
pub struct ClientOptions(BTreeMap<String, String>);

impl<'a> IntoIterator for &'a ClientOptions {
    type Item = (&'a String, &'a String);
    type IntoIter = std::collections::btree_map::Iter<'a, String, String>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl ClientOptions {
    /// The value of an option that is set, by librdkafka's name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Options that a user must not pass on because they have a separate setting.
const OWN_OPTIONS: &[(&str, &str)] = &[
    ("bootstrap.servers", "kafka.bootstrap_servers"),
    ("metadata.broker.list", "kafka.bootstrap_servers"),
    ("security.protocol", "kafka.security_protocol"),
    ("sasl.mechanism", "kafka.sasl_mechanisms"),
    ("sasl.mechanisms", "kafka.sasl_mechanisms"),
    ("sasl.username", "kafka.sasl_username"),
    ("sasl.password", "kafka.sasl_password"),
    ("sasl.oauthbearer.config", "kafka.sasl_token_file"),
    ("ssl.ca.location", "kafka.ssl_ca_location"),
    ("group.id", "kafka.group_id"),
    ("session.timeout.ms", "kafka.session_timeout"),
    ("transactional.id", "kafka.transactional_id"),
    ("transaction.timeout.ms", "kafka.transaction_timeout"),
    ("compression.type", "kafka.compression"),
    ("compression.codec", "kafka.compression"),
];
/// Options that a user must not pass on because exactly-once delivery depends on them.
const EXACTLY_ONCE_OPTIONS: &[&str] = &[
    "allow.auto.create.topics",
    "enable.idempotence",
    "enable.gapless.guarantee",
    "acks",
    "request.required.acks",
    "partitioner",
    "message.timeout.ms",
    "delivery.timeout.ms",
    "message.send.max.retries",
    "retries",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "isolation.level",
    "enable.auto.commit",
    "auto.commit.enable",
    "auto.commit.interval.ms",
    "enable.auto.offset.store",
    "enable.partition.eof",
    "auto.offset.reset",
    "group.instance.id",
    "group.protocol",
    "partition.assignment.strategy",
];

/// Options of `kafka.librdkafka` that the producer follows too.
pub(super) const OF_PRODUCER: &[&str] = &[
    "client.id",
    "enable.ssl.certificate.verification",
    "message.max.bytes",
    "ssl.certificate.location",
    "ssl.endpoint.identification.algorithm",
    "ssl.key.location",
    "ssl.key.password",
];
/// Options of librdkafka's own producer, which the programs do not use.
pub(super) const WITHOUT_EFFECT: &[&str] = &[
    "batch.num.messages",
    "batch.size",
    "compression.level",
    "delivery.report.only.error",
    "linger.ms",
    "queue.buffering.backpressure.threshold",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.messages",
    "queue.buffering.max.ms",
    "queuing.strategy",
    "request.timeout.ms",
    "sticky.partitioning.linger.ms",
];

/// How the names of options begin that are about connections, but not about those of the programs' own producer.
const OF_OTHER_CONNECTIONS: &[&str] =
    &["socket.", "broker.address.", "reconnect.", "client.dns.", "connections.", "metadata.", "topic.metadata."];

/// One warning for each option that has no effect, or that a user may believe to have another one.
pub(super) fn warnings(settings: &Settings) -> impl Iterator<Item = String> {
    let options = settings.map("kafka.librdkafka").unwrap_or_default();
    options.into_iter().filter_map(|(key, _)| {
        if WITHOUT_EFFECT.contains(&key.as_str()) {
            return Some(format!(
                "kafka.librdkafka: {key} has no effect: it is of librdkafka's producer, and the programs have their own. What \
                 to do: remove it (producer.linger says how often a commit is made)"
            ));
        }
        let is_other = OF_OTHER_CONNECTIONS.iter().any(|start| key.starts_with(start));
        is_other.then(|| {
            format!(
                "kafka.librdkafka: {key} does not reach the programs' own producer, only the clients that read. What to \
                 do: nothing, if that is what you want"
            )
        })
    })
}

/// Whether it protects a connection.
fn is_of_security(key: &str) -> bool {
    ["ssl", "enable.ssl", "sasl", "enable.sasl", "https"].iter().any(|start| key.starts_with(start))
}

pub(super) fn client_options(settings: &Settings) -> Result<ClientOptions> {
    let mut options = BTreeMap::new();
    for (key, value) in settings.map("kafka.librdkafka")? {
        let from = settings.origin("kafka.librdkafka").map_or_else(String::new, |o| format!(" ({o})"));
        if let Some((_, own)) = OWN_OPTIONS.iter().find(|(name, _)| *name == key) {
            return Err(Error::usage(format!("kafka.librdkafka: {key} has its own setting, {own}{from}"))
                .with_remedy(format!("set {own} instead")));
        }
        if EXACTLY_ONCE_OPTIONS.contains(&key.as_str()) {
            return Err(Error::usage(format!("kafka.librdkafka: {key} must stay as the programs set it{from}"))
                .with_remedy("remove it: changing it would break exactly once"));
        }
        check_client_option(&key, &value, &from)?;
        if key == "enable.ssl.certificate.verification" && !["true", "false"].contains(&value.as_str()) {
            // librdkafka has more spellings, of which the other clients know nothing.
            return Err(Error::usage(format!("kafka.librdkafka: {key} is neither true nor false{from}"))
                .with_remedy("write true or false"));
        }
        if is_of_security(&key) && !OF_PRODUCER.contains(&key.as_str()) {
            return Err(Error::usage(format!("kafka.librdkafka: {key} does not reach the programs' own producer{from}"))
                .with_remedy(
                    "set the login by kafka.sasl_*, the authorities by kafka.ssl_ca_location, and a client's certificate by \
                     ssl.certificate.location, ssl.key.location and ssl.key.password, as PEM files",
                ));
        }
        options.insert(key, value);
    }
    let protocol = settings.text("kafka.security_protocol");
    let sasl = protocol.starts_with("SASL");
    let tls = protocol.ends_with("SSL");
    for key in ["kafka.sasl_mechanisms", "kafka.sasl_username", "kafka.sasl_password", "kafka.sasl_token_file"] {
        if settings.optional(key).is_some() && !sasl {
            return Err(settings
                .wrong(key, &format!("has no effect with kafka.security_protocol {protocol}"))
                .with_remedy("set kafka.security_protocol to SASL_SSL (or SASL_PLAINTEXT in a network you trust)"));
        }
    }
    options.insert("security.protocol".to_owned(), protocol.to_owned());
    if sasl {
        let needed = |key: &str| {
            settings.optional(key).map(str::to_owned).ok_or_else(|| {
                Error::usage(format!("kafka.security_protocol {protocol} needs {key}"))
                    .with_remedy(format!("set {key}"))
            })
        };
        let mechanism = needed("kafka.sasl_mechanisms")?;
        if mechanism == "OAUTHBEARER" {
            needed("kafka.sasl_token_file")?;
            let file = settings.existing_file("kafka.sasl_token_file")?.unwrap_or_default();
            // A text for the clients' own function that makes a token.
            options.insert("sasl.oauthbearer.config".to_owned(), file.display().to_string());
        } else {
            if settings.optional("kafka.sasl_token_file").is_some() {
                return Err(settings
                    .wrong("kafka.sasl_token_file", &format!("has no effect with kafka.sasl_mechanisms {mechanism}"))
                    .with_remedy("set kafka.sasl_mechanisms to OAUTHBEARER"));
            }
            options.insert("sasl.username".to_owned(), needed("kafka.sasl_username")?);
            options.insert("sasl.password".to_owned(), needed("kafka.sasl_password")?);
        }
        options.insert("sasl.mechanisms".to_owned(), mechanism);
    }
    if let Some(ca) = settings.existing_file("kafka.ssl_ca_location")? {
        if !tls {
            return Err(settings
                .wrong("kafka.ssl_ca_location", &format!("has no effect with kafka.security_protocol {protocol}"))
                .with_remedy("set kafka.security_protocol to SSL or SASL_SSL"));
        }
        options.insert("ssl.ca.location".to_owned(), ca.display().to_string());
    }
    Ok(ClientOptions(options))
}

/// The library's message contains the value, which may be a password, so the error names only the key.
fn check_client_option(key: &str, value: &str, from: &str) -> Result<()> {
    match ClientConfig::new().set(key, value).create_native_config() {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => {
            Err(Error::usage(format!("kafka.librdkafka: librdkafka knows no option {key}{from}"))
                .with_remedy("correct its name, which librdkafka's CONFIGURATION.md has, or remove it"))
        }
        Err(_) => Err(Error::usage(format!("kafka.librdkafka: librdkafka refuses option {key} or its value{from}"))
            .with_remedy("correct the value, which librdkafka's CONFIGURATION.md describes, or remove an option that needs another build")),
    }
}
