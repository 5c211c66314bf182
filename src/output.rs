//! What a cell printed, kept within a cap: the head and the tail stay, the middle is counted.
//!
//! Pure: bytes in, text and counters out. It knows neither cells nor streams.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// One captured stream as the client sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputText {
    /// The text: all of it, or its head, a marker line and its tail. Invalid UTF-8 shows as U+FFFD.
    pub text: String,
    /// Bytes the program wrote.
    pub bytes: u64,
    /// Bytes of these that `text` leaves out.
    pub dropped: u64,
    /// Whether anything was left out.
    pub truncated: bool,
}

impl OutputText {
    /// Bytes of the program's that `text` shows.
    pub fn kept(&self) -> u64 {
        self.bytes - self.dropped
    }

    /// This stream, and what was written to it after.
    #[must_use]
    pub fn then(mut self, next: &Self) -> Self {
        self.text.push_str(&next.text);
        self.bytes += next.bytes;
        self.dropped += next.dropped;
        self.truncated |= next.truncated;
        self
    }
}

/// A buffer that never holds more than its cap, however much is pushed.
#[derive(Debug)]
pub struct CappedOutput {
    head_cap: usize,
    tail_cap: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
}

impl CappedOutput {
    /// A buffer that keeps at most `cap` bytes: the first half of them from the start, the rest from the end.
    pub fn new(cap: usize) -> Self {
        let head_cap = cap.div_ceil(2);
        Self { head_cap, tail_cap: cap - head_cap, head: Vec::new(), tail: VecDeque::new(), total: 0 }
    }

    /// Takes what was written next.
    pub fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let (head, rest) = bytes.split_at(bytes.len().min(self.head_cap - self.head.len()));
        self.head.extend_from_slice(head);
        let rest = &rest[rest.len().saturating_sub(self.tail_cap)..];
        let excess = (self.tail.len() + rest.len()).saturating_sub(self.tail_cap);
        self.tail.drain(..excess);
        self.tail.extend(rest);
    }

    /// Bytes pushed so far.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The text with its accounts.
    pub fn finish(self) -> OutputText {
        let (mut head, tail) = (self.head, Vec::from(self.tail));
        if self.total == (head.len() + tail.len()) as u64 {
            head.extend_from_slice(&tail);
            return OutputText { text: lossy(head), bytes: self.total, dropped: 0, truncated: false };
        }
        let head = &head[..whole_characters(&head)];
        let tail = &tail[continuation_bytes(&tail)..];
        let dropped = self.total - (head.len() + tail.len()) as u64;
        let text = format!(
            "{}\n... [{dropped} bytes dropped] ...\n{}",
            String::from_utf8_lossy(head),
            String::from_utf8_lossy(tail)
        );
        OutputText { text, bytes: self.total, dropped, truncated: true }
    }
}

/// Turns the bytes of one stream into texts of whole characters while they come, up to a cap.
#[derive(Debug)]
pub struct LiveText {
    left: usize,
    /// The first bytes of a character whose rest has not come.
    held: Vec<u8>,
}

impl LiveText {
    /// Passes on the first `cap` bytes of the stream.
    pub fn new(cap: usize) -> Self {
        Self { left: cap, held: Vec::new() }
    }

    /// The text of what was written next; `None` when no whole character of it is within the cap.
    pub fn push(&mut self, mut bytes: Vec<u8>) -> Option<String> {
        bytes.truncate(self.left);
        self.left -= bytes.len();
        if !self.held.is_empty() {
            self.held.extend_from_slice(&bytes);
            bytes = std::mem::take(&mut self.held);
        }
        self.held = bytes.split_off(whole_characters(&bytes));
        (!bytes.is_empty()).then(|| lossy(bytes))
    }

    /// What is left when the stream has ended: a character that was never completed. One that the cap cut is not shown.
    pub fn finish(&mut self) -> Option<String> {
        let held = std::mem::take(&mut self.held);
        (!held.is_empty() && self.left > 0).then(|| lossy(held))
    }
}

