//! What keeps other pages out: headers for the browser, the check of `Host`, the token.
//!
//! A page of another site can't read answers of this server, but its site can give one of its names this server's
//! address (DNS rebinding); the browser then takes both for one site. So a request must name this server by an IP address, by
//! `localhost`, or by a name that a person has allowed.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::header::{HOST, HeaderName, HeaderValue};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use model::error::{Code, Error, Result};

/// Scripts and styles only from here, none within the page, and no text that becomes HTML.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

const HEADERS: [(&str, &str); 6] = [
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
];

/// The shortest token.
const SHORTEST_TOKEN: usize = 16;

/// Who may do what.
#[derive(Debug, Default)]
pub(super) struct Guard {
    /// Names of this server beside its addresses and `localhost`.
    pub(super) names: Vec<String>,
    /// The token that allows changes; `None` when nothing may be changed.
    pub(super) token: Option<String>,
}

/// Whether a request to this `Host` may be answered. Pure.
fn is_own(host: &str, names: &[String]) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((six, _)) => return six.parse::<IpAddr>().is_ok(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let is_named = |known: &str| known.eq_ignore_ascii_case(name);
    name.parse::<IpAddr>().is_ok() || is_named("localhost") || names.iter().any(|known| is_named(known))
}

/// Answers only requests to this server, with the headers for the browser.
pub(super) async fn check(State(guard): State<std::sync::Arc<Guard>>, request: Request, next: Next) -> Response {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let mut response = if is_own(host, &guard.names) {
        next.run(request).await
    } else {
        let text = "this server is not known by that name; name it by --name, or use its address\n";
        (StatusCode::MISDIRECTED_REQUEST, text).into_response()
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

impl Guard {
    /// Whether the request has the token.
    ///
    /// # Errors
    /// Definite when it has not, or when nothing may be changed.
    pub(super) fn allow(&self, headers: &HeaderMap) -> Result<()> {
        let refused = |text: &str, remedy: &str| Err(Error::new(Code::RightMissing, text).with_remedy(remedy));
        let Some(token) = &self.token else {
            return refused("this console only reads", "start it with --allow-control and --token-file");
        };
        let given = headers.get("authorization").and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        match given {
            Some(given) if is_equal(given.as_bytes(), token.as_bytes()) => Ok(()),
            Some(_) => refused("the token is another one", "write the content of the file of --token-file"),
            None => refused("the token is missing", "write the content of the file of --token-file"),
        }
    }
}

/// Compares in a time that does not depend on where they differ.
fn is_equal(given: &[u8], token: &[u8]) -> bool {
    given.len() == token.len() && given.iter().zip(token).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

/// The token in a file.
///
/// # Errors
/// Usage when it can't be read or is too short.
pub(super) fn token(path: &std::path::Path) -> Result<String> {
    let failed = |text: String| {
        Error::usage(format!("--token-file {}: {text}", path.display()))
            .with_remedy("make one: head -c 32 /dev/urandom | base64 > FILE; chmod 600 FILE")
    };
    let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
    let token = text.trim();
    if token.len() < SHORTEST_TOKEN {
        return Err(failed(format!("the token has fewer than {SHORTEST_TOKEN} characters")));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_server_are_answered() {
        let names = ["console.shop.internal".to_owned()];
        for (host, own) in [
            ("127.0.0.1:8080", true),
            ("localhost:8080", true),
            ("LOCALHOST", true),
            ("[::1]:8080", true),
            ("10.0.0.7", true),
            ("console.shop.internal:8080", true),
            ("evil.example:8080", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example:8080", false),
            ("[evil]:8080", false),
            ("", false),
        ] {
            assert_eq!(is_own(host, &names), own, "{host}");
        }
    }

    #[test]
    fn a_change_needs_the_whole_token() {
        let guard = Guard { names: Vec::new(), token: Some("correct horse battery".to_owned()) };
        let asked = |value: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert("authorization", HeaderValue::from_str(value).expect("a header"));
            }
            guard.allow(&headers).is_ok()
        };
        assert!(asked(Some("Bearer correct horse battery")));
        for wrong in [None, Some("Bearer correct horse batter"), Some("correct horse battery"), Some("Bearer ")] {
            assert!(!asked(wrong), "{wrong:?}");
        }
        assert!(Guard::default().allow(&HeaderMap::new()).is_err());
    }
}
