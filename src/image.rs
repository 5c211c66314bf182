//! The image store: ordinary OCI images without a daemon, each unpacked once into a root that all sandboxes share.
//!
//! Images come from a registry ([`Store::pull`]) or from an archive ([`Store::import`]); an engine asks for one by name
//! ([`Store::find`]) and holds the [`Image`] as long as a sandbox uses its root. Everything in an image is hostile:
//! each byte is bounded and proven by its digest, and no entry of a layer reaches beyond its root.
//!
//! | module | what it is |
//! |---|---|
//! | `store`, `lock` | folders, names, who uses what, removal |
//! | `reference` | names as Docker reads them; pure |
//! | `registry`, `archive` | the two sources: a registry's protocol, and archives of Docker and of OCI |
//! | `manifest` | what manifests say, this machine's platform; pure |
//! | `unpack`, `layer`, `tree`, `decompress` | hostile streams into a folder |
//!
//! Knows no terminal, no environment and no engine.

mod archive;
mod decompress;
mod layer;
mod lock;
mod manifest;
mod reference;
mod registry;
mod store;
mod tree;
mod unpack;

use std::{collections::BTreeMap, fs::File, io, path::PathBuf};

use serde::{Deserialize, Serialize};

pub use self::{
    archive::Source,
    reference::{Reference, ReferenceError, Version},
    registry::{Login, PullOptions},
    store::Store,
};

/// An unpacked image, held: its root is not removed while this value lives, nor by other processes.
#[derive(Debug)]
pub struct Image {
    /// Its full name, such as `docker.io/library/python:3.13-slim`.
    pub reference: String,
    /// The digest of its configuration, which Docker calls the image's id; it stands for the root's whole content.
    pub digest: String,
    /// The unpacked root, to be used read-only.
    pub root: PathBuf,
    /// What it says about how its programs are started.
    pub config: ImageConfig,
    /// A shared lock; the kernel drops it with the process, however that ends.
    _hold: File,
}

/// What an image says about how its programs are started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Environment variables as `NAME=value`.
    pub env: Vec<String>,
    /// The folder to start in; empty for the root.
    pub working_dir: String,
    /// User and group as names or numbers; empty for root.
    pub user: String,
    /// The command's fixed beginning.
    pub entrypoint: Vec<String>,
    /// The command's end, or the whole command without an entrypoint.
    pub cmd: Vec<String>,
    /// What its builder noted in it.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// One name of the store.
#[derive(Clone, Debug, Serialize)]
pub struct ImageSummary {
    /// As people write it, such as `python:3.13-slim`.
    pub reference: String,
    /// The digest of its configuration, Docker's image id.
    pub digest: String,
    /// The digest of the manifest that it was pulled by; none for archives without one.
    pub manifest: Option<String>,
    /// Bytes of all files.
    pub size: u64,
    /// Files, folders and links of all layers.
    pub entries: u64,
    /// When it got this name, in seconds since 1970.
    pub added: u64,
    /// What its builder noted in it.
    pub labels: BTreeMap<String, String>,
}

/// What an image may take; beyond it it is refused.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of all files of all layers, and of the archive on its way in.
    pub bytes: u64,
    /// Bytes of one file.
    pub file: u64,
    /// Entries of all layers.
    pub entries: u64,
}

impl Default for Limits {
    /// 16 GiB in all, 8 GiB in one file, a million entries: several times the largest images of data science.
    fn default() -> Self {
        Self { bytes: 16 << 30, file: 8 << 30, entries: 1_000_000 }
    }
}

/// Told how a pull or an import goes on, often and from several threads.
pub trait Progress: Send + Sync {
    /// Must return at once.
    fn report(&self, event: Event<'_>);
}

/// A step of a pull or an import.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// Somebody else is bringing the same image.
    Waiting,
    /// A layer's download has come to `bytes` of `total`.
    Fetching {
        /// The layer's digest.
        layer: &'a str,
        /// So far, with what an earlier attempt had brought.
        bytes: u64,
        /// In the end.
        total: u64,
    },
    /// Layer `layer` of `layers` is being unpacked, of which `bytes` of `total` have been read.
    Unpacking {
        /// From 1.
        layer: usize,
        /// How many there are.
        layers: usize,
        /// So far.
        bytes: u64,
        /// In the end.
        total: u64,
    },
}

/// Why an image cannot be had. Each text quotes the value and says what would be right.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Not an image's name.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The store has no such name.
    #[error("there is no image `{reference}` in the store `{}`{near}\nhint: `cellblock image pull {reference}` or `cellblock image import FILE` brings it", folder.display())]
    NotFound {
        /// The name, as it was asked for.
        reference: String,
        /// The store.
        folder: PathBuf,
        /// Names like it, as a part of the sentence; empty when there is none.
        near: String,
    },
    /// The folder cannot be an image store.
    #[error("`{}` cannot be the image store: {why}; name another folder with `--store`", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why not.
        why: String,
    },
    /// A file of the store or of an archive cannot be used.
    #[error("cannot use `{}`: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        error: io::Error,
    },
    /// Not an image's archive, or a broken one.
    #[error("`{archive}` cannot be imported: {why}")]
    Archive {
        /// Its name.
        archive: String,
        /// Why not.
        why: String,
    },
    /// A manifest, an index or a configuration that is broken or too long.
    #[error("the image's {what} cannot be used: {why}")]
    Manifest {
        /// Which document.
        what: &'static str,
        /// Why not.
        why: String,
    },
    /// No image for this machine.
    #[error("the image is for {found}, and this machine is {wanted}")]
    Platform {
        /// What there is.
        found: String,
        /// What this machine needs.
        wanted: String,
    },
    /// Content is not what its digest says.
    #[error("{what} is broken: its content is {actual}, not {expected}")]
    Digest {
        /// Which content.
        what: String,
        /// What it must be.
        expected: String,
        /// What it is.
        actual: String,
    },
    /// A layer that is refused.
    #[error("layer {layer} of {layers} is refused: {why}")]
    Layer {
        /// From 1.
        layer: usize,
        /// How many there are.
        layers: usize,
        /// Why.
        #[source]
        why: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The registry wants other credentials.
    #[error(
        "`{registry}` does not let us read `{repository}`: {why}\nhint: use `--username NAME --password-stdin`, or `docker login {registry}`; a repository that does not exist can look like this too"
    )]
    Unauthorized {
        /// The registry.
        registry: String,
        /// The repository.
        repository: String,
        /// What it answered.
        why: String,
    },
    /// The registry has no such image.
    #[error("`{registry}` has no image `{reference}`")]
    NoSuchImage {
        /// The registry.
        registry: String,
        /// The name.
        reference: String,
    },
    /// The registry does not answer as it should.
    #[error("pulling from `{registry}` failed: {why}")]
    Registry {
        /// The registry.
        registry: String,
        /// What went wrong.
        why: String,
    },
}

impl ImageError {
    fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::Io { path, error }
    }
}
