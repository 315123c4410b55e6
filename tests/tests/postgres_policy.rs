//! A record that PostgreSQL refuses takes nothing down: it is parked once, the rest continues, and a later state of its
//! key replaces it. What is not the record's fault is not parked.

use crate::consumer_world::{
    DeadLetter, assert_once, dead_letters, start, wait_until_committed, wait_until_ends_committed,
};
use crate::postgres_world::{PATIENCE, TABLES, connect, create, names, parked, run, wait_for_count};
use model::error::Code;
use mysql_async::prelude::Queryable;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::{Offset, TopicPartitionList};
use runtime::step::{ConsumerStep, DurableStep as _};
use testbed::{Feed, Running, TestBed, eventually};

/// Dead letters of this sink, by key.
fn letters(world: &TestBed) -> Vec<(i64, DeadLetter)> {
    let mut letters: Vec<(i64, DeadLetter)> = dead_letters(world)
        .into_iter()
        .filter(|letter| letter.origin["sink"] == "postgres")
        .map(|letter| (letter.origin["key"].as_i64().unwrap(), letter))
        .collect();
    letters.sort_by_key(|(key, letter)| (*key, letter.place()));
    letters
}

fn keys(letters: &[(i64, DeadLetter)]) -> Vec<i64> {
    letters.iter().map(|(key, _)| *key).collect()
}

/// A consumer that is killed at this step.
fn killed_at(world: &TestBed, step: ConsumerStep) -> Running {
    let mut command = world.command("consumer", &[]);
    command.env("FAILPOINTS", step.failpoint("return(kill)"));
    Running::start(command, "consumer", world.folder.join("failing.log"))
}

