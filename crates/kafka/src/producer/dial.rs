//! Makes a connection to a broker: address, socket, TLS. Each in a separate thread, since all of these block.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use openssl::error::ErrorStack;
use openssl::ssl::{ErrorCode, HandshakeError, SslConnector, SslFiletype, SslMethod, SslStream, SslVerifyMode};
use openssl::x509::X509VerifyResult;

use super::link::Closed;
use crate::wire::answers::Address;

/// How long the socket and the handshake of TLS may take, each.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// `SSL_R_CERTIFICATE_VERIFY_FAILED` of OpenSSL.
const CERTIFICATE_VERIFY_FAILED: i32 = 134;

/// How TLS is set up. `Debug` shows no secret.
#[derive(Clone, Default)]
pub(crate) struct Tls {
    /// PEM files of the authorities; those of the system when there is none.
    pub(crate) authorities: Option<PathBuf>,
    /// PEM files of the client's certificate and its key.
    pub(crate) certificate: Option<(PathBuf, PathBuf)>,
    /// The password of the key.
    pub(crate) key_password: Option<String>,
    /// Whether the broker's certificate is not looked at.
    pub(crate) trusts_everybody: bool,
    /// Whether the certificate may name another host.
    pub(crate) any_host: bool,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("authorities", &self.authorities).finish_non_exhaustive()
    }
}

/// Makes connections with one set-up of TLS.
#[derive(Clone)]
pub(crate) struct Dialer {
    tls: Option<(SslConnector, bool)>,
}

impl Dialer {
    /// # Errors
    /// When a file of TLS can't be read, with its path.
    pub(crate) fn new(tls: Option<&Tls>) -> Result<Self, String> {
        Ok(Self { tls: tls.map(|tls| Ok::<_, String>((connector(tls)?, tls.any_host))).transpose()? })
    }

    /// Connects. Blocks.
    ///
    /// # Errors
    /// Why it failed.
    pub(crate) fn dial(&self, address: &Address) -> Result<Stream, Closed> {
        let socket = socket(address).map_err(|e| Closed::Lost(e.to_string()))?;
        let Some((connector, any_host)) = &self.tls else {
            socket.set_nonblocking(true).map_err(|e| Closed::Lost(e.to_string()))?;
            return Ok(Stream::Plain(socket));
        };
        let lost = |e: &dyn fmt::Display| Closed::Lost(e.to_string());
        socket.set_read_timeout(Some(CONNECT_WITHIN)).map_err(|e| lost(&e))?;
        socket.set_write_timeout(Some(CONNECT_WITHIN)).map_err(|e| lost(&e))?;
        let mut configuration = connector.configure().map_err(|e| lost(&e))?;
        configuration.set_verify_hostname(!any_host);
        let stream = configuration.connect(&address.host, socket).map_err(|error| refused(&error))?;
        let socket = stream.get_ref();
        socket.set_read_timeout(None).and_then(|()| socket.set_nonblocking(true)).map_err(|e| lost(&e))?;
        Ok(Stream::Tls(Box::new(stream)))
    }
}

fn connector(tls: &Tls) -> Result<SslConnector, String> {
    let failed = |what: &str, e: &ErrorStack| format!("{what}: {e}");
    let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(|e| failed("OpenSSL", &e))?;
    if let Some(file) = &tls.authorities {
        builder.set_ca_file(file).map_err(|e| failed(&file.display().to_string(), &e))?;
    }
    if tls.trusts_everybody {
        builder.set_verify(SslVerifyMode::NONE);
    }
    if let Some((certificate, key)) = &tls.certificate {
        builder.set_certificate_chain_file(certificate).map_err(|e| failed(&certificate.display().to_string(), &e))?;
        let of_key = |e: &ErrorStack| failed(&key.display().to_string(), e);
        match &tls.key_password {
            Some(password) => {
                let pem = std::fs::read(key).map_err(|e| format!("{}: {e}", key.display()))?;
                let key = openssl::pkey::PKey::private_key_from_pem_passphrase(&pem, password.as_bytes());
                builder.set_private_key(&*key.map_err(|e| of_key(&e))?).map_err(|e| of_key(&e))?;
            }
            None => builder.set_private_key_file(key, SslFiletype::PEM).map_err(|e| of_key(&e))?,
        }
        builder.check_private_key().map_err(|e| of_key(&e))?;
    }
    Ok(builder.build())
}

