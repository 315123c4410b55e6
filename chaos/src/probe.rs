//! Finds lines in the consumers' logs as they are appended.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;

/// How often to read a log again from the start of this search: cut lines may be written again in another order.
const FROM_THE_BEGINNING: Duration = Duration::from_secs(2);

/// The logs from a moment on.
pub(crate) struct Tail {
    folders: Vec<PathBuf>,
    logs: HashMap<PathBuf, Log>,
    again: Instant,
}

#[derive(Default)]
struct Log {
    start: u64,
    read: u64,
}

impl Tail {
    /// Starts at the present ends of the logs.
    pub(crate) fn new(folders: Vec<PathBuf>) -> Self {
        let mut tail = Self { folders, logs: HashMap::new(), again: Instant::now() };
        for path in tail.paths() {
            let length = fs::metadata(&path).map_or(0, |m| m.len());
            tail.logs.insert(path, Log { start: length, read: length });
        }
        tail
    }

    fn paths(&self) -> Vec<PathBuf> {
        let slots = self.folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
        slots.map(|slot| slot.path().join("consumer_log.json")).filter(|path| path.exists()).collect()
    }

    /// Passes each new complete line to `each`; some lines more than once.
    pub(crate) fn read(&mut self, mut each: impl FnMut(&str)) -> Result<()> {
        let anew = self.again.elapsed() > FROM_THE_BEGINNING;
        if anew {
            self.again = Instant::now();
        }
        for path in self.paths() {
            let log = self.logs.entry(path.clone()).or_default();
            // The file may vanish or be replaced meanwhile.
            let Ok(mut file) = File::open(&path) else { continue };
            let length = file.metadata()?.len();
            log.start = log.start.min(length);
            log.read = if anew { log.start } else { log.read.min(length) };
            file.seek(SeekFrom::Start(log.read))?;
            let mut bytes = Vec::new();
            file.take(length - log.read).read_to_end(&mut bytes)?;
            let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
            log.read += whole as u64;
            String::from_utf8_lossy(&bytes[..whole]).lines().for_each(&mut each);
        }
        Ok(())
    }
}