/// Case 21: one row with a NUL character among many, with every program running.
#[tokio::test(flavor = "multi_thread")]
async fn a_nul_character_is_parked_and_everything_else_arrives() {
    let mut world = TestBed::new("nul").with_postgres();
    world.set("METRICS_LISTEN", "127.0.0.1:0");
    let mut conn = world.table().await;
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    let mut consumers = [start(&world, 1), start(&world, 2)];
    let fill = "INSERT INTO product WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) \
                SELECT /*+ SET_VAR(cte_max_recursion_depth = 4000) */ i, CONCAT('p', i), 'c', i, NULL FROM n";
    conn.query_drop(fill).await.unwrap();
    let report = world.verify();
    assert!(report.contains("PostgreSQL agree\n"), "{report}");

    conn.query_drop("UPDATE product SET name = IF(id = 9, CONCAT('a', CHAR(0), 'b'), CONCAT(name, '!'))")
        .await
        .unwrap();
    let report = world.verify();
    assert!(report.contains("not compared: keys that are parked for PostgreSQL: 1\n"), "{report}");
    assert!(consumers.iter_mut().all(Running::is_running));
    assert_once(&world);
    let letters = letters(&world);
    assert_eq!(keys(&letters), [9]);
    let letter = &letters[0].1;
    let origin = &letter.origin;
    assert_eq!((letter.key.as_str(), &origin["table"], &origin["column"]), ("9", &"product".into(), &"name".into()));
    assert_eq!((&origin["sqlstate"], &origin["topic"]), (&"22021".into(), &world.name.as_str().into()));
    let (value, header) = (letter.value.as_deref().expect("its own bytes"), origin["header"].as_str().unwrap());
    assert!(value.windows(3).any(|w| w == b"a\0b") && header.contains(r#""op":"u""#), "{origin}");
    let client = connect(&world).await;
    assert_eq!(parked(&client).await, [(9, Some("name".to_owned()), "22021".to_owned())]);
    let names_now = names(&client).await;
    // The older row stays: somebody's foreign key may hang on it.
    assert_eq!((names_now[&9].as_str(), names_now[&10].as_str(), names_now.len()), ("p9", "p10!", 3000));
    let (partition, offset) = letter.place();
    let series = format!(
        "consumer_parked_records_total{{sink=\"postgres\",table=\"product\",column=\"name\",partition=\"{partition}\"}}"
    );
    let owner = consumers.iter().find(|c| c.metric(&series) == Some(1.0)).expect("the metric of one consumer");
    eventually("the key is counted", PATIENCE, || (owner.metric("consumer_parked_keys") == Some(1.0)).then_some(()));
    for part in ["PostgreSQL refuses records", "key=9", "column=\"name\"", &format!("offset={offset}")] {
        assert!(owner.log().contains(part), "{part}\n{}", owner.log_end());
    }

    // A new epoch deletes what its snapshot has not found, and keeps the older row of the key that is parked again.
    run(&client, "INSERT INTO product VALUES (999999, 'gone', NULL, NULL, NULL, NULL, 0, 0)").await;
    assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
    wait_for_count(world.get("POSTGRES_URL"), "SELECT count(*) FROM product WHERE id = 999999", 0);
    let report = world.verify();
    assert!(report.contains("not compared: keys that are parked for PostgreSQL: 1\n"), "{report}");
    assert_eq!(names(&client).await[&9], "p9");

    conn.query_drop("UPDATE product SET name = 'mended' WHERE id = 9").await.unwrap();
    let report = world.verify();
    assert!(report.contains("PostgreSQL agree\n"), "{report}");
    assert_eq!(names(&client).await[&9], "mended");
    assert!(parked(&client).await.is_empty());
    eventually("no key is counted", PATIENCE, || (owner.metric("consumer_parked_keys") == Some(0.0)).then_some(()));
    for program in consumers.into_iter().chain([producer]) {
        assert_eq!(program.stop().code, 0);
    }
}

/// What somebody did to the table, the products, and what is parked of them: key, column, SQLSTATE.
struct Refuses {
    name: &'static str,
    sql: &'static str,
    products: &'static [(i64, &'static str, &'static str, i64)],
    delete: &'static [i64],
    want: &'static [(i64, Option<&'static str>, &'static str)],
}

const CASES: &[Refuses] = &[
    Refuses {
        name: "varchar",
        sql: "ALTER TABLE product ALTER name TYPE varchar(5)",
        // PostgreSQL would cut the blanks off.
        products: &[(1, "short", "c", 1), (2, "longer", "c", 2), (3, "ab      ", "c", 3), (4, "üüüüü", "c", 4)],
        delete: &[],
        want: &[(2, Some("name"), "22001"), (3, Some("name"), "22001")],
    },
    Refuses {
        name: "numeric",
        sql: "ALTER TABLE product ALTER price TYPE numeric(5,2)",
        products: &[(1, "a", "c", 99_999), (2, "b", "c", 100_000), (3, "c", "c", -100_000)],
        delete: &[],
        want: &[(2, None, "22003"), (3, None, "22003")],
    },
    Refuses {
        name: "check",
        sql: "ALTER TABLE product ADD CHECK (price >= 0)",
        products: &[(1, "a", "c", 1), (2, "b", "c", -1)],
        delete: &[],
        want: &[(2, None, "23514")],
    },
    Refuses {
        name: "not_null",
        sql: "ALTER TABLE product ALTER discount_price SET NOT NULL",
        products: &[(1, "a", "CAT_5", 1), (2, "b", "other", 1)],
        delete: &[],
        want: &[(2, Some("discount_price"), "23502")],
    },
    Refuses {
        name: "raises",
        sql: "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.name = 'bad' THEN RAISE EXCEPTION 'not this one'; END IF;
                IF NEW.name = 'own' THEN RAISE EXCEPTION USING ERRCODE = 'ZZ001'; END IF; RETURN NEW; END $$;
              CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON product FOR EACH ROW EXECUTE FUNCTION refuse()",
        products: &[(1, "a", "c", 1), (2, "bad", "c", 1), (3, "own", "c", 1)],
        delete: &[],
        want: &[(2, None, "P0001"), (3, None, "ZZ001")],
    },
    Refuses {
        name: "deferred",
        sql: "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.name = 'bad' THEN RAISE EXCEPTION 'too late'; END IF; RETURN NULL; END $$;
              CREATE CONSTRAINT TRIGGER refuse AFTER INSERT OR UPDATE ON product DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW EXECUTE FUNCTION refuse()",
        products: &[(1, "a", "c", 1), (2, "bad", "c", 1)],
        delete: &[],
        want: &[(2, None, "P0001")],
    },
    Refuses {
        name: "unique",
        sql: "CREATE UNIQUE INDEX ON product (name)",
        products: &[(1, "same", "c", 1), (2, "same", "c", 2), (3, "other", "c", 3)],
        delete: &[],
        // Which of the two is first depends on the order of their ids only.
        want: &[(2, None, "23505")],
    },
    Refuses {
        name: "foreign_key",
        sql: "CREATE TABLE known (category text PRIMARY KEY); INSERT INTO known VALUES ('C');
              ALTER TABLE product ADD FOREIGN KEY (category) REFERENCES known",
        products: &[(1, "a", "c", 1), (2, "b", "unknown", 1)],
        delete: &[],
        want: &[(2, None, "23503")],
    },
    Refuses {
        name: "referenced",
        sql: "INSERT INTO product VALUES (7, 'old', NULL, NULL, NULL, NULL, 999, 0);
              CREATE TABLE ordered (product bigint REFERENCES product); INSERT INTO ordered VALUES (7)",
        products: &[(1, "a", "c", 1)],
        delete: &[7],
        want: &[(7, None, "23503")],
    },
    Refuses {
        name: "index_size",
        sql: "CREATE INDEX ON product (category)",
        products: &[(1, "a", "c", 1), (2, "b", "LONG", 1)],
        delete: &[],
        want: &[(2, None, "54000")],
    },
    Refuses {
        name: "partitions",
        sql: "DROP TABLE product; CREATE TABLE product (id bigint PRIMARY KEY, name text, category text, price numeric(10,2),
                discount_price numeric(10,2), last_updated timestamptz(6), source_partition int NOT NULL,
                source_offset bigint NOT NULL) PARTITION BY RANGE (id);
              CREATE TABLE product_low PARTITION OF product FOR VALUES FROM (0) TO (100)",
        products: &[(1, "a", "c", 1), (200, "b", "c", 1)],
        delete: &[],
        want: &[(200, None, "23514")],
    },
];

/// Text without any repetition, which PostgreSQL can't compress into an index.
fn long_text() -> String {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'A' + (state >> 59) as u8 % 26)
    };
    (0..20_000).map(|_| next()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_refuses_a_row_parks_that_one_alone() {
    for case in CASES {
        let world = TestBed::new(case.name).with_postgres();
        let client = create(&world).await;
        run(&client, TABLES).await;
        run(&client, case.sql).await;
        let mut feed = Feed::new(&world).await;
        let text = |category: &str| if category == "LONG" { long_text() } else { category.to_owned() };
        feed.products(case.products.iter().map(|(id, name, c, price)| (*id, (*name).to_owned(), text(c), *price)));
        if !case.delete.is_empty() {
            feed.delete(case.delete.iter().copied());
        }
        let mut consumer = start(&world, 1);
        wait_until_committed(&world);
        assert_once(&world);
        let want: Vec<(i64, Option<String>, String)> =
            case.want.iter().map(|(id, c, state)| (*id, c.map(str::to_owned), (*state).to_owned())).collect();
        let url = world.get("POSTGRES_URL");
        wait_for_count(url, "SELECT count(*) FROM product_parked WHERE dead_letter", want.len() as i64);
        assert_eq!(parked(&client).await, want, "{}", case.name);
        let refused: Vec<i64> = want.iter().map(|(id, _, _)| *id).collect();
        assert_eq!(keys(&letters(&world)), refused, "{}", case.name);
        let stored = names(&client).await;
        for (id, name, _, _) in case.products.iter().filter(|(id, ..)| !refused.contains(id)) {
            assert_eq!(stored.get(id).map(String::as_str), Some(*name), "{}: {id}", case.name);
        }
        for id in case.delete {
            assert!(stored.contains_key(id), "{}: the row that somebody refers to stays", case.name);
        }
        assert!(consumer.is_running());
        assert_eq!(consumer.stop().code, 0, "{}", case.name);
    }
}

/// A name that another key no longer has after the same batch is free, whatever the order of their ids.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_moves_from_key_to_key_within_a_batch_is_no_refusal() {
    let mut world = TestBed::new("moves").with_postgres();
    // Batches of several partitions may come one after the other.
    world.set("KAFKA_PARTITIONS", "1");
    let client = create(&world).await;
    run(&client, TABLES).await;
    run(&client, "CREATE UNIQUE INDEX ON product (name)").await;
    let mut feed = Feed::new(&world).await;
    let product = |id: i64, name: &str| (id, name.to_owned(), "c".to_owned(), id);
    feed.products([product(5, "x"), product(6, "y"), product(7, "z")]);
    let consumer = start(&world, 1);
    wait_until_committed(&world);
    assert_eq!(consumer.stop().code, 0);
    // 3 takes the name of 5, which takes that of 6, which is deleted; 7 gets a new name.
    feed.products([product(3, "x"), product(5, "y"), product(7, "zz")]);
    feed.delete([6]);
    let consumer = start(&world, 2);
    wait_until_committed(&world);
    assert_eq!(names(&client).await, [(3, "x"), (5, "y"), (7, "zz")].map(|(id, n)| (id, n.to_owned())).into());
    assert!(letters(&world).is_empty() && parked(&client).await.is_empty());
    assert_eq!(consumer.stop().code, 0);
}

