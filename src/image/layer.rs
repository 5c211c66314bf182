//! Unpacks one layer, a tar stream from anyone, onto the tree of the layers below it.
//!
//! Bounds what it takes in bytes, files and memory, and proves the layer's content by its digest.

use std::io::{self, Read};

use tar::{Entry, EntryType};

use super::{
    Limits,
    decompress::{Hashing, Meter, Metered, decompressed},
    tree::{EntryPath, Meta, Tree, TreeError},
};

/// Room for the names, times and extended headers of one entry.
const ENTRY_METADATA: u64 = 1 << 20;
/// Room in the stream for the headers and the padding of one entry, on the average.
const ENTRY_OVERHEAD: u64 = 4 << 10;
/// The mark of an entry that hides one of a lower layer.
const WHITEOUT: &[u8] = b".wh.";
/// The name of an entry that hides everything of lower layers in its folder.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Names that an older storage driver kept for itself.
const WHITEOUT_META: &[u8] = b".wh..wh.";

/// What the layers of one image have taken so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// Sum of the files' lengths, holes included.
    pub(super) bytes: u64,
    /// Entries of all kinds.
    pub(super) entries: u64,
}

/// Why a layer is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum LayerError {
    #[error("the stream is broken: {0}")]
    Stream(#[source] io::Error),
    #[error("entry `{entry}`: {why}")]
    Entry { entry: String, why: &'static str },
    #[error("entry `{entry}`: {error}")]
    Tree {
        entry: String,
        #[source]
        error: TreeError,
    },
    #[error("the image unpacks to more than {0} bytes; if you trust it, allow more with `--max-size`")]
    Bytes(u64),
    #[error("the image has more than {0} files")]
    Entries(u64),
    #[error("entry `{entry}` is {size} bytes long, more than the {limit} of one file")]
    File { entry: String, size: u64, limit: u64 },
    #[error("the names and headers of one entry take more than {ENTRY_METADATA} bytes")]
    Metadata,
    #[error("its content is {actual}, but the image's configuration says {expected}")]
    Content { expected: String, actual: String },
}

/// Unpacks a layer whose uncompressed content must have the digest `diff_id`.
pub(super) fn unpack(
    tree: &mut Tree,
    layer: impl Read,
    diff_id: &str,
    limits: &Limits,
    usage: &mut Usage,
) -> Result<(), LayerError> {
    tree.next_layer();
    let overhead = limits.entries.saturating_sub(usage.entries).saturating_add(16).saturating_mul(ENTRY_OVERHEAD);
    let whole = Meter::new(limits.bytes.saturating_sub(usage.bytes).saturating_add(overhead));
    let content = decompressed(layer).map_err(LayerError::Stream)?;
    let mut content = Hashing::new(Metered::new(content, whole.clone()));
    let stream_error = |error| {
        if whole.is_exhausted() { LayerError::Bytes(limits.bytes) } else { LayerError::Stream(error) }
    };
    let meter = Meter::new(ENTRY_METADATA);
    let mut archive = tar::Archive::new(Metered::new(&mut content, meter.clone()));
    let mut entries = archive.entries().map_err(stream_error)?;
    loop {
        // The archive reader keeps extended headers in memory, however long they say they are.
        meter.set(ENTRY_METADATA);
        let mut entry = match entries.next() {
            None => break,
            Some(Err(_)) if meter.is_exhausted() => return Err(LayerError::Metadata),
            Some(entry) => entry.map_err(stream_error)?,
        };
        meter.set(u64::MAX);
        usage.entries += 1;
        if usage.entries > limits.entries {
            return Err(LayerError::Entries(limits.entries));
        }
        match apply(tree, &mut entry, limits, usage) {
            // What looks like a failing write is a failing read when the stream has run out.
            Err(LayerError::Tree { .. }) if whole.is_exhausted() => return Err(LayerError::Bytes(limits.bytes)),
            applied => applied?,
        }
        io::copy(&mut entry, &mut io::sink()).map_err(stream_error)?;
    }
    let (actual, _) = content.finish().map_err(stream_error)?;
    if actual == diff_id { Ok(()) } else { Err(LayerError::Content { expected: diff_id.to_owned(), actual }) }
}

/// Carries out one entry.
fn apply(
    tree: &mut Tree,
    entry: &mut Entry<'_, impl Read>,
    limits: &Limits,
    usage: &mut Usage,
) -> Result<(), LayerError> {
    let raw = entry.path_bytes().into_owned();
    let shown = String::from_utf8_lossy(&raw).into_owned();
    let refuse = |why| LayerError::Entry { entry: shown.clone(), why };
    let in_tree = |error| LayerError::Tree { entry: shown.clone(), error };
    let path = entry_path(&raw).map_err(refuse)?;
    if let Some(hidden) = path.name.strip_prefix(WHITEOUT) {
        if path.name == OPAQUE {
            return tree.opaque(&path.parent).map_err(in_tree);
        }
        if path.name.starts_with(WHITEOUT_META) {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(refuse("it hides no name"));
        }
        return tree.whiteout(&EntryPath { name: hidden.to_vec(), ..path }).map_err(in_tree);
    }
    let extended = Extended::of(entry).map_err(refuse)?;
    let header = entry.header();
    let meta = meta(header, &extended).ok_or_else(|| refuse("its header is broken"))?;
    let kind = match header.entry_type() {
        // Archives of before 1988 mark folders by a slash only.
        EntryType::Regular if raw.ends_with(b"/") => EntryType::Directory,
        kind => kind,
    };
    let link = |entry: &Entry<'_, _>| entry.link_name_bytes().map(std::borrow::Cow::into_owned);
    match kind {
        EntryType::Directory => tree.folder(&path, meta).map_err(in_tree),
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            let size = entry.size();
            if size > limits.file {
                return Err(LayerError::File { entry: shown, size, limit: limits.file });
            }
            usage.bytes = usage.bytes.saturating_add(size);
            if usage.bytes > limits.bytes {
                return Err(LayerError::Bytes(limits.bytes));
            }
            tree.file(&path, meta, entry).map_err(in_tree)
        }
        EntryType::Symlink => {
            let target = link(entry).ok_or_else(|| refuse("it is a link without a target"))?;
            tree.symlink(&path, &target, meta).map_err(in_tree)
        }
        EntryType::Link => {
            let target = link(entry).ok_or_else(|| refuse("it is a link without a target"))?;
            let target = entry_path(&target).map_err(|_| refuse("its hard link's target climbs out"))?;
            tree.hard_link(&path, &target).map_err(in_tree)
        }
        // A sandbox has the devices that its runtime gives it, and a pipe that others can open is a channel.
        EntryType::Char | EntryType::Block | EntryType::Fifo | EntryType::XGlobalHeader => Ok(()),
        _ => Err(refuse("it is of a kind that images do not have")),
    }
}

