//! What all clients share: their configuration, their log, and the errors of failed calls.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::admin::AdminClient;
use rdkafka::client::{Client, ClientContext, OAuthToken};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::producer::ProducerContext;

use super::producer::policy::refusal;
use super::token::{self, is_over, oauth_token};
use super::wire::codes::KafkaCode;
use model::error::{Code, Error, Result};
use runtime::config::KafkaSettings;

/// Timeout of one request, after which the program reports that Kafka can't be reached.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Maximum time that a new client gets to connect.
pub(crate) const CONNECTING: Duration = Duration::from_secs(2);

/// Passes librdkafka's log on to `tracing` and keeps its last error, which says more than the error of a call that
/// timed out.
#[derive(Clone, Debug, Default)]
pub struct Logging(Arc<Mutex<Last>>);

#[derive(Debug, Default)]
struct Last {
    error: Option<String>,
    refused: Option<(Code, String)>,
    /// When the token that was read last ends, in milliseconds since 1970.
    token_ends_ms: Option<i64>,
}

impl Logging {
    /// The last error that librdkafka reported.
    pub fn last_error(&self) -> Option<String> {
        self.0.lock().ok().and_then(|last| last.error.clone())
    }

    /// Why the broker refuses this client, or the client the broker: a wrong password, an invalid certificate, an expired
    /// token.
    pub fn refused(&self) -> Option<(Code, String)> {
        self.0.lock().ok().and_then(|last| last.refused.clone())
    }
}

/// Connects a client by requesting the topic's metadata, if a broker answers soon; an error is ignored, as the next
/// call has a longer timeout and reports it. Without a request a client may take a second to connect.
pub(crate) fn connect(client: &Client<Logging>, topic: &str) {
    drop(client.fetch_metadata(Some(topic), CONNECTING));
}

impl ClientContext for Logging {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, file: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        let token = oauth_token(file);
        if let Ok(mut last) = self.0.lock() {
            // Without a token there is nothing that could be valid.
            let ends_ms = token.as_ref().map_or(0, |token| token.lifetime_ms);
            last.token_ends_ms = Some(ends_ms);
            if !is_over(ends_ms) {
                last.refused.take_if(|(code, _)| *code == Code::TokenExpired);
            }
        }
        token
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Debug => tracing::trace!(facility, "{message}"),
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice => tracing::debug!(facility, "{message}"),
            // Transport errors repeat, and librdkafka recovers from them; a permanent error makes a call fail.
            _ => tracing::debug!(facility, ?level, "{message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka client");
        if let Ok(mut last) = self.0.lock() {
            let login = if last.token_ends_ms.is_some_and(is_over) { Code::TokenExpired } else { Code::LoginRefused };
            let refused = match error.rdkafka_error_code() {
                // librdkafka uses this code also for a link that breaks in the SASL handshake; then the broker's answer
                // is missing.
                Some(RDKafkaErrorCode::Authentication) if !reason.contains("supported mechanisms: (n/a)") => {
                    Some(login)
                }
                Some(RDKafkaErrorCode::SaslAuthenticationFailed) => Some(login),
                // A handshake also fails when the link breaks, which is transient.
                Some(RDKafkaErrorCode::SSL) if reason.contains("certificate") => Some(Code::CertificateRefused),
                _ => None,
            };
            if let Some(code) = refused {
                last.refused = Some((code, reason.to_owned()));
            }
            last.error = Some(reason.to_owned());
        }
    }
}

impl ConsumerContext for Logging {}
/// Of clients that send nothing, and only ask for topics.
impl ProducerContext for Logging {
    type DeliveryOpaque = ();
    fn delivery(&self, _: &rdkafka::producer::DeliveryResult<'_>, (): ()) {}
}

/// The configuration that all clients share.
pub fn client_config(settings: &KafkaSettings) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &settings.bootstrap_servers)
        .set("socket.keepalive.enable", "true")
        .set("reconnect.backoff.max.ms", "2000")
        // A producer that asks for a missing topic would make the broker create it with its defaults; the programs
        // create topics themselves.
        .set("allow.auto.create.topics", "false")
        .set_log_level(RDKafkaLogLevel::Info);
    for (key, value) in &settings.client {
        config.set(key, value);
    }
    config
}

