//! One error type for all programs: the failure, the object, and the remedy.
//!
//! The code that creates an error sets its [`Class`]; the class alone decides whether a program tries again or stops,
//! and with which exit code.

use std::error::Error as StdError;
use std::fmt::{self, Write as _};

use crate::escape;

/// A result with our [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// How the program reacts to an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It may heal without a person: try again.
    Transient,
    /// It stays until a person acts: stop.
    Definite,
    /// The command line or the configuration is wrong: stop before doing anything.
    Usage,
}

impl Class {
    /// Exit code: 1 definite, 2 usage, 75 transient (EX_TEMPFAIL of sysexits.h).
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Definite => 1,
            Self::Usage => 2,
            Self::Transient => 75,
        }
    }
}

/// An error with its class, its causes, and the remedy.
pub struct Error(Box<Inner>);

struct Inner {
    class: Class,
    message: String,
    remedy: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    fn new(class: Class, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { class, message: message.into(), remedy: None, source: None }))
    }

    /// Stays until a person acts.
    pub fn definite(message: impl Into<String>) -> Self {
        Self::new(Class::Definite, message)
    }

    /// May heal without a person.
    pub fn transient(message: impl Into<String>) -> Self {
        Self::new(Class::Transient, message)
    }

    /// Wrong command line or configuration.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Class::Usage, message)
    }

    /// Adds what to do next, an imperative sentence.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.0.remedy = Some(remedy.into());
        self
    }

    /// Puts the place in front of the message.
    #[must_use]
    pub fn at(mut self, place: &str) -> Self {
        self.0.message.insert_str(0, &format!("{place}: "));
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// How the program reacts to it.
    pub fn class(&self) -> Class {
        self.0.class
    }

    /// Whether trying again may help.
    pub fn is_transient(&self) -> bool {
        self.0.class == Class::Transient
    }

    /// What to do next.
    pub fn remedy(&self) -> Option<&str> {
        self.0.remedy.as_deref()
    }

    /// The program's exit code for it.
    pub fn exit_code(&self) -> u8 {
        self.0.class.exit_code()
    }
}

/// The message and its causes, separated by `: `, without the remedy. Parts of it may come from outside, so it is
/// [`escape::shown`].
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.0.message.clone();
        let mut cause: Option<&(dyn StdError + 'static)> = self.0.source.as_deref().map(|e| e as _);
        while let Some(error) = cause {
            write!(text, ": {error}")?;
            cause = error.source();
        }
        f.write_str(&escape::shown(&text))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} error: {self}", self.0.class)?;
        self.0.remedy.iter().try_for_each(|r| write!(f, "\n  what to do: {r}"))
    }
}

impl StdError for Error {}

/// Whether the error text of a failed TLS handshake blames a certificate; otherwise the link broke, which is transient.
///
/// OpenSSL's binding appends its findings about the server's certificate in brackets to every error, including a reset
/// during the handshake, and even if nothing had to be verified. So the text in brackets is ignored.
pub fn blames_certificate(text: &str) -> bool {
    let mut depth = 0_u32;
    let mut outside = text.to_owned();
    outside.retain(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0
    });
    outside.contains("certificate")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_handshake_is_not_the_certificates_fault() {
        for (text, wanted) in [
            ("Connection reset by peer (os error 104) (self-signed certificate in certificate chain)", false),
            ("error:0A000126:SSL routines::unexpected eof while reading:x.c:303: (self-signed certificate)", false),
            ("error:0A000086:SSL routines::certificate verify failed:x.c:1889: (certificate has expired)", true),
            ("error:0A000412:SSL routines::ssl/tls alert bad certificate:x.c:1590:", true),
        ] {
            assert_eq!(blames_certificate(text), wanted, "{text}");
        }
    }

    #[test]
    fn what_a_server_says_can_not_reach_a_terminal_raw() {
        let said = std::io::Error::other(format!("\u{1b}]0;x\u{7}\nERROR {}", "y".repeat(escape::LONGEST)));
        let text = Error::transient("cannot connect").with_source(said).to_string();
        assert!(text.starts_with("cannot connect: \\u001b]0;x\\u0007\\nERROR yyy"), "{text}");
        assert!(text.ends_with("… (29 more characters)"), "{}", &text[text.len() - 40..]);
    }

    #[test]
    fn it_tells_the_chain_and_the_remedy() {
        let io = std::io::Error::other("disk full");
        let error = Error::definite("cannot write consumer_log.json").with_source(io).with_remedy("make room");
        assert_eq!(error.to_string(), "cannot write consumer_log.json: disk full");
        assert_eq!(
            format!("{error:?}"),
            "Definite error: cannot write consumer_log.json: disk full\n  what to do: make room"
        );
        assert_eq!([Error::definite(""), Error::usage(""), Error::transient("")].map(|e| e.exit_code()), [1, 2, 75]);
    }
}
