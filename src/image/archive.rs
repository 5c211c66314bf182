//! Images from archives: `docker save` in both its forms, OCI archives and OCI layout folders, compressed or not.
//!
//! An archive says late what is in it, so it is read from where it lies, and spooled into the store's scratch folder
//! only when it comes compressed or as a stream. Names within it are keys of a table and never paths of ours.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::FileExt as _,
    path::PathBuf,
    sync::Arc,
};

use oci_spec::image::{Descriptor, ImageManifest};
use serde::Deserialize;

use super::{
    ImageError, ImageSummary, Progress, Reference, Store, Version,
    decompress::{Meter, Metered, decompressed},
    manifest::{self, Configuration, Document, LONGEST_DOCUMENT},
    store::{Incoming, Scratch},
    unpack::Layer,
};

/// The most members of an archive; an image has a handful for each of its layers.
const MOST_MEMBERS: usize = 10_000;
/// Room for the headers of one member.
const MEMBER_METADATA: u64 = 1 << 20;
/// Indexes within indexes, and links to links.
const DEEPEST: usize = 4;

/// Where an archive comes from.
pub enum Source {
    /// A file, or a folder with an OCI layout.
    Path(PathBuf),
    /// A stream, such as standard input.
    Stream(Box<dyn Read + Send>),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => f.debug_tuple("Path").field(path).finish(),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

impl Store {
    /// Takes in the images of an archive under the names that it gives them, or its one image under `name`.
    ///
    /// # Errors
    /// When it is no archive of an image, names none, is for another machine, or is refused for what is in it.
    pub async fn import(
        &self,
        source: Source,
        name: Option<&str>,
        progress: Arc<dyn Progress>,
    ) -> Result<Vec<ImageSummary>, ImageError> {
        let name = name.map(str::parse::<Reference>).transpose()?;
        self.collect()?;
        let store = self.clone();
        let (archive, images) = blocking(move || {
            let archive = Archive::open(&store, source)?;
            let images = archive.images(name)?;
            Ok((Arc::new(archive), images))
        })
        .await?;
        let mut summaries = Vec::new();
        for (incoming, members) in images {
            let _work = self.work("image", &incoming.configuration.digest, Some(&*progress)).await?;
            if let Some(named) = self.attach(&incoming)? {
                summaries.extend(named);
                continue;
            }
            let (store, archive, progress) = (self.clone(), archive.clone(), progress.clone());
            let named = blocking(move || {
                let layers = members.into_iter().map(|member| archive.layer(member)).collect::<Result<_, _>>()?;
                store.install(&incoming, layers, &progress)
            });
            summaries.extend(named.await?);
        }
        Ok(summaries)
    }
}

/// Runs what blocks; a panic in it goes on here.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

struct Archive {
    shown: String,
    files: Files,
    /// Keeps the spooled file.
    _scratch: Option<Scratch>,
}

enum Files {
    Folder(PathBuf),
    Tar { file: Arc<File>, members: HashMap<String, Member> },
}

enum Member {
    At { start: u64, size: u64 },
    Link(String),
}

/// A layer by its name in the archive.
struct LayerName {
    name: String,
    /// What the manifest says of it, which an archive of Docker's older form does not.
    declared: Option<(String, u64)>,
}

/// An image of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct LayoutIndex {
    manifests: Vec<Descriptor>,
}

type Images = Vec<(Incoming, Vec<LayerName>)>;

impl Archive {
    fn open(store: &Store, source: Source) -> Result<Self, ImageError> {
        let (shown, stream): (String, Box<dyn Read>) = match source {
            Source::Stream(stream) => ("-".to_owned(), stream),
            Source::Path(path) => {
                let shown = path.display().to_string();
                if path.is_dir() {
                    return Ok(Self { shown, files: Files::Folder(path), _scratch: None });
                }
                let file = File::open(&path).map_err(ImageError::io(path.clone()))?;
                let mut start = [0; 512];
                let plain = file.metadata().is_ok_and(|metadata| metadata.is_file())
                    && file.read_exact_at(&mut start, 0).is_ok()
                    && start[257..].starts_with(b"ustar");
                if plain {
                    let files = index(&shown, file)?;
                    return Ok(Self { shown, files, _scratch: None });
                }
                (shown, Box::new(file))
            }
        };
        let scratch = store.scratch()?;
        let path = scratch.path.join("spool");
        let mut spool = File::create_new(&path).map_err(ImageError::io(path.clone()))?;
        let limit = Meter::new(store.limits.bytes);
        let copied = decompressed(stream)
            .and_then(|content| io::copy(&mut Metered::new(content, limit.clone()), &mut spool))
            .and_then(|_| File::open(&path));
        let file = copied.map_err(|error| ImageError::Archive {
            archive: shown.clone(),
            why: if limit.is_exhausted() {
                format!("it is longer than {} bytes; if you trust it, allow more with `--max-size`", store.limits.bytes)
            } else {
                format!("it cannot be read to its end: {error}")
            },
        })?;
        let files = index(&shown, file)?;
        Ok(Self { shown, files, _scratch: Some(scratch) })
    }

