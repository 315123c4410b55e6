//! A connection to MySQL for the binlog alone: TLS, login and the few statements before the dump.
//!
//! The server's messages are untrusted: every length in them is checked.
//!
//! Source: MySQL's internals documentation, "Connection Phase" (`page_protocol_connection_phase`) and "caching_sha2_password
//! information" (`page_caching_sha2_authentication_exchanges`).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::error::Result;
use mysql::table::{failed, no_tls, tls_connector};
use mysql_async::{DriverError, ServerError};
use mysql_common::constants::CapabilityFlags;
use mysql_common::scramble::{scramble_native, scramble_sha256};
use openssl::rsa::{Padding, Rsa};
use runtime::config::MySqlSettings;
use tokio::net::TcpStream;

use super::wire::{Observer, Wire};

/// The longest wait for a connection, and for an answer of the login and of a statement.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// Maximum length of an answer to the login and the few statements.
const LONGEST_ANSWER: usize = 1 << 20;

const NATIVE: &str = "mysql_native_password";
const CACHING_SHA2: &str = "caching_sha2_password";

/// utf8mb4_general_ci.
const COLLATION: u8 = 45;

/// The largest packet that MySQL allows.
const LARGEST_PACKET: u32 = 1 << 30;

/// A connection on which the binlog can be requested.
pub struct DumpConnection {
    pub(super) wire: Wire,
}

impl DumpConnection {
    /// Connects and logs in, with TLS as `db.ssl_mode` says.
    ///
    /// # Errors
    /// As [`mysql::table::connect`].
    pub async fn connect(settings: &MySqlSettings) -> Result<Self> {
        let what = format!("connect to MySQL at {}:{} as {}", settings.host, settings.port, settings.user);
        // The certificate files are read before anything is sent.
        let tls = tls_connector(settings)?;
        let within = tokio::time::timeout(CONNECT_PATIENCE, login(settings, tls.map(Into::into))).await;
        let late =
            || io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", CONNECT_PATIENCE.as_secs()));
        match within.unwrap_or_else(|_| Err(late().into())) {
            Ok(wire) => Ok(Self { wire }),
            Err(mysql_async::Error::Driver(DriverError::NoClientSslFlagFromServer)) => Err(no_tls(&what)),
            Err(error) => Err(failed(&what, error)),
        }
    }

    /// From now on reports received bytes to the observer.
    pub(crate) fn set_observer(&mut self, observer: Arc<dyn Observer>) {
        self.wire.set_observer(observer);
    }

    /// The first column of the first row that a statement returns; `None` when there is none or it is NULL.
    ///
    /// # Errors
    /// Errors of the server and the link.
    pub async fn value(&mut self, statement: &str) -> mysql_async::Result<Option<String>> {
        self.wire.command(&[&[COM_QUERY], statement.as_bytes()].concat()).await?;
        let head = self.answer().await?;
        let Some(columns) = column_count(&head)? else { return Ok(None) };
        for _ in 0..columns {
            self.answer().await?;
        }
        self.answer().await?;
        let mut value = None;
        loop {
            let row = self.answer().await?;
            if is_end(&row) {
                return Ok(value);
            }
            value = value.or_else(|| first_column(&row));
        }
    }

    /// The next packet of an answer.
    pub(super) async fn answer(&mut self) -> mysql_async::Result<Bytes> {
        answer(&mut self.wire).await
    }
}

const COM_QUERY: u8 = 3;

async fn answer(wire: &mut Wire) -> mysql_async::Result<Bytes> {
    let packet = wire.packet(LONGEST_ANSWER).await?;
    match packet.first() {
        None => Err(damaged("an empty answer").into()),
        Some(0xff) => Err(server_error(&packet).into()),
        Some(_) => Ok(packet),
    }
}

/// The error in an ERR packet.
pub(super) fn server_error(packet: &[u8]) -> ServerError {
    let code = packet.get(1..3).map_or(0, |c| u16::from_le_bytes([c[0], c[1]]));
    let (state, message) = match packet.get(3..) {
        Some([b'#', rest @ ..]) if rest.len() >= 5 => rest.split_at(5),
        rest => (&b"HY000"[..], rest.unwrap_or_default()),
    };
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    ServerError { code, message: text(message), state: text(state) }
}

