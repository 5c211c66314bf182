//! The messages of the kernel protocol (second half of `protocol.md`), as types.
//!
//! What comes from a kernel is hostile: parsing is strict about shape and every size was bounded by the line's.

use std::collections::BTreeMap;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::{Deserialize, Serialize};

use crate::protocol::{CellError, Value};

/// The version both sides speak.
pub const KERNEL_PROTOCOL: u32 = 1;
/// The longest line in either direction, in bytes.
pub const MAX_KERNEL_LINE: usize = 8 << 20;
/// MIME types of one value.
const MAX_MIME_TYPES: usize = 32;
/// Room for what is not the text itself: the line that marks a cut, a MIME type's name.
const MARKER: usize = 256;
/// What a kernel reports of its sandbox before any user code runs.
pub const PROBE_PATHS: [&str; 4] = ["/proc/version", "/proc/self/status", "/proc/self/mounts", "/proc/net/dev"];

/// Supervisor to kernel.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToKernel<'a> {
    /// Run one cell; only while none runs.
    Execute {
        /// The cell's id, unique within the session.
        cell: &'a str,
        /// Its execution count, from 1.
        count: u64,
        /// Its source.
        code: &'a str,
        /// Bound of each text of the result and of the error, bytes.
        max_value: usize,
    },
    /// Answer `pong` when idle.
    Ping {
        /// Comes back in the `pong`.
        id: &'a str,
    },
}

/// Kernel to supervisor.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromKernel {
    /// Once, before anything else.
    Ready(Ready),
    /// Bytes that the cell or its children wrote.
    Stream(Stream),
    /// The cell is over.
    Done(Box<Done>),
    /// The kernel is idle and alive.
    Pong {
        /// The `ping`'s id.
        id: String,
    },
}

/// The kernel's greeting.
#[derive(Debug, Deserialize)]
pub struct Ready {
    /// The protocol version it speaks.
    pub protocol: u32,
    /// Its language.
    pub kernel: String,
    /// The interpreter's version.
    pub version: String,
    /// The texts of [`PROBE_PATHS`]; null where one cannot be read.
    pub probe: BTreeMap<String, Option<String>>,
}

/// A chunk of captured output.
#[derive(Debug, Deserialize)]
pub struct Stream {
    /// The running cell.
    pub cell: String,
    /// Which descriptor it was written to.
    pub name: StreamName,
    /// The chunk when it is valid UTF-8.
    pub text: Option<String>,
    /// The chunk in base64 when it is not.
    pub data: Option<String>,
}

/// The two captured descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamName {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// How a cell ended, as its kernel tells it.
#[derive(Debug, Deserialize)]
pub struct Done {
    /// The cell that ran.
    pub cell: String,
    /// Whether an exception ended it.
    pub status: DoneStatus,
    /// Whether an interrupt reached it.
    pub interrupted: bool,
    /// The last expression's value.
    pub result: Option<Value>,
    /// The exception.
    pub error: Option<CellError>,
    /// The code with which the program asked to end itself.
    pub exit_code: Option<i32>,
    /// CPU time of the kernel process, milliseconds.
    pub cpu_ms: f64,
    /// Highest resident size of the kernel process since its start, bytes.
    pub memory_peak: Option<u64>,
}

/// The two ways a cell ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DoneStatus {
    /// It ran to its end.
    Ok,
    /// An exception ended it.
    Error,
}

impl Stream {
    /// The chunk's bytes; `None` when it carries neither form or bad base64.
    pub fn into_bytes(self) -> Option<Vec<u8>> {
        match (self.text, self.data) {
            (Some(text), None) => Some(text.into_bytes()),
            (None, Some(data)) => BASE64_STANDARD.decode(data).ok(),
            _ => None,
        }
    }
}

impl Done {
    /// Whether its texts keep to the bound that the cell was sent with.
    pub fn fits(&self, max_value: usize) -> bool {
        let limit = max_value.saturating_add(MARKER);
        let value = self.result.as_ref().is_none_or(|value| {
            value.data.len() <= MAX_MIME_TYPES && value.data.iter().all(|(mime, text)| mime.len() + text.len() <= limit)
        });
        let error = self.error.as_ref().is_none_or(|error| {
            let traceback: usize = error.traceback.iter().map(|line| line.len() + 1).sum();
            [error.name.len(), error.message.len(), traceback].iter().all(|&length| length <= limit)
        });
        value && error
    }
}

/// Parses one line of a kernel; `None` when it is not a message.
pub fn parse(line: &[u8]) -> Option<FromKernel> {
    serde_json::from_slice(line).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn chunks_come_back_as_bytes() {
        let text = br#"{"type":"stream","cell":"1","name":"stdout","text":"h\u00e9"}"#;
        let data = br#"{"type":"stream","cell":"1","name":"stderr","data":"/w=="}"#;
        let both = br#"{"type":"stream","cell":"1","name":"stderr","data":"/w==","text":""}"#;
        let bytes = |line: &[u8]| match parse(line) {
            Some(FromKernel::Stream(stream)) => stream.into_bytes(),
            other => panic!("{other:?}"),
        };
        assert_eq!(bytes(text), Some("hé".as_bytes().to_vec()));
        assert_eq!(bytes(data), Some(vec![0xFF]));
        assert_eq!(bytes(both), None);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for line in
            ["", "1", "[]", "{}", r#"{"type":"dance"}"#, r#"{"type":"pong"}"#, "{\"type\":\"pong\",\"id\":\"\\ud800\"}"]
        {
            assert!(parse(line.as_bytes()).is_none(), "{line}");
        }
    }

    #[test]
    fn a_value_and_an_error_keep_to_their_bound() {
        let done = |text: &str| {
            let line = format!(
                r#"{{"type":"done","cell":"1","status":"ok","interrupted":false,"result":{{"data":{{"text/plain":"{text}"}}}},"error":null,"exit_code":null,"cpu_ms":0,"memory_peak":null}}"#
            );
            match parse(line.as_bytes()) {
                Some(FromKernel::Done(done)) => done,
                other => panic!("{other:?}"),
            }
        };
        assert!(done(&"x".repeat(4096)).fits(4096) && !done(&"x".repeat(5000)).fits(4096));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }
    }
}
