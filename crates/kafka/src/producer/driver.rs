//! Moves bytes between the core and its sockets, in the thread of the caller.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::core::{Core, LinkId};
use super::dial::{Dialer, Stream};
use super::link::Closed;
use crate::wire::answers::Address;

type Dialed = (LinkId, Result<Stream, Closed>);

/// The sockets of a producer.
pub(crate) struct Driver {
    dialer: Dialer,
    streams: BTreeMap<LinkId, Stream>,
    dialed: mpsc::Receiver<Dialed>,
    sender: mpsc::Sender<Dialed>,
    /// A thread that has made a connection writes a byte to the second, which wakes a wait at the first.
    bell: (UnixStream, UnixStream),
}

impl Driver {
    /// # Errors
    /// When the system has no more sockets.
    pub(crate) fn new(dialer: Dialer) -> io::Result<Self> {
        let (sender, dialed) = mpsc::channel();
        let bell = UnixStream::pair()?;
        bell.0.set_nonblocking(true)?;
        bell.1.set_nonblocking(true)?;
        Ok(Self { dialer, streams: BTreeMap::new(), dialed, sender, bell })
    }

    /// Does everything that is due, then waits until something arrives, until the core has something to do, or until
    /// `until`; then does what is due by then.
    ///
    /// # Errors
    /// When the system can't wait or start a thread.
    pub(crate) fn turn(&mut self, core: &mut Core, until: Instant) -> io::Result<()> {
        let now = Instant::now();
        self.act(core, now)?;
        let until = core.deadline(now).map_or(until, |due| due.min(until));
        if self.wait(core, until)? {
            self.take_dialed(core);
            self.read(core);
            self.act(core, Instant::now())?;
        }
        Ok(())
    }

    /// Makes the requests and connections that are due, and writes.
    fn act(&mut self, core: &mut Core, now: Instant) -> io::Result<()> {
        for id in core.advance(now) {
            self.streams.remove(&id);
        }
        for (id, address) in core.take_dials() {
            self.dial(id, address)?;
        }
        self.write(core);
        Ok(())
    }

    fn dial(&self, id: LinkId, address: Address) -> io::Result<()> {
        let (dialer, sender, mut bell) = (self.dialer.clone(), self.sender.clone(), self.bell.1.try_clone()?);
        let dial = move || {
            // The receiver is gone when the producer was dropped; a full bell rings already.
            if sender.send((id, dialer.dial(&address))).is_ok() {
                drop(bell.write(&[0]));
            }
        };
        std::thread::Builder::new().name("kafka-dial".to_owned()).spawn(dial)?;
        Ok(())
    }

    /// Waits; returns whether something arrived.
    fn wait(&self, core: &Core, until: Instant) -> io::Result<bool> {
        let left = until.saturating_duration_since(Instant::now());
        let mut sockets = Vec::with_capacity(1 + self.streams.len());
        sockets.push(PollFd::new(self.bell.0.as_fd(), PollFlags::POLLIN));
        for (id, stream) in &self.streams {
            let writes = core.links.get(id).is_some_and(|link| !link.outgoing.is_empty());
            let flags = if writes { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
            sockets.push(PollFd::new(stream.as_fd(), flags));
        }
        match ppoll(&mut sockets, Some(TimeSpec::from_duration(left)), None) {
            Ok(count) => Ok(count > 0),
            Err(nix::errno::Errno::EINTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn take_dialed(&mut self, core: &mut Core) {
        while (&self.bell.0).read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
        for (id, outcome) in self.dialed.try_iter() {
            let now = Instant::now();
            match outcome {
                Ok(stream) => {
                    self.streams.insert(id, stream);
                    core.connected(id, now);
                }
                Err(why) => core.closed(id, &why, now),
            }
        }
    }

    fn read(&mut self, core: &mut Core) {
        self.streams.retain(|id, stream| {
            let outcome = loop {
                let Some(link) = core.links.get_mut(id) else { return false };
                let space = link.incoming.space();
                let room = space.len();
                match stream.read(space) {
                    Ok(None) => break Ok(()),
                    Ok(Some(count)) => {
                        link.incoming.filled(count);
                        let received = core.received(*id, Instant::now());
                        // Less than the space: nothing more is there, but a stream of TLS may hold some back.
                        if received.is_err() || (count < room && matches!(stream, Stream::Plain(_))) {
                            break received;
                        }
                    }
                    Err(why) => {
                        core.closed(*id, &why, Instant::now());
                        break Err(why);
                    }
                }
            };
            outcome.is_ok()
        });
    }

    fn write(&mut self, core: &mut Core) {
        self.streams.retain(|id, stream| {
            loop {
                let Some(link) = core.links.get_mut(id) else { return false };
                if link.outgoing.is_empty() {
                    return true;
                }
                match stream.write(&link.outgoing.slices()) {
                    Ok(None) => return true,
                    Ok(Some(count)) => link.outgoing.written(count),
                    Err(why) => {
                        core.closed(*id, &why, Instant::now());
                        return false;
                    }
                }
            }
        });
    }
}