/// Whether a packet is the EOF packet that ends columns and rows.
pub(super) fn is_end(packet: &[u8]) -> bool {
    packet.first() == Some(&0xfe) && packet.len() < 9
}

/// How many columns follow; `None` when the answer is OK.
fn column_count(head: &[u8]) -> io::Result<Option<u8>> {
    match head {
        [0, ..] => Ok(None),
        // 0xfb requests a file of this machine.
        [columns @ 1..=250] => Ok(Some(*columns)),
        _ => Err(damaged("an answer that was not asked for")),
    }
}

/// The first column of a row, as text.
fn first_column(row: &[u8]) -> Option<String> {
    let (length, rest) = match row {
        [length @ 0..=250, rest @ ..] => (usize::from(*length), rest),
        [252, low, high, rest @ ..] => (usize::from(u16::from_le_bytes([*low, *high])), rest),
        [253, a, b, c, rest @ ..] => (u32::from_le_bytes([*a, *b, *c, 0]) as usize, rest),
        _ => return None,
    };
    rest.get(..length).map(|text| String::from_utf8_lossy(text).into_owned())
}

async fn login(settings: &MySqlSettings, tls: Option<tokio_native_tls::TlsConnector>) -> mysql_async::Result<Wire> {
    let link = TcpStream::connect((settings.host.as_str(), settings.port)).await?;
    link.set_nodelay(true)?;
    let mut wire = Wire::new(link, ANSWER_PATIENCE);
    let greeting = Greeting::parse(&answer(&mut wire).await?)?;
    let mut flags = CapabilityFlags::CLIENT_PROTOCOL_41
        | CapabilityFlags::CLIENT_LONG_PASSWORD
        | CapabilityFlags::CLIENT_SECURE_CONNECTION
        | CapabilityFlags::CLIENT_TRANSACTIONS
        | CapabilityFlags::CLIENT_PLUGIN_AUTH;
    let mut secure = false;
    if let Some(tls) = tls {
        if greeting.flags.contains(CapabilityFlags::CLIENT_SSL) {
            flags |= CapabilityFlags::CLIENT_SSL;
            wire.send(&response_head(flags)).await?;
            let (link, sequence) = wire.into_link()?;
            let link = tls.connect(&settings.host, link).await?;
            wire = Wire::new(link, ANSWER_PATIENCE).with_sequence(sequence);
            secure = true;
        } else if !settings.may_log_in_without_tls() {
            return Err(DriverError::NoClientSslFlagFromServer.into());
        }
    }
    let password = settings.password.as_ref().map_or("", |p| p.expose());
    let plugin = if greeting.plugin == CACHING_SHA2 { CACHING_SHA2 } else { NATIVE };
    let proof = proof(plugin, password, &greeting.nonce)?;
    let mut response = response_head(flags);
    response.extend([settings.user.as_bytes(), &[0, proof.len() as u8], &proof, plugin.as_bytes(), &[0]].concat());
    wire.send(&response).await?;
    authenticate(&mut wire, password, greeting.nonce, secure).await?;
    Ok(wire)
}

/// The common beginning of the login answer; before TLS it is the whole answer.
fn response_head(flags: CapabilityFlags) -> Vec<u8> {
    let mut head = [flags.bits().to_le_bytes(), LARGEST_PACKET.to_le_bytes()].concat();
    head.push(COLLATION);
    head.extend([0; 23]);
    head
}

