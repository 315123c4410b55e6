//! The schema registry (Confluent's REST API): register our schema, look others up by id.
//!
//! Existing entries are never rewritten: a schema that the subject has is only looked up, and an existing rule other
//! than `NONE`, the subject's own or the registry's, stays. Without such a rule the registry accepts any schema, so the
//! subject then gets `BACKWARD` before our schema is registered.

use std::time::Duration;

use reqwest::header::{HeaderValue, LOCATION};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use model::error::{Code, Error, Result, blames_certificate};
use runtime::config::RegistrySettings;

use crate::evolution::{self, Incompatible, Version};
use crate::schema;

/// Timeout from a request to the last byte of its answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum bytes of an answer: several times the largest schema that [`crate::Decoder`] takes.
const LARGEST_ANSWER: usize = 1 << 20;
/// The status that represents an answer above the limit.
const TOO_LARGE: StatusCode = StatusCode::PAYLOAD_TOO_LARGE;
const RULE: &str = "BACKWARD";
const URL_REMEDY: &str = "check schema_registry.url (with its path, e.g. /apis/ccompat/v7 for Apicurio)";

/// A client of one registry.
#[derive(Debug)]
pub struct Registry {
    settings: RegistrySettings,
    http: reqwest::Client,
}

/// The result of [`Registry::check`] or [`Registry::check_reading`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// As far as can be checked, a start will succeed.
    Good(String),
    /// A start will succeed, but the subject may be missing or without a rule: the finding, and the remedy.
    Unprotected(String, String),
}

/// The compatibility rule that the registry applies to the subject.
enum Rule {
    InForce(String),
    Missing,
    /// This user may not see it.
    Hidden(Error),
}

/// A failed call.
struct CallError {
    /// The registry's, or [`TOO_LARGE`].
    status: Option<StatusCode>,
    error: Error,
}

impl From<CallError> for Error {
    fn from(failed: CallError) -> Self {
        failed.error
    }
}

impl CallError {
    fn is_forbidden(&self) -> bool {
        self.status == Some(StatusCode::FORBIDDEN)
    }
}

impl Registry {
    /// Prepares the client; nothing is sent yet.
    ///
    /// # Errors
    /// Usage when the CA file can't be read.
    pub fn new(settings: RegistrySettings) -> Result<Self> {
        let broken = |e: String| Error::usage(format!("the registry's HTTP client can't be made: {e}"));
        let mut tls = native_tls::TlsConnector::builder();
        tls.disable_built_in_roots(settings.url.starts_with("http://"));
        if let Some(path) = &settings.ca_location {
            let unreadable = |e: String| Error::usage(format!("schema_registry.ca_location {}: {e}", path.display()));
            let pem = std::fs::read(path).map_err(|e| unreadable(e.to_string()))?;
            tls.add_root_certificate(native_tls::Certificate::from_pem(&pem).map_err(|e| unreadable(e.to_string()))?);
        }
        let tls = tls.build().map_err(|e| broken(e.to_string()))?;
        let http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            // An answer is never larger than the bytes from the network.
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .tls_backend_preconfigured(tls);
        let http = http.build().map_err(|e| broken(e.to_string()))?;
        Ok(Self { settings, http })
    }

    /// Checks what a start with this schema will find and write, without writing.
    ///
    /// # Errors
    /// As [`Registry::register`], as far as it can be seen without writing.
    pub async fn check(&self, schema: &str) -> Result<Found> {
        let subject = &self.settings.subject;
        let (id, rule) = (self.look_up(schema).await?, self.rule().await?);
        if id.is_none() {
            self.require_compatible(schema).await?;
        }
        let known = match id {
            Some(id) => format!("subject {subject} has our schema (id {id})"),
            None => format!("the start registers our schema by POST subjects/{subject}/versions"),
        };
        Ok(match (rule, id) {
            (Rule::InForce(rule), _) => Found::Good(format!("{known}, and the rule {rule} is in force")),
            (Rule::Missing, None) => {
                Found::Good(format!("{known}, and sets the rule {RULE} before by PUT config/{subject}"))
            }
            (Rule::Missing, Some(_)) => Found::Unprotected(
                format!("{known}, but no rule is in force"),
                format!("the start sets the rule {RULE} by PUT config/{subject} if its user may do that"),
            ),
            (Rule::Hidden(error), _) => {
                Found::Unprotected(format!("{known}; {error}"), error.remedy().unwrap_or_default().to_owned())
            }
        })
    }

