//! All layers of an image, one after the other, into an empty folder.

use std::{
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use super::{
    Event, ImageError, Limits, Progress,
    decompress::Hashing,
    layer::{self, Usage},
    tree::Tree,
};

/// A layer's bytes as they come, compressed or not.
pub(super) struct Layer {
    pub(super) content: Box<dyn Read + Send>,
    /// How many there are.
    pub(super) size: u64,
    /// Their digest, where it has still to be checked.
    pub(super) digest: Option<String>,
}

/// Unpacks the layers, the lowest first, into an empty folder.
pub(super) fn unpack(
    rootfs: &Path,
    diff_ids: &[String],
    layers: Vec<Layer>,
    limits: &Limits,
    progress: &Arc<dyn Progress>,
) -> Result<Usage, ImageError> {
    let count = layers.len();
    if count != diff_ids.len() {
        let why = format!("it counts {} layers, and the manifest {count}", diff_ids.len());
        return Err(ImageError::Manifest { what: "configuration", why });
    }
    let mut tree = Tree::new(rootfs).map_err(ImageError::io(rootfs))?;
    let mut usage = Usage::default();
    for (at, (layer, diff_id)) in layers.into_iter().zip(diff_ids).enumerate() {
        let total = layer.size;
        let refuse =
            |why: Box<dyn std::error::Error + Send + Sync>| ImageError::Layer { layer: at + 1, layers: count, why };
        let report = |bytes| progress.report(Event::Unpacking { layer: at + 1, layers: count, bytes, total });
        let mut watched = Watched { inner: layer.content, bytes: 0, report };
        let Some(expected) = layer.digest else {
            layer::unpack(&mut tree, watched, diff_id, limits, &mut usage).map_err(|why| refuse(why.into()))?;
            continue;
        };
        let mut hashing = Hashing::new(&mut watched);
        layer::unpack(&mut tree, &mut hashing, diff_id, limits, &mut usage).map_err(|why| refuse(why.into()))?;
        let (actual, _) = hashing.finish().map_err(|error| refuse(error.into()))?;
        if actual != expected {
            return Err(ImageError::Digest { what: format!("layer {} of {count}", at + 1), expected, actual });
        }
    }
    tree.finish().map_err(ImageError::io(rootfs))?;
    Ok(usage)
}

/// Reports how much has been read.
struct Watched<R, F> {
    inner: R,
    bytes: u64,
    report: F,
}

impl<R: Read, F: Fn(u64)> Read for Watched<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes += read as u64;
        (self.report)(self.bytes);
        Ok(read)
    }
}
