//! Newline-delimited frames with a bound, for both protocols: the client's and the kernel's.
//!
//! Pure framing. A line over the limit is an *item*, not an error: `FramedRead` ends its stream after a decoder's
//! error, and one long line must not close a connection.

use bytes::{Buf, Bytes, BytesMut};
use tokio_util::codec::Decoder;

/// What a stream of lines consists of.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// One line without its `\n` and without a `\r` before it.
    Line(Bytes),
    /// A line that went over the limit, reported when its end (or the end of input) came. Its bytes are gone.
    TooLong,
}

/// Cuts a byte stream into lines of at most `max` bytes; holds at most `max` bytes and one read's worth.
#[derive(Debug)]
pub struct LineDecoder {
    max: usize,
    /// Bytes at the front of the buffer already known to hold no newline.
    searched: usize,
    /// The current line is over the limit: drop its bytes up to the next newline.
    skipping: bool,
}

impl LineDecoder {
    /// A decoder for lines of at most `max` bytes, newline not counted.
    pub fn new(max: usize) -> Self {
        Self { max, searched: 0, skipping: false }
    }
}

impl Decoder for LineDecoder {
    type Item = Frame;
    type Error = std::io::Error;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, Self::Error> {
        let newline = buffer[self.searched..].iter().position(|&byte| byte == b'\n');
        let Some(at) = newline.map(|offset| self.searched + offset) else {
            // One byte more than the limit may be a `\r`.
            if self.skipping || buffer.len() > self.max + 1 {
                self.skipping = true;
                buffer.clear();
            }
            self.searched = buffer.len();
            return Ok(None);
        };
        self.searched = 0;
        let mut line = buffer.split_to(at);
        buffer.advance(1);
        if line.last() == Some(&b'\r') {
            line.truncate(line.len() - 1);
        }
        let too_long = std::mem::take(&mut self.skipping) || line.len() > self.max;
        Ok(Some(if too_long { Frame::TooLong } else { Frame::Line(line.freeze()) }))
    }

    fn decode_eof(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, Self::Error> {
        if let Some(frame) = self.decode(buffer)? {
            return Ok(Some(frame));
        }
        if std::mem::take(&mut self.skipping) {
            return Ok(Some(Frame::TooLong));
        }
        self.searched = 0;
        let rest = buffer.split().freeze();
        Ok(match rest.len() {
            0 => None,
            length if length > self.max => Some(Frame::TooLong),
            _ => Some(Frame::Line(rest)),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(max: usize, chunks: &[&[u8]]) -> Vec<Frame> {
        let (mut decoder, mut buffer, mut frames) = (LineDecoder::new(max), BytesMut::new(), Vec::new());
        for chunk in chunks {
            buffer.extend_from_slice(chunk);
            while let Some(frame) = decoder.decode(&mut buffer).expect("framing cannot fail") {
                frames.push(frame);
            }
        }
        while let Some(frame) = decoder.decode_eof(&mut buffer).expect("framing cannot fail") {
            frames.push(frame);
        }
        frames
    }

    fn line(text: &str) -> Frame {
        Frame::Line(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn lines_end_at_newline_or_end_of_input() {
        assert_eq!(decode(9, &[b"a\nb", b"c\r\n\nend"]), [line("a"), line("bc"), line(""), line("end")]);
    }

    #[test]
    fn a_long_line_is_one_item_and_the_next_line_is_read() {
        assert_eq!(
            decode(4, &[b"12345", b"6789", b"0\nok\n12345\n1234\r\n"]),
            [Frame::TooLong, line("ok"), Frame::TooLong, line("1234")]
        );
        assert_eq!(decode(4, &[b"123456789"]), [Frame::TooLong]);
    }

    proptest! {
        #[test]
        fn chunking_changes_nothing(max in 1usize..20, bytes in prop::collection::vec(prop::sample::select(b"ab\r\n".to_vec()), 0..200), cuts in prop::collection::vec(1usize..9, 0..60)) {
            let (mut rest, mut chunks) = (&bytes[..], Vec::new());
            for cut in cuts {
                let (chunk, after) = rest.split_at(cut.min(rest.len()));
                chunks.push(chunk);
                rest = after;
            }
            chunks.push(rest);
            prop_assert_eq!(decode(max, &chunks), decode(max, &[&bytes]));
        }
    }
}
