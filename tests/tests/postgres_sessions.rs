//! PostgreSQL as it is run: behind a pooler, with other people's tables, and with defaults of role and database that
//! suit other programs.

use crate::consumer_world::{assert_once, dead_letters, line_count, start, wait_until_committed};
use crate::postgres_world::{PATIENCE, TABLES, connect, connect_to, create, names, parked, run, wait_for_count};
use model::error::Code;
use mysql_async::prelude::Queryable;
use testbed::servers::PgBouncer;
use testbed::{Feed, TestBed, eventually};
use tokio_postgres::Client;

fn port_of(url: &str) -> u16 {
    let (_, rest) = url.rsplit_once(':').unwrap();
    rest.split('/').next().unwrap().parse().unwrap()
}

/// A role of this world with its defaults; the world's programs get it.
async fn role(world: &mut TestBed, client: &Client, rights: &str, defaults: &[&str]) -> String {
    let role = format!("r{}", world.name);
    run(client, &format!("CREATE ROLE {role} LOGIN PASSWORD 'p'")).await;
    run(client, &rights.replace("ROLE", &role)).await;
    for default in defaults {
        run(client, &format!("ALTER ROLE {role} SET {default}")).await;
    }
    let admin = world.get("POSTGRES_URL").to_owned();
    let (_, server) = admin.rsplit_once('@').unwrap();
    world.set("POSTGRES_URL", format!("postgres://{role}:p@{server}"));
    role
}

/// Case 25: five consumers and `verify` through a pooler whose clients share three connections.
#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_may_give_each_transaction_another_connection() {
    let mut world = TestBed::new("pooler").with_postgres();
    let admin = create(&world).await;
    let pooler = PgBouncer::start(&world.folder.join("pgbouncer"), port_of(world.get("POSTGRES_URL")), "transaction")
        .expect("pgbouncer");
    world.set("POSTGRES_URL", pooler.url(&world.name));
    let mut conn = world.table().await;
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    world.set("CONSUMER_BATCH_ROWS", "300");
    let mut consumers: Vec<_> = (1..=5).map(|n| start(&world, n)).collect();
    for round in 0..3 {
        // Of each round some rows are new, which are copied, and some are not.
        let fill = format!(
            "REPLACE INTO product WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) \
             SELECT /*+ SET_VAR(cte_max_recursion_depth = 9000) */ i, CONCAT('p', i), IF(i = 7, CONCAT('x', CHAR(0)), 'cat_5'), \
             {round}, NULL FROM n",
            2000 + round * 1000
        );
        conn.query_drop(fill).await.unwrap();
        conn.query_drop("DELETE FROM product WHERE id % 10 = 3").await.unwrap();
        consumers.remove(0).kill();
        consumers.push(start(&world, 6 + round));
        let report = world.verify();
        assert!(report.contains("not compared: keys that are parked for PostgreSQL: 1\n"), "{report}");
    }
    for consumer in &mut consumers {
        assert!(consumer.is_running() && !consumer.log().contains("prepared statement"), "{}", consumer.log());
    }
    // The settings of the consumers' transactions are nobody else's.
    let client = connect_to(&pooler.url(&world.name)).await;
    for _ in 0..20 {
        let sql =
            "SHOW statement_timeout; SHOW idle_in_transaction_session_timeout; SHOW row_security; SHOW search_path";
        let found: Vec<String> = client
            .simple_query(sql)
            .await
            .unwrap()
            .iter()
            .filter_map(|m| match m {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            })
            .collect();
        assert_eq!(found, ["0", "0", "on", "\"$user\", public"]);
    }
    assert_eq!(parked(&admin).await.len(), 1);
    assert!(producer.is_running());
}