const NUL: &str = "nul\0";

fn nul(id: i64) -> (i64, String, String, i64) {
    (id, NUL.to_owned(), "c".to_owned(), 1)
}

/// Between PostgreSQL's commit and Kafka's a parked record is in PostgreSQL only: its dead letter is still to be
/// written.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_postgresql_and_kafka_writes_one_dead_letter() {
    for point in [ConsumerStep::RowsCommitted, ConsumerStep::OffsetsSent, ConsumerStep::Committed] {
        let world = TestBed::new("parked_crash").with_postgres();
        let mut feed = Feed::new(&world).await;
        feed.update(1..=50, 0);
        feed.products([nul(9), nul(10)]);
        assert_eq!(killed_at(&world, point).wait().code, -1, "{point}");
        // The key has a good state now, in the batch that is read again.
        feed.update([10], 1);
        let consumer = start(&world, 1);
        wait_until_committed(&world);
        wait_for_count(world.get("POSTGRES_URL"), "SELECT count(*) FROM product_parked WHERE NOT dead_letter", 0);
        assert_once(&world);
        let letters = letters(&world);
        assert!(letters.iter().all(|(_, letter)| letter.value.is_some()), "{point}");
        let client = connect(&world).await;
        // The bad state of 10 has one too, unless a later state came in the same batch.
        let rows = client.query("SELECT id FROM product_parked ORDER BY id", &[]).await.unwrap();
        let ever: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        assert!(ever.contains(&9) && keys(&letters) == ever, "{point}: {ever:?} {:?}", keys(&letters));
        assert_eq!(parked(&client).await, [(9, Some("name".to_owned()), "22021".to_owned())], "{point}");
        assert!(names(&client).await[&10].starts_with("product 10"), "{point}");
        assert_eq!(consumer.stop().code, 0);
    }
}

