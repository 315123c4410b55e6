//! TLS with a server of OpenSSL's that wants a certificate of its clients.

use std::net::TcpListener;
use std::path::Path;
use std::thread;

use openssl::asn1::Asn1Time;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::ssl::{SslAcceptor, SslFiletype};
use openssl::symm::Cipher;
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509NameBuilder};

use super::*;

const PASSWORD: &str = "of the key";

/// A key and its certificate, as PEM files `NAME.key`, `NAME.locked` (with a password) and `NAME.pem`.
struct Pair {
    key: PKey<Private>,
    certificate: X509,
}

impl Pair {
    /// For the host `host`, signed by `by`, else self-signed.
    fn make(folder: &Path, name: &str, host: &str, by: Option<&Self>) -> Self {
        let key = PKey::from_rsa(Rsa::generate(2_048).expect("a key")).expect("a key");
        let mut subject = X509NameBuilder::new().expect("a name");
        subject.append_entry_by_text("CN", name).expect("a name");
        let subject = subject.build();
        let mut builder = X509Builder::new().expect("a certificate");
        builder.set_version(2).expect("its version");
        builder.set_subject_name(&subject).expect("its name");
        builder.set_issuer_name(by.map_or(&*subject, |by| by.certificate.subject_name())).expect("its issuer");
        builder.set_pubkey(&key).expect("its key");
        builder.set_not_before(&Asn1Time::days_from_now(0).expect("a day")).expect("its begin");
        builder.set_not_after(&Asn1Time::days_from_now(2).expect("a day")).expect("its end");
        if by.is_none() {
            builder.append_extension(BasicConstraints::new().critical().ca().build().expect("one")).expect("one");
        }
        let host = SubjectAlternativeName::new().dns(host).build(&builder.x509v3_context(None, None)).expect("a host");
        builder.append_extension(host).expect("a host");
        builder.sign(by.map_or(&key, |by| &by.key), MessageDigest::sha256()).expect("a signature");
        let pair = Self { key, certificate: builder.build() };
        let write =
            |end: &str, bytes: &[u8]| std::fs::write(folder.join(format!("{name}.{end}")), bytes).expect("a file");
        write("key", &pair.key.private_key_to_pem_pkcs8().expect("PEM"));
        let locked = pair.key.private_key_to_pem_pkcs8_passphrase(Cipher::aes_256_cbc(), PASSWORD.as_bytes());
        write("locked", &locked.expect("PEM"));
        write("pem", &pair.certificate.to_pem().expect("PEM"));
        pair
    }
}

/// A server that lets in whom the authority `ca` has signed; writes a byte to each client after the handshake. Returns
/// its port.
fn server(folder: &Path) -> u16 {
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).expect("a server");
    acceptor.set_private_key_file(folder.join("server.key"), SslFiletype::PEM).expect("its key");
    acceptor.set_certificate_chain_file(folder.join("server.pem")).expect("its certificate");
    acceptor.set_ca_file(folder.join("ca.pem")).expect("its authority");
    acceptor.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    let (acceptor, listener) = (acceptor.build(), TcpListener::bind("127.0.0.1:0").expect("a port"));
    let port = listener.local_addr().expect("a port").port();
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            if let Ok(mut stream) = acceptor.accept(socket) {
                stream.ssl_write(b"x").expect("to write");
            }
        }
    });
    port
}

/// Connects and waits for the byte: by TLS 1.3, a server refuses a client after the client's handshake.
fn greeted(tls: &Tls, host: &str, port: u16) -> Result<(), Closed> {
    let dialer = Dialer::new(Some(tls)).expect("its files");
    let mut stream = dialer.dial(&Address { host: host.to_owned(), port })?;
    let mut byte = [0];
    loop {
        if stream.read(&mut byte)?.is_some() {
            return Ok(());
        }
        let mut polled = [nix::poll::PollFd::new(stream.as_fd(), nix::poll::PollFlags::POLLIN)];
        nix::poll::poll(&mut polled, nix::poll::PollTimeout::NONE).expect("to wait");
    }
}

#[test]
fn a_client_shows_its_certificate_and_looks_at_the_brokers() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let ca = Pair::make(folder.path(), "ca", "ca", None);
    let other = Pair::make(folder.path(), "other", "other", None);
    Pair::make(folder.path(), "server", "localhost", Some(&ca));
    Pair::make(folder.path(), "client", "client", Some(&ca));
    Pair::make(folder.path(), "foreign", "client", Some(&other));
    let port = server(folder.path());
    let of = |authority: &str, client: &str, key: &str, password: Option<&str>| Tls {
        authorities: Some(path(authority)),
        certificate: Some((path(client), path(key))),
        key_password: password.map(str::to_owned),
        ..Tls::default()
    };
    let good = of("ca.pem", "client.pem", "client.key", None);
    assert_eq!(greeted(&good, "localhost", port), Ok(()));
    assert_eq!(greeted(&of("ca.pem", "client.pem", "client.locked", Some(PASSWORD)), "localhost", port), Ok(()));
    // The broker refuses who shows none, or one of another authority.
    let is_refused = |tls: &Tls, host: &str| matches!(greeted(tls, host, port), Err(Closed::Certificate(_)));
    assert!(is_refused(&Tls { certificate: None, ..good.clone() }, "localhost"));
    assert!(is_refused(&of("ca.pem", "foreign.pem", "foreign.key", None), "localhost"));
    // We refuse a broker of another authority, or of another name.
    let foreign = of("other.pem", "client.pem", "client.key", None);
    assert!(is_refused(&foreign, "localhost"));
    assert_eq!(greeted(&Tls { trusts_everybody: true, ..foreign }, "localhost", port), Ok(()));
    assert!(is_refused(&good, "127.0.0.1"));
    assert_eq!(greeted(&Tls { any_host: true, ..good }, "127.0.0.1", port), Ok(()));
    // A wrong file is named, and no password.
    for (certificate, key, password, named) in [
        ("client.pem", "client.locked", Some("hunter2"), "client.locked: "),
        ("client.pem", "server.key", None, "server.key: "),
        ("client.pem", "nothing.key", None, "nothing.key: "),
        ("client.key", "client.key", None, "client.key: "),
    ] {
        let Err(error) = Dialer::new(Some(&of("ca.pem", certificate, key, password))) else { panic!("{named}") };
        assert!(error.contains(named) && !error.contains("hunter2"), "{error}");
    }
}
