//! Advisory locks on files of the store: other processes see them, and the kernel frees them with a killed holder.
//!
//! A lock file can be renamed away or removed by its holder; each lock is therefore checked to still be the one at its
//! path before it counts.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::FlockOperation;

/// How often a waiting task looks again.
const AGAIN: Duration = Duration::from_millis(20);

/// A lock for one piece of work; its file goes with it.
#[derive(Debug)]
pub(super) struct Work {
    path: PathBuf,
    _file: File,
}

impl Work {
    /// Takes the lock when nobody has it.
    pub(super) fn attempt(path: &Path) -> io::Result<Option<Self>> {
        let file = attempt(path, true, FlockOperation::NonBlockingLockExclusive)?;
        Ok(file.map(|file| Self { path: path.to_owned(), _file: file }))
    }

    /// Waits until nobody else has it; calls `waiting` once when it has to.
    pub(super) async fn acquire(path: &Path, waiting: impl FnOnce()) -> io::Result<Self> {
        let mut waiting = Some(waiting);
        loop {
            if let Some(work) = Self::attempt(path)? {
                return Ok(work);
            }
            if let Some(waiting) = waiting.take() {
                waiting();
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // Removed while it is still held: whoever waits for it finds another file at the path and starts over.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Locks the file at `path` without waiting; none when somebody holds it the other way.
///
/// # Errors
/// `NotFound` when it is not there and is not to be made.
pub(super) fn attempt(path: &Path, make: bool, how: FlockOperation) -> io::Result<Option<File>> {
    loop {
        // A lock needs no right to write: a store that is mounted read-only serves all the same.
        let file = OpenOptions::new().read(true).write(make).create(make).truncate(false).open(path)?;
        match rustix::fs::flock(&file, how) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        match std::fs::metadata(path) {
            Ok(now) if now.ino() == file.metadata()?.ino() => return Ok(Some(file)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound && make => {}
            Err(error) => return Err(error),
        }
    }
}

/// Locks a file that is never removed, and waits for it; for moments only.
pub(super) fn wait(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    loop {
        match rustix::fs::flock(&file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
