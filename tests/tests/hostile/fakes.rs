//! Servers that lie: each connection is handed to a function.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Listens on a free port of this machine; the threads end with the test program.
pub(crate) fn serve(answer: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, answer) = (listener.local_addr().unwrap(), Arc::new(answer));
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let answer = Arc::clone(&answer);
            std::thread::spawn(move || answer(stream));
        }
    });
    address
}

/// What a text from outside does to a terminal: clears the screen, sets the title, begins another line, turns the
/// direction round.
pub(crate) const NASTY: &str = "\u{1b}[2J\u{1b}]0;owned\u{7}\nERROR forged \u{9b}31m\u{202e}txt\u{2066}\u{2028}end";

/// Fails when something in a text could be obeyed by a terminal; newlines end lines.
pub(crate) fn assert_harmless(text: &str) {
    let bad = |c: char| c != '\n' && (c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'));
    assert!(!text.contains(bad), "{text:?}");
    assert!(!text.lines().any(|line| line.starts_with("ERROR forged")), "{text}");
}

/// A MySQL server that has only an error for everybody.
pub(crate) fn mysql(message: &'static str) -> SocketAddr {
    serve(move |mut stream| {
        let body = [b"\xff\x6a\x04", message.as_bytes()].concat();
        let header = [body.len() as u8, (body.len() >> 8) as u8, 0, 0];
        drop(stream.write_all(&[&header, &body[..]].concat()));
        drop(stream.read(&mut [0; 64]));
    })
}

/// A PostgreSQL server that refuses every login.
pub(crate) fn postgres(message: &'static str) -> SocketAddr {
    serve(move |mut stream| {
        let mut request = [0; 1024];
        let read = stream.read(&mut request).unwrap_or(0);
        if read == 8 {
            // It asks for TLS first.
            drop(stream.write_all(b"N"));
            drop(stream.read(&mut request));
        }
        let fields = format!("SFATAL\0VFATAL\0C28P01\0M{message}\0\0");
        let length = (fields.len() + 4) as u32;
        drop(stream.write_all(&[b"E", &length.to_be_bytes()[..], fields.as_bytes()].concat()));
        drop(stream.read(&mut request));
    })
}

/// What the fake registry does.
#[derive(Clone, Debug)]
pub(crate) enum Mode {
    /// Passes everything on to the real one.
    Real,
    /// Sends this, then the second text again and again.
    Endless(String, String),
    /// Sends this, then a byte now and then.
    Dripping(String),
    /// Sends this and closes.
    Once(String),
}

/// A registry that turns hostile.
#[derive(Clone)]
pub(crate) struct FakeRegistry {
    pub(crate) address: SocketAddr,
    mode: Arc<Mutex<Mode>>,
}

impl FakeRegistry {
    /// In front of the real one, `http://host:port/path`.
    pub(crate) fn of(real: &str) -> Self {
        let mode = Arc::new(Mutex::new(Mode::Real));
        let real = real.trim_start_matches("http://").split('/').next().unwrap().to_owned();
        let current = Arc::clone(&mode);
        let address = serve(move |stream| {
            let mode = current.lock().unwrap().clone();
            answer(stream, &mode, &real);
        });
        Self { address, mode }
    }

    pub(crate) fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }
}

fn answer(mut stream: TcpStream, mode: &Mode, real: &str) {
    if matches!(mode, Mode::Real) {
        return pass(stream, real);
    }
    drop(stream.read(&mut [0; 4096]));
    match mode {
        Mode::Real => {}
        Mode::Once(text) => drop(stream.write_all(text.as_bytes())),
        Mode::Endless(begin, more) => {
            let more = more.repeat(65_536 / more.len());
            let mut sent = stream.write_all(begin.as_bytes());
            while sent.is_ok() {
                sent = stream.write_all(more.as_bytes());
            }
        }
        Mode::Dripping(begin) => {
            let mut sent = stream.write_all(begin.as_bytes());
            while sent.is_ok() {
                std::thread::sleep(Duration::from_millis(300));
                sent = stream.write_all(b" ");
            }
        }
    }
}

/// One request and its answer, as the client is told to close.
fn pass(mut client: TcpStream, real: &str) {
    let mut server = TcpStream::connect(real).unwrap();
    let (mut to_server, mut from_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    let there = std::thread::spawn(move || drop(std::io::copy(&mut from_client, &mut to_server)));
    drop(std::io::copy(&mut server, &mut client));
    drop(client.shutdown(std::net::Shutdown::Both));
    drop(there.join());
}
