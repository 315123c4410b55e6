//! A TCP proxy between a program and a server, whose link can be cut, stalled, slowed down or left half open.
//!
//! Bytes arrive whole and in order or not at all, as TCP has it: a connection that lost some never carries any again.
//! Not here: loss and doubling of packets, which TCP hides from both ends.

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

/// The largest piece that is carried at once, and how many of them may be on the way.
const PIECE: usize = 16 * 1024;
const ON_THE_WAY: usize = 64;

/// What a link does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// It carries everything.
    Open,
    /// Connections are reset, new ones too.
    Cut,
    /// Each connection is reset when one of its directions has carried so many more bytes: in the middle of a message.
    CutAfter(u64),
    /// Connections stay and nothing goes through in either direction, not even their end; new ones hang. Nothing is lost.
    Stalled,
    /// Everything arrives, but late.
    Slow {
        /// After so long,
        latency: Duration,
        /// and so much a second in each direction of each connection.
        bytes_per_second: u32,
    },
    /// What goes in this direction is lost, ends of connections too: the other side has vanished without a word.
    HalfOpen(Direction),
}

/// A direction of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Requests,
    /// From the server to the client.
    Answers,
    /// Either.
    Both,
}

/// A proxy on a port of its own; it ends with its handle.
pub struct Proxy {
    port: u16,
    link: watch::Sender<Link>,
    shared: Arc<Shared>,
    runtime: Option<tokio::runtime::Runtime>,
}

struct Shared {
    /// New connections go to these in turn.
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
    /// Starts to listen on a free port of 127.0.0.1; what comes goes to the port `upstream`.
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
                    // The client is gone already, or this process has too many files open for now.
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

    /// Changes the link, of connections that are there as well.
    pub fn set(&self, link: Link) {
        self.link.send_replace(link);
    }

    /// New connections go to this port.
    pub fn redirect(&self, upstream: u16) {
        self.balance(&[upstream]);
    }

    /// New connections go to these ports in turn.
    pub fn balance(&self, upstreams: &[u16]) {
        *self.shared.upstreams.lock().unwrap_or_else(PoisonError::into_inner) = upstreams.to_vec();
    }

    /// How many connections have come so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// How many bytes of answers it has carried so far, on all connections.
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Resets the connections that lost something while the link was half open. Until then both of their ends believe in
    /// them.
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

/// How a direction of a connection ended.
enum End {
    /// The sender said that no more comes, and the receiver knows it.
    InOrder,
    /// By an error of either side, or the link: both sides are to see a reset.
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

/// Lets the other end see a reset when the stream is dropped.
fn reset(stream: &TcpStream) {
    // It may be gone already.
    stream.set_zero_linger().unwrap_or_default();
}

/// Carries in both directions until both have ended in order, or one is broken.
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
    /// The connection has lost something.
    spoiled: &'a AtomicBool,
    shared: &'a Shared,
}

/// A piece with the time before which it must not arrive.
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

/// Reads until the end, which closes the queue; an error goes into it.
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
                // The other end never learns of it.
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
    /// Whether what comes now is lost.
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