/// Continues the login until the server accepts this user.
async fn authenticate(wire: &mut Wire, password: &str, mut nonce: Vec<u8>, secure: bool) -> mysql_async::Result<()> {
    const FAST: u8 = 3;
    const FULL: u8 = 4;
    let mut switched = false;
    loop {
        let packet = answer(wire).await?;
        match &packet[..] {
            [0, ..] => return Ok(()),
            [0xfe, switch @ ..] if !switched => {
                switched = true;
                let plugin;
                (plugin, nonce) = auth_switch(switch)?;
                wire.send(&proof(&plugin, password, &nonce)?).await?;
            }
            [1, FAST] => {}
            [1, FULL] if secure => wire.send(&[password.as_bytes(), &[0]].concat()).await?,
            [1, FULL] => {
                const ASK_FOR_KEY: u8 = 2;
                wire.send(&[ASK_FOR_KEY]).await?;
                let key = answer(wire).await?;
                let key = key.strip_prefix(&[1]).ok_or_else(|| damaged("no public key where one was asked for"))?;
                wire.send(&encrypted_for_offered_key(password, &nonce, key)?).await?;
            }
            _ => return Err(damaged("an answer to the login that no method has").into()),
        }
    }
}

/// The proof of the password; empty for an empty password.
///
/// # Errors
/// The error for a method that would reveal the password or that this client does not support.
fn proof(plugin: &str, password: &str, nonce: &[u8]) -> mysql_async::Result<Vec<u8>> {
    let none = || DriverError::UnknownAuthPlugin { name: plugin.chars().filter(|c| !c.is_control()).collect() };
    if plugin != NATIVE && plugin != CACHING_SHA2 {
        return Err(none().into());
    }
    if password.is_empty() {
        return Ok(Vec::new());
    }
    let proof = if plugin == NATIVE {
        scramble_native(nonce, password.as_bytes()).map(Vec::from)
    } else {
        scramble_sha256(nonce, password.as_bytes()).map(Vec::from)
    };
    proof.ok_or_else(|| none().into())
}

/// The password in the full `caching_sha2_password` exchange without TLS: encrypted with the key that the other side
/// sends, without authenticating that side. [`MySqlSettings::may_log_in_without_tls`] allows it only for this host,
/// unless a person asked for that.
fn encrypted_for_offered_key(password: &str, nonce: &[u8], pem: &[u8]) -> io::Result<Vec<u8>> {
    let mut text = [password.as_bytes(), &[0]].concat();
    for (byte, mask) in text.iter_mut().zip(nonce.iter().cycle()) {
        *byte ^= mask;
    }
    let unusable = |e: openssl::error::ErrorStack| damaged(&format!("a public key that can't be used ({e})"));
    let key = Rsa::public_key_from_pem(pem).map_err(unusable)?;
    let mut encrypted = vec![0; key.size() as usize];
    let length = key.public_encrypt(&text, &mut encrypted, Padding::PKCS1_OAEP).map_err(unusable)?;
    encrypted.truncate(length);
    Ok(encrypted)
}

/// The server's first packet.
#[derive(Debug)]
struct Greeting {
    flags: CapabilityFlags,
    nonce: Vec<u8>,
    plugin: String,
}

impl Greeting {
    /// Source: "Protocol::HandshakeV10".
    fn parse(packet: &[u8]) -> io::Result<Self> {
        let parse = || {
            let rest = packet.strip_prefix(&[10])?;
            let version = rest.iter().position(|b| *b == 0)?;
            // Connection id, first part of the nonce, a zero.
            let rest = rest.get(version + 1 + 4..)?;
            let (first, rest) = rest.split_at_checked(8)?;
            // A zero, flags, collation, status, flags, length of the nonce, ten zeros.
            let (&[_, low0, low1, _, _, _, high0, high1, length], rest) = rest.split_first_chunk::<9>()?;
            let rest = rest.get(10..)?;
            let (second, plugin) = rest.split_at_checked(usize::from(length).saturating_sub(8).max(13))?;
            let mut nonce = [first, second].concat();
            nonce.truncate(NONCE);
            Some(Self {
                flags: CapabilityFlags::from_bits_truncate(u32::from_le_bytes([low0, low1, high0, high1])),
                nonce,
                plugin: text_before_zero(plugin),
            })
        };
        parse().ok_or_else(|| damaged("a greeting that is none"))
    }
}

