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

/// Requires that nothing arrives and that the connection has not ended.
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
    // Unread bytes make the kernel send a reset when the socket is closed.
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
    // A quarter of a second for the bytes; 16 pieces, each with a delay, would take more than 3 s.
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
    // The connection has lost bytes, so it carries nothing any more; a new one does.
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
