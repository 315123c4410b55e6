//! The schema registry (Confluent's REST API): register our schema, look others up by id.
//!
//! A registry without a rule accepts any schema, so the subject is given `BACKWARD` when neither it nor the registry has a
//! rule, and compatibility is asked for before anything is registered.

use std::time::Duration;

use reqwest::StatusCode;
use schema_registry_converter::async_impl::schema_registry::{SrSettings, is_compatible_schema, post_schema};
use schema_registry_converter::error::SRCError;
use schema_registry_converter::schema_registry_common::{SchemaType, SuppliedSchema};
use serde::Deserialize;

use crate::config::RegistrySettings;
use crate::error::{Error, Result, blames_certificate};
use crate::record::SCHEMA;

const TIMEOUT: Duration = Duration::from_secs(10);

/// A client of one registry.
#[derive(Debug)]
pub struct Registry {
    settings: RegistrySettings,
    converter: SrSettings,
    http: reqwest::Client,
}

#[derive(Deserialize)]
struct Compatibility {
    #[serde(alias = "compatibilityLevel")]
    compatibility: String,
}

impl Registry {
    /// Prepares the client; nothing is sent yet.
    ///
    /// # Errors
    /// Usage when the CA file can't be read.
    pub fn new(settings: RegistrySettings) -> Result<Self> {
        let broken = |e: String| Error::usage(format!("the registry's HTTP client can't be made: {e}"));
        let mut tls = native_tls::TlsConnector::builder();
        // To read the system's certificates takes 25 ms, so both clients share what was read.
        tls.disable_built_in_roots(settings.url.starts_with("http://"));
        if let Some(path) = &settings.ca_location {
            let unreadable = |e: String| Error::usage(format!("schema_registry.ca_location {}: {e}", path.display()));
            let pem = std::fs::read(path).map_err(|e| unreadable(e.to_string()))?;
            tls.add_root_certificate(native_tls::Certificate::from_pem(&pem).map_err(|e| unreadable(e.to_string()))?);
        }
        let tls = tls.build().map_err(|e| broken(e.to_string()))?;
        let builder = || reqwest::Client::builder().timeout(TIMEOUT).tls_backend_preconfigured(tls.clone());
        let mut converter = SrSettings::new_builder(settings.url.trim_end_matches('/').to_owned());
        converter.set_timeout(TIMEOUT);
        if let Some(user) = &settings.user {
            converter.set_basic_authorization(user, settings.secret.as_ref().map(|s| s.expose()));
        }
        let converter = converter.build_with(builder()).map_err(|e| broken(e.error))?;
        let http = builder().build().map_err(|e| broken(e.to_string()))?;
        Ok(Self { settings, converter, http })
    }

    /// Whether our schema could be registered; changes nothing. Says what was found.
    ///
    /// # Errors
    /// As [`Registry::register`].
    pub async fn check(&self) -> Result<String> {
        let subject = &self.settings.subject;
        if self.call(reqwest::Method::GET, &format!("subjects/{subject}/versions"), None).await?.is_none() {
            return Ok(format!("subject {subject} is to be created"));
        }
        self.require_compatible().await?;
        Ok(format!("subject {subject} is there, and our schema fits"))
    }

    async fn require_compatible(&self) -> Result<()> {
        let subject = &self.settings.subject;
        let schema = SuppliedSchema::new(None, SchemaType::Avro, SCHEMA.to_owned());
        let compatible = is_compatible_schema(&self.converter, subject.clone(), schema).await;
        if compatible.map_err(|e| self.refused("compare the schema with subject", &e))? {
            return Ok(());
        }
        Err(Error::definite(format!(
            "subject {subject} at {} holds a schema that ours is not compatible with",
            self.settings.url
        ))
        .with_remedy(format!(
            "compare schemas/product_value_avro_schema.json with GET {}/subjects/{subject}/versions/latest; \
             then delete that subject if nobody needs it, or use another one (schema_registry.subject)",
            self.settings.url
        )))
    }

    /// Registers our schema under the configured subject and returns its id; doing it again gives the same id.
    ///
    /// # Errors
    /// Transient when the registry can't be reached; definite when it holds an incompatible schema or refuses.
    pub async fn register(&self) -> Result<u32> {
        let subject = &self.settings.subject;
        let known = self.call(reqwest::Method::GET, &format!("subjects/{subject}/versions"), None).await?.is_some();
        if known {
            self.ensure_rule().await?;
            self.require_compatible().await?;
        }
        let registered = post_schema(
            &self.converter,
            subject.clone(),
            SuppliedSchema::new(None, SchemaType::Avro, SCHEMA.to_owned()),
        )
        .await;
        let id = registered.map_err(|e| self.refused("register the schema under subject", &e))?.id;
        if !known {
            self.ensure_rule().await?;
        }
        Ok(id)
    }

