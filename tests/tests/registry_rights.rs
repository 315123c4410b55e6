//! What the programs need at the schema registry: nothing is written that is in force, and a refusal names the call.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use model::error::Code;
use mysql_async::prelude::Queryable;
use serde_json::{Value, json};
use testbed::servers::Registry;
use testbed::{TestBed, eventually, read_topic};

const PATIENCE: Duration = Duration::from_secs(60);
const SCHEMA: &str = include_str!("../../schemas/product_value_avro_schema.json");

/// Calls that the door refuses: how method and path begin (`S` is the subject), and the answer.
type Refusals = Vec<(&'static str, u16, Value)>;

/// A door to the real registry that refuses some calls and notes all, as a user's rights would.
#[derive(Clone)]
struct Door {
    registry: String,
    subject: String,
    url: String,
    http: reqwest::Client,
    refusals: Arc<Mutex<Refusals>>,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Door {
    /// A door for the programs of this world.
    async fn of(world: &mut TestBed) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let door = Self {
            registry: world.get("SCHEMA_REGISTRY_URL").to_owned(),
            subject: format!("{}-value", world.name),
            url: url.clone(),
            http: reqwest::Client::new(),
            refusals: Arc::default(),
            calls: Arc::default(),
        };
        let router = Router::new().fallback(pass).with_state(door.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        world.set("SCHEMA_REGISTRY_URL", url);
        door
    }

    fn refuse(&self, refusals: Refusals) {
        *self.refusals.lock().unwrap() = refusals;
        self.calls.lock().unwrap().clear();
    }

    /// What wrote, or tried to, since the refusals were set.
    fn writes(&self) -> Vec<String> {
        let calls = self.calls.lock().unwrap().clone();
        calls.into_iter().filter(|call| call.starts_with("PUT ") || call == "POST /subjects/S/versions").collect()
    }

    /// A call at the registry itself: status and answer.
    async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let url = format!("{}/{}", self.registry, path.replace('S', &self.subject));
        let request = self.http.request(method.parse().unwrap(), url).body(body.to_string());
        let answer = request.header("content-type", "application/vnd.schemaregistry.v1+json").send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default())
    }

    async fn set_rule(&self, path: &str, level: &str) {
        assert_eq!(self.call("PUT", path, json!({ "compatibility": level })).await.0, 200);
    }

    async fn rule(&self) -> Value {
        self.call("GET", "config/S", Value::Null).await.1["compatibilityLevel"].clone()
    }

    async fn has_schema(&self) -> bool {
        self.call("POST", "subjects/S", json!({ "schema": SCHEMA })).await.0 == 200
    }
}

async fn pass(State(door): State<Door>, headers: HeaderMap, request: Request) -> Response {
    let path = request.uri().path_and_query().unwrap().to_string();
    let call = format!("{} {}", request.method(), path.replace(&door.subject, "S"));
    door.calls.lock().unwrap().push(call.clone());
    let refusals = door.refusals.lock().unwrap().clone();
    let refused = refusals.into_iter().find(|(begin, ..)| call.starts_with(begin));
    let (status, body) = match refused {
        Some((_, status, answer)) => (status, answer.to_string()),
        None => {
            let mut forward = door.http.request(request.method().clone(), format!("{}{path}", door.registry));
            if let Some(kind) = headers.get("content-type") {
                forward = forward.header("content-type", kind);
            }
            let body = to_bytes(request.into_body(), 1 << 20).await.unwrap();
            let answer = forward.body(body).send().await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        }
    };
    Response::builder()
        .status(StatusCode::from_u16(status).unwrap())
        .header("content-type", "application/json")
        .body(Body::from(body))
        .unwrap()
}

fn forbidden(call: &'static str) -> (&'static str, u16, Value) {
    (call, 403, json!({"error_code": 40301, "message": "User is denied operation"}))
}

async fn world(name: &str) -> (TestBed, Door) {
    world_at(name, None).await
}

async fn world_at(name: &str, registry: Option<String>) -> (TestBed, Door) {
    let mut world = TestBed::new(name);
    if let Some(url) = registry {
        world.set("SCHEMA_REGISTRY_URL", url);
    }
    let mut conn = world.table().await;
    conn.query_drop("INSERT INTO product VALUES (1,'a','b',1,NULL)").await.unwrap();
    let door = Door::of(&mut world).await;
    (world, door)
}

/// The producer works, and says these texts.
fn works(world: &TestBed, texts: &[&str]) {
    let before = read_topic(&world.kafka()).len();
    assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
    let producer = world.start("cdc-producer", &[]);
    eventually("the row is in the topic", PATIENCE, || (read_topic(&world.kafka()).len() > before).then_some(()));
    texts.iter().for_each(|text| assert!(producer.said().contains(text), "{text:?} in\n{}", producer.log_end()));
    assert!(!texts.is_empty() || !producer.said().contains("WARN"), "{}", producer.log_end());
    assert_eq!(producer.stop().code, 0);
}

fn stops(world: &TestBed, texts: &[&str]) {
    let ended = world.run("cdc-producer", &[]);
    assert_eq!(ended.code, 1, "{}", ended.err);
    texts.iter().for_each(|text| assert!(ended.err.contains(text), "{text:?} in\n{}", ended.err));
}