    /// The id of our schema, if [`Registry::register`] has nothing to write.
    ///
    /// # Errors
    /// As [`Registry::has_subject`].
    pub async fn registered(&self, schema: &str) -> Result<Option<u32>> {
        let known = self.look_up(schema).await?;
        Ok(if known.is_some() && matches!(self.rule().await?, Rule::InForce(_)) { known } else { None })
    }

    /// Registers the schema, a JSON text, under the configured subject, if needed, and returns its id; a repeated call gives the same
    /// id.
    ///
    /// # Errors
    /// Transient when the registry can't be reached; definite when it holds an incompatible schema or refuses.
    pub async fn register(&self, schema: &str) -> Result<u32> {
        let subject = &self.settings.subject;
        let known = self.look_up(schema).await?;
        let set_rule = match self.rule().await? {
            Rule::InForce(_) => false,
            Rule::Missing => true,
            Rule::Hidden(error) => {
                tracing::warn!(subject, what_to_do = error.remedy(), "the compatibility rule is unknown: {error}");
                false
            }
        };
        if let Some(id) = known {
            match if set_rule { self.set_rule().await } else { Ok(None) } {
                Ok(_) => return Ok(id),
                Err(denied) if denied.is_forbidden() => {
                    let error = denied.error;
                    tracing::warn!(
                        subject,
                        what_to_do = error.remedy(),
                        "the subject has no compatibility rule: {error}"
                    );
                    return Ok(id);
                }
                Err(failed) => return Err(failed.error),
            }
        }
        // Some registries report no rule for a subject that does not exist yet.
        let is_late = set_rule && self.set_rule().await?.is_none();
        self.require_compatible(schema).await?;
        let path = format!("subjects/{subject}/versions");
        let answer = self.call(Method::POST, &path, Some(json!({ "schema": schema }))).await?;
        if is_late {
            self.set_rule().await?;
        }
        id_of(answer.as_ref()).ok_or_else(|| self.no_registry(&path, "no id"))
    }

    /// The id of our schema if the subject has it.
    async fn look_up(&self, schema: &str) -> Result<Option<u32>> {
        let path = format!("subjects/{}", self.settings.subject);
        match self.call(Method::POST, &path, Some(json!({ "schema": schema }))).await? {
            None => Ok(None),
            answer => id_of(answer.as_ref()).map(Some).ok_or_else(|| self.no_registry(&path, "no id")),
        }
    }

    /// [`Self::versions`]; empty if the subject has this schema, so that nothing needs to be compared.
    ///
    /// # Errors
    /// As [`Registry::has_subject`].
    pub async fn earlier(&self, schema: &str) -> Result<Vec<Version>> {
        if self.look_up(schema).await?.is_some() { Ok(Vec::new()) } else { self.versions().await }
    }

    /// The subject's versions, the first one first. A schema that is no table's is left out.
    ///
    /// # Errors
    /// As [`Registry::has_subject`].
    pub async fn versions(&self) -> Result<Vec<Version>> {
        let path = format!("subjects/{}/versions", self.settings.subject);
        let Some(numbers) = self.call(Method::GET, &path, None).await? else { return Ok(Vec::new()) };
        let mut versions = Vec::new();
        for number in numbers.as_array().into_iter().flatten().filter_map(Value::as_u64) {
            let found = self.call(Method::GET, &format!("{path}/{number}"), None).await?;
            let text = found.as_ref().and_then(|found| found.get("schema")).and_then(Value::as_str);
            if let Some((text, Ok(schema))) = text.map(|text| (text.to_owned(), schema::parse(text))) {
                versions.push(Version { number, schema, text });
            }
        }
        Ok(versions)
    }