    /// The text of the schema with this id; `None` when the registry says that it has no such schema.
    ///
    /// # Errors
    /// Transient when the registry can't be reached; definite when it refuses, or what answers is no registry: a wrong path
    /// answers 404 as well, and must not make every schema unknown.
    pub async fn find_schema(&self, id: u32) -> Result<Option<String>> {
        let url = format!("{}/schemas/ids/{id}", self.settings.url.trim_end_matches('/'));
        let mut request = self.http.get(&url);
        if let Some(user) = &self.settings.user {
            request = request.basic_auth(user, self.settings.secret.as_ref().map(|s| s.expose()));
        }
        let failed = |e: reqwest::Error| self.unreachable(&innermost(&e));
        let answer = request.send().await.map_err(failed)?;
        let status = answer.status();
        let text = answer.text().await.map_err(failed)?;
        let field = |name| serde_json::from_str::<serde_json::Value>(&text).ok()?.get(name).cloned();
        match (status, field("schema"), field("error_code")) {
            (StatusCode::OK, Some(serde_json::Value::String(schema)), _) => Ok(Some(schema)),
            (StatusCode::NOT_FOUND, _, Some(_)) => Ok(None),
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, ..) => Err(self.denied(status)),
            (status, ..) if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(self.unreachable(&format!("it answers {status}")))
            }
            _ => Err(Error::definite(format!("{url} answers {status}, not as a schema registry does"))
                .with_remedy("check schema_registry.url (with its path, e.g. /apis/ccompat/v7 for Apicurio)")),
        }
    }

    /// Gives the subject the rule `BACKWARD` when no rule is in force for it.
    async fn ensure_rule(&self) -> Result<()> {
        let path = format!("config/{}", self.settings.subject);
        let own = self.call(reqwest::Method::GET, &path, None).await?;
        if own.is_some_and(|c| !matches!(c.as_str(), "" | "NONE")) {
            return Ok(());
        }
        let general = self.call(reqwest::Method::GET, "config", None).await?.unwrap_or_default();
        if matches!(general.as_str(), "" | "NONE" | "BACKWARD") {
            self.call(reqwest::Method::PUT, &path, Some(r#"{"compatibility":"BACKWARD"}"#)).await?;
        }
        Ok(())
    }

    /// A call that the converter has no function for: the compatibility level that the answer holds (empty when it holds
    /// none), or `None` for 404.
    async fn call(&self, method: reqwest::Method, path: &str, body: Option<&'static str>) -> Result<Option<String>> {
        let url = format!("{}/{path}", self.settings.url.trim_end_matches('/'));
        let mut request = self.http.request(method, &url);
        if let Some(body) = body {
            request = request.header("content-type", "application/vnd.schemaregistry.v1+json").body(body);
        }
        if let Some(user) = &self.settings.user {
            request = request.basic_auth(user, self.settings.secret.as_ref().map(|s| s.expose()));
        }
        let failed = |e: reqwest::Error| self.unreachable(&innermost(&e));
        let answer = request.send().await.map_err(failed)?;
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.denied(answer.status())),
            status if status.is_success() => {
                let text = answer.text().await.map_err(failed)?;
                Ok(Some(serde_json::from_str::<Compatibility>(&text).map(|c| c.compatibility).unwrap_or_default()))
            }
            status if status.is_server_error() => Err(self.unreachable(&format!("it answers {status} to {path}"))),
            status => Err(Error::definite(format!("the registry answers {status} to {url}"))),
        }
    }

    fn unreachable(&self, reason: &str) -> Error {
        if blames_certificate(reason) {
            return Error::definite(format!("the schema registry at {}: {reason}", self.settings.url)).with_remedy(
                "check schema_registry.ca_location against the CA of the registry's certificate, when this ends, and that it \
                 names the host of schema_registry.url",
            );
        }
        Error::transient(format!("cannot reach the schema registry at {}: {reason}", self.settings.url)).with_remedy(
            "check schema_registry.url (with its path, e.g. /apis/ccompat/v7 for Apicurio) and that the registry runs",
        )
    }

    fn denied(&self, status: StatusCode) -> Error {
        Error::definite(format!("the schema registry at {} answers {status}", self.settings.url))
            .with_remedy("check schema_registry.user and schema_registry.secret, and that they may use this subject")
    }

    fn refused(&self, what: &str, error: &SRCError) -> Error {
        let cause = error.cause.as_deref().unwrap_or("");
        let text = format!("{}: {cause}", error.error);
        if text.contains("401") || text.contains("403") {
            return self.denied(if text.contains("401") { StatusCode::UNAUTHORIZED } else { StatusCode::FORBIDDEN });
        }
        let message = format!("cannot {what} {} at {}: {text}", self.settings.subject, self.settings.url);
        if error.retriable || !text.contains("status") { Error::transient(message) } else { Error::definite(message) }
    }
}

/// The last cause of an error says what happened; the ones around it repeat the URL. Why a certificate does not hold is said
/// by the one before.
fn innermost(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source()).map(ToString::to_string);
    let causes: Vec<String> = causes.collect();
    let certificate = causes.iter().find(|text| blames_certificate(text));
    certificate.or(causes.last()).cloned().unwrap_or_default()
}
