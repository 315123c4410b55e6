//! Logins that end: tokens that expire, and sessions that the broker ends.

use std::time::{Duration, UNIX_EPOCH};

use testbed::{TestBed, eventually};

use super::servers::{KAFKA, SECURED, login};
use super::{acls, refusals};

const USERS: [&str; 3] = ["producer", "consumer", "verify"];

/// Gives each user a token that ends after so many seconds. Returns the settings of each.
fn tokens(world: &TestBed, seconds: i64) -> [[(&'static str, String); 2]; 3] {
    let now = i64::try_from(UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap();
    USERS.map(|user| {
        let part = |json: String| openssl::base64::encode_block(json.as_bytes()).replace(['=', '\n'], "");
        let (begin, end) = (now - 7_200, now + seconds);
        let claims = part(format!(r#"{{"sub":"{user}","iat":{begin},"exp":{end}}}"#));
        let [file, new] = ["token", "new"].map(|end| world.folder.join(format!("{user}.{end}")));
        std::fs::write(&new, format!("{}.{claims}.\n", part(r#"{"alg":"none"}"#.to_owned()))).unwrap();
        std::fs::rename(new, &file).unwrap();
        let file = file.to_str().unwrap().to_owned();
        [("KAFKA_SASL_MECHANISMS", "OAUTHBEARER".to_owned()), ("KAFKA_SASL_TOKEN_FILE", file)]
    })
}

fn texts<'a>(settings: &'a [(&'static str, String); 2]) -> [(&'static str, &'a str); 2] {
    settings.each_ref().map(|(variable, value)| (*variable, value.as_str()))
}

fn generate(world: &TestBed, count: &str) {
    let updater = SECURED.run(world, "product-updater", &["--generate", count, "--seed", "4"], &[]);
    assert_eq!(updater.code, 0, "{}", updater.err);
}

/// A token from a file takes the place of user and password. When nobody renews it in time, the programs say so, and
/// wait for the next one.
#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_is_waited_for() {
    let world = SECURED.world("token").await;
    acls::give_all(&SECURED.kafka, &world);
    let own = tokens(&world, 3_600);
    let [own_producer, own_consumer, own_verify] = own.each_ref().map(texts);
    let producer = refusals::filled(&world, &own_producer).await;
    let mut consumer = SECURED.start(&world, "consumer", "consumer", &own_consumer);
    consumer.wait_for("partitions assigned");
    // The broker asks for the next login within four seconds.
    tokens(&world, -1);
    let mut programs = [producer, consumer];
    for program in &mut programs {
        program.wait_for("token-expired");
        assert!(program.said().contains("to the file of kafka.sasl_token_file"), "{}", program.said());
    }
    generate(&world, "50");
    tokens(&world, 3_600);
    let verified = SECURED.run(&world, "verify", &["--wait", "60s"], &own_verify);
    assert_eq!(verified.code, 0, "{}\n{}", verified.out, verified.err);
    for program in programs {
        let ended = program.stop();
        assert_eq!(ended.code, 0, "{}", ended.err);
    }
}

/// The broker ends each session after four seconds; the producer renews it before, on the same connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_renewed_before_the_broker_ends_it() {
    let mut world = SECURED.world("renewed").await;
    acls::give_all(&SECURED.kafka, &world);
    world.set("RUST_LOG", "info,kafka=debug");
    let mut producer = refusals::filled(&world, &login(KAFKA[0])).await;
    let logins = |log: &str| log.matches("logged in").count();
    eventually("four sessions are over", Duration::from_secs(60), || {
        assert!(producer.is_running(), "{}", producer.log_end());
        generate(&world, "10");
        (logins(&producer.said()) > 8).then_some(())
    });
    assert!(!producer.said().contains("is closed"), "{}", producer.said());
    assert_eq!(producer.stop().code, 0);
}
