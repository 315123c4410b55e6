//! The security of a broker: TLS, users with passwords, and rights (ACLs) for each.
//!
//! Brokers and controllers connect to each other on separate listeners without a password and without restrictions:
//! these are bound to 127.0.0.1, and tests set ACLs through them.

use std::path::PathBuf;

/// The authentication mechanism of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// The plain password, within TLS.
    Plain,
    /// SCRAM-SHA-256.
    Scram256,
    /// SCRAM-SHA-512.
    Scram512,
}

impl Mechanism {
    /// Its name in SASL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Scram256 => "SCRAM-SHA-256",
            Self::Scram512 => "SCRAM-SHA-512",
        }
    }
}

/// A user of the broker.
#[derive(Debug, Clone)]
pub struct KafkaUser {
    /// Its name.
    pub name: String,
    /// Its password.
    pub password: String,
    /// How it logs in.
    pub mechanism: Mechanism,
}

/// The options of a secured broker. A user without a password logs in with a token that nobody has signed, which is for
/// tests only.
#[derive(Debug, Clone)]
pub struct KafkaSecurity {
    /// PEM file with the private key (PKCS 8) and the certificate.
    pub keystore: PathBuf,
    /// The users that may log in; none has any rights yet.
    pub users: Vec<KafkaUser>,
    /// The user without restrictions.
    pub operator: String,
}

impl KafkaSecurity {
    /// The lines of `server.properties`.
    pub(super) fn properties(&self) -> String {
        let plain = self.users.iter().filter(|user| user.mechanism == Mechanism::Plain);
        let plain: String = plain.map(|user| format!(" user_{}=\"{}\"", user.name, user.password)).collect();
        let module = "org.apache.kafka.common.security";
        format!(
            "listener.security.protocol.map=CLIENTS:SASL_SSL,BROKERS:PLAINTEXT,CONTROLLER:PLAINTEXT
listener.name.clients.ssl.keystore.type=PEM
listener.name.clients.ssl.keystore.location={}
listener.name.clients.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
listener.name.clients.plain.sasl.jaas.config={module}.plain.PlainLoginModule required{plain};
listener.name.clients.scram-sha-256.sasl.jaas.config={module}.scram.ScramLoginModule required;
listener.name.clients.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;
listener.name.clients.oauthbearer.sasl.jaas.config={module}.oauthbearer.OAuthBearerLoginModule required \
  unsecuredLoginStringClaim_sub=\"broker\";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:{}
",
            self.keystore.display(),
            self.operator
        )
    }

    /// The `StorageTool format --add-scram` arguments of each user with such a mechanism.
    pub(super) fn scram_records(&self) -> Vec<String> {
        let scram = self.users.iter().filter(|user| user.mechanism != Mechanism::Plain);
        scram.map(|user| format!("{}=[name={},password={}]", user.mechanism.name(), user.name, user.password)).collect()
    }
}