/// A statement that somebody else has left on a pooled connection under our name is no reason to stop.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_left_by_another_client_of_the_pool_is_worked_around() {
    let mut world = TestBed::new("left_statement").with_postgres();
    drop(create(&world).await);
    let pooler = PgBouncer::start(&world.folder.join("pgbouncer"), port_of(world.get("POSTGRES_URL")), "transaction")
        .expect("pgbouncer");
    world.set("POSTGRES_URL", pooler.url(&world.name));
    // On each of the pool's connections, held open at the same time.
    let mut clients = Vec::new();
    for _ in 0..3 {
        let client = connect_to(&pooler.url(&world.name)).await;
        run(&client, "BEGIN").await;
        for n in 0..30 {
            run(&client, &format!("PREPARE s{n} AS SELECT 1")).await;
        }
        clients.push(client);
    }
    for client in &clients {
        run(client, "COMMIT").await;
    }
    let mut feed = Feed::new(&world).await;
    feed.update(1..=1000, 0);
    let mut consumer = start(&world, 1);
    wait_until_committed(&world);
    assert_once(&world);
    wait_for_count(&pooler.url(&world.name), "SELECT count(*) FROM product", 1000);
    assert!(consumer.is_running());
    assert_eq!(consumer.stop().code, 0);
}

/// Without transactions nothing holds: the pooler's mode is named.
#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_gives_each_statement_another_connection_is_refused_by_name() {
    let mut world = TestBed::new("statements").with_postgres();
    drop(create(&world).await);
    let port = port_of(world.get("POSTGRES_URL"));
    let pooler = PgBouncer::start(&world.folder.join("statement"), port, "statement").expect("pgbouncer");
    world.set("POSTGRES_URL", pooler.url(&world.name));
    let mut feed = Feed::new(&world).await;
    feed.update(1..=10, 0);
    let ended = start(&world, 1).wait();
    ended.assert_error(Code::PostgresDatabase, &["statement pooling mode", "pool_mode = transaction"]);
    // The remedy.
    let pooler = PgBouncer::start(&world.folder.join("transaction"), port, "transaction").expect("pgbouncer");
    world.set("POSTGRES_URL", pooler.url(&world.name));
    let consumer = start(&world, 2);
    wait_until_committed(&world);
    assert_once(&world);
    assert_eq!(consumer.stop().code, 0);
}

/// What a DBA may have set for the role or the database, for other programs.
const DEFAULTS: &[&str] = &[
    "default_transaction_isolation = 'serializable'",
    "default_transaction_read_only = on",
    "default_transaction_deferrable = on",
    "search_path = elsewhere",
    "TimeZone = 'Europe/Berlin'",
    "DateStyle = 'German'",
    "IntervalStyle = 'sql_standard'",
    "synchronous_commit = off",
    // In force for the first statements of a transaction, which set our own limit: 1 ms may be too short for these on a
    // busy machine.
    "statement_timeout = 100",
    "lock_timeout = 1",
    "idle_in_transaction_session_timeout = 1",
    "standard_conforming_strings = off",
    "escape_string_warning = off",
    "extra_float_digits = -15",
    "bytea_output = 'escape'",
    "array_nulls = off",
    "transform_null_equals = on",
    "client_encoding = 'LATIN1'",
    "enable_indexscan = off",
    "plan_cache_mode = force_generic_plan",
];

#[tokio::test(flavor = "multi_thread")]
async fn defaults_of_the_role_and_the_database_change_nothing() {
    let mut world = TestBed::new("defaults").with_postgres();
    let client = create(&world).await;
    run(&client, "CREATE SCHEMA elsewhere").await;
    let rights = "GRANT ALL ON SCHEMA elsewhere TO ROLE; GRANT ALL ON SCHEMA public TO ROLE";
    role(&mut world, &client, rights, DEFAULTS).await;
    run(&client, &format!("ALTER DATABASE {} SET TimeZone = 'Asia/Kathmandu'", world.name)).await;
    let mut conn = world.table().await;
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    let consumers = [start(&world, 1), start(&world, 2)];
    conn.query_drop(
        "INSERT INTO product VALUES (1, 'ü\\\\', 'cat_5', 1.25, '2026-03-29 02:30:00.000001'), (2, NULL, NULL, NULL, NULL), \
         (3, 'łódź 日本', 'x', -0.05, '2026-10-25 01:30:00.5')",
    )
    .await
    .unwrap();
    let report = world.verify();
    assert!(report.contains("OK: 3 changes") && report.contains("PostgreSQL agree\n"), "{report}");
    let sql =
        "SELECT to_char(last_updated AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') FROM public.product WHERE id = 1";
    let stored: String = client.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(stored, "2026-03-29 02:30:00.000001");
    for consumer in consumers {
        assert!(!consumer.log().contains("trying again"), "{}", consumer.log());
        assert_eq!(consumer.stop().code, 0);
    }
    assert!(producer.is_running());
}