/// The text of `bytes`, without a copy where it is valid.
fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// The length of `bytes` without a character that was cut at its end.
pub fn whole_characters(bytes: &[u8]) -> usize {
    let start = bytes.len().saturating_sub(3);
    for (back, &byte) in bytes[start..].iter().rev().enumerate() {
        let width = match byte {
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            0x80..=0xBF => continue,
            _ => 1,
        };
        return if width > back + 1 { bytes.len() - back - 1 } else { bytes.len() };
    }
    bytes.len()
}

/// How many bytes at the start belong to a character whose first byte is gone.
fn continuation_bytes(bytes: &[u8]) -> usize {
    bytes.iter().take(3).take_while(|&&byte| (0x80..=0xBF).contains(&byte)).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn capped(cap: usize, chunks: &[&[u8]]) -> OutputText {
        let mut output = CappedOutput::new(cap);
        for chunk in chunks {
            output.push(chunk);
        }
        output.finish()
    }

    #[test]
    fn all_of_it_when_it_fits() {
        let output = capped(10, &[b"hello", b"world"]);
        assert_eq!(output, OutputText { text: "helloworld".into(), bytes: 10, dropped: 0, truncated: false });
    }

    #[test]
    fn head_and_tail_when_it_does_not() {
        let output = capped(4, &[b"abcdefgh"]);
        assert_eq!(output.text, "ab\n... [4 bytes dropped] ...\ngh");
        assert_eq!((output.bytes, output.dropped, output.truncated), (8, 4, true));
    }

    #[test]
    fn a_character_is_never_split() {
        let output = capped(6, &["ééééé".as_bytes()]);
        assert_eq!(output.text, "é\n... [6 bytes dropped] ...\né");
    }

    #[test]
    fn nothing_is_kept_at_cap_zero() {
        let output = capped(0, &[b"abc"]);
        assert_eq!((output.bytes, output.dropped), (3, 3));
    }

    #[test]
    fn live_text_holds_a_cut_character_until_its_rest_comes_and_stops_at_the_cap() {
        let mut live = LiveText::new(8);
        assert_eq!(live.push(vec![b'a', 0xC3]), Some("a".into()));
        assert_eq!(live.push(vec![0xA9]), Some("é".into()));
        assert_eq!(live.push(vec![0xE2, 0x82]), None);
        assert_eq!(live.push(vec![b'b', 0xFF, 0xC3, 0xA9]), Some("\u{FFFD}b\u{FFFD}".into()));
        assert_eq!((live.push(b"more".to_vec()), live.finish()), (None, None), "the cap cut the last character");
        let mut live = LiveText::new(8);
        assert_eq!((live.push(vec![0xE2, 0x82]), live.finish()), (None, Some("\u{FFFD}".into())));
    }

    proptest! {
        #[test]
        fn live_text_is_the_streams_text(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6), 0..40)) {
            let mut live = LiveText::new(1000);
            let mut text: String = chunks.iter().filter_map(|chunk| live.push(chunk.clone())).collect();
            text.extend(live.finish());
            let all = chunks.concat();
            prop_assert_eq!(text, String::from_utf8_lossy(&all));
        }

        #[test]
        fn accounts_agree_with_a_plain_buffer(cap in 0usize..64, chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..12)) {
            let all: Vec<u8> = chunks.concat();
            let mut output = CappedOutput::new(cap);
            for chunk in &chunks {
                output.push(chunk);
                prop_assert!(output.head.len() + output.tail.len() <= cap);
            }
            let output = output.finish();
            prop_assert_eq!(output.bytes, all.len() as u64);
            prop_assert_eq!(output.truncated, all.len() > cap);
            if output.truncated {
                let kept = output.bytes - output.dropped;
                // A cut may cost up to three bytes of a character on each side, never more.
                prop_assert!(kept <= cap as u64 && kept + 6 >= cap as u64);
            } else {
                prop_assert_eq!(output.text, String::from_utf8_lossy(&all));
            }
        }

        #[test]
        fn valid_text_stays_valid(cap in 8usize..64, text in "\\PC{0,80}") {
            let output = capped(cap, &[text.as_bytes()]);
            prop_assert_eq!(output.text.contains('\u{FFFD}'), text.contains('\u{FFFD}') && output.text.contains('\u{FFFD}'));
        }
    }
}
