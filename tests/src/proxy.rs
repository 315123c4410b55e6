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
    upstream: Mutex<u16>,
    accepted: AtomicU64,
    answered: AtomicU64,
    burial: Notify,
}

impl Proxy {
    /// Starts to listen on a free port of 127.0.0.1; what comes goes to the port `upstream`.
    pub fn start(upstream: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("threads");
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let (link, state) = watch::channel(Link::Open);
        let upstream = Mutex::new(upstream);
        let shared = Arc::new(Shared {
            upstream,
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
        *self.shared.upstream.lock().unwrap_or_else(PoisonError::into_inner) = upstream;
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
    let upstream = *shared.upstream.lock().unwrap_or_else(PoisonError::into_inner);
    let upstream = SocketAddr::from(([127, 0, 0, 1], upstream));
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
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Instant;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);
    const SHORT: Duration = Duration::from_millis(200);

    /// A proxy with a connection through it: the client's end and the server's.
    struct Pair {
        listener: TcpListener,
        proxy: Proxy,
        client: TcpStream,
        server: TcpStream,
    }

    fn pair() -> Pair {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let proxy = Proxy::start(listener.local_addr().expect("an address").port());
        let (client, server) = connect(&listener, &proxy);
        Pair { listener, proxy, client, server }
    }

    fn connect(listener: &TcpListener, proxy: &Proxy) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(("127.0.0.1", proxy.port())).expect("it accepts");
        let (server, _) = listener.accept().expect("it connects");
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(SOON)).expect("a deadline");
        }
        (client, server)
    }

    fn read(mut stream: &TcpStream, length: usize) -> Result<String, ErrorKind> {
        let mut text = vec![0; length];
        stream.read_exact(&mut text).map_err(|e| e.kind())?;
        Ok(String::from_utf8(text).expect("text"))
    }

    fn send(mut stream: &TcpStream, text: &str) {
        stream.write_all(text.as_bytes()).expect("to send");
    }

    /// Nothing arrives, and the connection has not ended either.
    fn assert_silent(stream: &TcpStream) {
        stream.set_read_timeout(Some(SHORT)).expect("a deadline");
        assert_eq!(read(stream, 1), Err(ErrorKind::WouldBlock));
        stream.set_read_timeout(Some(SOON)).expect("a deadline");
    }

    fn assert_reset(stream: &TcpStream) {
        assert_eq!(read(stream, 1), Err(ErrorKind::ConnectionReset));
    }

    #[test]
    fn an_open_link_carries_both_ways_and_each_end_by_itself() {
        let Pair { client, server, proxy: _proxy, .. } = pair();
        send(&client, "ping");
        assert_eq!(read(&server, 4).as_deref(), Ok("ping"));
        client.shutdown(std::net::Shutdown::Write).expect("to end");
        assert_eq!(read(&server, 1), Err(ErrorKind::UnexpectedEof));
        send(&server, "pong");
        assert_eq!(read(&client, 4).as_deref(), Ok("pong"));
        drop(server);
        assert_eq!(read(&client, 1), Err(ErrorKind::UnexpectedEof));
    }

    #[test]
    fn a_large_message_arrives_whole() {
        let Pair { client, server, proxy: _proxy, .. } = pair();
        let text = "0123456789".repeat(1 << 20);
        std::thread::scope(|scope| {
            scope.spawn(|| send(&client, &text));
            assert!(read(&server, text.len()).as_deref() == Ok(&text));
        });
    }

    #[test]
    fn a_cut_link_resets_old_and_new_connections_until_it_is_open() {
        let Pair { listener, proxy, client, server } = pair();
        proxy.set(Link::Cut);
        assert_reset(&client);
        assert_reset(&server);
        let late = TcpStream::connect(("127.0.0.1", proxy.port())).expect("it accepts");
        assert_reset(&late);
        proxy.set(Link::Open);
        let (client, server) = connect(&listener, &proxy);
        send(&client, "again");
        assert_eq!(read(&server, 5).as_deref(), Ok("again"));
        assert_eq!(proxy.accepted(), 3);
    }

    #[test]
    fn a_reset_of_one_end_reaches_the_other() {
        let Pair { client, server, proxy: _proxy, .. } = pair();
        // What is left unread when it is closed makes the kernel send a reset.
        send(&server, "unread");
        client.peek(&mut [0]).expect("it came");
        drop(client);
        assert_reset(&server);
    }

    #[test]
    fn a_connection_ends_in_the_middle_of_a_message() {
        let Pair { listener, proxy, client, server } = pair();
        send(&server, "before");
        assert_eq!(read(&client, 6).as_deref(), Ok("before"));
        proxy.set(Link::CutAfter(3));
        send(&server, "message");
        assert_eq!(read(&client, 3).as_deref(), Ok("mes"));
        assert_reset(&client);
        assert_reset(&server);
        let (client, server) = connect(&listener, &proxy);
        send(&client, "ab");
        assert_eq!(read(&server, 2).as_deref(), Ok("ab"));
        send(&client, "cd");
        assert_eq!(read(&server, 1).as_deref(), Ok("c"));
        assert_reset(&server);
    }

    #[test]
    fn a_stalled_link_holds_everything_and_loses_nothing() {
        let Pair { listener, proxy, client, server } = pair();
        proxy.set(Link::Stalled);
        send(&client, "held");
        client.shutdown(std::net::Shutdown::Write).expect("to end");
        assert_silent(&server);
        let late = TcpStream::connect(("127.0.0.1", proxy.port())).expect("it accepts");
        send(&late, "new");
        assert_silent(&late);
        listener.set_nonblocking(true).expect("to look only");
        assert_eq!(listener.accept().map(drop).map_err(|e| e.kind()), Err(ErrorKind::WouldBlock));
        listener.set_nonblocking(false).expect("to wait again");
        proxy.set(Link::Open);
        assert_eq!(read(&server, 4).as_deref(), Ok("held"));
        assert_eq!(read(&server, 1), Err(ErrorKind::UnexpectedEof));
        let (server, _) = listener.accept().expect("it connects now");
        assert_eq!(read(&server, 3).as_deref(), Ok("new"));
    }

    #[test]
    fn a_slow_link_has_its_latency_once_and_its_bandwidth() {
        let Pair { proxy, client, server, .. } = pair();
        proxy.set(Link::Slow { latency: SHORT, bytes_per_second: 1 << 20 });
        let begun = Instant::now();
        let text = "x".repeat(256 * 1024);
        std::thread::scope(|scope| {
            scope.spawn(|| send(&client, &text));
            assert_eq!(read(&server, text.len()).map(|t| t.len()), Ok(text.len()));
        });
        let took = begun.elapsed();
        // A quarter of a second for the bytes; 16 pieces, each late by itself, would take more than 3 s.
        assert!((Duration::from_millis(450)..Duration::from_millis(2_000)).contains(&took), "{took:?}");
    }

    #[test]
    fn what_a_half_open_link_lost_never_comes() {
        let Pair { listener, proxy, client, server } = pair();
        proxy.set(Link::HalfOpen(Direction::Answers));
        send(&client, "ask");
        assert_eq!(read(&server, 3).as_deref(), Ok("ask"));
        send(&server, "lost");
        assert_silent(&client);
        proxy.set(Link::Open);
        // The connection has a gap, so it carries nothing any more; a new one does.
        send(&server, "late");
        assert_silent(&client);
        send(&client, "late");
        assert_silent(&server);
        let (new_client, new_server) = connect(&listener, &proxy);
        send(&new_server, "new");
        assert_eq!(read(&new_client, 3).as_deref(), Ok("new"));
        proxy.bury();
        assert_reset(&client);
        assert_reset(&server);
        assert_silent(&new_client);
    }

    #[test]
    fn a_client_that_vanishes_leaves_the_server_waiting() {
        let Pair { proxy, client, server, .. } = pair();
        proxy.set(Link::HalfOpen(Direction::Both));
        drop(client);
        assert_silent(&server);
        proxy.set(Link::Open);
        assert_silent(&server);
        proxy.bury();
        assert_reset(&server);
    }

    #[test]
    fn it_goes_to_where_it_is_sent() {
        let Pair { proxy, .. } = pair();
        let other = TcpListener::bind("127.0.0.1:0").expect("a port");
        proxy.redirect(other.local_addr().expect("an address").port());
        let (client, server) = connect(&other, &proxy);
        send(&client, "x");
        assert_eq!(read(&server, 1).as_deref(), Ok("x"));
    }
}
