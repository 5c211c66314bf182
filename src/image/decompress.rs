//! Readers for hostile streams: gzip or zstd by the first bytes, hashes and bounds on the way.

use std::{
    cell::Cell,
    io::{self, BufRead, BufReader, Read, Seek},
    rc::Rc,
};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};
use sha2::{Digest as _, Sha256};

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// The first bytes of a zstd frame without content, of which an archive may begin with one.
const ZSTD_SKIPPABLE: (u32, u32) = (0x184D_2A50, 0x184D_2A5F);

/// The content of a stream that may be compressed.
///
/// # Errors
/// When the first bytes cannot be read.
pub(super) fn decompressed<'a>(source: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut source = BufReader::with_capacity(64 << 10, source);
    let mut start = [0; 4];
    // One fill is enough: it ends short only at the end of the stream or for a source that trickles, so look again.
    let mut seen = 0;
    while seen < start.len() {
        match source.read(&mut start[seen..])? {
            0 => break,
            read => seen += read,
        }
    }
    let whole = BufReader::with_capacity(64 << 10, io::Cursor::new(start[..seen].to_vec()).chain(source));
    let number = u32::from_le_bytes(start);
    Ok(if start.starts_with(GZIP) {
        Box::new(MultiGzDecoder::new(whole))
    } else if start.starts_with(ZSTD) || (ZSTD_SKIPPABLE.0..=ZSTD_SKIPPABLE.1).contains(&number) {
        Box::new(Zstd { source: whole, frame: FrameDecoder::new(), inside: false })
    } else {
        Box::new(whole)
    })
}

/// All frames of a zstd stream.
struct Zstd<R> {
    source: R,
    frame: FrameDecoder,
    inside: bool,
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.inside {
                if self.frame.can_collect() == 0 && !self.frame.is_finished() {
                    let step = BlockDecodingStrategy::UptoBlocks(1);
                    self.frame.decode_blocks(&mut self.source, step).map_err(io::Error::other)?;
                }
                let read = self.frame.read(buffer)?;
                if read > 0 || buffer.is_empty() {
                    return Ok(read);
                }
                self.inside = !self.frame.is_finished();
            } else if self.source.fill_buf()?.is_empty() {
                return Ok(0);
            } else {
                match self.frame.reset(&mut self.source) {
                    Ok(()) => self.inside = true,
                    Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                        length, ..
                    })) => {
                        io::copy(&mut self.source.by_ref().take(length.into()), &mut io::sink())?;
                    }
                    Err(error) => return Err(io::Error::other(error)),
                }
            }
        }
    }
}

/// Hashes what is read through it.
pub(super) struct Hashing<R> {
    inner: R,
    hash: Sha256,
    bytes: u64,
}

impl<R: Read> Hashing<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new(), bytes: 0 }
    }

    /// Reads to the end; the digest and the number of bytes.
    pub(super) fn finish(mut self) -> io::Result<(String, u64)> {
        io::copy(&mut self, &mut io::sink())?;
        Ok((hex(&self.hash.finalize()), self.bytes))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

/// A digest as manifests write it.
pub(super) fn hex(hash: &[u8]) -> String {
    use std::fmt::Write as _;
    hash.iter().fold("sha256:".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The digest of bytes in memory.
pub(super) fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// How many bytes a [`Metered`] reader still gives.
#[derive(Clone, Debug)]
pub(super) struct Meter(Rc<Cell<u64>>);

impl Meter {
    pub(super) fn new(bytes: u64) -> Self {
        Self(Rc::new(Cell::new(bytes)))
    }

    pub(super) fn set(&self, bytes: u64) {
        self.0.set(bytes);
    }

    /// Whether the last read failed because nothing was left.
    pub(super) fn is_exhausted(&self) -> bool {
        self.0.get() == 0
    }
}

/// A reader that fails when its meter has run out and there is more.
pub(super) struct Metered<R> {
    inner: R,
    meter: Meter,
}

impl<R> Metered<R> {
    pub(super) fn new(inner: R, meter: Meter) -> Self {
        Self { inner, meter }
    }
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.meter.0.get();
        if left == 0 && !buffer.is_empty() {
            // The end right at the bound is no excess.
            return match self.inner.read(&mut [0])? {
                0 => Ok(0),
                _ => Err(io::Error::other("the bound of this stream is reached")),
            };
        }
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.inner.read(&mut buffer[..most])?;
        self.meter.0.set(left - read as u64);
        Ok(read)
    }
}

impl<R: Seek> Seek for Metered<R> {
    fn seek(&mut self, position: io::SeekFrom) -> io::Result<u64> {
        self.inner.seek(position)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        decompressed(bytes)?.read_to_end(&mut all)?;
        Ok(all)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("in memory")
    }

    #[test]
    fn streams_of_several_members_and_frames_are_read_to_the_end() {
        let text = b"cell ".repeat(10_000);
        let zstd = |bytes: &[u8]| compress_to_vec(bytes, CompressionLevel::Fastest);
        // Tools that index layers put frames without content before or behind the others.
        let skippable = [&0x184D_2A51_u32.to_le_bytes()[..], &3_u32.to_le_bytes(), b"toc"].concat();
        let (front, back) = text.split_at(7);
        for stream in [
            text.clone(),
            gzip(&text),
            [gzip(front), gzip(back)].concat(),
            zstd(&text),
            [zstd(front), skippable.clone(), zstd(back), skippable.clone()].concat(),
            [skippable, zstd(&text)].concat(),
        ] {
            assert_eq!(read(&stream).expect("reads"), text);
        }
        assert_eq!(read(b"").expect("nothing"), b"");
        assert_eq!(read(b"ab").expect("short"), b"ab");
    }

    #[test]
    fn a_cut_stream_is_an_error() {
        let text = b"cell ".repeat(10_000);
        for stream in [gzip(&text), compress_to_vec(text.as_slice(), CompressionLevel::Fastest)] {
            read(&stream[..stream.len() / 2]).expect_err("cut");
        }
    }

    #[test]
    fn a_meter_stops_exactly_at_its_bound() {
        for (bound, fits) in [(4, false), (5, true), (6, true)] {
            let meter = Meter::new(bound);
            let result = Metered::new(&b"12345"[..], meter.clone()).read_to_end(&mut Vec::new());
            assert_eq!(result.is_ok(), fits, "{bound}");
            assert_eq!(meter.is_exhausted(), bound <= 5);
        }
    }
}
