//! The folders of a store, the names in it, and who uses what.
//!
//! ```text
//! version             the layout's number
//! lock                taken for moments: naming, removing, making room
//! names/<name>        one record a name, `/` written as `+`
//! roots/<hex>/        an unpacked image by its configuration's digest: rootfs/, config.json, record.json, lock
//! blobs/<hex>[.part]  downloads on their way into a root
//! locks/<kind>-<hex>  held while somebody brings an image or a download
//! tmp/<id>/           work in progress: lock (held by its process), root/
//! ```
//!
//! A root and a name appear by one rename each, so a reader sees all of it or nothing. What a killed process leaves
//! behind is an unlocked folder in `tmp` or a partial download: the first is removed by the next that comes, the second
//! is continued, or removed after a day.

use std::{
    collections::HashSet,
    fs::{DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::{
    Event, Image, ImageConfig, ImageError, ImageSummary, Limits, Progress, Reference,
    lock::{self, Work},
    manifest::Configuration,
    reference::sha256_hex,
    tree::remove_tree,
    unpack::{Layer, unpack},
};

/// The number of this layout.
const VERSION: &str = "1";
const FOLDERS: [&str; 5] = ["names", "roots", "blobs", "locks", "tmp"];
/// How long an interrupted download waits for its continuation.
const PARTIAL_KEPT: Duration = Duration::from_secs(24 * 3600);

/// The image store of one user: unpacked roots, and names for them.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
    pub(super) limits: Limits,
}

/// A file of `names`.
#[derive(Serialize, Deserialize)]
struct Named {
    reference: String,
    digest: String,
    manifest: Option<String>,
    added: u64,
    #[serde(flatten)]
    root: RootRecord,
}

/// What is known of a root.
#[derive(Clone, Serialize, Deserialize)]
struct RootRecord {
    size: u64,
    entries: u64,
    config: ImageConfig,
}

/// An image on its way into the store.
pub(super) struct Incoming {
    pub(super) names: Vec<Reference>,
    pub(super) manifest: Option<String>,
    pub(super) configuration: Configuration,
    /// The configuration's own text.
    pub(super) document: Vec<u8>,
}

/// A folder of work in progress, removed when dropped.
pub(super) struct Scratch {
    pub(super) path: PathBuf,
    _lock: File,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a temporary folder");
        }
    }
}

impl Store {
    /// Opens the store in `folder`, and makes it, private to the user, when it is not there.
    ///
    /// # Errors
    /// When the folder is somebody else's, holds other things or a store of another version, or cannot be made.
    pub fn open(folder: &Path) -> Result<Self, ImageError> {
        let refuse = |why: String| ImageError::Folder { folder: folder.to_owned(), why };
        let failed = |error: io::Error| refuse(error.to_string());
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        let metadata = std::fs::metadata(folder).map_err(failed)?;
        let us = rustix::process::geteuid().as_raw();
        if metadata.uid() != us {
            return Err(refuse(format!("it belongs to user {}, and we are user {us}", metadata.uid())));
        }
        match std::fs::read_to_string(folder.join("version")) {
            Ok(version) if version.trim() == VERSION => {}
            Ok(version) => {
                return Err(refuse(format!("its layout is version `{}`, and we know `{VERSION}`", version.trim())));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                for entry in std::fs::read_dir(folder).map_err(failed)? {
                    let name = entry.map_err(failed)?.file_name();
                    let name = name.to_string_lossy();
                    if !FOLDERS.contains(&&*name) && !name.starts_with("version") && name != "lock" {
                        return Err(refuse(format!("it holds other things, such as `{name}`")));
                    }
                }
                for name in FOLDERS {
                    DirBuilder::new().recursive(true).mode(0o700).create(folder.join(name)).map_err(failed)?;
                }
                let new = folder.join(format!("version.{}", crate::random_id()));
                std::fs::write(&new, VERSION).map_err(failed)?;
                std::fs::rename(&new, folder.join("version")).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        if metadata.mode() & 0o077 != 0 {
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).map_err(failed)?;
        }
        Ok(Self { folder: folder.to_owned(), limits: Limits::default() })
    }

    /// The same store with other bounds for what comes in.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The image with this name, held until the value is dropped. Costs one small read and one lock.
    ///
    /// # Errors
    /// When it is not there; the text says how to get it.
    pub fn find(&self, reference: &str) -> Result<Image, ImageError> {
        let name: Reference = reference.parse()?;
        loop {
            let named = self.read_name(&name)?;
            let root = self.root(&named.digest)?;
            match lock::attempt(&root.join("lock"), false, FlockOperation::NonBlockingLockShared) {
                Ok(Some(hold)) => {
                    return Ok(Image {
                        reference: named.reference,
                        digest: named.digest,
                        root: root.join("rootfs"),
                        config: named.root.config,
                        _hold: hold,
                    });
                }
                // Somebody removed the name after we read it, and is removing the root: look at the name again.
                Ok(None) => std::thread::yield_now(),
                Err(error) if error.kind() == io::ErrorKind::NotFound && !self.name_path(&name).exists() => {}
                Err(error) => return Err(ImageError::Io { path: root, error }),
            }
        }
    }

    /// Every name, in order.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn list(&self) -> Result<Vec<ImageSummary>, ImageError> {
        let mut all: Vec<_> = self.names()?.into_iter().map(Named::summary).collect();
        all.sort_by(|one, other| one.reference.cmp(&other.reference));
        Ok(all)
    }

