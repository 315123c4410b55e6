//! A producer's set-up from the configuration.

use std::path::PathBuf;

use model::error::{Code, Error, Result};
use runtime::config::KafkaSettings;

use super::core::Options;
use super::dial::{Dialer, Tls};
use super::link::Greeting;
use crate::wire::answers::Address;
use crate::wire::compression::Compression;
use crate::wire::login::{Digest, Login};

/// The set-up of a producer with this transactional id.
///
/// # Errors
/// Usage when a setting is wrong.
pub(crate) fn of(settings: &KafkaSettings, transactional_id: &str) -> Result<(Options, Dialer)> {
    let client = |name: &str| settings.client.get(name);
    let greeting = Greeting {
        client_id: client("client.id").unwrap_or("product-stream").to_owned(),
        program: (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION")),
        login: login(settings)?,
    };
    let compression = Compression::named(&settings.compression)
        .ok_or_else(|| Error::usage(format!("kafka.compression: there is no codec {}", settings.compression)))?;
    let options = Options {
        transactional_id: transactional_id.to_owned(),
        transaction_timeout: settings.transaction_timeout,
        compression,
        bootstrap: addresses(&settings.bootstrap_servers)?,
        greeting,
    };
    let has_tls = client("security.protocol").is_some_and(|protocol| protocol.ends_with("SSL"));
    let tls = if has_tls { Some(tls(settings)?) } else { None };
    let dialer = Dialer::new(tls.as_ref()).map_err(|reason| {
        Error::new(Code::Setting, format!("TLS can't be set up: {reason}"))
            .with_remedy("correct kafka.ssl_ca_location and the ssl.* options of kafka.librdkafka")
    })?;
    Ok((options, dialer))
}

fn login(settings: &KafkaSettings) -> Result<Option<Login>> {
    let client = |name: &str| settings.client.get(name).unwrap_or_default().to_owned();
    let Some(mechanism) = settings.client.get("sasl.mechanisms") else { return Ok(None) };
    let (user, password) = (client("sasl.username"), client("sasl.password"));
    let scram = |digest, user, password| Login::Scram { digest, user, password };
    Ok(Some(match mechanism {
        "PLAIN" => Login::Plain { user, password },
        "SCRAM-SHA-256" => scram(Digest::Sha256, user, password),
        "SCRAM-SHA-512" => scram(Digest::Sha512, user, password),
        "OAUTHBEARER" => Login::Bearer { file: client("sasl.oauthbearer.config").into() },
        other => return Err(Error::usage(format!("kafka.sasl_mechanisms: {other} is not possible here"))),
    }))
}

fn tls(settings: &KafkaSettings) -> Result<Tls> {
    let client = |name: &str| settings.client.get(name);
    let file = |name: &str| client(name).map(PathBuf::from);
    let certificate = match (file("ssl.certificate.location"), file("ssl.key.location")) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => {
            let text = "kafka.librdkafka: of ssl.certificate.location and ssl.key.location one is missing";
            return Err(Error::usage(text).with_remedy("set both, or neither"));
        }
    };
    Ok(Tls {
        authorities: file("ssl.ca.location"),
        certificate,
        key_password: client("ssl.key.password").map(str::to_owned),
        trusts_everybody: client("enable.ssl.certificate.verification") == Some("false"),
        any_host: client("ssl.endpoint.identification.algorithm") == Some("none"),
    })
}

/// The addresses of a list `host:port,host:port`; the port may be missing.
fn addresses(list: &str) -> Result<Vec<Address>> {
    let wrong = |address: &str| {
        Error::usage(format!("kafka.bootstrap_servers: {address:?} is no address"))
            .with_remedy("write host:port, several with commas")
    };
    let address = |text: &str| {
        // As librdkafka, with a scheme or without.
        let text = text.trim();
        let bare = text.split_once("://").map_or(text, |(_, bare)| bare);
        let (host, port) = match bare.rsplit_once(':') {
            Some((host, _)) if host.contains(':') && !host.ends_with(']') => (bare, "9092"),
            Some((host, port)) => (host, port),
            None => (bare, "9092"),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = port.parse().ok().filter(|port| *port > 0);
        port.filter(|_| !host.is_empty()).map(|port| Address { host, port }).ok_or_else(|| wrong(text))
    };
    list.split(',')
        .filter(|text| !text.trim().is_empty())
        .map(address)
        .collect::<Result<Vec<_>>>()
        .and_then(|all| if all.is_empty() { Err(wrong(list)) } else { Ok(all) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_librdkafka_reads_them() {
        let read = |list: &str| {
            let read = addresses(list).map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
            read.unwrap_or_else(|e| e.to_string())
        };
        assert_eq!(read("a:1,b"), "a:1 b:9092");
        assert_eq!(read(" PLAINTEXT://10.0.0.1:9093 , ::1,[::2]:7,"), "10.0.0.1:9093 [::1]:9092 [::2]:7");
        for wrong in ["", ",", "a:b", "a:0", ":1", "a:70000"] {
            assert!(read(wrong).contains("is no address"), "{wrong}");
        }
    }
}