/// The path below the root: leading slashes and `.` are dropped, as the root is the archive's world.
fn entry_path(raw: &[u8]) -> Result<EntryPath, &'static str> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in raw.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err("it climbs out with `..`"),
            part if part.contains(&0) => return Err("it has a zero byte"),
            part => parts.push(part),
        }
    }
    let name = parts.pop().unwrap_or_default().to_vec();
    Ok(EntryPath { parent: parts.join(&b'/'), name })
}

/// What extended headers say beyond what the archive reader takes from them.
#[derive(Default)]
struct Extended {
    seconds: Option<i64>,
    nanoseconds: u32,
}

impl Extended {
    fn of(entry: &mut Entry<'_, impl Read>) -> Result<Self, &'static str> {
        let mut extended = Self::default();
        let Some(pairs) = entry.pax_extensions().map_err(|_| "its extended header is broken")? else {
            return Ok(extended);
        };
        for pair in pairs {
            let pair = pair.map_err(|_| "its extended header is broken")?;
            match pair.key_bytes() {
                b"mtime" => {
                    let text = pair.value().unwrap_or_default();
                    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
                    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
                    extended.seconds = seconds.parse().ok();
                    extended.nanoseconds = digits.parse().unwrap_or(0);
                }
                // Its content would be the map of the holes and the data mixed.
                key if key.starts_with(b"GNU.sparse.") => return Err("it is a sparse file in a form that is not read"),
                _ => {}
            }
        }
        Ok(extended)
    }
}

fn meta(header: &tar::Header, extended: &Extended) -> Option<Meta> {
    let id = |id: io::Result<u64>| id.ok().and_then(|id| u32::try_from(id).ok()).filter(|id| *id != u32::MAX);
    Some(Meta {
        mode: header.mode().ok()?,
        uid: id(header.uid())?,
        gid: id(header.gid())?,
        seconds: extended.seconds.or_else(|| i64::try_from(header.mtime().ok()?).ok())?,
        nanoseconds: extended.nanoseconds,
    })
}

#[cfg(test)]
mod tests;
