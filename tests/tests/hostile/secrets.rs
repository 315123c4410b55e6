//! Values of settings that hold secrets appear in no message, whatever is wrong with them.

use testbed::TestBed;

const SECRET: &str = "hunter2-correct-horse";

/// What a program says with these variables, at every level of its log.
fn said(world: &TestBed, program: &str, variables: &[(&str, String)], arguments: &[&str]) -> (i32, String) {
    let mut command = world.command(program, arguments);
    command.envs(variables.iter().map(|(name, value)| (*name, value)));
    let ended = testbed::run(command);
    (ended.code, format!("{}{}", ended.out, ended.err))
}

#[test]
fn a_value_for_librdkafka_is_never_repeated() {
    let world = TestBed::new("secrets");
    for (options, says) in [
        (format!("ssl.key.passwordd={SECRET}"), "librdkafka knows no option ssl.key.passwordd"),
        (format!("{{ssl.key.pasword: {SECRET}}}"), "librdkafka knows no option ssl.key.pasword"),
        (format!("socket.timeout.ms={SECRET}"), "librdkafka refuses option socket.timeout.ms"),
        (format!("ssl.endpoint.identification.algorithm={SECRET}"), "librdkafka refuses option ssl.endpoint"),
        (format!("ssl.key.password {SECRET}"), "kafka.librdkafka: *** is not a map of texts"),
        (format!("[{SECRET}]"), "kafka.librdkafka: *** is not a map of texts"),
        (format!("sasl.password={SECRET}"), "sasl.password has its own setting"),
        (format!("acks={SECRET}"), "acks must stay as the programs set it"),
    ] {
        for arguments in [&[][..], &["--check-config"]] {
            let (code, text) = said(&world, "consumer", &[("KAFKA_LIBRDKAFKA", options.clone())], arguments);
            assert!(code == 2 && text.contains(says), "{options}: {code}\n{text}");
            assert!(!text.contains(SECRET), "{options}\n{text}");
        }
    }
}

#[test]
fn options_that_are_right_are_hidden_where_the_settings_are_shown() {
    let world = TestBed::new("shown");
    for option in [
        "ssl.key.password",
        "ssl.keystore.password",
        "ssl.key.pem",
        "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.assertion.private.key.passphrase",
        "sasl.kerberos.kinit.cmd",
    ] {
        let options = [("KAFKA_LIBRDKAFKA", format!("{option}={SECRET}"))];
        let (code, text) = said(&world, "consumer", &options, &["--check-config"]);
        // Some need another build of librdkafka.
        assert!([0, 2].contains(&code) && text.contains(option) && !text.contains(SECRET), "{option}: {code}\n{text}");
    }
}

#[test]
fn an_address_with_a_password_is_not_repeated_when_it_is_wrong() {
    let world = TestBed::new("addresses");
    for (name, value) in [
        ("POSTGRES_URL", format!("host=localhost password={SECRET}")),
        ("POSTGRES_URL", format!("postgres://u:{SECRET}/x@localhost/db")),
        ("POSTGRES_URL", format!("postgres://u:{SECRET}@localhost/db?connect_timeout={SECRET}")),
        ("POSTGRES_URL", format!("postgres://u:{SECRET}@localhost:port/db")),
        ("SCHEMA_REGISTRY_URL", format!("http://u:{SECRET}@localhost")),
        ("SCHEMA_REGISTRY_URL", format!("u:{SECRET}@localhost")),
    ] {
        let (code, text) = said(&world, "consumer", &[(name, value.clone())], &["doctor"]);
        assert!(code != 0 && !text.contains(SECRET), "{name}={value}: {code}\n{text}");
    }
}
