//! Transactions at a broker, with each codec: an abort leaves nothing, and a successor fences.

use kafka::{Failure, TopicSpec, TransactionalProducer, ensure_topics};
use testbed::TestBed;

use super::late_requests::{committed, send};

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_leaves_nothing_and_a_successor_fences() {
    let mut settings = TestBed::new("transactions").kafka();
    ensure_topics(&settings, &[TopicSpec::products(&settings)]).await.expect("a topic");
    let id = settings.transactional_id.clone();
    let codecs = ["none", "gzip", "snappy", "lz4", "zstd"];
    for codec in codecs {
        settings.compression = codec.to_owned();
        let transaction = |producer: &TransactionalProducer, kind: &str| {
            producer.begin().expect("to begin");
            send(producer, &settings, &format!("{kind} {codec}")).expect("to send");
            producer.flush().expect("to write");
        };
        let first = TransactionalProducer::new(&settings, &id).expect("a producer");
        transaction(&first, "aborted");
        first.abort().expect("to abort");
        transaction(&first, "committed");
        first.commit().expect("to commit");
        transaction(&first, "fenced");
        let second = TransactionalProducer::new(&settings, &id).expect("a producer");
        assert!(matches!(first.commit(), Err(Failure::Fenced(_))), "{codec}");
        transaction(&second, "successor");
        second.commit().expect("to commit");
    }
    let wanted: Vec<String> =
        codecs.iter().flat_map(|c| [format!("committed {c}"), format!("successor {c}")]).collect();
    assert_eq!(committed(&settings), wanted);
}
