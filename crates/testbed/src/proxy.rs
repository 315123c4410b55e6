//! A TCP proxy between a program and a server; its link can be cut, stalled, slowed down or half open.
//!
//! As with TCP, bytes arrive completely and in order or not at all: a connection that lost bytes never carries any
//! again. Not here: loss and duplication of packets, which TCP hides from both ends.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// The size of a piece, and the number of pieces that may be on their way.
const PIECE: usize = 16 * 1024;
const ON_THE_WAY: usize = 64;

/// The behaviour of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Carries everything.
    Open,
    /// Resets connections, including new ones.
    Cut,
    /// Resets each connection after one of its directions has carried so many more bytes: in the middle of a message.
    CutAfter(u64),
    /// Keeps connections open and carries nothing in either direction, not even their end; new ones hang. No byte is
    /// lost.
    Stalled,
    /// Carries everything, but late.
    Slow {
        /// The delay,
        latency: Duration,
        /// and the bandwidth in each direction of each connection.
        bytes_per_second: u32,
    },
    /// Loses all bytes in this direction, and ends of connections too: the other side has vanished silently.
    HalfOpen(Direction),
}

/// A direction of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Requests,
    /// From the server to the client.
    Answers,
    /// Both.
    Both,
}

/// A proxy on a separate port; it ends when its handle is dropped.
pub struct Proxy {
    port: u16,
    link: watch::Sender<Link>,
    shared: Arc<Shared>,
    runtime: Option<tokio::runtime::Runtime>,
}

struct Shared {
    /// New connections use these ports in turn.
    upstreams: Mutex<Vec<u16>>,
    accepted: AtomicU64,
    answered: AtomicU64,
    burial: Notify,
}

impl Shared {
    fn next_upstream(&self) -> u16 {
        let mut upstreams = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner);
        upstreams.rotate_left(1);
        upstreams[0]
    }
}

impl Proxy {
    /// Starts to listen on a free port of 127.0.0.1, and forwards connections to the port `upstream`.
    pub fn start(upstream: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("threads");
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let (link, state) = watch::channel(Link::Open);
        let shared = Arc::new(Shared {
            upstreams: Mutex::new(vec![upstream]),
            accepted: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            burial: Notify::new(),
        });
        let ours = Arc::clone(&shared);
        runtime.spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((client, _)) => {
                        ours.accepted.fetch_add(1, Ordering::Relaxed);
                        tokio::spawn(serve(client, Arc::clone(&ours), state.clone()));
                    }
                    // The client has gone already, or this process has too many open files at present.
                    Err(_) => sleep(Duration::from_millis(10)).await,
                }
            }
        });
        Self { port, link, shared, runtime: Some(runtime) }
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes the link, also for existing connections.
    pub fn set(&self, link: Link) {
        self.link.send_replace(link);
    }

    /// Forwards new connections to this port.
    pub fn redirect(&self, upstream: u16) {
        self.balance(&[upstream]);
    }

    /// Forwards new connections to these ports in turn.
    pub fn balance(&self, upstreams: &[u16]) {
        *self.shared.upstreams.lock().unwrap_or_else(PoisonError::into_inner) = upstreams.to_vec();
    }

    /// The number of accepted connections so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// The number of bytes of answers carried so far, on all connections.
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Resets the connections that lost bytes while the link was half open. Until then both ends regard them as open.
    pub fn bury(&self) {
        self.shared.burial.notify_waiters();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The end of a direction of a connection.
enum End {
    /// The sender closed its side, and the proxy passed that on to the receiver.
    InOrder,
    /// An error of either side, or the link's state: both sides must see a reset.
    Broken,
}

async fn serve(mut client: TcpStream, shared: Arc<Shared>, mut link: watch::Receiver<Link>) {
    // A new connection hangs on a stalled link and is reset on a cut one.
    let Ok(now) = link.wait_for(|l| *l != Link::Stalled).await.map(|l| *l) else { return };
    let upstream = SocketAddr::from(([127, 0, 0, 1], shared.next_upstream()));
    let server = if now == Link::Cut { None } else { TcpStream::connect(upstream).await.ok() };
    let Some(mut server) = server else { return reset(&client) };
    client.set_nodelay(true).and(server.set_nodelay(true)).unwrap_or_default();
    let end = between(&mut client, &mut server, &shared, link).await;
    if matches!(end, End::Broken) {
        reset(&client);
        reset(&server);
    }
}

/// Makes the other end see a reset when the stream is dropped.
fn reset(stream: &TcpStream) {
    // The connection may have ended already.
    stream.set_zero_linger().unwrap_or_default();
}

/// Carries both directions until both have ended in order, or one is broken.
async fn between(
    client: &mut TcpStream,
    server: &mut TcpStream,
    shared: &Shared,
    mut link: watch::Receiver<Link>,
) -> End {
    let (client_read, client_write) = client.split();
    let (server_read, server_write) = server.split();
    let spoiled = AtomicBool::new(false);
    let carry = |from, to, direction| carry(from, to, Way { direction, link: link.clone(), spoiled: &spoiled, shared });
    let mut requests = pin!(carry(client_read, server_write, Direction::Requests));
    let mut answers = pin!(carry(server_read, client_write, Direction::Answers));
    let both = async {
        tokio::select! {
            end = &mut requests => if matches!(end, End::InOrder) { answers.await } else { end },
            end = &mut answers => if matches!(end, End::InOrder) { requests.await } else { end },
        }
    };
    let buried = async {
        loop {
            shared.burial.notified().await;
            if spoiled.load(Ordering::Relaxed) {
                return;
            }
        }
    };
    tokio::select! {
        end = both => end,
        _cut = link.wait_for(|l| *l == Link::Cut) => End::Broken,
        () = buried => End::Broken,
    }
}

/// One direction of a connection.
struct Way<'a> {
    direction: Direction,
    link: watch::Receiver<Link>,
    /// The connection has lost bytes.
    spoiled: &'a AtomicBool,
    shared: &'a Shared,
}

