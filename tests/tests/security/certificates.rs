//! Certificates made by the test: an authority, what it signs, and another authority that nobody trusts.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use openssl::asn1::{Asn1Integer, Asn1Time};
use openssl::bn::{BigNum, MsbOption};
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::ssl::{SslAcceptor, SslFiletype, SslMethod};
use openssl::x509::extension::{BasicConstraints, KeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509Name, X509NameBuilder};

/// Seconds of a day.
const DAY: i64 = 24 * 3600;

/// Who signs certificates.
struct Authority {
    key: PKey<Private>,
    certificate: X509,
}

/// A server's certificate for 127.0.0.1, and for no name, so that `localhost` is a wrong one.
pub(crate) struct Certificate {
    /// The key, PKCS 8.
    pub(crate) key: PathBuf,
    /// The certificate.
    pub(crate) certificate: PathBuf,
    /// Both in one file, as Kafka wants them.
    pub(crate) both: PathBuf,
}

/// All that the tests need, as PEM files.
pub(crate) struct Certificates {
    /// The authority's own certificate.
    pub(crate) ca: PathBuf,
    /// Another authority's, which signed nothing.
    pub(crate) other_ca: PathBuf,
    /// One that holds.
    pub(crate) server: Certificate,
    /// One that ended yesterday.
    pub(crate) expired: Certificate,
}

impl Certificates {
    /// Makes them in `folder`.
    pub(crate) fn make(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        let (authority, other) = (Authority::new("product-stream test CA"), Authority::new("another CA"));
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs().cast_signed();
        let write_ca =
            |name: &str, authority: &Authority| write(folder.join(name), &authority.certificate.to_pem().unwrap());
        Self {
            ca: write_ca("ca.pem", &authority),
            other_ca: write_ca("other-ca.pem", &other),
            server: authority.issue(folder, "server", now - DAY, now + DAY),
            expired: authority.issue(folder, "expired", now - 2 * DAY, now - DAY),
        }
    }
}

impl Certificate {
    /// A server with this certificate that answers nothing beyond the handshake; returns its port.
    pub(crate) fn serve(&self) -> u16 {
        let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
        acceptor.set_private_key_file(&self.key, SslFiletype::PEM).unwrap();
        acceptor.set_certificate_chain_file(&self.certificate).unwrap();
        let (acceptor, listener) = (acceptor.build(), TcpListener::bind("127.0.0.1:0").unwrap());
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // The client hangs up.
                drop(acceptor.accept(stream.unwrap()));
            }
        });
        port
    }
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = new_key();
        let subject = named(name);
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs().cast_signed();
        let mut builder = builder(&subject, &subject, &key, now - 3 * DAY, now + 3 * DAY);
        builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        builder.append_extension(KeyUsage::new().critical().key_cert_sign().build().unwrap()).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        Self { key, certificate: builder.build() }
    }

    fn issue(&self, folder: &Path, name: &str, from: i64, until: i64) -> Certificate {
        let key = new_key();
        let subject = named("product-stream test server");
        let mut builder = builder(&subject, self.certificate.subject_name(), &key, from, until);
        let names = SubjectAlternativeName::new().ip("127.0.0.1").build(&builder.x509v3_context(None, None)).unwrap();
        builder.append_extension(names).unwrap();
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        let (key, certificate) = (key.private_key_to_pem_pkcs8().unwrap(), builder.build().to_pem().unwrap());
        let file = |what: &str| folder.join(format!("{name}{what}.pem"));
        Certificate {
            both: write(file(""), &[key.as_slice(), &certificate].concat()),
            key: write(file("-key"), &key),
            certificate: write(file("-certificate"), &certificate),
        }
    }
}

fn new_key() -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap()
}

fn named(name: &str) -> X509Name {
    let mut builder = X509NameBuilder::new().unwrap();
    builder.append_entry_by_text("CN", name).unwrap();
    builder.build()
}

fn builder(
    subject: &openssl::x509::X509NameRef,
    issuer: &openssl::x509::X509NameRef,
    key: &PKey<Private>,
    from: i64,
    until: i64,
) -> X509Builder {
    let mut builder = X509::builder().unwrap();
    let mut serial = BigNum::new().unwrap();
    serial.rand(64, MsbOption::MAYBE_ZERO, false).unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&Asn1Integer::from_bn(&serial).unwrap()).unwrap();
    builder.set_subject_name(subject).unwrap();
    builder.set_issuer_name(issuer).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&Asn1Time::from_unix(from).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_unix(until).unwrap()).unwrap();
    builder
}

/// Keys must be closed to others, or servers refuse them.
fn write(path: PathBuf, pem: &[u8]) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    fs::write(&path, pem).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}
