//! The logins of SASL: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 and OAUTHBEARER.
//!
//! Sources: RFC 4616 (PLAIN), RFC 5802 and 7677 (SCRAM), RFC 7628 (OAUTHBEARER).

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use openssl::error::ErrorStack;
use openssl::hash::{MessageDigest, hash};
use openssl::memcmp;
use openssl::pkcs5::pbkdf2_hmac;
use openssl::pkey::PKey;
use openssl::sign::Signer;

use crate::token;

/// The iterations of a server: Kafka's least, as with fewer our proof would give the password away, and more than any
/// server's (Kafka allows 16,384), as a bound for what an answer may cost.
const ITERATIONS: RangeInclusive<usize> = 4_096..=100_000;

/// Who logs in, and how. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// `PLAIN`: the password as it is.
    Plain {
        /// Name.
        user: String,
        /// Password.
        password: String,
    },
    /// `SCRAM-SHA-256` or `SCRAM-SHA-512`: neither side tells the other the password.
    Scram {
        /// The digest.
        digest: Digest,
        /// Name.
        user: String,
        /// Password.
        password: String,
    },
    /// `OAUTHBEARER` with the token of a file.
    Bearer {
        /// The file.
        file: PathBuf,
    },
}

/// The digest of SCRAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Digest {
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Digest {
    fn message_digest(self) -> MessageDigest {
        match self {
            Self::Sha256 => MessageDigest::sha256(),
            Self::Sha512 => MessageDigest::sha512(),
        }
    }
}

impl Login {
    /// Its name in SaslHandshake.
    pub fn mechanism(&self) -> &'static str {
        match self {
            Self::Plain { .. } => "PLAIN",
            Self::Scram { digest: Digest::Sha256, .. } => "SCRAM-SHA-256",
            Self::Scram { digest: Digest::Sha512, .. } => "SCRAM-SHA-512",
            Self::Bearer { .. } => "OAUTHBEARER",
        }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Login").field(&self.mechanism()).finish()
    }
}

/// Why a login failed on our side: the server does not prove that it knows the password, or speaks something else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LoginError(pub String);

impl From<ErrorStack> for LoginError {
    fn from(error: ErrorStack) -> Self {
        Self(format!("OpenSSL: {error}"))
    }
}

/// What comes next in a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// These bytes are to be sent.
    Send(Vec<u8>),
    /// It is complete.
    Done,
}

/// A login in progress.
#[derive(Debug)]
pub struct Exchange(State);

enum State {
    /// The one message was sent, at times with a token that has ended.
    Sent { has_ended: bool },
    /// SCRAM's first message was sent.
    First { digest: Digest, password: String, nonce: String, bare: String },
    /// SCRAM's proof was sent; the server answers with this signature.
    Proved { signature: Vec<u8> },
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sent { .. } => "Sent",
            Self::First { .. } => "First",
            Self::Proved { .. } => "Proved",
        })
    }
}

impl Exchange {
    /// Begins a login; returns the first bytes to send. `nonce` is printable ASCII without commas, never used before.
    ///
    /// # Errors
    /// When the token can't be read.
    pub fn begin(login: &Login, nonce: &str) -> Result<(Self, Vec<u8>), LoginError> {
        Ok(match login {
            Login::Plain { user, password } => {
                (Self(State::Sent { has_ended: false }), format!("\0{user}\0{password}").into_bytes())
            }
            Login::Bearer { file } => {
                let token = token::read(file).map_err(|e| LoginError(e.to_string()))?;
                let state = State::Sent { has_ended: token::has_ended(&token) };
                (Self(state), format!("n,,\x01auth=Bearer {token}\x01\x01").into_bytes())
            }
            Login::Scram { digest, user, password } => {
                let user = user.replace('=', "=3D").replace(',', "=2C");
                let bare = format!("n={user},r={nonce}");
                let first = format!("n,,{bare}").into_bytes();
                let (digest, password, nonce) = (*digest, password.clone(), nonce.to_owned());
                (Self(State::First { digest, password, nonce, bare }), first)
            }
        })
    }

