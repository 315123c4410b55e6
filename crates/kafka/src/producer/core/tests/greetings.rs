//! What precedes the first request on a connection: versions and logins.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use model::error::{Class, Code};

use super::cluster::{Cluster, Reply};
use super::{V1, V2};
use crate::producer::failure::Failure;
use crate::wire::codes::KafkaCode as K;
use crate::wire::login::Login;
use crate::wire::requests::Api;

#[test]
fn a_login_comes_first_and_is_renewed() {
    let login = Login::Plain { user: "me".to_owned(), password: "secret".to_owned() };
    let mut cluster = Cluster::with_login(1, V2, Some(login.clone()));
    cluster.lifetime_ms = 10_000;
    cluster.core.initialise();
    cluster.run();
    assert_eq!(cluster.asked(Api::SaslAuthenticate), ["|me|secret"]);
    assert_eq!(cluster.seen[1].api, Api::SaslHandshake);
    cluster.now += Duration::from_secs(9);
    assert_eq!(cluster.commit(&[0]), Ok(()));
    assert_eq!(cluster.asked(Api::SaslAuthenticate).len(), 2);
    assert_eq!(cluster.asked(Api::ApiVersions).len(), 1, "on the same connection");
    for (api, code) in
        [(Api::SaslAuthenticate, K::SASL_AUTHENTICATION_FAILED), (Api::SaslHandshake, K::UNSUPPORTED_SASL_MECHANISM)]
    {
        let mut cluster = Cluster::with_login(1, V2, Some(login.clone()));
        cluster.once(api, Reply::Code(code));
        cluster.core.initialise();
        cluster.run();
        let outcome = cluster.outcome();
        assert!(matches!(outcome, Err(Failure::Refused { code: Code::LoginRefused, .. })), "{outcome:?}");
    }
}

/// The code and class of the failure of a login with the token of this file, which the broker refuses.
fn refused_token(login: &Login) -> (Code, Class) {
    let mut cluster = Cluster::with_login(1, V2, Some(login.clone()));
    cluster.once(Api::SaslAuthenticate, Reply::Code(K::SASL_AUTHENTICATION_FAILED));
    cluster.core.initialise();
    cluster.run();
    let failure = cluster.outcome().expect_err("it is refused");
    let Failure::Refused { code, .. } = &failure else { panic!("{failure}") };
    (*code, failure.clone().into_error("a step").class())
}

#[test]
fn an_expired_token_is_waited_for_and_a_wrong_one_is_not() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let login = Login::Bearer { file: file.path().to_owned() };
    let token = |seconds: u64| format!("x.{}.x", URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{seconds}}}"#)));
    let now = std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_secs();
    let (expired, wrong) = ((Code::TokenExpired, Class::Transient), (Code::LoginRefused, Class::Definite));
    for (text, outcome) in
        [(token(now - 1), expired), (String::new(), expired), (token(now + 3_600), wrong), ("opaque".to_owned(), wrong)]
    {
        std::fs::write(file.path(), &text).expect("to write");
        assert_eq!(refused_token(&login), outcome, "{text}");
    }
    assert_eq!(refused_token(&Login::Bearer { file: "/nowhere".into() }), expired);
    // It is read at each login.
    std::fs::write(file.path(), token(now + 7_200)).expect("to write");
    let mut cluster = Cluster::with_login(1, V2, Some(login));
    cluster.lifetime_ms = 10_000;
    cluster.core.initialise();
    cluster.run();
    std::fs::write(file.path(), token(now + 9_000)).expect("to write");
    cluster.now += Duration::from_secs(9);
    assert_eq!(cluster.commit(&[0]), Ok(()));
    let sent = cluster.asked(Api::SaslAuthenticate);
    assert!(sent[0].contains(&token(now + 7_200)) && sent[1].contains(&token(now + 9_000)), "{sent:?}");
}

#[test]
fn a_broker_that_is_too_old_is_named_with_what_it_lacks() {
    for (api, newest, spoken) in [
        (Api::Produce, 8, "Produce in the versions 0 to 8, and version 9 is needed"),
        (Api::InitProducerId, 3, "InitProducerId in the versions 0 to 3, and version 4 is needed"),
        (Api::TxnOffsetCommit, 2, "TxnOffsetCommit in the versions 0 to 2, and version 3 is needed"),
    ] {
        let mut cluster = Cluster::new(1, V1);
        cluster.newest.insert(api as i16, newest);
        assert_eq!(too_old(cluster), format!("the broker at broker:1 speaks {spoken}"));
    }
    let mut cluster = Cluster::new(1, V1);
    cluster.once(Api::ApiVersions, Reply::Code(K::UNSUPPORTED_VERSION));
    cluster.newest.insert(Api::ApiVersions as i16, 2);
    let spoken = "ApiVersions in the versions 0 to 2, and version 3 is needed";
    assert_eq!(too_old(cluster), format!("the broker at broker:1 speaks {spoken}"));
}

fn too_old(mut cluster: Cluster) -> String {
    cluster.core.initialise();
    cluster.run();
    let Err(Failure::Refused { code, reason, remedy }) = cluster.outcome() else { panic!("it is refused") };
    assert_eq!(code, Code::BrokerVersion);
    assert!(remedy.contains("upgrade the brokers"), "{remedy}");
    reason
}