    /// Takes the name away at once. The root goes when no other name and no living user needs it: now, or by a later
    /// [`Store::collect`].
    ///
    /// # Errors
    /// When there is no such name; the text lists near ones.
    pub fn remove(&self, reference: &str) -> Result<(), ImageError> {
        let name: Reference = reference.parse()?;
        {
            let _lock = self.lock()?;
            self.read_name(&name)?;
            let path = self.name_path(&name);
            std::fs::remove_file(&path).map_err(ImageError::io(path))?;
        }
        self.collect()
    }

    /// Removes what nobody needs any more: roots without a name and a user, what killed processes left, and downloads
    /// that nobody continued for a day. Every pull, import and removal does it too.
    ///
    /// # Errors
    /// When the store cannot be read or changed.
    pub fn collect(&self) -> Result<(), ImageError> {
        let mut gone = Vec::new();
        {
            let _lock = self.lock()?;
            let named: HashSet<String> = self.names()?.into_iter().map(|named| named.digest).collect();
            for root in self.entries("roots")? {
                let digest = format!("sha256:{}", root.file_name().unwrap_or_default().to_string_lossy());
                if !named.contains(&digest)
                    && let Some(lock) = exclusive(&root)?
                {
                    let away = self.folder.join("tmp").join(crate::random_id());
                    std::fs::rename(&root, &away).map_err(ImageError::io(root))?;
                    gone.push((away, lock));
                }
            }
            // Ours were just locked and are not seen as free; neither is the work of living processes.
            for work in self.entries("tmp")? {
                if let Some(lock) = exclusive(&work)? {
                    gone.push((work, lock));
                }
            }
            for lock in self.entries("locks")? {
                Work::attempt(&lock).map_err(ImageError::io(lock))?;
            }
            for blob in self.entries("blobs")? {
                let hex = blob.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                let Ok(metadata) = blob.metadata() else { continue };
                let age = metadata.modified().ok().and_then(|time| time.elapsed().ok()).unwrap_or_default();
                if age > PARTIAL_KEPT {
                    let path = self.folder.join("locks").join(format!("blob-{hex}"));
                    if let Some(_work) = Work::attempt(&path).map_err(ImageError::io(path))? {
                        std::fs::remove_file(&blob).map_err(ImageError::io(blob))?;
                    }
                }
            }
            for name in self.entries("names")?.iter().filter(|path| is_draft(path)) {
                std::fs::remove_file(name).map_err(ImageError::io(name))?;
            }
        }
        for (path, _lock) in gone {
            remove_tree(&path).map_err(ImageError::io(path))?;
        }
        Ok(())
    }

