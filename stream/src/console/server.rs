//! The web server: the page, the stream of events, the questions.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use futures_util::Stream;
use futures_util::stream::unfold;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use model::error::{Class, Code, Error, Result};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::asking::{Answerer, Asked, Place};
use super::assets;
use super::guard::{self, Guard};
use super::hub::{Hub, Told, Watcher};
use super::replay;
use crate::pipeline::Pipeline;

/// Connections at a time; a browser has up to six.
const CONNECTIONS: usize = 256;
/// The time that the head of a request may take.
const HEAD: Duration = Duration::from_secs(10);
/// The pause after the system failed to accept a connection, e.g. for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What the handlers share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) hub: Arc<Hub>,
    pub(super) answerer: Arc<Answerer>,
    pub(super) guard: Arc<Guard>,
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) shutdown: CancellationToken,
}

/// An error as the page gets it.
struct Refused(Error);

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl From<QueryRejection> for Refused {
    fn from(rejection: QueryRejection) -> Self {
        Self::unreadable("the address", &rejection)
    }
}

impl From<JsonRejection> for Refused {
    fn from(rejection: JsonRejection) -> Self {
        Self::unreadable("the request", &rejection)
    }
}

impl Refused {
    /// For what no question can be made of; the cause names the parameter.
    fn unreadable(what: &str, rejection: &dyn std::error::Error) -> Self {
        let reason = rejection.source().map_or_else(|| rejection.to_string(), ToString::to_string);
        let error = Error::new(Code::CommandLine, format!("{what} can't be read: {reason}"));
        Self(error.with_remedy("correct it, or choose again on the page"))
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Self(error) = self;
        let status = match error.class() {
            Class::Usage => StatusCode::BAD_REQUEST,
            Class::Transient => StatusCode::SERVICE_UNAVAILABLE,
            Class::Definite => StatusCode::CONFLICT,
        };
        let body = json!({ "error": error.code().name(), "reason": error.to_string(), "what_to_do": error.remedy() });
        (status, Json(body)).into_response()
    }
}

type Answer = std::result::Result<Json<Value>, Refused>;
type Question<T> = std::result::Result<Query<T>, QueryRejection>;
type Request = std::result::Result<Json<replay::Wanted>, JsonRejection>;

/// Answers until shutdown.
pub(super) async fn serve(listener: TcpListener, shared: Shared) {
    let shutdown = shared.shutdown.clone();
    let router = router(shared);
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    shutdown.run_until_cancelled(accept(listener, router, room)).await;
}

fn router(shared: Shared) -> Router {
    let guard = Arc::clone(&shared.guard);
    Router::new()
        .route("/api/stream", get(stream))
        .route("/api/messages", get(messages))
        .route("/api/change", get(change))
        .route("/api/history", get(history))
        .route("/api/values", get(values))
        .route("/api/trace", get(trace))
        .route("/api/schema", get(schema))
        .route("/api/letters", get(letters))
        .route("/api/replay/plan", post(plan))
        .route("/api/replay", post(ask))
        .fallback(get(assets::file))
        .layer(middleware::from_fn_with_state(guard, guard::check))
        .with_state(shared)
}

async fn accept(listener: TcpListener, router: Router, room: Arc<Semaphore>) {
    loop {
        // Further browsers wait to be accepted.
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(answer(stream, router.clone(), permit))),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, router: Router, _permit: OwnedSemaphorePermit) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection of a browser ended");
    }
}

/// Tells a browser what happens until it leaves, is too slow, or the server ends.
async fn stream(State(shared): State<Shared>) -> Response {
    match shared.hub.join() {
        Some(watcher) => Sse::new(events(watcher, shared.shutdown)).keep_alive(KeepAlive::new()).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "too many browsers watch\n").into_response(),
    }
}

fn events(watcher: Watcher, shutdown: CancellationToken) -> impl Stream<Item = std::result::Result<Event, Infallible>> {
    unfold((watcher, shutdown), async |(mut watcher, shutdown)| {
        let told = match watcher.first.pop_front() {
            Some(told) => told,
            // A browser that is too far behind gets an error here, and connects again.
            None => shutdown.run_until_cancelled(watcher.next.recv()).await?.ok()?,
        };
        let Told { name, data } = told;
        Some((Ok(Event::default().event(name).data(&*data)), (watcher, shutdown)))
    })
}

async fn messages(State(shared): State<Shared>, place: Question<Place>) -> Answer {
    Ok(Json(shared.answerer.messages(&place?.0).await?))
}

async fn change(State(shared): State<Shared>, place: Question<Place>) -> Answer {
    Ok(Json(shared.answerer.change(&place?.0).await?))
}

async fn history(State(shared): State<Shared>, asked: Question<Asked>) -> Answer {
    Ok(Json(shared.answerer.history(&asked?.0).await?))
}

async fn values(State(shared): State<Shared>, asked: Question<Asked>) -> Answer {
    Ok(Json(shared.answerer.values(&asked?.0).await?))
}

async fn trace(State(shared): State<Shared>, asked: Question<Asked>) -> Answer {
    Ok(Json(shared.answerer.trace(&asked?.0).await?))
}

async fn schema(State(shared): State<Shared>, place: Question<Place>) -> Answer {
    Ok(Json(shared.answerer.schema(&place?.topic).await?))
}

async fn letters(State(shared): State<Shared>) -> Answer {
    Ok(Json(shared.answerer.letters().await?))
}

async fn plan(State(shared): State<Shared>, headers: HeaderMap, wanted: Request) -> Answer {
    shared.guard.allow(&headers)?;
    let Json(wanted) = wanted?;
    let plan = tokio::task::block_in_place(|| replay::plan(&shared.pipeline, &wanted))?;
    Ok(Json(json!(plan)))
}

async fn ask(State(shared): State<Shared>, headers: HeaderMap, wanted: Request) -> Answer {
    shared.guard.allow(&headers)?;
    let Json(wanted) = wanted?;
    let text = tokio::task::block_in_place(|| replay::ask(&shared.pipeline, &wanted))?;
    Ok(Json(json!({ "text": text })))
}

/// Binds the address.
///
/// # Errors
/// Definite when it is taken, or not of this machine.
pub(super) async fn bind(addresses: &[SocketAddr], text: &str) -> Result<(TcpListener, SocketAddr)> {
    let failed = |e: std::io::Error| {
        Error::new(Code::ListenAddress, format!("cannot listen on {text} (--listen)"))
            .with_source(e)
            .with_remedy("name a free port of this machine, or a range of ports, e.g. --listen 127.0.0.1:8080-8089")
    };
    let listener = TcpListener::bind(addresses).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}
