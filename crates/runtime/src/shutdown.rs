//! Ordered shutdown: SIGINT and SIGTERM cancel one token.
//!
//! The first signal cancels the token, and the program ends in order. The second one ends it at once (exit code 130).
//! Not here: the steps of an ordered end; each program finishes the work that it has begun.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use model::error::{Error, Result};

/// Exit code after the second signal: 128 + SIGINT, as in shells.
const IMPATIENT: i32 = 130;

/// A token that the first SIGINT or SIGTERM cancels. The listening task lives as long as the runtime.
///
/// # Errors
/// Definite when the handlers can't be installed.
pub fn on_signal() -> Result<CancellationToken> {
    let listen = |kind| signal(kind).map_err(|e| Error::definite("cannot listen for signals").with_source(e));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let token = CancellationToken::new();
    let shutdown = token.clone();
    tokio::spawn(async move {
        let name = either(&mut interrupt, &mut terminate).await;
        tracing::info!(signal = name, "stopping; a second signal ends at once");
        shutdown.cancel();
        either(&mut interrupt, &mut terminate).await;
        tracing::warn!("second signal, ended at once");
        std::process::exit(IMPATIENT);
    });
    Ok(token)
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) -> &'static str {
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}
