//! A slot: the folder `consumer_N` and the identity that one consumer at a time holds.
//!
//! A consumer claims the first folder whose `.lock` file it can lock, so five replicas of one image need no numbering,
//! and a restarted one finds its folder free. The slot's number and the identity of the logs folder (`folder.rs`)
//! form the consumer's `group.instance.id` and, with the topic, its `transactional.id`.
//!
//! Invariants: the holder of the lock is the only process that writes in the folder; the operating system frees the
//! lock when the process ends in any way. The text of the `.lock` file always describes the present or the last holder:
//! a process takes the lock and writes the text under the folder's `.claim` lock. If a file system does not share locks
//! between machines, the file `.owner` shows it, which only the holder writes.
//!
//! Not here: the contents of the folder's log (`log_file.rs`), and its committed length
//! (`log_checkpoint.rs`).

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fs2::FileExt;
use kafka::slots::{Folder, FolderId};
use model::error::{Code, Error, Result};

use crate::folder::{self, LOG_NAME, OWNER_NAME, unwritable};
use crate::lineage::{Note, Owner};
use crate::slot_name::{Name, SlotId};

const LOCK_NAME: &str = ".lock";
const CLAIM_NAME: &str = ".claim";

/// A neighbour recovers a slot within a second; a suspended neighbour is not waited for.
const RECOVERING_LIMIT: Duration = Duration::from_secs(30);
/// How long to wait for the lock under which slots are claimed.
const CLAIM_LIMIT: Duration = Duration::from_secs(10);

/// The present or last holder of a slot, according to its `.lock` file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No process has ever held it.
    Unused,
    /// A consumer; if the lock is free, the consumer is gone.
    Held,
    /// A neighbour that cuts the log of a consumer that is gone.
    Recovering,
    /// No process, and the log holds only committed lines.
    Recovered,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Unused => "",
            Self::Held => "held",
            Self::Recovering => "settling",
            Self::Recovered => "settled",
        }
    }

    fn parse(text: &str) -> Self {
        match text.split_whitespace().next() {
            None => Self::Unused,
            Some("settling") => Self::Recovering,
            Some("settled") => Self::Recovered,
            Some(_) => Self::Held,
        }
    }
}

/// A slot that this process holds. Dropping it frees the slot.
#[derive(Debug)]
pub(crate) struct Slot {
    name: Name,
    /// The previous version used its logs folder.
    legacy: bool,
    /// Host and path of its logs folder.
    place: String,
    folder: PathBuf,
    lock: File,
    /// The text that this process last wrote into `.owner`.
    written: RefCell<Option<Owner>>,
}

impl Slot {
    /// Its number.
    pub(crate) fn id(&self) -> SlotId {
        self.name.slot
    }

    /// Its name in Kafka, without the group.
    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    /// Whether the previous version, whose log checkpoints name no folder, used its logs folder.
    pub(crate) fn is_legacy(&self) -> bool {
        self.legacy
    }

    /// Host and path of its logs folder.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// The path of its log.
    pub(crate) fn log_path(&self) -> PathBuf {
        self.folder.join(LOG_NAME)
    }

    /// Marks that the log holds only committed lines, so that no neighbour needs to recover it.
    pub(crate) fn mark_recovered(&self) -> Result<()> {
        self.note(State::Recovered)
    }

    /// Reads `.owner`: the log checkpoint that the log's lines belong to.
    ///
    /// # Errors
    /// Definite when the file can't be read, or when another process wrote it although this one holds the lock.
    pub(crate) fn owner(&self) -> Result<Owner> {
        let path = self.folder.join(OWNER_NAME);
        let owner = folder::read_owner(&self.folder)
            .map_err(|e| Error::new(Code::FileAccess, format!("cannot read {}", path.display())).with_source(e))?;
        match &*self.written.borrow() {
            Some(written) if owner != Owner::None && owner != *written => Err(Error::new(Code::AnotherConsumer, format!(
                "another process wrote {} while this one held the lock of {}",
                path.display(),
                self.name.slot
            ))
            .with_remedy(
                "the locks of this file system do not reach from one machine to the other: give the consumers of each machine \
                 a logs folder of their own (consumer.logs)",
            )),
            _ => Ok(owner),
        }
    }

    /// Writes `.owner` durably: the log checkpoint that the log's lines belong to from now on.
    ///
    /// # Errors
    /// Definite when the file can't be written, transient when the disk is full.
    pub(crate) fn note_owner(&self, note: Note) -> Result<()> {
        let path = self.folder.join(OWNER_NAME);
        let mut text = serde_json::to_vec(&note).unwrap_or_default();
        text.push(b'\n');
        folder::write_durably(&path, &text).map_err(|e| unwritable(&path, e))?;
        *self.written.borrow_mut() = Some(Owner::Note(note));
        Ok(())
    }

    fn note(&self, state: State) -> Result<()> {
        let host = fs::read_to_string("/etc/hostname").unwrap_or_default();
        let text = format!("{} by process {} on {}\n", state.word(), std::process::id(), host.trim());
        let write = || {
            (&self.lock).seek(SeekFrom::Start(0))?;
            (&self.lock).write_all(text.as_bytes())?;
            self.lock.set_len(text.len() as u64)
        };
        write().map_err(|e| unwritable(&self.folder.join(LOCK_NAME), e))
    }
}