    /// Compares a schema that the subject does not have with its versions, first by our own rules, then by the
    /// registry's.
    async fn require_compatible(&self, schema: &str) -> Result<()> {
        let (subject, url) = (&self.settings.subject, &self.settings.url);
        let new = schema::parse(schema).map_err(|reason| Error::definite(format!("the schema: {reason}")))?;
        evolution::check(&self.versions().await?, &new).map_err(|found| may_not_follow(subject, found))?;
        let path = format!("compatibility/subjects/{subject}/versions/latest");
        let answer = self.call(Method::POST, &path, Some(json!({ "schema": schema }))).await?;
        // A new subject has no schema to be compatible with.
        if answer.is_none_or(|answer| answer["is_compatible"] != Value::Bool(false)) {
            return Ok(());
        }
        Err(Error::new(
            Code::SchemaRefused,
            format!("subject {subject} at {url} holds a schema that ours is not compatible with"),
        )
        .with_remedy(format!(
            "compare the table with GET {url}/subjects/{subject}/versions/latest, and look at the rule, GET \
             {url}/config/{subject}: BACKWARD takes columns that come, go or get wider; then delete that subject if nobody \
             needs it, or use another one (schema_registry.subject)"
        )))
    }

    /// The rule in force: the subject's own, else the registry's.
    async fn rule(&self) -> Result<Rule> {
        // Apicurio answers NONE for a subject without its own rule, unless the request asks for the effective one.
        let paths = [format!("config/{}?defaultToGlobal=true", self.settings.subject), "config".to_owned()];
        for path in paths {
            match self.call(Method::GET, &path, None).await {
                Ok(None) => {}
                Ok(Some(answer)) => {
                    let level = answer.get("compatibilityLevel").or_else(|| answer.get("compatibility"));
                    return Ok(match level.and_then(Value::as_str) {
                        None | Some("" | "NONE") => Rule::Missing,
                        Some(level) => Rule::InForce(level.to_owned()),
                    });
                }
                Err(denied) if denied.is_forbidden() => return Ok(Rule::Hidden(denied.error)),
                Err(failed) => return Err(failed.error),
            }
        }
        Ok(Rule::Missing)
    }

    /// Gives the subject our rule; `None` when the registry does not know the subject.
    async fn set_rule(&self) -> Result<Option<Value>, CallError> {
        let path = format!("config/{}", self.settings.subject);
        self.call(Method::PUT, &path, Some(json!({ "compatibility": RULE }))).await
    }

    /// The text of the schema with this id, or the reason for a person why it was not read; `None` when the registry
    /// has no such schema.
    ///
    /// # Errors
    /// Transient when the registry can't be reached; definite when it refuses, or when the server is not a registry: a
    /// wrong path also answers 404, which must not make every schema unknown.
    pub async fn find_schema(&self, id: u32) -> Result<Option<Result<String, String>>> {
        let path = format!("schemas/ids/{id}");
        match self.call(Method::GET, &path, None).await {
            Ok(None) => Ok(None),
            Ok(Some(answer)) => match answer.get("schema").and_then(Value::as_str) {
                Some(schema) => Ok(Some(Ok(schema.to_owned()))),
                None => Err(self.no_registry(&path, "no schema")),
            },
            Err(failed) if failed.status == Some(TOO_LARGE) => Ok(Some(Err(failed.error.to_string()))),
            Err(failed) => Err(failed.error),
        }
    }