/// `synchronous_commit = off` of the role would let a crash of PostgreSQL take back what was answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_durable_whatever_the_role_says() {
    let mut world = TestBed::new("durable").with_postgres();
    let client = create(&world).await;
    run(&client, TABLES).await;
    // Each row notes what was in force when it was written.
    run(
        &client,
        "CREATE TABLE seen (setting text); CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
            INSERT INTO public.seen SELECT string_agg(current_setting(name), ' ')
                FROM unnest('{synchronous_commit,transaction_isolation,statement_timeout,lock_timeout}'::text[]) AS name;
            RETURN NULL; END $$;
         CREATE TRIGGER note AFTER INSERT ON product FOR EACH ROW EXECUTE FUNCTION note()",
    )
    .await;
    let rights = "GRANT ALL ON SCHEMA public TO ROLE; GRANT ALL ON ALL TABLES IN SCHEMA public TO ROLE";
    for (setting, want) in [("off", "on read committed 30s 0"), ("remote_apply", "remote_apply read committed 30s 0")] {
        let url = world.get("POSTGRES_URL").to_owned();
        let name = role(
            &mut world,
            &client,
            rights,
            &[&format!("synchronous_commit = {setting}"), "statement_timeout = 100", "lock_timeout = 1"],
        )
        .await;
        let mut feed = Feed::new(&world).await;
        feed.update(1..=1, 0);
        let consumer = start(&world, 1);
        wait_until_committed(&world);
        assert_eq!(consumer.stop().code, 0);
        let seen: String = client.query_one("SELECT DISTINCT setting FROM seen", &[]).await.unwrap().get(0);
        assert_eq!(seen, want);
        run(&client, &format!("TRUNCATE seen; DELETE FROM product; DROP OWNED BY {name}; DROP ROLE {name}")).await;
        world = TestBed::new("durable");
        world.set("POSTGRES_URL", url);
    }
}

