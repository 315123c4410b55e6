//! Tokens for OAUTHBEARER, from a file that somebody renews: it is read at each login.
//!
//! Source: RFC 7519 (JSON Web Token), of which librdkafka wants to know the end and the subject.
#![allow(
    unsafe_code,
    reason = "the client library takes the token of a client that is not polled from C programs only"
)]

use std::ffi::CString;
use std::io;
use std::path::Path;
use std::ptr;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rdkafka::bindings as c;
use rdkafka::client::{Client, ClientContext, OAuthToken};
use serde::Deserialize;

/// A token that does not say when it ends is read again after this time.
const READ_AGAIN: Duration = Duration::from_secs(300);

/// So much may the clocks of the broker and of this machine differ.
const CLOCKS_DIFFER: Duration = Duration::from_secs(60);

/// The token of the file.
///
/// # Errors
/// When the file can't be read, with its path.
pub(crate) fn read(file: &Path) -> io::Result<String> {
    let text =
        std::fs::read_to_string(file).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", file.display())))?;
    Ok(text.trim().to_owned())
}

/// Whether a broker may refuse the token because it has expired, or is empty.
pub(crate) fn has_ended(token: &str) -> bool {
    token.is_empty() || claims(token).exp.is_some_and(|seconds| is_over((seconds * 1e3) as i64))
}

/// Whether this time, in milliseconds since 1970, is over by a broker's clock.
pub(crate) fn is_over(end_ms: i64) -> bool {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    end_ms <= (now + CLOCKS_DIFFER).as_millis() as i64
}

/// The token of the file for librdkafka, which reads the path from `sasl.oauthbearer.config`.
///
/// # Errors
/// As [`read`].
pub(crate) fn oauth_token(file: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
    let token = read(Path::new(file.unwrap_or_default()))?;
    let Claims { sub, exp } = claims(&token);
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let lifetime_ms = exp.map_or((now + READ_AGAIN).as_millis() as i64, |seconds| (seconds * 1e3) as i64);
    Ok(OAuthToken { token, principal_name: sub.unwrap_or_else(|| "unknown".to_owned()), lifetime_ms })
}

/// Gives the token of the file to a client, which asks for one only when it is polled.
///
/// # Errors
/// As [`read`], and when librdkafka refuses the token.
pub(crate) fn give(client: &Client<impl ClientContext>, file: &Path) -> io::Result<()> {
    let OAuthToken { token, principal_name, lifetime_ms } =
        client.context().generate_oauth_token(file.to_str()).map_err(|e| io::Error::other(e.to_string()))?;
    let (token, name) = (CString::new(token)?, CString::new(principal_name)?);
    let mut reason = [0; 256];
    // SAFETY: client, texts and buffer outlive the call, which copies the texts; there are no extensions.
    let code = unsafe {
        let (client, reason, room) = (client.native_ptr(), reason.as_mut_ptr(), reason.len());
        c::rd_kafka_oauthbearer_set_token(
            client,
            token.as_ptr(),
            lifetime_ms,
            name.as_ptr(),
            ptr::null_mut(),
            0,
            reason,
            room,
        )
    };
    if code == c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Ok(());
    }
    let reason: Vec<u8> = reason.iter().take_while(|byte| **byte != 0).map(|byte| byte.cast_unsigned()).collect();
    Err(io::Error::other(format!("{}: {}", file.display(), String::from_utf8_lossy(&reason))))
}

#[derive(Default, Deserialize)]
struct Claims {
    sub: Option<String>,
    /// Seconds since 1970.
    exp: Option<f64>,
}

/// What the token says of itself; nothing when it is no JSON Web Token.
fn claims(token: &str) -> Claims {
    let claims = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok());
    claims.and_then(|claims| serde_json::from_slice(&claims).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_when_it_ends() {
        let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
        let token = format!("{}.{}.x\n", part("{}"), part(r#"{"sub":"me","exp":1790000000.5}"#));
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), token).expect("to write");
        let of_file = || oauth_token(file.path().to_str()).expect("a token");
        assert_eq!((of_file().principal_name.as_str(), of_file().lifetime_ms), ("me", 1_790_000_000_500));
        assert!(!of_file().token.ends_with('\n'));
        std::fs::write(file.path(), "opaque").expect("to write");
        assert_eq!(of_file().token, "opaque");
        assert!(of_file().lifetime_ms > 1_790_000_000);
        let ending = |seconds: u64| format!("x.{}.x", part(&format!(r#"{{"exp":{seconds}}}"#)));
        assert_eq!(
            [&ending(1_700_000_000), "", "opaque", &ending(4_000_000_000)].map(has_ended),
            [true, true, false, false]
        );
        let error = oauth_token(Some("/nowhere")).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.starts_with("/nowhere: "), "{error}");
    }
}
