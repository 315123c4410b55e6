//! A logs folder: its identity, the slots that it has, and how its small files are written.
//!
//! Consumers of one group may run on several machines with a folder each. All of them have a `consumer_1`; the folder's
//! identity tells these apart in Kafka: a file `.folder`, written once. A folder that has none yet gets one under its
//! `.claim` lock, before the first slot is taken.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::Path;

use kafka::slots::{FOLDER_FILE, Folder, FolderId, VERSION};
use model::error::{Code, Error, Result};

use crate::lineage::Owner;
use crate::slot_name::SlotId;

/// The log's name within a slot's folder.
pub(crate) const LOG_NAME: &str = "consumer_log.json";
/// The name of the file beside it that says whose lines the log has.
pub(crate) const OWNER_NAME: &str = ".owner";

/// The folder's identity; `None` when it has none yet.
///
/// # Errors
/// Definite when the file can't be read or holds something else.
pub(crate) fn identity(root: &Path) -> Result<Option<Folder>> {
    Folder::read(root).map_err(|e| {
        let text = format!("cannot read {}", root.join(FOLDER_FILE).display());
        Error::new(Code::FileAccess, text).with_source(e).with_remedy(
            "put the file back as it was; or delete it: the folder then gets a new identity, and each slot takes its log over",
        )
    })
}

/// Gives the folder an identity, unless another process has been faster; to be called under its claim lock.
///
/// # Errors
/// Definite when the folder can't be read or written to, transient when the disk is full.
pub(crate) fn identify(root: &Path) -> Result<Folder> {
    if let Some(identity) = identity(root)? {
        return Ok(identity);
    }
    let mut legacy = false;
    for id in ids(root)? {
        let folder = root.join(id.to_string());
        let length = fs::metadata(folder.join(LOG_NAME)).map_or(0, |log| log.len());
        let owner = read_owner(&folder).map_err(|e| {
            Error::new(Code::FileAccess, format!("cannot read folder {}", folder.display())).with_source(e)
        })?;
        legacy |= owner.is_of_the_version_before(length);
    }
    let identity = Folder { version: VERSION, id: random_id(), legacy };
    let mut text = serde_json::to_vec(&identity).unwrap_or_default();
    text.push(b'\n');
    let path = root.join(FOLDER_FILE);
    write_durably(&path, &text).map_err(|e| unwritable(&path, e))?;
    tracing::info!(folder = %identity.id, legacy, path = %root.display(), "the logs folder has an identity from now on");
    Ok(identity)
}

/// The slots that a logs folder has, in order.
///
/// # Errors
/// Definite when the folder can't be read.
pub(crate) fn ids(root: &Path) -> Result<Vec<SlotId>> {
    let unreadable = |e| Error::new(Code::FileAccess, format!("cannot read folder {}", root.display())).with_source(e);
    let mut ids = Vec::new();
    for entry in fs::read_dir(root).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        ids.extend(name.to_str().and_then(SlotId::parse));
    }
    ids.sort_unstable();
    Ok(ids)
}

/// Reads the file `.owner` of a slot's folder.
///
/// # Errors
/// Any error of the file system.
pub(crate) fn read_owner(folder: &Path) -> io::Result<Owner> {
    match fs::read_to_string(folder.join(OWNER_NAME)) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Owner::None),
        text => Ok(Owner::parse(&text?)),
    }
}

/// 8 random characters.
pub(crate) fn random_id() -> FolderId {
    FolderId::from_bits(uuid::Uuid::new_v4().as_u128())
}

/// Host and absolute path of a folder.
pub(crate) fn place(root: &Path) -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| fs::read_to_string("/etc/hostname"));
    let path = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    format!("{}:{}", host.unwrap_or_default().trim(), path.display())
}

/// Replaces a file as a whole, so that a crash leaves the old one or the new one.
///
/// # Errors
/// Any error of the file system.
pub(crate) fn write_durably(path: &Path, text: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// The error for a path that this process can't write to, with a remedy: transient for a full disk.
pub(crate) fn unwritable(path: &Path, error: io::Error) -> Error {
    let text = format!("cannot write to {}", path.display());
    if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::Interrupted) {
        let full = Error::new(Code::DiskFull, text).with_source(error);
        return full.with_remedy("make room on the disk; the consumer continues without a restart");
    }
    Error::new(Code::FileAccess, text).with_source(error).with_remedy(
        "give the user that runs the consumer write access to this folder, or name another one (consumer.logs)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot::Slots;

    fn identity_of(root: &Path) -> Folder {
        Slots::open(root, 2).expect("slots").identity().clone()
    }

    #[test]
    fn a_folder_keeps_its_identity_and_no_two_have_the_same() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let first = identity_of(&a);
        assert!(!first.legacy);
        assert_eq!(identity_of(&a), first);
        assert_ne!(identity_of(&b).id, first.id);
    }

    #[test]
    fn a_folder_with_lines_or_owners_of_the_version_before_is_legacy() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for (name, file, text) in
            [("owner", ".owner", "topic t for group g\n"), ("lines", LOG_NAME, "{}\n"), ("empty", LOG_NAME, "")]
        {
            let root = dir.path().join(name);
            fs::create_dir_all(root.join("consumer_2")).expect("a folder");
            fs::write(root.join("consumer_2").join(file), text).expect("written");
            assert_eq!(identity_of(&root).legacy, name != "empty", "{name}");
        }
    }

    #[test]
    fn a_broken_identity_is_refused_with_the_way_out() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::write(dir.path().join(FOLDER_FILE), "{").expect("written");
        let text = format!("{:?}", Slots::open(dir.path(), 1).expect_err("broken"));
        assert!(text.contains(".folder") && text.contains("or delete it"), "{text}");
    }

    #[test]
    fn a_full_disk_heals_and_a_forbidden_one_does_not() {
        let heals = |kind: ErrorKind| unwritable(Path::new("log"), kind.into()).is_transient();
        assert!([ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::Interrupted].map(heals) == [true; 3]);
        assert!(!heals(ErrorKind::PermissionDenied));
    }
}