fn doctor(world: &TestBed, code: i32, texts: &[&str]) {
    let ended = world.run("cdc-producer", &["doctor"]);
    assert_eq!(ended.code, code, "{}", ended.out);
    texts.iter().for_each(|text| assert!(ended.out.contains(text), "{text:?} in\n{}", ended.out));
}

/// On a separate registry, as its rule counts for all subjects.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_is_in_force_is_not_written() {
    let folder = TestBed::new("own_registry").folder.join("registry");
    let registry = Registry::start(&folder, None, &|_| {}).unwrap();
    for (name, level) in [("rule_backward", "BACKWARD"), ("rule_full", "FULL"), ("rule_forward", "FORWARD")] {
        let (world, door) = world_at(name, Some(registry.url())).await;
        door.set_rule("config", level).await;
        door.refuse(vec![forbidden("PUT /config/")]);
        doctor(&world, 0, &[&format!("by POST subjects/{}/versions, and the rule {level} is in force", door.subject)]);
        works(&world, &[]);
        // Looked at by doctor, then by the producer; its second start finds all there.
        assert_eq!(door.writes(), ["POST /subjects/S/versions"], "{level}");
        door.refuse(vec![forbidden("PUT /"), forbidden("POST /subjects/S/versions")]);
        doctor(&world, 0, &["has our schema (id "]);
        works(&world, &[]);
        assert_eq!(door.writes(), [""; 0], "{level}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rule_stands_before_the_first_schema() {
    let (world, door) = world("rule_first").await;
    door.refuse(vec![forbidden("PUT /config/")]);
    let call = format!("answers 403 Forbidden to PUT {}/config/{}", door.url, door.subject);
    stops(&world, &[&call, "the right to this call, or do it once as one who has it"]);
    assert!(!door.has_schema().await, "nothing is registered without a rule");
    assert_eq!(door.writes(), ["PUT /config/S"]);
    // The remedy, one way: done once by one who may.
    door.set_rule("config/S", "BACKWARD").await;
    works(&world, &[]);
    // The other way, with another subject: the right is given.
    let (world, door) = self::world("rule_given").await;
    door.refuse(Vec::new());
    doctor(&world, 0, &[&format!("sets the rule BACKWARD before by PUT config/{}", door.subject)]);
    works(&world, &[]);
    assert_eq!(door.writes(), ["PUT /config/S", "POST /subjects/S/versions"]);
    assert_eq!(door.rule().await, "BACKWARD");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_may_only_read() {
    let (world, door) = world("read_only").await;
    let read_only = || vec![forbidden("PUT /"), forbidden("POST /subjects/S/versions")];
    door.set_rule("config/S", "BACKWARD").await;
    door.refuse(read_only());
    stops(&world, &[&format!("answers 403 Forbidden to POST {}/subjects/{}/versions", door.url, door.subject)]);
    // The remedy: registered by one who may.
    assert_eq!(door.call("POST", "subjects/S/versions", json!({ "schema": SCHEMA })).await.0, 200);
    works(&world, &[]);
    // A subject whose rule was taken away, or is NONE: known, so it works, and the producer logs it.
    door.set_rule("config/S", "NONE").await;
    let warning =
        format!("the subject has no compatibility rule: the schema registry answers 403 Forbidden to PUT {}", door.url);
    works(&world, &[&warning]);
    doctor(&world, 0, &["warn  registry", "but no rule is in force"]);
    door.refuse(Vec::new());
    works(&world, &[]);
    assert_eq!((door.rule().await, door.writes()), ("BACKWARD".into(), vec!["PUT /config/S".to_owned()]));
    // Nor may it see the rule.
    door.refuse([vec![forbidden("GET /config")], read_only()].concat());
    let hidden = format!("answers 403 Forbidden to GET {}/config/{}", door.url, door.subject);
    works(&world, &[&format!("the compatibility rule is unknown: the schema registry {hidden}")]);
    doctor(&world, 0, &["warn  registry", &hidden]);
    // Consumers and verify read schemas only.
    let _consumer = world.start("consumer", &[]);
    let _producer = world.start("cdc-producer", &[]);
    world.verify();
    door.refuse(vec![forbidden("GET /schemas/")]);
    let refused = world.run("verify", &["--wait", "60s"]);
    let call = format!("answers 403 Forbidden to GET {}/schemas/ids/", door.url);
    refused.assert_error(Code::RightMissing, &[&call]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_takes_no_writes() {
    let (world, door) = world("registry_readonly").await;
    door.set_rule("config/S", "BACKWARD").await;
    let read_only = |call| (call, 422, json!({"error_code": 42205, "message": "Subject S is in read-only mode"}));
    door.refuse(vec![read_only("PUT /"), read_only("POST /subjects/S/versions")]);
    let call = format!("answers 422 Unprocessable Entity to POST {}/subjects/{}/versions", door.url, door.subject);
    stops(&world, &[&format!("{call}: Subject S is in read-only mode"), "mode READONLY takes no new schema"]);
    assert_eq!(door.call("POST", "subjects/S/versions", json!({ "schema": SCHEMA })).await.0, 200);
    works(&world, &[]);
    doctor(&world, 0, &["has our schema (id "]);
    // What answers is no registry, or its URL lacks the path.
    door.refuse(vec![("", 404, json!({"title": "Not Found"}))]);
    let no_registry = "answers 404 Not Found, not as a schema registry does";
    stops(&world, &[no_registry, "check schema_registry.url (with its path"]);
    doctor(&world, 1, &["FAIL  registry", no_registry]);
}
