//! A TCP proxy between a program and a server, whose link can be cut, stalled, slowed down or left half open.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What a link does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// It carries everything.
    Open,
    /// Connections end at once, new ones too.
    Cut,
    /// Connections stay, and nothing goes through in either direction.
    Stalled,
    /// Each piece of at most 16 KiB waits for so long.
    Slow(Duration),
    /// What the client sends arrives, what the server answers does not.
    HalfOpen,
}

/// A proxy on a port of its own; it ends with its handle.
pub struct Proxy {
    port: u16,
    link: watch::Sender<Link>,
    upstream: Arc<Mutex<u16>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Proxy {
    /// Starts to listen on a free port of 127.0.0.1; what comes goes to the port `upstream`.
    pub fn start(upstream: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("threads");
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let (link, state) = watch::channel(Link::Open);
        let upstream = Arc::new(Mutex::new(upstream));
        let target = Arc::clone(&upstream);
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let port = *target.lock().unwrap_or_else(PoisonError::into_inner);
                tokio::spawn(serve(client, port, state.clone()));
            }
        });
        Self { port, link, upstream, runtime: Some(runtime) }
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes the link, of connections that are there as well.
    pub fn set(&self, link: Link) {
        self.link.send_replace(link);
    }

    /// New connections go to this port.
    pub fn redirect(&self, upstream: u16) {
        *self.upstream.lock().unwrap_or_else(PoisonError::into_inner) = upstream;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve(client: TcpStream, upstream: u16, mut link: watch::Receiver<Link>) {
    if *link.borrow_and_update() == Link::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], upstream))).await else { return };
    client.set_nodelay(true).and(server.set_nodelay(true)).unwrap_or_default();
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let requests = carry(client_read, server_write, link.clone(), |l| l == Link::Stalled);
    let answers = carry(server_read, client_write, link.clone(), |l| matches!(l, Link::Stalled | Link::HalfOpen));
    // A cut drops both halves of both connections.
    tokio::select! {
        _gone = link.wait_for(|l| *l == Link::Cut) => {}
        _ended = async { tokio::join!(requests, answers) } => {}
    }
}

/// Carries bytes in one direction; while the link `holds` them they wait.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut link: watch::Receiver<Link>,
    holds: impl Fn(Link) -> bool,
) {
    let mut piece = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        if link.wait_for(|l| !holds(*l)).await.is_err() {
            return;
        }
        let now = *link.borrow();
        if let Link::Slow(pause) = now {
            tokio::time::sleep(pause).await;
        }
        if to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
}
