//! The messages of the kernel protocol (second half of `protocol.md`), as types.
//!
//! What comes from a kernel is hostile: parsing is strict about shape and every size was bounded by the line's.

use std::collections::BTreeMap;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::{Deserialize, Serialize};

use crate::protocol::{CellError, Entry, Value};

/// The version both sides speak.
pub const KERNEL_PROTOCOL: u32 = 1;
/// The longest line in either direction, in bytes.
pub const MAX_KERNEL_LINE: usize = 8 << 20;
/// MIME types of one value.
const MAX_MIME_TYPES: usize = 32;
/// Room for what is not the text itself: the line that marks a cut, a MIME type's name.
const MARKER: usize = 256;
/// The most bytes of one file command.
pub const MAX_FILE_CHUNK: usize = 1 << 20;
/// The one MIME type that is cut rather than left out.
const TEXT: &str = "text/plain";
/// What a kernel reports of its sandbox before any user code runs.
pub const PROBE_PATHS: [&str; 4] = ["/proc/version", "/proc/self/status", "/proc/self/mounts", "/proc/net/dev"];

/// How much a cell may say beside its output, bytes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Of each text of its error, and of a bundle's `text/plain`.
    pub max_value: usize,
    /// Of all else in one bundle.
    pub max_media: usize,
}

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
        /// Bound of what a bundle holds beside its text, bytes.
        max_media: usize,
        /// What its standard input holds.
        stdin: Option<&'a str>,
    },
    /// Answer `pong` when idle.
    Ping {
        /// Comes back in the `pong`.
        id: &'a str,
    },
    /// Set environment variables; only while no cell runs. Answered with `pong`.
    Configure {
        /// Comes back in the `pong`.
        id: &'a str,
        /// Names and values.
        env: &'a BTreeMap<String, String>,
    },
    /// Read a range of a file.
    #[serde(rename = "file.read")]
    FileRead {
        /// Comes back in the `file`.
        id: &'a str,
        /// Below `/workspace`.
        path: &'a str,
        /// From where, bytes.
        offset: u64,
        /// How much, at most [`MAX_FILE_CHUNK`].
        length: usize,
    },
    /// Write a range of a file.
    #[serde(rename = "file.write")]
    FileWrite {
        /// Comes back in the `file`.
        id: &'a str,
        /// Below `/workspace`.
        path: &'a str,
        /// To where, bytes.
        offset: u64,
        /// Whether the file is cut to `offset` first.
        truncate: bool,
        /// Base64 of at most [`MAX_FILE_CHUNK`] bytes.
        data: &'a str,
    },
    /// List a folder.
    #[serde(rename = "file.list")]
    FileList {
        /// Comes back in the `file`.
        id: &'a str,
        /// `/workspace` or below it.
        path: &'a str,
        /// Whether folders below it are listed too.
        recursive: bool,
        /// How many entries at most.
        max: usize,
    },
    /// Delete a file or a folder.
    #[serde(rename = "file.delete")]
    FileDelete {
        /// Comes back in the `file`.
        id: &'a str,
        /// Below `/workspace`.
        path: &'a str,
        /// Whether a folder goes with what it holds.
        recursive: bool,
    },
}

/// What a kernel may be able to do beyond cells and streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Displays.
    Display,
    /// Standard input of a cell.
    Stdin,
    /// Environment variables.
    Configure,
    /// File commands.
    Files,
}

impl Capability {
    /// Its name in `ready`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Display => "display",
            Self::Stdin => "stdin",
            Self::Configure => "configure",
            Self::Files => "files",
        }
    }
}

/// Kernel to supervisor.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromKernel {
    /// Once, before anything else.
    Ready(Ready),
    /// Bytes that the cell or its children wrote.
    Stream(Stream),
    /// What the cell displayed.
    Display(Display),
    /// The cell is over.
    Done(Box<Done>),
    /// The answer to a file command.
    File(FileReply),
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
    /// The names of what it can do; unknown ones are ignored.
    #[serde(default)]
    pub capabilities: Vec<String>,
}

/// A displayed bundle.
#[derive(Debug, Deserialize)]
pub struct Display {
    /// The running cell.
    pub cell: String,
    /// The bundle.
    #[serde(flatten)]
    pub value: Value,
}

/// The answer to a file command: what the command promises, or `error`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct FileReply {
    /// The command's.
    pub id: String,
    /// What was read, base64.
    pub data: Option<String>,
    /// The file's whole size, bytes.
    pub size: Option<u64>,
    /// What was listed.
    pub entries: Option<Vec<Entry>>,
    /// Whether there was more to list.
    pub truncated: bool,
    /// Why it could not be done.
    pub error: Option<FileFailure>,
}