    /// Waits until nobody else brings the `image` or the `blob` with this digest.
    pub(super) async fn work(
        &self,
        kind: &str,
        digest: &str,
        progress: Option<&dyn Progress>,
    ) -> Result<Work, ImageError> {
        let path = self.folder.join("locks").join(format!("{kind}-{}", hex_of(digest)?));
        let waiting = || {
            if let Some(progress) = progress {
                progress.report(Event::Waiting);
            }
        };
        Work::acquire(&path, waiting).await.map_err(ImageError::io(path))
    }

    /// Where a download goes.
    pub(super) fn blob(&self, digest: &str) -> Result<PathBuf, ImageError> {
        Ok(self.folder.join("blobs").join(hex_of(digest)?))
    }

    /// A folder for work in progress.
    pub(super) fn scratch(&self) -> Result<Scratch, ImageError> {
        let path = self.folder.join("tmp").join(crate::random_id());
        // Under the lock, so that nobody takes it for a dead one's before its own lock is held.
        let _lock = self.lock()?;
        DirBuilder::new().mode(0o700).create(&path).map_err(ImageError::io(path.clone()))?;
        match exclusive(&path)? {
            Some(lock) => Ok(Scratch { path, _lock: lock }),
            None => Err(ImageError::io(path)(io::ErrorKind::WouldBlock.into())),
        }
    }

    /// Gives an image its names when its root is there already.
    pub(super) fn attach(&self, incoming: &Incoming) -> Result<Option<Vec<ImageSummary>>, ImageError> {
        let _lock = self.lock()?;
        let record = self.root(&incoming.configuration.digest)?.join("record.json");
        let bytes = match std::fs::read(&record) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(ImageError::io(record.clone()))?,
        };
        let root = serde_json::from_slice(&bytes).map_err(|error| ImageError::io(record)(error.into()))?;
        self.name(incoming, &root).map(Some)
    }

    /// Unpacks an image and gives it its names; blocks. The caller holds the work on its digest.
    pub(super) fn install(
        &self,
        incoming: &Incoming,
        layers: Vec<Layer>,
        progress: &Arc<dyn Progress>,
    ) -> Result<Vec<ImageSummary>, ImageError> {
        let scratch = self.scratch()?;
        let new = scratch.path.join("root");
        let rootfs = new.join("rootfs");
        DirBuilder::new().recursive(true).mode(0o755).create(&rootfs).map_err(ImageError::io(rootfs.clone()))?;
        let usage = unpack(&rootfs, &incoming.configuration.diff_ids, layers, &self.limits, progress)?;
        let record =
            RootRecord { size: usage.bytes, entries: usage.entries, config: incoming.configuration.config.clone() };
        write(&new.join("config.json"), &incoming.document)?;
        write(&new.join("record.json"), &to_json(&record))?;
        write(&new.join("lock"), b"")?;
        // A root is believed as soon as it is there: all of it must have reached the disk before its name does.
        let folder = File::open(&new).map_err(ImageError::io(new.clone()))?;
        rustix::fs::syncfs(&folder).map_err(|error| ImageError::io(new.clone())(error.into()))?;
        let _lock = self.lock()?;
        std::fs::rename(&new, self.root(&incoming.configuration.digest)?).map_err(ImageError::io(new))?;
        self.name(incoming, &record)
    }

    /// Writes the names; under the lock.
    fn name(&self, incoming: &Incoming, root: &RootRecord) -> Result<Vec<ImageSummary>, ImageError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut summaries = Vec::new();
        for reference in &incoming.names {
            let named = Named {
                reference: reference.to_string(),
                digest: incoming.configuration.digest.clone(),
                manifest: incoming.manifest.clone(),
                added: now,
                root: root.clone(),
            };
            let draft = self.folder.join("names").join(format!(".{}", crate::random_id()));
            write(&draft, &to_json(&named))?;
            std::fs::rename(&draft, self.name_path(reference)).map_err(ImageError::io(draft))?;
            summaries.push(named.summary());
        }
        Ok(summaries)
    }

    fn lock(&self) -> Result<File, ImageError> {
        let path = self.folder.join("lock");
        lock::wait(&path).map_err(ImageError::io(path))
    }

    fn root(&self, digest: &str) -> Result<PathBuf, ImageError> {
        Ok(self.folder.join("roots").join(hex_of(digest)?))
    }

    fn name_path(&self, name: &Reference) -> PathBuf {
        // `+` is in no name.
        self.folder.join("names").join(name.to_string().replace('/', "+"))
    }

    fn read_name(&self, name: &Reference) -> Result<Named, ImageError> {
        let path = self.name_path(name);
        match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let near = near(name, &self.list()?);
                Err(ImageError::NotFound { reference: name.familiar(), folder: self.folder.clone(), near })
            }
            Err(error) => Err(ImageError::io(path)(error)),
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| ImageError::io(path)(error.into())),
        }
    }

    fn names(&self) -> Result<Vec<Named>, ImageError> {
        let mut names = Vec::new();
        for path in self.entries("names")?.into_iter().filter(|path| !is_draft(path)) {
            match std::fs::read(&path) {
                // Removed since we read the folder.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(ImageError::io(path)(error)),
                Ok(bytes) => {
                    names.push(serde_json::from_slice(&bytes).map_err(|error| ImageError::io(path)(error.into()))?);
                }
            }
        }
        Ok(names)
    }

    fn entries(&self, folder: &str) -> Result<Vec<PathBuf>, ImageError> {
        let path = self.folder.join(folder);
        let read = || std::fs::read_dir(&path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
        read().map_err(ImageError::io(&path))
    }
}

