//! The system's certificates: they are read only where a server may have to be checked against them.
//!
//! `native-tls` reads the whole bundle, and twice, whenever a client is made, even for one that trusts none of them: it
//! begins with `SSL_CTX_set_default_verify_paths`, and empties the store afterwards. Each client takes 30 ms of CPU then,
//! and a program makes up to three before its first event: a third of its start. OpenSSL takes the place of the bundle
//! from two environment variables (`X509_get_default_cert_file_env(3)`), so they name an empty one.
#![allow(unsafe_code, reason = "the environment is changed before the first thread begins")]

use crate::config::Settings;

/// OpenSSL's variables for the bundle and for a folder of certificates.
const VARIABLES: [(&str, &str); 2] = [("SSL_CERT_FILE", "/dev/null"), ("SSL_CERT_DIR", "/nonexistent")];

/// Keeps the system's certificates unread when no setting may need them. Must be called before any thread begins.
pub(crate) fn leave_unread(settings: &Settings) {
    if !needs_them(settings) {
        for (name, value) in VARIABLES {
            // SAFETY: this thread is the only one.
            unsafe { std::env::set_var(name, value) };
        }
    }
}

/// Whether a server's certificate may be checked: some value speaks of TLS. One that only looks like it costs 30 ms.
fn needs_them(settings: &Settings) -> bool {
    settings.texts().any(|text| {
        let text = text.to_ascii_lowercase();
        ["ssl", "https", "verify"].iter().any(|word| text.contains(word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Program, command};

    #[test]
    fn a_setting_that_speaks_of_tls_needs_them() {
        let needs = |name: &str, value: &str| {
            let environment: Environment = [(name.to_owned(), value.to_owned())].into_iter().collect();
            let command = command(Program::Consumer, clap::Command::new("consumer"));
            let arguments = command.try_get_matches_from(["consumer"]).expect("no flags");
            needs_them(&Settings::load(Program::Consumer, &environment, &arguments).expect("settings"))
        };
        for (name, value) in [
            ("KAFKA_SECURITY_PROTOCOL", "SSL"),
            ("SCHEMA_REGISTRY_URL", "https://registry"),
            ("DB_SSL_MODE", "verify_ca"),
            ("POSTGRES_URL", "postgres://u:p@h/d?sslmode=verify-full"),
        ] {
            assert!(needs(name, value), "{name}={value}");
        }
        for (name, value) in [
            ("DB_SSL_MODE", "required"),
            ("POSTGRES_URL", "postgres://u:p@h/d"),
            ("KAFKA_SECURITY_PROTOCOL", "PLAINTEXT"),
        ] {
            assert!(!needs(name, value), "{name}={value}");
        }
    }
}