/// What is wrong with a table, and what the refusal says.
const WRONG: &[(&str, &str)] = &[
    (
        "ALTER TABLE product ALTER price TYPE numeric(10,1), ALTER last_updated TYPE timestamp",
        "column price of public.product is numeric(10,1), which rounds, and must be numeric(10,2); column last_updated of \
         public.product is timestamp without time zone, which depends on the session's time zone, and must be timestamp with \
         time zone",
    ),
    ("ALTER TABLE product ALTER id TYPE int", "column id of public.product is integer, and must be bigint"),
    (
        "ALTER TABLE product ALTER name TYPE char(300)",
        "column name of public.product is character(300), and must be text",
    ),
    ("ALTER TABLE product ALTER price TYPE double precision", "column price of public.product is double precision"),
    ("ALTER TABLE product ALTER last_updated TYPE timestamptz(3)", "is timestamp(3) with time zone, which rounds"),
    ("ALTER TABLE product DROP COLUMN category", "public.product has no column category (text)"),
    (
        "ALTER TABLE product ADD tenant int NOT NULL",
        "column tenant of public.product (integer) must not be null and has no default",
    ),
    ("ALTER TABLE product DROP CONSTRAINT product_pkey", "public.product has no primary key (id)"),
    (
        "ALTER TABLE product DROP CONSTRAINT product_pkey, ADD PRIMARY KEY (id) DEFERRABLE",
        "public.product has no primary key (id)",
    ),
    (
        "ALTER TABLE product_offsets DROP CONSTRAINT product_offsets_pkey",
        "public.product_offsets has no primary key (topic, partition)",
    ),
    (
        "ALTER TABLE product DROP COLUMN discount_price; \
         ALTER TABLE product ADD discount_price numeric(10,2) GENERATED ALWAYS AS (price * 0.8) STORED",
        "column discount_price of public.product is generated",
    ),
    ("ALTER TABLE product ALTER id ADD GENERATED ALWAYS AS IDENTITY", "column id of public.product is generated"),
    ("ALTER TABLE product RENAME TO stock; CREATE VIEW product AS SELECT * FROM stock", "public.product is a view"),
    ("CREATE TABLE child () INHERITS (product)", "public.product has tables that inherit from it"),
    ("ALTER TABLE product SET UNLOGGED", "public.product is not logged"),
    (
        "ALTER TABLE product ENABLE ROW LEVEL SECURITY; CREATE POLICY all_rows ON product USING (true)",
        "public.product has row level security for this user",
    ),
    ("CREATE RULE no_delete AS ON DELETE TO product DO INSTEAD NOTHING", "public.product has rules"),
    (
        "ALTER TABLE product_offsets ALTER next_offset TYPE int",
        "column next_offset of public.product_offsets is integer, and must be bigint",
    ),
];

/// Case 24: tables that somebody made are looked at before the first write.
#[tokio::test(flavor = "multi_thread")]
async fn tables_that_would_change_a_value_are_refused_with_both_types() {
    let mut world = TestBed::new("wrong_tables").with_postgres();
    let client = create(&world).await;
    run(&client, TABLES).await;
    let rights = "GRANT ALL ON SCHEMA public TO ROLE; GRANT ALL ON ALL TABLES IN SCHEMA public TO ROLE";
    let role = role(&mut world, &client, rights, &[]).await;
    let mut feed = Feed::new(&world).await;
    feed.update(1..=10, 0);
    for (sql, want) in WRONG {
        run(&client, "DROP SCHEMA public CASCADE; CREATE SCHEMA public").await;
        run(&client, &format!("GRANT ALL ON SCHEMA public TO {role}")).await;
        run(&client, TABLES).await;
        run(&client, sql).await;
        run(&client, &format!("GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")).await;
        let ended = world.run("consumer", &[]);
        ended.assert_error(Code::PostgresTables, &[want, "what to do: change what is named (ALTER TABLE)"]);
        assert_eq!(line_count(&world), 0, "{sql}");
    }
    // The remedy: another schema, in which the consumers make their own.
    run(&client, &format!("CREATE SCHEMA stream AUTHORIZATION {role}")).await;
    world.set("POSTGRES_SCHEMA", "stream");
    let consumer = start(&world, 1);
    wait_until_committed(&world);
    assert_once(&world);
    let url = world.get("POSTGRES_URL");
    wait_for_count(url, "SELECT count(*) FROM stream.product", 10);
    assert_eq!(consumer.stop().code, 0);
}

/// The same while it runs: the next batch that is refused says so, and no record is blamed.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_changed_under_a_running_consumer_stops_it() {
    let world = TestBed::new("changed_table").with_postgres();
    let client = create(&world).await;
    let mut feed = Feed::new(&world).await;
    feed.update(1..=10, 0);
    let consumer = start(&world, 1);
    wait_until_committed(&world);
    run(
        &client,
        "ALTER TABLE product ADD tenant int NOT NULL DEFAULT 1; ALTER TABLE product ALTER tenant DROP DEFAULT",
    )
    .await;
    feed.update(1..=40, 1);
    let ended = consumer.wait();
    ended.assert_error(Code::PostgresTables, &["column tenant of public.product (integer) must not be null"]);
    assert!(dead_letters(&world).is_empty());
    run(&client, "ALTER TABLE product DROP COLUMN tenant").await;
    let consumer = start(&world, 2);
    wait_until_committed(&world);
    assert_once(&world);
    assert_eq!(names(&client).await.len(), 40);
    assert_eq!(consumer.stop().code, 0);
}