/// Connects to the first address of the host that answers.
fn socket(address: &Address) -> io::Result<TcpStream> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for place in (address.host.as_str(), address.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&place, CONNECT_WITHIN) {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                // A broker that is gone is noticed while nothing is asked of it: after a minute, not after two hours.
                setsockopt(&socket, sockopt::KeepAlive, &true)?;
                setsockopt(&socket, sockopt::TcpKeepIdle, &30)?;
                setsockopt(&socket, sockopt::TcpKeepInterval, &10)?;
                setsockopt(&socket, sockopt::TcpKeepCount, &3)?;
                return Ok(socket);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn refused(error: &HandshakeError<TcpStream>) -> Closed {
    let HandshakeError::Failure(stream) = error else { return Closed::Lost(format!("TLS: {error}")) };
    match stream.ssl().verify_result() {
        X509VerifyResult::OK => of_tls(stream.error()),
        why => Closed::Certificate(format!("its certificate is refused: {}", why.error_string())),
    }
}

/// A broker may refuse our certificate within the handshake or, by TLS 1.3, after it: OpenSSL's reason is then the
/// number of the alert (RFC 8446, section 6) and 1,000.
fn of_tls(error: &openssl::ssl::Error) -> Closed {
    let is_about_certificate = |error: &openssl::error::Error| {
        matches!(error.reason_code(), CERTIFICATE_VERIFY_FAILED | 1042..=1046 | 1048 | 1116)
    };
    let text = format!("TLS: {error}");
    match error.ssl_error() {
        Some(stack) if stack.errors().iter().any(is_about_certificate) => Closed::Certificate(text),
        _ => Closed::Lost(text),
    }
}

/// A connection whose calls do not block.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<SslStream<TcpStream>>),
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(socket) => socket.as_fd(),
            Self::Tls(stream) => stream.get_ref().as_fd(),
        }
    }
}

impl Stream {
    /// Reads what is there; `None` when nothing is.
    ///
    /// # Errors
    /// When the connection is at its end.
    pub(crate) fn read(&mut self, into: &mut [u8]) -> Result<Option<usize>, Closed> {
        let outcome = match self {
            Self::Plain(socket) => socket.read(into),
            Self::Tls(stream) => match stream.ssl_read(into) {
                Err(error) if error.code() == ErrorCode::ZERO_RETURN => Ok(0),
                Err(error) if is_early(error.code()) => return Ok(None),
                Err(error) => return Err(error.io_error().map_or_else(|| of_tls(&error), lost)),
                Ok(count) => Ok(count),
            },
        };
        match outcome {
            Ok(0) => Err(Closed::Lost("the broker closed the connection".to_owned())),
            Ok(count) => Ok(Some(count)),
            Err(error) if is_early_io(&error) => Ok(None),
            Err(error) => Err(lost(&error)),
        }
    }

    /// Writes what can be written; `None` when nothing can.
    ///
    /// # Errors
    /// When the connection is broken.
    pub(crate) fn write(&mut self, from: &[IoSlice<'_>]) -> Result<Option<usize>, Closed> {
        let outcome = match self {
            Self::Plain(socket) => socket.write_vectored(from),
            Self::Tls(stream) => match stream.ssl_write(from.first().map_or(&[][..], |slice| slice)) {
                Err(error) if is_early(error.code()) => return Ok(None),
                Err(error) => return Err(error.io_error().map_or_else(|| of_tls(&error), lost)),
                Ok(count) => Ok(count),
            },
        };
        match outcome {
            Ok(count) => Ok(Some(count)),
            Err(error) if is_early_io(&error) => Ok(None),
            Err(error) => Err(lost(&error)),
        }
    }
}

fn lost(error: &io::Error) -> Closed {
    Closed::Lost(error.to_string())
}

fn is_early(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::WANT_READ | ErrorCode::WANT_WRITE)
}

fn is_early_io(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests;
