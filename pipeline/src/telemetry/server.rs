//! `/metrics`, `/health` and `/ready` over HTTP.

use std::net::SocketAddr;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Health, Metrics};
use crate::error::{Error, Result};

/// Listens on `address` and answers until `shutdown`; returns the address, whose port the system chose when it was 0.
///
/// # Errors
/// Definite when the address is taken or not of this machine.
pub async fn serve(address: &str, metrics: Metrics, health: Health, shutdown: CancellationToken) -> Result<SocketAddr> {
    let failed = |e: std::io::Error| {
        Error::definite(format!("cannot listen on {address} (metrics.listen)"))
            .with_source(e)
            .with_remedy("name a free port of this machine, or port 0 to get one")
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let alive = health.clone();
    let router = Router::new()
        .route("/metrics", get(async move || ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.render())))
        .route("/health", get(async move || answer(&alive, alive.unhealthy())))
        .route("/ready", get(async move || answer(&health, health.unready())));
    tokio::spawn(async move {
        let served = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await;
        if let Err(error) = served {
            tracing::error!(%error, "metrics are not served any more");
        }
    });
    Ok(bound)
}

fn answer(health: &Health, reason: Option<String>) -> Response {
    let code = if reason.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::json!({
        "ok": reason.is_none(),
        "reason": reason,
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
        health.set_deadline(Duration::ZERO);
        let silent = ask(address, "/health");
        assert!(silent.starts_with("HTTP/1.1 503") && silent.contains("no progress for"), "{silent}");

        let taken = serve(&address.to_string(), Metrics::default(), health, shutdown.clone()).await;
        let error = taken.expect_err("it is taken");
        assert!(error.to_string().starts_with(&format!("cannot listen on {address} (metrics.listen): ")), "{error}");
        shutdown.cancel();
    }
}