/// A piece with its earliest time of arrival.
type Piece = io::Result<(Instant, Vec<u8>)>;

async fn carry(from: ReadHalf<'_>, to: WriteHalf<'_>, way: Way<'_>) -> End {
    let (queue, pieces) = mpsc::channel(ON_THE_WAY);
    let reading = read(from, queue, way.link.clone());
    let mut writing = pin!(write(pieces, to, way));
    tokio::select! {
        end = &mut writing => end,
        () = reading => writing.await,
    }
}

/// Reads until the end, which closes the queue; passes an error through the queue.
async fn read(mut from: ReadHalf<'_>, queue: mpsc::Sender<Piece>, link: watch::Receiver<Link>) {
    loop {
        let mut piece = vec![0; PIECE];
        let piece = match from.read(&mut piece).await {
            Ok(0) => return,
            Ok(length) => {
                piece.truncate(length);
                let latency = if let Link::Slow { latency, .. } = *link.borrow() { latency } else { Duration::ZERO };
                Ok((Instant::now() + latency, piece))
            }
            Err(error) => Err(error),
        };
        let last = piece.is_err();
        if queue.send(piece).await.is_err() || last {
            return;
        }
    }
}

async fn write(mut pieces: mpsc::Receiver<Piece>, mut to: WriteHalf<'_>, mut way: Way<'_>) -> End {
    let mut before = *way.link.borrow();
    let mut passed = 0;
    loop {
        let piece = pieces.recv().await;
        if let Some(Ok((due, _))) = &piece {
            sleep_until(*due).await;
        }
        let Ok(now) = way.link.wait_for(|l| *l != Link::Stalled).await.map(|l| *l) else { return End::Broken };
        if now != before {
            (before, passed) = (now, 0);
        }
        if way.loses(now) {
            way.spoiled.store(true, Ordering::Relaxed);
            match piece {
                Some(Ok(_)) => continue,
                // The other end does not learn of it.
                _ => std::future::pending().await,
            }
        }
        let mut bytes = match piece {
            None => return if to.shutdown().await.is_ok() { End::InOrder } else { End::Broken },
            Some(Err(_)) => return End::Broken,
            Some(Ok((_, bytes))) => bytes,
        };
        if let Link::Slow { bytes_per_second, .. } = now {
            sleep(Duration::from_secs_f64(bytes.len() as f64 / f64::from(bytes_per_second))).await;
        }
        passed += bytes.len() as u64;
        let over = if let Link::CutAfter(limit) = now { passed.saturating_sub(limit) } else { 0 };
        bytes.truncate(bytes.len().saturating_sub(over as usize));
        if to.write_all(&bytes).await.is_err() || over > 0 {
            return End::Broken;
        }
        if way.direction == Direction::Answers {
            way.shared.answered.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
    }
}

impl Way<'_> {
    /// Whether bytes that arrive now are lost.
    fn loses(&self, link: Link) -> bool {
        match link {
            Link::HalfOpen(direction) if [self.direction, Direction::Both].contains(&direction) => true,
            Link::HalfOpen(_) => false,
            _ => self.spoiled.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests;