/// A client that creates topics and reads their configuration.
///
/// # Errors
/// Usage when a setting is wrong; as [`give_token`].
pub(crate) fn administrator(settings: &KafkaSettings, logging: &Logging) -> Result<AdminClient<Logging>> {
    let admin: AdminClient<Logging> =
        client_config(settings).create_with_context(logging.clone()).map_err(|e| misconfigured(&e))?;
    give_token(settings, admin.inner())?;
    Ok(admin)
}

/// Gives a new client the token of OAUTHBEARER, if that is how it logs in. It asks for the next one when it is polled.
///
/// # Errors
/// Transient when the token has expired, or can't be read.
pub fn give_token(settings: &KafkaSettings, client: &Client<impl ClientContext>) -> Result<()> {
    let Some(file) = settings.client.get("sasl.oauthbearer.config").map(Path::new) else { return Ok(()) };
    token::give(client, file).map_err(|e| {
        let code = Code::TokenExpired;
        Error::new(code, format!("cannot log in to Kafka with kafka.sasl_token_file: {e}"))
            .with_remedy(connection_remedy(code))
    })
}

/// The configuration of a consumer that reads committed records; librdkafka neither stores nor commits offsets
/// automatically.
pub fn consumer_config(settings: &KafkaSettings, group: &str) -> ClientConfig {
    let mut config = client_config(settings);
    config
        .set("group.id", group)
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        // The default of a second stalls a partition whose queue is full; the sizes limit memory to about 35 MB.
        .set("fetch.queue.backoff.ms", "10")
        .set("queued.min.messages", "1000")
        .set("queued.max.messages.kbytes", "4096")
        .set("fetch.message.max.bytes", "262144");
    config
}

/// The error of a failed call, with the client's last reported error: definite when a right is missing or the
/// connection is refused, else transient.
pub fn unreachable(settings: &KafkaSettings, what: &str, error: &KafkaError, logging: &Logging) -> Error {
    if let Some(remedy) = missing_right(error.rdkafka_error_code()) {
        return Error::new(Code::RightMissing, format!("{what} at {}: {error}", settings.bootstrap_servers))
            .with_remedy(remedy);
    }
    if let Some((code, reason)) = logging.refused() {
        return Error::new(code, format!("{what} at {}: {reason}", settings.bootstrap_servers))
            .with_remedy(connection_remedy(code));
    }
    let reason = logging.last_error().unwrap_or_else(|| error.to_string());
    let text = format!("{what} (Kafka at {}): {reason}", settings.bootstrap_servers);
    Error::new(Code::ServerUnreachable, text).with_remedy(
        "check kafka.bootstrap_servers, kafka.security_protocol and the kafka.sasl_* settings (--check-config shows them), \
         and that the broker runs",
    )
}

/// The remedy when a connection is refused.
pub(crate) fn connection_remedy(code: Code) -> &'static str {
    match code {
        Code::CertificateRefused => {
            "check kafka.ssl_ca_location against the CA of the brokers' certificates, when these end, and that they name the \
             hosts of kafka.bootstrap_servers"
        }
        Code::TokenExpired => {
            "write a new token to the file of kafka.sasl_token_file, which must be readable; no restart is needed"
        }
        Code::BrokerVersion => "upgrade the brokers to Kafka 2.8 or later, all to one version",
        _ => "check kafka.sasl_mechanisms, and kafka.sasl_username with kafka.sasl_password, or kafka.sasl_token_file",
    }
}

/// The remedy when Kafka denies this user an operation.
pub(crate) fn missing_right(code: Option<RDKafkaErrorCode>) -> Option<&'static str> {
    match code? {
        RDKafkaErrorCode::TopicAuthorizationFailed => {
            Some("allow the user of kafka.sasl_username to read this topic: ACL READ")
        }
        code => match refusal(KafkaCode(i16::try_from(code as i32).ok()?))? {
            (Code::RightMissing, remedy) => Some(remedy),
            _ => None,
        },
    }
}

pub(crate) fn misconfigured(error: &KafkaError) -> Error {
    let reason = match error {
        // The text of the error contains the value.
        KafkaError::ClientConfig(_, _, key, _) => format!("the value of {key}"),
        error => error.to_string(),
    };
    Error::usage(format!("the Kafka client refuses its configuration: {reason}"))
        .with_remedy("correct the kafka.* setting that it names; --check-config shows what is in force")
}

/// The value of the header `name`.
pub fn header<'a>(message: &'a BorrowedMessage<'_>, name: &str) -> Option<&'a [u8]> {
    message.headers()?.iter().find(|h| h.key == name)?.value
}
