//! What is no broker at `kafka.bootstrap_servers`.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use kafka::TransactionalProducer;
use model::error::Code;
use testbed::TestBed;

use super::fakes;

/// Garbage breaks the connection, is tried again until the deadline, and is named with the address.
#[test]
fn an_answer_of_something_else_is_named_with_its_address() {
    let world = TestBed::new("no_broker");
    let answers: [&[u8]; 4] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        &[0, 0, 0, 4, 9, 9, 9, 9],
        &[0, 0, 0, 0],
        &[0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 15, 0],
    ];
    for answer in answers {
        let address = fakes::serve(move |mut stream| {
            drop(stream.read(&mut [0; 256]));
            drop(stream.write_all(answer));
            drop(stream.read(&mut [0; 256]));
        });
        let mut settings = world.kafka();
        settings.bootstrap_servers = address.to_string();
        settings.transaction_timeout = Duration::from_secs(1);
        let error = TransactionalProducer::new(&settings, "nobody").err().expect("there is no broker");
        assert_eq!(error.code(), Code::ServerUnreachable, "{error}");
        for text in [address.to_string().as_str(), "an answer is malformed"] {
            assert!(error.to_string().contains(text), "{answer:?}: {error}");
        }
        assert!(error.remedy().is_some_and(|remedy| remedy.contains("kafka.bootstrap_servers")));
    }
}
