//! Any bytes in any chunks give the same frames, and no frame is over the limit.
#![no_main]

use bytes::BytesMut;
use cellblock::lines::{Frame, LineDecoder};
use libfuzzer_sys::fuzz_target;
use tokio_util::codec::Decoder;

const MAX: usize = 16;

fn decode<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Vec<Frame> {
    let (mut decoder, mut buffer, mut frames) = (LineDecoder::new(MAX), BytesMut::new(), Vec::new());
    for chunk in chunks {
        buffer.extend_from_slice(chunk);
        while let Some(frame) = decoder.decode(&mut buffer).unwrap() {
            frames.push(frame);
        }
        assert!(buffer.len() <= MAX + 1);
    }
    while let Some(frame) = decoder.decode_eof(&mut buffer).unwrap() {
        frames.push(frame);
    }
    frames
}

fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = input;
    let whole = decode(std::iter::once(bytes));
    assert_eq!(whole, decode(bytes.chunks(usize::from(size).max(1))));
    assert!(whole.iter().all(|frame| !matches!(frame, Frame::Line(line) if line.len() > MAX)));
});