    /// The images in it, and where their layers are.
    fn images(&self, name: Option<Reference>) -> Result<Images, ImageError> {
        let mut images = if self.has("manifest.json") {
            self.saved()?
        } else if self.has("index.json") {
            self.layout()?
        } else {
            return Err(self.refuse(
                "there is no `manifest.json` and no `index.json` in it; it must come from `docker save`, or be an OCI archive or layout",
            ));
        };
        if let Some(name) = name {
            if matches!(name.version(), Version::Digest(_)) {
                return Err(
                    self.refuse(&format!("`{name}` is pinned to a digest, which only a registry can keep; use a tag"))
                );
            }
            let [(incoming, _)] = images.as_mut_slice() else {
                return Err(self.refuse(&format!("it holds {} images, and `--name` can name one", images.len())));
            };
            incoming.names = vec![name];
        }
        if images.iter().all(|(incoming, _)| incoming.names.is_empty()) {
            return Err(self.refuse("it gives its image no name; give it one with `--name`"));
        }
        images.retain(|(incoming, _)| !incoming.names.is_empty());
        Ok(images)
    }

    /// What `docker save` wrote, in both its forms.
    fn saved(&self) -> Result<Images, ImageError> {
        let all: Vec<Saved> = manifest::parse("manifest", &self.document("manifest.json")?)?;
        let images = all.into_iter().map(|saved| {
            let document = self.document(&saved.config)?;
            let configuration = Configuration::parse(&document)?;
            let names = saved.repo_tags.unwrap_or_default();
            let names = names.iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
            let layers = saved.layers.into_iter().map(|name| LayerName { name, declared: None }).collect();
            Ok((Incoming { names, manifest: None, configuration, document }, layers))
        });
        images.collect()
    }

    /// An OCI layout: its entries by name, one of them for this machine each.
    fn layout(&self) -> Result<Images, ImageError> {
        let index: LayoutIndex = manifest::parse("index", &self.document("index.json")?)?;
        let mut groups: BTreeMap<Option<String>, Vec<Descriptor>> = BTreeMap::new();
        for descriptor in index.manifests {
            groups.entry(name_of(&descriptor)).or_default().push(descriptor);
        }
        let images = groups.into_iter().map(|(name, descriptors)| {
            let descriptor = if let [one] = descriptors.as_slice() { one } else { manifest::choose(&descriptors)? };
            let (manifest, digest) = self.manifest(descriptor)?;
            let document = self.blob(manifest.config())?;
            let configuration = Configuration::parse(&document)?;
            let names = name.iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
            let layers = manifest.layers().iter().map(|layer| {
                Ok(LayerName { name: blob_name(layer)?, declared: Some((manifest::sha256(layer)?, layer.size())) })
            });
            let layers = layers.collect::<Result<_, ImageError>>()?;
            Ok((Incoming { names, manifest: Some(digest), configuration, document }, layers))
        });
        images.collect()
    }

    /// The manifest that a descriptor leads to, through indexes, and its digest.
    fn manifest(&self, descriptor: &Descriptor) -> Result<(ImageManifest, String), ImageError> {
        let mut descriptor = descriptor.clone();
        for _ in 0..DEEPEST {
            match Document::parse(&self.blob(&descriptor)?)? {
                Document::Manifest(manifest) => return Ok((*manifest, manifest::sha256(&descriptor)?)),
                Document::Index(index) => descriptor = manifest::choose(index.manifests())?.clone(),
            }
        }
        Err(self.refuse("its indexes lead to indexes without an end"))
    }

