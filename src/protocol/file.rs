//! Files under a session's `/workspace`.

use serde::{Deserialize, Serialize};

/// A file to be written: exactly one of `text` and `base64`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewFile {
    /// Relative to `/workspace`, or absolute and below it.
    pub path: String,
    /// Its content as text.
    #[serde(default)]
    pub text: Option<String>,
    /// Its content in base64.
    #[serde(default)]
    pub base64: Option<String>,
}

/// Parameters of `file.write`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileWriteParams {
    /// The session.
    pub session_id: String,
    /// Relative to `/workspace`, or absolute and below it.
    pub path: String,
    /// What to write, as text.
    #[serde(default)]
    pub text: Option<String>,
    /// What to write, in base64.
    #[serde(default)]
    pub base64: Option<String>,
    /// Where to write it, bytes from the start.
    #[serde(default)]
    pub offset: u64,
    /// Whether the file is cut to `offset` first; true when absent.
    #[serde(default = "yes")]
    pub truncate: bool,
}

fn yes() -> bool {
    true
}

/// Result of `file.write`.
#[derive(Clone, Debug, Serialize)]
pub struct FileWritten {
    /// Relative to `/workspace`.
    pub path: String,
    /// The file's size now, bytes.
    pub size: u64,
}

/// Parameters of `file.read`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileReadParams {
    /// The session.
    pub session_id: String,
    /// Relative to `/workspace`, or absolute and below it.
    pub path: String,
    /// From where, bytes from the start.
    #[serde(default)]
    pub offset: u64,
    /// How many bytes at most; the largest allowed when absent.
    #[serde(default)]
    pub length: Option<u64>,
    /// How the content comes; text where it is valid UTF-8 when absent.
    #[serde(default)]
    pub encoding: Option<Encoding>,
}

/// How a file's content comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// As text.
    Utf8,
    /// In base64.
    Base64,
}

/// Result of `file.read`: `text` or `base64`.
#[derive(Clone, Debug, Serialize)]
pub struct FileContent {
    /// Relative to `/workspace`.
    pub path: String,
    /// From where, bytes.
    pub offset: u64,
    /// How many bytes of the file this is.
    pub bytes: u64,
    /// The file's whole size, bytes.
    pub size: u64,
    /// Whether the file ends here.
    pub eof: bool,
    /// The content as text, in whole characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The content in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
}

/// Parameters of `file.list`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileListParams {
    /// The session.
    pub session_id: String,
    /// The folder; `/workspace` itself when absent.
    #[serde(default)]
    pub path: Option<String>,
    /// Whether folders below it are listed too.
    #[serde(default)]
    pub recursive: bool,
    /// How many entries at most.
    #[serde(default)]
    pub max: Option<usize>,
}

/// Result of `file.list`.
#[derive(Clone, Debug, Serialize)]
pub struct FileList {
    /// Sorted by path.
    pub entries: Vec<Entry>,
    /// Whether there are more than `max`.
    pub truncated: bool,
}

/// One entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Relative to `/workspace`.
    pub path: String,
    /// What it is; links are not followed.
    #[serde(rename = "type")]
    pub kind: EntryKind,
    /// Bytes.
    pub size: u64,
    /// When it was last changed, nanoseconds since 1970.
    pub modified_ns: i64,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A folder.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Anything else.
    Other,
}

/// Parameters of `file.delete`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDeleteParams {
    /// The session.
    pub session_id: String,
    /// Relative to `/workspace`, or absolute and below it.
    pub path: String,
    /// Whether a folder goes with what it holds.
    #[serde(default)]
    pub recursive: bool,
}

/// Result of `file.delete`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct FileDeleted {
    /// Always true.
    pub deleted: bool,
}
