//! Servers that let in only whom they know, over TLS with verified certificates, and programs with no more rights than
//! they need. Each way of being refused is a definite error that names the remedy, and no output holds a secret.

mod acls;
mod certificates;
mod refusals;
mod servers;
mod tokens;

use mysql_async::prelude::Queryable;
use servers::{KAFKA, SECURED, login};

/// All four servers at once, each program with its own users, at the chattiest level.
#[tokio::test(flavor = "multi_thread")]
async fn everything_is_encrypted_and_nobody_tells_a_secret() {
    let mut world = SECURED.world("secured").await;
    world.set("RUST_LOG", "trace");
    let mut conn = world.mysql().await;
    let plugins: Vec<String> =
        conn.query("SELECT DISTINCT plugin FROM mysql.user WHERE user IN ('cdc', 'updater', 'verify')").await.unwrap();
    assert_eq!(plugins, ["caching_sha2_password"]);

    acls::give_all(&SECURED.kafka, &world);
    let [own_producer, own_consumer, own_verify, _] = KAFKA.map(login);
    let updater = SECURED.run(&world, "product-updater", &["--generate", "200", "--seed", "5"], &[]);
    assert_eq!(updater.code, 0, "{}", updater.err);
    let producer = SECURED.start(&world, "cdc-producer", "producer", &own_producer);
    let consumers = ["consumer-1", "consumer-2"].map(|log| SECURED.start(&world, "consumer", log, &own_consumer));
    let verified = SECURED.run(&world, "verify", &["--wait", "60s"], &own_verify);
    assert_eq!(verified.code, 0, "{}\n{}", verified.out, verified.err);
    assert!(verified.out.contains("OK: "), "{}", verified.out);

    // Whoever looks needs no other rights than verify.
    for arguments in [&["status"][..], &["trace", "1"], &["tap", "--last", "1", "--stop-at-end"], &["dlq", "list"]] {
        let looked = SECURED.run(&world, "stream", arguments, &own_verify);
        assert_eq!(looked.code, 0, "{arguments:?}: {}\n{}", looked.out, looked.err);
    }

    let plain: Option<i64> = conn
        .query_first("SELECT COUNT(*) FROM performance_schema.threads WHERE connection_type = 'TCP/IP' OR (processlist_user = 'cdc' AND connection_type <> 'SSL/TLS')")
        .await
        .unwrap();
    assert_eq!(plain, Some(0));
    let tls: Option<i64> = conn
        .query_first("SELECT COUNT(*) FROM performance_schema.threads WHERE processlist_user = 'cdc' AND connection_type = 'SSL/TLS'")
        .await
        .unwrap();
    assert!(tls >= Some(1), "the producer's connections: {tls:?}");
    let query =
        "SELECT bool_and(ssl), count(*) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) WHERE usename = 'consumer'";
    let row = SECURED.postgres("postgres").await.query_one(query, &[]).await.unwrap();
    assert!(row.get(0) && row.get::<_, i64>(1) >= 1, "the consumers' connections: {row:?}");

    assert_eq!(producer.stop().code, 0);
    for consumer in consumers {
        assert_eq!(consumer.stop().code, 0);
    }
    for program in ["product-updater", "cdc-producer", "consumer", "verify"] {
        let shown = SECURED.run(&world, program, &["--check-config"], &[]);
        assert!(shown.code == 0 && shown.out.contains("***"), "{}", shown.err);
    }
    for arguments in [&["doctor"][..], &["checkpoint", "show"]] {
        assert_eq!(SECURED.run(&world, "cdc-producer", arguments, &own_producer).code, 0);
    }
    let told = servers::told(&world.folder);
    assert!(told.contains("TRACE") && told.len() > 10_000, "{} bytes of traces", told.len());
    servers::assert_no_secret(&told);
}