    /// Whether it sent a token that has expired: the server may refuse it for that alone.
    pub fn has_ended(&self) -> bool {
        matches!(self.0, State::Sent { has_ended: true })
    }

    /// Takes the server's bytes.
    ///
    /// # Errors
    /// When they are wrong, or do not prove that the server knows the password.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Next, LoginError> {
        match &self.0 {
            State::Sent { .. } if bytes.is_empty() => Ok(Next::Done),
            // OAUTHBEARER's error, which wants an answer before the broker sends its own.
            State::Sent { .. } => Ok(Next::Send(vec![1])),
            State::First { digest, password, nonce, bare } => {
                let first = text(bytes)?;
                let (proof, signature) = prove(*digest, password, nonce, bare, first)?;
                self.0 = State::Proved { signature };
                Ok(Next::Send(proof.into_bytes()))
            }
            State::Proved { signature } => {
                let last = text(bytes)?;
                if let Some(why) = attribute(last, 'e') {
                    return Err(LoginError(format!("the server refuses the proof: {why}")));
                }
                let theirs = decoded(attribute(last, 'v'), "signature")?;
                if theirs.len() == signature.len() && memcmp::eq(&theirs, signature) {
                    Ok(Next::Done)
                } else {
                    Err(LoginError("the server does not prove that it knows the password".to_owned()))
                }
            }
        }
    }
}

/// SCRAM's last message of the client, and the signature with which the server answers.
fn prove(
    digest: Digest,
    password: &str,
    nonce: &str,
    bare: &str,
    first: &str,
) -> Result<(String, Vec<u8>), LoginError> {
    let theirs = attribute(first, 'r').unwrap_or_default();
    if !theirs.starts_with(nonce) || theirs.len() == nonce.len() {
        return Err(LoginError("the server's nonce does not begin with ours".to_owned()));
    }
    let salt = decoded(attribute(first, 's'), "salt")?;
    let iterations = attribute(first, 'i').and_then(|count| count.parse().ok());
    let iterations = iterations.filter(|count| ITERATIONS.contains(count)).ok_or_else(|| {
        LoginError(format!("the server's iterations are not {} to {}", ITERATIONS.start(), ITERATIONS.end()))
    })?;
    let kind = digest.message_digest();
    let mut salted = vec![0; kind.size()];
    pbkdf2_hmac(password.as_bytes(), &salt, iterations, kind, &mut salted)?;
    let client_key = hmac(kind, &salted, b"Client Key")?;
    let unproved = format!("c=biws,r={theirs}");
    let message = format!("{bare},{first},{unproved}");
    let mut proof = hmac(kind, &hash(kind, &client_key)?, message.as_bytes())?;
    proof.iter_mut().zip(&client_key).for_each(|(byte, key)| *byte ^= key);
    let signature = hmac(kind, &hmac(kind, &salted, b"Server Key")?, message.as_bytes())?;
    Ok((format!("{unproved},p={}", BASE64.encode(proof)), signature))
}

fn hmac(kind: MessageDigest, key: &[u8], bytes: &[u8]) -> Result<Vec<u8>, LoginError> {
    let key = PKey::hmac(key)?;
    Ok(Signer::new(kind, &key)?.sign_oneshot_to_vec(bytes)?)
}

fn text(bytes: &[u8]) -> Result<&str, LoginError> {
    std::str::from_utf8(bytes).map_err(|_| LoginError("the server's message is not UTF-8".to_owned()))
}

