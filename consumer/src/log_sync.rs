//! Makes lines durable in a thread beside the one that writes them. The thread is started once, as starting one for each
//! batch costs CPU in every batch.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};

use model::error::{Error, Result};

type Outcome = io::Result<()>;
type Job = Box<dyn FnOnce() + Send>;

/// The thread. It ends when this is dropped.
pub(crate) struct LogSync(Sender<Job>);

/// The sync of a batch's lines. Dropping it waits for its end: the system reports an error of the disk once for an open
/// file, and a sync that is left alone could take that of the next batch.
pub(crate) struct LineSync(Option<Receiver<Outcome>>);

impl LogSync {
    /// Starts the thread.
    ///
    /// # Errors
    /// Definite when the system has no more threads.
    pub(crate) fn start() -> Result<Self> {
        let (sender, jobs) = channel::<Job>();
        std::thread::Builder::new()
            .name("log-sync".to_owned())
            .spawn(move || jobs.iter().for_each(|job| job()))
            .map_err(|e| Error::definite("cannot start a thread").with_source(e))?;
        Ok(Self(sender))
    }

    /// Begins a sync, [`crate::log_file::LogFile::sync`].
    pub(crate) fn begin(&self, sync: impl FnOnce() -> Outcome + Send + 'static) -> LineSync {
        let (done, outcome) = channel();
        let job = move || done.send(sync()).unwrap_or_default();
        // A thread that has died drops `done`, and the wait fails.
        self.0.send(Box::new(job)).unwrap_or_default();
        LineSync(Some(outcome))
    }
}

impl LineSync {
    /// Waits for its end.
    ///
    /// # Errors
    /// That of the disk.
    pub(crate) fn wait(&mut self) -> Outcome {
        let ended = self.0.take().map_or(Ok(Ok(())), |outcome| outcome.recv());
        ended.unwrap_or_else(|_| Err(io::Error::other("the thread that syncs it has died")))
    }
}

impl Drop for LineSync {
    fn drop(&mut self) {
        // After a failure the lines are cut off.
        drop(self.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_ends_before_it_is_dropped_and_its_error_is_told() {
        let syncs = LogSync::start().expect("a thread");
        let (go, wait) = channel::<()>();
        let (ended, end) = channel();
        let left = syncs.begin(move || {
            wait.recv().map_err(io::Error::other)?;
            ended.send(()).map_err(io::Error::other)
        });
        go.send(()).expect("it waits");
        drop(left);
        assert!(end.try_recv().is_ok(), "it has ended");
        let outcome = syncs.begin(|| Err(io::Error::from(io::ErrorKind::StorageFull))).wait();
        assert_eq!(outcome.map_err(|e| e.kind()), Err(io::ErrorKind::StorageFull));
        let died = syncs.begin(|| panic!("on purpose")).wait();
        assert!(died.is_err_and(|e| e.to_string().ends_with("has died")));
        assert!(syncs.begin(|| Ok(())).wait().is_err(), "no thread is left");
    }
}
