//! Each way of being refused by each server: a definite error within seconds, with the remedy.

use std::fs;

use testbed::TestBed;

use super::servers::{KAFKA, POSTGRES, SECURED, WRONG};

/// What every error about a certificate says.
const CERTIFICATE: &str = "certificate verify failed";

fn other_ca() -> &'static str {
    SECURED.certificates.other_ca.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_refuses() {
    let world = SECURED.world("mysql_door").await;
    fs::create_dir(world.folder.join("data")).unwrap();
    fs::write(world.folder.join("data/a.csv"), "id,name,category,price,last_updated\n1,n,c,1.00,2026-01-01\n").unwrap();
    let expired = SECURED.mysql_expired.to_string();
    let db_ssl_ca = "what to do: check db.ssl_ca";
    for program in ["cdc-producer", "product-updater", "verify"] {
        for (more, texts) in [
            (&[("DB_SSL_MODE", "disabled"), ("DB_SSL_CA", "")][..], ["(error 3159)", "set db.ssl_mode"]),
            (&[("DB_SSL_CA", other_ca())], [CERTIFICATE, db_ssl_ca]),
            (&[("DB_HOST", "localhost")], [CERTIFICATE, db_ssl_ca]),
            (&[("DB_PORT", &expired)], ["certificate has expired", db_ssl_ca]),
            (&[("DB_PASSWORD", WRONG)], ["(error 1045)", "check DB_USER and DB_PASSWORD"]),
        ] {
            SECURED.refuses(&world, program, more, &texts);
        }
    }
    let elsewhere = [("DB_NAME", "somebody_elses"), ("UPDATER_PAUSE", "0s")];
    SECURED.refuses(&world, "product-updater", &elsewhere, &["database somebody_elses", "grant CREATE"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_refuses() {
    let world = SECURED.world("kafka_door").await;
    drop(world.table().await);
    let at = |host: &str, port: u16| format!("{host}:{port}");
    let (named, expired) = (at("localhost", SECURED.kafka.port), at("127.0.0.1", SECURED.certificates.expired.serve()));
    for program in ["cdc-producer", "consumer", "verify"] {
        let ca = "check kafka.ssl_ca_location";
        for (more, texts) in [
            (&[("KAFKA_SSL_CA_LOCATION", other_ca())][..], [CERTIFICATE, ca]),
            (&[("KAFKA_BOOTSTRAP_SERVERS", &named)], ["certificate", ca]),
            (&[("KAFKA_BOOTSTRAP_SERVERS", &expired)], ["certificate", ca]),
        ] {
            SECURED.refuses(&world, program, more, &texts);
        }
        for (user, _, mechanism) in KAFKA {
            let login = [
                ("KAFKA_SASL_USERNAME", user),
                ("KAFKA_SASL_PASSWORD", WRONG),
                ("KAFKA_SASL_MECHANISMS", mechanism.name()),
            ];
            SECURED.refuses(&world, program, &login, &["uthentication", "check kafka.sasl_mechanisms"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_refuses() {
    let world = SECURED.world("registry_door").await;
    let producer = filled(&world, &[]).await;
    let (named, expired) =
        (SECURED.registry_at("localhost"), format!("https://127.0.0.1:{}", SECURED.certificates.expired.serve()));
    let (user, ca) = ("check schema_registry.user and schema_registry.secret", "check schema_registry.ca_location");
    let cases = [
        (&[("SCHEMA_REGISTRY_SECRET", WRONG)][..], ["401", user]),
        (&[("SCHEMA_REGISTRY_USER", ""), ("SCHEMA_REGISTRY_SECRET", "")], ["401", user]),
        (&[("SCHEMA_REGISTRY_CA_LOCATION", other_ca())], [CERTIFICATE, ca]),
        (&[("SCHEMA_REGISTRY_URL", &named)], [CERTIFICATE, ca]),
        (&[("SCHEMA_REGISTRY_URL", &expired)], ["certificate has expired", ca]),
    ];
    for (more, texts) in &cases {
        SECURED.refuses(&world, "consumer", more, texts);
    }
    assert_eq!(producer.stop().code, 0);
    for (more, texts) in &cases {
        SECURED.refuses(&world, "cdc-producer", more, texts);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_refuses() {
    let world = SECURED.world("postgres_door").await;
    let producer = filled(&world, &[]).await;
    for (program, role) in [("consumer", POSTGRES[0]), ("verify", POSTGRES[1])] {
        let right = SECURED.postgres_url(role, &world.name);
        let port = |port: u16| format!(":{port}/");
        let ca = SECURED.certificates.ca.to_str().unwrap();
        let url = "postgres.url";
        for (url, texts) in [
            (right.replace(ca, other_ca()), [CERTIFICATE, "check sslmode and sslrootcert in postgres.url"]),
            // As libpq has it: a CA that is named is asked.
            (
                right.replace("verify-full", "require").replace(ca, other_ca()),
                [CERTIFICATE, "check sslmode and sslrootcert in postgres.url"],
            ),
            (right.replace("@127.0.0.1", "@localhost"), [CERTIFICATE, "names this host"]),
            (
                right.replace(&port(SECURED.postgres.port), &port(SECURED.postgres_expired.port)),
                ["certificate has expired", url],
            ),
            (
                right.replace(role.1, WRONG),
                ["password authentication failed", "check user, password and sslmode in postgres.url"],
            ),
            (
                format!("{}?sslmode=disable", right.split('?').next().unwrap()),
                ["no encryption", "check user, password and sslmode in postgres.url"],
            ),
        ] {
            SECURED.refuses(&world, program, &[("POSTGRES_URL", &url)], &texts);
        }
    }
    let revoke = format!("REVOKE CREATE ON SCHEMA public FROM {}", POSTGRES[0].0);
    SECURED.postgres(&world.name).await.batch_execute(&revoke).await.unwrap();
    SECURED.refuses(&world, "consumer", &[], &["permission denied for schema public", "grant this user CREATE"]);
    assert_eq!(producer.stop().code, 0);
}

/// A world whose topic has records, and its producer.
pub(crate) async fn filled(world: &TestBed, more: &[(&str, &str)]) -> testbed::Running {
    drop(world.table().await);
    let updater = SECURED.run(world, "product-updater", &["--generate", "50", "--seed", "3"], &[]);
    assert_eq!(updater.code, 0, "{}", updater.err);
    let mut producer = SECURED.start(world, "cdc-producer", "producer", more);
    producer.wait_for("snapshot complete");
    producer
}