    /// The JSON of the registry's answer; `None` when the registry does not have the object of this path.
    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Option<Value>, CallError> {
        let url = format!("{}/{path}", self.settings.url.trim_end_matches('/'));
        let mut request = self.http.request(method.clone(), &url);
        if let Some(body) = body {
            request = request.header("content-type", "application/vnd.schemaregistry.v1+json").body(body.to_string());
        }
        if let Some(user) = &self.settings.user {
            request = request.basic_auth(user, self.settings.secret.as_ref().map(|s| s.expose()));
        }
        let failed = |e: reqwest::Error| CallError { status: None, error: self.unreachable(&innermost(&e)) };
        let mut answer = request.send().await.map_err(failed)?;
        let status = answer.status();
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(failed)? {
            if body.len() + part.len() > LARGEST_ANSWER {
                return Err(CallError { status: Some(TOO_LARGE), error: too_large(&method, &url) });
            }
            body.extend_from_slice(&part);
        }
        let json: Option<Value> = serde_json::from_slice(&body).ok();
        let has_code = json.as_ref().is_some_and(|json| json.get("error_code").is_some());
        let error = match status {
            _ if status.is_success() && json.is_some() => return Ok(json),
            StatusCode::NOT_FOUND if has_code => return Ok(None),
            _ if status.is_redirection() => redirected(&method, &url, status, answer.headers().get(LOCATION)),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.denied(&method, &url, status),
            _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                self.unreachable(&format!("it answers {status} to {method} {path}"))
            }
            _ if has_code => self.refused(&method, &url, status, json.unwrap_or_default()),
            _ => self.no_registry(path, &status.to_string()),
        };
        Err(CallError { status: Some(status), error })
    }

    /// Whether the registry has the configured subject. The producer registers it before its first record, so a
    /// registry without it has lost its schemas, or is another one.
    ///
    /// # Errors
    /// Transient when the registry can't be reached; definite when it refuses.
    pub async fn has_subject(&self) -> Result<bool> {
        let path = format!("subjects/{}/versions", self.settings.subject);
        Ok(self.call(Method::GET, &path, None).await?.is_some())
    }

    /// The text of the subject's latest schema; `None` when the registry does not have the subject.
    ///
    /// # Errors
    /// As [`Registry::has_subject`].
    pub async fn latest(&self) -> Result<Option<String>> {
        let path = format!("subjects/{}/versions/latest", self.settings.subject);
        let Some(answer) = self.call(Method::GET, &path, None).await? else { return Ok(None) };
        let schema = answer.get("schema").and_then(Value::as_str);
        schema.map(|schema| Some(schema.to_owned())).ok_or_else(|| self.no_registry(&path, "no schema"))
    }

    /// Checks what a start of a program that only reads will find.
    ///
    /// # Errors
    /// Transient when the registry can't be reached; definite when it refuses, or when the server is not a registry.
    pub async fn check_reading(&self) -> Result<Found> {
        // Even if no schema has this number, the answer shows that this user may read schemas.
        self.find_schema(1).await?;
        let subject = &self.settings.subject;
        match self.call(Method::GET, &format!("subjects/{subject}/versions"), None).await {
            Ok(Some(_)) => Ok(Found::Good(format!("schemas can be read, and subject {subject} is there"))),
            Ok(None) => Ok(Found::Unprotected(
                format!(
                    "it has no subject {subject}: the producer was never started, or the registry has lost its schemas"
                ),
                "start or restart the producer, which registers its schema".to_owned(),
            )),
            Err(denied) if denied.is_forbidden() => {
                let error = denied.error;
                Ok(Found::Unprotected(
                    format!("schemas can be read; {error}"),
                    error.remedy().unwrap_or_default().to_owned(),
                ))
            }
            Err(failed) => Err(failed.error),
        }
    }

    /// Whether this id is a schema of the configured subject.
    ///
    /// # Errors
    /// As [`Registry::has_subject`].
    pub async fn subject_has(&self, id: u32) -> Result<bool> {
        let answer = self.call(Method::GET, &format!("schemas/ids/{id}/versions"), None).await?;
        let versions = answer.as_ref().and_then(Value::as_array);
        Ok(versions.is_some_and(|all| all.iter().any(|v| v["subject"] == *self.settings.subject)))
    }

    /// The error for records whose schema id is not that of our schema, while the registry does not have the subject.
    pub fn has_lost(&self, id: u32) -> Error {
        let RegistrySettings { url, subject, .. } = &self.settings;
        Error::new(Code::SchemaMissing, format!(
            "the schema registry at {url} does not have subject {subject}, whose schema {id} records were written with: it has \
             lost its schemas, or is another one"
        ))
        .with_remedy(
            "restart the producer, which registers its schema, or restore the registry's data, or correct schema_registry.url; \
             the consumers wait",
        )
    }

    /// The registry has lost a schema, and the subject has no other one with its fields.
    pub fn has_lost_fields(&self, id: u32) -> Error {
        let RegistrySettings { url, subject, .. } = &self.settings;
        Error::new(Code::SchemaMissing, format!(
            "the schema registry at {url} has lost schema {id}, with which the producer wrote records, and subject {subject} has \
             no schema with the same fields"
        ))
        .with_remedy("restore the registry's data, or register that schema for the subject again; the consumers wait")
    }

    /// The registry has lost the topic's schemas, as the producer registers one before its first record.
    pub fn has_no_subject(&self) -> Error {
        let RegistrySettings { url, subject, .. } = &self.settings;
        let text = format!("the schema registry at {url} does not have subject {subject}");
        Error::new(Code::SchemaMissing, text).with_remedy(
            "restart the producer, which registers its schema, or restore the registry's data, or correct schema_registry.url; \
             the consumers wait",
        )
    }

    fn no_registry(&self, path: &str, answer: &str) -> Error {
        let url = self.settings.url.trim_end_matches('/');
        Error::new(Code::NoRegistry, format!("{url}/{path} answers {answer}, not as a schema registry does"))
            .with_remedy(URL_REMEDY)
    }

    fn unreachable(&self, reason: &str) -> Error {
        if blames_certificate(reason) {
            let text = format!("the schema registry at {}: {reason}", self.settings.url);
            return Error::new(Code::CertificateRefused, text).with_remedy(
                "check schema_registry.ca_location against the CA of the registry's certificate, when this ends, and that it \
                 names the host of schema_registry.url",
            );
        }
        Error::new(
            Code::ServerUnreachable,
            format!("cannot reach the schema registry at {}: {reason}", self.settings.url),
        )
        .with_remedy(format!("{URL_REMEDY} and that the registry runs"))
    }

    fn denied(&self, method: &Method, url: &str, status: StatusCode) -> Error {
        let text = format!("the schema registry answers {status} to {method} {url}");
        if status == StatusCode::UNAUTHORIZED {
            return Error::new(Code::LoginRefused, text)
                .with_remedy("check schema_registry.user and schema_registry.secret");
        }
        let user = self.settings.user.as_deref().unwrap_or("nobody");
        let subject = &self.settings.subject;
        Error::new(Code::RightMissing, text).with_remedy(format!(
            "give the user {user} (schema_registry.user) the right to this call, or do it once as one who has it: a program \
             writes neither a schema that subject {subject} has, nor a rule where one is in force"
        ))
    }

    fn refused(&self, method: &Method, url: &str, status: StatusCode, answer: Value) -> Error {
        let reason = answer["message"].as_str().unwrap_or("no reason");
        let text = format!("the schema registry answers {status} to {method} {url}: {reason}");
        Error::new(Code::SchemaRefused, text).with_remedy(format!(
            "correct that at the registry (a registry in mode READONLY takes no new schema); nothing is written when subject \
             {} has schemas/product_value_avro_schema.json already",
            self.settings.subject
        ))
    }
}