/// Tables that a DBA made for a user who may make none, as docs/security.md has them; wider types are taken.
#[tokio::test(flavor = "multi_thread")]
async fn tables_made_beforehand_need_no_right_to_make_any() {
    let mut world = TestBed::new("made_before").with_postgres();
    let client = create(&world).await;
    let security = include_str!("../../docs/security.md");
    let (_, sql) = security.split_once("```sql\nCREATE TABLE product (").expect("the statements");
    let (sql, _) = sql.split_once("```").unwrap();
    run(&client, &format!("CREATE TABLE product ({}", sql.replace("consumer", "pg_database_owner"))).await;
    run(&client, "ALTER TABLE product ALTER price TYPE numeric, ALTER name TYPE varchar, ADD note text").await;
    let rights = "REVOKE ALL ON SCHEMA public FROM PUBLIC; GRANT USAGE ON SCHEMA public TO ROLE; \
                  GRANT SELECT, INSERT, UPDATE, DELETE ON product, product_offsets, product_parked TO ROLE";
    role(&mut world, &client, rights, &[]).await;
    let mut feed = Feed::new(&world).await;
    feed.update(1..=50, 0);
    feed.products([(9, "nul\0".to_owned(), "c".to_owned(), 1)]);
    let consumer = start(&world, 1);
    wait_until_committed(&world);
    assert_once(&world);
    eventually("it is parked", PATIENCE, || (dead_letters(&world).len() == 1).then_some(()));
    assert_eq!(names(&client).await.len(), 49);
    assert_eq!(consumer.stop().code, 0);
}

/// Tables of the previous version in the schema that the role's search_path named are not left behind in silence.
#[tokio::test(flavor = "multi_thread")]
async fn tables_in_the_schema_of_the_roles_search_path_are_named() {
    let mut world = TestBed::new("old_schema").with_postgres();
    let client = create(&world).await;
    run(&client, &format!("CREATE SCHEMA stock; SET search_path = stock; {TABLES}")).await;
    let rights = "GRANT ALL ON SCHEMA stock, public TO ROLE; GRANT ALL ON ALL TABLES IN SCHEMA stock TO ROLE";
    role(&mut world, &client, rights, &["search_path = stock"]).await;
    let mut feed = Feed::new(&world).await;
    feed.update(1..=10, 0);
    let ended = start(&world, 1).wait();
    ended.assert_error(Code::PostgresTables, &["the tables are in schema stock, and postgres.schema is public"]);
    world.set("POSTGRES_SCHEMA", "stock");
    let consumer = start(&world, 2);
    wait_until_committed(&world);
    wait_for_count(world.get("POSTGRES_URL"), "SELECT count(*) FROM stock.product", 10);
    assert_eq!(consumer.stop().code, 0);
    assert!(connect(&world).await.query("SELECT FROM public.product", &[]).await.is_err());
}

/// A missing schema is named, and the tables are not created elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_missing_is_named_and_used_once_it_is_there() {
    let mut world = TestBed::new("no_schema").with_postgres();
    let client = create(&world).await;
    world.set("POSTGRES_SCHEMA", "stock");
    let mut feed = Feed::new(&world).await;
    feed.update(1..=10, 0);
    let ended = start(&world, 1).wait();
    ended.assert_error(Code::PostgresDatabase, &["create the schema that postgres.schema names"]);
    run(&client, "CREATE SCHEMA stock").await;
    let consumer = start(&world, 2);
    wait_until_committed(&world);
    wait_for_count(world.get("POSTGRES_URL"), "SELECT count(*) FROM stock.product", 10);
    assert_eq!(consumer.stop().code, 0);
}