impl Named {
    fn summary(self) -> ImageSummary {
        let familiar = self.reference.parse::<Reference>().map(|reference| reference.familiar());
        ImageSummary {
            reference: familiar.unwrap_or(self.reference),
            digest: self.digest,
            manifest: self.manifest,
            size: self.root.size,
            entries: self.root.entries,
            added: self.added,
            labels: self.root.config.labels,
        }
    }
}

fn exclusive(folder: &Path) -> Result<Option<File>, ImageError> {
    let path = folder.join("lock");
    lock::attempt(&path, true, FlockOperation::NonBlockingLockExclusive).map_err(ImageError::io(path))
}

fn hex_of(digest: &str) -> Result<&str, ImageError> {
    sha256_hex(digest)
        .ok_or_else(|| ImageError::Manifest { what: "manifest", why: format!("`{digest}` is not a sha256 digest") })
}

fn is_draft(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain texts and numbers")
}

/// Writes a new file and makes sure that it is on the disk.
fn write(path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    let write = || {
        let mut file = File::create_new(path)?;
        io::Write::write_all(&mut file, bytes)?;
        file.sync_all()
    };
    write().map_err(ImageError::io(path))
}

/// Up to three names that may have been meant.
fn near(wanted: &Reference, all: &[ImageSummary]) -> String {
    let wanted = wanted.familiar();
    let mut alike: Vec<_> = all.iter().map(|one| (strsim::jaro_winkler(&wanted, &one.reference), one)).collect();
    alike.retain(|(likeness, one)| {
        *likeness > 0.75 || one.reference.contains(wanted.split(':').next().unwrap_or_default())
    });
    alike.sort_by(|one, other| other.0.total_cmp(&one.0));
    let found: Vec<_> = alike.iter().take(3).map(|(_, one)| format!("`{}`", one.reference)).collect();
    if found.is_empty() { String::new() } else { format!("; near it are {}", found.join(", ")) }
}