    /// A document by its descriptor, checked.
    fn blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let name = blob_name(descriptor)?;
        let bytes = self.document(&name)?;
        manifest::verify(&name, &bytes, &manifest::sha256(descriptor)?)?;
        Ok(bytes)
    }

    fn document(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let (content, size) = self.member(name)?;
        if size > LONGEST_DOCUMENT {
            return Err(self.refuse(&format!("`{name}` is {size} bytes long, and {LONGEST_DOCUMENT} are the most")));
        }
        let mut bytes = Vec::new();
        content.take(LONGEST_DOCUMENT).read_to_end(&mut bytes).map_err(ImageError::io(name))?;
        Ok(bytes)
    }

    fn layer(&self, layer: LayerName) -> Result<Layer, ImageError> {
        let (content, size) = self.member(&layer.name)?;
        let digest = match layer.declared {
            None => None,
            Some((digest, declared)) if declared == size => Some(digest),
            Some((digest, declared)) => {
                return Err(
                    self.refuse(&format!("layer {digest} is {size} bytes long, not {declared} as the manifest says"))
                );
            }
        };
        Ok(Layer { content, size, digest })
    }

    fn has(&self, name: &str) -> bool {
        match &self.files {
            Files::Folder(folder) => folder.join(name).is_file(),
            Files::Tar { members, .. } => members.contains_key(name),
        }
    }

    fn member(&self, name: &str) -> Result<(Box<dyn Read + Send>, u64), ImageError> {
        let missing = || self.refuse(&format!("`{name}` is not in it"));
        match &self.files {
            Files::Folder(folder) => {
                // Only documents of ours and blobs, whose names are digits, are ever asked for in a folder.
                let path = folder.join(normal(name).ok_or_else(missing)?);
                let file = File::open(&path).map_err(ImageError::io(path.clone()))?;
                let size = file.metadata().map_err(ImageError::io(path))?.len();
                Ok((Box::new(file), size))
            }
            Files::Tar { file, members } => {
                let mut name = normal(name).ok_or_else(missing)?;
                for _ in 0..DEEPEST {
                    match members.get(&name).ok_or_else(missing)? {
                        Member::At { start, size } => {
                            return Ok((Box::new(Piece { file: file.clone(), at: *start, end: start + size }), *size));
                        }
                        Member::Link(target) => name.clone_from(target),
                    }
                }
                Err(missing())
            }
        }
    }

    fn refuse(&self, why: &str) -> ImageError {
        ImageError::Archive { archive: self.shown.clone(), why: why.to_owned() }
    }
}

/// The table of an archive's members.
fn index(shown: &str, file: File) -> Result<Files, ImageError> {
    let refuse = |why: String| ImageError::Archive { archive: shown.to_owned(), why };
    let broken = |error: io::Error| refuse(format!("it is not a tar archive, or a broken one: {error}"));
    let file = Arc::new(file);
    let meter = Meter::new(MEMBER_METADATA);
    let mut archive = tar::Archive::new(Metered::new(Whole { file: file.clone(), at: 0 }, meter.clone()));
    let mut entries = archive.entries_with_seek().map_err(broken)?;
    let mut members = HashMap::new();
    loop {
        meter.set(MEMBER_METADATA);
        let Some(entry) = entries.next() else { break };
        let entry = entry.map_err(broken)?;
        if members.len() >= MOST_MEMBERS {
            return Err(refuse(format!("it has more than {MOST_MEMBERS} members")));
        }
        let Some(name) = normal(&String::from_utf8_lossy(&entry.path_bytes())) else { continue };
        let kind = entry.header().entry_type();
        if kind.is_file() {
            members.insert(name, Member::At { start: entry.raw_file_position(), size: entry.size() });
        } else if kind.is_symlink() || kind.is_hard_link() {
            // Older Docker writes a layer that two images share once, and a link.
            let target = entry.link_name_bytes().unwrap_or_default();
            let target = String::from_utf8_lossy(&target);
            let folder = if kind.is_symlink() { name.rsplit_once('/').map_or("", |(folder, _)| folder) } else { "" };
            if let Some(target) = normal(&format!("{folder}/{target}")) {
                members.insert(name, Member::Link(target));
            }
        }
    }
    Ok(Files::Tar { file, members })
}

/// The name without `.` and `..`; none for one that climbs out.
fn normal(name: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The name that an entry of a layout has, when it has a whole one: some tools write only the tag.
fn name_of(descriptor: &Descriptor) -> Option<String> {
    let annotations = descriptor.annotations().as_ref()?;
    let whole = |name: &&String| name.contains(['/', ':']);
    let name = annotations.get("io.containerd.image.name");
    name.or_else(|| annotations.get("org.opencontainers.image.ref.name").filter(whole)).cloned()
}

fn blob_name(descriptor: &Descriptor) -> Result<String, ImageError> {
    Ok(format!("blobs/{}", manifest::sha256(descriptor)?.replace(':', "/")))
}

/// A part of a file that several read at once.
struct Piece {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Piece {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// A file with a position of its own.
struct Whole {
    file: Arc<File>,
    at: u64,
}

impl Read for Whole {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Whole {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        let target = match position {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.file.metadata()?.len().checked_add_signed(by),
        };
        self.at = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