/// Bytes of a nonce, without the zero that ends it.
const NONCE: usize = 20;

/// Method and nonce of the server's request to log in by another method.
fn auth_switch(request: &[u8]) -> io::Result<(String, Vec<u8>)> {
    let plugin =
        request.iter().position(|b| *b == 0).ok_or_else(|| damaged("a change of the method without a name"))?;
    let nonce = request[plugin + 1..].iter().copied().take(NONCE).collect();
    Ok((text_before_zero(request), nonce))
}

fn text_before_zero(bytes: &[u8]) -> String {
    let text = bytes.split(|b| *b == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the server sent {what}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_greeting_of_mysql_9() {
        let mut packet = b"\x0a9.7.4\0\x08\0\0\0abcdefgh\0".to_vec();
        packet.extend([0xff, 0xff, 0xff, 2, 0, 0xff, 0xdf, 21]);
        packet.extend([0; 10]);
        packet.extend(b"ijklmnopqrst\0caching_sha2_password\0");
        let greeting = Greeting::parse(&packet).unwrap();
        assert_eq!(greeting.nonce, b"abcdefghijklmnopqrst");
        assert_eq!(greeting.plugin, CACHING_SHA2);
        assert!(greeting.flags.contains(CapabilityFlags::CLIENT_SSL | CapabilityFlags::CLIENT_PLUGIN_AUTH));
        for end in 0..packet.len() - CACHING_SHA2.len() - 1 {
            assert!(Greeting::parse(&packet[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn no_method_that_tells_the_password_is_answered() {
        for plugin in ["mysql_clear_password", "mysql_old_password", "sha256_password", "dialog", ""] {
            let error = proof(plugin, "secret", &[1; NONCE]).expect_err(plugin);
            assert!(matches!(error, mysql_async::Error::Driver(DriverError::UnknownAuthPlugin { .. })), "{error}");
        }
        assert_eq!(proof(NATIVE, "", &[1; NONCE]).unwrap(), [0; 0]);
        assert_eq!(proof(CACHING_SHA2, "secret", &[1; NONCE]).unwrap().len(), 32);
    }

    #[test]
    fn a_password_is_encrypted_for_a_key_and_not_for_rubbish() {
        let key = Rsa::generate(2048).unwrap();
        let nonce: Vec<u8> = (1..=NONCE as u8).collect();
        let encrypted = encrypted_for_offered_key("secret", &nonce, &key.public_key_to_pem().unwrap()).unwrap();
        let mut plain = vec![0; 256];
        let length = key.private_decrypt(&encrypted, &mut plain, Padding::PKCS1_OAEP).unwrap();
        let unmasked: Vec<u8> = plain[..length].iter().zip(&nonce).map(|(a, b)| a ^ b).collect();
        assert_eq!(unmasked, b"secret\0");
        for rubbish in [&b""[..], b"-----BEGIN PUBLIC KEY-----", &[0xff; 300]] {
            assert!(encrypted_for_offered_key("secret", &nonce, rubbish).is_err());
        }
        // An OAEP block of this key holds 214 bytes.
        assert!(encrypted_for_offered_key(&"x".repeat(300), &nonce, &key.public_key_to_pem().unwrap()).is_err());
    }

    #[test]
    fn an_error_before_and_after_the_greeting() {
        let error = server_error(b"\xff\x10\x04Too many connections");
        assert_eq!((error.code, error.message.as_str()), (1040, "Too many connections"));
        let error = server_error(b"\xff\x15\x04#28000Access denied");
        assert_eq!((error.code, error.message.as_str(), error.state.as_str()), (1045, "Access denied", "28000"));
    }

    proptest! {
        #[test]
        fn nothing_that_a_server_says_is_a_panic(packet in prop::collection::vec(any::<u8>(), 0..300)) {
            drop(Greeting::parse(&packet));
            drop(Greeting::parse(&[&[10][..], &packet].concat()));
            drop(auth_switch(&packet));
            drop(server_error(&packet));
            drop(column_count(&packet));
            drop(first_column(&packet));
        }
    }
}