/// The folder that holds the slots.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    root: PathBuf,
    identity: Folder,
    place: String,
}

impl Slots {
    /// Creates the folder with its identity and its first `count` slots, each with an empty log, where they are
    /// missing.
    ///
    /// # Errors
    /// Definite when the folder can't be written to or its identity can't be read.
    pub(crate) fn open(root: &Path, count: u32) -> Result<Self> {
        fs::create_dir_all(root).map_err(|e| unwritable(root, e))?;
        let identity = match folder::identity(root)? {
            Some(identity) => identity,
            None => {
                let _claim = claim_lock(root)?;
                folder::identify(root)?
            }
        };
        let slots = Self { root: root.to_owned(), identity, place: folder::place(root) };
        for n in 1..=count {
            slots.make(SlotId(n))?;
        }
        Ok(slots)
    }

    /// The folder's identity.
    pub(crate) fn identity(&self) -> &Folder {
        &self.identity
    }

    /// Host and path of the folder.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// The slots of a folder that consumers have used; creates nothing. `None` when it has no identity yet.
    ///
    /// # Errors
    /// Definite when its identity can't be read.
    pub(crate) fn existing(root: &Path) -> Result<Option<Self>> {
        let identity = folder::identity(root)?;
        Ok(identity.map(|identity| Self { root: root.to_owned(), identity, place: folder::place(root) }))
    }

    /// Takes a slot for reading if no process holds it; `None` if one does. It creates no file, which would belong to
    /// this user, and keeps nobody from the slot: a consumer that claims it waits for the lock that is held here.
    ///
    /// # Errors
    /// Definite when its files can't be opened, transient when that lock is not freed in time.
    pub(crate) fn look(&self, id: SlotId) -> Result<Option<Slot>> {
        let folder = self.folder(id);
        let (claim, path) = (self.root.join(CLAIM_NAME), folder.join(LOCK_NAME));
        let existing = |path: &Path| match File::open(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            file => file.map(Some).map_err(|e| unlockable(path, e)),
        };
        let (Some(claim_file), Some(lock)) = (existing(&claim)?, existing(&path)?) else {
            let nobody = File::open(&folder).map_err(|e| unlockable(&folder, e))?;
            return Ok(Some(self.slot(id, nobody)));
        };
        let _claim = wait_for(claim_file, &claim, FileExt::try_lock_shared)?;
        match FileExt::try_lock_shared(&lock).and_then(|()| FileExt::unlock(&lock)) {
            Ok(()) => Ok(Some(self.slot(id, lock))),
            Err(e) if e.kind() == fs2::lock_contended_error().kind() => Ok(None),
            Err(e) => Err(unlockable(&path, e)),
        }
    }

    fn slot(&self, id: SlotId, lock: File) -> Slot {
        let name = Name { slot: id, folder: Some(self.identity.id.clone()) };
        let (legacy, place, folder) = (self.identity.legacy, self.place.clone(), self.folder(id));
        Slot { name, legacy, place, folder, lock, written: RefCell::default() }
    }