/// Why a file command could not be done.
#[derive(Debug, Deserialize)]
pub struct FileFailure {
    /// The kind.
    pub code: FileErrorCode,
    /// In words, of the sandbox's making.
    pub message: String,
}

/// The kinds of a file command's failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileErrorCode {
    /// Nothing is there.
    NotFound,
    /// A folder is there.
    IsDirectory,
    /// Neither a regular file nor, where one is wanted, a folder.
    NotAFile,
    /// The path leads out of `/workspace`.
    Outside,
    /// The disk is full.
    NoSpace,
    /// Larger than can be.
    TooLarge,
    /// A folder that holds something, and `recursive` was not asked for.
    NotEmpty,
    /// Not permitted.
    Denied,
    /// Anything else.
    Io,
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
    /// Whether its texts keep to the bounds that the cell was sent with.
    pub fn fits(&self, bounds: Bounds) -> bool {
        let limit = bounds.max_value.saturating_add(MARKER);
        let error = self.error.as_ref().is_none_or(|error| {
            let traceback: usize = error.traceback.iter().map(|line| line.len() + 1).sum();
            [error.name.len(), error.message.len(), traceback].iter().all(|&length| length <= limit)
        });
        error && self.result.as_ref().is_none_or(|value| value.fits(bounds))
    }
}

impl Value {
    /// Whether a bundle keeps to the bounds that its cell was sent with.
    pub fn fits(&self, bounds: Bounds) -> bool {
        let (text, media): (Vec<_>, Vec<_>) = self.data.iter().partition(|(mime, _)| *mime == TEXT);
        let size =
            |parts: Vec<(&String, &String)>| parts.iter().map(|(mime, text)| mime.len() + text.len()).sum::<usize>();
        self.data.len() <= MAX_MIME_TYPES
            && size(text) <= bounds.max_value.saturating_add(MARKER)
            && size(media) <= bounds.max_media.saturating_add(MARKER * MAX_MIME_TYPES)
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
    fn displays_and_answers_to_file_commands_are_read() {
        let display = br#"{"type":"display","cell":"c1","data":{"text/plain":"x","image/png":"iVBO"},"dropped":7}"#;
        match parse(display) {
            Some(FromKernel::Display(display)) => {
                assert_eq!((&*display.cell, display.value.dropped, display.value.data.len()), ("c1", 7, 2));
            }
            other => panic!("{other:?}"),
        }
        let reply = |line: &str| match parse(line.as_bytes()) {
            Some(FromKernel::File(reply)) => reply,
            other => panic!("{line}: {other:?}"),
        };
        let read = reply(r#"{"type":"file","id":"q1","data":"eA==","size":1}"#);
        assert_eq!((read.data.as_deref(), read.size, read.error.is_none()), (Some("eA=="), Some(1), true));
        let list = reply(
            r#"{"type":"file","id":"q2","entries":[{"path":"a","type":"symlink","size":3,"modified_ns":1795631336174239783}],"truncated":true}"#,
        );
        assert!(
            list.truncated && list.entries.is_some_and(|entries| entries[0].modified_ns == 1_795_631_336_174_239_783)
        );
        let failed = reply(r#"{"type":"file","id":"q3","error":{"code":"not_empty","message":"no"}}"#);
        assert_eq!(failed.error.map(|failure| failure.code), Some(FileErrorCode::NotEmpty));
        assert!(parse(br#"{"type":"file","id":"q4","error":{"code":"tired","message":"no"}}"#).is_none());
    }

    #[test]
    fn commands_are_written_as_the_document_says() {
        let json = |command: &ToKernel<'_>| serde_json::to_string(command).expect("JSON");
        assert_eq!(
            json(&ToKernel::FileRead { id: "q1", path: "a", offset: 2, length: 3 }),
            r#"{"type":"file.read","id":"q1","path":"a","offset":2,"length":3}"#
        );
        let env = BTreeMap::from([("A".to_owned(), "b".to_owned())]);
        assert_eq!(
            json(&ToKernel::Configure { id: "q2", env: &env }),
            r#"{"type":"configure","id":"q2","env":{"A":"b"}}"#
        );
        assert_eq!(
            json(&ToKernel::Execute { cell: "c1", count: 1, code: "x", max_value: 4, max_media: 5, stdin: None }),
            r#"{"type":"execute","cell":"c1","count":1,"code":"x","max_value":4,"max_media":5,"stdin":null}"#
        );
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
        let bounds = Bounds { max_value: 4096, max_media: 0 };
        assert!(done(&"x".repeat(4096)).fits(bounds) && !done(&"x".repeat(5000)).fits(bounds));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }
    }
}