/// PostgreSQL behind the log: what it refuses on its way is parked once, though it goes that way again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_postgresql_meets_again_has_one_dead_letter() {
    let mut world = TestBed::new("parked_again").with_postgres();
    let url = world.get("POSTGRES_URL").to_owned();
    world.set("POSTGRES_URL", "");
    let mut feed = Feed::new(&world).await;
    feed.update(1..=50, 0);
    feed.products([nul(9), nul(10)]);
    let consumer = start(&world, 1);
    wait_until_committed(&world);
    assert_eq!(consumer.stop().code, 0);
    assert!(letters(&world).is_empty());

    world.set("POSTGRES_URL", &url);
    // With its rows in PostgreSQL, and no dead letter. A batch may have the records of some partitions only.
    let open = "SELECT count(*) FROM product_parked WHERE NOT dead_letter";
    for attempt in 1.. {
        assert_eq!(killed_at(&world, ConsumerStep::RowsCommitted).wait().code, -1);
        let parked: i64 = connect(&world).await.query_one(open, &[]).await.unwrap().get(0);
        if parked == 2 {
            break;
        }
        assert!(attempt < 10, "{parked} records are parked after {attempt} batches of ten partitions");
    }
    // With its dead letters, and PostgreSQL does not know of them.
    assert_eq!(killed_at(&world, ConsumerStep::Committed).wait().code, -1);
    wait_for_count(&url, open, 2);
    let consumer = start(&world, 2);
    wait_for_count(&url, open, 0);
    assert_eq!(keys(&letters(&world)), [9, 10]);

    // Set back as by a backup, while it runs.
    let client = connect(&world).await;
    run(&client, "TRUNCATE product, product_offsets, product_parked").await;
    feed.update(100..=160, 1);
    wait_until_committed(&world);
    wait_for_count(&url, "SELECT count(*) FROM product_parked WHERE dead_letter", 2);
    wait_for_count(&url, "SELECT count(*) FROM product", 48 + 61);
    assert_eq!(keys(&letters(&world)), [9, 10]);
    assert_once(&world);
    assert_eq!(consumer.stop().code, 0);
}

