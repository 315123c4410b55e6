//! `/metrics`, `/health` and `/ready` over HTTP, for any client that reaches the port.
//!
//! Invariant: clients hold at most [`CONNECTIONS`] connections, each for at most [`TIME`]. While all are taken, a new
//! connection closes the oldest one: an answer takes milliseconds, so the oldest one belongs to a slow client.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::health::Health;
use super::metrics::Metrics;
use crate::config;
use model::error::{Code, Error, Result};

/// Connections at a time.
const CONNECTIONS: usize = 64;
/// Time limit from the connection to the last byte of its one answer.
const TIME: Duration = Duration::from_secs(10);
/// Maximum bytes of a request's line and headers; hyper answers 431 to a longer request, and accepts no smaller limit.
const REQUEST_BYTES: usize = 8192;
/// The pause after the system failed to accept a connection, e.g. for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Listens on `address`, which is `IP:PORT` or `IP:PORT-PORT`, and answers until `shutdown`. Returns the bound address:
/// the first free one of a range, or the port that the system chose for port 0.
///
/// # Errors
/// Definite when no address is free, or the IP is not of this machine.
pub async fn serve(address: &str, metrics: Metrics, health: Health, shutdown: CancellationToken) -> Result<SocketAddr> {
    let failed = |e: std::io::Error| {
        Error::new(Code::ListenAddress, format!("cannot listen on {address} (metrics.listen)"))
            .with_source(e)
            .with_remedy("name free ports of this machine: a range has one for each program, e.g. 127.0.0.1:9100-9109")
    };
    // `bind` tries the addresses in order.
    let addresses: Vec<SocketAddr> = config::listen_addresses(address).into_iter().flatten().collect();
    let listener = TcpListener::bind(&addresses[..]).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let alive = health.clone();
    let router = Router::new()
        .route("/metrics", get(async move || ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.render())))
        .route("/health", get(async move || answer(&alive, alive.unhealthy())))
        .route("/ready", get(async move || answer(&health, health.unready())));
    tokio::spawn(shutdown.run_until_cancelled_owned(accept(listener, router)));
    Ok(bound)
}

async fn accept(listener: TcpListener, router: Router) {
    let mut open: VecDeque<JoinHandle<()>> = VecDeque::with_capacity(CONNECTIONS);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                open.retain(|connection| !connection.is_finished());
                if open.len() == CONNECTIONS
                    && let Some(oldest) = open.pop_front()
                {
                    oldest.abort();
                    // Its descriptor is free only when the task has ended.
                    drop(oldest.await);
                }
                open.push_back(tokio::spawn(answer_one(stream, router.clone())));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection for metrics");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers the first request of a connection and closes it.
async fn answer_one(stream: TcpStream, router: Router) {
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(REQUEST_BYTES)
        // A separate time limit covers the whole connection.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Ok(Err(error)) = tokio::time::timeout(TIME, connection).await {
        tracing::debug!(%error, "a request for metrics failed");
    }
}

fn answer(health: &Health, reason: Option<String>) -> Response {
    let code = if reason.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::json!({
        "ok": reason.is_none(),
        "reason": reason,
        "warning": health.warning(),
        "slot": health.slot(),
        "seconds_since_progress": health.silent_for().as_secs(),
    });
    (code, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::time::Duration;

    use super::*;

    fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = std::net::TcpStream::connect(address).expect("it listens");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("it reads");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("it answers");
        text
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_answers_from_the_state() {
        let (metrics, health) = (Metrics::default(), Health::new(Duration::from_secs(3600)));
        metrics.counter("rows_total", "Rows.", &[]).add(7);
        let shutdown = CancellationToken::new();
        let address = serve("127.0.0.1:0", metrics, health.clone(), shutdown.clone()).await.expect("a free port");
        assert!(ask(address, "/metrics").contains("\nrows_total 7\n"));
        assert!(ask(address, "/health").starts_with("HTTP/1.1 200"));
        let starting = ask(address, "/ready");
        assert!(starting.starts_with("HTTP/1.1 503") && starting.contains(r#""reason":"starting""#), "{starting}");
        health.ready();
        assert!(ask(address, "/ready").starts_with("HTTP/1.1 200"));
        health.warn(Some("look here".to_owned()));
        let warned = ask(address, "/ready");
        assert!(warned.starts_with("HTTP/1.1 200") && warned.contains(r#""warning":"look here""#), "{warned}");
        health.show_slot("consumer_2".to_owned());
        assert!(ask(address, "/ready").contains(r#""slot":"consumer_2""#));
        health.set_deadline(Duration::ZERO);
        let silent = ask(address, "/health");
        assert!(silent.starts_with("HTTP/1.1 503") && silent.contains("no progress for"), "{silent}");

        let taken = serve(&address.to_string(), Metrics::default(), health, shutdown.clone()).await;
        let error = taken.expect_err("it is taken");
        assert!(error.to_string().starts_with(&format!("cannot listen on {address} (metrics.listen): ")), "{error}");
        // Several programs may share the setting.
        let port = address.port();
        let range = format!("127.0.0.1:{port}-{}", port.saturating_add(200));
        let (metrics, health) = (Metrics::default(), Health::new(Duration::from_secs(3600)));
        let next = serve(&range, metrics, health, shutdown.clone()).await.expect("a free port");
        assert!(next.port() > port && ask(next, "/health").starts_with("HTTP/1.1 200"));
        shutdown.cancel();
    }

    async fn bare() -> (SocketAddr, CancellationToken) {
        let (health, shutdown) = (Health::new(Duration::from_secs(3600)), CancellationToken::new());
        let address = serve("127.0.0.1:0", Metrics::default(), health, shutdown.clone()).await.expect("a free port");
        (address, shutdown)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn half_open_requests_keep_nobody_out() {
        let (address, shutdown) = bare().await;
        let half_open = |_| {
            let mut stream = std::net::TcpStream::connect(address).expect("it listens");
            stream.write_all(b"GET /health HTTP/1.1\r\nX-Slow: ").expect("it reads");
            stream
        };
        let mut half_open: Vec<_> = (0..3 * CONNECTIONS).map(half_open).collect();
        assert!(ask(address, "/health").starts_with("HTTP/1.1 200"));
        // The server closed the oldest connections to accept this one.
        let first = half_open[0].read(&mut [0]);
        assert!(matches!(first, Ok(0)) || first.is_err(), "{first:?}");
        shutdown.cancel();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_request_above_the_limit_is_refused() {
        let (address, shutdown) = bare().await;
        let long_path = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(2 * REQUEST_BYTES));
        let many_headers = format!("GET /health HTTP/1.1\r\n{}\r\n", "X-A: b\r\n".repeat(1_000));
        for request in [long_path, many_headers] {
            let mut stream = std::net::TcpStream::connect(address).expect("it listens");
            let mut answer = Vec::new();
            // Closing with unread bytes resets the connection, perhaps before the client reads the answer.
            drop(stream.write_all(request.as_bytes()));
            drop(stream.read_to_end(&mut answer));
            let answer = String::from_utf8_lossy(&answer);
            assert!(
                answer.is_empty() || answer.starts_with("HTTP/1.1 431") || answer.starts_with("HTTP/1.1 414"),
                "{answer}"
            );
        }
        shutdown.cancel();
    }
}