/// The refusal by our own comparison.
fn may_not_follow(subject: &str, found: Incompatible) -> Error {
    let (code, reason, former) = match found {
        Incompatible::Key(reason) => (Code::KeyChanged, reason, "give the table its former primary key again"),
        Incompatible::Other(reason) => (
            Code::SchemaRefused,
            reason,
            "give the column its former type again (ALTER TABLE), and add one of the new type under another name if needed",
        ),
    };
    Error::new(code, format!("subject {subject}: {reason}")).with_remedy(format!(
        "{former}; then `cdc-producer snapshot` of the table, start. Or, if the subject has the schemas of something else, \
         set schema_registry.subject to another one"
    ))
}

fn too_large(method: &Method, url: &str) -> Error {
    Error::transient(format!(
        "the schema registry answers {method} {url} with more than {LARGEST_ANSWER} bytes, which is a fixed limit"
    ))
    .with_remedy(format!("{URL_REMEDY}, and look at what answers there"))
}

fn redirected(method: &Method, url: &str, status: StatusCode, to: Option<&HeaderValue>) -> Error {
    let to = to.map_or_else(|| "nowhere".into(), |to| String::from_utf8_lossy(to.as_bytes()));
    Error::new(
        Code::NoRegistry,
        format!(
            "the schema registry answers {status} to {method} {url}, a redirect to {to}, and redirects are not followed"
        ),
    )
    .with_remedy("set schema_registry.url to the address at which the registry itself answers")
}

fn id_of(answer: Option<&Value>) -> Option<u32> {
    answer?.get("id")?.as_u64()?.try_into().ok()
}

/// The innermost cause of an error has the reason; the outer ones repeat the URL. The reason why a certificate is
/// invalid is in the cause before the last.
fn innermost(error: &dyn std::error::Error) -> String {
    let causes: Vec<String> = std::iter::successors(Some(error), |e| e.source()).map(ToString::to_string).collect();
    causes.iter().find(|text| blames_certificate(text)).or(causes.last()).cloned().unwrap_or_default()
}