/// With `stop` the error names the record; its remedy is followed.
/// Once a snapshot is complete, a key that is parked keeps its older row only if the snapshot has the key.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_after_expired_records_says_which_parked_keys_are_there() {
    let mut world = TestBed::new("parked_epoch").with_postgres();
    world.set("METRICS_LISTEN", "127.0.0.1:0");
    let mut conn = world.table().await;
    let fill = "INSERT INTO product WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20) \
                SELECT i, CONCAT('p', i), 'c', i, NULL FROM n";
    conn.query_drop(fill).await.unwrap();
    let producer = world.start_as("cdc-producer", "producer-1", &[]);
    let consumer = start(&world, 1);
    let report = world.verify();
    assert!(report.contains("PostgreSQL agree\n"), "{report}");
    conn.query_drop("UPDATE product SET name = CONCAT('a', CHAR(0)) WHERE id IN (9, 10)").await.unwrap();
    let report = world.verify();
    assert!(report.contains("keys that are parked for PostgreSQL: 2\n"), "{report}");
    assert_eq!(producer.stop().code, 0);
    wait_until_ends_committed(&world);

    // No record tells of these two deletes.
    let kafka = world.kafka();
    let admin: AdminClient<_> = kafka::client_config(&kafka).create().unwrap();
    let mut all = TopicPartitionList::new();
    for partition in 0..kafka.partitions {
        all.add_partition_offset(&kafka.topic, partition, Offset::End).unwrap();
    }
    admin.delete_records(&all, &AdminOptions::new()).await.unwrap();
    conn.query_drop("DELETE FROM product WHERE id IN (10, 11)").await.unwrap();
    assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
    let producer = world.start_as("cdc-producer", "producer-2", &[]);
    wait_for_count(world.get("POSTGRES_URL"), "SELECT count(*) FROM product", 18);
    let client = connect(&world).await;
    let names_now = names(&client).await;
    assert_eq!((names_now.get(&9).map(String::as_str), names_now.get(&10)), (Some("p9"), None));
    assert_eq!(parked(&client).await, [(9, Some("name".to_owned()), "22021".to_owned())]);
    eventually("the keys are counted", PATIENCE, || {
        (consumer.metric("consumer_parked_keys") == Some(1.0)).then_some(())
    });
    conn.query_drop("UPDATE product SET name = 'mended' WHERE id = 9").await.unwrap();
    wait_for_count(world.get("POSTGRES_URL"), "SELECT count(*) FROM product WHERE name = 'mended'", 1);
    assert_eq!(parked(&client).await, []);
    assert_eq!(consumer.stop().code, 0);
    assert_eq!(producer.stop().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_stop_stops_and_says_how_to_go_on() {
    let mut world = TestBed::new("policy_stop").with_postgres();
    world.set("POSTGRES_ON_REFUSED", "stop");
    let mut feed = Feed::new(&world).await;
    feed.update(1..=50, 0);
    feed.products([nul(9)]);
    let ended = start(&world, 1).wait();
    ended.assert_error(
        Code::PostgresRow,
        &[
            "PostgreSQL refuses the record at partition",
            "table product, key 9, column name",
            "(SQLSTATE 22021)",
            "set postgres.on_refused to dead_letter",
        ],
    );
    assert!(letters(&world).is_empty());
    world.set("POSTGRES_ON_REFUSED", "dead_letter");
    let consumer = start(&world, 2);
    wait_until_committed(&world);
    assert_once(&world);
    assert_eq!(keys(&letters(&world)), [9]);
    assert_eq!(consumer.stop().code, 0);
}

/// A right or a table that is missing is nobody's record.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_records_fault_is_not_parked() {
    let mut world = TestBed::new("not_parked").with_postgres();
    let client = create(&world).await;
    run(&client, TABLES).await;
    let role = format!("w{}", world.name);
    run(&client, &format!("CREATE ROLE {role} LOGIN PASSWORD 'p'; GRANT CREATE ON SCHEMA public TO {role}")).await;
    run(&client, &format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}")).await;
    let admin = world.get("POSTGRES_URL").to_owned();
    let (_, server) = admin.rsplit_once('@').unwrap();
    world.set("POSTGRES_URL", format!("postgres://{role}:p@{server}"));
    let mut feed = Feed::new(&world).await;
    feed.update(1..=5, 0);
    let mut consumer = start(&world, 1);
    consumer.wait_for("partitions assigned");
    wait_until_committed(&world);
    run(&client, &format!("REVOKE INSERT ON product FROM {role}")).await;
    feed.update(6..=10, 0);
    let ended = consumer.wait();
    ended.assert_error(Code::RightMissing, &["permission denied for table product"]);
    assert!(letters(&world).is_empty());
    // The remedy.
    run(&client, &format!("GRANT INSERT ON product TO {role}")).await;
    let consumer = start(&world, 2);
    wait_until_committed(&world);
    assert_once(&world);
    assert_eq!(names(&client).await.len(), 10);
    assert_eq!(consumer.stop().code, 0);
}

