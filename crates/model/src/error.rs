//! One error type for all programs: the failure, the object, and the remedy.
//!
//! The [`Code`] of an error decides its [`Class`]: whether a program tries again or stops, and with which exit status.

use std::error::Error as StdError;
use std::fmt::{self, Write as _};

pub use crate::code::{Class, Code};
use crate::escape;

/// A result with our [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error with its code, its causes, and the remedy.
pub struct Error(Box<Inner>);

struct Inner {
    code: Code,
    message: String,
    remedy: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error with this code.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { code, message: message.into(), remedy: None, source: None }))
    }

    /// A fault of the program, or an answer of a server that has no code: stays until a person acts.
    pub fn definite(message: impl Into<String>) -> Self {
        Self::new(Code::Fault, message)
    }

    /// May heal without a person, and has no other code.
    pub fn transient(message: impl Into<String>) -> Self {
        Self::new(Code::TryAgain, message)
    }

    /// A wrong setting.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Code::Setting, message)
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

    /// The same error with another code.
    #[must_use]
    pub fn with_code(mut self, code: Code) -> Self {
        self.0.code = code;
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The cause, if it is of this type.
    pub fn cause<T: StdError + 'static>(&self) -> Option<&T> {
        self.0.source.as_deref()?.downcast_ref()
    }

    /// What it is about.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// How the program reacts to it.
    pub fn class(&self) -> Class {
        self.0.code.class()
    }

    /// Whether trying again may help.
    pub fn is_transient(&self) -> bool {
        self.class() == Class::Transient
    }

    /// What to do next.
    pub fn remedy(&self) -> Option<&str> {
        self.0.remedy.as_deref()
    }

    /// The program's exit status for it.
    pub fn exit_code(&self) -> u8 {
        self.class().exit_code()
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

/// All of it, as a program prints it at its end.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.0.code.name();
        write!(f, "error[{name}]: {self}")?;
        self.0.remedy.iter().try_for_each(|r| write!(f, "\n  what to do: {}", escape::shown(r)))?;
        write!(f, "\n  see docs/errors.md#{name}")
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
        let error =
            Error::new(Code::FileAccess, "cannot write consumer_log.json").with_source(io).with_remedy("make room");
        assert_eq!(error.to_string(), "cannot write consumer_log.json: disk full");
        assert_eq!(
            format!("{error:?}"),
            "error[file-access]: cannot write consumer_log.json: disk full\n  what to do: make room\n  \
             see docs/errors.md#file-access"
        );
        assert_eq!([Error::definite(""), Error::usage(""), Error::transient("")].map(|e| e.exit_code()), [1, 2, 75]);
    }
}