fn attribute(message: &str, name: char) -> Option<&str> {
    message.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

fn decoded(text: Option<&str>, what: &str) -> Result<Vec<u8>, LoginError> {
    let bytes = text.and_then(|text| BASE64.decode(text).ok());
    bytes.ok_or_else(|| LoginError(format!("the server's {what} is not base64")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(login: &Login, nonce: &str) -> (Exchange, Vec<u8>) {
        Exchange::begin(login, nonce).expect("a first message")
    }

    fn scram(digest: Digest) -> Login {
        Login::Scram { digest, user: "user".to_owned(), password: "pencil".to_owned() }
    }

    /// The example of RFC 7677, section 3.
    const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
    const FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    #[test]
    fn scram_goes_as_in_rfc_7677() {
        let (mut exchange, first) = begin(&scram(Digest::Sha256), NONCE);
        assert_eq!(first, b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let Ok(Next::Send(proof)) = exchange.take(FIRST.as_bytes()) else { panic!("a proof is next") };
        let wanted = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                      p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(String::from_utf8_lossy(&proof), wanted);
        assert_eq!(exchange.take(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Ok(Next::Done));
    }

    #[test]
    fn a_server_without_the_password_is_refused() {
        for last in ["v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=", "v=", "", "e=invalid-proof", "v=AAAA"] {
            let (mut exchange, _) = begin(&scram(Digest::Sha256), NONCE);
            exchange.take(FIRST.as_bytes()).expect("a proof");
            assert!(exchange.take(last.as_bytes()).is_err(), "{last}");
        }
        let other_nonce = FIRST.replacen("rOprN", "other", 1);
        let no_nonce = format!("r={NONCE},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
        let count = |number: &str| FIRST.replace("4096", number);
        for first in ["", "r=x", &other_nonce, &no_nonce, &count("0"), &count("4095"), &count("100001")] {
            let (mut exchange, _) = begin(&scram(Digest::Sha512), NONCE);
            assert!(exchange.take(first.as_bytes()).is_err(), "{first}");
        }
    }

    /// Messages with edits: no bytes make an exchange panic, or take long.
    #[test]
    fn messages_of_any_bytes() {
        let last = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        fuzzing::check!(vec![FIRST.as_bytes().to_vec(), last.to_vec()], 500, |input: &[u8]| {
            let (mut exchange, _) = begin(&scram(Digest::Sha256), NONCE);
            drop(exchange.take(input));
            let (mut exchange, _) = begin(&scram(Digest::Sha256), NONCE);
            exchange.take(FIRST.as_bytes()).expect("a proof");
            let is_theirs = input.strip_prefix(last).is_some_and(|rest| rest.is_empty() || rest[0] == b',');
            assert!(exchange.take(input) != Ok(Next::Done) || is_theirs || input.ends_with(last), "{input:?}");
        });
    }

    #[test]
    fn names_may_have_commas() {
        let login = Login::Scram { digest: Digest::Sha512, user: "a=b,c".to_owned(), password: String::new() };
        assert_eq!(begin(&login, "x").1, b"n,,n=a=3Db=2Cc,r=x");
    }

    #[test]
    fn one_message_is_enough_for_the_others() {
        let plain = Login::Plain { user: "me".to_owned(), password: "secret".to_owned() };
        let (mut exchange, bytes) = begin(&plain, "");
        assert_eq!(bytes, b"\0me\0secret");
        assert_eq!(exchange.take(b""), Ok(Next::Done));
        let scram = [Digest::Sha256, Digest::Sha512].map(|digest| format!("{:?}", scram(digest)));
        assert_eq!(
            format!("{plain:?} {}", scram.join(" ")),
            "Login(\"PLAIN\") Login(\"SCRAM-SHA-256\") Login(\"SCRAM-SHA-512\")"
        );
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "t\n").expect("to write");
        let (mut exchange, bytes) = begin(&Login::Bearer { file: file.path().to_owned() }, "");
        assert_eq!(bytes, b"n,,\x01auth=Bearer t\x01\x01");
        assert_eq!(exchange.take(b"{\"status\":\"invalid_token\"}"), Ok(Next::Send(vec![1])));
    }
}