/// A constraint that nothing satisfies: everything is parked in bounded steps, and comes back when it is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_refuses_everything_holds_nothing_up_and_is_filled_later() {
    let mut world = TestBed::new("all_parked").with_postgres();
    world.set("CONSUMER_SLOTS", "1");
    let client = create(&world).await;
    run(&client, TABLES).await;
    run(&client, "ALTER TABLE product ADD CONSTRAINT none CHECK (id > 1500)").await;
    let mut feed = Feed::new(&world).await;
    feed.update(1..=1600, 0);
    let mut consumer = start(&world, 1);
    wait_until_committed(&world);
    let url = world.get("POSTGRES_URL").to_owned();
    wait_for_count(&url, "SELECT count(*) FROM product_parked WHERE dead_letter", 1500);
    wait_for_count(&url, "SELECT count(*) FROM product", 100);
    assert_once(&world);
    assert_eq!(letters(&world).len(), 1500);
    run(&client, "ALTER TABLE product DROP CONSTRAINT none").await;
    // One of them is history by then.
    feed.delete([1]);
    let ended = world.run("consumer", &["retry-parked"]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(ended.out.contains("1499 keys"), "{}", ended.out);
    feed.update(1601..=1700, 0);
    wait_until_committed(&world);
    wait_for_count(&url, "SELECT count(*) FROM product", 1699);
    wait_for_count(&url, "SELECT count(*) FROM product_parked WHERE replaced_by IS NULL", 0);
    assert_eq!(letters(&world).len(), 1500);
    assert_once(&world);
    assert!(consumer.is_running());
    assert_eq!(consumer.stop().code, 0);
}