    /// Claims the first free slot; creates another one when all are taken.
    ///
    /// # Errors
    /// Definite when a folder can't be written to.
    pub(crate) fn claim(&self) -> Result<Slot> {
        let deadline = Instant::now() + RECOVERING_LIMIT;
        loop {
            let claim = claim_lock(&self.root)?;
            let mut wait = false;
            for n in 1..=u32::MAX {
                let id = SlotId(n);
                self.make(id)?;
                match self.lock(id, State::Held)? {
                    Ok(slot) => return Ok(slot),
                    Err(State::Recovering) if Instant::now() < deadline => {
                        wait = true;
                        break;
                    }
                    Err(_) => {}
                }
            }
            drop(claim);
            if wait {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    /// Claims this slot; `None` when a process holds it.
    ///
    /// # Errors
    /// Definite when its folder can't be written to; usage when there is none.
    pub(crate) fn take(&self, id: SlotId) -> Result<Option<Slot>> {
        let folder = self.folder(id);
        if !folder.is_dir() {
            return Err(Error::new(Code::CommandLine, format!("there is no slot {}", folder.display()))
                .with_remedy("name one of the folders in consumer.logs, e.g. consumer_1"));
        }
        let _claim = claim_lock(&self.root)?;
        Ok(self.lock(id, State::Held)?.ok())
    }

    /// Passes each slot whose consumer is gone and that is not recovered yet to `recover`, and marks it as recovered. A
    /// slot that fails is retried at the next call.
    ///
    /// # Errors
    /// Definite when a folder can't be read or written to; the first error of `recover`, after all other slots were
    /// tried.
    pub(crate) fn recover_abandoned(&self, recover: &mut dyn FnMut(&Slot) -> Result<()>) -> Result<()> {
        let mut first = Ok(());
        for id in self.ids()? {
            if let Some(slot) = self.take_abandoned(id)? {
                let outcome = recover(&slot).and_then(|()| slot.mark_recovered());
                first = first.and(outcome);
            }
        }
        first
    }

    fn take_abandoned(&self, id: SlotId) -> Result<Option<Slot>> {
        let _claim = claim_lock(&self.root)?;
        let path = self.folder(id).join(LOCK_NAME);
        let state = fs::read_to_string(path).map_or(State::Unused, |text| State::parse(&text));
        if matches!(state, State::Held | State::Recovering) {
            Ok(self.lock(id, State::Recovering)?.ok())
        } else {
            Ok(None)
        }
    }

    /// The slots that exist, in order.
    ///
    /// # Errors
    /// Definite when the folder can't be read.
    pub(crate) fn ids(&self) -> Result<Vec<SlotId>> {
        folder::ids(&self.root)
    }

    /// The names in Kafka of the slots beside `own`, with the paths of their logs.
    ///
    /// # Errors
    /// Definite when the folder can't be read.
    pub(crate) fn beside(&self, own: SlotId) -> Result<Vec<(Name, PathBuf)>> {
        let name = |slot| Name { slot, folder: Some(self.identity.id.clone()) };
        let others = self.ids()?.into_iter().filter(|id| *id != own);
        Ok(others.map(|id| (name(id), self.folder(id).join(LOG_NAME))).collect())
    }

    fn folder(&self, id: SlotId) -> PathBuf {
        self.root.join(id.to_string())
    }

    /// Creates a slot's folder and its empty log where they are missing.
    fn make(&self, id: SlotId) -> Result<()> {
        let folder = self.folder(id);
        if folder.join(LOG_NAME).exists() {
            return Ok(());
        }
        fs::create_dir_all(&folder).map_err(|e| unwritable(&folder, e))?;
        let log = folder.join(LOG_NAME);
        OpenOptions::new().create(true).append(true).open(&log).map_err(|e| unwritable(&log, e))?;
        // The name of a file is durable once its folder is.
        for dir in [&folder, &self.root] {
            File::open(dir).and_then(|d| d.sync_all()).map_err(|e| unwritable(dir, e))?;
        }
        Ok(())
    }

    /// Locks a slot; if another process holds it, returns that process's state.
    fn lock(&self, id: SlotId, state: State) -> Result<Result<Slot, State>> {
        let path = self.folder(id).join(LOCK_NAME);
        let mut lock = open_lock(&path)?;
        match FileExt::try_lock_exclusive(&lock) {
            Ok(()) => {
                let slot = self.slot(id, lock);
                slot.note(state)?;
                Ok(Ok(slot))
            }
            Err(e) if e.kind() == fs2::lock_contended_error().kind() => {
                let mut text = String::new();
                lock.read_to_string(&mut text).map_err(|e| unlockable(&path, e))?;
                Ok(Err(State::parse(&text)))
            }
            Err(e) => Err(unlockable(&path, e)),
        }
    }
}

/// The slots of a logs folder, as their locks show them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holders {
    /// The folder's identity.
    pub folder: FolderId,
    /// Each slot, and whether a running consumer holds its lock.
    pub slots: Vec<(SlotId, bool)>,
}

/// Looks at the locks of a logs folder, without creating or changing anything; `None` when no consumer has used it.
///
/// # Errors
/// Definite when its files can't be read, transient when another process keeps the lock under which slots are claimed.
pub fn holders(root: &Path) -> Result<Option<Holders>> {
    let Some(slots) = Slots::existing(root)? else { return Ok(None) };
    let mut held = Vec::new();
    for id in slots.ids()? {
        held.push((id, slots.look(id)?.is_none()));
    }
    Ok(Some(Holders { folder: slots.identity().id.clone(), slots: held }))
}

/// Takes the lock under which slots are claimed; a process holds it for an instant only, unless it is suspended there.
fn claim_lock(root: &Path) -> Result<File> {
    let path = root.join(CLAIM_NAME);
    wait_for(open_lock(&path)?, &path, FileExt::try_lock_exclusive)
}

fn wait_for(file: File, path: &Path, lock: fn(&File) -> io::Result<()>) -> Result<File> {
    let deadline = Instant::now() + CLAIM_LIMIT;
    loop {
        match lock(&file) {
            Ok(()) => return Ok(file),
            Err(e) if e.kind() != fs2::lock_contended_error().kind() => return Err(unlockable(path, e)),
            Err(e) if Instant::now() > deadline => {
                let text = format!("another process holds {} for {} s", path.display(), CLAIM_LIMIT.as_secs());
                return Err(Error::transient(text).with_source(e).with_remedy(
                    "is a consumer stopped (SIGSTOP), or does its disk hang? `fuser` on that file names it",
                ));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn open_lock(path: &Path) -> Result<File> {
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    open.map_err(|e| unwritable(path, e))
}

fn unlockable(path: &Path, error: io::Error) -> Error {
    Error::new(Code::FileAccess, format!("cannot lock {}", path.display()))
        .with_source(error)
        .with_remedy("put consumer.logs on a file system that has locks (flock)")
}

#[cfg(test)]
mod tests;
