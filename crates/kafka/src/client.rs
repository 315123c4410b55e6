//! What all clients share: their configuration, their log, and the errors of failed calls.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::client::{Client, ClientContext};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::producer::ProducerContext;

use super::producer::policy::refusal;
use super::wire::codes::KafkaCode;
use model::error::{Code, Error};
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
    undelivered: Option<(KafkaError, String)>,
    broken_connections: u64,
}

impl Logging {
    /// The last error that librdkafka reported.
    pub fn last_error(&self) -> Option<String> {
        self.0.lock().ok().and_then(|last| last.error.clone())
    }

    /// Why the broker refuses this client, or the client the broker: a wrong password, an invalid certificate. Such an
    /// error does not heal.
    pub fn refused(&self) -> Option<(Code, String)> {
        self.0.lock().ok().and_then(|last| last.refused.clone())
    }

    /// Why a record was last not delivered, and its topic; the calls after it report only that the producer is in the
    /// wrong state.
    pub(crate) fn undelivered(&self) -> Option<(KafkaError, String)> {
        self.0.lock().ok().and_then(|last| last.undelivered.clone())
    }

    /// How many connections have broken so far; known only to a client with `debug=broker`.
    pub(crate) fn broken_connections(&self) -> u64 {
        self.0.lock().map_or(0, |last| last.broken_connections)
    }
}

/// The message of librdkafka without the value of a setting: librdkafka repeats parts of a value that holds secrets.
fn without_value(message: &str) -> &str {
    if message.contains("sasl.oauthbearer.config") {
        "the value of sasl.oauthbearer.config is refused"
    } else {
        message
    }
}

/// Connects a client by requesting the topic's metadata, if a broker answers soon; an error is ignored, as the next
/// call has a longer timeout and reports it. Without a request a client may take a second to connect.
pub(crate) fn connect(client: &Client<Logging>, topic: &str) {
    drop(client.fetch_metadata(Some(topic), CONNECTING));
}

impl ClientContext for Logging {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if facility == "FAIL"
            && let Ok(mut last) = self.0.lock()
        {
            last.broken_connections += 1;
        }
        let message = without_value(message);
        match level {
            RDKafkaLogLevel::Debug => tracing::trace!(facility, "{message}"),
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice => tracing::debug!(facility, "{message}"),
            // Transport errors repeat, and librdkafka recovers from them; a permanent error makes a call fail.
            _ => tracing::debug!(facility, ?level, "{message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let reason = without_value(reason);
        tracing::debug!(%error, reason, "kafka client");
        if let Ok(mut last) = self.0.lock() {
            let refused = match error.rdkafka_error_code() {
                // librdkafka uses this code also for a link that breaks in the SASL handshake; then the broker's answer
                // is missing.
                Some(RDKafkaErrorCode::Authentication) if !reason.contains("supported mechanisms: (n/a)") => {
                    Some(Code::LoginRefused)
                }
                Some(RDKafkaErrorCode::SaslAuthenticationFailed) => Some(Code::LoginRefused),
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
impl ProducerContext for Logging {
    type DeliveryOpaque = ();
    // A refused record makes the next send and the commit fail; this callback only keeps the reason.
    fn delivery(&self, result: &rdkafka::producer::DeliveryResult<'_>, (): ()) {
        if let (Err((error, message)), Ok(mut last)) = (result, self.0.lock()) {
            last.undelivered = Some((error.clone(), message.topic().to_owned()));
        }
    }
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
        return Error::new(code, format!("{what} at {}: {reason}", settings.bootstrap_servers)).with_remedy(
            if code == Code::CertificateRefused {
                "check kafka.ssl_ca_location against the CA of the brokers' certificates, when these end, and that they name the \
                 hosts of kafka.bootstrap_servers"
            } else {
                "check kafka.sasl_username, kafka.sasl_password and kafka.sasl_mechanisms"
            },
        );
    }
    let reason = logging.last_error().unwrap_or_else(|| error.to_string());
    let text = format!("{what} (Kafka at {}): {reason}", settings.bootstrap_servers);
    Error::new(Code::ServerUnreachable, text).with_remedy(
        "check kafka.bootstrap_servers, kafka.security_protocol and the kafka.sasl_* settings (--check-config shows them), \
         and that the broker runs",
    )
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
        error => without_value(&error.to_string()).to_owned(),
    };
    Error::usage(format!("the Kafka client refuses its configuration: {reason}"))
        .with_remedy("correct the kafka.* setting that it names; --check-config shows what is in force")
}

/// The value of the header `name`.
pub fn header<'a>(message: &'a BorrowedMessage<'_>, name: &str) -> Option<&'a [u8]> {
    message.headers()?.iter().find(|h| h.key == name)?.value
}
