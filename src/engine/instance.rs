//! Which supervisor owns a sandbox, and whether it still lives.
//!
//! Each supervisor holds a lock on `<state dir>/<instance id>.lock` for as long as it lives; the kernel of the
//! machine drops the lock with the process, `kill -9` included. A container names its owner and the state dir's scope;
//! a supervisor judges only owners of its own scope, since it cannot see the locks of another. An engine that keeps
//! files per sandbox keeps them in `<state dir>/<instance id>/`.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

/// This supervisor's identity.
#[derive(Debug)]
pub struct Instance {
    id: String,
    scope: String,
    folder: PathBuf,
    /// Locked while we live.
    _lock: File,
}

/// The state dir cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the state directory `{}` cannot be used: {error}\nhint: name a writable one with `--state-dir`", folder.display())]
pub struct InstanceError {
    folder: PathBuf,
    error: io::Error,
}

impl Instance {
    /// Makes a new identity in `folder`, which supervisors of one machine share.
    ///
    /// # Errors
    /// When the folder cannot be made or written.
    pub fn claim(folder: &Path) -> Result<Self, InstanceError> {
        Self::try_claim(folder).map_err(|error| InstanceError { folder: folder.to_owned(), error })
    }

    fn try_claim(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let id = crate::random_id();
        // Written whole and linked into place: two first starters agree on one scope.
        let (scope_path, draft) = (folder.join("scope"), folder.join(format!("{id}.scope")));
        fs::write(&draft, &id)?;
        let linked = fs::hard_link(&draft, &scope_path);
        fs::remove_file(&draft)?;
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let scope = fs::read_to_string(scope_path)?;
        // Locked under a name that nobody judges, then renamed: no one can see it unlocked.
        let draft = folder.join(format!("{id}.new"));
        let lock = File::create(&draft)?;
        lock.lock()?;
        fs::rename(draft, lock_path(folder, &id))?;
        Ok(Self { id, scope, folder: folder.to_owned(), _lock: lock })
    }

    /// This supervisor's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The id of the state dir.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// Where this supervisor keeps what belongs to its sandboxes. Made before anything else that a dead supervisor
    /// could leave, since the folder is what the next one finds.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make_private_folder(&self) -> Result<PathBuf, InstanceError> {
        let folder = self.private_folder();
        fs::DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(&folder)
            .map_err(|error| InstanceError { folder: folder.clone(), error })?;
        Ok(folder)
    }

    fn private_folder(&self) -> PathBuf {
        self.folder.join(&self.id)
    }

    /// A file that all supervisors of the state dir share, for what they can tell each other.
    pub fn shared_file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The private folders of supervisors that are certainly dead, each with its owner's id.
    pub fn dead_folders(&self) -> Vec<(String, PathBuf)> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
            .filter(|(owner, _)| owner.len() == self.id.len() && self.is_dead(owner, &self.scope))
            .collect()
    }

    /// Whether `owner` is certainly dead.
    pub fn is_dead(&self, owner: &str, scope: &str) -> bool {
        let plain = !owner.is_empty() && owner.bytes().all(|byte| byte.is_ascii_hexdigit());
        plain && scope == self.scope && owner != self.id && !is_locked(&lock_path(&self.folder, owner))
    }

    /// Removes the lock files of dead supervisors; their containers must be gone.
    pub fn forget_dead(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return;
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_some_and(|ending| ending == "lock") && !is_locked(&path) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Empty by now; what is not is left for the next supervisor's look.
        let _ = fs::remove_dir(self.private_folder());
        let _ = fs::remove_file(lock_path(&self.folder, &self.id));
    }
}

fn lock_path(folder: &Path, id: &str) -> PathBuf {
    folder.join(format!("{id}.lock"))
}

/// A file that cannot be opened for another reason than its absence counts as locked: never judge what is unknown.
fn is_locked(path: &Path) -> bool {
    match File::open(path) {
        Ok(file) => matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock | TryLockError::Error(_))),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_owner_is_never_judged_dead() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, two) = (Instance::claim(folder.path()).expect("one"), Instance::claim(folder.path()).expect("two"));
        assert_eq!(one.scope(), two.scope());
        assert!(!one.is_dead(two.id(), two.scope()) && !one.is_dead(one.id(), one.scope()));
        let (id, scope) = (two.id().to_owned(), two.scope().to_owned());
        drop(two);
        assert!(one.is_dead(&id, &scope));
        assert!(!one.is_dead(&id, "another scope"));
        assert!(!one.is_dead("../scope", &scope));
    }
}
